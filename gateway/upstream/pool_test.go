package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test.
const patience = 10 * time.Second

const answerOK = ok11 + "Content-Length: 2\r\n\r\nok"

// server is an upstream without an HTTP library. It calls serve for each
// request, whose head was read; the connection is closed when that says so.
type server struct {
	addr  string
	ln    net.Listener
	done  sync.WaitGroup
	mu    sync.Mutex
	heads []string
	conns []net.Conn
}

func serve(t testing.TB, each func(s *server, conn, n int, head string, c net.Conn, br *bufio.Reader) bool) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: ln.Addr().String(), ln: ln}
	s.done.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			conn := len(s.conns)
			s.mu.Unlock()
			s.done.Go(func() {
				defer c.Close()
				br := bufio.NewReader(c)
				for n := 1; ; n++ {
					var head strings.Builder
					for {
						line, err := br.ReadString('\n')
						if err != nil {
							return
						}
						head.WriteString(line)
						if line == "\r\n" {
							break
						}
					}
					s.mu.Lock()
					s.heads = append(s.heads, head.String())
					s.mu.Unlock()
					if !each(s, conn, n, head.String(), c, br) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		s.done.Wait()
	})
	return s
}

func answering(raw string, stay bool) func(*server, int, int, string, net.Conn, *bufio.Reader) bool {
	return func(_ *server, _, _ int, _ string, c net.Conn, _ *bufio.Reader) bool {
		io.WriteString(c, raw)
		return stay
	}
}

func (s *server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *server) received() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.heads)
}

func newPool(t testing.TB, o Options, addrs ...string) *Pool {
	t.Helper()
	for _, a := range addrs {
		o.Targets = append(o.Targets, &url.URL{Scheme: "http", Host: a})
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// call is an Exchange's caller that keeps what it is told.
type call struct {
	slow    func()
	early   []int
	unblock func()
}

func (c *call) Slow() {
	if c.slow != nil {
		c.slow()
	}
}
func (c *call) Flush()               {}
func (c *call) Inform(h *Head) error { c.early = append(c.early, h.Status); return nil }
func (c *call) Unblock() {
	if c.unblock != nil {
		c.unblock()
	}
}

// get does one exchange to its end.
func get(p *Pool, x *Exchange) (string, error) {
	if x.Method == "" {
		x.Method = "GET"
	}
	if x.Target == "" {
		x.Target = "/"
	}
	if x.Timeout == 0 {
		x.Timeout = patience
	}
	if x.Caller == nil {
		x.Caller = &call{}
	}
	defer x.Done()
	if err := p.Do(x); err != nil {
		return "", err
	}
	var b bytes.Buffer
	for {
		part, err := x.Next()
		b.Write(part)
		if err == io.EOF {
			return b.String(), nil
		}
		if err != nil {
			return b.String(), err
		}
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	for _, tt := range []struct {
		name, raw string
		conns     int
	}{
		{"length", answerOK, 1},
		{"chunks", ok11 + chunkedLine + "\r\n2\r\nok\r\n0\r\n\r\n", 1},
		{"nothing", "HTTP/1.1 204 No Content\r\n\r\n", 1},
		{"after informational ones", "HTTP/1.1 103 X\r\n\r\n" + answerOK, 1},
		{"after one that names no body", "HTTP/1.1 103 X\r\nContent-Length: 0\r\n\r\n" + answerOK, 1},
		{"after one that closes", "HTTP/1.1 103 X\r\nConnection: close\r\n\r\n" + answerOK, 4},
		{"close", ok11 + "Connection: close\r\nContent-Length: 2\r\n\r\nok", 4},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 4},
		{"I-10 more than there should be", answerOK + "x", 4},
		{"I-10 two answers", answerOK + answerOK, 4},
		{"I-10 204 with a body", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", 4},
		{"I-11 NTLM", "HTTP/1.1 401 X\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n", 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, answering(tt.raw, true))
			p := newPool(t, Options{}, s.addr)
			for range 4 {
				if _, err := get(p, &Exchange{}); err != nil {
					t.Fatal(err)
				}
			}
			if n := s.connections(); n != tt.conns {
				t.Errorf("%d connections; want %d", n, tt.conns)
			}
		})
	}
}

// What an informational answer says of a body, its next reader could take for the
// answer.
func TestI10InformationalBodies(t *testing.T) {
	for name, field := range map[string]string{
		"length": "Content-Length: 3", "bad length": "Content-Length: x", "empty length": "Content-Length:",
		"chunks": "Transfer-Encoding: chunked", "two lengths": "Content-Length: 0\r\nContent-Length: 0",
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, answering("HTTP/1.1 103 X\r\n"+field+"\r\n\r\n"+answerOK, true))
			p := newPool(t, Options{}, s.addr)
			if got, err := get(p, &Exchange{}); err == nil {
				t.Errorf("read as %q", got)
			}
		})
	}
}

