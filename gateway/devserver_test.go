package gateway_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/proxy"
	"github.com/cloakroom/cloakroom/gateway/web"
)

// A development server gets nothing of the session, and a WebSocket only from the
// app's own pages, as one from its own.
func TestDevServer(t *testing.T) {
	var up *upstream
	w := newWorld(t, func(a *gateway.App) {
		to := a.Routes[0].Upstream
		a.Routes = append(a.Routes,
			gateway.Route{Path: "/", Upstream: to, DevServer: "http://localhost:5173", Kind: gateway.KindPage, Auth: gateway.AuthNone},
			gateway.Route{Path: "/inside", Upstream: to, DevServer: "http://localhost:5173", Kind: gateway.KindPage})
	})
	up = w.upstream
	b := w.browser(w.replica())
	b.login()
	cookie := b.cookies(request{})
	const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: vite-hmr\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for _, test := range []struct {
		name, path, header string
		status             int
		origin             string // that arrives
	}{
		{"page", "/", "", 200, ""},
		{"module", "/@fs/home/x/main.ts?t=1", "Origin: " + origin + "\r\n", 200, origin},
		{"another site's request", "/src/main.ts", "Origin: https://evil.test\r\n", 200, "https://evil.test"},
		{"WebSocket", "/?token=x", upgrade + "Origin: " + origin + "\r\n", 200, "http://localhost:5173"},
		{"WebSocket of nobody's", "/", upgrade, 403, ""},
		{"WebSocket of another site's", "/", upgrade + "Origin: https://evil.test\r\n", 403, ""},
		{"WebSocket of its own page's", "/", upgrade + "Origin: http://localhost:5173\r\n", 403, ""},
		{"WebSocket of two", "/", upgrade + "Origin: " + origin + "\r\nOrigin: " + origin + "\r\n", 403, ""},
		{"WebSocket of another site's, as it says", "/", upgrade + "Origin: " + origin + "\r\nSec-Fetch-Site: cross-site\r\n", 403, ""},
		{"WebSocket behind the login", "/inside", upgrade + "Origin: " + origin + "\r\n", 200, "http://localhost:5173"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := len(up.requests())
			a := w.raw(b.at, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nCookie: %s; theme=dark\r\nAuthorization: Bearer x\r\n%s\r\n", test.path, host, cookie, test.header))
			arrived := up.requests()[before:]
			if a.status != test.status || (len(arrived) == 1) != (test.status == 200) {
				t.Fatalf("%v: %s, %d requests", a, a.body, len(arrived))
			}
			if test.status != 200 {
				if code, _ := a.problem(); code != "cross_origin_blocked" {
					t.Errorf("code %s", code)
				}
				return
			}
			h := arrived[0].Header
			if got := strings.Join(h["Origin"], " "); got != test.origin || h.Get("Cookie") != "theme=dark" || len(h["Authorization"]) > 0 {
				t.Errorf("it saw Origin %q, %v", got, h)
			}
		})
	}
}

// When it doesn't answer, a person is told what to look for, and a script too.
func TestDevServerThatIsDown(t *testing.T) {
	w := newWorld(t, func(a *gateway.App) {
		nowhere, err := proxy.New(proxy.Config{Target: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}})
		if err != nil {
			t.Fatal(err)
		}
		a.Routes = append(a.Routes, gateway.Route{Path: "/", Upstream: nowhere, DevServer: "http://127.0.0.1:1", Kind: gateway.KindPage, Auth: gateway.AuthNone})
	})
	b := w.browser(w.replica())
	a := b.visit("/", "none")
	want(t, a, 502)
	if !strings.Contains(a.body, "development server does not answer") || !strings.Contains(a.body, "Try again") || strings.Contains(a.body, "127.0.0.1") {
		t.Errorf("the page: %s", a.body)
	}
	a = b.fetch("GET", "/src/main.ts")
	want(t, a, 502, "upstream_unreachable")
	if got := a.field("detail"); !strings.Contains(got, "development server") {
		t.Errorf("detail %q", got)
	}
}

// A route that tells a development server of the user is no route.
func TestDevServerIsToldNothing(t *testing.T) {
	w := newWorld(t)
	for name, edit := range map[string]func(*gateway.Route){
		"a token":     func(rt *gateway.Route) { rt.Token = true },
		"headers":     func(rt *gateway.Route) { rt.Headers = []gateway.ClaimHeader{{Name: "X-User", Claim: "sub"}} },
		"no upstream": func(rt *gateway.Route) { rt.Upstream, rt.Files = nil, &web.Files{} },
	} {
		def := w.app()
		rt := gateway.Route{Path: "/", Upstream: def.Routes[0].Upstream, DevServer: "http://localhost:5173"}
		edit(&rt)
		def.Routes = append(def.Routes, rt)
		if err := w.replica().Swap(gateway.Served{Apps: []gateway.App{def}, Keys: w.keys}); err == nil || !strings.Contains(err.Error(), "route /: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An app's own templates are its pages, in each of the places that have one.
func TestOwnPages(t *testing.T) {
	p, err := web.ParsePages(map[string]string{
		"error.html":      `<h1>{{.Status}} {{.Code}}</h1>`,
		"logged-out.html": `<h1>bye</h1>`,
		"onward.html":     `<meta http-equiv="refresh" content="0; url={{.Link}}"><h1>on</h1><a href="{{.Link}}">on</a>`,
	}, gateway.ErrorPages(), nil)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(a *gateway.App) { a.Pages, a.AfterLogout = p, "" })
	b := w.browser(w.replica())
	b.login() // by two pages that navigate on
	if a := b.visit("/page/linked", "cross-site"); a.status != 200 {
		t.Errorf("%v", a)
	}
	if a := b.visit("/nothing", "none"); a.status != 404 || a.body != "<h1>404 no_route</h1>" {
		t.Errorf("%v: %s", a, a.body)
	}
	if a := b.visit("/bff/logged-out", "none"); a.status != 200 || a.body != "<h1>bye</h1>" {
		t.Errorf("%v: %s", a, a.body)
	}
	a, err := b.send(request{method: "POST", url: origin + "/bff/logout", header: map[string]string{
		"Content-Type": "application/x-www-form-urlencoded", "Origin": origin, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate",
	}})
	if err != nil || a.status != 200 || !strings.Contains(a.body, "<h1>on</h1>") {
		t.Errorf("%v, %v: %s", err, a, a.body)
	}
	// Nobody's host has nobody's pages.
	if a := w.raw(b.at, "GET / HTTP/1.1\r\nHost: else.test\r\nSec-Fetch-Mode: navigate\r\nConnection: close\r\n\r\n"); a.status != 421 || strings.HasPrefix(a.body, "<h1>") || !strings.Contains(a.body, "unknown_host") {
		t.Errorf("%v: %s", a, a.body)
	}
}
