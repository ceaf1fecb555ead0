package attacks

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/test/rig"
)

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
