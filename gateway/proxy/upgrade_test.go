package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/upstream"
)

const wsRequest = "GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n" +
	"Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\nCookie: __Host-Http-cloakroom=CKcanary\r\n\r\n"

const switchAnswer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n"

// switching answers an upgrade, and then echoes.
func switching(_ *rawUpstream, head string, c net.Conn, br *bufio.Reader) bool {
	io.WriteString(c, strings.TrimSuffix(switchAnswer, "\r\n")+poison+"\r\n")
	io.Copy(c, unmasking(br))
	return false
}

// unmasking turns what clients send into what servers do: an echo of whole
// frames, whose Close is answered by it.
func unmasking(r io.Reader) io.Reader {
	pr, pw := io.Pipe()
	go func() {
		br := bufio.NewReader(r)
		for {
			first, payload, _, err := readFrame(br)
			if err != nil {
				pw.CloseWithError(io.EOF)
				return
			}
			if _, err := pw.Write(frameBytes(first, payload, false)); err != nil || first == 0x88 {
				pw.CloseWithError(io.EOF)
				return
			}
		}
	}()
	return pr
}

var echoSizes = []int{0, 1, 125, 126, 1000, smallBuffer, largeBuffer, 64 << 10, 1<<16 + 1, 1 << 20}

// wsClient is a browser's side of a WebSocket.
type wsClient struct {
	net.Conn
	t    testing.TB
	r    *bufio.Reader
	head string
}

func dialWebSocket(t testing.TB, addr string) *wsClient {
	t.Helper()
	w := &wsClient{Conn: dial(t, addr), t: t}
	io.WriteString(w, wsRequest)
	w.r = bufio.NewReader(w)
	var err error
	if w.head, err = readHead(w.r); err != nil || status(w.head) != "101" {
		t.Fatalf("answer %q, %v; want 101", w.head, err)
	}
	return w
}

// echo sends a message and wants it back.
func (w *wsClient) echo(size int) {
	w.t.Helper()
	msg := bytes.Repeat([]byte("0123456789abcdef~"), size/17+1)[:size]
	go w.Write(frameBytes(0x82, msg, true))
	first, got, masked, err := readFrame(w.r)
	if err != nil || first != 0x82 || masked || !bytes.Equal(got, msg) {
		w.t.Fatalf("echo of %d bytes: %x, %d bytes, %v", size, first, len(got), err)
	}
}

// wantClose reads to the end, which must be a Close frame.
func (w *wsClient) wantClose(text string) {
	w.t.Helper()
	for {
		first, payload, _, err := readFrame(w.r)
		if err != nil {
			w.t.Fatalf("%v; want a Close frame", err)
		}
		if first == 0x88 {
			if closeText(payload) != text {
				w.t.Errorf("closed with %q; want %q", closeText(payload), text)
			}
			return
		}
	}
}

// wantCut wants the connection's end.
func (w *wsClient) wantCut() {
	w.t.Helper()
	if b, err := io.ReadAll(w.r); len(b) > 0 || isTimeout(err) {
		w.t.Errorf("%d more bytes, %v; want the end", len(b), err)
	}
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}

func TestWebSocket(t *testing.T) {
	u := serveRaw(t, switching)
	f := newFront(t, u.to(), frontOptions{
		bearer: "ATcanary",
		ended:  make(chan struct{}),
		before: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Strict-Transport-Security", "max-age=1") },
		wrap:   func(w http.ResponseWriter) http.ResponseWriter { return &finalCookie{ResponseWriter: w} },
	})
	w := dialWebSocket(t, f.addr)
	if strings.Contains(w.head, "EVIL") || strings.Contains(w.head, "cloakroom") || !strings.Contains(w.head, "X-Kept: yes") {
		t.Errorf("R-01: answer %q", w.head)
	}
	for name, want := range map[string][]string{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-WebSocket-Accept": {"y"}, "Set-Cookie": {"theme=dark"}, "Strict-Transport-Security": {"max-age=1"},
	} {
		if got := values(w.head, name); !slices.Equal(got, want) {
			t.Errorf("%s = %q; want %q", name, got, want)
		}
	}
	for _, size := range echoSizes {
		w.echo(size)
	}
	got := u.last(t)
	if !slices.Equal(values(got, "Upgrade"), []string{"WebSocket"}) || !slices.Equal(values(got, "Authorization"), []string{"Bearer ATcanary"}) || strings.Contains(got, "CKcanary") {
		t.Errorf("the upstream sees %q", got)
	}
	w.Write(closing{1000, ""}.frame(true))
	w.wantClose("1000 ")
	w.wantCut()
	w.Close()
	if err := f.result(t); err != nil {
		t.Errorf("Forward: %v", err)
	}
}

