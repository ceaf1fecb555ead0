package gateway_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/mint"
)

// What a page's call for a token costs the gateway, warm: the provider's token
// handed on, our own signed every half of its life, and, for the cost of the
// signature alone, each time.
func BenchmarkToken(b *testing.B) {
	cached := func(a *gateway.App) { a.Session.CacheTTL = 5 * time.Second }
	b.Run("relay", func(b *testing.B) { benchToken(b, newWorld(b, cached), nil) })
	b.Run("relay, noted for bearers", func(b *testing.B) { benchToken(b, newWorld(b, cached, relaying), nil) })
	for _, alg := range []string{mint.ES256, mint.EdDSA, mint.RS256} {
		var w *world
		key := signingKey(b, alg)
		b.Run("mint "+alg, func(b *testing.B) {
			w = newWorld(b, minting(b, &w, key), cached)
			benchToken(b, w, nil)
		})
		b.Run("mint "+alg+", signed each time", func(b *testing.B) {
			w = newWorld(b, minting(b, &w, key), cached)
			benchToken(b, w, func(r *replica) error { return r.Swap(gateway.Served{Apps: []gateway.App{w.app()}, Keys: w.keys}) })
		})
	}
}

// benchToken measures without a network. before, which is not measured, comes
// before each call.
func benchToken(b *testing.B, w *world, before func(*replica) error) {
	r := w.listening()
	br := w.browser(r)
	br.login()
	req := httptest.NewRequest("POST", origin+"/bff/token", nil)
	req.RequestURI = "/bff/token"
	req.Header = http.Header{"X-Bff": {"1"}, "Sec-Fetch-Site": {"same-origin"}, "Cookie": {br.cookies(request{})}}
	b.ReportAllocs()
	for b.Loop() {
		if before != nil {
			b.StopTimer()
			if err := before(r); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		rec := httptest.NewRecorder()
		r.ServeHTTP(rec, req)
		if rec.Code != 200 {
			b.Fatal(rec.Code, rec.Body)
		}
	}
}

// What a proxied request costs beyond the network to the upstream: by cookie, and
// by bearer.
func BenchmarkProxied(b *testing.B) {
	var w *world
	w = newWorld(b, minting(b, &w), func(a *gateway.App) {
		a.Session.CacheTTL = 5 * time.Second
		a.Routes = append(a.Routes, gateway.Route{Path: "/open/", Upstream: a.Routes[0].Upstream, Auth: gateway.AuthNone})
	})
	w.upstream.answers(func(w http.ResponseWriter, r *http.Request) bool { io.WriteString(w, "ok"); return true })
	r := w.listening()
	br := w.browser(r)
	br.login()
	token := br.fetch("POST", "/bff/token").field("access_token")
	cookie := http.Header{"X-Bff": {"1"}, "Cookie": {br.cookies(request{})}}
	for _, test := range []struct {
		name, path string
		header     http.Header
	}{
		{"anybody", "/open/x", http.Header{}},
		{"cookie", "/both/x", cookie},

		{"bearer", "/both/x", http.Header{"Authorization": {"Bearer " + token}}},
	} {
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				req := httptest.NewRequest("GET", origin+test.path, nil)
				req.RequestURI, req.Header = test.path, test.header.Clone()
				rec := httptest.NewRecorder()
				r.ServeHTTP(rec, req)
				if rec.Code != 200 {
					b.Fatal(rec.Code, rec.Body)
				}
			}
		})
	}
}
