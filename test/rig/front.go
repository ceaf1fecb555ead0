package rig

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"sync/atomic"
	"testing"
)

// Front stands where TLS ends in a deployment: whoever knows no Host header but
// its URL's own (a provider's back channel, a resource server that fetches
// keys) reaches the app's origin here, at the replicas in turn.
type Front struct {
	*httptest.Server
	world atomic.Pointer[World]
	turn  atomic.Int64
}

// NewFront starts a front that answers 503 until [Front.Serve].
func NewFront(t testing.TB) *Front {
	f := &Front{}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		w := f.world.Load()
		r.Out.URL.Scheme = "http"
		r.Out.URL.Host = w.turn(int(f.turn.Add(1))).Public
		r.Out.Host = w.host()
	}}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.world.Load() == nil {
			http.Error(w, "no world yet", http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

// Serve leads to a World's replicas, whose number stays as it is from now on.
func (f *Front) Serve(w *World) { f.world.Store(w) }
