package gateway_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

const authSecret = "UZq1mJX8cT3vN5yRk7Wd"

// elsewhere adds routes that another proxy serves.
func elsewhere(a *gateway.App) {
	user := []gateway.ClaimHeader{{Name: "X-User", Claim: "sub"}, {Name: "X-Team", Claim: "team"}}
	a.ForwardAuth = authSecret
	a.Audience = []string{audience}
	a.Routes = append(a.Routes,
		gateway.Route{Path: "/grafana", ForwardAuth: true, Token: true, Headers: user},
		gateway.Route{Path: "/grafana/admin", ForwardAuth: true, Require: map[string][]string{"groups": {"admins"}}},
		gateway.Route{Path: "/grafana/public", ForwardAuth: true, Auth: gateway.AuthNone},
		gateway.Route{Path: "/maybe-there", ForwardAuth: true, Auth: gateway.AuthOptional, Token: true, Headers: user},
		gateway.Route{Path: "/wiki", ForwardAuth: true, Kind: gateway.KindPage, Headers: user},
		gateway.Route{Path: "/board", ForwardAuth: true, Kind: gateway.KindPage, Token: true},
		gateway.Route{Path: "/read", ForwardAuth: true, Methods: []string{"GET", "HEAD"}},
		gateway.Route{Path: "/either", ForwardAuth: true, Token: true, Accept: gateway.Accept{Cookie: true, Bearer: true}},
	)
}

// trusting is a replica to which this machine is a trusted proxy.
func (w *world) trusting(apps ...gateway.App) *replica {
	w.t.Helper()
	if len(apps) == 0 {
		apps = []gateway.App{w.app()}
	}
	r := w.replica(apps...)
	w.trust(r, apps, "127.0.0.0/8")
	return r
}

func (w *world) trust(r *replica, apps []gateway.App, prefix string) {
	w.t.Helper()
	err := r.Swap(gateway.Served{Apps: apps, Keys: w.keys, TrustedProxies: []netip.Prefix{netip.MustParsePrefix(prefix)}})
	if err != nil {
		w.t.Fatal(err)
	}
}

// checked is what the proxy in front says of a request.
func checked(method, uri string) []string {
	return []string{"X-BFF-Forward-Auth: " + authSecret, "X-Forwarded-Method: " + method, "X-Forwarded-Host: " + host, "X-Forwarded-Uri: " + uri}
}

// check is the check of a call of the app's page, with its header; of a navigation
// with [navigating].
func (b *browser) check(method, uri string, header ...string) answer {
	b.t.Helper()
	h := checked(method, uri)
	if method != "GET" {
		h = append(h, "Origin: "+origin)
	}
	a := b.fetch("GET", "/bff/auth", append(h, header...)...)
	b.judge(a)
	return a
}

// judge holds the answer to a check against what none may be.
func (b *browser) judge(a answer) {
	b.t.Helper()
	if a.status < 400 && a.status != 204 {
		b.t.Errorf("%v: only 204 may be below 400", a)
	}
	if a.header.Get("Cache-Control") != "no-store" || len(a.header["Set-Cookie"]) > 0 || len(a.header["Location"]) > 0 {
		b.t.Errorf("%v: an answer to a check that may be kept, sets a cookie or redirects", a)
	}
	if a.status != 204 {
		tellsNothing(b.t, a)
	}
	if strings.Contains(strings.Join(a.header["Cookie"], ";"), "cloakroom") {
		b.t.Errorf("%v: a cookie of ours for the upstream", a)
	}
}

// tellsNothing fails if an answer has what is for upstreams.
func tellsNothing(t testing.TB, a answer) {
	t.Helper()
	for _, name := range []string{"Authorization", "X-User", "X-Team", "Cookie"} {
		if len(a.header[name]) > 0 {
			t.Errorf("%v: %s in the answer", a, name)
		}
	}
}