// I-10: an answer that comes when nobody asked is nobody's.
func TestI10BytesOnAnIdleConnection(t *testing.T) {
	stray, strayed := make(chan struct{}), make(chan struct{})
	s := serve(t, func(_ *server, conn, n int, _ string, c net.Conn, _ *bufio.Reader) bool {
		io.WriteString(c, ok11+fmt.Sprintf("Content-Length: 1\r\n\r\n%d", conn))
		if conn == 1 && n == 1 {
			<-stray
			io.WriteString(c, ok11+"Content-Length: 4\r\n\r\nEVIL")
			close(strayed)
		}
		return true
	})
	p := newPool(t, Options{}, s.addr)
	if got, err := get(p, &Exchange{}); got != "1" {
		t.Fatal(got, err)
	}
	close(stray)
	<-strayed
	if got, err := get(p, &Exchange{}); got != "2" {
		t.Errorf("body %q, %v; want that of another connection", got, err)
	}
}

// An idle connection that was closed costs nobody anything, POST neither.
func TestClosedIdleConnection(t *testing.T) {
	s := serve(t, func(_ *server, _, _ int, _ string, c net.Conn, br *bufio.Reader) bool {
		br.Discard(1) // or its end would be a reset, and the answer lost
		io.WriteString(c, answerOK)
		return false
	})
	p := newPool(t, Options{}, s.addr)
	for i := range 5 {
		if got, err := get(p, &Exchange{Method: "POST", Body: strings.NewReader("x"), Length: 1}); err != nil || got != "ok" {
			t.Fatal(got, err)
		}
		s.waitClosed(t, i)
	}
	if n := len(s.received()); n != 5 {
		t.Errorf("%d requests; want 5", n)
	}
}

// waitClosed waits until connection i was closed by the server.
func (s *server) waitClosed(t testing.TB, i int) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < patience; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		err := s.conns[i].SetDeadline(time.Time{})
		s.mu.Unlock()
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
	t.Fatal("not closed")
}

// what the upstream may have acted on is not sent again. It closes the
// kept connection once the second request is in.
func TestR07SentAtMostOnce(t *testing.T) {
	for _, tt := range []struct {
		name string
		x    func() *Exchange
		raw  string // of the answer, before the close
		sent int
	}{
		{"GET", func() *Exchange { return &Exchange{} }, "", 2},
		{"HEAD", func() *Exchange { return &Exchange{Method: "HEAD"} }, "", 2},
		{"OPTIONS", func() *Exchange { return &Exchange{Method: "OPTIONS"} }, "", 2},
		{"GET after the answer has begun", func() *Exchange { return &Exchange{} }, "HTTP/1.1 2", 1},
		{"GET after an informational answer", func() *Exchange { return &Exchange{} }, "HTTP/1.1 103 X\r\n\r\n", 1},
		{"GET with a body", func() *Exchange { return &Exchange{Body: strings.NewReader("x"), Length: 1} }, "", 1},
		{"POST", func() *Exchange { return &Exchange{Method: "POST"} }, "", 1},
		{"POST with a body", func() *Exchange { return &Exchange{Method: "POST", Body: strings.NewReader("x"), Length: 1} }, "", 1},
		{"POST in chunks", func() *Exchange { return &Exchange{Method: "POST", Body: strings.NewReader("x"), Length: -1} }, "", 1},
		{"PUT", func() *Exchange { return &Exchange{Method: "PUT"} }, "", 1},
		{"DELETE", func() *Exchange { return &Exchange{Method: "DELETE"} }, "", 1},
		{"a method of one's own", func() *Exchange { return &Exchange{Method: "GETX"} }, "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, func(_ *server, conn, n int, _ string, c net.Conn, _ *bufio.Reader) bool {
				if conn == 1 && n == 2 {
					io.WriteString(c, tt.raw)
					return false
				}
				answer := answerOK
				if conn == 2 && tt.x().Method == "HEAD" {
					answer = strings.TrimSuffix(answer, "ok")
				}
				io.WriteString(c, answer)
				return true
			})
			p := newPool(t, Options{}, s.addr)
			if _, err := get(p, &Exchange{Target: "/first"}); err != nil {
				t.Fatal(err)
			}
			_, err := get(p, tt.x())
			if n := len(s.received()) - 1; n != tt.sent || (err == nil) != (tt.sent == 2) {
				t.Errorf("sent %d times, %v; want %d", n, err, tt.sent)
			}
		})
	}
}

