package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// cachedSessions measures what a gateway's memory holds of n sessions in its cache,
// beside what Redis holds of one.
func (w *world) cachedSessions(ctx context.Context, n int) (held, sealed float64, err error) {
	// A Redis of its own: the others' is as full as they want it.
	address, rdb, p, err := w.startRedis(ctx, "memory-redis")
	if err != nil {
		return 0, 0, err
	}
	defer p.stop()
	defer rdb.Close()
	cookies, err := begin(ctx, address, "relay", w.key, n+users)
	if err != nil {
		return 0, 0, err
	}
	few, cookies := cookies[:users], cookies[users:]
	// Half of the heap is garbage by default. What is measured is what lives, and at
	// most a fiftieth more.
	if err := os.Setenv("GOGC", "2"); err != nil {
		return 0, 0, err
	}
	c, err := w.cloakroom(ctx, "memory-cache", func(config, app map[string]any) {
		config["redis"] = map[string]any{"addresses": []any{address}}
		session := app["session"].(map[string]any)
		session["cache_ttl"], session["rotation_grace"] = "1m", "2m" // as long as can be
	})
	if err := os.Unsetenv("GOGC"); err != nil {
		return 0, 0, err
	}
	if err != nil {
		return 0, 0, err
	}
	defer c.process.stop()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}, Timeout: patience}
	defer client.CloseIdleConnections()
	settled := func() (float64, error) {
		time.Sleep(2 * time.Second) // what a request leaves for the next one is swept
		if err := visit(ctx, client, c, few); err != nil {
			return 0, err
		}
		g, err := c.gauges()
		return g["go_memstats_heap_alloc_bytes"], err
	}
	if err := visit(ctx, client, c, few); err != nil {
		return 0, 0, err
	}
	before, err := settled()
	if err != nil {
		return 0, 0, err
	}
	if err := visit(ctx, client, c, cookies); err != nil {
		return 0, 0, err
	}
	after, err := settled()
	if err != nil {
		return 0, 0, err
	}
	asked, err := commands(ctx, rdb)
	if err != nil {
		return 0, 0, err
	}
	some := cookies[:(n+9)/10] // the first: what has gone from the cache went first
	if err := visit(ctx, client, c, some); err != nil {
		return 0, 0, err
	}
	again, err := commands(ctx, rdb)
	if err != nil {
		return 0, 0, err
	}
	if more := again["getrange"] + again["evalsha"] - asked["getrange"] - asked["evalsha"]; more > int64(len(some)/10) {
		return 0, 0, fmt.Errorf("of %d sessions in the cache, %d had to be asked for", len(some), more)
	}
	record, err := aRecord(ctx, rdb)
	return (after - before) / float64(n), float64(len(record)), err
}

// visit makes one request with each cookie.
func visit(ctx context.Context, client *http.Client, c *contender, cookies []string) error {
	visitors := make([]error, 8)
	var all sync.WaitGroup
	for v := range visitors {
		all.Go(func() {
			for i := v; i < len(cookies) && visitors[v] == nil; i += len(visitors) {
				visitors[v] = visitOnce(ctx, client, "http://"+c.address+"/api/200", cookies[i])
			}
		})
	}
	all.Wait()
	for _, err := range visitors {
		if err != nil {
			return err
		}
	}
	return nil
}

func visitOnce(ctx context.Context, client *http.Client, url, cookie string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Host = relayHost
	req.Header = http.Header{"Cookie": {cookie}, "Sec-Fetch-Site": {"same-origin"}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s with a session: %s", url, resp.Status)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
