package gateway_test

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/session"
)

// bearer is a request with a token and nothing else: from no browser.
func (b *browser) bearer(method, path, token string) answer {
	b.t.Helper()
	a, err := b.w.browser(b.at).send(request{method: method, url: origin + path, header: map[string]string{"Authorization": "Bearer " + token}})
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

// relaying makes an app's routes accept the provider's bearers.
func relaying(a *gateway.App) {
	a.Audience = []string{audience}
	both := gateway.Accept{Cookie: true, Bearer: true}
	a.Routes = append(a.Routes,
		gateway.Route{Path: "/both/", Upstream: a.Routes[0].Upstream, Token: true, Accept: both},
		gateway.Route{Path: "/bearer/", Upstream: a.Routes[0].Upstream, Token: true, Accept: gateway.Accept{Bearer: true}},
	)
}

func TestBearer(t *testing.T) {
	w := newMintWorld(t)
	b := w.browser(w.replica())
	b.login()
	token := b.fetch("POST", "/bff/token").field("access_token")
	stranger := w.browser(b.at)
	for _, test := range []struct {
		name   string
		from   *browser
		path   string
		header []string
		status int
		code   string
	}{
		{"no cookie, no guard", stranger, "/both/x", []string{"Authorization: Bearer " + token, "X-Bff:", "Sec-Fetch-Site: cross-site"}, 200, ""},
		{"bearers alone", stranger, "/bearer/x", []string{"Authorization: Bearer " + token}, 200, ""},
		{"the scheme in any case", stranger, "/bearer/x", []string{"Authorization: bEaReR " + token}, 200, ""},
		{"a cookie beside", b, "/both/x", []string{"Authorization: Bearer " + token}, 200, ""},
		{"the cookie alone", b, "/both/x", nil, 200, ""},
		{"the cookie alone, guarded", b, "/both/x", []string{"Sec-Fetch-Site: cross-site"}, 403, "cross_origin_blocked"},
		{"the cookie alone, where bearers are asked for", b, "/bearer/x", nil, 401, "token_invalid"},
		{"nothing", stranger, "/both/x", nil, 401, "login_required"},
		{"nothing, where it is optional", stranger, "/either/x", nil, 200, ""},
		{"E a bad bearer decides alone", b, "/both/x", []string{"Authorization: Bearer x" + token}, 401, "token_invalid"},
		{"E a bad bearer is not anonymous", stranger, "/either/x", []string{"Authorization: Bearer x"}, 401, "token_invalid"},
		{"another scheme", b, "/both/x", []string{"Authorization: Basic YTpi"}, 401, "token_invalid"},
		{"no scheme", b, "/both/x", []string{"Authorization: " + token}, 401, "token_invalid"},
		{"two spaces", b, "/both/x", []string{"Authorization: Bearer  " + token}, 401, "token_invalid"},
		{"a list", b, "/both/x", []string{"Authorization: Bearer " + token + ", Bearer " + token}, 401, "token_invalid"},
		{"a changed signature", b, "/both/x", []string{"Authorization: Bearer " + token[:len(token)-8] + "AAAAAAAA"}, 401, "token_invalid"},
		{"on a route that doesn't say so", stranger, "/api/x", []string{"Authorization: Bearer " + token}, 401, "login_required"},
	} {
		n := len(w.upstream.requests())
		a := test.from.fetch("GET", test.path, test.header...)
		want(t, a, test.status, test.code)
		if strings.HasPrefix(test.code, "token_") != (a.header.Get("Www-Authenticate") != "") {
			t.Errorf("%s: WWW-Authenticate %q", test.name, a.header.Get("Www-Authenticate"))
		}
		if len(a.header["Set-Cookie"]) > 0 {
			t.Errorf("%s: sets a cookie", test.name)
		}
		switch reached := len(w.upstream.requests()) > n; {
		case reached != (test.status == 200):
			t.Errorf("%s: the upstream was reached: %v", test.name, reached)
		case reached && test.path != "/either/x" && w.upstream.last(t).Header.Get("Authorization") != "Bearer "+token:
			t.Errorf("%s: the upstream got another token", test.name)
		}
	}
	a := w.raw(b.at, "GET /both/x HTTP/1.1\r\nHost: "+host+"\r\nAuthorization: Bearer "+token+"\r\nAuthorization: Bearer "+token+"\r\nConnection: close\r\n\r\n")
	want(t, a, 401, "token_invalid")

	w.pass(mintLife)
	a = b.bearer("GET", "/both/x", token)
	want(t, a, 401, "token_expired")
	if a.header.Get("Www-Authenticate") != `Bearer error="invalid_token"` {
		t.Error(a.header)
	}
	if w.log.find(token) != "" || w.log.find(token[len(token)-40:]) != "" {
		t.Error("S-01: a token is in the log")
	}
}

// The provider's own tokens: an access token for this audience, and nothing else.
func TestRelayedBearer(t *testing.T) {
	w := newWorld(t, relaying)
	b := w.browser(w.listening())
	b.login()
	token := b.fetch("POST", "/bff/token").field("access_token")
	want(t, b.bearer("GET", "/bearer/x", token), 200)
	if got := w.upstream.last(t); got.User != gatewaytest.SubjectOf("alice") {
		t.Errorf("%+v", got)
	}
	want(t, b.bearer("GET", "/bearer/x", "opaque"), 401, "token_invalid")
	payload, _ := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	forged := base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(payload), "alice", "admin", 1)))
	want(t, b.bearer("GET", "/bearer/x", strings.Replace(token, strings.Split(token, ".")[1], forged, 1)), 401, "token_invalid")

	// The session's end is its token's, on every replica, even one that has never
	// seen it. A token that no session of ours has handed out stands on its own.
	stranger := w.strangersToken("bob")
	other := w.browser(w.listening())
	want(t, other.bearer("GET", "/bearer/x", token), 200)
	want(t, other.bearer("GET", "/bearer/x", stranger), 200)
	want(t, b.fetch("POST", "/bff/logout"), 200)
	third := w.browser(w.listening())
	for _, at := range []*browser{b, other, third} {
		eventually(t, "the end is heard", func() bool { return at.bearer("GET", "/bearer/x", token).status == 401 })
		want(t, at.bearer("GET", "/bearer/x", token), 401, "token_invalid")
		want(t, at.bearer("GET", "/bearer/x", stranger), 200)
	}
	// But for what ends all of an app's.
	w.pass(2 * time.Second)
	if err := b.at.keeper.EndApp(t.Context(), &session.App{Name: "shop", AbsoluteTimeout: time.Hour}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is refused", func() bool { return other.bearer("GET", "/bearer/x", stranger).status == 401 })
	w.pass(tokenLife)
	want(t, other.bearer("GET", "/bearer/x", stranger), 401, "token_expired")
}

