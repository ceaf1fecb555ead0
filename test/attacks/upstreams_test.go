package attacks

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

// R: what an upstream may do to the people behind the gateway.
func TestR(t *testing.T) {
	t.Parallel()
	a := newArena(t, setup{secure: true, overTLS: true, soon: true})
	answerHeaderRows(a)
	answerFramingRows(a)
	answerMutationRow(a)
	conductRows(a)
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

// conductRows are about how it serves, and refuses to.
func conductRows(a *arena) {
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
		c.teachBoth("silent", func(s *served) bool { _, _ = io.Copy(io.Discard, s.in); return false })
		c.teachBoth("hints", drip("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 200*time.Millisecond))
		c.teachBoth("dribble", func(s *served) bool {
			io.WriteString(s.conn, "HTTP/1.1 200 OK\r\n")
			return drip("X: y\r\n", 100*time.Millisecond)(s)
		})
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
	a.row("R-07_sent_once", func(c *row) {
		// The upstream ends a kept connection over which the next request has just come,
		// by closing it or by resetting it.
		c.up.teach("drop", func(s *served) bool { return false })
		c.up.teach("reset", func(s *served) bool {
			_ = s.conn.(*net.TCPConn).SetLinger(0)
			return false
		})
		const each = 10
		methods := []string{"POST", "PUT", "PATCH", "DELETE"}
		for _, method := range methods {
			for i := range each {
				for _, do := range []string{"drop", "reset"} {
					for _, body := range []string{"", "once"} {
						c.want(c.send(get("/app/warm", fetched, a.cookie("alice"))), http.StatusOK, "") // leaves a connection
						target := fmt.Sprintf("/app/%s-%d%s?do=%s", method, i, body, do)
						c.want(c.send(request(method, target, fetched, a.cookie("alice"), fmt.Sprintf("Idempotency-Key: x\r\nX-Idempotency-Key: y\r\nContent-Length: %d\r\n", len(body)))+body), http.StatusBadGateway, "upstream_unreachable")
					}
				}
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
		if want := 4 * each * len(methods); len(times) != want {
			c.Errorf("%d requests arrived; want %d", len(times), want)
		}
	})
	a.row("R-08_unauthorized", func(c *row) {
		before := len(c.provider.Redemptions("sub-alice"))
		for _, status := range []string{"401 Unauthorized", "403 Forbidden", "419 Expired", "498 Token", "440 Login Time-out", "511 Network"} {
			c.up.teach("refuses", wire("HTTP/1.1 "+status+"\r\nWWW-Authenticate: Bearer error=\"invalid_token\"\r\nContent-Length: 4\r\n\r\nmine", true))
			for range 5 {
				x := c.asks("refuses")
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
				x := c.asks("moved")
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
}
