package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"
)

// contenders are those that the headline compares, by what the report calls them.
type contenders struct {
	nginx, bare, naive              *contender // (a), (b), (c)
	cached, uncached, observed      *contender // (d), (e), (f)
	relay, relayed0, mint, byteSame *contender // (g)
	apache                          *contender // (h); nil: not there
}

func (w *world) contenders(ctx context.Context) (cs contenders, err error) {
	step := func(c **contender, start func() (*contender, error)) {
		if err == nil {
			*c, err = start()
		}
	}
	if !w.opts.Own {
		step(&cs.nginx, func() (*contender, error) { return w.nginxProxy(ctx) })
		step(&cs.apache, func() (*contender, error) { return w.apache(ctx) })
	}
	step(&cs.bare, func() (*contender, error) { return w.bare(ctx, "bare", "proxy") })
	step(&cs.naive, func() (*contender, error) { return w.bare(ctx, "naive", "naive") })
	step(&cs.cached, func() (*contender, error) { return w.cloakroom(ctx, "cached", nil) })
	step(&cs.uncached, func() (*contender, error) {
		return w.cloakroom(ctx, "uncached", func(_, app map[string]any) { app["session"].(map[string]any)["cache_ttl"] = "0s" })
	})
	step(&cs.observed, func() (*contender, error) { return w.observed(ctx, "observed", everything) })
	if err != nil {
		return cs, err
	}
	token := func(c *contender) { c.method, c.path, c.more = "POST", "/bff/token", []string{"X-BFF: 1"} }
	cs.relay = cs.cached.as("token-relay", token)
	cs.relayed0 = cs.uncached.as("token-uncached", token)
	cs.mint = cs.cached.as("token-mint", func(c *contender) {
		token(c)
		c.host, c.cookies = mintHost, w.mint
	})
	body, err := w.body(ctx, cs.relay)
	if err != nil {
		return cs, err
	}
	step(&cs.byteSame, func() (*contender, error) {
		c, err := w.bare(ctx, "token-bare", "token", "-body", body)
		if c != nil {
			token(c)
		}
		return c, err
	})
	return cs, err
}

// body is a file with what c answers.
func (w *world) body(ctx context.Context, c *contender) (string, error) {
	req, err := http.NewRequestWithContext(ctx, c.method, "http://"+c.address+c.path, nil)
	if err != nil {
		return "", err
	}
	req.Host = relayHost
	req.Header = http.Header{"X-Bff": {"1"}, "Cookie": {c.cookies[0]}}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers %s: %s (%v)", c.Name, resp.Status, b, err)
	}
	return w.file("token.json", string(b))
}