func TestWebSocketRefused(t *testing.T) {
	u := serveRaw(t, answerWith("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"))
	f := newFront(t, u.to(), frontOptions{})
	c := dial(t, f.addr)
	io.WriteString(c, wsRequest)
	if head, err := readHead(bufio.NewReader(c)); err != nil || status(head) != "403" {
		t.Errorf("answer %q, %v", head, err)
	}
}

func TestJ05BadSwitches(t *testing.T) {
	for _, tt := range []struct{ name, lines string }{
		{"nothing", ""},
		{"another protocol", "Connection: Upgrade\r\nUpgrade: h2c\r\n"},
		{"two protocols", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n"},
		{"two headers", "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n"},
		{"not a connection option", "Upgrade: websocket\r\n"},
		{"Kelvin sign", "Connection: Upgrade\r\nUpgrade: websoc\u212aet\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := serveRaw(t, answerWith("HTTP/1.1 101 X\r\n"+tt.lines+"\r\nEVIL"))
			f := newFront(t, u.to(), frontOptions{})
			c := dial(t, f.addr)
			io.WriteString(c, wsRequest)
			head, err := readHead(bufio.NewReader(c))
			if err != nil || status(head) != "502" || strings.Contains(head, "EVIL") {
				t.Errorf("answer %q, %v", head, err)
			}
			if err := f.result(t); !errors.Is(err, ErrUnreachable) {
				t.Errorf("Forward: %v", err)
			}
		})
	}
}

func TestSwitchHeaderIsHopByHop(t *testing.T) {
	u := serveRaw(t, answerWith("HTTP/1.1 101 X\r\nConnection: Upgrade, X-Hop\r\nUpgrade: websocket\r\nX-Hop: EVIL\r\nKeep-Alive: EVIL\r\n\r\n"))
	f := newFront(t, u.to(), frontOptions{})
	w := dialWebSocket(t, f.addr)
	if strings.Contains(w.head, "EVIL") || strings.Contains(w.head, "X-Hop") {
		t.Errorf("answer %q", w.head)
	}
}

