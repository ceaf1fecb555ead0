package upstream

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// counted returns what a counter of one address has come to.
func counted(t *testing.T, reg *prometheus.Registry, name, address string) (n float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == name && l.GetName() == "address" && l.GetValue() == address {
					n += m.GetCounter().GetValue()
				}
			}
		}
	}
	return n
}

// refusing returns an address that nobody listens at.
func refusing(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func TestUnreachableAddressCostsNobodyAnAnswer(t *testing.T) {
	s := serve(t, func(_ *server, _, _ int, head string, c net.Conn, br *bufio.Reader) bool {
		if strings.HasPrefix(head, "POST") {
			br.Discard(1)
		}
		io.WriteString(c, answerOK)
		return true
	})
	reg := prometheus.NewRegistry()
	dead := refusing(t)
	p := newPool(t, Options{Metrics: NewMetrics(reg)}, dead, s.addr, dead)
	for range 20 {
		if got, err := get(p, &Exchange{Method: "POST", Body: strings.NewReader("x"), Length: 1}); err != nil || got != "ok" {
			t.Fatal(got, err)
		}
	}
	if n := len(s.received()); n != 20 {
		t.Errorf("%d requests; want 20", n)
	}
	if n := counted(t, reg, "cloakroom_upstream_failures_total", dead); n < 1 || n > 2 {
		t.Errorf("%v attempts at an address that can't be connected to; want one each", n)
	}
	if n := counted(t, reg, "cloakroom_upstream_connections_opened_total", s.addr); n != 1 {
		t.Errorf("%v connections opened; want 1", n)
	}
}

func TestAllUnreachable(t *testing.T) {
	p := newPool(t, Options{}, refusing(t), refusing(t))
	for range 3 { // never the last one
		if _, err := get(p, &Exchange{}); !isDial(err) {
			t.Errorf("%v; want that of the connection", err)
		}
	}
	req, _ := http.NewRequest("POST", "http://u/", strings.NewReader("x"))
	if _, err := p.RoundTrip(req); !isDial(err) {
		t.Errorf("RoundTrip: %v", err)
	}
}

func TestAddressesRest(t *testing.T) {
	p := newPool(t, Options{}, "a:1", "b:1")
	a, b := p.addresses[0], p.addresses[1]
	chosen := func() (n int) {
		for range 200 {
			if p.pick(nil) == a {
				n++
			}
		}
		return n
	}
	if n := chosen(); n < 40 || n > 160 {
		t.Errorf("chosen %d times of 200", n)
	}
	for range strikes - 1 {
		a.fail(ErrTimeout, false)
	}
	a.succeed()
	for range strikes - 1 {
		a.fail(ErrTimeout, false)
	}
	if n := chosen(); n == 0 {
		t.Error("left out for failures that were not in a row")
	}
	var last time.Duration
	for i := range 8 {
		a.fail(ErrTimeout, false)
		if n := chosen(); n != 0 {
			t.Errorf("round %d: chosen %d times while it is left out", i, n)
		}
		rest := time.Until(time.Unix(0, a.restsTo.Load()))
		if rest > longestRest || rest < min(2*last, longestRest)-time.Second {
			t.Errorf("round %d: left out for %v after %v", i, rest, last)
		}
		last = rest
		a.restsTo.Store(1) // the time is over
		if n := chosen(); n == 0 {
			t.Errorf("round %d: not chosen when it is over", i)
		}
	}
	a.fail(ErrTimeout, false)
	b.fail(ErrTimeout, true)
	if p.pick(nil) != b {
		t.Error("of two that are left out, not the one that is back first")
	}
	if p.pick([]*address{b}) != a {
		t.Error("the same one again")
	}
	a.succeed()
	if n := chosen(); n != 200 {
		t.Errorf("chosen %d times of 200 as the only good one", n)
	}
}

// An address whose rest is over gets one request, and the others once that is
// answered: it may take all that it gets, and answer none.
func TestOneRequestTriesARestedAddress(t *testing.T) {
	p := newPool(t, Options{}, "a:1", "b:1", "c:1")
	a := p.addresses[0]
	chosen := func() (n int) {
		for range 200 {
			if p.pick(nil) == a {
				n++
			}
		}
		return n
	}
	rest := func() time.Duration { return time.Until(time.Unix(0, a.restsTo.Load())).Round(100 * time.Millisecond) }
	for range strikes {
		a.fail(ErrTimeout, false)
	}
	for _, want := range []time.Duration{firstRest, 2 * firstRest, 4 * firstRest} {
		if rest() != want {
			t.Errorf("left out for %v; want %v", rest(), want)
		}
		a.restsTo.Store(1) // the time is over
		if n := chosen(); n != 1 || rest() != want {
			t.Errorf("chosen %d times, and left out for %v more; want once, and %v", n, rest(), want)
		}
		a.fail(ErrTimeout, false)
		a.fail(ErrTimeout, false) // one of before
	}
	a.restsTo.Store(1)
	chosen()
	a.succeed()
	if n := chosen(); n < 10 {
		t.Errorf("chosen %d times of 200 when it is back", n)
	}
}

func TestTheLessBusyAddressIsChosen(t *testing.T) {
	p := newPool(t, Options{}, "a:1", "b:1", "c:1")
	p.addresses[1].begin()
	n := map[*address]int{}
	for range 300 {
		n[p.pick(nil)]++
	}
	if n[p.addresses[1]] != 0 || n[p.addresses[0]] < 50 || n[p.addresses[2]] < 50 {
		t.Errorf("chosen %d, %d, %d times", n[p.addresses[0]], n[p.addresses[1]], n[p.addresses[2]])
	}
}

// Who doesn't finish a request must not get an upstream left out.
func TestClientsTimeoutIsNoFailure(t *testing.T) {
	s := serve(t, func(_ *server, _, _ int, _ string, c net.Conn, br *bufio.Reader) bool {
		io.Copy(io.Discard, br)
		return false
	})
	p := newPool(t, Options{}, s.addr)
	pr, pw := io.Pipe()
	x := &Exchange{Method: "POST", Body: pr, Length: 9, Timeout: 20 * time.Millisecond, Caller: &call{unblock: func() { pw.Close() }}}
	if _, err := get(p, x); err != ErrTimeout {
		t.Errorf("%v; want ErrTimeout", err)
	}
	if p.addresses[0].failing.Load() {
		t.Error("counted as the upstream's failure")
	}
	if _, err := get(p, &Exchange{Timeout: 20 * time.Millisecond}); err != ErrTimeout || !p.addresses[0].failing.Load() {
		t.Errorf("%v; want a failure", err)
	}
}

// RoundTrip speaks what Do does not.
func TestRoundTrip(t *testing.T) {
	proto := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Got", r.Proto+" "+r.Host+" "+r.RequestURI+" "+string(b))
	})
	plain := httptest.NewUnstartedServer(proto)
	plain.Config.Protocols = new(http.Protocols)
	plain.Config.Protocols.SetHTTP1(true)
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Start()
	defer plain.Close()
	secure := httptest.NewUnstartedServer(proto)
	secure.EnableHTTP2 = true
	secure.StartTLS()
	defer secure.Close()
	for _, tt := range []struct{ at, protocol, want string }{
		{plain.URL, "", "HTTP/1.1"},
		{plain.URL, "http1", "HTTP/1.1"},
		{plain.URL, "h2c", "HTTP/2.0"},
		{secure.URL, "", "HTTP/2.0"},
		{secure.URL, "http1", "HTTP/1.1"},
	} {
		u, _ := url.Parse(tt.at)
		p, err := New(Options{Targets: []*url.URL{u}, Protocol: tt.protocol, TLS: secure.Client().Transport.(*http.Transport).TLSClientConfig.Clone()})
		if err != nil {
			t.Fatal(err)
		}
		if want := u.Scheme == "http" && tt.protocol != "h2c"; p.Direct() != want {
			t.Errorf("%s %q: Direct = %v", u.Scheme, tt.protocol, p.Direct())
		}
		for range 2 {
			req, _ := http.NewRequest("POST", "http://elsewhere.test/a%2Fb?c=%zz", strings.NewReader("body"))
			res, err := p.RoundTrip(req)
			if err != nil {
				t.Fatalf("%s %q: %v", u.Scheme, tt.protocol, err)
			}
			if got, want := res.Header.Get("X-Got"), tt.want+" elsewhere.test /a%2Fb?c=%zz body"; got != want {
				t.Errorf("%s %q: got %q; want %q", u.Scheme, tt.protocol, got, want)
			}
			if n := p.addresses[0].underWay.Load(); n != 1 {
				t.Errorf("%d under way; want 1", n)
			}
			res.Body.Close()
			if n := p.addresses[0].underWay.Load(); n != 0 {
				t.Errorf("%d under way; want 0", n)
			}
		}
		p.Close()
	}
}
