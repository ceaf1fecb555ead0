package faults

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Upstream is an API behind the gateways. It writes down what arrives, and
// answers with whose token it was: "sub=…;family=…;op=…;end".
type Upstream struct {
	*httptest.Server
	start time.Time
	mode  atomic.Pointer[func(op int64) Harm]

	mu       sync.Mutex
	arrivals []Arrival // guarded by mu
}

// Harm is what an upstream does to one request.
type Harm int

const (
	NoHarm      Harm = iota
	BeforeHead       // reset instead of an answer
	MidBody          // half of the body, then a reset
	ShortBody        // half of the body, then an orderly end
	AfterAnswer      // the answer, then the connection is reset
)

// opHeader carries the op's id through the gateway.
const opHeader = "X-Op"

func newUpstream(t testing.TB, start time.Time) *Upstream {
	u := &Upstream{start: start}
	u.Server = httptest.NewUnstartedServer(u)
	u.Server.Config.ErrorLog = nil
	u.Start()
	t.Cleanup(func() {
		u.CloseClientConnections()
		u.Close()
	})
	return u
}

// Harming has what f says done to each request; nil: nothing.
func (u *Upstream) Harming(f func(op int64) Harm) {
	if f == nil {
		u.mode.Store(nil)
		return
	}
	u.mode.Store(&f)
}

func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	now := time.Now()
	a := Arrival{At: now.Sub(u.start), Clock: now, Method: r.Method}
	a.Op, _ = strconv.ParseInt(r.Header.Get(opHeader), 10, 64)
	if claims := payload([]byte(bearer(r.Header.Get("Authorization")))); claims != nil {
		a.Subject, a.Family = field(claims, "sub"), field(claims, "family")
		a.Expires = time.Unix(number(claims, "exp"), 0)
	}
	u.mu.Lock()
	u.arrivals = append(u.arrivals, a)
	u.mu.Unlock()

	harm := NoHarm
	if f := u.mode.Load(); f != nil {
		harm = (*f)(a.Op)
	}
	body := fmt.Appendf(nil, "sub=%s;family=%s;op=%d;end", a.Subject, a.Family, a.Op)
	switch r.URL.Path {
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprintf(w, "data: %s\n\n", body)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
		case <-time.After(30 * time.Second):
		}
		return
	case "/socket":
		u.socket(w, r, body)
		return
	}
	switch harm {
	case BeforeHead:
		reset(w)
	case MidBody, ShortBody:
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		if harm == MidBody {
			reset(w)
			return
		}
		panic(http.ErrAbortHandler)
	default:
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
		if harm == AfterAnswer {
			_ = http.NewResponseController(w).Flush()
			reset(w)
		}
	}
}

// socket greets a WebSocket, and reads until it ends.
func (u *Upstream) socket(w http.ResponseWriter, r *http.Request, body []byte) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		accept(r.Header.Get("Sec-WebSocket-Key")))
	body = body[:min(len(body), 125)]
	_, _ = rw.Write(append([]byte{0x81, byte(len(body))}, body...))
	if rw.Flush() == nil {
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.Copy(io.Discard, rw)
	}
}

// reset closes the connection so that the other end sees a reset.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func (u *Upstream) seen() []Arrival {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]Arrival(nil), u.arrivals...)
}

func bearer(header string) string {
	const scheme = "Bearer "
	if len(header) < len(scheme) {
		return ""
	}
	return header[len(scheme):]
}

// payload is a JWT's claims, unchecked: the gateways check them, and here only
// the provider of the test makes any.
func payload(jwt []byte) []byte {
	_, rest, ok := bytes.Cut(jwt, []byte("."))
	if !ok {
		return nil
	}
	middle, _, ok := bytes.Cut(rest, []byte("."))
	if !ok {
		return nil
	}
	claims := make([]byte, base64.RawURLEncoding.DecodedLen(len(middle)))
	if _, err := base64.RawURLEncoding.Decode(claims, middle); err != nil {
		return nil
	}
	return claims
}

// field is a string member of a flat JSON object, read without a parser: this
// runs for each request.
func field(object []byte, name string) string {
	_, rest, ok := bytes.Cut(object, []byte(`"`+name+`":"`))
	if !ok {
		return ""
	}
	value, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(value)
}

func number(object []byte, name string) int64 {
	_, rest, ok := bytes.Cut(object, []byte(`"`+name+`":`))
	if !ok {
		return 0
	}
	end := bytes.IndexAny(rest, ",}")
	n, _ := strconv.ParseInt(string(rest[:max(end, 0)]), 10, 64)
	return n
}