// A transport that keeps the connection for itself can't have a tunnel.
func TestWebSocketNeedsTheConnection(t *testing.T) {
	u := serveRaw(t, switching)
	inner := newTransport(t, nil)
	hiding := roundTripper(func(r *http.Request) (*http.Response, error) {
		return inner.RoundTrip(r.WithContext(context.Background()))
	})
	f := newFront(t, Config{Target: target("http://" + u.addr), Transport: hiding}, frontOptions{})
	c := dial(t, f.addr)
	io.WriteString(c, wsRequest)
	if head, err := readHead(bufio.NewReader(c)); err != nil || status(head) != "502" {
		t.Errorf("answer %q, %v", head, err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A browser's wss: over HTTP/1.1 beside HTTP/2, and closed like any other.
func TestWebSocketOverTLS(t *testing.T) {
	u := serveRaw(t, switching)
	p, err := New(u.to())
	if err != nil {
		t.Fatal(err)
	}
	defer p.cfg.Transport.(*upstream.Pool).Close()
	ended := make(chan struct{})
	over := make(chan error, 2)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		over <- p.Forward(w, r, Call{Path: r.URL.Path, Ended: ended})
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	open := func() *wsClient {
		c := tls.Client(dial(t, srv.Listener.Addr().String()), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		io.WriteString(c, wsRequest)
		w := &wsClient{Conn: c, t: t, r: bufio.NewReader(c)}
		if head, err := readHead(w.r); err != nil || status(head) != "101" {
			t.Fatalf("answer %q, %v", head, err)
		}
		for _, size := range echoSizes {
			w.echo(size)
		}
		return w
	}
	w := open()
	w.Conn.(*tls.Conn).CloseWrite() // the upstream answers that with its end
	w.wantCut()
	if err := <-over; err != nil {
		t.Errorf("Forward: %v", err)
	}
	w = open()
	close(ended)
	w.wantClose("4401 session ended")
	w.wantCut()
	if err := <-over; err != nil {
		t.Errorf("Forward: %v", err)
	}
}

// What comes along with the handshake, from either side, is not lost.
func TestWebSocketEarlyFrames(t *testing.T) {
	hello := frameBytes(0x81, []byte(strings.Repeat("hello", 300)), false)
	u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, br *bufio.Reader) bool {
		io.WriteString(c, switchAnswer+string(hello))
		io.Copy(c, unmasking(br))
		return false
	})
	f := newFront(t, u.to(), frontOptions{})
	early := frameBytes(0x82, []byte(strings.Repeat("early", 500)), true)
	c := dial(t, f.addr)
	io.WriteString(c, wsRequest+string(early))
	br := bufio.NewReader(c)
	if head, err := readHead(br); err != nil || status(head) != "101" {
		t.Fatalf("answer %q, %v", head, err)
	}
	for _, want := range []string{"hello", "early"} {
		if _, payload, _, err := readFrame(br); err != nil || !strings.HasPrefix(string(payload), want) {
			t.Errorf("got %.20q, %v; want %s", payload, err, want)
		}
	}
}

// flooding sends frames of 1 MiB without an end, and reads what it is sent.
func flooding(_ *rawUpstream, _ string, c net.Conn, br *bufio.Reader) bool {
	io.WriteString(c, switchAnswer)
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(io.Discard, br)
	}()
	for frame := frameBytes(0x82, make([]byte, 1<<20), false); ; {
		if _, err := c.Write(frame); err != nil {
			c.Close()
			<-done
			return false
		}
	}
}

// stalling sends the beginning of a large frame, and no more.
func stalling(_ *rawUpstream, _ string, c net.Conn, br *bufio.Reader) bool {
	io.WriteString(c, switchAnswer)
	c.Write(frameBytes(0x82, make([]byte, 1<<20), false)[:100<<10])
	io.Copy(io.Discard, br)
	return false
}

func TestJ04WebSocketIsClosed(t *testing.T) {
	const text = "4401 session ended"
	for _, tt := range []struct {
		name   string
		answer func(*rawUpstream, string, net.Conn, *bufio.Reader) bool
		use    func(w *wsClient, end func())
		within time.Duration // of the end; the rest is the machine's
	}{
		{"idle", switching, func(w *wsClient, end func()) {
			w.echo(10)
			end()
			w.wantClose(text)
			w.Write(sessionEnded.frame(true))
			w.wantCut()
		}, 0},
		{"unanswered", switching, func(w *wsClient, end func()) {
			end()
			w.wantClose(text)
			w.wantCut()
		}, closeTimeout},
		{"amid large frames", flooding, func(w *wsClient, end func()) {
			readFrame(w.r)
			end()
			w.wantClose(text)
			w.wantCut()
		}, closeTimeout},
		{"in a frame that doesn't end", stalling, func(w *wsClient, end func()) {
			io.CopyN(io.Discard, w.r, 100<<10)
			end()
			w.wantCut()
		}, closeTimeout},
		{"nobody reads", flooding, func(w *wsClient, end func()) { end() }, closeTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := serveRaw(t, tt.answer)
			ended := make(chan struct{})
			f := newFront(t, u.to(), frontOptions{ended: ended})
			w := dialWebSocket(t, f.addr)
			var at time.Time
			tt.use(w, func() {
				at = time.Now()
				close(ended)
			})
			if err := f.result(t); err != nil {
				t.Errorf("Forward: %v", err)
			}
			if took := time.Since(at); took > tt.within+time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestWebSocketEndsWithItsContext(t *testing.T) {
	u := serveRaw(t, switching)
	end := make(chan context.CancelFunc, 1)
	f := newFront(t, u.to(), frontOptions{ctx: func(ctx context.Context) context.Context {
		ctx, cancel := context.WithCancel(ctx)
		end <- cancel
		return ctx
	}})
	w := dialWebSocket(t, f.addr)
	(<-end)()
	w.wantClose("1001 going away")
	w.wantCut()
	if err := f.result(t); err != nil {
		t.Errorf("Forward: %v", err)
	}
}

func TestMalformedFrameClosesTheWebSocket(t *testing.T) {
	u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, br *bufio.Reader) bool {
		io.WriteString(c, switchAnswer+"\x81\x02hi\x81\x82EVIL")
		io.Copy(io.Discard, br)
		return false
	})
	f := newFront(t, u.to(), frontOptions{})
	w := dialWebSocket(t, f.addr)
	if _, payload, _, err := readFrame(w.r); string(payload) != "hi" {
		t.Errorf("first %q, %v", payload, err)
	}
	w.wantClose("1002 protocol error")
	w.wantCut()
}

func TestJ06HalfClose(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, br *bufio.Reader) bool {
			io.WriteString(c, switchAnswer)
			all, _ := io.ReadAll(br) // to the end, then answers
			c.Write(frameBytes(0x82, all, false))
			return false
		})
		f := newFront(t, u.to(), frontOptions{})
		w := dialWebSocket(t, f.addr)
		sent := frameBytes(0x82, make([]byte, 100<<10), true)
		w.Write(sent)
		w.Conn.(*net.TCPConn).CloseWrite()
		if _, got, _, err := readFrame(w.r); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("got %d bytes, %v; want %d", len(got), err, len(sent))
		}
		w.wantCut()
	})
	t.Run("upstream", func(t *testing.T) {
		heard := make(chan []byte, 1)
		u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, br *bufio.Reader) bool {
			io.WriteString(c, switchAnswer)
			c.(*net.TCPConn).CloseWrite()
			all, _ := io.ReadAll(br)
			heard <- all
			return false
		})
		f := newFront(t, u.to(), frontOptions{})
		w := dialWebSocket(t, f.addr)
		w.wantCut()
		sent := frameBytes(0x82, make([]byte, 100<<10), true)
		w.Write(sent)
		w.Close()
		if got := <-heard; !bytes.Equal(got, sent) {
			t.Errorf("the upstream gets %d bytes; want %d", len(got), len(sent))
		}
	})
}

// J-06: when one side is gone, so is the other.
func TestWebSocketSideGone(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		gone := make(chan struct{})
		u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, br *bufio.Reader) bool {
			io.WriteString(c, switchAnswer)
			io.Copy(io.Discard, br)
			close(gone)
			return false
		})
		f := newFront(t, u.to(), frontOptions{})
		w := dialWebSocket(t, f.addr)
		w.Conn.(*net.TCPConn).SetLinger(0) // a reset
		w.Close()
		<-gone
		if err := f.result(t); err != nil {
			t.Errorf("Forward: %v", err)
		}
	})
	t.Run("upstream", func(t *testing.T) {
		u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, br *bufio.Reader) bool {
			io.WriteString(c, switchAnswer)
			c.(*net.TCPConn).SetLinger(0)
			return false
		})
		f := newFront(t, u.to(), frontOptions{})
		w := dialWebSocket(t, f.addr)
		w.wantCut()
		if err := f.result(t); err != nil {
			t.Errorf("Forward: %v", err)
		}
	})
}
