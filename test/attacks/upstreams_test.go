package attacks

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// R: what an upstream may do to the people behind the gateway.
func TestR(t *testing.T) {
	t.Parallel()
	a := newArena(t, setup{secure: true, overTLS: true, soon: true})
	closed, _ := net.Listen("tcp", "127.0.0.1:0")
	closed.Close()

	answer := func(header, body string) string {
		return "HTTP/1.1 200 OK\r\n" + header + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
	}

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
			a.tls.teach(name, wire(text, false))
			a.up.teach(name, wire(text, false))
			for _, target := range []string{"/over-tls/x", "/app/x"} {
				if x := c.send(get(target+"?do="+name, fetched, a.cookie("alice"))); strings.Contains(strings.ToLower(string(x.got)), rig.SessionCookie) || strings.Contains(string(x.got), "__Host-cloakroom") {
					c.Errorf("%s: %q passes: %q", target, cookie, x.got)
				}
			}
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
			a.tls.teach(name, wire(text, false))
			a.up.teach(name, wire(text, false))
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
	a.row("R-22_desync_over_TLS", func(c *row) {
		evil := "HTTP/1.1 200 OK\r\nX-Upstream-Sub: sub-evil\r\nContent-Length: 14\r\n\r\n{\"sub\":\"evil\"}"
		for name, text := range map[string]string{
			"two":        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + evil,
			"nobody":     "HTTP/1.1 204 No Content\r\n\r\n" + evil,
			"unmodified": "HTTP/1.1 304 Not Modified\r\n\r\n" + evil,
			"chunks":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + evil,
			"codings":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + evil,
			"both":       "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + evil,
			"old":        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok" + evil,
		} {
			a.tls.teach(name, wire(text, true))
			done := make(chan *exchanged)
			var alice, bob strings.Builder
			for range 30 {
				fmt.Fprintf(&alice, "GET /over-tls/x?do=%s HTTP/1.1\r\nHost: app.test\r\n%s%s\r\n", name, fetched, a.cookie("alice"))
				fmt.Fprintf(&bob, "GET /over-tls/clean HTTP/1.1\r\nHost: app.test\r\n%s%s\r\n", fetched, a.cookie("bob"))
			}
			send := func(text string) {
				var x *exchanged
				defer func() { done <- x }() // nil: there was no answer, and the row has failed
				x = c.send(text)
			}
			for range 4 {
				go send(alice.String() + get("/public/end"))
				go send(bob.String() + get("/public/end"))
			}
			for range 8 {
				x := <-done // GO3 sees whose answers these are
				if x == nil {
					continue
				}
				for _, one := range x.answers {
					if strings.HasPrefix(x.sent, "GET /over-tls/clean") && one.Status == http.StatusOK && strings.Contains(string(one.Body), "evil") {
						c.Errorf("%s: bob got %q", name, one.Body)
					}
				}
			}
		}
		if strings.Contains(a.g.Output(), "sub-evil") {
			c.Error("what the upstream sent is in the log")
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
		c.up.teach("origin", wire(answer(lines.String(), "ok"), true))
		x := c.send(get("/app/x?do=origin", fetched, a.cookie("alice")))
		for name := range stays {
			if name != "Strict-Transport-Security" && x.final().Header.Get(name) == "" {
				c.Errorf("%s is gone: the operator chose the upstream (gateway/proxy's package comment)", name)
			}
		}
		if strings.Contains(string(x.got), spoof) {
			c.Errorf("passed: %q", x.got)
		}
	})
	a.row("R-05_informational_storm", func(c *row) {
		hint := "HTTP/1.1 103 Early Hints\r\nSet-Cookie: " + rig.SessionCookie + "=x\r\nLink: </x>\r\n\r\n"
		for name, text := range map[string]string{
			"storm": strings.Repeat(hint, 100_000), "continues": strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100_000), "large": "HTTP/1.1 103 Early Hints\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n",
			"processing": strings.Repeat("HTTP/1.1 102 Processing\r\nX: "+strings.Repeat("x", 8000)+"\r\n\r\n", 500),
		} {
			c.up.teach(name, wire(text+answer("", "ok"), false))
			x := c.send(get("/app/x?do="+name, fetched, a.cookie("alice")))
			if s := x.status(); s != http.StatusOK && s != http.StatusBadGateway {
				c.Errorf("%s: %v", name, x)
			}
			if len(x.answers) > 40 || strings.Contains(string(x.got), rig.SessionCookie) {
				c.Errorf("%s: %d informational answers", name, len(x.answers)-1)
			}
		}
	})
	a.row("R-06_truncation", func(c *row) {
		for name, text := range map[string]string{
			"length":  "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
			"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
			"chunk":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nhello",
			"garbage": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
			"large":   "HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + strings.Repeat("x", 1<<20),
			"trailer": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Note: y",
		} {
			c.up.teach("cut-"+name, wire(text, false))
			x := c.send("GET /app/x?do=cut-" + name + " HTTP/1.1\r\nHost: app.test\r\n" + fetched + a.cookie("alice") + "\r\n")
			switch got := x.final(); {
			case got == nil || got.Status == http.StatusBadGateway && name != "large": // nothing was sent yet
			case got.Status != http.StatusOK || !got.Cut || strings.Contains(string(got.Body), "urn:cloakroom"):
				c.Errorf("%s: the client can't see the cut: %d %v %.100q", name, got.Status, got.Cut, got.Body)
			}
			two := c.http2(append(fields("GET", "/app/x?do=cut-"+name, fetchedFields...), a.cookieField("alice")))
			if two != nil && two.Status == http.StatusOK {
				c.Errorf("HTTP/2, %s: a clean end after %d bytes", name, len(two.Body))
			}
		}
		// The end of a body that ends with its connection can't be told from a cut.
		c.up.teach("until-close", wire("HTTP/1.1 200 OK\r\n\r\nhello", false))
		x := c.send("GET /app/x?do=until-close HTTP/1.1\r\nHost: app.test\r\n" + fetched + a.cookie("alice") + "\r\n")
		c.want(x, http.StatusOK, "")
		if !strings.Contains(string(x.got), "\r\nConnection: close\r\n") {
			c.Errorf("until the connection closes: %q", x.got)
		}
		for name, text := range map[string]string{"nothing": "", "half a header": "HTTP/1.1 200 OK\r\nContent-Le", "no HTTP": "hello\r\n\r\n", "SSH": "SSH-2.0-x\r\n", "HTTP/2": "\x00\x00\x00\x04\x00\x00\x00\x00\x00", "a bad status": "HTTP/1.1 99999 OK\r\n\r\n", "status 000": "HTTP/1.1 000 OK\r\n\r\n", "1 MiB of header": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n"} {
			c.up.teach("bad", wire(text, false))
			if x := c.send(get("/app/x?do=bad", fetched, a.cookie("alice"))); x.status() != http.StatusBadGateway || x.final().code() != "upstream_unreachable" {
				c.Errorf("%s: %v", name, x)
			}
		}
	})
	a.row("R-23_slow", func(c *row) {
		// Neither an upstream that dribbles, nor a client that doesn't send what the
		// upstream waits for, holds a request for longer than the route allows.
		drip := func(text string, every time.Duration) func(*served) bool {
			return func(s *served) bool {
				for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(every) {
					if _, err := io.WriteString(s.conn, text); err != nil {
						break
					}
				}
				return false
			}
		}
		for _, up := range []*upstream{c.up, c.tls} {
			up.teach("silent", func(s *served) bool { _, _ = io.Copy(io.Discard, s.in); return false })
			up.teach("hints", drip("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 200*time.Millisecond))
			up.teach("dribble", func(s *served) bool {
				io.WriteString(s.conn, "HTTP/1.1 200 OK\r\n")
				return drip("X: y\r\n", 100*time.Millisecond)(s)
			})
		}
		var all sync.WaitGroup
		for _, target := range []string{"/soon/x", "/soon-tls/x"} {
			for _, do := range []string{"silent", "hints", "dribble"} {
				all.Go(func() {
					start := time.Now()
					x := c.send(get(target+"?do="+do, fetched, a.cookie("alice")))
					if got := x.final(); x.status() != http.StatusGatewayTimeout && x.status() != http.StatusBadGateway || got.code() == "" || time.Since(start) > 6*time.Second {
						c.Errorf("%s, %s: %v after %v", target, do, x, time.Since(start))
					}
				})
			}
			for _, lines := range []string{"Content-Length: 1000\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n5\r\nhel"} {
				all.Go(func() {
					start := time.Now()
					x := c.send("POST " + target + " HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n" + fetched + a.cookie("alice") + lines)
					if s := x.status(); s < 400 || time.Since(start) > 9*time.Second {
						c.Errorf("%s, %q: %v after %v", target, lines, x, time.Since(start))
					}
				})
			}
		}
		all.Wait()
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
	a.row("R-25_tiny_chunks", func(c *row) {
		// 10^5 chunks of one byte pass; as many that are mostly extensions don't.
		before := a.usage().cpu
		c.up.teach("tiny", wire("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+strings.Repeat("1\r\nx\r\n", 100_000)+"0\r\n\r\n", false))
		if x := c.send(get("/app/x?do=tiny", fetched, a.cookie("alice"))); x.status() != http.StatusOK || len(x.final().Body) != 100_000 || x.final().Cut {
			c.Errorf("%d bytes", len(x.final().Body))
		}
		body := strings.Repeat("1\r\nx\r\n", 100_000) + "0\r\n\r\n"
		c.want(c.send("POST /app/x HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n"+fetched+a.cookie("alice")+"Transfer-Encoding: chunked\r\n\r\n"+body), http.StatusOK, "")
		if spent := a.usage().cpu - before; spent > 6 { // with the race detector
			c.Errorf("%.1f s of CPU", spent)
		}
		c.up.teach("padded", wire("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+strings.Repeat("1;"+strings.Repeat("e", 200)+"\r\nx\r\n", 10_000)+"0\r\n\r\n", false))
		if x := c.send(get("/app/x?do=padded", fetched, a.cookie("alice"))); x.status() == http.StatusOK && !x.final().Cut {
			c.Error("2 MB of extensions pass")
		}
	})
	answerMutationRow(a)
	a.row("R-07_sent_once", func(c *row) {
		// The upstream closes kept connections just as the next request arrives.
		c.up.teach("once", func(s *served) bool {
			io.WriteString(s.conn, answer("", "ok"))
			time.Sleep(5 * time.Millisecond)
			return false
		})
		c.up.teach("drop", func(s *served) bool { return false })
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
			for i := range 20 {
				c.send(get("/app/warm?do=once", fetched, a.cookie("alice")))
				target := fmt.Sprintf("/app/%s-%d", method, i)
				c.send(request(method, target+"?do=drop", fetched, a.cookie("alice"), "Idempotency-Key: x\r\nX-Idempotency-Key: y\r\nContent-Length: 4\r\n") + "once")
				c.send(request(method, target+"-empty?do=drop", fetched, a.cookie("alice"), "Idempotency-Key: x\r\nX-Idempotency-Key: y\r\nContent-Length: 0\r\n"))
			}
		}
		times := map[string]int{}
		for _, r := range c.arrived() {
			if r.method != "GET" {
				times[r.target]++
			}
		}
		for target, n := range times {
			if n > 1 {
				c.Errorf("%s arrived %d times", target, n)
			}
		}
		if len(times) < 40 {
			c.Errorf("%d requests arrived", len(times))
		}
	})
	a.row("R-08_unauthorized", func(c *row) {
		before := len(c.provider.Redemptions("sub-alice"))
		for _, status := range []string{"401 Unauthorized", "403 Forbidden", "419 Expired", "498 Token", "440 Login Time-out", "511 Network"} {
			c.up.teach("refuses", wire("HTTP/1.1 "+status+"\r\nWWW-Authenticate: Bearer error=\"invalid_token\"\r\nContent-Length: 4\r\n\r\nmine", true))
			for range 5 {
				x := c.send(get("/app/x?do=refuses", fetched, a.cookie("alice")))
				if !strings.HasPrefix(status, fmt.Sprint(x.status())) || string(x.final().Body) != "mine" || x.final().Header.Get("Www-Authenticate") == "" {
					c.Errorf("%s: %v", status, x)
				}
			}
			x := c.send(request("GET", "/page/x?do=refuses", "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n", a.cookie("alice")))
			if !strings.HasPrefix(status, fmt.Sprint(x.status())) {
				c.Errorf("a navigation: %s: %v", status, x)
			}
		}
		if n := len(c.provider.Redemptions("sub-alice")); n != before {
			c.Errorf("%d refreshes", n-before)
		}
		c.want(c.send(post("/bff/token", "", fetched, a.cookie("alice"))), http.StatusOK, "")
	})
	a.row("R-10_redirects", func(c *row) {
		for _, to := range []string{c.up.url() + "/inner", "//evil.test/", "/\\evil.test", "http://169.254.169.254/", "https://app.test/bff/login", "../x"} {
			for _, status := range []string{"301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"} {
				c.up.teach("moved", wire("HTTP/1.1 "+status+"\r\nLocation: "+to+"\r\nContent-Length: 0\r\n\r\n", true))
				x := c.send(get("/app/x?do=moved", fetched, a.cookie("alice")))
				if !strings.HasPrefix(status, fmt.Sprint(x.status())) || x.final().Header.Get("Location") != to {
					c.Errorf("%s to %s: %v %q", status, to, x, x.final().Header)
				}
			}
		}
		for _, r := range c.arrived() {
			if !strings.HasPrefix(r.target, "/app/x?do=moved") {
				c.Errorf("followed: %s", r.target)
			}
		}
	})
	a.row("R-12_reflected_token", func(c *row) {
		// Nobody can keep an upstream from showing its caller the bearer. What can be
		// done: a route without a token has none to show.
		c.secretsIn = true
		c.up.teach("echo", func(s *served) bool {
			io.WriteString(s.conn, answer("Cache-Control: no-store\r\n", s.head))
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
	a.row("R-14_statuses", func(c *row) {
		// What is odd and can be told passes; what can't is no answer.
		for status, want := range map[string]int{"200": 200, "299 Odd": 299, "404 \xff": 404, "599 Odd": 599, "999 Odd": 999, "600 Odd": 600, "101 Switching Protocols": 502, "199 Odd": 502} {
			c.up.teach("status", wire("HTTP/1.1 "+status+"\r\nContent-Length: 2\r\n\r\nok", false))
			if x := c.send(get("/app/x?do=status", fetched, a.cookie("alice"))); x.status() != want && x.status() != http.StatusBadGateway {
				c.Errorf("%q: %v", status, x)
			}
		}
	})
	a.row("R-15_trouble", func(c *row) {
		// GO9: an upstream's trouble is 502, or what it says, and touches no cookie.
		for _, b := range []string{"alice", "bob"} {
			if c.user(b).Cookie() == "" {
				c.Errorf("%s has no cookie any more", b)
			}
			c.want(c.send(get("/app/x", fetched, a.cookie(b))), http.StatusOK, "")
		}
		if sub := c.send(get("/app/x", fetched, a.cookie("bob"))).final().Header.Get("X-Upstream-Sub"); sub != gatewaytest.SubjectOf("bob") {
			c.Errorf("bob is %s", sub)
		}
	})
}

// K: no cache keeps what is one person's.
func TestK(t *testing.T) {
	t.Parallel()
	a := newArena(t, setup{provider: gatewaytest.Options{AccessLife: 4 * time.Second}, change: func(c rig.Config) {
		c.Set("apps.0.session.rotation_grace", "3s")
		c.Set("apps.0.session.cache_ttl", "1s")
	}})
	private := func(c *row, a *answer, what string) {
		c.Helper()
		if got := a.Header["Cache-Control"]; len(got) != 1 || got[0] != "no-store" {
			c.Errorf("%s: Cache-Control is %q", what, got)
		}
		for _, name := range []string{"ETag", "Last-Modified", "Expires", "Age", "Surrogate-Control", "Cdn-Cache-Control", "Cloudflare-Cdn-Cache-Control"} {
			if v := a.Header.Get(name); v != "" && name != "ETag" && name != "Last-Modified" {
				c.Errorf("%s: %s is %q", what, name, v)
			}
		}
	}
	a.row("K-01_token", func(c *row) {
		for _, lines := range []string{
			"", "If-None-Match: *\r\n", "If-None-Match: \"x\"\r\n", "If-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT\r\n", "Range: bytes=0-3\r\n", "If-Match: \"x\"\r\n", "If-Range: \"x\"\r\nRange: bytes=0-1\r\n", "Cache-Control: only-if-cached\r\n",
			"If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n",
		} {
			for _, path := range []string{"/bff/token", "/bff/user", "/bff/session", "/bff/sessions"} {
				x := c.send(get(path, fetched, a.cookie("alice"), lines))
				c.want(x, http.StatusOK, "")
				private(c, x.final(), path)
				if x.final().Header.Get("ETag") != "" || x.final().Header.Get("Last-Modified") != "" {
					c.Errorf("%s has validators", path)
				}
			}
		}
	})
	a.row("K-02_cookie_on_a_cacheable_answer", func(c *row) {
		c.up.teach("cacheable", wire("HTTP/1.1 200 OK\r\nCache-Control: public, s-maxage=31536000\r\nCDN-Cache-Control: max-age=600\r\nSurrogate-Control: max-age=600\r\nCloudflare-CDN-Cache-Control: max-age=600\r\nExpires: Thu, 01 Jan 2099 00:00:00 GMT\r\n"+
			"Edge-Control: cache\r\nX-Accel-Expires: 600\r\nPragma: cache\r\ncdn_cache_control: max-age=600\r\nContent-Length: 2\r\n\r\nok", true))
		// Until a successor leaves on such an answer.
		handed := 0
		for end := time.Now().Add(patience); handed == 0 && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			x := c.send(get("/app/x?do=cacheable", fetched, a.cookie("bob")))
			got := x.final()
			c.want(x, http.StatusOK, "")
			for _, k := range (&http.Response{Header: got.Header}).Cookies() {
				if k.Name == rig.SessionCookie {
					handed++
					a.w.Secret("a cookie", k.Value)
					a.user("bob").SetCookie(k.Value)
					private(c, got, "an answer with a successor")
					for name := range got.Header {
						if low := strings.ToLower(name); strings.Contains(low, "cache") && low != "cache-control" || strings.Contains(low, "surrogate") || strings.Contains(low, "expires") || strings.Contains(low, "edge") {
							c.Errorf("%s stays beside a cookie", name)
						}
					}
				}
			}
			if handed == 0 && !strings.Contains(got.Header.Get("Cache-Control"), "public") {
				c.Errorf("without a cookie the upstream's word stands: %q", got.Header.Get("Cache-Control"))
			}
		}
		if handed == 0 {
			c.Error("no successor was handed out")
		}
	})
	a.row("K-20_shared_caches", func(c *row) {
		// The upstream was asked with Authorization, and its answer is nobody else's by
		// RFC 9111 section 3.5. A cache in front of us has seen a cookie, which tells it
		// nothing: it has to be told.
		for i, test := range []struct{ sent, want string }{
			{"", "private"}, {"max-age=600", "max-age=600, private"}, {"max-age=600, must-revalidate", "max-age=600, must-revalidate, private"}, {"no-cache", "no-cache, private"},
			{"private, max-age=600", "private, max-age=600"}, {"PRIVATE", "PRIVATE"}, {"private=\"X-Note\"", "private=\"X-Note\", private"}, {"no-store", "no-store"},
			{"public, max-age=600", "public, max-age=600"}, {"s-maxage=600", "s-maxage=600"}, {"immutable\r\nCache-Control: max-age=5", "immutable, max-age=5, private"}, {"max-age=5, xpublic", "max-age=5, xpublic, private"},
		} {
			name := fmt.Sprintf("cache%d", i)
			header := "Last-Modified: Thu, 01 Jan 2015 00:00:00 GMT\r\nETag: \"x\"\r\nContent-Length: 2\r\n"
			if test.sent != "" {
				header += "Cache-Control: " + test.sent + "\r\n"
			}
			c.up.teach(name, wire("HTTP/1.1 200 OK\r\n"+header+"\r\nok", true))
			for _, target := range []string{"/app/x", "/maybe/x", "/page/x"} {
				x := c.send(get(target+"?do="+name, fetched, a.cookie("alice")))
				c.want(x, http.StatusOK, "")
				if got := strings.Join(x.final().Header["Cache-Control"], ", "); got != test.want && got != "no-store" { // with a successor
					c.Errorf("%s: %q became %q, want %q", target, test.sent, got, test.want)
				}
			}
			for _, target := range []string{"/public/x", "/maybe/x"} { // nobody's
				x := c.send(get(target+"?do="+name, fetched))
				if got := strings.Join(x.final().Header["Cache-Control"], "\r\nCache-Control: "); got != test.sent {
					c.Errorf("%s: %q became %q", target, test.sent, got)
				}
			}
		}
	})
	targetedRow(a)
	a.row("K-06_own_pages", func(c *row) {
		navigation := "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nAccept: text/html\r\n"
		for _, path := range []string{"/bff/login", "/bff/callback", "/bff/callback?code=x&state=y", "/bff/logged-out", "/bff/nothing", "/page/x", "/bff/token", "/bff/frontchannel-logout?iss=x&sid=y", "/bff/logout"} {
			private(c, c.send(get(path, navigation)).final(), path)
		}
		for _, path := range []string{"/page/x", "/bff/login"} {
			private(c, c.send(get(path, "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nAccept: text/html\r\n")).final(), path)
		}
	})
}

// J: WebSockets and long answers.
func TestJ(t *testing.T) {
	t.Parallel()
	a := newArena(t, setup{change: func(c rig.Config) { c.Set("drain", map[string]any{"delay": "0s", "timeout": "3s"}) }})
	const key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	handshake := func(target string, lines ...string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + key + strings.Join(lines, "") + "\r\n"
	}
	const accepted = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
	a.up.teach("ws", func(s *served) bool {
		io.WriteString(s.conn, accepted+"Set-Cookie: "+rig.SessionCookie+"=x\r\nSet-Cookie: a=1\r\n\r\n\x81\x05hello")
		_, _ = io.Copy(io.Discard, s.in)
		return false
	})

	a.row("J-02_foreign_origin", func(c *row) {
		for _, target := range []string{"/app/x?do=ws", "/page/x?do=ws"} {
			for _, lines := range []string{
				"Origin: https://evil.test\r\n", "Origin: null\r\n", "", "Origin: https://app.test\r\nOrigin: https://evil.test\r\n", "Origin: https://app.test.evil.test\r\n", "Origin: http://app.test\r\n", "Origin: https://app.test:444\r\n",
				"Origin: https://APP.test\r\n", "Origin: https://evil.app.test\r\n", "Origin: https://app.test/\r\n", "Origin:\r\n", "Origin: https://app.test, https://evil.test\r\n", "Sec-Fetch-Site: same-origin\r\n", "X-BFF: 1\r\n",
				"Sec-Fetch-Site: cross-site\r\nOrigin: https://app.test\r\n", "Sec-WebSocket-Origin: https://app.test\r\n", "Origin: https://app.test\r\nSec-Fetch-Site: same-site\r\n",
			} {
				c.want(c.send(handshake(target, lines, a.cookie("alice"))), http.StatusForbidden, "cross_origin_blocked")
			}
			if x := c.send(handshake(target, "Origin: https://app.test\r\n")); x.status() != http.StatusUnauthorized {
				c.Errorf("without a cookie: %v", x)
			}
		}
		// auth: optional is anonymous then, and without a token.
		x := c.send(handshake("/maybe/x?do=ws", "Origin: https://evil.test\r\n", a.cookie("alice")))
		c.want(x, http.StatusSwitchingProtocols, "")
		for _, r := range c.arrived() {
			if r.sub() != "" {
				c.Errorf("a foreign origin's WebSocket is %s's", r.sub())
			}
		}
	})
	a.row("J-02_own_origin", func(c *row) {
		x := c.send(handshake("/app/x?do=ws", "Origin: https://app.test\r\n", a.cookie("alice")))
		c.want(x, http.StatusSwitchingProtocols, "")
		if got := x.final(); len(got.Header["Set-Cookie"]) != 1 || !strings.Contains(string(got.Body), "hello") {
			c.Errorf("%q %q", got.Header, got.Body)
		}
	})
	a.row("J-05_bad_upgrades", func(c *row) {
		own := "Origin: https://app.test\r\n" + a.cookie("alice")
		// The upstream sees no upgrade, and its answer is an ordinary one.
		for _, lines := range []string{
			"Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n", "Connection: Upgrade\r\nUpgrade: h2c\r\n", "Connection: Upgrade\r\nUpgrade: webſocket\r\n", "Connection: Upgrade\r\nUpgrade: web\u212aet\r\n", "Connection: close\r\nUpgrade: websocket\r\n",
			"Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n", "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n", "Connection: Upgrade\r\nUpgrade: websocket/13\r\n", "Upgrade: websocket\r\n", "Connection: Upgrade\r\nUpgrade:\r\n",
			"Connection: Upgrade\r\nUpgrade: x\r\n",
		} {
			x := c.send("GET /app/x HTTP/1.1\r\nHost: app.test\r\n" + lines + key + own + "\r\n")
			if s := x.status(); s != http.StatusOK && s != http.StatusBadRequest && s != http.StatusBadGateway {
				c.Errorf("%q: %v", lines, x)
			}
		}
		for _, r := range c.arrived() {
			if len(r.values("Upgrade")) > 0 {
				c.Errorf("the upstream got %q", r.values("Upgrade"))
			}
		}
		// Switches that nobody asked for, or to something else.
		for name, text := range map[string]string{
			"unasked":       accepted + "\r\n",
			"another":       "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
			"two":           "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket, h2c\r\nConnection: Upgrade\r\n\r\n",
			"no upgrade":    "HTTP/1.1 101 Switching Protocols\r\n\r\n",
			"no connection": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
		} {
			c.up.teach("switch", wire(text, false))
			if name == "unasked" {
				c.want(c.send(get("/app/x?do=switch", fetched, a.cookie("alice"))), http.StatusBadGateway, "upstream_unreachable")
				continue
			}
			c.want(c.send(handshake("/app/x?do=switch", own)), http.StatusBadGateway, "upstream_unreachable")
		}
		// A refusal of the upstream's own passes.
		c.up.teach("refusal", wire("HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nContent-Length: 2\r\n\r\nno", true))
		c.want(c.send(handshake("/app/x?do=refusal", own)), http.StatusUpgradeRequired, "")
		// A handshake with a body, by another method, or of HTTP/1.0 is none.
		c.send("POST /app/x HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + key + own + "Content-Length: 2\r\n\r\nhi")
		c.send("GET /app/x HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + key + own + "Content-Length: 2\r\n\r\nhi")
		c.send("GET /app/x HTTP/1.0\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + key + own + "\r\n")
		for _, r := range c.arrived() {
			if len(r.values("Upgrade")) > 0 && !strings.Contains(r.target, "do=") {
				c.Errorf("the upstream got %q", r.head)
			}
		}
	})
	a.row("J-20_frames", func(c *row) {
		// What is no frame (RFC 6455 section 5.2) ends the WebSocket, and goes no further.
		const evil = "evil-frame"
		var mu sync.Mutex
		var passed bytes.Buffer
		c.up.teach("ws-kept", func(s *served) bool {
			io.WriteString(s.conn, accepted+"\r\n")
			b := make([]byte, 4096)
			for {
				n, err := s.in.Read(b)
				mu.Lock()
				passed.Write(b[:n])
				mu.Unlock()
				if err != nil {
					return false
				}
			}
		})
		mask := "\x00\x00\x00\x00" // leaves the payload as it is
		for name, test := range map[string]struct {
			frame string
			ok    bool
		}{
			"a text": {"\x81\x8a" + mask + "good-frame", true}, "a ping": {"\x89\x8a" + mask + "good-frame", true},
			"a message in two, a ping between": {"\x01\x80" + mask + "\x89\x80" + mask + "\x80\x8a" + mask + "good-frame", true},
			"unmasked":                         {"\x81\x0a" + evil, false}, "RSV1": {"\xc1\x8a" + mask + evil, false}, "RSV2": {"\xa1\x8a" + mask + evil, false}, "RSV3": {"\x91\x8a" + mask + evil, false},
			"opcode 3": {"\x83\x8a" + mask + evil, false}, "opcode 11": {"\x8b\x8a" + mask + evil, false}, "half a ping": {"\x09\x8a" + mask + evil, false}, "half a close": {"\x08\x8a" + mask + evil, false},
			"a long ping": {"\x89\xfe\x00\x8a" + mask + evil, false}, "a long close": {"\x88\xfe\x00\x8a" + mask + evil, false}, "a length of 2^63": {"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00" + mask + evil, false},
			"a length written long": {"\x82\xfe\x00\x0a" + mask + evil, false}, "a length written longer": {"\x82\xff\x00\x00\x00\x00\x00\x00\x00\x0a" + mask + evil, false},
			"the rest of nothing": {"\x80\x8a" + mask + evil, false}, "a message within one": {"\x01\x80" + mask + "\x81\x8a" + mask + evil, false},
			"an HTTP request": {"GET /public/smuggled HTTP/1.1\r\nHost: " + evil + "\r\n\r\n", false},
		} {
			mu.Lock()
			passed.Reset()
			mu.Unlock()
			x := c.send(handshake("/app/x?do=ws-kept", "Origin: https://app.test\r\n", a.cookie("alice")) + test.frame)
			c.want(x, http.StatusSwitchingProtocols, "")
			if closed := strings.HasPrefix(string(x.final().Body), "\x88") && strings.Contains(string(x.final().Body), "\x03\xea"); closed == test.ok { // 1002
				c.Errorf("%s: answered with %q", name, x.final().Body)
			}
			mu.Lock()
			if strings.Contains(passed.String(), evil) || test.ok != strings.Contains(passed.String(), "good-frame") {
				c.Errorf("%s: the upstream got %q", name, passed.String())
			}
			mu.Unlock()
		}
		for _, r := range c.arrived() {
			if r.target == "/public/smuggled" {
				c.Errorf("smuggled: %q", r.head)
			}
		}
	})
	a.row("J-21_refused_handshakes", func(c *row) {
		// A handshake that the upstream refuses is a request like any other: what comes
		// behind it is the next one, and none of the upstream's.
		c.up.teach("refuses", wire("HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nContent-Length: 2\r\n\r\nno", true))
		for _, lines := range []string{"", "Sec-WebSocket-Version: 777\r\n", "Sec-WebSocket-Key: x\r\n", "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99\r\n", "Sec-WebSocket-Protocol: " + strings.Repeat("a,", 1000) + "b\r\n"} {
			mark := c.up.mark()
			x := c.send(handshake("/app/x?do=refuses", lines, "Origin: https://app.test\r\n", a.cookie("alice")) + "GET /app/admin/secret HTTP/1.1\r\nHost: app.test\r\n\r\n")
			if x.finals() != 2 || x.answers[0].Status != 426 || x.answers[1].Status != http.StatusForbidden {
				c.Errorf("%q: %q", lines, x.got)
			}
			if n := len(c.up.since(mark)); n != 1 {
				c.Errorf("%q: the upstream got %d requests", lines, n)
			}
		}
	})
	a.row("J-04_ends", func(c *row) {
		b := c.w.NewBrowser()
		b.Login("carol")
		conn, err := net.Dial("tcp", c.g.Public)
		if err != nil {
			c.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, handshake("/app/x?do=ws", "Origin: https://app.test\r\n", "Cookie: "+rig.SessionCookie+"="+b.Cookie()+"\r\n"))
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			c.Fatalf("%v %v", resp, err)
		}
		if r := b.Fetch(http.MethodPost, "/bff/logout"); r.Status != http.StatusOK {
			c.Fatalf("logout: %s", r)
		}
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		all, _ := io.ReadAll(in)
		if !strings.HasPrefix(string(all), "\x81\x05hello") || !strings.Contains(string(all), "\x88") || !strings.Contains(string(all), "\x11\x31") { // 4401
			c.Errorf("the socket ended with %q", all)
		}
	})
	a.row("J-08_shutdown", func(c *row) {
		n := len(a.w.Gateways)
		g := a.w.Start()
		g.WaitReady()
		a.w.Gateways = a.w.Gateways[:n]
		var sockets []net.Conn
		for range 100 {
			conn, err := net.Dial("tcp", g.Public)
			if err != nil {
				c.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			io.WriteString(conn, handshake("/app/x?do=ws", "Origin: https://app.test\r\n", a.cookie("alice")))
			if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				c.Fatalf("%v %v", resp, err)
			}
			sockets = append(sockets, conn)
		}
		start := time.Now()
		if code := g.Terminate(); code != 0 {
			c.Errorf("exit code %d", code)
		}
		if took := time.Since(start); took > 10*time.Second {
			c.Errorf("it took %v", took)
		}
		for _, conn := range sockets {
			if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
				c.Fatal("a socket is open still")
			}
		}
	})
}