var navigating = []string{"X-Bff:", "Accept: text/html,*/*;q=0.8", "Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}

// passes fails unless the answer lets alice's request go on, with these headers for
// the upstream.
func (b *browser) passes(a answer, want map[string]string) {
	b.t.Helper()
	got := map[string]string{}
	for _, name := range []string{"Authorization", "X-User", "X-Team", "Cookie"} {
		if v := strings.Join(a.header[name], "|"); v != "" {
			if name == "Authorization" {
				v = subject(v)
			}
			got[name] = v
		}
	}
	if a.status != 204 || a.body != "" || !maps.Equal(got, want) {
		b.t.Errorf("%v: %q, want %q", a, got, want)
	}
}

func TestAuth(t *testing.T) {
	w := newWorld(t, elsewhere)
	r := w.trusting()
	alice, bob := w.browser(r), w.browser(r)
	a := alice.check("GET", "/grafana/x")
	want(t, a, 401, "login_required", "no_session")
	if a.field("login_url") != "/bff/login" {
		t.Error(a.body)
	}
	alice.login()
	w.as("bob")
	bob.login()
	for _, one := range []struct {
		b    *browser
		name string
	}{{alice, "alice"}, {bob, "bob"}} {
		sub := gatewaytest.SubjectOf(one.name)
		b := one.b
		b.passes(b.check("GET", "/grafana/x?y=z"), map[string]string{"Authorization": sub, "X-User": sub})
		b.passes(b.check("POST", "/grafana"), map[string]string{"Authorization": sub, "X-User": sub})
		b.passes(b.check("GET", "/grafana/public/x"), nil)
		b.passes(b.check("GET", "/maybe-there"), map[string]string{"Authorization": sub, "X-User": sub})
		b.passes(b.check("GET", "/wiki/x"), map[string]string{"X-User": sub})
		b.passes(b.check("GET", "/wiki/x", navigating...), map[string]string{"X-User": sub})
		b.passes(b.check("HEAD", "/read/x"), nil)
		// The front names itself, or the app, as Host.
		b.passes(b.check("GET", "/wiki/x", "Host: cloakroom:8080"), map[string]string{"X-User": sub})
	}
	want(t, alice.check("GET", "/grafana/admin/x"), 403, "access_denied")
	want(t, alice.check("POST", "/read/x"), 405, "method_not_allowed")
	stranger := w.browser(r)
	stranger.passes(stranger.check("GET", "/grafana/public"), nil)
	stranger.passes(stranger.check("GET", "/maybe-there/x"), nil)
	stranger.passes(alice.check("GET", "/maybe-there/x", "Sec-Fetch-Site: cross-site"), nil)

	// Other cookies are the upstream's; ours are nobody's.
	alice.jar["theme"] = &http.Cookie{Name: "theme", Value: "dark"}
	alice.passes(alice.check("GET", "/wiki/x"), map[string]string{"X-User": gatewaytest.SubjectOf("alice"), "Cookie": "theme=dark"})
	alice.passes(alice.check("GET", "/grafana/public"), map[string]string{"Cookie": "theme=dark"})

	// What a session's end means for its checks, and trouble.
	copied := alice.copy()
	want(t, alice.fetch("POST", "/bff/logout"), 200)
	want(t, copied.check("GET", "/grafana/x"), 401, "login_required", "logged_out")
	w.redis.Stop()
	want(t, bob.check("GET", "/grafana/x"), 503, "store_unavailable")
	want(t, bob.check("GET", "/wiki/x", navigating...), 503)
}

// A-*, G-*: nobody but the proxy is answered: not by what it says, nor by where it
// comes from, alone.
func TestAuthWhoMayAsk(t *testing.T) {
	w := newWorld(t, elsewhere)
	other := w.app()
	other.Name, other.ForwardAuth = "other", "nH4bV8zLw2Qe6TyUi0Pa"
	other.Origin, _ = url.Parse("https://other.test")
	apps := []gateway.App{w.app(), other}
	r := w.trusting(apps...)
	b := w.browser(r)
	b.login()
	yes := checked("GET", "/grafana/x")
	b.passes(b.fetch("GET", "/bff/auth", yes...), map[string]string{"Authorization": gatewaytest.SubjectOf("alice"), "X-User": gatewaytest.SubjectOf("alice")})

	without := func(name string, more ...string) []string {
		return append(slices.DeleteFunc(slices.Clone(yes), func(line string) bool { return strings.HasPrefix(line, name+":") }), more...)
	}
	rows := []struct {
		name, method, path string
		header             []string
		status             int
		code               string
	}{
		{"a page, through the proxy", "GET", "/bff/auth", nil, 404, "no_route"},
		{"a page that makes the proxy's claims", "GET", "/bff/auth", without("X-BFF-Forward-Auth"), 404, "no_route"},
		{"no secret in it", "GET", "/bff/auth", without("X-BFF-Forward-Auth", "X-BFF-Forward-Auth: 1"), 404, "no_route"},
		{"almost the secret", "GET", "/bff/auth", without("X-BFF-Forward-Auth", "X-BFF-Forward-Auth: "+authSecret[1:]), 404, "no_route"},
		{"another app's secret", "GET", "/bff/auth", without("X-BFF-Forward-Auth", "X-BFF-Forward-Auth: nH4bV8zLw2Qe6TyUi0Pa"), 404, "no_route"},
		{"no host", "GET", "/bff/auth", without("X-Forwarded-Host"), 404, "no_route"},
		{"an unknown host", "GET", "/bff/auth", without("X-Forwarded-Host", "X-Forwarded-Host: evil.test"), 404, "no_route"},
		{"two hosts on a line", "GET", "/bff/auth", without("X-Forwarded-Host", "X-Forwarded-Host: app.test, app.test"), 404, "no_route"},
		{"another app's host", "GET", "/bff/auth", without("X-Forwarded-Host", "X-Forwarded-Host: other.test"), 404, "no_route"},
		{"another app's host and secret", "GET", "/bff/auth", append(without("X-Forwarded-Host", "X-Forwarded-Host: other.test"), "X-BFF-Forward-Auth: nH4bV8zLw2Qe6TyUi0Pa"), 404, "no_route"},
		{"a query", "GET", "/bff/auth?x", yes, 404, "no_route"},
		{"another spelling", "GET", "/bff/%61uth", yes, 404, "no_route"},
		{"something below", "GET", "/bff/auth/x", yes, 404, "no_route"},
		{"POST", "POST", "/bff/auth", yes, 405, "method_not_allowed"},
		{"HEAD", "HEAD", "/bff/auth", yes, 405, ""},
	}
	judge := func(name string, a answer, status int, code string) {
		t.Helper()
		got, _ := a.problem()
		if a.status != status || got != code {
			t.Errorf("%s: %v: %s", name, a, a.body)
		}
		tellsNothing(t, a)
		if a.handsOut() {
			t.Errorf("%s: %v hands a ticket out", name, a)
		}
	}
	for _, row := range rows {
		judge(row.name, b.fetch(row.method, row.path, row.header...), row.status, row.code)
	}
	// Twice is what a browser can bring about by a header that the proxy adds to.
	ticket := fmt.Sprintf("Cookie: %s=%s\r\nX-BFF: 1\r\nSec-Fetch-Site: same-origin\r\nConnection: close\r\n\r\n", ticketCookie, b.jar[ticketCookie].Value)
	claims := strings.Join(yes, "\r\n") + "\r\n"
	judge("the secret twice", w.raw(r, "GET /bff/auth HTTP/1.1\r\nHost: app.test\r\nX-BFF-Forward-Auth: 1\r\n"+claims+ticket), 404, "no_route")
	judge("the host twice", w.raw(r, "GET /bff/auth HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-Host: app.test\r\n"+claims+ticket), 404, "no_route")
	judge("the secret, and something else", w.raw(r, "GET /bff/auth HTTP/1.1\r\nHost: app.test\r\n"+strings.Join(yes, "\r\n")+"\r\nX-BFF-Forward-Auth: 1\r\n"+ticket), 404, "no_route")
	judge("absolute form", w.raw(r, "GET http://app.test/bff/auth HTTP/1.1\r\nHost: app.test\r\n"+claims+ticket), 400, "invalid_request")
	judge("a Host of no app, and no secret", w.raw(r, "GET /bff/auth HTTP/1.1\r\nHost: evil.test\r\nX-Forwarded-Host: app.test\r\n"+ticket), 421, "unknown_host")
	if a := w.raw(r, "GET /bff/auth HTTP/1.1\r\nHost: cloakroom:8080\r\n"+claims+ticket); a.status != 204 {
		t.Errorf("the proxy's own name for us: %v", a)
	}

	// With all of it right, from a peer that nobody trusts, whatever it says of others.
	w.trust(r, apps, "192.0.2.0/24")
	judge("another peer", b.fetch("GET", "/bff/auth", append(slices.Clone(yes), "X-Forwarded-For: 192.0.2.7")...), 404, "no_route")
	if err := r.Swap(gateway.Served{Apps: apps, Keys: w.keys}); err != nil {
		t.Fatal(err)
	}
	judge("nobody is trusted", b.fetch("GET", "/bff/auth", yes...), 404, "no_route")

	// Where nothing is configured, an empty secret opens nothing.
	plain := newWorld(t)
	p := plain.browser(plain.trusting())
	p.login()
	judge("not configured", plain.raw(p.at, "POST /bff/auth HTTP/1.1\r\nHost: app.test\r\nX-BFF-Forward-Auth:\r\n"+strings.Join(without("X-BFF-Forward-Auth"), "\r\n")+"\r\nConnection: close\r\n\r\n"), 404, "no_route")
	judge("not configured, with a secret", p.fetch("GET", "/bff/auth", yes...), 404, "no_route")
	if line := w.log.find(authSecret); line != "" {
		t.Errorf("the secret is in the log: %s", line)
	}
}

// H-*: what the request was has one reading, or the answer is no. (Oauth2-proxy:
// GHSA-7x63-xv5r-3p2x, GHSA-7rh7-c77v-6434, GHSA-pxq7-h93f-9jrg. Traefik:
// GHSA-6384-m2mw-rf54, GHSA-5m6w-wvh7-57vm.)
func TestAuthOriginal(t *testing.T) {
	w := newWorld(t, elsewhere)
	r := w.trusting()
	b, stranger := w.browser(r), w.browser(r)
	b.login()
	for _, row := range []struct {
		name, method, uri string
		status            int
		code              string
	}{
		{"a route without forward_auth", "GET", "/api/x", 404, "no_route"},
		{"no route", "GET", "/else", 404, "no_route"},
		{"part of a segment", "GET", "/grafanax", 404, "no_route"},
		{"our own path", "GET", "/bff/token", 404, "no_route"},
		{"the check of a check", "GET", "/bff/auth", 404, "no_route"},
		{"dots", "GET", "/grafana/public/../x", 400, "invalid_request"},
		{"dots, encoded", "GET", "/grafana/public/%2e%2e/x", 400, "invalid_request"},
		{"an encoded slash", "GET", "/grafana/public%2f..%2fx", 400, "invalid_request"},
		{"two slashes", "GET", "//grafana/public", 400, "invalid_request"},
		{"a backslash", "GET", `/grafana\public`, 400, "invalid_request"},
		{"a parameter", "GET", "/grafana/public;/x", 400, "invalid_request"},
		{"a fragment", "GET", "/grafana/x#/public", 400, "invalid_request"},
		{"a fragment, encoded", "GET", "/grafana/x%23/public", 400, "invalid_request"},
		{"a whole URL", "GET", "https://app.test/grafana/public", 400, "invalid_request"},
		{"no slash", "GET", "grafana/public", 400, "invalid_request"},
		{"asterisk", "OPTIONS", "*", 400, "invalid_request"},
		{"two on a line", "GET", "/grafana/public, /grafana/x", 400, "invalid_request"},
		{"a lower-case method", "get", "/grafana/public", 400, "invalid_request"},
		{"two methods", "GET,POST", "/grafana/public", 400, "invalid_request"},
		{"TRACE", "TRACE", "/grafana/public", 405, "method_not_allowed"},
		{"CONNECT", "CONNECT", "/grafana/public", 405, "method_not_allowed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			want(t, b.check(row.method, row.uri), row.status, row.code)
		})
	}
	// Decided by path and method, by nothing else that a client may send.
	for _, row := range []struct {
		name   string
		uri    string
		header []string
	}{
		{"a public path in the query", "/grafana/x?/grafana/public", nil},
		{"an encoded letter", "/%67rafana/x", nil},
		{"X-Forwarded-Prefix", "/grafana/x", []string{"X-Forwarded-Prefix: /grafana/public"}},
		{"X-Original-URL", "/grafana/x", []string{"X-Original-URL: /grafana/public", "X-Rewrite-URL: /grafana/public", "X-Original-URI: /grafana/public"}},
		{"Forwarded", "/grafana/x", []string{"Forwarded: for=127.0.0.1;host=app.test;path=/grafana/public"}},
		{"X-HTTP-Method-Override", "/grafana/x", []string{"X-HTTP-Method-Override: OPTIONS"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			want(t, stranger.check("GET", row.uri, row.header...), 401, "login_required")
		})
	}
	// Said twice, or in a spelling that some servers take for the same.
	for _, row := range []struct{ name, lines string }{
		{"the path missing", "X-Forwarded-Method: GET"},
		{"the method missing", "X-Forwarded-Uri: /grafana/public"},
		{"the path empty", "X-Forwarded-Method: GET\r\nX-Forwarded-Uri:"},
		{"the path twice", "X-Forwarded-Method: GET\r\nX-Forwarded-Uri: /grafana/public\r\nX-Forwarded-Uri: /grafana/x"},
		{"the same path twice", "X-Forwarded-Method: GET\r\nX-Forwarded-Uri: /grafana/public\r\nX-Forwarded-Uri: /grafana/public"},
		{"the method twice", "X-Forwarded-Method: GET\r\nX-Forwarded-Method: POST\r\nX-Forwarded-Uri: /grafana/public"},
		{"the path with underscores", "X-Forwarded-Method: GET\r\nX-Forwarded-Uri: /grafana/x\r\nX_Forwarded_Uri: /grafana/public"},
		{"the method with dots", "X-Forwarded-Method: GET\r\nX-Forwarded-Uri: /grafana/public\r\nX.Forwarded.Method: POST"},
		{"the host with an underscore", "X-Forwarded-Method: GET\r\nX-Forwarded-Uri: /grafana/public\r\nX-Forwarded_Host: evil.test"},
		{"the secret with an underscore", "X-Forwarded-Method: GET\r\nX-Forwarded-Uri: /grafana/public\r\nX-BFF-Forward_Auth: x"},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := w.raw(r, "GET /bff/auth HTTP/1.1\r\nHost: app.test\r\nX-BFF-Forward-Auth: "+authSecret+"\r\nX-Forwarded-Host: app.test\r\n"+row.lines+"\r\nConnection: close\r\n\r\n")
			if code, _ := a.problem(); a.status != 400 || code != "invalid_request" {
				t.Errorf("%v: %s", a, a.body)
			}
		})
	}
}

