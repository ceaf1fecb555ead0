package attacks

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/cloakroom/cloakroom/test/rig"
)

// answerFramingRows are about where its answers end.
func answerFramingRows(a *arena) {
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
	a.row("R-05_informational_storm", func(c *row) {
		hint := "HTTP/1.1 103 Early Hints\r\nSet-Cookie: " + rig.SessionCookie + "=x\r\nLink: </x>\r\n\r\n"
		for name, text := range map[string]string{
			"storm": strings.Repeat(hint, 100_000), "continues": strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100_000), "large": "HTTP/1.1 103 Early Hints\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n",
			"processing": strings.Repeat("HTTP/1.1 102 Processing\r\nX: "+strings.Repeat("x", 8000)+"\r\n\r\n", 500),
		} {
			c.up.teach(name, wire(text+okAnswer("", "ok"), false))
			x := c.asks(name)
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
			if x := c.asks("bad"); x.status() != http.StatusBadGateway || x.final().code() != "upstream_unreachable" {
				c.Errorf("%s: %v", name, x)
			}
		}
	})
	a.row("R-25_tiny_chunks", func(c *row) {
		// 10^5 chunks of one byte pass; as many that are mostly extensions don't.
		before := a.usage().cpu
		c.up.teach("tiny", wire("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+strings.Repeat("1\r\nx\r\n", 100_000)+"0\r\n\r\n", false))
		if x := c.asks("tiny"); x.status() != http.StatusOK || len(x.final().Body) != 100_000 || x.final().Cut {
			c.Errorf("%d bytes", len(x.final().Body))
		}
		body := strings.Repeat("1\r\nx\r\n", 100_000) + "0\r\n\r\n"
		c.want(c.send("POST /app/x HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n"+fetched+a.cookie("alice")+"Transfer-Encoding: chunked\r\n\r\n"+body), http.StatusOK, "")
		if spent := a.usage().cpu - before; spent > 6 { // with the race detector
			c.Errorf("%.1f s of CPU", spent)
		}
		c.up.teach("padded", wire("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+strings.Repeat("1;"+strings.Repeat("e", 200)+"\r\nx\r\n", 10_000)+"0\r\n\r\n", false))
		if x := c.asks("padded"); x.status() == http.StatusOK && !x.final().Cut {
			c.Error("2 MB of extensions pass")
		}
	})
	a.row("R-14_statuses", func(c *row) {
		// What is odd and can be told passes; what can't is no answer.
		for status, want := range map[string]int{"200": 200, "299 Odd": 299, "404 \xff": 404, "599 Odd": 599, "999 Odd": 999, "600 Odd": 600, "101 Switching Protocols": 502, "199 Odd": 502} {
			c.up.teach("status", wire("HTTP/1.1 "+status+"\r\nContent-Length: 2\r\n\r\nok", false))
			if x := c.asks("status"); x.status() != want && x.status() != http.StatusBadGateway {
				c.Errorf("%q: %v", status, x)
			}
		}
	})
}
