package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/gateway/mint"
)

const (
	mintLife   = 2 * time.Minute
	revalidate = 10 * time.Minute
	audience   = "https://api.example.com" // the test provider's, too
)

func signingKey(t testing.TB, alg string) mint.SigningKey {
	t.Helper()
	text, err := mint.NewSigningKeyPEM(alg)
	if err != nil {
		t.Fatal(err)
	}
	key, err := mint.ParseSigningKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// minting makes an app mint: a change for newWorld, whose world is w when the app
// is made.
func minting(t testing.TB, w **world, keys ...mint.SigningKey) func(*gateway.App) {
	if len(keys) == 0 {
		keys = []mint.SigningKey{signingKey(t, mint.ES256)}
	}
	return func(a *gateway.App) {
		issuer, err := mint.New(mint.Config{
			Issuer: origin, ClientID: (*w).client.ID, Audience: []string{audience}, Lifetime: mintLife, Keys: keys,
			PairwiseKey: mint.PairwiseKey(bytes.Repeat([]byte{7}, 32)), Claims: []string{"roles"}, Now: (*w).now,
			SIDKeys: func(aud string) [][]byte { return (*w).keys.Derive("test sid "+aud, a.Name, 32) },
		})
		if err != nil {
			t.Fatal(err)
		}
		a.Token, a.Mint, a.Session.Revalidate = gateway.TokenMint, issuer, revalidate
		both := gateway.Accept{Cookie: true, Bearer: true}
		a.Routes = append(a.Routes,
			gateway.Route{Path: "/both/", Upstream: a.Routes[0].Upstream, Token: true, Accept: both},
			gateway.Route{Path: "/bearer/", Upstream: a.Routes[0].Upstream, Token: true, Accept: gateway.Accept{Bearer: true}},
			gateway.Route{Path: "/either/", Upstream: a.Routes[0].Upstream, Token: true, Auth: gateway.AuthOptional, Accept: gateway.Accept{Bearer: true}},
			gateway.Route{Path: "/admin/", Upstream: a.Routes[0].Upstream, Accept: both, Require: map[string][]string{"roles": {"admin", "root"}}},
		)
	}
}

func newMintWorld(t testing.TB, edit ...func(*gateway.App)) *world {
	var w *world
	w = newWorld(t, append([]func(*gateway.App){minting(t, &w)}, edit...)...)
	return w
}

// listening starts a replica that hears the others.
func (w *world) listening(apps ...gateway.App) *replica {
	w.t.Helper()
	r := w.replica(apps...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.keeper.Run(ctx); close(done) }()
	w.t.Cleanup(func() { cancel(); <-done })
	eventually(w.t, "the replica hears itself", func() bool { return r.store.Hearing() > 0 })
	return r
}

// verified is what a resource server reads from a token, by a library that the
// gateway doesn't use, with the keys that the gateway publishes.
func verified(t testing.TB, b *browser, token string) (claims jwt.Claims, all map[string]any) {
	t.Helper()
	doc := anybody(t, b, "GET", mint.MetadataPath)
	if doc.status != 200 || doc.field("issuer") != origin || doc.field("jwks_uri") != origin+mint.JWKSPath {
		t.Fatalf("%v: %s", doc, doc.body)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(anybody(t, b, "GET", mint.JWKSPath).body), &set); err != nil {
		t.Fatal(err)
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	if err := parsed.Claims(set, &claims, &all); err != nil {
		t.Fatal(err)
	}
	return claims, all
}

// anybody is a request of somebody who has nothing to do with the app.
func anybody(t testing.TB, b *browser, method, path string) answer {
	t.Helper()
	a, err := b.w.browser(b.at).send(request{method: method, url: origin + path})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// wholeLife reports whether the token has all of its life before it.
func wholeLife(a answer) bool {
	return a.field("expires_in") == "120" || a.field("expires_in") == "119"
}

func TestMint(t *testing.T) {
	w := newMintWorld(t)
	b := w.browser(w.replica())
	b.login()
	a := b.fetch("POST", "/bff/token")
	want(t, a, 200)
	token := a.field("access_token")
	claims, all := verified(t, b, token)
	if err := claims.ValidateWithLeeway(jwt.Expected{Issuer: origin, AnyAudience: jwt.Audience{audience}, Time: w.now()}, 0); err != nil {
		t.Error(err)
	}
	alice := gatewaytest.SubjectOf("alice")
	if claims.Subject == alice || claims.Subject == "" || all["sid"] == b.fetch("GET", "/bff/session").field("sid") || all["client_id"] != w.client.ID {
		t.Errorf("%v", all)
	}
	if got := claims.Expiry.Time().Sub(claims.IssuedAt.Time()); got != mintLife || !wholeLife(a) {
		t.Errorf("it lives %v, %s s", got, a.field("expires_in"))
	}
	if b.fetch("GET", "/bff/session").field("access_token_expires_at") != "" {
		t.Error("the session tells of a token that nobody gets")
	}
	// One signature serves page and upstreams, until half-time.
	for range 3 {
		want(t, b.fetch("GET", "/api/x"), 200)
		if got := w.upstream.last(t).Header.Get("Authorization"); got != "Bearer "+token {
			t.Error("the upstream got another token")
		}
	}
	w.pass(mintLife/2 - 2*time.Second)
	if b.fetch("POST", "/bff/token").field("access_token") != token {
		t.Error("another token before half-time")
	}
	w.pass(2 * time.Second)
	a = b.fetch("POST", "/bff/token?min_ttl=60")
	if a.field("access_token") == token || !wholeLife(a) {
		t.Error("the same token after half-time")
	}
	if n := len(w.provider.Redemptions("")); n != 0 {
		t.Errorf("%d refreshes", n)
	}
	// The provider's token life is of no interest.
	w.pass(tokenLife)
	want(t, b.fetch("POST", "/bff/token"), 200)
	if n := len(w.provider.Redemptions("")); n != 0 {
		t.Errorf("%d refreshes", n)
	}
}

// Who verifies tokens needs no cookie, no guard and no session; who is not asked
// doesn't answer.
func TestPublished(t *testing.T) {
	w := newMintWorld(t)
	b := w.browser(w.replica())
	relay := newWorld(t)
	rb := relay.browser(relay.replica())
	before := w.redisCommands()
	for _, path := range []string{mint.JWKSPath, mint.MetadataPath} {
		a := anybody(t, b, "GET", path)
		if a.status != 200 || a.header.Get("Cache-Control") != "public, max-age=300" || a.header.Get("Access-Control-Allow-Origin") != "*" || len(a.header["Set-Cookie"]) > 0 {
			t.Errorf("%v", a)
		}
		if head := anybody(t, b, "HEAD", path); head.status != 200 || head.body != "" || head.header.Get("Etag") != a.header.Get("Etag") {
			t.Errorf("%v", head)
		}
		want(t, anybody(t, b, "POST", path), 405, "method_not_allowed")
		want(t, anybody(t, rb, "GET", path), 404, "no_route")
		w.raw(b.at, "GET "+path+" HTTP/1.1\r\nHost: else.test\r\nConnection: close\r\n\r\n")
	}
	if n := w.redisCommands() - before; n != 0 {
		t.Errorf("%d Redis commands", n)
	}
}

// The refresh token is checked every revalidate, and what the provider takes back
// ends the session.
func TestRevalidate(t *testing.T) {
	w := newMintWorld(t)
	b := w.browser(w.replica())
	b.login()
	w.pass(revalidate)
	want(t, b.fetch("POST", "/bff/token"), 200) // in the background
	eventually(t, "it is checked", func() bool { return len(w.provider.Redemptions("")) == 1 })
	want(t, b.fetch("GET", "/bff/user"), 200)
	w.pass(grace + time.Second)

	w.pass(revalidate)
	w.provider.RevokeSubject(gatewaytest.SubjectOf("alice")) // a new password, say
	w.pass(revalidate / 5)
	want(t, b.fetch("GET", "/api/x"), 401, "login_required", "refresh_rejected")
	want(t, b.fetch("POST", "/bff/token"), 401, "login_required", "refresh_rejected")
}

// A check that can't be had is trouble, and no token outlives the last one by more
// than 1.2 × revalidate and its own life.
func TestRevalidateUnavailable(t *testing.T) {
	w := newMintWorld(t)
	b := w.browser(w.replica())
	b.login()
	checked := w.now()
	w.provider.Refuse()
	w.pass(revalidate*6/5 - 2*time.Second)
	a := b.fetch("POST", "/bff/token")
	want(t, a, 200)
	claims, _ := verified(t, b, a.field("access_token"))
	if far := claims.Expiry.Time().Sub(checked); far > revalidate*6/5+mintLife {
		t.Errorf("it reaches %v from the check", far)
	}
	w.pass(3 * time.Second)
	want(t, b.fetch("POST", "/bff/token"), 503, "provider_unavailable")
	want(t, b.fetch("GET", "/api/x"), 503, "provider_unavailable")
	want(t, b.fetch("GET", "/bff/user"), 200)
	if err := w.provider.Accept(); err != nil {
		t.Fatal(err)
	}
	w.pass(20 * time.Second) // the back-off
	eventually(t, "it is checked", func() bool { return b.fetch("POST", "/bff/token").status == 200 })
}

// No token outlives its session.
func TestMintAtTheEnd(t *testing.T) {
	w := newMintWorld(t, func(a *gateway.App) { a.Session.AbsoluteTimeout = 5 * time.Minute })
	b := w.browser(w.replica())
	b.login()
	w.pass(4*time.Minute + 30*time.Second)
	a := b.fetch("POST", "/bff/token")
	want(t, a, 200)
	if s := a.field("expires_in"); s != "29" && s != "30" && s != "28" {
		t.Errorf("%s s", s)
	}
	w.pass(31 * time.Second)
	want(t, b.fetch("GET", "/bearer/x", "Authorization: Bearer "+a.field("access_token")), 401, "token_expired")
	want(t, b.fetch("POST", "/bff/token"), 401, "login_required", "absolute_timeout")
}

// Another signing key after a reload signs at once.
func TestMintReload(t *testing.T) {
	var w *world
	old, next := signingKey(t, mint.ES256), signingKey(t, mint.EdDSA)
	w = newWorld(t, minting(t, &w, old, next))
	r := w.replica()
	b := w.browser(r)
	b.login()
	token := b.fetch("POST", "/bff/token").field("access_token")
	w.edit = []func(*gateway.App){minting(t, &w, next, old)}
	if err := r.Swap(gateway.Served{Apps: []gateway.App{w.app()}, Keys: w.keys}); err != nil {
		t.Fatal(err)
	}
	fresh := b.fetch("POST", "/bff/token").field("access_token")
	if fresh == token {
		t.Error("the old key's token")
	}
	verified(t, b, fresh)
	for _, tok := range []string{token, fresh} {
		want(t, b.fetch("GET", "/bearer/x", "Authorization: Bearer "+tok), 200)
	}
}

// What a definition of an app must not be.
func TestMintDefinition(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(*gateway.App)
	}{
		{"mint without an issuer", func(a *gateway.App) { a.Mint = nil }},
		{"mint without revalidate", func(a *gateway.App) { a.Session.Revalidate = 0 }},
		{"bearers, and no tokens", func(a *gateway.App) { a.Token = gateway.TokenOff }},
		{"the provider's bearers, for anybody", func(a *gateway.App) { a.Token = gateway.TokenRelay }},
		{"bearers of nobody", func(a *gateway.App) {
			a.Routes = append(a.Routes, gateway.Route{Path: "/n", Upstream: a.Routes[0].Upstream, Auth: gateway.AuthNone, Accept: gateway.Accept{Bearer: true}})
		}},
		{"claims of nobody", func(a *gateway.App) {
			a.Routes = append(a.Routes, gateway.Route{Path: "/n", Upstream: a.Routes[0].Upstream, Auth: gateway.AuthOptional, Require: map[string][]string{"a": {"b"}}})
		}},
	} {
		w := newMintWorld(t, test.edit)
		if err := gateway.New(w.replica(newWorld(t).app()).keeper, gateway.Options{}).Swap(gateway.Served{Apps: []gateway.App{w.app()}, Keys: w.keys}); err == nil {
			t.Errorf("%s: accepted", test.name)
		}
	}
}

// Where the provider gives no refresh token there is nothing to check: whoever comes
// back after a while gets a token, and the next ticket, too.
func TestMintWithoutARefreshToken(t *testing.T) {
	for name, used := range map[string]bool{"away since the login": false, "away since the ticket advanced": true} {
		t.Run(name, func(t *testing.T) {
			w := newMintWorld(t)
			w.provider.Change(func(o *gatewaytest.Options) {
				o.EditAnswer = func(_ gatewaytest.Request, a map[string]any) { delete(a, "refresh_token") }
			})
			r := w.replica()
			b := w.browser(r)
			b.login()
			if used {
				w.pass(revalidate)
				want(t, b.fetch("POST", "/bff/token"), 200) // the next ticket waits for the next request
				if err := r.keeper.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			old := b.jar[ticketCookie].Value
			w.pass(2*revalidate + time.Minute)
			want(t, b.fetch("POST", "/bff/token"), 200)
			want(t, b.fetch("GET", "/api/x"), 200)
			if err := r.keeper.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.pass(2 * grace)
			if want(t, b.fetch("POST", "/bff/token"), 200); b.jar[ticketCookie].Value == old {
				t.Error("the ticket hasn't advanced")
			}
		})
	}
}
