package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/gateway/web"
)

func TestRoutes(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	for _, test := range []struct {
		name, method, path string
		status             int
		code               string
	}{
		{"api", "GET", "/api/x", 401, "login_required"},
		{"api, nothing after the prefix", "GET", "/api", 401, "login_required"},
		{"part of a segment", "GET", "/apix", 404, "no_route"},
		{"no route", "GET", "/else", 404, "no_route"},
		{"no endpoint", "GET", "/bff/else", 404, "no_route"},
		{"the base path", "GET", "/bff", 404, "no_route"},
		{"the longest prefix decides about methods", "POST", "/api/read/x", 405, "method_not_allowed"},
		{"anonymous", "GET", "/public/x", 200, ""},
		{"optional", "GET", "/maybe/x", 200, ""},
		{"page, not a navigation", "GET", "/page/x", 401, "login_required"},
		{"H-02 dots", "GET", "/public/../api/x", 400, "invalid_request"},
		{"H-01 encoded slash", "GET", "/public/..%2fapi/x", 400, "invalid_request"},
		{"H-05 two slashes", "GET", "//api/x", 400, "invalid_request"},
		{"E-10 TRACE", "TRACE", "/public/x", 405, "method_not_allowed"},
		{"E-10 lower case", "get", "/bff/token", 405, "method_not_allowed"},
		{"HEAD of the token", "HEAD", "/bff/token", 405, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := w.raw(b.at, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nX-BFF: 1\r\nSec-Fetch-Site: same-origin\r\nConnection: close\r\n\r\n", test.method, test.path, host))
			if a.status != test.status {
				t.Errorf("%v: %s", a, a.body)
			}
			if code, _ := a.problem(); test.code != "" && code != test.code {
				t.Errorf("code %q", code)
			}
		})
	}
	for _, s := range w.upstream.requests() {
		if s.User != "" || s.Path != "/public/x" && s.Path != "/maybe/x" {
			t.Errorf("reached the upstream: %+v", s)
		}
	}
}

// raw sends bytes as they are.
func (w *world) raw(r *replica, text string) answer {
	w.t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		w.t.Fatal(err)
	}
	method, _, _ := strings.Cut(text, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return answer{nil, resp.StatusCode, resp.Header, string(body)}
}

// a target made from the request line stays on the site, whatever the line
// or a header says.
func TestA15PathDerivedTarget(t *testing.T) {
	w := newWorld(t, func(a *gateway.App) { a.Routes = append(a.Routes, pageAt("/", a)) })
	b := w.browser(w.replica())
	for _, target := range []string{"//evil.test/%2e%2e", `/\evil.test`, "/%5cevil.test", "/.//evil.test", "/page/x", "/page/x?a=//evil.test", "http://evil.test/page/x", "http://app.test/page/x"} {
		a := w.raw(b.at, "GET "+target+" HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-Host: evil.test\r\nX-Original-URL: //evil.test\r\n"+
			"Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Site: none\r\nConnection: close\r\n\r\n")
		loc := a.header.Get("Location")
		switch {
		case a.status == 400 || a.status == 421:
		case a.status == 303 && (loc == origin+"/bff/login" || strings.HasPrefix(loc, origin+"/bff/login?return_to=/page/x")):
		default:
			t.Errorf("%s: %d %s", target, a.status, loc)
		}
	}
	for _, h := range []string{"evil.test", "app.test.evil.test", "app.test:444", "APP.test", ""} {
		a := w.raw(b.at, "GET /public/x HTTP/1.1\r\nHost: "+h+"\r\nConnection: close\r\n\r\n")
		if code, _ := a.problem(); a.status != 421 || code != "unknown_host" {
			t.Errorf("Host %q: %d %s", h, a.status, code)
		}
	}
}

func pageAt(path string, a *gateway.App) gateway.Route {
	return gateway.Route{Path: path, Upstream: a.Routes[0].Upstream, Kind: gateway.KindPage}
}

