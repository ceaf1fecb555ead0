package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
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