// strangersToken is an access token that the provider gave somebody else's client.
func (w *world) strangersToken(user string) string {
	w.t.Helper()
	var token string
	w.provider.Change(func(o *gatewaytest.Options) { o.AutoLogin = gatewaytest.As(user) })
	defer w.provider.Change(func(o *gatewaytest.Options) { o.AutoLogin = gatewaytest.As("alice") })
	b := w.browser(w.replica())
	b.login()
	w.upstream.answers(nil)
	want(w.t, b.fetch("GET", "/api/x"), 200)
	token = strings.TrimPrefix(w.upstream.last(w.t).Header.Get("Authorization"), "Bearer ")
	return token
}

// The provider's keys can't be had: 503, and no verdict.
func TestRelayedBearerUnavailable(t *testing.T) {
	w := newWorld(t, relaying)
	b := w.browser(w.replica())
	b.login()
	token := b.fetch("POST", "/bff/token").field("access_token")
	cold := w.browser(w.replica())
	w.provider.Refuse()
	want(t, cold.bearer("GET", "/bearer/x", token), 503, "provider_unavailable")
	if err := w.provider.Accept(); err != nil {
		t.Fatal(err)
	}
	// A refusal to show the keys, too, is trouble there and none of the token's.
	w.provider.Change(func(o *gatewaytest.Options) {
		o.EditDiscovery = func(doc map[string]any) { doc["jwks_uri"] = w.provider.Issuer() + "/moved" }
	})
	r := w.replica()
	want(t, w.browser(r).bearer("GET", "/bearer/x", token), 503, "provider_unavailable")
	refused(t, r.logsOut(w, w.provider.LogoutToken(gatewaytest.Logout{Client: w.client.ID, Subject: alice})), 503, "provider_unavailable")
	want(t, b.fetch("GET", "/bff/user"), 200)
}