// A page route sends a navigation to the login and back; an API never does.
func TestPageRoute(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	a := b.visit("/page/x?y=z%20a", "none")
	if a.status != 200 || a.url.RequestURI() != "/page/x?y=z%20a" {
		t.Errorf("%v: %s", a, a.body)
	}
	if got := w.upstream.last(t); got.User != gatewaytest.SubjectOf("alice") || got.Path != "/page/x" || got.Query != "y=z%20a" {
		t.Errorf("%+v", got)
	}
	// A link from elsewhere comes without the Strict cookie: no login, the same
	// session.
	before := w.exchanges()
	if a := b.visit("/page/linked?q=1", "cross-site"); a.status != 200 || a.url.RequestURI() != "/page/linked?q=1" || w.exchanges() != before {
		t.Errorf("%v, %d logins", a, w.exchanges()-before)
	}
	want(t, w.browser(b.at).visit("/api/x", "none"), 403) // no page: a navigation has no business there
}

// The loop breaker: a browser that doesn't keep the session's cookie, or a session
// that is over at once, ends at a page that says so.
func TestPageLoopBreaker(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.refuse = func(name string) bool { return name == ticketCookie }
	a := b.visit("/page/x", "none")
	want(t, a, 400)
	if !strings.Contains(a.body, "cookie_refused") || w.exchanges() != 1 {
		t.Errorf("%d logins: %s", w.exchanges(), a.body)
	}

	b = w.browser(b.at)
	b.login()
	w.redis.CLI("FLUSHALL")
	a = b.visit("/page/x", "none")
	want(t, a, 401)
	if !strings.Contains(a.body, "login_required") || !strings.Contains(a.body, "/bff/login") {
		t.Error(a.body)
	}
	w.pass(31 * time.Second) // later it is no loop
	if a := b.visit("/page/x", "none"); a.status != 200 || a.url.Path != "/page/x" {
		t.Errorf("%v", a)
	}
}

func TestOptionalRoute(t *testing.T) {
	t.Parallel() // it waits for the store's deadline
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	alice := gatewaytest.SubjectOf("alice")
	for _, test := range []struct {
		name   string
		header []string
		user   string
	}{
		{"with a session", nil, alice},
		{"E-01 failed guard is anonymous", []string{"Sec-Fetch-Site: cross-site"}, ""},
		{"a bearer of the client's is not passed on", []string{"Authorization: Bearer x.eyJzdWIiOiJldmlsIn0.y"}, alice},
	} {
		want(t, b.fetch("GET", "/maybe/x", test.header...), 200)
		if got := w.upstream.last(t); got.User != test.user {
			t.Errorf("%s: %q", test.name, got.User)
		}
	}
	dead := b.copy()
	want(t, b.fetch("POST", "/bff/logout"), 200)
	want(t, dead.fetch("GET", "/maybe/x"), 200)
	if got := w.upstream.last(t); got.User != "" {
		t.Errorf("a dead ticket is %q", got.User)
	}
	// Trouble with the store is not anonymity.
	b.login()
	n := len(w.upstream.requests())
	w.redis.Stop()
	a := b.fetch("GET", "/maybe/x")
	w.redis.Cont()
	want(t, a, 503, "store_unavailable")
	if len(w.upstream.requests()) != n {
		t.Error("it reached the upstream")
	}
}

// A route without auth doesn't look at the cookie, and costs no Redis command. A
// forged cookie costs none anywhere (T-04).
func TestNoRedis(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	forged := b.copy()
	c := *forged.jar[ticketCookie]
	c.Value = c.Value[:20] + "AAAA" + c.Value[24:]
	forged.jar[ticketCookie] = &c
	before := w.redisCommands()
	want(t, b.fetch("GET", "/public/x"), 200)
	if w.upstream.last(t).User != "" {
		t.Error("a token went where none is asked for")
	}
	want(t, forged.fetch("GET", "/api/x"), 401, "login_required", "no_session")
	want(t, forged.fetch("POST", "/bff/token"), 401, "login_required", "no_session")
	if n := w.redisCommands() - before; n != 0 {
		t.Errorf("%d Redis commands", n)
	}
	want(t, b.fetch("GET", "/api/plain/x"), 200)
	if w.upstream.last(t).User != "" {
		t.Error("token: none attached one")
	}
}