// A fresh connection that is closed says that the upstream doesn't like the
// request: nothing is sent twice.
func TestFreshConnectionIsNoReasonToRetry(t *testing.T) {
	s := serve(t, answering("", false))
	p := newPool(t, Options{}, s.addr)
	if _, err := get(p, &Exchange{}); err == nil || len(s.received()) != 1 {
		t.Errorf("%v after %d requests; want an error after 1", err, len(s.received()))
	}
}

func TestHalfReadBodiesAreNotKept(t *testing.T) {
	for _, tt := range []struct{ name, raw string }{
		{"length", ok11 + "Content-Length: 9\r\n\r\nhalf"},
		{"all there, not read", ok11 + "Content-Length: 4\r\n\r\nfull"},
		{"chunks", ok11 + chunkedLine + "\r\n4\r\nhalf\r\n"},
		{"chunks, all there, not read", ok11 + chunkedLine + "\r\n4\r\nfull\r\n0\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, answering(tt.raw, true))
			p := newPool(t, Options{}, s.addr)
			for range 3 {
				x := &Exchange{Method: "GET", Target: "/", Timeout: patience, Caller: &call{}}
				if err := p.Do(x); err != nil {
					t.Fatal(err)
				}
				x.Done()
			}
			if n := s.connections(); n != 3 {
				t.Errorf("%d connections; want 3", n)
			}
		})
	}
}

// A request that the upstream has answered without reading it is left on its
// connection, which nobody may use again.
func TestHalfSentRequestIsNotKept(t *testing.T) {
	s := serve(t, answering(ok11+"Content-Length: 2\r\n\r\nno", true))
	p := newPool(t, Options{}, s.addr)
	pr, pw := io.Pipe()
	x := &Exchange{Method: "POST", Body: pr, Length: 1 << 20, Caller: &call{unblock: func() { pw.CloseWithError(io.ErrClosedPipe) }}}
	if got, err := get(p, x); err != nil || got != "no" {
		t.Fatal(got, err)
	}
	if _, err := get(p, &Exchange{}); err != nil || s.connections() != 2 {
		t.Errorf("%v over %d connections; want 2", err, s.connections())
	}
}