// measure runs all series.
func measure(ctx context.Context, opts options) (*results, error) {
	begun := time.Now()
	w, err := newWorld(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer w.close()
	if opts.Profile != "" {
		return nil, w.profile(ctx)
	}
	r := &results{Date: now(), Machine: machine(ctx), Duration: opts.Duration.String()}
	wanted := func(name string) bool { return opts.Only == nil || opts.Only.MatchString(name) }
	few := max(1, opts.Rounds/5)

	if wanted("memory") {
		if r.Memory, err = w.memory(ctx); err != nil {
			return nil, err
		}
	}
	cs, err := w.contenders(ctx)
	if err != nil {
		return nil, err
	}
	add := func(name string, rounds int, points func(add func(at string, connections int, rate float64, cs ...*contender)) error) {
		if err != nil || !wanted(name) {
			return
		}
		opts.Log("%s (after %v)", name, time.Since(begun).Round(time.Second))
		s := series{Name: name, Rounds: rounds}
		pointsErr := points(func(at string, connections int, rate float64, cs ...*contender) {
			if err != nil {
				return
			}
			var present []*contender
			for _, c := range cs {
				if c != nil {
					present = append(present, c)
				}
			}
			var p point
			if p, err = w.turns(ctx, at, rounds, connections, rate, present...); err == nil {
				s.Points = append(s.Points, p)
			}
		})
		if err == nil {
			err = pointsErr
		}
		r.Series = append(r.Series, s)
	}
	type adder = func(at string, connections int, rate float64, cs ...*contender)

	add("headline", opts.Rounds, func(add adder) error {
		add("64", 64, 0, cs.nginx, cs.bare, cs.naive, cs.cached, cs.uncached, cs.observed, cs.apache)
		return nil
	})
	add("observed", few+2, func(add adder) error {
		apart, stop, err := w.apart(ctx)
		defer stop()
		if err != nil {
			return err
		}
		add("64", 64, 0, append([]*contender{cs.cached, cs.observed}, apart...)...)
		return nil
	})
	add("token", opts.Rounds, func(add adder) error {
		add("64", 64, 0, cs.byteSame, cs.relay, cs.relayed0, cs.mint)
		return nil
	})
	add("connections", few, func(add adder) error {
		for _, n := range []int{1, 16, 64, 512} {
			add(strconv.Itoa(n), n, 0, cs.nginx, cs.bare, cs.naive, cs.cached, cs.uncached)
		}
		return nil
	})
	add("bodies", few, func(add adder) error {
		for _, n := range sizes {
			at := func(c *contender) *contender {
				if c == nil {
					return nil
				}
				return c.as(c.Name, func(c *contender) { c.path = fmt.Sprintf("/api/%d", n) })
			}
			add(strconv.Itoa(n), 64, 0, at(cs.nginx), at(cs.bare), at(cs.cached), at(cs.uncached))
		}
		return nil
	})
	add("rate", opts.Rounds, func(add adder) error {
		p, err := w.turns(ctx, "most", 1, 64, 0, cs.bare)
		if err != nil {
			return err
		}
		rate := p.middle(cs.bare.Name, sample.perSecond) / 2
		add(strconv.Itoa(int(rate)), 64, rate, cs.nginx, cs.bare, cs.naive, cs.cached, cs.uncached, cs.observed)
		return nil
	})
	if wanted("h2") && err == nil {
		var s series
		if s, err = w.h2(ctx, few); err == nil {
			r.Series = append(r.Series, s)
		}
	}
	// The last, since they leave Redis full.
	add("sessions", few, func(add adder) error {
		for _, n := range opts.Sessions {
			// The load's own are as many as there are, and no more than its users.
			own := min(n, users)
			if err := fill(ctx, w.rdb, n); err != nil {
				return err
			}
			of := func(c *contender) *contender {
				return c.as(c.Name, func(c *contender) { c.cookies = c.cookies[:own] })
			}
			add(strconv.Itoa(n), 64, 0, of(cs.bare), of(cs.cached), of(cs.uncached))
		}
		return nil
	})
	opts.Log("all (after %v)", time.Since(begun).Round(time.Second))
	return r, err
}

// memory measures what a gateway takes when it idles, for idle WebSockets, and for
// the sessions in its cache.
func (w *world) memory(ctx context.Context) (map[string]float64, error) {
	c, err := w.cloakroom(ctx, "memory", nil)
	if err != nil {
		return nil, err
	}
	defer c.process.stop()
	m := map[string]float64{"idle_rss": float64(c.process.usage().rss)}
	heap, err := c.gauges()
	if err != nil {
		return nil, err
	}
	open, err := w.idleSockets(ctx, c, w.opts.Sockets)
	defer func() {
		for _, s := range open {
			s.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	after, err := c.gauges()
	if err != nil {
		return nil, err
	}
	n := float64(len(open))
	m["sockets"] = n
	m["socket_rss"] = (float64(c.process.usage().rss) - m["idle_rss"]) / n
	m["socket_heap"] = (after["go_memstats_heap_inuse_bytes"] + after["go_memstats_stack_inuse_bytes"] - heap["go_memstats_heap_inuse_bytes"] - heap["go_memstats_stack_inuse_bytes"]) / n
	w.opts.Log("idle %.1f MB; %d WebSockets: %.1f KiB each of RSS, %.1f KiB of heap and stacks", m["idle_rss"]/1e6, len(open), m["socket_rss"]/1024, m["socket_heap"]/1024)
	m["cached"] = float64(w.opts.Cached)
	if m["cached_heap"], m["cached_record"], err = w.cachedSessions(ctx, w.opts.Cached); err != nil {
		return nil, err
	}
	w.opts.Log("%d cached sessions: %.0f bytes each, of which Redis holds %.0f", w.opts.Cached, m["cached_heap"], m["cached_record"])
	return m, nil
}

var gauge = regexp.MustCompile(`(?m)^([a-z_]+) ([-+.e0-9]+)$`)

// gauges reads /metrics: the figures without labels.
func (c *contender) gauges() (map[string]float64, error) {
	resp, err := http.Get("http://" + c.admin + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return nil, err
	}
	m := map[string]float64{}
	for _, f := range gauge.FindAllStringSubmatch(string(b), -1) {
		m[f[1]], _ = strconv.ParseFloat(f[2], 64)
	}
	return m, nil
}
