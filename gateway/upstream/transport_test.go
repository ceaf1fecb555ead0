package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Once all requests wrote their hooks into one trace: each was told of the
// connections of all that came after it, and two at once were a data race.
func TestRequestsDoNotShareTheirTraces(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
	defer srv.Close()
	to, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := New(Options{Targets: []*url.URL{to}, TLS: &tls.Config{RootCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, MinVersion: tls.VersionTLS12}})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var told [8]atomic.Int64
	var all sync.WaitGroup
	for n := range told {
		all.Go(func() {
			ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { told[n].Add(1) }})
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
			if err != nil {
				t.Error(err)
				return
			}
			res, err := pool.RoundTrip(r)
			if err != nil {
				t.Error(err)
				return
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		})
	}
	all.Wait()
	for n := range told {
		if got := told[n].Load(); got != 1 {
			t.Errorf("request %d was told of %d connections", n, got)
		}
	}
}

// Where TLS can't be agreed on, nothing was sent: any request may go elsewhere.
func TestFailedHandshakeCostsNobodyAnAnswer(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	defer srv.Close()
	good, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	bad, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var tried atomic.Int64
	var all sync.WaitGroup
	defer all.Wait()
	defer bad.Close()
	all.Go(func() {
		for {
			c, err := bad.Accept()
			if err != nil {
				return
			}
			tried.Add(1)
			c.Close()
		}
	})
	roots := srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	pool, err := New(Options{Targets: []*url.URL{{Scheme: "https", Host: bad.Addr().String()}, good}, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for range 20 {
		r, err := http.NewRequest(http.MethodPost, srv.URL, io.NopCloser(strings.NewReader("body")))
		if err != nil {
			t.Fatal(err)
		}
		res, err := pool.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); string(b) != "body" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		res.Body.Close()
	}
	if tried.Load() == 0 {
		t.Error("nobody has tried the other address")
	}
}

// A request that net/http doesn't like says nothing about an address.
func TestUnusableRequestIsNoFailure(t *testing.T) {
	pool, err := New(Options{Targets: []*url.URL{{Scheme: "https", Host: refusing(t)}}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodPost, "https://u/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header["A b"] = []string{"c"}
	if _, err := pool.RoundTrip(r); err == nil || pool.addresses[0].failing.Load() {
		t.Errorf("%v; want an error that nobody counts", err)
	}
}

// Nor does one for a WebSocket, where HTTP/2 alone is spoken.
func TestUpgradeOverHTTP2IsNoFailure(t *testing.T) {
	pool, err := New(Options{Targets: []*url.URL{{Scheme: "http", Host: refusing(t)}}, Protocol: "h2c"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodGet, "http://u/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header["Connection"], r.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	if _, err := pool.RoundTrip(r); err != errUpgrade || pool.addresses[0].failing.Load() {
		t.Errorf("%v; want an error that nobody counts", err)
	}
}

// What costs a connection of ours costs one of net/http's, too.
func TestLastAnswersOverNetHTTP(t *testing.T) {
	for _, tt := range []struct {
		name  string
		serve func(c net.Conn, br *bufio.Reader)
		conns int
	}{
		{"an answer", func(c net.Conn, br *bufio.Reader) {
			br.Discard(4)
			io.WriteString(c, answerOK)
		}, 1},
		{"204", func(c net.Conn, br *bufio.Reader) {
			br.Discard(4)
			io.WriteString(c, "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")
		}, 1},
		{"I-10 204 that names a body", func(c net.Conn, br *bufio.Reader) {
			br.Discard(4)
			io.WriteString(c, "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n")
		}, 3},
		{"I-10 204 that names chunks", func(c net.Conn, br *bufio.Reader) {
			br.Discard(4)
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n"+chunkedLine+"\r\n")
		}, 3},
		{"an answer before the end of the request", func(c net.Conn, br *bufio.Reader) {
			br.Discard(1)
			io.WriteString(c, ok11+"Content-Length: 2\r\n\r\n")
			br.Discard(3)
			io.WriteString(c, "ok")
		}, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, func(_ *server, _, _ int, _ string, c net.Conn, br *bufio.Reader) bool {
				tt.serve(c, br)
				return true
			})
			pool := newPool(t, Options{}, s.addr)
			for range 3 {
				pr, pw := io.Pipe()
				r, err := http.NewRequest(http.MethodPost, "http://u/", pr)
				if err != nil {
					t.Fatal(err)
				}
				r.ContentLength = 4
				answered := make(chan struct{})
				go func() {
					io.WriteString(pw, "b")
					if strings.Contains(tt.name, "before") {
						<-answered
					}
					io.WriteString(pw, "ody")
					pw.Close()
				}()
				res, err := pool.RoundTrip(r)
				close(answered)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, res.Body); err != nil {
					t.Error(err)
				}
				res.Body.Close()
			}
			if n := s.connections(); n != tt.conns {
				t.Errorf("%d connections; want %d", n, tt.conns)
			}
		})
	}
}