// G-*: what the gateway would take out of a request, it can't take out of one that
// doesn't pass here. (Caddy: GHSA-7r4p-vjf4-gxv4, GHSA-f59h-q822-g45g.)
func TestAuthClaims(t *testing.T) {
	w := newWorld(t, elsewhere)
	other := w.app() // which may have upstreams in common
	other.Name, other.Origin = "other", &url.URL{Scheme: "https", Host: "other.test"}
	other.Routes = []gateway.Route{{Path: "/x", ForwardAuth: true, Headers: []gateway.ClaimHeader{{Name: "X-Other", Claim: "sub"}}}}
	b := w.browser(w.trusting(w.app(), other))
	b.login()
	token := b.fetch("POST", "/bff/token").field("access_token")
	for _, row := range []struct {
		name, uri, header string
		status            int
	}{
		{"who the user is", "/grafana/x", "X-User: root", 400},
		{"who the user is, where nobody asks", "/grafana/public/x", "X-User: root", 400},
		{"of another route", "/read/x", "X-Team: root", 400},
		{"of another app", "/read/x", "X-Other: root", 400},
		{"a claim that the user lacks", "/grafana/x", "X-Team: root", 400},
		{"with an underscore", "/grafana/x", "X_User: root", 400},
		{"with a dot", "/grafana/x", "x.user: root", 400},
		{"a token", "/grafana/x", "Authorization: Bearer " + token, 400},
		{"a token, where nobody asks", "/grafana/public/x", "Authorization: Bearer " + token, 400},
		{"a password", "/wiki/x", "Authorization: Basic YTpi", 400},
		{"another method", "/read/x", "X-HTTP-Method-Override: DELETE", 400},
		{"another method, underscores", "/read/x", "X_Method_Override: DELETE", 400},
		{"another method, where all may be", "/wiki/x", "X-HTTP-Method-Override: DELETE", 204},
	} {
		t.Run(row.name, func(t *testing.T) { want(t, b.check("GET", row.uri, row.header), row.status) })
	}

	// Where bearers are accepted, one decides alone.
	app := w.browser(b.at)
	app.passes(app.check("GET", "/either/x", "Authorization: Bearer "+token, "X-Bff:", "Sec-Fetch-Site: cross-site"), map[string]string{"Authorization": gatewaytest.SubjectOf("alice")})
	want(t, b.check("GET", "/either/x", "Authorization: Bearer x"+token), 401, "token_invalid")
	b.passes(b.check("GET", "/either/x"), map[string]string{"Authorization": gatewaytest.SubjectOf("alice")})
}

