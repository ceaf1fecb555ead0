package attacks

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/test/rig"
)

// E: only the app's own page may use the cookie.
func TestE(t *testing.T) {
	t.Parallel()
	a := newArena(t, setup{})

	lines := func(name string, values ...string) string {
		var b strings.Builder
		for _, v := range values {
			fmt.Fprintf(&b, "%s: %s\r\n", name, v)
		}
		return b.String()
	}
	type signal struct {
		text   string
		ok     bool
		absent bool
	}
	sites := []signal{
		{"", true, true}, {lines("Sec-Fetch-Site", "same-origin"), true, false}, {lines("Sec-Fetch-Site", "same-site"), false, false}, {lines("Sec-Fetch-Site", "cross-site"), false, false},
		{lines("Sec-Fetch-Site", "none"), false, false}, {lines("Sec-Fetch-Site", "SAME-ORIGIN"), false, false}, {lines("Sec-Fetch-Site", "same-origin, cross-site"), false, false},
		{lines("Sec-Fetch-Site", "junk"), false, false}, {lines("Sec-Fetch-Site", "same-origin", "same-origin"), false, false}, {lines("Sec-Fetch-Site", ""), false, false},
	}
	origins := []signal{
		{"", true, true}, {lines("Origin", "https://app.test"), true, false}, {lines("Origin", "http://app.test"), false, false}, {lines("Origin", "https://app.test:444"), false, false},
		{lines("Origin", "https://app.test."), false, false}, {lines("Origin", "https://APP.test"), false, false}, {lines("Origin", "null"), false, false}, {lines("Origin", "https://evil.app.test"), false, false},
		{lines("Origin", "https://app.test.evil.test"), false, false}, {lines("Origin", "https://app.test", "https://evil.test"), false, false}, {lines("Origin", ""), false, false},
		{lines("Origin", "https://app.test:443"), false, false}, {lines("Origin", "https://app.test", "https://app.test"), false, false},
	}
	customs := []signal{
		{"", false, true}, {lines("X-BFF", "1"), true, false}, {lines("X-BFF", "2"), false, false}, {lines("x-bff", "1"), true, false}, {lines("X-BFF", "1", "1"), false, false}, {lines("X-BFF", "1, 1"), false, false}, {lines("X_BFF", "1"), false, true},
	}
	referers := []string{"", "Referer: https://app.test/x\r\n", "Referer: https://evil.test/\r\n"}
	types := []string{"", "Content-Type: application/json\r\n", "Content-Type: application/x-www-form-urlencoded\r\n", "Content-Type: text/plain\r\n"}

	matrix := func(c *row, method, path, cookie string, json bool, passed, step int) {
		c.Helper()
		var text strings.Builder
		var want []int
		var sent []string
		flush := func() {
			if len(want) == 0 {
				return
			}
			x := c.send(text.String() + get("/bff/nothing"))
			if n := len(x.answers); n > 0 {
				x.answers = x.answers[:n-1]
			}
			if len(x.answers) != len(want) {
				c.Errorf("%s %s: %d answers to %d requests", method, path, len(x.answers), len(want))
			}
			for i, got := range x.answers {
				if i < len(want) && (got.Status != want[i] || got.Status == 403 && got.code() != "cross_origin_blocked") {
					c.Errorf("%q: %d %s, want %d", sent[i], got.Status, got.code(), want[i])
				}
			}
			text.Reset()
			want, sent = nil, nil
		}
		n := 0
		for _, site := range sites {
			for _, origin := range origins {
				for _, custom := range customs {
					n++
					if n%step != 0 {
						continue
					}
					request := method + " " + path + " HTTP/1.1\r\nHost: app.test\r\n" + site.text + origin.text + custom.text + cookie + referers[n%3] + types[n%4]
					if method != "GET" {
						request += "Content-Length: 0\r\n"
					}
					ok := site.ok && origin.ok && (custom.ok || custom.absent)
					switch {
					case json && path == "/bff/logout" && custom.absent && n%4 == 2: // by form: like a route
						ok = ok && !(site.absent && origin.absent)
					case json:
						ok = ok && custom.ok
					default:
						ok = ok && (custom.ok || !site.absent || !origin.absent)
					}
					status := http.StatusForbidden
					if ok {
						status = passed
					}
					text.WriteString(request + "\r\n")
					want, sent = append(want, status), append(sent, request)
					if len(want) == 100 {
						flush()
					}
				}
			}
		}
		flush()
	}
	stale := "Cookie: " + rig.SessionCookie + "=stale\r\n"
	for _, e := range []struct {
		method, path string
		json         bool
	}{
		{"POST", "/bff/token", true}, {"GET", "/bff/token", true}, {"GET", "/bff/session", true}, {"GET", "/bff/user", true}, {"GET", "/bff/sessions", true},
		{"POST", "/app/x", false}, {"GET", "/app/x", false}, {"DELETE", "/app/x", false}, {"OPTIONS", "/app/x", false}, {"GET", "/page/x", false}, {"POST", "/page/x", false},
	} {
		a.row("E-01_"+e.method+strings.ReplaceAll(e.path, "/", "_"), func(c *row) {
			step := 5 // of two, all is asked; of the others, a part: one function decides for all
			if e.method == "POST" {
				step = 1
			}
			matrix(c, e.method, e.path, a.cookie("alice"), e.json, 200, step)
			matrix(c, e.method, e.path, "", e.json, 401, 11)
			matrix(c, e.method, e.path, stale, e.json, 401, 13)
		})
	}
	a.row("E-01_refusals_cost_nothing", func(c *row) {
		for _, path := range []string{"/bff/token", "/app/x", "/bff/sessions"} {
			c.want(c.send(get(path, "Sec-Fetch-Site: cross-site\r\nX-BFF: 1\r\n", a.cookie("alice"))), http.StatusForbidden, "cross_origin_blocked")
			c.want(c.send(get(path, "X-BFF: 1\r\nOrigin: https://evil.test\r\n", a.cookie("alice"))), http.StatusForbidden, "cross_origin_blocked")
		}
		c.untouched()
	})
	a.row("E-01_logout", func(c *row) {
		b := c.w.NewBrowser()
		b.Login("erin")
		matrix(c, "POST", "/bff/logout", "Cookie: "+rig.SessionCookie+"="+b.Cookie()+"\r\n", true, 200, 1)
	})
	a.row("E-02_token_by_navigation", func(c *row) {
		before := len(c.provider.Redemptions("sub-alice"))
		for _, lines := range []string{
			"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: script\r\n",
			"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nSec-Fetch-User: ?1\r\n", "Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
			"Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nSec-Purpose: prefetch\r\n", "Sec-Purpose: prefetch;prerender\r\n", "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Dest: iframe\r\nSec-Fetch-Mode: navigate\r\n",
			"Purpose: prefetch\r\nSec-Fetch-Site: same-origin\r\n", "Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: cors\r\nOrigin: https://evil.app.test\r\nX-BFF: 1\r\n", "Accept: text/html\r\n",
		} {
			for _, path := range []string{"/bff/token", "/bff/user", "/bff/session", "/bff/sessions", "/bff/token?min_ttl=150"} {
				c.want(c.send(get(path, lines, a.cookie("alice"))), http.StatusForbidden, "cross_origin_blocked")
			}
		}
		if n := len(c.provider.Redemptions("sub-alice")); n != before {
			c.Errorf("%d refreshes", n-before)
		}
		c.untouched()
	})
	a.row("E-06_forwarded_proto", func(c *row) {
		for _, proto := range []string{"http", "https", "http,https", "ws"} {
			l := "X-Forwarded-Proto: " + proto + "\r\nX-Forwarded-Host: evil.test\r\nX-Forwarded-Ssl: off\r\nFront-End-Https: on\r\n"
			c.want(c.send(post("/bff/token", "", fetched, "Origin: https://app.test\r\n", a.cookie("alice"), l)), http.StatusOK, "")
			c.want(c.send(post("/bff/token", "", "X-BFF: 1\r\nOrigin: http://app.test\r\n", a.cookie("alice"), l)), http.StatusForbidden, "cross_origin_blocked")
			c.want(c.send(post("/bff/token", "", "X-BFF: 1\r\nOrigin: https://evil.test\r\n", a.cookie("alice"), l)), http.StatusForbidden, "cross_origin_blocked")
		}
	})
	a.row("E-07_logout_by_link", func(c *row) {
		for _, lines := range []string{"", fetched, "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n"} {
			for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"} {
				x := c.send(request(method, "/bff/logout", lines, a.cookie("alice")))
				if x.status() != http.StatusMethodNotAllowed || x.final().Header.Get("Allow") != "POST" {
					c.Errorf("%s: %v", method, x)
				}
			}
		}
		form := "Content-Type: application/x-www-form-urlencoded\r\n"
		for _, lines := range []string{"", "Sec-Fetch-Site: cross-site\r\n", "Origin: https://evil.test\r\n", "Origin: null\r\n", "Sec-Fetch-Site: same-site\r\nOrigin: https://evil.app.test\r\n", "Origin: null\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n"} {
			c.want(c.send(post("/bff/logout", "_method=POST&x=1", form, lines, a.cookie("alice"))), http.StatusForbidden, "cross_origin_blocked")
		}
		c.want(c.send(get("/app/x", fetched, a.cookie("alice"))), http.StatusOK, "")
	})
	a.row("E-10_odd_methods", func(c *row) {
		for method, status := range map[string]int{"TRACE": 405, "TRACK": 405, "get": 401, "PROPFIND": 401, "FOO": 401, "PRI": 401, "CONNECT": 405, "trace": 405, "Trace": 405, "track": 405, "DEBUG": 401} {
			x := c.send(request(method, "/app/x", "X-BFF: 1\r\nX-Note: echo-me\r\n"))
			if s := x.status(); s != status && s != http.StatusBadRequest {
				c.Errorf("%s without a session: %v", method, x)
			}
			if strings.Contains(string(x.got), "echo-me") {
				c.Errorf("%s echoes", method)
			}
			for _, path := range []string{"/bff/token", "/bff/user", "/bff/login", "/bff/callback"} {
				if x := c.send(request(method, path, fetched, a.cookie("alice"))); x.status() != http.StatusMethodNotAllowed && x.status() != http.StatusBadRequest {
					c.Errorf("%s %s: %v", method, path, x)
				}
			}
		}
		for _, text := range []string{
			"CONNECT app.test:443 HTTP/1.1\r\nHost: app.test:443\r\n\r\n", "CONNECT app.test HTTP/1.1\r\nHost: app.test\r\n\r\n", "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: app.test\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: app.test\r\n\r\n", strings.Repeat("A", 8<<10) + " /app/x HTTP/1.1\r\nHost: app.test\r\n\r\n",
			strings.Repeat("A", 40<<10) + " /app/x HTTP/1.1\r\nHost: app.test\r\n\r\n", "G\x00T /app/x HTTP/1.1\r\nHost: app.test\r\n\r\n", "GE{T /app/x HTTP/1.1\r\nHost: app.test\r\n\r\n", "GET/app/x HTTP/1.1\r\nHost: app.test\r\n\r\n", " GET /app/x HTTP/1.1\r\nHost: app.test\r\n\r\n",
		} {
			if x := c.send(text); x.status() < 400 && x.status() != 0 {
				c.Errorf("%.60q: %v", text, x)
			}
		}
		if n := len(c.arrived()); n > 0 {
			c.Errorf("the upstream got %d requests, %q", n, c.arrived()[0].head)
		}
	})
	// F: another origin's page may read nothing, and its preflight opens nothing.
	a.row("F-03_preflight", func(c *row) {
		for _, lines := range []string{
			"Origin: https://evil.test\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-bff\r\n", "Origin: https://evil.test\r\n", "Access-Control-Request-Method: GET\r\nX-Forwarded-User: " + spoof + "\r\n",
			"Origin: https://app.test\r\nAccess-Control-Request-Method: GET\r\nX-Forwarded-User: " + spoof + "\r\n", "Origin: null\r\nAccess-Control-Request-Method: DELETE\r\nAccess-Control-Request-Private-Network: true\r\n",
		} {
			for _, path := range []string{"/app/admin", "/app/x", "/page/x", "/svc-b/x"} {
				if x := c.send(request("OPTIONS", path, lines)); x.status() != 401 && x.status() != 403 {
					c.Errorf("OPTIONS %s: %v", path, x)
				}
			}
			for _, path := range []string{"/bff/token", "/bff/logout", "/bff/user", "/bff/sessions", "/bff/login"} {
				x := c.send(request("OPTIONS", path, lines, a.cookie("alice")))
				c.want(x, http.StatusMethodNotAllowed, "")
				for name := range x.final().Header {
					if strings.HasPrefix(name, "Access-Control-") {
						c.Errorf("OPTIONS %s: %s", path, name)
					}
				}
			}
			c.send(request("OPTIONS", "/public/x", lines))
		}
		for _, r := range c.arrived() {
			if r.target != "/public/x" || strings.Contains(r.head, spoof) {
				c.Errorf("the upstream got %q", r.head)
			}
		}
	})
	a.row("F-04_upstream_cors", func(c *row) {
		c.up.teach("cors", wire("HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\nAccess-Control-Allow-Headers: x-bff\r\nContent-Length: 2\r\n\r\nok", true))
		x := c.send(get("/app/x?do=cors", fetched, a.cookie("alice")))
		if x.final().Header.Get("Access-Control-Allow-Origin") != "*" {
			c.Error("a route's CORS is its upstream's business")
		}
		// It opens nothing: a foreign page's request has no session, whatever the answer says.
		c.want(c.send(get("/app/x?do=cors", "Origin: https://evil.test\r\nSec-Fetch-Site: cross-site\r\n", a.cookie("alice"))), http.StatusForbidden, "cross_origin_blocked")
		for _, path := range []string{"/bff/token", "/bff/user", "/bff/session", "/bff/nothing", "/bff/token?do=cors"} {
			for _, origin := range []string{"https://evil.test", "https://app.test", "null"} {
				x := c.send(get(path, "X-BFF: 1\r\nOrigin: "+origin+"\r\n", a.cookie("alice")))
				for name := range x.final().Header {
					if strings.HasPrefix(name, "Access-Control-") {
						c.Errorf("%s for %s: %s", path, origin, name)
					}
				}
			}
		}
	})
}
