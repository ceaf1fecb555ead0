package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// watched is what an operator has a gateway tell.
type watched struct {
	metrics bool    // they are fetched each second
	lines   bool    // one a request, into a pipe that is read
	spans   float64 // the share of requests that has some, sent to a collector that drops them
}

// everything is what contender (f) tells. A tenth is what tracing.sample_ratio is
// where nobody sets it.
var everything = watched{metrics: true, lines: true, spans: 0.1}

// apart are gateways that tell one thing each; stop ends them.
func (w *world) apart(ctx context.Context) (cs []*contender, stop func(), err error) {
	stop = func() {
		for _, c := range cs {
			c.process.stop()
		}
	}
	for _, one := range []struct {
		name string
		what watched
	}{
		{"metrics", watched{metrics: true}},
		{"lines", watched{lines: true}},
		{"spans", watched{spans: everything.spans}},
		{"all-spans", watched{spans: 1}},
	} {
		c, err := w.observed(ctx, one.name, one.what)
		if err != nil {
			return nil, stop, err
		}
		cs = append(cs, c)
	}
	return cs, stop, nil
}

// observed is a gateway that is observed.
func (w *world) observed(ctx context.Context, name string, what watched) (*contender, error) {
	collector := ""
	if what.spans > 0 {
		var err error
		if collector, err = w.collect(); err != nil {
			return nil, err
		}
	}
	c, err := w.cloakroom(ctx, name, func(config, _ map[string]any) {
		if what.lines {
			config["log"] = map[string]any{"access": true}
		}
		if what.spans > 0 {
			config["tracing"] = map[string]any{"otlp_endpoint": collector, "sample_ratio": what.spans}
		}
	})
	if err != nil || !what.metrics {
		return c, err
	}
	done := make(chan struct{})
	w.closers = append(w.closers, func() { close(done) })
	go func() {
		every := time.NewTicker(time.Second)
		defer every.Stop()
		for {
			select {
			case <-done:
				return
			case <-c.process.done:
				return
			case <-every.C:
				_, _ = c.gauges()
			}
		}
	}()
	return c, nil
}

// collect starts a collector, and returns its URL.
func (w *world) collect() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	w.closers = append(w.closers, func() {
		_ = s.Close()
		serving.Wait()
	})
	return "http://" + l.Addr().String(), nil
}
