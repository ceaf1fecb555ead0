package admin

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// console is the listener's handler with a token set and no store behind it: the
// console asks for neither.
func console() http.Handler {
	api := &API{Token: func() Token { return testToken }, Host: testHost}
	return New(NewHealth(new(redis).ping, nil), prometheus.NewRegistry(), api)
}

func ask(h http.Handler, method, path string, header http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.Host = testHost
	for name, values := range header {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// The console is there without a token, whoever linked to it, with headers that
// let it load its own files and nothing else.
func TestConsole(t *testing.T) {
	h := console()
	for _, row := range []struct{ path, kind, holds string }{
		{"/", "text/html; charset=utf-8", "<!doctype html>"},
		{"/console.js", "text/javascript; charset=utf-8", "admin/sessions"},
		{"/console.css", "text/css; charset=utf-8", "color-scheme"},
		{"/console.svg", "image/svg+xml", "<svg"},
	} {
		t.Run(row.path, func(t *testing.T) {
			w := ask(h, "GET", row.path, http.Header{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"navigate"}})
			if w.Code != 200 || !strings.Contains(w.Body.String(), row.holds) {
				t.Fatalf("got %d %.80q", w.Code, w.Body)
			}
			for name, want := range map[string]string{
				"Content-Type":                 row.kind,
				"Cache-Control":                "no-store",
				"X-Content-Type-Options":       "nosniff",
				"Cross-Origin-Opener-Policy":   "same-origin",
				"Cross-Origin-Resource-Policy": "same-origin",
				"Referrer-Policy":              "no-referrer",
				"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
					"form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
				"Set-Cookie":                  "",
				"Access-Control-Allow-Origin": "",
			} {
				if got := w.Header().Values(name); strings.Join(got, "|") != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			if head := ask(h, "HEAD", row.path, nil); head.Code != 200 || head.Body.Len() != 0 || head.Header().Get("Content-Length") != w.Header().Get("Content-Length") {
				t.Errorf("HEAD: %d, %d bytes of %s", head.Code, head.Body.Len(), head.Header().Get("Content-Length"))
			}
		})
	}
}

// What isn't the console's is refused by a problem document.
func TestConsoleRefuses(t *testing.T) {
	h := console()
	host := func(name string) func(*http.Request) { return func(r *http.Request) { r.Host = name } }
	for _, row := range []struct {
		name, method, path string
		change             func(*http.Request)
		status             int
		code               string
	}{
		{"U-02 rebound name", "GET", "/", host("evil.example:9090"), 421, "unknown_host"},
		{"U-02 rebound name, the script", "GET", "/console.js", host("evil.example:9090"), 421, "unknown_host"},
		{"U-02 rebound name that looks local", "GET", "/", host("localhost.evil.example"), 421, "unknown_host"},
		{"U-02 public host", "HEAD", "/", host("shop.example.com"), 421, "unknown_host"},
		{"U-02 no host", "GET", "/", host(""), 421, "unknown_host"},
		{"by POST", "POST", "/", nil, 405, "method_not_allowed"},
		{"by DELETE", "DELETE", "/console.js", nil, 405, "method_not_allowed"},
		{"by OPTIONS", "OPTIONS", "/", nil, 405, "method_not_allowed"},
		{"health by POST", "POST", "/healthz", nil, 405, "method_not_allowed"},
		{"its file's name", "GET", "/index.html", nil, 404, "not_found"},
		{"its directory", "GET", "/console/", nil, 404, "not_found"},
		{"two slashes", "GET", "//", nil, 404, "not_found"},
		{"a dot", "GET", "/./console.js", nil, 404, "not_found"},
		{"out of its directory", "GET", "/../console.go", nil, 404, "not_found"},
		{"a trailing slash", "GET", "/healthz/", nil, 404, "not_found"},
		{"the profiler", "GET", "/debug/pprof/", nil, 404, "not_found"},
		{"almost the API", "GET", "/administration", nil, 404, "not_found"},
		{"nothing, by POST", "POST", "/nothing", nil, 404, "not_found"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := httptest.NewRequest(row.method, "/", nil)
			r.URL.Path, r.Host = row.path, testHost
			if row.change != nil {
				row.change(r)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			var p struct{ Code string }
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != row.status || p.Code != row.code {
				t.Errorf("got %d %.80q, want %d %s", w.Code, w.Body, row.status, row.code)
			}
			if kind := w.Header().Get("Content-Type"); kind != "application/problem+json" {
				t.Errorf("as %s", kind)
			}
			if csp := w.Header().Get("Content-Security-Policy"); strings.Contains(csp, "self") {
				t.Errorf("with %s", csp)
			}
		})
	}
}

var (
	reference = regexp.MustCompile(`(?:src|href)="([^"]*)"`)
	inline    = regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|<script(?:\s+type="module"\s+src="[^"]+")?\s*>[^<]|javascript:`)
	byID      = regexp.MustCompile(`(?:\$|say)\('([a-z-]+)'`)
	// Text that becomes markup or code, places where a token would outlive the
	// page, and other hosts; the one in the icon is a name, not an address.
	forbidden = regexp.MustCompile(`(?i)innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|localStorage|sessionStorage|indexedDB|document\.cookie|history\.|location|window\.name|postMessage|console\.(log|warn|error)|https?://|@import|url\(`)
	namespace = `xmlns="http://www.w3.org/2000/svg"`
)

// The files are of one piece: each is reached from the page, nothing is loaded
// from elsewhere, no text becomes markup, and no token is kept.
func TestConsoleFiles(t *testing.T) {
	h := console()
	files, err := consoleFiles.ReadDir("console")
	if err != nil {
		t.Fatal(err)
	}
	text := map[string]string{}
	for _, file := range files {
		body, err := consoleFiles.ReadFile("console/" + file.Name())
		if err != nil {
			t.Fatal(err)
		}
		text[file.Name()] = string(body)
		if found := forbidden.FindString(strings.Replace(text[file.Name()], namespace, "", 1)); found != "" {
			t.Errorf("%s has %q", file.Name(), found)
		}
	}
	page := text["index.html"]
	used := map[string]bool{"index.html": true}
	for _, m := range reference.FindAllStringSubmatch(page, -1) {
		if w := ask(h, "GET", "/"+m[1], nil); w.Code != 200 || w.Body.String() != text[m[1]] {
			t.Errorf("the page asks for %s: %d", m[1], w.Code)
		}
		used[m[1]] = true
	}
	for name := range text {
		if !used[name] {
			t.Errorf("%s is of no use", name)
		}
	}
	if found := inline.FindString(page); found != "" {
		t.Errorf("the page has %q, which its policy refuses", found)
	}
	ids := byID.FindAllStringSubmatch(text["console.js"], -1)
	if len(ids) < 20 {
		t.Fatalf("only %d elements are asked for by id", len(ids))
	}
	for _, m := range ids {
		if !strings.Contains(page, ` id="`+m[1]+`"`) {
			t.Errorf("the script asks for #%s, which isn't there", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`(?:for|list|aria-labelledby|aria-describedby)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if !strings.Contains(page, ` id="`+m[1]+`"`) {
			t.Errorf("the page refers to #%s, which isn't there", m[1])
		}
	}
}
