package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cloakroom/cloakroom/config"
	"github.com/cloakroom/cloakroom/session"
	"github.com/cloakroom/cloakroom/session/storetest"
)

// A changed file is taken over, a bad one refused, and what takes a restart is
// told.
func TestReload(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) }))
	defer upstream.Close()
	r := start(t, upstream.URL, "")
	c := client(t)
	get := func(path string) int {
		t.Helper()
		resp, _ := fetch(t, c, "http://"+r.public+path, "shop.test")
		return resp.StatusCode
	}
	text, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	// As an editor or a mounted directory does it: all at once.
	change := func(edit func(string) string) {
		t.Helper()
		next := filepath.Join(filepath.Dir(r.file), "next")
		if err := os.WriteFile(next, []byte(edit(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, r.file); err != nil {
			t.Fatal(err)
		}
	}
	more := func(s string) string {
		return strings.Replace(s, "    routes:\n", "    routes:\n      - {path: /more, upstream: \""+upstream.URL+"\", auth: none}\n", 1)
	}
	if got := get("/more/x"); got != 404 {
		t.Fatalf("before: %d", got)
	}
	change(more)
	r.logs.wait(t, "reloaded", "")
	if got := get("/more/x"); got != 200 {
		t.Errorf("after: %d", got)
	}

	change(func(s string) string { return strings.Replace(more(s), "version: 1", "version: 2", 1) })
	r.logs.wait(t, "the configuration is refused, the old one stays: must be 1, the only version of this file", "")
	if got := get("/more/x"); got != 200 {
		t.Errorf("after a bad file: %d", got)
	}

	long := func() int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.public+"/open/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "shop.test"
		req.Header.Set("X-Long", strings.Repeat("x", 5000))
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := long(); got != 200 {
		t.Errorf("a long header: %d", got)
	}
	change(func(s string) string {
		return strings.Replace(s, `listen: "127.0.0.1:0"`, `listen: "localhost:0"`, 1) + "limits: {header_bytes: 4096}\ndrain: {timeout: 1s}\n"
	})
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if line := r.logs.wait(t, "a change that takes a restart", ""); line["key"] != "listen" {
		t.Errorf("told of %v", line["key"])
	}
	if got := long(); got != 431 {
		t.Errorf("a header that is too long now: %d", got)
	}
	if got := get("/more/x"); got != 404 {
		t.Errorf("a route that is no more: %d", got)
	}
	r.stop()
	if line := r.logs.wait(t, "draining", ""); line["timeout"] != "1s" {
		t.Errorf("drains for %v", line["timeout"])
	}
}

// Whatever changes is taken over, whenever it does: here nothing but the files tells
// of it.
func TestReloadMissesNothing(t *testing.T) {
	u := newUpstream(t)
	path := func(name string) string {
		return fmt.Sprintf("      - {path: /%s, upstream: %q, auth: none}\n", name, u.URL)
	}
	place := func(t *testing.T, file, text string) {
		t.Helper()
		if err := os.WriteFile(file+".next", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".next", file); err != nil {
			t.Fatal(err)
		}
	}
	text := oneApp(u.URL, "")
	holds := func(t *testing.T, r *running, name string) {
		t.Helper()
		c := client(t)
		eventually(t, "the route /"+name+" is there", func() bool {
			resp, _ := fetch(t, c, "http://"+r.public+"/"+name+"/x", "shop.test")
			return resp.StatusCode == 200
		})
	}
	for _, row := range []struct {
		name  string
		after int // readings of the file; the next change comes right behind it
	}{
		{"between the first reading and the first look", 1},
		{"while a change is taken over", 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			readings := 0 // one after the other
			r := startFile(t, text, func(file string, load func() (*config.Config, error)) (*config.Config, error) {
				cfg, err := load()
				if readings++; readings == row.after {
					place(t, file, text+path("later"))
				}
				return cfg, err
			})
			if row.after > 1 {
				place(t, r.file, text+path("sooner"))
			}
			holds(t, r, "later")
		})
	}
	t.Run("in a file that only a refused one names", func(t *testing.T) {
		t.Parallel()
		r := startConfig(t, text)
		named := filepath.Join(filepath.Dir(r.file), "upstream")
		place(t, r.file, text+"      - {path: /named, upstream: \"${file:upstream}\", auth: none}\n")
		r.logs.wait(t, "the configuration is refused, the old one stays: file upstream can't be read: no such file or directory", "")
		place(t, named, u.URL+"\n")
		holds(t, r, "named")
	})
}

