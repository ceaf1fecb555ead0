package rig

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// Upstream is an API behind the gateway. It answers with what it received;
// requests to /held wait for [Upstream.Release] first.
type Upstream struct {
	*httptest.Server
	arrived chan struct{}
	release chan struct{}
	once    sync.Once

	mu   sync.Mutex
	seen []Received // guarded by mu
}

// Received is a request as the upstream saw it.
type Received struct {
	Method string      `json:"method"`
	Target string      `json:"target"`
	Header http.Header `json:"header"`
	Body   string      `json:"body"`
}

// NewUpstream starts an upstream for the length of the test.
func NewUpstream(t testing.TB) *Upstream {
	u := &Upstream{arrived: make(chan struct{}, 100), release: make(chan struct{})}
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	t.Cleanup(u.Release)
	return u
}

// Held gets a value for each request that has come to /held.
func (u *Upstream) Held() <-chan struct{} { return u.arrived }

// Release lets all requests to /held go on, for good.
func (u *Upstream) Release() { u.once.Do(func() { close(u.release) }) }

func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	got := Received{r.Method, r.RequestURI, r.Header.Clone(), string(body)}
	u.mu.Lock()
	u.seen = append(u.seen, got)
	u.mu.Unlock()
	if r.URL.Path == "/held" {
		u.arrived <- struct{}{}
		<-u.release
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(got)
}

// Seen is all that arrived so far.
func (u *Upstream) Seen() []Received {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]Received(nil), u.seen...)
}
