package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cloakroom/cloakroom/gateway/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test.
const patience = 10 * time.Second

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// rawUpstream is a server without an HTTP library on the sending side: it keeps
// the heads it receives as they are, and answers with bytes.
type rawUpstream struct {
	addr string
	ln   net.Listener
	done sync.WaitGroup
	// forget keeps no heads, for benchmarks. It is set before the first request.
	forget bool

	mu    sync.Mutex
	heads []string
	conns []net.Conn
}

// serveRaw starts an upstream. answer is called for each request, after its
// head was read, and reports whether the connection stays open; nil answers
// everything with 200.
func serveRaw(t testing.TB, answer func(u *rawUpstream, head string, c net.Conn, body *bufio.Reader) bool) *rawUpstream {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if answer == nil {
		answer = func(_ *rawUpstream, head string, c net.Conn, _ *bufio.Reader) bool {
			answer := okAnswer
			if strings.HasPrefix(head, "HEAD ") {
				answer = strings.TrimSuffix(answer, "ok")
			}
			io.WriteString(c, answer)
			return true
		}
	}
	u := &rawUpstream{addr: ln.Addr().String(), ln: ln}
	u.done.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			u.mu.Lock()
			u.conns = append(u.conns, c)
			u.mu.Unlock()
			u.done.Go(func() {
				defer c.Close()
				br := bufio.NewReader(c)
				for {
					if u.forget {
						for line := []byte(nil); len(line) != 2; {
							var err error
							if line, err = br.ReadSlice('\n'); err != nil {
								return
							}
						}
						if !answer(u, "", c, br) {
							return
						}
						continue
					}
					head, err := readHead(br)
					if err != nil {
						return
					}
					u.mu.Lock()
					u.heads = append(u.heads, head)
					u.mu.Unlock()
					if !answer(u, head, c, br) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		u.mu.Lock()
		for _, c := range u.conns {
			c.Close()
		}
		u.mu.Unlock()
		u.done.Wait()
	})
	return u
}

// answerWith answers every request with the same bytes, and closes.
func answerWith(raw string) func(*rawUpstream, string, net.Conn, *bufio.Reader) bool {
	return func(_ *rawUpstream, _ string, c net.Conn, _ *bufio.Reader) bool {
		io.WriteString(c, raw)
		return false
	}
}

func readHead(br *bufio.Reader) (string, error) {
	var b strings.Builder
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return "", err
		}
		b.WriteString(line)
		if line == "\r\n" {
			return b.String(), nil
		}
	}
}

// received returns the heads so far.
func (u *rawUpstream) received() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.heads)
}

// last returns the latest head.
func (u *rawUpstream) last(t testing.TB) string {
	t.Helper()
	heads := u.received()
	if len(heads) == 0 {
		t.Fatal("the upstream received nothing")
	}
	return heads[len(heads)-1]
}

// values returns the values of one header in a raw head, in order.
func values(head, name string) (vv []string) {
	for line := range strings.SplitSeq(head, "\r\n") {
		k, v, ok := strings.Cut(line, ":")
		if ok && strings.EqualFold(k, name) {
			vv = append(vv, textproto.TrimString(v))
		}
	}
	return vv
}

// front is a gateway in miniature around one Proxy.
type front struct {
	addr  string
	errs  chan error // what Forward returned, for every request
	proxy *Proxy
}

type frontOptions struct {
	bearer Bearer
	wrap   func(http.ResponseWriter) http.ResponseWriter
	before func(w http.ResponseWriter, r *http.Request) // e.g. limits
	ctx    func(context.Context) context.Context
	ended  <-chan struct{}
}

func newFront(t testing.TB, cfg Config, o frontOptions) *front {
	t.Helper()
	if cfg.OwnCookies == nil {
		cfg.OwnCookies = owned
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if pool, ok := p.cfg.Transport.(*upstream.Pool); ok {
		t.Cleanup(pool.Close)
	}
	f := &front{errs: make(chan error, 256), proxy: p}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, err := CanonicalPath(r.RequestURI)
		if err != nil {
			http.Error(w, "invalid_request", http.StatusBadRequest)
			return
		}
		if o.before != nil {
			o.before(w, r)
		}
		if o.wrap != nil {
			w = o.wrap(w)
		}
		if o.ctx != nil {
			r = r.WithContext(o.ctx(r.Context()))
		}
		err = p.Forward(w, r, Call{Path: path, Bearer: o.bearer, Ended: o.ended})
		f.errs <- err
		switch {
		case err == nil:
		case errors.Is(err, ErrMethod):
			w.WriteHeader(http.StatusMethodNotAllowed)
		case errors.Is(err, ErrRequestBody):
			w.WriteHeader(http.StatusBadRequest)
		case errors.Is(err, ErrEnded):
			w.WriteHeader(http.StatusUnauthorized)
		case errors.Is(err, ErrTimeout):
			w.WriteHeader(http.StatusGatewayTimeout)
		default:
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	t.Cleanup(srv.Close)
	f.addr = srv.Listener.Addr().String()
	return f
}

// to is a Config for an upstream.
func (u *rawUpstream) to() Config { return Config{Target: target("http://" + u.addr)} }

func target(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

// result waits for what Forward returned.
func (f *front) result(t testing.TB) error {
	t.Helper()
	select {
	case err := <-f.errs:
		return err
	case <-time.After(patience):
		t.Fatal("Forward does not return")
		return nil
	}
}

// dial opens a connection that no test waits on for ever.
func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
}

// send writes one raw request, which should ask for the connection to be
// closed, and returns all that comes back.
func send(t testing.TB, addr, raw string) string {
	t.Helper()
	c := dial(t, addr)
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("after %q: %v", b, err)
	}
	return string(b)
}

// get makes a raw request out of a target and header lines.
func get(target string, lines ...string) string {
	return request("GET", target, "", lines...)
}

func request(method, target, body string, lines ...string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n" +
		strings.Join(append(lines, ""), "\r\n") + "\r\n" + body
}

func status(answer string) string {
	_, rest, _ := strings.Cut(answer, " ")
	code, _, _ := strings.Cut(rest, " ")
	return code
}

// maxResponseHeader is as large as upstream's.
const maxResponseHeader = 256 << 10

// newTransport is net/http's own: what a Proxy uses over TLS.
func newTransport(t testing.TB, config *tls.Config) *http.Transport {
	t.Helper()
	tr := &http.Transport{
		TLSClientConfig:        config,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: maxResponseHeader,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}