// GO3, I-10: many at once, to an upstream that breaks framing in every way.
// Whoever gets an answer gets their own.
func TestI10NobodyGetsAnothersAnswer(t *testing.T) {
	var count atomic.Int64
	s := serve(t, func(_ *server, _, _ int, head string, c net.Conn, br *bufio.Reader) bool {
		_, rest, _ := strings.Cut(head, "/")
		id, _, _ := strings.Cut(rest, " ")
		if n, _, _ := strings.Cut(head, " "); n == "POST" {
			br.Discard(4)
		}
		body := "<" + id + ">"
		whole := fmt.Sprintf(ok11+"Content-Length: %d\r\n\r\n%s", len(body), body)
		switch count.Add(1) % 11 {
		case 1:
			io.WriteString(c, whole+whole)
		case 2:
			io.WriteString(c, fmt.Sprintf(ok11+"Content-Length: %d\r\n\r\n%s", len(body)-2, body))
		case 3:
			io.WriteString(c, fmt.Sprintf(ok11+"Content-Length: %d\r\n\r\n%s", len(body)+200, body+whole))
			return false
		case 4:
			io.WriteString(c, "HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n"+whole)
		case 5:
			io.WriteString(c, ok11+chunkedLine+"\r\n"+fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)+whole)
		case 6:
			io.WriteString(c, ok11+chunkedLine+fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body))+"0\r\n\r\n"+whole)
		case 7:
			io.WriteString(c, whole)
			return false
		case 8:
			return false
		default:
			io.WriteString(c, whole)
		}
		return true
	})
	p := newPool(t, Options{}, s.addr)
	var wg sync.WaitGroup
	var whole atomic.Int64
	for w := range 8 {
		wg.Go(func() {
			for i := range 125 {
				id := fmt.Sprintf("user%d-%d", w, i)
				x := &Exchange{Target: "/" + id, Timeout: time.Second}
				if i%3 == 0 {
					x.Method, x.Body, x.Length = "POST", strings.NewReader("body"), 4
				}
				got, err := get(p, x)
				want := "<" + id + ">"
				if err == nil && got == want {
					whole.Add(1)
				}
				for other := range strings.SplitSeq(got, "<user") {
					if other, _, closed := strings.Cut(other, ">"); closed && other != "" && "user"+other != id {
						t.Errorf("%s gets %q", id, got)
					}
				}
			}
		})
	}
	wg.Wait()
	if whole.Load() < 300 {
		t.Errorf("%d whole answers", whole.Load())
	}
}

func TestTimeout(t *testing.T) {
	gone := make(chan struct{}, 8)
	s := serve(t, func(_ *server, _, _ int, head string, c net.Conn, br *bufio.Reader) bool {
		if strings.HasPrefix(head, "GET /early ") {
			io.WriteString(c, "HTTP/1.1 103 X\r\n\r\n")
		}
		io.Copy(io.Discard, br)
		gone <- struct{}{}
		return false
	})
	p := newPool(t, Options{}, s.addr)
	for _, target := range []string{"/", "/early"} {
		slow := 0
		if _, err := get(p, &Exchange{Target: target, Timeout: 50 * time.Millisecond, Caller: &call{slow: func() { slow++ }}}); err != ErrTimeout || slow != 1 {
			t.Errorf("%s: %v, slow %d times; want ErrTimeout, once", target, err, slow)
		}
		<-gone
	}
}

func TestAbort(t *testing.T) {
	reached := make(chan struct{}, 8)
	s := serve(t, func(_ *server, _, _ int, head string, c net.Conn, br *bufio.Reader) bool {
		if strings.HasPrefix(head, "GET /body ") {
			io.WriteString(c, ok11+"Content-Length: 9\r\n\r\nhalf")
		}
		reached <- struct{}{}
		io.Copy(io.Discard, br)
		return false
	})
	p := newPool(t, Options{MaxConns: 1}, s.addr)
	for _, target := range []string{"/head", "/body"} {
		x := &Exchange{Target: target}
		go func() {
			<-reached
			x.Abort()
		}()
		if got, err := get(p, x); err == nil {
			t.Errorf("%s: %q", target, got)
		}
	}
	t.Run("before", func(t *testing.T) {
		x := &Exchange{}
		x.Abort()
		if _, err := get(p, x); err == nil {
			t.Error("an aborted exchange goes on")
		}
	})
	t.Run("while it waits for a connection", func(t *testing.T) {
		first := &Exchange{Method: "GET", Target: "/head", Timeout: patience, Caller: &call{}}
		over := make(chan error, 1)
		go func() { over <- p.Do(first) }()
		<-reached
		x := &Exchange{}
		x.Caller = &call{slow: x.Abort}
		if _, err := get(p, x); err == nil {
			t.Error("an aborted exchange goes on")
		}
		first.Abort()
		<-over
		first.Done()
	})
}