// C-04, C-07, D-04 at the door.
func TestC07CookieHeaders(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	value := b.jar[ticketCookie].Value
	pair := ticketCookie + "=" + value
	get := func(path string, cookies ...string) answer {
		var lines strings.Builder
		for _, c := range cookies {
			lines.WriteString("Cookie: " + c + "\r\n")
		}
		return w.raw(b.at, "GET "+path+" HTTP/1.1\r\nHost: app.test\r\nX-BFF: 1\r\n"+lines.String()+"Connection: close\r\n\r\n")
	}
	for _, test := range []struct {
		name    string
		cookies []string
		status  int
	}{
		{"once", []string{"a=b; " + pair}, 200},
		{"C-04 twice", []string{pair + "; " + pair}, 401},
		{"C-04 foreign first", []string{ticketCookie + "=x; " + pair}, 401},
		{"C-04 two lines", []string{pair, ticketCookie + "=x"}, 401},
		{"C-07 among 3001", []string{strings.Repeat("a=b; ", 3001) + pair}, 200},
		{"D-04 64 KiB", []string{pair + strings.Repeat("A", 64<<10)}, 401},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := len(w.upstream.requests())
			a := get("/api/x", test.cookies...)
			if a.status != test.status || len(a.header.Values("Set-Cookie")) != 0 {
				t.Errorf("%d %v", a.status, a.header)
			}
			if test.status == 200 {
				if got := w.upstream.last(t); got.User != gatewaytest.SubjectOf("alice") || strings.Contains(got.Header.Get("Cookie"), "loakroom") {
					t.Errorf("upstream saw %q with %d bytes of cookies", got.User, len(got.Header.Get("Cookie")))
				}
			} else if len(w.upstream.requests()) != n {
				t.Error("it reached the upstream")
			}
		})
	}
	if a := get("/bff/user", pair+strings.Repeat("A", 2<<20)); a.status != 431 {
		t.Errorf("D-04 2 MiB: %d", a.status) // net/http's own limit here; cmd lowers it
	}
}

// T-01: what is wrong with a ticket can't be told from the answer, but for one
// that was ours and whose session has ended.
func TestT01Alike(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	good := b.jar[ticketCookie].Value
	other := w.browser(b.at)
	other.login()
	w.redis.CLI("FLUSHALL")
	values := map[string]string{
		"bad base64": "!!!", "bad MAC": good[:60] + "AAAA" + good[64:], "empty": "", "long": strings.Repeat("A", 5000),
		"unknown session": good, "another unknown session": other.jar[ticketCookie].Value,
	}
	var first string
	for name, value := range values {
		probe := b.copy()
		c := *probe.jar[ticketCookie]
		c.Value = value
		probe.jar[ticketCookie] = &c
		a := probe.fetch("POST", "/bff/token")
		id := a.field("trace_id")
		a.header.Del("Date")
		if shape := fmt.Sprintf("%d %v %s", a.status, a.header, strings.ReplaceAll(a.body, id, "ID")); first == "" {
			first = shape
		} else if shape != first {
			t.Errorf("%s: %s, elsewhere %s", name, shape, first)
		}
	}
	if !strings.Contains(first, "no_session") {
		t.Error(first)
	}
}

// The upstream's answer carries the successor, and is then kept by no cache
// (K-02); the upstream's own refusal passes unchanged and ends nothing.
func TestUpstreamAnswers(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) bool {
		rw.Header().Set("Cache-Control", "public, s-maxage=31536000")
		rw.Header().Set("CDN-Cache-Control", "max-age=3600")
		rw.Header().Set("Set-Cookie", ticketCookie+"=evil; Path=/; Secure; HttpOnly")
		rw.WriteHeader(401)
		io.WriteString(rw, "upstream's own")
		return true
	})
	a := b.fetch("GET", "/api/x")
	if a.status != 401 || a.body != "upstream's own" || a.handsOut() || !strings.HasPrefix(a.header.Get("Cache-Control"), "public") {
		t.Errorf("%v %s", a, a.body)
	}
	w.pass(tokenLife)
	a = b.fetch("GET", "/api/x")
	if v, _ := a.set(ticketCookie); a.status != 401 || v == "" || v == "evil" || a.header.Get("CDN-Cache-Control") != "" {
		t.Errorf("%v", a)
	}
	w.upstream.answers(nil)
	want(t, b.fetch("GET", "/bff/user"), 200)

	// No upstream: 502, and the successor stays with us.
	w.pass(tokenLife)
	w.upstream.CloseClientConnections()
	w.upstream.Listener.Close()
	a = b.fetch("POST", "/api/x")
	want(t, a, 502, "upstream_unreachable")
	if a.handsOut() {
		t.Error("a refusal hands a ticket out")
	}
	want(t, b.fetch("GET", "/bff/user"), 200)
}

