package idp_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
)

// wire is a transport's dialer that sees all that is written, and can make
// connections die without the transport noticing.
type wire struct {
	mu     sync.Mutex
	dials  int
	out    strings.Builder // what left
	watch  bool            // the connections are as NewTransport's
	conns  []*wireConn
	closed chan struct{} // one per connection that the transport closed
}

type wireConn struct {
	net.Conn
	w    *wire
	dead atomic.Bool
	half atomic.Bool
	once sync.Once
}

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dials++
	wc := &wireConn{Conn: c, w: w}
	w.conns = append(w.conns, wc)
	if w.watch {
		return idp.Watch(wc), nil
	}
	return wc, nil
}

func (c *wireConn) Write(b []byte) (int, error) {
	if c.dead.Load() {
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: errors.New("broken pipe")}
	}
	if c.half.Load() {
		n, _ := c.Conn.Write(b[:len(b)/2])
		return n, &net.OpError{Op: "write", Net: "tcp", Err: errors.New("broken pipe")}
	}
	c.w.mu.Lock()
	c.w.out.Write(b)
	c.w.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *wireConn) Close() error {
	c.once.Do(func() {
		if c.w.closed != nil {
			c.w.closed <- struct{}{}
		}
	})
	return c.Conn.Close()
}

func (w *wire) written() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.String()
}

func (w *wire) use(f *fake) func(*idp.Config) {
	return func(c *idp.Config) {
		tr := idp.NewTransport()
		tr.DialContext = w.dial
		tr.MaxConnsPerHost = 1
		f.t.Cleanup(tr.CloseIdleConnections)
		c.Transport = tr
	}
}

func TestSendingComesBetweenConnectionAndToken(t *testing.T) {
	f := newFake(t)
	f.grants(nil)
	w := new(wire)
	calls := 0
	_, err := f.provider(w.use(f)).Refresh(context.Background(), refreshToken, subject, func() error {
		calls++
		if w.dials == 0 {
			t.Error("no connection yet")
		}
		if strings.Contains(w.written(), refreshToken) {
			t.Error("the token had left")
		}
		return nil
	})
	if err != nil || calls != 1 || !strings.Contains(w.written(), refreshToken) {
		t.Errorf("%v, %d calls", err, calls)
	}
}

