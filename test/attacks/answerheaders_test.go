package attacks

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/cloakroom/cloakroom/test/rig"
)

// answerHeaderRows are about what its header, and its trailers, say.
func answerHeaderRows(a *arena) {
	a.row("R-01_our_cookies", func(c *row) {
		for i, cookie := range []string{
			rig.SessionCookie + "=x", rig.SessionCookie + "=; Max-Age=0", "cloakroom=x; Domain=app.test", "__host-http-CLOAKROOM=x", "__Host-cloakroom-login-0123=x", rig.SessionCookie + " =x",
			" " + rig.SessionCookie + "=x", "=" + rig.SessionCookie + "=x", "= " + rig.SessionCookie + "=x", "\t" + rig.SessionCookie + "\t=x", rig.SessionCookie, rig.SessionCookie + "; Path=/", "__Host-cloakroom-landed=1",
			"__Host-cloakroom-logout=x", "__Secure-Http-cloakroom=x", "__Host-Http-cloakroom=x, a=b", "__Host-cloakroom-device=x", "__HOST-HTTP-CLOAKROOM=y; Secure; Path=/", "__Http-cloakroom=1",
			"==" + rig.SessionCookie + "=x", "__Host-Http-cloakroom\x01=x",
		} {
			name := fmt.Sprintf("cookie%d", i)
			lines := "Set-Cookie: a=1\r\nSet-Cookie: " + cookie + "\r\nset-cookie: b=2; Path=/; HttpOnly\r\nSet_Cookie: " + cookie + "\r\n"
			c.up.teach(name, wire("HTTP/1.1 103 Early Hints\r\n"+lines+"\r\n"+"HTTP/1.1 200 OK\r\n"+lines+"Trailer: Set-Cookie\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"+lines+"\r\n", true))
			for _, target := range []string{"/app/x", "/public/x"} {
				x := c.send(get(target+"?do="+name, fetched, a.cookie("alice")))
				if x.status() >= 500 && strings.ContainsAny(cookie, "\x01") {
					continue // no header to the gateway, either
				}
				if strings.Contains(strings.ToLower(string(x.got)), "cloakroom") {
					c.Errorf("%q passes: %q", cookie, x.got)
				}
				if got := x.final().Header["Set-Cookie"]; len(got) != 2 || got[0] != "a=1" || got[1] != "b=2; Path=/; HttpOnly" {
					c.Errorf("%q: the others are %q", cookie, got)
				}
			}
			got := c.http2(append(fields("GET", "/app/x?do="+name, fetchedFields...), a.cookieField("alice")))
			if got != nil && strings.Contains(strings.ToLower(fmt.Sprint(got.Header)), "cloakroom") {
				c.Errorf("HTTP/2: %q passes: %v", cookie, got.Header)
			}
		}
	})
	a.row("R-20_our_cookies_over_TLS", func(c *row) {
		// Another client speaks to an upstream over TLS: what its parser lets pass
		// must be nothing to a browser either.
		for i, cookie := range []string{
			rig.SessionCookie + "=x", "\r" + rig.SessionCookie + "=x", "\x0b" + rig.SessionCookie + "=x", "\x00" + rig.SessionCookie + "=x", "a=1\rSet-Cookie: " + rig.SessionCookie + "=x", "\r\n " + rig.SessionCookie + "=x",
			"\r\n\t" + rig.SessionCookie + "=x; Secure; Path=/", rig.SessionCookie + "\x00=x", rig.SessionCookie + "\r=x", "__Host-cloakroom-\r\n landed=1",
		} {
			name := fmt.Sprintf("cookie%d", i)
			lines := "Set-Cookie: a=1\r\nSet-Cookie: " + cookie + "\r\n"
			text := "HTTP/1.1 103 Early Hints\r\n" + lines + "\r\n" + "HTTP/1.1 200 OK\r\n" + lines + "Trailer: Set-Cookie\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n" + lines + "\r\n"
			a.teachBoth(name, wire(text, false))
			for _, target := range []string{"/over-tls/x", "/app/x"} {
				if x := c.send(get(target+"?do="+name, fetched, a.cookie("alice"))); strings.Contains(strings.ToLower(string(x.got)), rig.SessionCookie) || strings.Contains(string(x.got), "__Host-cloakroom") {
					c.Errorf("%s: %q passes: %q", target, cookie, x.got)
				}
			}
		}
	})
	a.row("R-03_headers_of_the_origin", func(c *row) {
		stays := map[string]string{"Strict-Transport-Security": "max-age=0", "Service-Worker-Allowed": "/", "Refresh": "0;url=//evil.test", "Report-To": "{}", "Nel": "{}", "X-Note": "y"}
		goes := []string{"Alt-Svc", "Clear-Site-Data", "alt_svc", "CLEAR-SITE-DATA", "Clear.Site.Data"}
		var lines strings.Builder
		for name, value := range stays {
			fmt.Fprintf(&lines, "%s: %s\r\n", name, value)
		}
		for _, name := range goes {
			fmt.Fprintf(&lines, "%s: %s\r\n", name, spoof)
		}
		c.up.teach("origin", wire(okAnswer(lines.String(), "ok"), true))
		x := c.asks("origin")
		for name := range stays {
			if name != "Strict-Transport-Security" && x.final().Header.Get(name) == "" {
				c.Errorf("%s is gone: the operator chose the upstream (gateway/proxy's package comment)", name)
			}
		}
		if strings.Contains(string(x.got), spoof) {
			c.Errorf("passed: %q", x.got)
		}
	})
	a.row("R-24_named_by_connection", func(c *row) {
		// What an upstream says about its own connection goes no further, and takes along
		// nothing that the gateway says.
		c.up.teach("named", wire("HTTP/1.1 200 OK\r\nConnection: X-Note, Cache-Control, Set-Cookie, Content-Type, Strict-Transport-Security, Content-Length, Date\r\nX-Note: "+spoof+"\r\nKeep-Alive: timeout=1\r\nProxy-Connection: close\r\n"+
			"Upgrade: h2,h2c\r\nProxy-Authenticate: Basic\r\nTE: trailers\r\nCache-Control: public\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nok", true))
		for _, target := range []string{"/app/x", "/public/x"} {
			x := c.send("GET " + target + "?do=named HTTP/1.1\r\nHost: app.test\r\n" + fetched + a.cookie("alice") + "\r\n")
			c.want(x, http.StatusOK, "")
			for _, name := range []string{"Keep-Alive", "Proxy-Connection", "Upgrade", "Proxy-Authenticate", "Te", "X-Note", "Connection"} {
				if strings.Contains(strings.ToLower(string(x.got)), "\r\n"+strings.ToLower(name)+":") {
					c.Errorf("%s: %s passes: %q", target, name, x.got)
				}
			}
			if string(x.final().Body) != "ok" || x.final().Cut {
				c.Errorf("%q", x.got)
			}
			if cc := x.final().Header.Get("Cache-Control"); target == "/app/x" && cc != "private" && cc != "no-store" {
				c.Errorf("Cache-Control is %q", cc)
			}
		}
	})
	a.row("R-12_reflected_token", func(c *row) {
		// Nobody can keep an upstream from showing its caller the bearer. What can be
		// done: a route without a token has none to show.
		c.secretsIn = true
		c.up.teach("echo", func(s *served) bool {
			io.WriteString(s.conn, okAnswer("Cache-Control: no-store\r\n", s.head))
			return true
		})
		for _, target := range []string{"/public/x", "/svc-a/x", "/maybe/x"} {
			x := c.send(get(target+"?do=echo", fetched))
			if strings.Contains(strings.ToLower(string(x.final().Body)), "authorization") {
				c.Errorf("%s has a bearer: %q", target, x.final().Body)
			}
		}
		if x := c.send(get("/public/x?do=echo", fetched, a.cookie("alice"))); strings.Contains(string(x.final().Body), "Bearer") {
			c.Errorf("a public route has a bearer: %q", x.final().Body)
		}
	})
	a.row("R-21_what_it_sends_is_not_logged", func(c *row) {
		// An upstream that breaks down may have the bearer on its lips.
		const secret = "said-by-upstream-77d1"
		for name, text := range map[string]string{
			"no colon": "HTTP/1.1 200 OK\r\nAuthorization Bearer " + secret + "\r\n\r\n", "status": "HTTP/1.1 " + secret + " OK\r\n\r\n", "version": secret + " 200 OK\r\n\r\n",
			"coding": "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + secret + "\r\n\r\n", "length": "HTTP/1.1 200 OK\r\nContent-Length: " + secret + "\r\n\r\n", "no HTTP": secret + "\r\n\r\n",
			"trailer": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n" + secret + "\r\n\r\n", "chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + secret + "\r\nok\r\n0\r\n\r\n",
			"bad trailer": "HTTP/1.1 200 OK\r\nTrailer: Content-Length, " + secret + "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "switch": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: " + secret + "\r\nConnection: Upgrade\r\n\r\n",
			"hint": "HTTP/1.1 103 Early Hints\r\n" + secret + "\r\n\r\n", "name": "HTTP/1.1 200 OK\r\n(" + secret + "): x\r\n\r\n", "lengths": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3" + secret + "\r\n\r\nok",
		} {
			a.teachBoth(name, wire(text, false))
			for _, target := range []string{"/over-tls/x", "/app/x"} {
				c.send(get(target+"?do="+url.QueryEscape(name), fetched, a.cookie("alice")))
			}
		}
		for text := range strings.Lines(a.g.Output()) {
			if strings.Contains(text, secret) {
				c.Errorf("logged: %s", text)
			}
		}
	})
}