// J-02: a WebSocket's handshake must come from the app, and never carries a
// cookie.
func TestWebSocketHandshake(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Upgrade") == "" {
			return false
		}
		conn, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", "HSmrc0sMlYUkAGmm5OPpG2HaGWk=")
		return true
	})
	shake := func(origin string) answer {
		line := ""
		if origin != "" {
			line = "Origin: " + origin + "\r\n"
		} else {
			line = "Sec-Fetch-Site: same-origin\r\nX-BFF: 1\r\n" // would do for any other request
		}
		return w.raw(b.at, "GET /api/ws HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n"+line+"Cookie: "+ticketCookie+"="+b.jar[ticketCookie].Value+"\r\n\r\n")
	}
	for _, foreign := range []string{"", "https://evil.test", "null", "http://app.test"} {
		if a := shake(foreign); a.status != 403 {
			t.Errorf("Origin %q: %d", foreign, a.status)
		}
	}
	w.pass(tokenLife) // the handshake refreshes, and its successor goes to somebody else
	a := shake(origin)
	if a.status != 101 || a.handsOut() {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if got := w.upstream.last(t); got.User != gatewaytest.SubjectOf("alice") {
		t.Errorf("%q", got.User)
	}
	if a := b.fetch("GET", "/bff/user"); a.status != 200 || !a.handsOut() {
		t.Errorf("the next bearer: %v", a)
	}
}

func TestFilesRoute(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"index.html": "<p>app</p>", "app.js": "code()", ".env": "SECRET"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := web.OpenFiles(dir, web.FilesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(a *gateway.App) {
		a.Routes = append(a.Routes, gateway.Route{Path: "/", Files: files, Kind: gateway.KindPage, Auth: gateway.AuthNone},
			gateway.Route{Path: "/inner/", Files: files, Kind: gateway.KindPage, StripPrefix: "/inner"})
	})
	b := w.browser(w.replica())
	for _, test := range []struct {
		path   string
		status int
		body   string
	}{{"/", 200, "app"}, {"/some/view", 200, "app"}, {"/app.js", 200, "code()"}, {"/none.js", 404, "no_route"}, {"/.env", 404, "no_route"}} {
		if a := b.visit(test.path, "none"); a.status != test.status || !strings.Contains(a.body, test.body) {
			t.Errorf("%s: %d %s", test.path, a.status, a.body)
		}
	}
	want(t, b.fetch("POST", "/app.js"), 405, "method_not_allowed")
	want(t, b.fetch("GET", "/inner/app.js"), 401, "login_required")
	if a := b.visit("/inner/app.js", "none"); a.status != 200 || a.body != "code()" {
		t.Errorf("%v %s", a, a.body)
	}
}

// Two apps on one gateway are told apart by their host alone; one's ticket is
// nothing to the other.
func TestTwoApps(t *testing.T) {
	w := newWorld(t)
	shop := w.app()
	bank := w.app()
	bank.Name, bank.Origin = "bank", &url.URL{Scheme: "https", Host: "bank.test"}
	r := w.replica(shop, bank)
	b := w.browser(r)
	b.login()
	get := func(host string) answer {
		return w.raw(r, "GET /api/x HTTP/1.1\r\nHost: "+host+"\r\nX-BFF: 1\r\nCookie: "+ticketCookie+"="+b.jar[ticketCookie].Value+"\r\nConnection: close\r\n\r\n")
	}
	want(t, get("app.test"), 200)
	want(t, get("bank.test"), 401, "login_required", "no_session")
	want(t, get("other.test"), 421, "unknown_host")

	// A bad set of apps leaves the old one in force.
	twin := shop
	twin.Name = "twin"
	nameless := bank
	nameless.Name = ""
	for _, bad := range [][]gateway.App{{shop, twin}, {shop, shop}, {nameless}} {
		if err := r.Swap(gateway.Served{Apps: bad, Keys: w.keys}); err == nil {
			t.Error("a bad set of apps was taken")
		}
	}
	want(t, get("app.test"), 200)
	if err := r.Swap(gateway.Served{Apps: []gateway.App{bank}, Keys: w.keys}); err != nil {
		t.Fatal(err)
	}
	want(t, get("app.test"), 421, "unknown_host")
}
