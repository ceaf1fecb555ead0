package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// profiled is a file that a build of ours has besides the repository's: it lets
// the profile be read. No released binary has it.
const profiled = `package main

import (
	"net/http"
	_ "net/http/pprof"
	"os"
)

func init() { go http.ListenAndServe(os.Getenv("CLOAKROOM_BENCH_PPROF"), nil) }
`

// profile writes a CPU profile of a gateway under the load of the headline and of
// /bff/token, with and without its cache, for cmd/cloakroom/default.pgo; and one of
// its allocations beside it.
func (w *world) profile(ctx context.Context) error {
	source, err := w.file("profiled.go", profiled)
	if err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root(), "cmd", "cloakroom", "profiled.go"): source}})
	if err != nil {
		return err
	}
	file, err := w.file("overlay.json", string(overlay))
	if err != nil {
		return err
	}
	if err := w.build(ctx, root(), "cloakroom", "-overlay", file, "./cmd/cloakroom"); err != nil {
		return err
	}
	debug, err := freePort()
	if err != nil {
		return err
	}
	if err := os.Setenv("CLOAKROOM_BENCH_PPROF", debug); err != nil {
		return err
	}
	c, err := w.cloakroom(ctx, "cached", func(_, app map[string]any) {
		if w.opts.Uncached {
			app["session"].(map[string]any)["cache_ttl"] = "0s"
		}
	})
	if err != nil {
		return err
	}
	if err := os.Unsetenv("CLOAKROOM_BENCH_PPROF"); err != nil {
		return err
	}
	// Of the load, a quarter is /bff/token.
	token := c.as("token", func(c *contender) { c.method, c.path, c.more = "POST", "/bff/token", []string{"X-BFF: 1"} })
	got := make(chan error, 1)
	go func() {
		got <- fetch(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", debug, int(8*w.opts.Duration/time.Second)), w.opts.Profile)
	}()
	for i := range 8 {
		to := c
		if i%4 == 3 && !w.opts.Uncached {
			to = token
		}
		s, err := w.run(ctx, to, 64, 0)
		if err != nil {
			return err
		}
		w.opts.Log("%-10s %.0f/s %.3f cpu s/10k", to.Name, s.PerSecond, s.CPU)
	}
	if err := <-got; err != nil {
		return err
	}
	return fetch(ctx, "http://"+debug+"/debug/pprof/allocs", w.opts.Profile+".allocs")
}

func fetch(ctx context.Context, url, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}