func TestMaxConns(t *testing.T) {
	var now, most atomic.Int64
	s := serve(t, func(_ *server, _, _ int, _ string, c net.Conn, _ *bufio.Reader) bool {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(time.Millisecond)
		now.Add(-1)
		io.WriteString(c, answerOK)
		return true
	})
	p := newPool(t, Options{MaxConns: 3}, s.addr)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 5 {
				if _, err := get(p, &Exchange{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if s.connections() > 3 || most.Load() > 3 {
		t.Errorf("%d connections, %d at once; want 3", s.connections(), most.Load())
	}
	t.Run("all busy for too long", func(t *testing.T) {
		hold := make(chan struct{})
		s := serve(t, func(_ *server, _, _ int, _ string, c net.Conn, _ *bufio.Reader) bool {
			<-hold
			io.WriteString(c, answerOK)
			return true
		})
		p := newPool(t, Options{MaxConns: 1}, s.addr)
		first := make(chan error)
		began := make(chan struct{})
		go func() {
			x := &Exchange{Caller: &call{slow: func() { close(began) }}}
			_, err := get(p, x)
			first <- err
		}()
		<-began
		for len(s.received()) == 0 {
			time.Sleep(time.Millisecond)
		}
		if _, err := get(p, &Exchange{Timeout: 30 * time.Millisecond}); err != ErrTimeout {
			t.Errorf("%v; want ErrTimeout", err)
		}
		if a := p.addresses[0]; a.failing.Load() || a.underWay.Load() != 1 || len(a.tokens) != 1 {
			t.Errorf("failing: %v, %d under way, %d connections in use; want the first alone", a.failing.Load(), a.underWay.Load(), len(a.tokens))
		}
		close(hold)
		if err := <-first; err != nil {
			t.Error(err)
		}
		if _, err := get(p, &Exchange{}); err != nil {
			t.Error(err)
		}
	})
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	s := serve(t, answering(answerOK, true))
	t.Run("in time", func(t *testing.T) {
		p := newPool(t, Options{IdleTimeout: 20 * time.Millisecond}, s.addr)
		before := s.connections()
		get(p, &Exchange{})
		s.waitClosed(t, before)
	})
	t.Run("too many", func(t *testing.T) {
		p := newPool(t, Options{MaxIdleConns: 1}, s.addr)
		var xs []*Exchange
		for range 3 {
			x := &Exchange{Method: "GET", Target: "/", Timeout: patience, Caller: &call{}}
			if err := p.Do(x); err != nil {
				t.Fatal(err)
			}
			xs = append(xs, x)
		}
		for _, x := range xs {
			for _, err := x.Next(); err != io.EOF; _, err = x.Next() {
			}
			x.Done()
		}
		if n := len(p.addresses[0].idle); n != 1 {
			t.Errorf("%d idle connections; want 1", n)
		}
	})
	t.Run("with the pool", func(t *testing.T) {
		p := newPool(t, Options{}, s.addr)
		get(p, &Exchange{})
		p.Close()
		if n := len(p.addresses[0].idle); n != 0 {
			t.Errorf("%d idle connections; want none", n)
		}
		if _, err := get(p, &Exchange{}); err != nil || len(p.addresses[0].idle) != 0 {
			t.Errorf("%v, %d idle connections after Close", err, len(p.addresses[0].idle))
		}
	})
}

func TestSplittingRequestLines(t *testing.T) {
	s := serve(t, answering(answerOK, true))
	p := newPool(t, Options{}, s.addr)
	for _, x := range []*Exchange{{Target: "/a HTTP/1.1\r\nX: y"}, {Target: "/a b"}, {Target: "/\n"}, {Method: "GET /x"}, {Target: "/\x7f"}} {
		if _, err := get(p, x); err == nil {
			t.Errorf("%q %q is sent", x.Method, x.Target)
		}
	}
	if n := len(s.received()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestNewRefuses(t *testing.T) {
	at := func(s ...string) (urls []*url.URL) {
		for _, s := range s {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			urls = append(urls, u)
		}
		return urls
	}
	for name, o := range map[string]Options{
		"nothing":             {},
		"nil":                 {Targets: []*url.URL{nil}},
		"no scheme":           {Targets: at("/x")},
		"another scheme":      {Targets: at("ftp://u")},
		"no host":             {Targets: at("http://:80")},
		"a user":              {Targets: at("http://a:b@u")},
		"two schemes":         {Targets: at("http://u", "https://u")},
		"an unknown protocol": {Targets: at("http://u"), Protocol: "h3"},
		"h2c over TLS":        {Targets: at("https://u"), Protocol: "h2c"},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

var _ http.RoundTripper = (*Pool)(nil)