// atFirst calls what it is with the first line that a log writes.
type atFirst struct {
	*logs
	once sync.Once
	call func()
}

func (a *atFirst) Write(b []byte) (int, error) {
	a.once.Do(a.call)
	return a.logs.Write(b)
}

// A reload that is asked for while the gateway starts doesn't end it, and is done.
func TestReloadAtTheStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cloakroom.yaml")
	// Its warning is the first line.
	text := strings.Replace(oneApp("http://127.0.0.1:1", ""), "      client_id:", "      scopes: [openid]\n      client_id:", 1)
	if err := os.WriteFile(file, []byte(text+"admin: {listen: \"127.0.0.1:0\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func() (*config.Config, error) { return config.Load(file, os.LookupEnv) }
	cfg, err := load()
	if err != nil {
		t.Fatal(err)
	}
	lines := &atFirst{logs: newLogs(), call: func() {
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Error(err)
		}
	}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, cfg, load, newLoggers(cfg.Log, lines)) }()
	lines.wait(t, "reloaded", "")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// The operators' token changes without a restart. Where their listener would have
// to move, its token stays with it: none may be needed at the new place.
func TestReloadOfAdminToken(t *testing.T) {
	const first, second = "first-token-of-the-operators-0123", "second-token-of-the-operators-012"
	r := start(t, "http://127.0.0.1:1", "admin: {listen: \"127.0.0.1:0\", token: "+first+"}\n")
	text, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	change := func(admin string) {
		t.Helper()
		edited := strings.Replace(string(text), `{listen: "127.0.0.1:0", token: `+first+"}", admin, 1)
		if err := os.WriteFile(r.file, []byte(edited), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	authorized := func(token string) bool {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.admin+"/admin/sessions?app=shop&sub=x", nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode != http.StatusUnauthorized
	}
	if !authorized(first) || authorized(second) || authorized("") {
		t.Fatal("the configured token is not the one that is asked for")
	}
	change(`{listen: "127.0.0.1:0", token: ` + second + "}")
	r.logs.wait(t, "reloaded", "")
	if authorized(first) || !authorized(second) {
		t.Error("the token has not changed")
	}
	change(`{listen: "localhost:0"}`)
	if line := r.logs.wait(t, "a change that takes a restart", ""); line["key"] != "admin.listen" {
		t.Errorf("told of %v", line["key"])
	}
	if authorized("") || authorized(first) || !authorized(second) {
		t.Error("the listener that stays has lost its token")
	}
}

// rewrite replaces the configuration, and returns when it was taken over or refused.
func (r *running) rewrite(t *testing.T, text string) (refused string) {
	t.Helper()
	const taken, bad = "reloaded", "the configuration is refused, the old one stays"
	before := len(r.logs.all(taken)) + len(r.logs.all(bad))
	next := r.file + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, r.file); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the configuration has been judged", func() bool { return len(r.logs.all(taken))+len(r.logs.all(bad)) > before })
	if lines := r.logs.all(bad); len(lines) > 0 {
		refused, _ = lines[len(lines)-1]["err"].(string)
	}
	return refused
}

// Redis's account changes while the process runs; one that Redis refuses takes the
// whole file with it.
func TestReloadOfRedis(t *testing.T) {
	server := storetest.Redis(t)
	for _, name := range []string{"first", "second"} {
		server.CLI("acl", "setuser", name, "on", ">"+name+" password", "~cloakroom:*", "&cloakroom:*", "+@all")
	}
	u := newUpstream(t)
	key := session.NewServerKey().Encode()
	text := func(redis, more string) string {
		return fmt.Sprintf(`version: 1
listen: "127.0.0.1:0"
admin: {listen: "127.0.0.1:0"}
redis: %s
keys: [%s]
apps:
  - name: shop
    origin: https://shop.test
    provider:
      issuer: http://127.0.0.1:1
      client_id: shop
      client_secret: dGhpcyBpcyByYW5kb20h
    token: {mode: relay}
    routes:
      - {path: /open/, upstream: %q, auth: none}
%s`, redis, key, u.URL, more)
	}
	as := func(name string) string {
		return fmt.Sprintf(`{addresses: [%q], username: %q, password: %q}`, server.Addr(), name, name+" password")
	}
	r := startConfig(t, text(as("first"), ""))
	c := client(t)
	status := func(url string) int {
		t.Helper()
		resp, _ := fetch(t, c, url, "shop.test")
		return resp.StatusCode
	}
	ready := func(when string) {
		t.Helper()
		eventually(t, when+", it is ready", func() bool { return status("http://"+r.admin+"/readyz") == 200 })
	}
	ready("at first")
	more := fmt.Sprintf("      - {path: /more, upstream: %q, auth: none}\n", u.URL)
	if refused := r.rewrite(t, text(as("nobody"), more)); !strings.Contains(refused, "WRONGPASS") || strings.Contains(refused, "nobody password") {
		t.Errorf("refused for %q", refused)
	}
	if got := status("http://" + r.public + "/more/x"); got != 404 {
		t.Errorf("half of the file holds: %d", got)
	}
	ready("with an account that Redis refuses")

	r.rewrite(t, text(as("second"), more))
	if got := status("http://" + r.public + "/more/x"); got != 200 {
		t.Errorf("the file doesn't hold: %d", got)
	}
	eventually(t, "nobody is connected as before", func() bool { return !strings.Contains(server.CLI("client", "list"), " user=first ") })
	server.CLI("acl", "deluser", "first")
	ready("without the first account")

	// Another Redis takes a restart, and its account is of no use here.
	r.rewrite(t, text(strings.Replace(as("third"), server.Addr(), "127.0.0.1:1", 1), ""))
	if line := r.logs.wait(t, "a change that takes a restart", ""); line["key"] != "redis.addresses" {
		t.Errorf("told of %v", line["key"])
	}
	if got := status("http://" + r.public + "/more/x"); got != 404 {
		t.Errorf("the rest of the file doesn't hold: %d", got)
	}
	ready("with another Redis's address")
}

// Spans go where the configuration says at the moment; a request that began under
// the one before has its own there.
func TestReloadOfTracing(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20") // ms
	collector := func() (url string, told func(text string) bool) {
		var got atomic.Value
		got.Store("")
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			got.Store(got.Load().(string) + string(b)) // one request after the other
		}))
		t.Cleanup(s.Close)
		return s.URL, func(text string) bool { return strings.Contains(got.Load().(string), text) }
	}
	first, atFirst := collector()
	second, atSecond := collector()
	u := newUpstream(t)
	r := start(t, u.URL, fmt.Sprintf("      - {path: /untraced, upstream: %q, auth: none}\n", u.URL))
	text, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	to := func(url string) {
		t.Helper()
		r.rewrite(t, fmt.Sprintf("%s\ntracing: {otlp_endpoint: %q, sample_ratio: 1}\n", text, url))
	}
	c := client(t)
	ask := func(path string) {
		t.Helper()
		if resp, _ := fetch(t, c, "http://"+r.public+path, "shop.test"); resp.StatusCode != 200 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	ask("/open/x")
	to(first)
	held := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.public+"/open/held", nil)
		if err == nil {
			req.Host = "shop.test"
			var resp *http.Response
			if resp, err = c.Do(req); err == nil {
				resp.Body.Close()
			}
		}
		held <- err
	}()
	<-u.arrived
	to(second)
	if atFirst("/open") {
		t.Error("the first collector is told of what has not ended, or began later")
	}
	close(u.release)
	if err := <-held; err != nil {
		t.Error(err)
	}
	eventually(t, "the first collector is told of what began with it", func() bool { return atFirst("/open") })
	if atSecond("/open") {
		t.Error("the second collector is told of what began before")
	}
	ask("/open/x")
	eventually(t, "the second collector is told", func() bool { return atSecond("/open") })

	r.rewrite(t, string(text))
	ask("/untraced/x")
	r.stop()
	if err := <-r.ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if atSecond("/untraced") {
		t.Error("a span, and nothing is traced")
	}
}
