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

	change(func(s string) string { return s + "drain: {timeout: 1s}\n" })
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if line := r.logs.wait(t, "a change that takes a restart", ""); line["key"] != "drain" {
		t.Errorf("told of %v", line["key"])
	}
	if got := get("/more/x"); got != 404 {
		t.Errorf("a route that is no more: %d", got)
	}
}