func TestSendingRefuses(t *testing.T) {
	f := newFake(t)
	f.grants(nil)
	w := new(wire)
	p := f.provider(w.use(f))
	lost := errors.New("lease lost")
	for range 3 { // on a new connection, and after
		calls := 0
		_, err := p.Refresh(context.Background(), refreshToken, subject, func() error { calls++; return lost })
		if e := refreshError(t, err); e.Kind != idp.NotSent || !errors.Is(err, lost) || calls != 1 {
			t.Errorf("%v, %d calls", e, calls)
		}
	}
	if strings.Contains(w.written(), refreshToken) {
		t.Error("the token left all the same")
	}
	if _, err := p.Refresh(context.Background(), refreshToken, subject, nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// closedPort returns an address where nobody listens.
func closedPort() string {
	ln := must(net.Listen("tcp", "127.0.0.1:0"))
	defer ln.Close()
	return ln.Addr().String()
}

func TestNotSent(t *testing.T) {
	never := func(t *testing.T) func() error {
		return func() error { t.Error("sending was called"); return nil }
	}
	t.Run("connection refused", func(t *testing.T) {
		f := newFake(t)
		f.metadata["token_endpoint"] = "http://" + closedPort() + "/token"
		_, err := f.provider().Refresh(context.Background(), refreshToken, subject, never(t))
		if e := refreshError(t, err); e.Kind != idp.NotSent || !errors.Is(err, idp.ErrUnavailable) {
			t.Error(e)
		}
	})
	t.Run("certificate", func(t *testing.T) {
		f := newFake(t)
		f.metadata["token_endpoint"] = newTLSServer(t) + "/token"
		_, err := f.provider().Refresh(context.Background(), refreshToken, subject, never(t))
		if e := refreshError(t, err); e.Kind != idp.NotSent {
			t.Error(e)
		}
	})
	t.Run("no metadata", func(t *testing.T) {
		f := newFake(t)
		f.on(wellKnown, answer(503, ""))
		_, err := f.provider().Refresh(context.Background(), refreshToken, subject, never(t))
		if e := refreshError(t, err); e.Kind != idp.NotSent {
			t.Error(e)
		}
	})
	t.Run("context over before", func(t *testing.T) {
		f := newFake(t)
		p := f.provider()
		p.Discover(context.Background())
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := p.Refresh(ctx, refreshToken, subject, never(t))
		if e := refreshError(t, err); e.Kind != idp.NotSent || !errors.Is(err, context.Canceled) {
			t.Error(e)
		}
	})
	t.Run("O-01 no connection free", func(t *testing.T) {
		f := newFake(t)
		p := f.provider(new(wire).use(f), func(c *idp.Config) { c.Timeout = 200 * time.Millisecond })
		p.Discover(context.Background())
		arrived := make(chan struct{})
		f.on("/token", func(w http.ResponseWriter, r *http.Request) { close(arrived); <-r.Context().Done() })
		first := make(chan error)
		go func() {
			_, err := p.Refresh(context.Background(), refreshToken, subject, nil)
			first <- err
		}()
		<-arrived
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		_, err := p.Refresh(ctx, refreshToken, subject, never(t))
		if e := refreshError(t, err); e.Kind != idp.NotSent {
			t.Error(e)
		}
		if e := refreshError(t, <-first); e.Kind != idp.Unknown { // O-01: sent, and no answer
			t.Error(e)
		}
	})
	t.Run("context over while sending ran", func(t *testing.T) {
		f := newFake(t)
		w := &wire{closed: make(chan struct{}, 10)}
		p := f.provider(w.use(f))
		p.Discover(context.Background())
		ctx, cancel := context.WithCancel(context.Background())
		running := atomic.Bool{}
		_, err := p.Refresh(ctx, refreshToken, subject, func() error {
			running.Store(true)
			defer running.Store(false)
			cancel()
			<-w.closed // the transport has given up meanwhile
			return nil
		})
		if running.Load() {
			t.Error("Refresh returned while sending ran")
		}
		if e := refreshError(t, err); e.Kind != idp.NotSent || strings.Contains(w.written(), refreshToken) {
			t.Error(e)
		}
	})
}

func TestContextOverAfterSending(t *testing.T) {
	f := newFake(t)
	ctx, cancel := context.WithCancel(context.Background())
	f.on("/token", func(w http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
	_, err := f.provider().Refresh(ctx, refreshToken, subject, nil)
	if e := refreshError(t, err); e.Kind != idp.Unknown || !errors.Is(err, context.Canceled) {
		t.Error(e)
	}
}

// TestDeadConnection is O-11: a kept-alive connection that is dead when a
// refresh wants it must neither spend the token twice nor fail the refresh.
func TestDeadConnection(t *testing.T) {
	for _, row := range []struct {
		name string
		kill func(f *fake, w *wire)
	}{
		{"O-11 closed by the server, and noticed", func(f *fake, w *wire) {
			f.srv.CloseClientConnections()
			<-w.closed
		}},
		{"O-11 dead, and not noticed", func(f *fake, w *wire) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, c := range w.conns {
				c.dead.Store(true)
			}
		}},
	} {
		for _, style := range []string{idp.ClientSecretBasic, idp.ClientSecretPost} {
			t.Run(row.name+" "+style, func(t *testing.T) {
				f := newFake(t)
				f.grants(nil)
				w := &wire{closed: make(chan struct{}, 100)}
				p := f.provider(w.use(f), func(c *idp.Config) { c.ClientAuth = style })
				for round := 1; round <= 5; round++ {
					// Leaves a connection idle, so that the kill has one.
					if _, err := p.Refresh(context.Background(), "RT-warm", subject, nil); err != nil {
						t.Fatal(err)
					}
					before := w.dials
					row.kill(f, w)
					calls := 0
					if _, err := p.Refresh(context.Background(), refreshToken, subject, func() error { calls++; return nil }); err != nil {
						t.Fatal(err)
					}
					if calls != 1 || f.presented() != round || w.dials != before+1 {
						t.Fatalf("round %d: sending called %d times, token presented %d times, %d dials", round, calls, f.presented(), w.dials-before)
					}
				}
			})
		}
	}
	for _, watch := range []bool{false, true} {
		t.Run(fmt.Sprint("O-11 dies after sending, watched ", watch), func(t *testing.T) {
			f := newFake(t)
			f.grants(nil)
			w := &wire{watch: watch}
			p := f.provider(w.use(f))
			if _, err := p.Refresh(context.Background(), "RT-warm", subject, nil); err != nil {
				t.Fatal(err)
			}
			calls := 0
			_, err := p.Refresh(context.Background(), refreshToken, subject, func() error {
				calls++
				w.conns[0].dead.Store(true)
				return nil
			})
			if calls != 1 {
				t.Errorf("sending called %d times", calls)
			}
			if watch {
				// The system has taken none of it: it can go elsewhere.
				if err != nil || w.dials != 2 || f.presented() != 1 {
					t.Errorf("%v, %d dials, presented %d times", err, w.dials, f.presented())
				}
				return
			}
			// On a connection of others it may have left: nothing is presumed,
			// and nothing repeated.
			if e := refreshError(t, err); e.Kind != idp.Unknown || w.dials != 1 {
				t.Errorf("%v, %d dials", e, w.dials)
			}
		})
	}
	t.Run("O-11 half of it left", func(t *testing.T) {
		f := newFake(t)
		f.grants(nil)
		w := &wire{watch: true}
		p := f.provider(w.use(f))
		if _, err := p.Refresh(context.Background(), "RT-warm", subject, nil); err != nil {
			t.Fatal(err)
		}
		_, err := p.Refresh(context.Background(), refreshToken, subject, func() error { w.conns[0].half.Store(true); return nil })
		if e := refreshError(t, err); e.Kind != idp.Unknown || w.dials != 1 {
			t.Errorf("%v, %d dials", e, w.dials)
		}
	})
	t.Run("O-11 the server has gone", func(t *testing.T) {
		// With NewTransport's own connections. Whether the transport has
		// noticed yet is a matter of luck; the outcome is not.
		for range 20 {
			f := newFake(t)
			f.grants(nil)
			p := f.provider()
			if _, err := p.Refresh(context.Background(), "RT-warm", subject, nil); err != nil {
				t.Fatal(err)
			}
			f.srv.Close()
			_, err := p.Refresh(context.Background(), refreshToken, subject, nil)
			if e := refreshError(t, err); e.Kind != idp.NotSent {
				t.Fatal(e)
			}
		}
	})
}

// presented counts how often the refresh token came whole.
func (f *fake) presented() (n int) {
	for _, r := range f.requests("/token") {
		if r.form.Get("refresh_token") == refreshToken {
			n++
		}
	}
	return n
}

// rawToken serves the token endpoint byte by byte: serve gets each connection
// after the request's header.
func rawToken(f *fake, serve func(net.Conn, *bufio.Reader, *http.Request)) *atomic.Int32 {
	ln := must(net.Listen("tcp", "127.0.0.1:0"))
	var served sync.WaitGroup
	var count atomic.Int32
	served.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer c.Close()
				br := bufio.NewReader(c)
				if r, err := http.ReadRequest(br); err == nil {
					count.Add(1)
					serve(c, br, r)
				}
			})
		}
	})
	f.t.Cleanup(func() { ln.Close(); served.Wait() })
	f.metadata["token_endpoint"] = "http://" + ln.Addr().String() + "/token"
	return &count
}

