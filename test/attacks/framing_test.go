package attacks

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// I: where one request ends and the next begins. What is smuggled is a request to
// /public/smuggled: it may reach the upstream as the client's own next request,
// but never as a part of somebody else's, and never where the client's framing
// has two readings.
func TestI(t *testing.T) {
	t.Parallel()
	early, err := net.Listen("tcp", "127.0.0.1:0") // an upstream that hears no request out
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { early.Close() })
	a := newArena(t, setup{secure: true, routes: []any{map[string]any{"path": "/early", "upstream": "http://" + early.Addr().String(), "auth": "none"}}})
	const smuggled = "GET /public/smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n"

	open := func(lines string, body string) string {
		return "POST /app/x HTTP/1.1\r\nHost: app.test\r\n" + fetched + a.cookie("alice") + lines + "\r\n" + body
	}
	// clean sends bob's requests after an attack, over the upstream connections
	// that it left behind.
	clean := func(c *row) {
		c.Helper()
		for range 4 {
			x := c.send(get("/app/clean", fetched, a.cookie("bob")))
			c.want(x, http.StatusOK, "")
			if x.finals() != 1 {
				c.Errorf("bob got %d answers", x.finals())
			}
		}
		for _, r := range c.arrived() {
			if r.target == "/public/smuggled" || r.method != "POST" && r.method != "GET" {
				c.Errorf("smuggled: %q", r.head)
			}
			if n := len(r.values("Content-Length")) + len(r.values("Transfer-Encoding")); n > 1 {
				c.Errorf("framed twice at the upstream: %q", r.head)
			}
		}
	}
	// refused sends each and expects one answer of 4xx or 501, a closed connection,
	// and nothing of the smuggled request.
	refused := func(c *row, cases map[string]string) {
		c.Helper()
		for name, text := range cases {
			x := c.send(text + smuggled)
			if s := x.status(); x.finals() != 1 || s != 400 && s != 501 && s != 413 {
				c.Errorf("%s: %d answers, %v", name, x.finals(), x)
			}
		}
		clean(c)
	}

	a.row("I-01_both_lengths", func(c *row) {
		// Chunked decides (RFC 9112 section 6.3), and the next request is the client's
		// own; or it is refused.
		for name, text := range map[string]string{
			"CL.TE":           open("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nG"),
			"TE.CL":           open("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "8\r\nSMUGGLED\r\n0\r\n\r\n"),
			"CL 0":            open("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
			"CL of a request": open("Transfer-Encoding: chunked\r\nContent-Length: 100\r\n", "0\r\n\r\n"),
		} {
			mark := c.up.mark()
			x := c.send(text)
			for _, r := range c.up.since(mark) {
				if len(r.values("Content-Length"))+len(r.values("Transfer-Encoding")) > 1 || r.method != "POST" || r.target != "/app/x" {
					c.Errorf("%s: %q", name, r.head)
				}
			}
			for i, got := range x.answers {
				if i > 0 && got.Status < 400 {
					c.Errorf("%s: answer %d is %d", name, i+1, got.Status)
				}
			}
		}
		clean(c)
	})
	a.row("I-02_content_length", func(c *row) {
		cases := map[string]string{}
		for _, v := range []string{
			"5\r\nContent-Length: 6", "5, 5", "5,6", "+5", "0x5", "-1", "5 5", "", "five", "5.0", "5e0", "99999999999999999999", "9223372036854775808", "0b101", "5;", "\"5\"",
			"5\r\nContent-Length: 0", "5\r\ncontent-length: 50", "５", "5\x0b", "\x005", "1_0", "5\r\nContent-Length:",
		} {
			cases[fmt.Sprintf("%q", v)] = open("Content-Length: "+v+"\r\n", "hello")
		}
		refused(c, cases)
	})
	a.row("I-02_one_reading", func(c *row) {
		// Odd, but with one reading only: the upstream gets the plain one.
		for _, v := range []string{"5", "5 ", " 5", "00005", "5\r\nContent-Length: 5"} {
			mark := c.up.mark()
			x := c.send(open("Connection: close\r\nContent-Length: "+v+"\r\n", "hello"))
			if x.status() != http.StatusOK && x.status() != http.StatusBadRequest {
				c.Errorf("%q: %v", v, x)
			}
			for _, r := range c.up.since(mark) {
				if got := r.values("Content-Length"); len(got) != 1 || got[0] != "5" || string(r.body) != "hello" {
					c.Errorf("%q: the upstream got %q and %q", v, got, r.body)
				}
			}
		}
		clean(c)
	})
	a.row("I-03_transfer_encoding", func(c *row) {
		cases := map[string]string{}
		for _, v := range []string{
			"xchunked", "chunked, identity", "chun\tked", "chunked\r\nTransfer-Encoding: chunked", "identity", "gzip, chunked", "chunked, chunked", "chunked;q=1", "\"chunked\"",
			"chunked\r\nTransfer-Encoding: identity", "identity\r\nTransfer-Encoding: chunked", "", ",chunked", "chunked,", "\x0bchunked", "chunked\x00", "ｃhunked", "chunKed", "deflate",
		} {
			cases[fmt.Sprintf("%q", v)] = open("Transfer-Encoding: "+v+"\r\n", "5\r\nhello\r\n0\r\n\r\n")
			cases[fmt.Sprintf("with a length, %q", v)] = open("Content-Length: 5\r\nTransfer-Encoding: "+v+"\r\n", "5\r\nhello\r\n0\r\n\r\n")
		}
		for _, name := range []string{"Transfer-Encoding ", "Transfer_Encoding", "Transfer-Encoding\t", " Transfer-Encoding", "transfer\x00encoding"} {
			cases["name "+name] = open("Content-Length: 0\r\nX: y\r\n"+name+": chunked\r\n", "")
		}
		delete(cases, `"chunKed"`) // names of codings mind no case: see below
		delete(cases, `with a length, "chunKed"`)
		delete(cases, "name Transfer_Encoding") // a header like any other, and a second request of the client's
		delete(cases, "name  Transfer-Encoding")
		refused(c, cases)
	})
	a.row("I-03_one_reading", func(c *row) {
		for _, v := range []string{"chunked", "Chunked", "CHUNKED", "chunked ", "\tchunked"} {
			mark := c.up.mark()
			c.want(c.send(open("Connection: close\r\nTransfer-Encoding: "+v+"\r\n", "5\r\nhello\r\n0\r\n\r\n")), http.StatusOK, "")
			for _, r := range c.up.since(mark) {
				if v := r.values("Transfer-Encoding"); len(v) != 1 || v[0] != "chunked" || !strings.Contains(string(r.body), "hello") {
					c.Errorf("the upstream got %q, %q", v, r.body)
				}
			}
		}
		// HTTP/1.0 knows no Transfer-Encoding: its body is none, and what follows is
		// no request.
		x := c.send("POST /app/x HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\n" + fetched + a.cookie("alice") + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
		for i, got := range x.answers {
			if i > 0 && got.Status < 400 {
				c.Errorf("HTTP/1.0: %d", got.Status)
			}
		}
		// A name that some would fold to Transfer-Encoding goes to no upstream.
		c.send(open("Connection: close\r\nContent-Length: 5\r\nTransfer_Encoding: chunked\r\nTransfer.Encoding: chunked\r\nContent_Length: 50\r\n", "hello"))
		for _, r := range c.arrived() {
			for _, l := range r.lines {
				if low := strings.ToLower(l.name); strings.ContainsAny(low, "_.") && (strings.HasPrefix(low, "transfer") || strings.HasPrefix(low, "content")) {
					c.Errorf("the upstream got %s: %s", l.name, l.value)
				}
			}
		}
		clean(c)
	})
	a.row("I-04_chunks", func(c *row) {
		cases := map[string]string{}
		for _, body := range []string{
			"5\nhello\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "5;\nx\r\nhello\r\n0\r\n\r\n", "5;a=\nb\r\nhello\r\n0\r\n\r\n", "5\rhello\r\n0\r\n\r\n", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n", "5\r\nhelloworld\r\n0\r\n\r\n",
			"-5\r\nhello\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "+5\r\nhello\r\n0\r\n\r\n", "5_0\r\nhello\r\n0\r\n\r\n", "\r\n5\r\nhello\r\n0\r\n\r\n", "5 5\r\nhello\r\n0\r\n\r\n", "5;" + strings.Repeat("x", 100<<10) + "\r\nhello\r\n0\r\n\r\n",
			"5\r\nhello0\r\n\r\n", "g\r\nhello\r\n0\r\n\r\n", "\r\n", "5\r\nhello\r\n\r\n", "5;a=\"\nGET /public/smuggled HTTP/1.1\r\n\"\r\nhello\r\n0\r\n\r\n",
			strings.Repeat("1;"+strings.Repeat("e", 4000)+"\r\nx\r\n", 200) + "0\r\n\r\n",
		} {
			cases[fmt.Sprintf("%.60q", body)] = open("Transfer-Encoding: chunked\r\n", body)
		}
		refused(c, cases)
	})
	a.row("I-04_after_the_answer", func(c *row) {
		// The upstream answers before it has the body, and what then comes is no body:
		// whatever it is, it is no request either.
		c.up.teach("early", wire("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false))
		for _, body := range []string{"zz\r\n", "5\r\nhelloworld", "\r\n", "5;\nx\r\nhello\r\n0\r\n\r\n"} {
			for _, first := range []string{"", "5\r\nhello\r\n", strings.Repeat("400\r\n"+strings.Repeat("x", 1024)+"\r\n", 100)} {
				x := c.send("POST /app/x?do=early HTTP/1.1\r\nHost: app.test\r\n" + fetched + a.cookie("alice") + "Transfer-Encoding: chunked\r\n\r\n" + first + body + smuggled)
				if x.finals() > 1 {
					c.Errorf("%q: %d answers", body, x.finals())
				}
			}
		}
		clean(c)
	})
	a.row("I-04_last_chunk", func(c *row) {
		for _, end := range []string{"0\n\r\n", "0\r\n\n", "0;x=\n\r\n\r\n", "00000000000000000000\r\n\r\n", "0\r\nX: y\n\r\n", "0 \r\n\r\n", "0\r\n X: y\r\n\r\n", "0\r\nX : y\r\n\r\n", "0\r\nX\r\n\r\n"} {
			mark := c.up.mark()
			x := c.send(open("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"+end+smuggled))
			for _, r := range c.up.since(mark) {
				if r.target == "/public/smuggled" && x.finals() < 2 {
					c.Errorf("%q: a second request at the upstream, %d answers", end, x.finals())
				}
			}
		}
		for _, r := range c.arrived() {
			if r.method != "POST" && r.method != "GET" {
				c.Errorf("%q", r.head)
			}
		}
	})
	a.row("I-05_trailers", func(c *row) {
		for _, trailer := range []string{
			"Authorization: Bearer " + spoof, "Cookie: a=" + spoof, "X-Forwarded-User: " + spoof, "Content-Length: 100", "X_Forwarded_User: " + spoof, "Host: evil.test", "Transfer-Encoding: chunked",
			"X-BFF: " + spoof, "Forwarded: for=" + spoof, "DPoP: " + spoof, "Remote-User: " + spoof, "Content-Type: text/" + spoof, "Set-Cookie: a=" + spoof, "Connection: " + spoof, "Traceparent: " + spoof,
			"Sec-Fetch-Site: same-origin", "Origin: https://app.test",
		} {
			name, _, _ := strings.Cut(trailer, ":")
			for _, announce := range []string{"", "Trailer: " + name + "\r\n", "Trailer: x, " + strings.ToLower(name) + "\r\n"} {
				c.send(open("Connection: close\r\n"+announce+"Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n"+trailer+"\r\n\r\n"))
			}
		}
		for _, r := range c.arrived() {
			if strings.Contains(r.head, spoof) || strings.Contains(string(r.body), spoof) && !strings.Contains(string(r.body), "Set-Cookie") || strings.Contains(r.head, "evil.test") {
				c.Errorf("the upstream got %q %q", r.head, r.body)
			}
			if r.sub() != "sub-alice" {
				c.Errorf("the upstream's bearer is %q's", r.sub())
			}
		}
		clean(c)
	})
	a.row("I-08_http2_bodies", func(c *row) {
		head := func(more ...field) []field {
			return append(fields("POST", "/app/x", append(append([]field{}, fetchedFields...), a.cookieField("alice"))...), more...)
		}
		for name, test := range map[string]struct {
			head []field
			body []string
		}{
			"too short":          {head(field{"content-length", "50"}), []string{"hello"}},
			"too long":           {head(field{"content-length", "2"}), []string{"hello" + smuggled}},
			"length 0":           {head(field{"content-length", "0"}), []string{smuggled}},
			"two lengths":        {head(field{"content-length", "5"}, field{"content-length", "6"}), []string{"hello"}},
			"an odd length":      {head(field{"content-length", "+5"}), []string{"hello"}},
			"a negative length":  {head(field{"content-length", "-5"}), []string{"hello"}},
			"transfer-encoding":  {head(field{"transfer-encoding", "chunked"}), []string{"0\r\n\r\n" + smuggled}},
			"CRLF in a value":    {head(field{"x-note", "a\r\nTransfer-Encoding: chunked"}), []string{"hello"}},
			"CRLF in a name":     {head(field{"x-note: a\r\ntransfer-encoding", "chunked"}), []string{"hello"}},
			"CRLF in the path":   {fields("POST", "/public/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: y"), []string{"hello"}},
			"CRLF in the method": {fields("POST /public/x HTTP/1.1\r\nX: y\r\n", "/public/x"), []string{"hello"}},
		} {
			mark := c.up.mark()
			got := c.http2(test.head, test.body...)
			if s := got.status(); s >= 200 && s < 400 {
				c.Errorf("%s: %d", name, s)
			}
			for _, r := range c.up.since(mark) {
				if r.target != "/app/x" || strings.Contains(r.head, "chunked\r\nX") {
					c.Errorf("%s: the upstream got %q", name, r.head)
				}
			}
		}
		clean(c)
	})
	a.row("I-09_h2c", func(c *row) {
		x := c.send("GET /public/x HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
		c.want(x, http.StatusOK, "")
		c.send("GET /app/x HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + fetched + a.cookie("alice") + "\r\n")
		for _, r := range c.arrived() {
			if len(r.values("Upgrade"))+len(r.values("Http2-Settings"))+len(r.values("Connection")) > 0 {
				c.Errorf("the upstream got %q", r.head)
			}
		}
		mark := c.up.mark()
		x = c.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		if x.status() < 400 && x.status() != 0 {
			c.Errorf("the preface: %v", x)
		}
		if n := len(c.up.since(mark)); n > 0 {
			c.Errorf("the upstream got %d requests", n)
		}
	})
	a.row("I-10_response_desync", func(c *row) {
		body := `{"sub":"evil"}`
		evil := "HTTP/1.1 200 OK\r\nX-Upstream-Sub: sub-evil\r\nContent-Length: 14\r\n\r\n" + body
		for name, text := range map[string]string{
			"two":        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + evil,
			"long":       "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
			"nobody":     "HTTP/1.1 204 No Content\r\n\r\n" + evil,
			"unmodified": "HTTP/1.1 304 Not Modified\r\n\r\n" + evil,
			"bare":       "HTTP/1.1 200 OK\r\n\r\n" + evil,
			"chunks":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + evil,
			"both":       "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + evil,
			"lengths":    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok" + evil,
			"odd":        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok" + evil,
			"codings":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + evil,
			"continued":  "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + evil,
			"nothttp":    evil[9:],
			"crlf":       "HTTP/1.1 200 OK\r\nX: a\r\n\tb\r\nContent-Length: 2\r\n\r\nok" + evil,
		} {
			c.up.teach(name, wire(text, name != "bare"))
			for _, method := range []string{"GET", "HEAD"} {
				x := c.send(request(method, "/app/x?do="+name, fetched, a.cookie("alice")))
				if x.finals() > 1 {
					c.Errorf("%s %s: %d answers", method, name, x.finals())
				}
				if name != "bare" && name != "continued" && strings.Contains(string(x.got), "evil") && x.status() == 200 {
					c.Errorf("%s %s: %q", method, name, x.got)
				}
				// GO3 sees whose these are.
				c.want(c.send(get("/app/clean", fetched, a.cookie("bob"))), http.StatusOK, "")
			}
		}
		for _, x := range c.exchanges() {
			if got := x.final(); strings.HasPrefix(x.sent, "GET /app/clean") && string(got.Body) != `{"sub":"sub-bob"}` {
				c.Errorf("bob got %q", got.Body)
			}
		}
	})
	a.row("I-10_interleaved", func(c *row) {
		const rounds, pipelined = 10, 25
		var all [2]strings.Builder
		for i, name := range []string{"alice", "bob"} {
			for range pipelined {
				fmt.Fprintf(&all[i], "GET /app/x HTTP/1.1\r\nHost: app.test\r\n%s%s\r\n", fetched, a.cookie(name))
			}
		}
		done := make(chan *exchanged)
		for range rounds {
			for i := range all {
				go func() { done <- c.send(all[i].String() + get("/public/end")) }()
			}
			for range all {
				x := <-done
				if x.finals() != pipelined+1 {
					c.Errorf("%d answers to %d requests", x.finals(), pipelined+1)
				}
			}
		}
		if n := len(c.arrived()); n != 2*rounds*(pipelined+1) {
			c.Errorf("the upstream got %d requests", n)
		}
	})
	a.row("I-11_bound_connections", func(c *row) {
		// NTLM's and Negotiate's login is the connection's. A client's part of it never
		// gets through, so no connection can become anybody's.
		c.up.teach("ntlm", wire("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM TlRMTVNTUAAC\r\nWWW-Authenticate: Negotiate oYG2\r\nContent-Length: 0\r\n\r\n", true))
		for _, scheme := range []string{"NTLM", "Negotiate", "Basic", "Digest", "negotiate"} {
			for _, target := range []string{"/app/x?do=ntlm", "/public/x?do=ntlm", "/maybe/x?do=ntlm"} {
				c.want(c.send(get(target, fetched, a.cookie("alice"), "Authorization: "+scheme+" "+spoof+"\r\nProxy-Authorization: "+scheme+" "+spoof+"\r\n")), http.StatusUnauthorized, "")
			}
		}
		for _, r := range c.arrived() {
			if strings.Contains(r.head, spoof) {
				c.Errorf("the upstream got %q", r.head)
			}
		}
		clean(c)
	})
	a.row("I-12_hosts", func(c *row) {
		// Not in the catalogue: two hosts, or none, are two readings as well.
		for name, text := range map[string]string{
			"none": "GET /app/x HTTP/1.1\r\n\r\n", "two": "GET /app/x HTTP/1.1\r\nHost: app.test\r\nHost: evil.test\r\n\r\n", "twice the same": "GET /app/x HTTP/1.1\r\nHost: app.test\r\nHost: app.test\r\n\r\n",
			"absolute": "GET http://app.test/app/x HTTP/1.1\r\nHost: app.test\r\n\r\n", "absolute, another": "GET http://evil.test/app/x HTTP/1.1\r\nHost: app.test\r\n\r\n", "with a space": "GET /app/x HTTP/1.1\r\nHost: app.test evil.test\r\n\r\n",
			"with a path": "GET /app/x HTTP/1.1\r\nHost: app.test/evil\r\n\r\n", "empty": "GET /app/x HTTP/1.1\r\nHost:\r\n\r\n", "with userinfo": "GET /app/x HTTP/1.1\r\nHost: evil@app.test\r\n\r\n", "a list": "GET /app/x HTTP/1.1\r\nHost: app.test, evil.test\r\n\r\n",
			"asterisk": "OPTIONS * HTTP/1.1\r\nHost: app.test\r\n\r\n", "another port": "GET /app/x HTTP/1.1\r\nHost: app.test:1\r\n\r\n", "a dot": "GET /app/x HTTP/1.1\r\nHost: app.test.\r\n\r\n", "HTTP/1.0 without": "GET /app/x HTTP/1.0\r\n\r\n",
			"HTTP/0.9": "GET /app/x\r\n\r\n", "HTTP/3": "GET /app/x HTTP/3.0\r\nHost: app.test\r\n\r\n", "two spaces": "GET  /app/x HTTP/1.1\r\nHost: app.test\r\n\r\n", "a tab": "GET\t/app/x HTTP/1.1\r\nHost: app.test\r\n\r\n", "folded": "GET /app/x HTTP/1.1\r\nHost: evil.test\r\n app.test\r\n\r\n",
		} {
			if x := c.send(text); x.status() < 400 || x.status() >= 506 || x.finals() != 1 {
				c.Errorf("%s: %v", name, x)
			}
		}
		c.untouched()
	})
	a.row("I-20_unread_bodies", func(c *row) {
		// A body that nobody reads is not waited for for ever, nor is what it belongs to.
		requests := []string{
			"POST /bff/token", "POST /app/x", "GET /bff/nothing", "POST /bff/logout", "POST /bff/login", "POST /bff/backchannel-logout", "PUT /app/x", "DELETE /bff/sessions",
		}
		type ended struct {
			request string
			x       *exchanged
			after   time.Duration
		}
		done := make(chan ended)
		n := 0
		for _, first := range requests {
			for _, lines := range []string{"Content-Length: 1000\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n5\r\nhel", "Content-Length: 10\r\nExpect: 100-continue\r\n\r\n"} {
				n++
				go func() {
					start := time.Now()
					x := c.send(first + " HTTP/1.1\r\nHost: app.test\r\nContent-Type: application/x-www-form-urlencoded\r\n" + lines)
					done <- ended{first, x, time.Since(start)}
				}()
			}
		}
		for range n {
			if e := <-done; e.x.finals() != 1 || e.x.status() < 400 || e.after > 13*time.Second { // 10 s to read it, or 5 s to drop it
				c.Errorf("%s: %v after %v", e.request, e.x, e.after)
			}
		}
		c.untouched()
	})
	a.row("I-21_answered_early", func(c *row) {
		// The upstream answers before it has the body. The rest of that never comes.
		go func() {
			for {
				conn, err := early.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					_ = conn.SetDeadline(time.Now().Add(patience))
					_, _ = conn.Read(make([]byte, 8192))
					io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
					_, _ = io.Copy(io.Discard, conn)
				}()
			}
		}()
		var all sync.WaitGroup
		for _, lines := range []string{"Content-Length: 1000\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n5\r\nhel", "Content-Length: 10\r\nExpect: 100-continue\r\n\r\n", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"} {
			all.Go(func() {
				conn, err := net.Dial("tcp", c.g.Public)
				if err != nil {
					c.Error(err)
					return
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				start := time.Now()
				io.WriteString(conn, "POST /early/x HTTP/1.1\r\nHost: app.test\r\n"+lines)
				got, err := io.ReadAll(conn)
				if !strings.Contains(string(got), "HTTP/1.1 413 ") || !strings.Contains(string(got), "Connection: close\r\n") || err != nil && strings.Contains(err.Error(), "timeout") {
					c.Errorf("%q: %q, %v after %v", lines, got, err, time.Since(start))
				}
			})
		}
		all.Wait()
	})
	a.row("I-22_last_request", func(c *row) {
		// Where two readers may find two ends, nothing comes after (RFC 9112 section 6.1:
		// the connection must be closed). Whoever stands in front may have passed on as a
		// body what we would take for the next request.
		const next = "GET /public/next HTTP/1.1\r\nHost: app.test\r\n\r\n"
		for name, text := range map[string]string{
			"both lengths":              open("Content-Length: 15\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
			"both lengths, the other":   open("Transfer-Encoding: chunked\r\nContent-Length: 15\r\n", "5\r\nhello\r\n0\r\n\r\n"),
			"both, for nobody":          "POST /public/x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
			"both, of our own":          "POST /bff/token HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
			"both, and refused":         "POST /nowhere//x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
			"both, for no host of ours": "POST /x HTTP/1.1\r\nHost: evil.test\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
			"both, a GET":               "GET /public/x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
			"HTTP/1.0, chunked":         "POST /public/x HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
			"HTTP/1.0, a length alone":  "POST /public/x HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
			"HTTP/1.0, no length":       "POST /public/x HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
		} {
			x := c.send(text + next)
			if x.finals() != 1 || !strings.Contains(string(x.got), "\r\nConnection: close\r\n") {
				c.Errorf("%s: %d answers, %q", name, x.finals(), x.got)
			}
		}
		for _, r := range c.arrived() {
			if r.target == "/public/next" {
				c.Errorf("the upstream got what came after: %q", r.head)
			}
		}
		// One length is one end: the connection goes on.
		for _, text := range []string{open("Content-Length: 5\r\n", "hello"), "GET /public/x HTTP/1.1\r\nHost: app.test\r\n\r\n", "GET /public/x HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\n\r\n"} {
			if x := c.send(text + next); x.finals() != 2 {
				c.Errorf("%.60q: %d answers", text, x.finals())
			}
		}
	})
	a.row("I-24_http2_trailers", func(c *row) {
		// Over HTTP/2 as over HTTP/1.1 (I-05): what may be no header of the client's is
		// no trailer of its either.
		for _, trailer := range []field{
			{"authorization", "Bearer " + spoof}, {"cookie", "a=" + spoof}, {"x-forwarded-for", spoof}, {"x-forwarded-user", spoof}, {"x_forwarded_user", spoof}, {"host", spoof}, {"dpop", spoof}, {"x-bff", spoof}, {"content-type", spoof},
			{"transfer-encoding", "chunked"}, {"connection", spoof}, {":path", "/app/admin"}, {":status", "200"}, {"content-length", "100"}, {"X-Upper", spoof}, {"x-note", "a\r\nx-forwarded-user: " + spoof}, {"te", spoof}, {"expect", spoof},
		} {
			for _, announce := range []string{"", trailer.name, "x-note, " + trailer.name} {
				conn := c.dialHTTP2()
				head := append(fields("POST", "/app/x", fetchedFields...), a.cookieField("alice"))
				if announce != "" {
					head = append(head, field{"trailer", announce})
				}
				var block, last bytes.Buffer
				enc := hpack.NewEncoder(&block)
				for _, f := range head {
					_ = enc.WriteField(hpack.HeaderField{Name: f.name, Value: f.value, Sensitive: true})
				}
				_ = hpack.NewEncoder(&last).WriteField(hpack.HeaderField{Name: trailer.name, Value: trailer.value, Sensitive: true})
				fr := http2.NewFramer(conn, conn)
				fr.AllowIllegalWrites = true
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
				_ = fr.WriteData(1, false, []byte("hello"))
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: last.Bytes(), EndHeaders: true, EndStream: true})
				// Over the same connection, if there is one still: then that is through.
				_ = c.over(conn, 3, fields("GET", "/public/end"))
				conn.Close()
			}
		}
		for _, r := range c.arrived() {
			if strings.Contains(r.head, spoof) || strings.Contains(string(r.body), spoof) || strings.Contains(r.target, "admin") {
				c.Errorf("the upstream got %q %q", r.head, r.body)
			}
			if r.method == "POST" && r.sub() != "sub-alice" {
				c.Errorf("the upstream's bearer is %q's", r.sub())
			}
		}
		clean(c)
	})
	formRow(a, open)
	mutationRow(a)
	http2MutationRow(a)
	a.row("I-13_slow_header", func(c *row) {
		// A header that never ends is given up, and costs nobody else anything.
		start := time.Now()
		done := make(chan *exchanged)
		go func() { done <- c.send("GET /app/x HTTP/1.1\r\nHost: app.test\r\nX: ") }()
		c.want(c.send(get("/app/x", fetched, a.cookie("alice"))), http.StatusOK, "")
		if x := <-done; x.status() != 0 && x.status() != http.StatusRequestTimeout && x.status() != http.StatusBadRequest || time.Since(start) > 14*time.Second {
			c.Errorf("%v after %v", x, time.Since(start))
		}
	})
}