// E-*: the guards are the request's own.
func TestAuthGuards(t *testing.T) {
	w := newWorld(t, elsewhere)
	b := w.browser(w.trusting())
	b.login()
	socket := []string{"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"}
	foreign := []string{"X-Bff:", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Sec-Fetch-Site: cross-site"}
	for _, row := range []struct {
		name, method, uri string
		header            []string
		status            int
	}{
		{"another site's script", "GET", "/grafana/x", []string{"Sec-Fetch-Site: cross-site"}, 403},
		{"a sibling's script", "GET", "/grafana/x", []string{"Sec-Fetch-Site: same-site"}, 403},
		{"another site's form", "POST", "/grafana/x", []string{"X-Bff:", "Origin: https://evil.test", "Sec-Fetch-Site:"}, 403},
		{"no signal", "GET", "/grafana/x", []string{"X-Bff:", "Sec-Fetch-Site:"}, 403},
		{"no signal, POST", "POST", "/grafana/x", []string{"X-Bff:", "Sec-Fetch-Site:", "Origin:"}, 403},
		{"a navigation where none belongs", "GET", "/grafana/x", navigating, 403},
		{"a navigation by POST", "POST", "/wiki/x", foreign, 403},
		{"a link from elsewhere", "GET", "/wiki/x", foreign, 204},
		{"a frame of another site's", "GET", "/wiki/x", append(slices.Clone(foreign), "Sec-Fetch-Dest: iframe"), 403},
		{"a WebSocket", "GET", "/grafana/live", append([]string{"X-Bff:", "Origin: " + origin}, socket...), 204},
		{"a WebSocket of another site's", "GET", "/grafana/live", append([]string{"X-Bff:", "Origin: https://evil.test"}, socket...), 403},
		{"a WebSocket of nobody's", "GET", "/grafana/live", socket, 403},
		{"a WebSocket of another site's, page route", "GET", "/wiki/live", append([]string{"X-Bff:", "Origin: https://evil.test", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: websocket"}, socket...), 403},
	} {
		t.Run(row.name, func(t *testing.T) { want(t, b.check(row.method, row.uri, row.header...), row.status) })
	}
}

// A navigation that needs a login is told so by a page that goes there, and never by
// what a proxy takes for a yes, or for trouble.
func TestAuthNavigation(t *testing.T) {
	w := newWorld(t, elsewhere)
	b := w.browser(w.trusting())
	goesTo := func(a answer, path string) {
		t.Helper()
		m := refresh.FindStringSubmatch(a.body)
		if a.status != 401 || m == nil || m[1] != path {
			t.Errorf("%v: %s", a, a.body)
		}
	}
	goesTo(b.check("GET", "/wiki/x?y=z%20a", navigating...), "/bff/login?return_to=/wiki/x%3Fy%3Dz%2520a")
	want(t, b.check("GET", "/wiki//evil.test", navigating...), 400)

	// A link from elsewhere came without the Strict cookie: the same page again.
	link := append(slices.Clone(navigating), "Sec-Fetch-Site: cross-site")
	goesTo(b.check("GET", "/wiki/x?y=z", link...), "/wiki/x?y=z")
	b.login()
	b.passes(b.check("GET", "/wiki/x", navigating...), map[string]string{"X-User": gatewaytest.SubjectOf("alice")})

	// The loop breaker.
	w.redis.CLI("FLUSHALL")
	a := b.check("GET", "/wiki/x", navigating...)
	if want(t, a, 401); refresh.MatchString(a.body) || !strings.Contains(a.body, "login_required") {
		t.Error(a.body)
	}
	w.pass(31 * time.Second)
	goesTo(b.check("GET", "/wiki/x", navigating...), "/bff/login?return_to=/wiki/x")
	if a := b.check("POST", "/wiki/x", append(slices.Clone(navigating), "Sec-Fetch-Site: same-origin")...); a.status != 401 || refresh.MatchString(a.body) {
		t.Errorf("%v: %s", a, a.body)
	}
}

// A check changes nothing of the session but that its ticket was shown: nothing is
// refreshed, handed out, or kept alive.
func TestAuthChangesNothing(t *testing.T) {
	w := newWorld(t, elsewhere)
	b := w.browser(w.trusting())
	b.login()
	alice := gatewaytest.SubjectOf("alice")
	refreshes := func() int { return w.provider.Requests(gatewaytest.EndpointToken) }
	before := refreshes()

	w.pass(tokenLife - 10*time.Second) // due
	for range 3 {
		b.passes(b.check("GET", "/grafana/x"), map[string]string{"Authorization": alice, "X-User": alice})
	}
	w.pass(10 * time.Second) // out
	want(t, b.check("GET", "/grafana/x"), 401, "token_expired")
	want(t, b.check("GET", "/maybe-there/x"), 401, "token_expired")
	b.passes(b.check("GET", "/wiki/x"), map[string]string{"X-User": alice})
	if a := b.check("GET", "/board/x", navigating...); a.status != 401 || !strings.Contains(a.body, "/bff/login?return_to=/board/x") {
		t.Errorf("%v: %s", a, a.body)
	}
	want(t, b.check("GET", "/board/x"), 401, "token_expired")
	if n := refreshes() - before; n != 0 {
		t.Errorf("%d refreshes", n)
	}
	// The page does what it is told, and gets the ticket's successor.
	old := b.copy()
	if a := b.fetch("POST", "/bff/token"); a.status != 200 || !a.handsOut() {
		t.Fatal(a)
	}
	for _, each := range []*browser{b, old} {
		each.passes(each.check("GET", "/grafana/x"), map[string]string{"Authorization": alice, "X-User": alice})
	}
	// The old ticket's use after that is what it is everywhere.
	w.pass(grace + time.Second)
	want(t, old.check("GET", "/grafana/x"), 401, "login_required", "reuse_detected")

	b.login()
	for range 3 {
		w.pass(11 * time.Minute)
		a := b.check("GET", "/wiki/x")
		if a.status == 401 {
			want(t, a, 401, "login_required", "idle_timeout")
			return
		}
	}
	t.Error("checks keep a session alive")
}

// A request that comes here itself, to a route that another proxy serves, is told
// what a check would be, as browsers are told; and leads nowhere.
func TestAuthRouteAsked(t *testing.T) {
	w := newWorld(t, elsewhere)
	b := w.browser(w.trusting())
	want(t, b.fetch("GET", "/grafana/x"), 401, "login_required")
	if a := b.visit("/wiki/x", "none"); a.status != 404 || a.url.Path != "/wiki/x" || w.exchanges() != 1 {
		t.Errorf("%v: %s", a, a.body) // by way of the login
	}
	a := b.fetch("GET", "/grafana/x", checked("GET", "/grafana/x")...)
	want(t, a, 404, "no_route")
	tellsNothing(t, a)
	w.pass(tokenLife)
	want(t, b.fetch("GET", "/grafana/x"), 401, "token_expired")
	if len(w.upstream.requests()) != 0 {
		t.Errorf("%+v", w.upstream.requests())
	}
}

// Where another proxy serves all of an origin, our own paths are no part of it.
func TestAuthOfEverything(t *testing.T) {
	w := newWorld(t, func(a *gateway.App) {
		a.ForwardAuth, a.Routes = authSecret, []gateway.Route{{Path: "/", ForwardAuth: true, Auth: gateway.AuthNone}}
	})
	b := w.browser(w.trusting())
	b.passes(b.check("GET", "/x"), nil)
	for _, uri := range []string{"/bff/token", "/bff", "/bff/auth", "/bff/x"} {
		want(t, b.check("GET", uri), 404, "no_route")
	}
}

// In mint mode a token is made for each check, until the provider's last word is too
// old: then others may ask it again. Where there is nothing to ask with, the session's
// end is the only one.
func TestAuthMinted(t *testing.T) {
	for name, never := range map[string]bool{"with a refresh token": false, "without": true} {
		t.Run(name, func(t *testing.T) {
			w := newMintWorld(t, func(a *gateway.App) {
				a.ForwardAuth = authSecret
				a.Routes = append(a.Routes, gateway.Route{Path: "/grafana", ForwardAuth: true, Token: true})
			})
			w.provider = gatewaytest.Start(t, gatewaytest.Options{AutoLogin: gatewaytest.As("alice"), AccessLife: tokenLife, NoRefresh: never, Now: w.now})
			w.client = w.provider.Register(gatewaytest.Client{RedirectURIs: []string{origin + "/bff/callback"}})
			b := w.browser(w.trusting())
			b.login()
			if a := b.check("GET", "/grafana/x"); a.status != 204 || subject(a.header.Get("Authorization")) == "" {
				t.Fatal(a)
			}
			before := w.provider.Requests(gatewaytest.EndpointToken)
			w.pass(revalidate + revalidate/5 + mintLife)
			if a := b.check("GET", "/grafana/x"); never {
				want(t, a, 204)
			} else {
				want(t, a, 401, "token_expired")
			}
			if n := w.provider.Requests(gatewaytest.EndpointToken) - before; n != 0 {
				t.Errorf("%d refreshes", n)
			}
			want(t, b.fetch("POST", "/bff/token"), 200)
			want(t, b.check("GET", "/grafana/x"), 204)
		})
	}
}

func TestAuthDefinitions(t *testing.T) {
	w := newWorld(t)
	api := w.app().Routes[0].Upstream
	for name, route := range map[string]gateway.Route{
		"beside an upstream":  {Path: "/x", ForwardAuth: true, Upstream: api},
		"with a body's limit": {Path: "/x", ForwardAuth: true, MaxBody: 1},
		"with a prefix":       {Path: "/x", ForwardAuth: true, StripPrefix: "/x"},
		"with places":         {Path: "/x", ForwardAuth: true, MaxConcurrent: 1},
		"a token of nobody's": {Path: "/x", ForwardAuth: true, Auth: gateway.AuthNone, Token: true},
		"claims of nobody's":  {Path: "/x", ForwardAuth: true, Auth: gateway.AuthNone, Headers: []gateway.ClaimHeader{{Name: "X-User", Claim: "sub"}}},
	} {
		app := w.app()
		app.ForwardAuth, app.Routes = authSecret, []gateway.Route{route}
		if err := gateway.New(w.replica().keeper, gateway.Options{}).Swap(gateway.Served{Apps: []gateway.App{app}, Keys: w.keys}); err == nil {
			t.Error(name)
		}
	}
	app := w.app()
	app.Routes = []gateway.Route{{Path: "/x", ForwardAuth: true}}
	if err := gateway.New(w.replica().keeper, gateway.Options{}).Swap(gateway.Served{Apps: []gateway.App{app}, Keys: w.keys}); err == nil {
		t.Error("without a secret")
	}
	if s := gateway.AuthSecret(authSecret); strings.Contains(fmt.Sprintf("%v %+v %#v %s %q", s, s, s, s, s), authSecret) {
		t.Error("the secret prints")
	}
}