// A bearer whose session has ended is refused at once: by list on a replica that
// hears, by Redis on one that doesn't, and all apps' sessions at a time.
func TestBearerOfEndedSession(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(w *world, b *browser, sid session.SID)
	}{
		{"logout", func(w *world, b *browser, _ session.SID) { want(t, b.fetch("POST", "/bff/logout"), 200) }},
		{"by sid", func(w *world, b *browser, sid session.SID) {
			if err := b.at.keeper.End(t.Context(), &session.App{Name: "shop"}, sid, session.ReasonRevoked); err != nil {
				t.Error(err)
			}
		}},
		{"all of the app", func(w *world, b *browser, _ session.SID) {
			if err := b.at.keeper.EndApp(t.Context(), &session.App{Name: "shop", AbsoluteTimeout: time.Hour}); err != nil {
				t.Error(err)
			}
		}},
		{"gone from the store", func(w *world, b *browser, _ session.SID) {
			w.redis.CLI("FLUSHALL")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newMintWorld(t)
			b := w.browser(w.listening())
			b.login()
			sid, _ := session.ParseSID(b.fetch("GET", "/bff/session").field("sid"))
			token := b.fetch("POST", "/bff/token").field("access_token")
			hears, deaf := w.browser(w.listening()), w.browser(w.replica())
			for _, at := range []*browser{b, hears, deaf} {
				want(t, at.bearer("GET", "/both/x", token), 200)
			}
			w.pass(time.Second)
			test.end(w, b, sid)
			for i, at := range []*browser{b, deaf, hears} {
				if test.name == "gone from the store" && i != 1 {
					continue // no end was told, so who hears goes on for a token's life
				}
				eventually(t, fmt.Sprint("refused at ", i), func() bool { return at.bearer("GET", "/both/x", token).status != 200 })
				want(t, at.bearer("GET", "/both/x", token), 401, "token_invalid")
			}
		})
	}
}

// A replica that hears asks Redis once for tokens from before it did, and never
// for others.
func TestBearerCostsNoRedis(t *testing.T) {
	w := newMintWorld(t)
	r := w.replica() // deaf
	b := w.browser(r)
	b.login()
	token := b.fetch("POST", "/bff/token").field("access_token")
	hears := w.browser(w.listening())
	reads := func() (n int) {
		for line := range strings.Lines(w.redis.CLI("INFO", "commandstats")) {
			if calls, ok := strings.CutPrefix(line, "cmdstat_getrange:calls="); ok {
				calls, _, _ = strings.Cut(calls, ",")
				n, _ = strconv.Atoi(calls)
			}
		}
		return n
	}
	for i, more := range []int{1, 0, 0, 0, 0, 0, 0, 0, 0} {
		before := reads()
		want(t, hears.bearer("GET", "/both/x", token), 200)
		if n := reads() - before; n != more {
			t.Errorf("the bearer's %d. request: %d reads", i+1, n)
		}
	}
}

// Nobody knows: 503, never 401.
func TestBearerStoreDown(t *testing.T) {
	t.Parallel() // it waits for the store's deadline
	w := newMintWorld(t)
	b := w.browser(w.replica())
	b.login()
	token := b.fetch("POST", "/bff/token").field("access_token")
	w.redis.Stop()
	a := b.bearer("GET", "/both/x", token)
	w.redis.Cont()
	want(t, a, 503, "store_unavailable")
}

func TestRequire(t *testing.T) {
	for _, test := range []struct {
		name   string
		roles  any
		status int
	}{
		{"in the array", []string{"user", "admin"}, 200},
		{"the other one", []string{"root"}, 200},
		{"a string", "admin", 200},
		{"not in the array", []string{"user"}, 403},
		{"part of a string", "administrator", 403},
		{"another case", "Admin", 403},
		{"empty", []string{}, 403},
		{"missing", nil, 403},
		{"of another type", map[string]any{"admin": true}, 403},
		{"true", true, 403},
		{"an array of arrays", []any{[]string{"admin"}}, 403},
		{"null in the array", []any{nil, "admin"}, 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newMintWorld(t)
			w.provider.Change(func(o *gatewaytest.Options) {
				o.EditIDToken = func(_ gatewaytest.Request, claims map[string]any) {
					if test.roles != nil {
						claims["roles"] = test.roles
					}
				}
			})
			b := w.browser(w.replica())
			b.login()
			code := ""
			if test.status != 200 {
				code = "access_denied"
			}
			n := len(w.upstream.requests())
			want(t, b.fetch("GET", "/admin/x"), test.status, code)
			want(t, b.bearer("GET", "/admin/x", b.fetch("POST", "/bff/token").field("access_token")), test.status, code)
			if got := len(w.upstream.requests()) - n; (got == 2) != (test.status == 200) || got == 1 {
				t.Errorf("%d requests reached the upstream", got)
			}
			want(t, w.browser(b.at).fetch("GET", "/admin/x"), 401, "login_required")
		})
	}
}
