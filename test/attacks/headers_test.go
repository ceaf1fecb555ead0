package attacks

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/test/rig"
)

// spoof is what no upstream may believe. It stands in headers that only the
// gateway sets, in all their spellings.
const spoof = "spoofed-8d1f"

// G: what a client says of itself doesn't reach an upstream, in no spelling and
// on no path, whatever the gateway has to say in its place.
func TestG(t *testing.T) {
	t.Parallel()
	a := newArena(t, setup{secure: true, byMethod: true})

	// believes fails if any upstream would take spoof for a trusted header's value.
	believes := func(c *row) {
		c.Helper()
		for _, r := range c.arrived() {
			for decoder, got := range c.decoders.read(r) {
				for _, name := range trusted {
					if v := got.Header[cgi(name)]; strings.Contains(v, spoof) {
						c.Errorf("%s believes %s: %q in %q", decoder, name, v, r.head)
					}
				}
			}
			if n := len(r.values("Authorization")); n > 1 {
				c.Errorf("the upstream got %d Authorization", n)
			}
			if v := r.values("X-Forwarded-Host"); len(v) != 1 || v[0] != "app.test" {
				c.Errorf("X-Forwarded-Host is %q", v)
			}
			if v := r.values("X-Forwarded-Proto"); len(v) != 1 || v[0] != "https" {
				c.Errorf("X-Forwarded-Proto is %q", v)
			}
			if v := r.values("X-Forwarded-For"); len(v) != 1 || v[0] != "127.0.0.1" {
				c.Errorf("X-Forwarded-For is %q", v)
			}
			if v := r.values("Host"); len(v) != 1 || v[0] != strings.TrimPrefix(c.up.url(), "http://") {
				c.Errorf("Host is %q", v)
			}
		}
	}
	// everywhere sends header lines to every kind of path.
	everywhere := func(c *row, lines string) {
		c.Helper()
		for _, target := range []string{"/public/x", "/app/x", "/maybe/x", "/svc-a/x", "/page/x", "/bff/session", "/bff/login", "/nowhere"} {
			c.send(get(target, lines))
			c.send(get(target, fetched, a.cookie("alice"), lines))
		}
	}

	a.row("G-01_plain_spoof", func(c *row) {
		for _, name := range trusted {
			everywhere(c, name+": "+spoof+"\r\n")
		}
		believes(c)
	})
	a.row("G-02_aliases", func(c *row) {
		for _, name := range trusted {
			if !strings.Contains(name, "-") {
				continue
			}
			var lines strings.Builder
			for _, spelling := range []string{
				strings.ReplaceAll(name, "-", "_"), strings.ReplaceAll(name, "-", "."), strings.Replace(name, "-", "_", 1), strings.ToLower(name),
				strings.ToUpper(strings.ReplaceAll(name, "-", "_")), strings.Replace(name, "-", ".", 1), strings.ToUpper(name),
			} {
				fmt.Fprintf(&lines, "%s: %s\r\n", spelling, spoof)
			}
			c.send(get("/public/x", lines.String()))
			c.send(get("/app/x", fetched, a.cookie("alice"), lines.String()))
			if !strings.Contains(lines.String(), "forwarded") { // HTTP/2's names are lower case
				continue
			}
			c.http2(fields("GET", "/public/x", field{strings.ToLower(strings.ReplaceAll(name, "-", "_")), spoof}, field{strings.ToLower(name), spoof}))
		}
		believes(c)
	})
	a.row("G-20_separators", func(c *row) {
		// All that may stand in a name is a "-" to some server.
		for _, name := range trusted {
			var lines strings.Builder
			for _, separator := range "!#$%&'*+^`|~" {
				if spelled := strings.ReplaceAll(name, "-", string(separator)); spelled != name {
					fmt.Fprintf(&lines, "%s: %s\r\n", spelled, spoof)
				}
			}
			c.want(c.send(get("/public/x", lines.String())), http.StatusOK, "")
			c.want(c.send(get("/app/x", fetched, a.cookie("alice"), lines.String())), http.StatusOK, "")
		}
		believes(c)
	})
	a.row("G-21_method_override", func(c *row) {
		// Of a route that is for some methods, no header makes one for others.
		for _, name := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X_HTTP_Method_Override", "X.HTTP.Method", "x-method~override"} {
			c.want(c.send(post("/by-method/x", "", name+": DELETE\r\n")), http.StatusOK, "")
		}
		c.want(c.send(request("DELETE", "/by-method/x", fetched)), http.StatusUnauthorized, "login_required")
		for _, r := range c.arrived() {
			if r.method != "POST" || strings.Contains(r.head, "DELETE") {
				c.Errorf("the upstream got %q", r.head)
			}
		}
	})
	a.row("G-22_connection_flood", func(c *row) {
		// To look for each field among what Connection names is work for each pair.
		var names strings.Builder
		for i := range 2500 {
			fmt.Fprintf(&names, "%c%c%c:\r\n", 'a'+i%26, 'a'+i/26%26, 'a'+i/676)
		}
		before := a.usage().cpu
		for range 20 {
			c.want(c.send(get("/public/x", "Connection: "+strings.Repeat("a,", 7000)+"\r\n", names.String())), http.StatusOK, "")
		}
		if spent := a.usage().cpu - before; spent > 1.5 {
			c.Errorf("20 requests took %.2f s of CPU", spent)
		}
	})
	a.row("G-02_malformed_names", func(c *row) {
		for _, l := range []string{
			"X-Forwarded-User : " + spoof, "X–Forwarded-User: " + spoof, "X-Forwarded-User\t: " + spoof,
			"X-Forwarded-User\x00: " + spoof, "X-Forwarded-\xffUser: " + spoof, ": " + spoof, "X-Forwarded-User", "X Forwarded-User: " + spoof, "X-Forwarded-User;: " + spoof,
			"X-Forwarded-User: a\x00" + spoof, "X-Forwarded-User: a\r" + spoof, "(X-Forwarded-User): " + spoof, "\"X-Forwarded-User\": " + spoof, "\x0bX-Forwarded-User: " + spoof,
		} {
			c.want(c.send("GET /public/x HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n"+l+"\r\n\r\n"), http.StatusBadRequest, "")
			c.want(c.send("GET /public/x HTTP/1.1\r\nHost: app.test\r\nX: y\r\nConnection: close\r\n"+l+"\r\n\r\n"), http.StatusBadRequest, "")
		}
		c.untouched()
	})
	a.row("G-02_folded_lines", func(c *row) {
		// One line to the letter, and none of its own to anybody.
		c.send(get("/public/x", "X-Note: a\r\n X-Forwarded-User: "+spoof+"\r\n"))
		c.send(get("/public/x", "X-Note: a\r\n\tAuthorization: Bearer "+spoof+"\r\n"))
		c.send("GET /public/x HTTP/1.1\nHost: app.test\nConnection: close\nX-Forwarded-User: " + spoof + "\n\n")
		c.send("GET /public/x HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n X-Forwarded-User: " + spoof + "\r\n\r\n")
		c.send("GET /public/x HTTP/1.1\r\nHost: app.test\r\n\tX-Forwarded-User: " + spoof + "\r\nConnection: close\r\n\r\n")
		c.send("GET /public/x HTTP/1.1\r\n X-Forwarded-User: " + spoof + "\r\nHost: app.test\r\nConnection: close\r\n\r\n")
		believes(c)
	})

	a.row("G-04_connection_names", func(c *row) {
		for _, value := range []string{
			"close, Authorization", "close, X-Forwarded-For, X-Forwarded-User, Cookie, Host", "close, X-BFF-User", "close, X-Forwarded-Host, X-Forwarded-Proto",
			"close, traceparent", "close,authorization,x-forwarded-for", "close, Authorization\r\nConnection: X-Forwarded-Proto", "\r\nConnection: close, X-Forwarded-For",
			"close, Content-Length", "close, Transfer-Encoding", "close;Authorization", "close, \"Authorization\"", "close,,,Authorization,", "close, X-Bff, Sec-Fetch-Site, Origin",
		} {
			x := c.send("GET /app/x HTTP/1.1\r\nHost: app.test\r\nConnection: " + value + "\r\n" + fetched + a.cookie("alice") + "X-Forwarded-User: " + spoof + "\r\n\r\n")
			c.want(x, http.StatusOK, "")
		}
		for _, name := range []string{"Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Upgrade", "Proxy-Authenticate"} {
			c.send(get("/app/x", fetched, a.cookie("alice"), name+": Authorization, X-Forwarded-For\r\n"))
		}
		for _, r := range c.arrived() {
			if r.sub() == "" {
				c.Errorf("the bearer is gone: %q", r.head)
			}
			for _, name := range []string{"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Upgrade", "Proxy-Authenticate"} {
				if v := r.values(name); len(v) > 0 {
					c.Errorf("%s: %q is hop by hop", name, v)
				}
			}
		}
		believes(c)
	})
	a.row("G-06_duplicate_authorization", func(c *row) {
		for _, lines := range []string{
			"Authorization: Bearer a\r\nAuthorization: Bearer " + spoof + "\r\n", "Authorization: Bearer a, Bearer " + spoof + "\r\n", "Authorization:\r\n", "authorization: " + spoof + "\r\n",
			"Proxy-Authorization: Basic " + spoof + "\r\nAuthorization: Basic " + spoof + "\r\n", "AUTHORIZATION: Bearer " + spoof + "\r\nAuthorization_: " + spoof + "\r\n",
			"Authorization: NTLM " + spoof + "\r\n", "DPoP: " + spoof + "\r\n",
		} {
			c.want(c.send(get("/app/x", fetched, a.cookie("alice"), lines)), http.StatusOK, "")
			c.want(c.send(get("/app/x", fetched, lines)), http.StatusUnauthorized, "login_required")
			c.want(c.send(get("/public/x", lines)), http.StatusOK, "")
		}
		for _, r := range c.arrived() {
			if v := r.values("Authorization"); strings.HasPrefix(r.target, "/public") && len(v) > 0 || strings.HasPrefix(r.target, "/app") && len(v) != 1 {
				c.Errorf("%s: Authorization %d times", r.target, len(v))
			}
		}
		believes(c)
	})
	a.row("G-07_cookies", func(c *row) {
		own := rig.SessionCookie + "=" + a.user("alice").Cookie()
		for _, test := range []struct{ sent, want string }{
			{"foo=1; " + own + "; bar=2", "foo=1; bar=2"},
			{own, ""},
			{own + "; foo=1", "foo=1"},
			{"foo=1; ; bar=2; " + own, "foo=1; ; bar=2"},
			{"a=\"x; " + own + "; y\"", "a=\"x; y\""},
			{"foo=1;" + own + ";bar=2", "foo=1;bar=2"},
			{"foo=1;\t" + own + "\t;\tbar=2", "foo=1;\tbar=2"},
			{"foo=1\r\nCookie: " + own + "\r\nCookie: bar=2", "foo=1|bar=2"},
			{own + "; __Host-cloakroom-login-x=1; __Host-cloakroom-landed=1; __Host-cloakroom-device=y; z", "z"},
			{own + "; __HOST-CLOAKROOM-LOGIN-x=1; cloakroom=2; __Secure-cloakroom=3; __Http-cloakroom=5; q==;", "q==;"},
			{own + "; =__Host-Http-cloakroom=x; foo=1", "foo=1"},
			{own + "; foo=__Host-Http-cloakroom=x; foo2=1", "foo=__Host-Http-cloakroom=x; foo2=1"},
			{own + "; xcloakroom=1; cloakroomx=2", "xcloakroom=1; cloakroomx=2"},
			{own + ";" + strings.Repeat(" a=1;", 50), strings.TrimPrefix(strings.Repeat(" a=1;", 50), " ")},
			{own + "; \x80\xff=\xfe", "\x80\xff=\xfe"},
		} {
			mark := c.up.mark()
			x := c.send(get("/app/x", fetched, "Cookie: "+test.sent+"\r\n"))
			if x.status() != http.StatusOK {
				c.Errorf("Cookie: %q: %v", test.sent, x)
				continue
			}
			if got := strings.Join(c.up.since(mark)[0].values("Cookie"), "|"); got != strings.TrimRight(test.want, " ") {
				c.Errorf("Cookie: %q: the upstream got %q, want %q", test.sent, got, test.want)
			}
		}
		// HTTP/2's crumbs.
		mark := c.up.mark()
		crumbs := append(fields("GET", "/app/x", fetchedFields...), field{"cookie", "foo=1"}, a.cookieField("alice"), field{"cookie", "bar=2"})
		if got := c.http2(crumbs); got.status() != http.StatusOK {
			c.Errorf("crumbs: %d", got.status())
		} else if v := strings.Join(c.up.since(mark)[0].values("Cookie"), "; "); v != "foo=1; bar=2" {
			c.Errorf("crumbs: the upstream got %q", v)
		}
		// One cookie in two crumbs is no cookie.
		half := a.cookieField("alice").value
		c.http2(append(fields("GET", "/app/x", fetchedFields...), field{"cookie", half[:40]}, field{"cookie", half[40:]}))
		for _, r := range c.arrived() {
			if strings.Contains(r.head, rig.SessionCookie+"=MT") {
				c.Errorf("the upstream got our cookie: %q", r.head)
			}
		}
	})

	a.row("G-08_forwarded_for", func(c *row) {
		for _, lines := range []string{
			"X-Forwarded-For: 203.0.113.7\r\n", "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 198.51.100.1\r\n", "X-Forwarded-For: " + strings.Repeat("203.0.113.7, ", 800) + "1.2.3.4\r\n",
			"X-Forwarded-For: fe80::1%eth0\r\n", "X-Forwarded-For: unix:\r\n", "X-Forwarded-For: 127.0.0.1\r\n", "Forwarded: for=203.0.113.7;host=evil.test;proto=http\r\n",
			"X_Forwarded_For: 203.0.113.7\r\n", "X-Forwarded-Host: evil.test\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 1\r\n", "X-Real-IP: 203.0.113.7\r\n",
		} {
			c.want(c.send(get("/public/x", lines)), http.StatusOK, "")
		}
		believes(c) // "127.0.0.1", once
		for _, r := range c.arrived() {
			if strings.Contains(r.head, "203.0.113.7") || strings.Contains(r.head, "evil.test") {
				c.Errorf("the upstream got %q", r.head)
			}
		}
	})
	a.row("G-08_trusted_proxy", func(c *row) {
		a.w.Config.Set("trusted_proxies", []any{"127.0.0.1"})
		delete(a.w.Config, "tls")
		n := len(a.w.Gateways)
		behind := a.w.Start()
		behind.WaitReady()
		a.w.Gateways = a.w.Gateways[:n]
		for _, test := range []struct{ sent, want string }{
			{"X-Forwarded-For: 203.0.113.7\r\n", "203.0.113.7, 127.0.0.1"},
			{"X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 198.51.100.1\r\n", "203.0.113.7, 198.51.100.1, 127.0.0.1"},
			{"", "127.0.0.1"},
			{"X_Forwarded_For: " + spoof + "\r\n", "127.0.0.1"},
			{"Forwarded: for=203.0.113.7\r\nX-Forwarded-Host: evil.test\r\nX-Forwarded-Proto: http\r\n", "127.0.0.1"},
			{"Connection: X-Forwarded-For\r\nX-Forwarded-For: 203.0.113.7\r\n", "203.0.113.7, 127.0.0.1"},
		} {
			mark := c.up.mark()
			c.want(c.sendTo(behind.Public, nil, get("/public/x", test.sent)), http.StatusOK, "")
			for _, r := range c.up.since(mark) {
				if v := r.values("X-Forwarded-For"); len(v) != 1 || v[0] != test.want {
					c.Errorf("%q: X-Forwarded-For is %q, want %q", test.sent, v, test.want)
				}
				if strings.Contains(r.head, "evil.test") || strings.Contains(r.head, spoof) {
					c.Errorf("%q: the upstream got %q", test.sent, r.head)
				}
			}
		}
		behind.Terminate()
	})
	a.row("G-24_another_apps_identity", func(c *row) {
		// What an app's upstreams are told of its users, they aren't told by the clients of
		// another app: the two may have upstreams in common.
		apps := a.w.Config["apps"].([]any)
		other := maps.Clone(apps[0].(map[string]any))
		other["name"], other["origin"] = "other", "https://other.test"
		other["routes"] = []any{map[string]any{"path": "/told", "upstream": a.up.url(), "headers": map[string]any{"X-Told": "sub"}}}
		a.w.Config["apps"] = append(slices.Clone(apps), other)
		tls := a.w.Config["tls"]
		delete(a.w.Config, "tls")
		n := len(a.w.Gateways)
		both := a.w.Start()
		both.WaitReady()
		a.w.Gateways, a.w.Config["apps"], a.w.Config["tls"] = a.w.Gateways[:n], apps, tls
		for _, target := range []string{"/public/x", "/app/x", "/maybe/x", "/page/x"} {
			for _, name := range []string{"X-Told", "X_Told", "x.told"} {
				c.want(c.sendTo(both.Public, nil, get(target, fetched, a.cookie("alice"), name+": "+spoof+"\r\n")), http.StatusOK, "")
			}
		}
		for _, r := range c.arrived() {
			if strings.Contains(r.head, spoof) {
				c.Errorf("the upstream got %q", r.head)
			}
		}
		both.Terminate()
	})
	a.row("G-09_policy_headers", func(c *row) {
		for _, l := range []string{
			"X-Forwarded-Uri: /public/x", "X-Original-URL: /public/x", "X-Rewrite-URL: /public/x", "X-Forwarded-Prefix: /public", "X-HTTP-Method-Override: OPTIONS",
			"X-Original-URI: /public/x", "X-Forwarded-Method: OPTIONS", "X-Original-Method: OPTIONS", "X-Forwarded-Path: /public/x", "X-Envoy-Original-Path: /public/x",
			"X-Method-Override: GET", "X-Forwarded-Host: other.test", "X-Host: other.test", "X-Forwarded-Server: other.test", "X-Accel-Redirect: /public/x",
		} {
			c.want(c.send(get("/app/admin/x", fetched, l+"\r\n")), http.StatusUnauthorized, "login_required")
			c.want(c.send(get("/app/admin/x", fetched, a.cookie("bob"), l+"\r\n")), http.StatusForbidden, "access_denied")
		}
		c.want(c.send("GET /app/admin/x HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n"), http.StatusForbidden, "cross_origin_blocked")
		if n := len(c.arrived()); n > 0 {
			c.Errorf("the upstream got %d requests", n)
		}
	})
	a.row("G-10_special_clients", func(c *row) {
		for _, agent := range []string{"kube-probe/1.0", "GoogleHC/1.0", "ELB-HealthChecker/2.0", "Googlebot/2.1", "curl/8", "", "Amazon-Route53-Health-Check-Service", "Mozilla/5.0 (compatible; UptimeRobot/2.0)"} {
			for _, target := range []string{"/app", "/app/healthz", "/app/ping", "/app/ready"} {
				c.want(c.send(get(target, fetched, "User-Agent: "+agent+"\r\n")), http.StatusUnauthorized, "login_required")
			}
		}
		for _, target := range []string{"/healthz", "/readyz", "/metrics", "/ping", "/debug/pprof/"} {
			if x := c.send(get(target)); x.final().Header.Get("X-Upstream-Sub") != "" || strings.Contains(string(x.got), "go_goroutines") {
				c.Errorf("%s: %v", target, x)
			}
		}
	})
	a.row("G-13_quantity", func(c *row) {
		for name, lines := range map[string]string{
			"10 000 headers": strings.Repeat("X-A: b\r\n", 10000), "1 MiB": "X-A: " + strings.Repeat("b", 1<<20) + "\r\n", "65 KiB": "X-A: " + strings.Repeat("b", 65<<10) + "\r\n",
			"a long name": strings.Repeat("X", 65<<10) + ": b\r\n", "a long target": "", "a cookie of 64 KiB": "Cookie: a=" + strings.Repeat("b", 64<<10) + "\r\n",
			"10 000 cookies": strings.Repeat("Cookie: a=b\r\n", 10000), "folded without end": "X-A: b\r\n" + strings.Repeat(" b\r\n", 30000),
		} {
			text := get("/public/x", lines)
			if name == "a long target" {
				text = get("/public/" + strings.Repeat("x", 65<<10))
			}
			x := c.send(text)
			if s := x.status(); s != http.StatusRequestHeaderFieldsTooLarge && !(s == 0 && x.reset) {
				c.Errorf("%s: %v, want 431", name, x)
			}
		}
		c.untouched()
	})
	a.row("G-14_http2", func(c *row) {
		with := func(more ...field) []field { return fields("GET", "/public/x", more...) }
		for name, head := range map[string][]field{
			"a pseudo-header late":  {{":method", "GET"}, {":scheme", "https"}, {":path", "/public/x"}, {"x-note", "1"}, {":authority", "app.test"}},
			"two paths":             with(field{":path", "/app/admin"}),
			"two methods":           with(field{":method", "POST"}),
			"an unknown pseudo":     with(field{":status", "200"}),
			"connection":            with(field{"connection", "x-forwarded-for"}),
			"transfer-encoding":     with(field{"transfer-encoding", "chunked"}),
			"keep-alive":            with(field{"keep-alive", "1"}),
			"proxy-connection":      with(field{"proxy-connection", "close"}),
			"upgrade":               with(field{"upgrade", "websocket"}),
			"te: gzip":              with(field{"te", "gzip"}),
			"an upper-case name":    with(field{"X-Note", "1"}),
			"a space in a name":     with(field{"x note", "1"}),
			"a colon in a name":     with(field{"x:note", "1"}),
			"CRLF in a value":       with(field{"x-note", "a\r\nx-forwarded-user: " + spoof}),
			"LF in a value":         with(field{"x-note", "a\nx-forwarded-user: " + spoof}),
			"NUL in a value":        with(field{"x-note", "a\x00"}),
			"CRLF in the path":      fields("GET", "/public/x\r\nX-Forwarded-User: "+spoof),
			"a space in the path":   fields("GET", "/public/x HTTP/1.1"),
			"an empty path":         fields("GET", ""),
			"a path without slash":  fields("GET", "public/x"),
			"an absolute path":      fields("GET", "https://app.test/public/x"),
			"a space in the method": fields("GET /app/admin", "/public/x"),
			"an empty method":       fields("", "/public/x"),
			"no scheme":             {{":method", "GET"}, {":path", "/public/x"}, {":authority", "app.test"}},
			"another host":          {{":method", "GET"}, {":scheme", "https"}, {":path", "/public/x"}, {":authority", "evil.test"}, {"host", "app.test"}},
			"userinfo":              {{":method", "GET"}, {":scheme", "https"}, {":path", "/public/x"}, {":authority", "u:p@app.test"}},
			"CRLF in the authority": {{":method", "GET"}, {":scheme", "https"}, {":path", "/public/x"}, {":authority", "app.test\r\nX: y"}},
		} {
			switch s := c.http2(head).status(); {
			case s >= 400 && s < 500, s == 0:
			default:
				c.Errorf("%s: %d", name, s)
			}
		}
		c.untouched()
		// :authority is the host; "host" beside it, if it differs, is nobody's.
		got := c.http2(append(with(), field{"host", "evil.test"}))
		if s := got.status(); s == http.StatusOK {
			for _, r := range c.arrived() {
				if strings.Contains(r.head, "evil.test") {
					c.Errorf("the upstream got %q", r.head)
				}
			}
		}
		// CONNECT, with and without a protocol (RFC 8441).
		for _, head := range [][]field{
			{{":method", "CONNECT"}, {":authority", "app.test:443"}},
			{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":path", "/app/x"}, {":authority", "app.test"}},
		} {
			if s := c.http2(head).status(); s != http.StatusMethodNotAllowed && s != http.StatusMisdirectedRequest && s != 0 && s != http.StatusBadRequest {
				c.Errorf("CONNECT: %d", s)
			}
		}
	})
	a.row("G-23_http2_two_readings", func(c *row) {
		// What HTTP/1.1 can't say, or net/http lets pass (RFC 9113 sections 8.1.1, 8.3.1).
		with := func(more ...field) []field { return fields("GET", "/public/x", more...) }
		for name, head := range map[string][]field{
			"another host":             with(field{"host", "evil.test"}),
			"two hosts":                with(field{"host", "app.test"}, field{"host", "app.test"}),
			"hosts without authority":  {{":method", "GET"}, {":scheme", "https"}, {":path", "/public/x"}, {"host", "app.test"}, {"host", "evil.test"}},
			"a length and no body":     with(field{"content-length", "5"}),
			"a length beyond counting": with(field{"content-length", "99999999999999999999"}),
		} {
			if s := c.http2(head).status(); s != 400 && s != 421 && s != 0 {
				c.Errorf("%s: %d", name, s)
			}
		}
		for _, length := range []string{"99999999999999999999", "18446744073709551615", "9223372036854775808"} {
			if s := c.http2(fields("POST", "/public/x", field{"content-length", length}), "hello").status(); s != 400 && s != 0 {
				c.Errorf("a length of %s: %d", length, s)
			}
		}
		c.untouched()
		for name, head := range map[string][]field{
			"the same host": with(field{"host", "app.test"}), "length 0": with(field{"content-length", "0"}),
			"host alone": {{":method", "GET"}, {":scheme", "https"}, {":path", "/public/x"}, {"host", "app.test"}},
		} {
			if s := c.http2(head).status(); s != 200 {
				c.Errorf("%s: %d", name, s)
			}
		}
		if s := c.http2(fields("POST", "/public/x", field{"content-length", "5"}), "hello").status(); s != 200 {
			c.Errorf("a length that is so: %d", s)
		}
	})
	a.row("G-15_early_data", func(c *row) {
		c.want(c.send(post("/app/x", "x", fetched, a.cookie("alice"), "Early-Data: 1\r\n")), http.StatusOK, "")
		for _, r := range c.arrived() {
			if v := r.values("Early-Data"); len(v) > 0 {
				c.Errorf("Early-Data: %q", v)
			}
		}
	})
	a.row("G-17_responses", func(c *row) {
		names := []string{"Authorization", "X-Forwarded-Access-Token", "X-Forwarded-User", "X-Auth-Request-Access-Token", "DPoP", "X-BFF", "X-BFF-User", "Secure-Session-Registration", "X_Forwarded_Access_Token", "Forwarded", "Clear-Site-Data", "Alt-Svc", "Alt_Svc"}
		var lines strings.Builder
		for _, name := range names {
			lines.WriteString(name + ": " + spoof + "\r\n")
		}
		c.up.teach("identity", wire("HTTP/1.1 103 Early Hints\r\n"+lines.String()+"\r\nHTTP/1.1 200 OK\r\n"+lines.String()+"Trailer: Authorization, Clear-Site-Data\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"+lines.String()+"\r\n", true))
		x := c.send(get("/app/x?do=identity", fetched, a.cookie("alice")))
		c.want(x, http.StatusOK, "")
		if strings.Contains(string(x.got), spoof) {
			c.Errorf("the client got %q", x.got)
		}
		got := c.http2(append(fields("GET", "/app/x?do=identity", fetchedFields...), a.cookieField("alice")))
		for name, v := range got.Header {
			if slices.Contains(v, spoof) {
				c.Errorf("HTTP/2: the client got %s", name)
			}
		}
	})
}

