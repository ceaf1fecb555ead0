package rig

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Live is an upstream of long answers: /socket is a WebSocket that greets and
// then listens, /events is an event stream of one event and then silence.
// Anything else is answered with {"ok":true}, and nothing is kept.
type Live struct{ *httptest.Server }

// NewLive starts one for the length of the test.
func NewLive(t testing.TB) *Live {
	l := &Live{}
	l.Server = httptest.NewServer(l)
	t.Cleanup(func() {
		l.CloseClientConnections()
		l.Close()
	})
	return l
}

func (l *Live) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/socket":
		l.socket(w, r)
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: hello\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"ok":true}`)
	}
}

func (l *Live) socket(w http.ResponseWriter, r *http.Request) {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "no hijacking", http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	_, _ = rw.Write([]byte{0x81, 5, 'h', 'e', 'l', 'l', 'o'})
	if rw.Flush() == nil {
		_, _ = io.Copy(io.Discard, rw)
	}
}

// Stream is a long answer that a client of a gateway has open.
type Stream struct {
	done chan struct{}
	// At is when it was over, and Code a WebSocket's close code, 0 if it was
	// cut without one. Read them when Done is closed.
	At   time.Time
	Code int
}

// Done is closed when the stream is over.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Open reports whether it isn't.
func (s *Stream) Open() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// Socket opens a WebSocket at a replica, with the browser's cookie unless header
// has an Authorization, and returns when the upstream's greeting is there.
func (b *Browser) Socket(g *Gateway, path string, header http.Header) (*Stream, error) {
	conn, err := net.Dial("tcp", g.Public)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequest(http.MethodGet, "http://"+g.Public+path, nil)
	if err != nil {
		return nil, err
	}
	r.Host = b.w.host()
	r.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Origin": {b.w.Origin},
	}
	b.credentials(r, header)
	if err := r.Write(conn); err != nil {
		conn.Close()
		return nil, err
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, r)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		conn.Close()
		return nil, fmt.Errorf("the WebSocket is refused: %d", resp.StatusCode)
	}
	if op, _, err := readFrame(in); err != nil || op != 1 {
		conn.Close()
		return nil, fmt.Errorf("no greeting: opcode %d, %v", op, err)
	}
	s := &Stream{done: make(chan struct{})}
	b.w.t.Cleanup(func() {
		conn.Close()
		<-s.done
	})
	go func() {
		defer close(s.done)
		defer conn.Close()
		for {
			op, payload, err := readFrame(in)
			s.At = time.Now()
			if err != nil {
				return
			}
			if op == 8 {
				if len(payload) >= 2 {
					s.Code = int(payload[0])<<8 | int(payload[1])
				}
				return
			}
		}
	}()
	return s, nil
}

// readFrame reads a short frame of a server's.
func readFrame(r io.Reader) (op byte, payload []byte, err error) {
	var h [2]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	payload = make([]byte, h[1]&0x7f) // none here is longer than 125 bytes
	_, err = io.ReadFull(r, payload)
	return h[0] & 0x0f, payload, err
}

// Events opens an event stream at a replica, with the browser's cookie unless
// header has an Authorization, and returns when the first event is there.
func (b *Browser) Events(g *Gateway, path string, header http.Header) (*Stream, error) {
	ctx, cancel := context.WithCancel(b.w.t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.Public+path, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	r.Host = b.w.host()
	r.Header = http.Header{"Accept": {"text/event-stream"}, "Sec-Fetch-Site": {"same-origin"}}
	b.credentials(r, header)
	resp, err := endless.RoundTrip(r)
	if err != nil {
		cancel()
		return nil, err
	}
	buf := make([]byte, 512)
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		cancel()
		return nil, fmt.Errorf("the event stream is refused: %d", resp.StatusCode)
	}
	if _, err := resp.Body.Read(buf); err != nil {
		resp.Body.Close()
		cancel()
		return nil, err
	}
	s := &Stream{done: make(chan struct{})}
	b.w.t.Cleanup(func() {
		cancel()
		<-s.done
	})
	go func() {
		defer close(s.done)
		defer resp.Body.Close()
		for {
			if _, err := resp.Body.Read(buf); err != nil {
				s.At = time.Now()
				return
			}
		}
	}()
	return s, nil
}

// endless is client's transport without its time limit.
var endless = &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}

func (b *Browser) credentials(r *http.Request, header http.Header) {
	for k, v := range header {
		r.Header[http.CanonicalHeaderKey(k)] = v
	}
	if c := b.Cookie(); c != "" && r.Header.Get("Authorization") == "" {
		r.Header.Set("Cookie", SessionCookie+"="+c)
	}
}
