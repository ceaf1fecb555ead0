package upstream

import (
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