// targetedRow is K's.
func targetedRow(a *arena) {
	a.row("K-20_targeted_fields", func(c *row) {
		// Who heeds one of RFC 9213's doesn't look at Cache-Control. In it, too, an answer
		// to a request with Authorization is for all only if it says so.
		for i, test := range []struct{ name, sent, want string }{
			{"CDN-Cache-Control", "max-age=600", "max-age=600, private"}, {"Cloudflare-CDN-Cache-Control", "max-age=600", "max-age=600, private"}, {"cdn-cache-control", "no-cache", "no-cache, private"},
			{"CDN-Cache-Control", "public, max-age=600", "public, max-age=600"}, {"CDN-Cache-Control", "s-maxage=600", "s-maxage=600"}, {"CDN-Cache-Control", "private", "private"}, {"CDN-Cache-Control", "no-store", "no-store"},
			{"CDN-Cache-Control", "must-revalidate\r\nCDN-Cache-Control: max-age=5", "must-revalidate, max-age=5, private"},
		} {
			name := fmt.Sprintf("targeted%d", i)
			c.up.teach(name, wire("HTTP/1.1 200 OK\r\nCache-Control: public, max-age=0\r\n"+test.name+": "+test.sent+"\r\nContent-Length: 2\r\n\r\nok", true))
			for _, target := range []string{"/app/x", "/maybe/x", "/page/x"} {
				h := c.send(get(target+"?do="+name, fetched, a.cookie("alice"))).final().Header
				if got := strings.Join(h.Values(test.name), ", "); got != test.want && h.Get("Cache-Control") != "no-store" { // with a successor
					c.Errorf("%s: %s: %q became %q, want %q", target, test.name, test.sent, got, test.want)
				}
			}
			if got := c.send(get("/public/x?do="+name, fetched)).final().Header.Values(test.name); strings.Join(got, "\r\n"+test.name+": ") != test.sent { // nobody's
				c.Errorf("%s: %q became %q", test.name, test.sent, got)
			}
		}
	})
}
