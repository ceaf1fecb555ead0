package attacks

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// formRow is I's part about refusals that are the HTTP server's own. open is a POST
// to a protected path with more header lines and a body.
func formRow(a *arena, open func(lines, body string) string) {
	a.row("I-23_form", func(c *row) {
		// What the HTTP server refuses by itself, before anybody else has seen it, looks
		// like every other refusal.
		for name, test := range map[string]struct {
			text   string
			status int
			code   string
		}{
			"no request":      {"hello\r\n\r\n", 400, "invalid_request"},
			"a bad name":      {"GET /public/x HTTP/1.1\r\nHost: app.test\r\nX Y: z\r\n\r\n", 400, "invalid_request"},
			"a bad value":     {"GET /public/x HTTP/1.1\r\nHost: app.test\r\nX: a\x00\r\n\r\n", 400, "invalid_request"},
			"no host":         {"GET /public/x HTTP/1.1\r\n\r\n", 400, "invalid_request"},
			"two hosts":       {"GET /public/x HTTP/1.1\r\nHost: app.test\r\nHost: app.test\r\n\r\n", 400, "invalid_request"},
			"a length":        {open("Content-Length: +5\r\n", "hello"), 400, "invalid_request"},
			"a coding":        {open("Transfer-Encoding: gzip\r\n", "hello"), 501, "invalid_request"},
			"a version":       {"GET /public/x HTTP/3.0\r\nHost: app.test\r\n\r\n", 505, "invalid_request"},
			"a bad escape":    {"GET /public/%zz HTTP/1.1\r\nHost: app.test\r\n\r\n", 400, "invalid_request"},
			"a large header":  {"GET /public/x HTTP/1.1\r\nHost: app.test\r\nX: " + strings.Repeat("x", 200<<10) + "\r\n\r\n", 431, "headers_too_large"},
			"after another":   {"GET /public/x HTTP/1.1\r\nHost: app.test\r\n\r\nhello\r\n\r\n", 400, "invalid_request"},
			"an expectation":  {open("Expect: the-unexpected\r\nContent-Length: 5\r\n", "hello"), 417, ""},
			"half of a fault": {"GET /public/x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400, "invalid_request"},
		} {
			x := c.send(test.text)
			if len(x.answers) == 0 {
				if test.status != 431 { // cut off while we are sending still
					c.Errorf("%s: no answer", name)
				}
				continue
			}
			got := x.answers[len(x.answers)-1]
			if got.Status != test.status || got.code() != test.code {
				c.Errorf("%s: %d %q", name, got.Status, got.Body)
			}
			if test.code == "" {
				continue
			}
			for header, want := range map[string]string{"Content-Type": "application/problem+json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
				if v := got.Header.Get(header); v != want {
					c.Errorf("%s: %s is %q", name, header, v)
				}
			}
			if got.Header.Get("Date") == "" || got.Cut || !strings.Contains(string(x.got), "\r\nConnection: close\r\n") {
				c.Errorf("%s: %q %q", name, got.Header, got.Body)
			}
		}
		// Nobody else's answer is taken for one.
		const own = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"
		c.up.teach("own", wire(own, false))
		if x := c.send(get("/public/x?do=own")); x.status() != 400 || string(x.final().Body) != "400 Bad Request" {
			c.Errorf("an upstream's: %v", x)
		}
		c.up.teach("within", func(s *served) bool {
			for _, part := range []string{fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(own)), own} {
				io.WriteString(s.conn, part)
				time.Sleep(20 * time.Millisecond) // so that it is written as it is
			}
			return false
		})
		if x := c.send(get("/public/x?do=within")); x.status() != 200 || string(x.final().Body) != own {
			c.Errorf("a body that looks like one: %v", x)
		}
	})
}