func TestBrokenAnswers(t *testing.T) {
	for _, row := range []struct {
		name, text string
		kind       idp.RefreshKind
	}{
		{"closed without a word", "", idp.Unknown},
		{"garbage", "canary canary canary\r\n\r\n", idp.Unknown},
		{"TLS to us", "\x15\x03\x01\x00\x02\x02\x16", idp.Unknown},
		{"bad status", "HTTP/1.1 canary OK\r\n\r\n", idp.Unknown},
		{"bad header", "HTTP/1.1 200 OK\r\ncanary\r\n\r\n", idp.Unknown},
		{"header cut off", "HTTP/1.1 200 OK\r\nContent-Le", idp.Unknown},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", idp.Unknown},
		{"body cut off", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + `{"access_token":"x","token_type":"Bearer"}`, idp.Unknown},
		{"chunk cut off", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2b\r\n{\"access_token\":\"x\",\"token_type\":\"Bearer\"}\r\n", idp.Unknown},
		{"bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ncanary\r\n", idp.Unknown},
		{"503 cut off", "HTTP/1.1 503 Busy\r\nContent-Length: 100\r\n\r\n{", idp.Unknown},
		{"invalid_grant cut off", "HTTP/1.1 400 Bad\r\nContent-Length: 100\r\n\r\n" + `{"error":"invalid_grant"}`, idp.Unknown},
		{"invalid_grant to the end of the connection", "HTTP/1.1 400 Bad\r\nConnection: close\r\n\r\n" + `{"error":"invalid_grant"}`, idp.Rejected},
		{"header without end", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20), idp.Unknown},
		{"switching protocols", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", idp.Unknown},
	} {
		t.Run("O-03 "+row.name, func(t *testing.T) {
			f := newFake(t)
			count := rawToken(f, func(c net.Conn, br *bufio.Reader, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				io.WriteString(c, row.text)
			})
			calls := 0
			_, err := f.provider().Refresh(context.Background(), refreshToken, subject, func() error { calls++; return nil })
			if e := refreshError(t, err); e.Kind != row.kind {
				t.Errorf("%v, want %v", e, row.kind)
			}
			if calls != 1 || count.Load() != 1 {
				t.Errorf("sending called %d times, %d requests", calls, count.Load())
			}
		})
	}
	t.Run("reset", func(t *testing.T) {
		f := newFake(t)
		rawToken(f, func(c net.Conn, br *bufio.Reader, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			c.(*net.TCPConn).SetLinger(0)
		})
		_, err := f.provider().Refresh(context.Background(), refreshToken, subject, nil)
		if e := refreshError(t, err); e.Kind != idp.Unknown {
			t.Error(e)
		}
	})
	t.Run("answer to the header alone", func(t *testing.T) {
		// Before the body is there: the credentials were enough to refuse.
		f := newFake(t)
		answered := make(chan struct{})
		rawToken(f, func(c net.Conn, br *bufio.Reader, r *http.Request) {
			io.WriteString(c, "HTTP/1.1 401 No\r\nContent-Length: 26\r\n\r\n"+`{"error":"invalid_client"}`)
			close(answered)
			io.Copy(io.Discard, br)
		})
		_, err := f.provider().Refresh(context.Background(), refreshToken, subject, func() error { <-answered; return nil })
		if e := refreshError(t, err); e.Kind != idp.Unspent || !e.Misconfigured {
			t.Error(e)
		}
	})
}

func TestHTTP2(t *testing.T) {
	// Not what NewTransport speaks, but what a transport of the caller's may.
	f := newFake(t)
	f.srv.Close()
	f.srv = httptest.NewUnstartedServer(f)
	f.srv.EnableHTTP2 = true
	f.srv.StartTLS()
	t.Cleanup(f.srv.Close)
	for name, path := range map[string]string{"issuer": "", "token_endpoint": "/token", "authorization_endpoint": "/a", "jwks_uri": "/jwks"} {
		f.metadata[name] = f.srv.URL + path
	}
	for _, name := range []string{"userinfo_endpoint", "revocation_endpoint", "end_session_endpoint"} {
		delete(f.metadata, name)
	}
	f.grants(nil)
	p := f.provider(func(c *idp.Config) { c.Transport = f.srv.Client().Transport })
	calls := 0
	if _, err := p.Refresh(context.Background(), refreshToken, subject, func() error { calls++; return nil }); err != nil || calls != 1 {
		t.Errorf("%v, %d calls", err, calls)
	}
	lost := errors.New("lease lost")
	_, err := p.Refresh(context.Background(), refreshToken, subject, func() error { return lost })
	if e := refreshError(t, err); e.Kind != idp.NotSent || !errors.Is(err, lost) {
		t.Error(e)
	}
	for _, r := range f.requests("/token")[1:] {
		if r.form.Has("refresh_token") {
			t.Error("the token left all the same")
		}
	}
}
