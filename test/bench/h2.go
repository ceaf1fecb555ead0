package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// h2 measures clients that come by HTTP/2 over TLS, as browsers do: 4 connections
// with 16 streams each. Its load generator is Go's own client, for wrk has no
// HTTP/2: requests a second are the pair's, processor time is the gateway's.
func (w *world) h2(ctx context.Context, rounds int) (series, error) {
	bare, err := w.bare(ctx, "bare", "proxy", "-cert", w.tls)
	if err != nil {
		return series{}, err
	}
	ours, err := w.cloakroom(ctx, "h2", func(config, _ map[string]any) {
		config["tls"] = map[string]any{"cert_file": w.tls, "key_file": w.tls}
	})
	if err != nil {
		return series{}, err
	}
	ours.Name = "cached"
	defer bare.process.stop()
	defer ours.process.stop()
	p := point{At: "4x16", Names: []string{bare.Name, ours.Name}, Samples: map[string][]sample{}}
	for round := range rounds + 1 {
		for _, c := range []*contender{bare, ours} {
			used := c.process.usage()
			l, err := streams(ctx, c, 4, 16, w.opts.Duration)
			if err != nil {
				return series{}, fmt.Errorf("h2: %s: %w", c.Name, err)
			}
			if l.Errors > 0 {
				return series{}, fmt.Errorf("h2: %s: %d of its answers were no answers", c.Name, l.Errors)
			}
			if round == 0 {
				continue // warming up
			}
			n := float64(l.Requests)
			p.Samples[c.Name] = append(p.Samples[c.Name], sample{
				PerSecond: n / l.Took.Seconds(), CPU: (c.process.usage().cpu - used.cpu).Seconds() / n * 10_000,
				P50: l.P50.Seconds() * 1000, P99: l.P99.Seconds() * 1000,
			})
		}
	}
	w.opts.Log("h2: cached %.0f/s %.3f cpu s/10k, bare %.0f/s %.3f", p.middle("cached", sample.perSecond), p.middle("cached", sample.cpu), p.middle("bare", sample.perSecond), p.middle("bare", sample.cpu))
	return series{Name: "h2", Rounds: rounds, Points: []point{p}}, nil
}

// streams loads c by HTTP/2 for d.
func streams(ctx context.Context, c *contender, connections, each int, d time.Duration) (load, error) {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		all    []time.Duration
		failed atomic.Int64
		first  atomic.Pointer[error]
	)
	begin := time.Now()
	t := c.target()
	for i := range connections {
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, DisableCompression: true}
		defer transport.CloseIdleConnections()
		for j := range each {
			wg.Go(func() {
				var times []time.Duration
				for n := i*each + j; time.Since(begin) < d && ctx.Err() == nil; n++ {
					start := time.Now()
					if err := get(ctx, transport, t, n); err != nil {
						failed.Add(1)
						first.CompareAndSwap(nil, &err)
					}
					times = append(times, time.Since(start))
				}
				mu.Lock()
				all = append(all, times...)
				mu.Unlock()
			})
		}
	}
	wg.Wait()
	if err := first.Load(); err != nil {
		return load{}, *err
	}
	slices.Sort(all)
	return load{Requests: int64(len(all)), Errors: failed.Load(), Took: time.Since(begin), P50: all[len(all)/2], P99: all[len(all)*99/100]}, nil
}

func get(ctx context.Context, transport *http.Transport, t target, n int) error {
	req, err := http.NewRequestWithContext(ctx, t.method, "https://"+t.address+t.path, nil)
	if err != nil {
		return err
	}
	req.Host = t.host
	req.Header = http.Header{
		"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}, "Accept": {"application/json"}, "Accept-Language": {"en"},
		"Sec-Fetch-Dest": {"empty"}, "Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Site": {"same-origin"}, "Cookie": {t.cookies[n%len(t.cookies)]},
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
		return fmt.Errorf("%s answers %s", resp.Proto, resp.Status)
	}
	return nil
}
