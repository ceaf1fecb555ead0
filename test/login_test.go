package test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// One whole use, through each provider: log in, hold a token, call an API both
// ways, log in as somebody else, log out.
func TestLoginTokenAPIAndLogout(t *testing.T) {
	for _, provider := range []struct {
		name    string
		start   func(testing.TB) rig.Registration
		subject func(user string) string
	}{
		{"strict", func(t testing.TB) rig.Registration {
			_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
			return reg
		}, gatewaytest.SubjectOf},
		{"certified", func(t testing.TB) rig.Registration {
			return rig.NewCertified(t, rig.Origin, 5*time.Minute).Registration()
		}, func(user string) string { return user }},
	} {
		t.Run(provider.name, func(t *testing.T) {
			t.Parallel()
			w := rig.New(t, rig.Setup{Provider: provider.start(t), Replicas: 2})
			b := w.NewBrowser()
			wantProblem(t, token(b), 401, "login_required", "no_session")

			b.Login("alice")
			answer := token(b)
			if got := subject(t, answer); got != provider.subject("alice") {
				t.Fatalf("the token is %q's", got)
			}
			var held struct {
				AccessToken string `json:"access_token"`
			}
			answer.JSON(t, &held)

			// Through the proxy the cookie becomes a bearer, and stays behind.
			api := b.Fetch(http.MethodGet, "/api/orders?first=1&first=2")
			if api.Status != http.StatusOK {
				t.Fatalf("/api/orders: %s", api)
			}
			var seen rig.Received
			api.JSON(t, &seen)
			if seen.Target != "/orders?first=1&first=2" {
				t.Errorf("the upstream saw %q", seen.Target)
			}
			if got := seen.Header["Authorization"]; !slices.Equal(got, []string{"Bearer " + held.AccessToken}) {
				t.Errorf("the upstream saw %d Authorization headers, want the session's bearer alone", len(got))
			}
			if strings.Contains(strings.Join(seen.Header["Cookie"], ";"), "cloakroom") {
				t.Error("the upstream saw the gateway's cookie")
			}

			var user map[string]any
			b.Fetch(http.MethodGet, "/bff/user").JSON(t, &user)
			if user["name"] != "Alice" || user["sub"] != provider.subject("alice") {
				t.Errorf("/bff/user says %v", user)
			}

			// Somebody else at the same browser: alice's session is ended.
			alice := b.Clone()
			b.Login("bob")
			if got := subject(t, token(b)); got != provider.subject("bob") {
				t.Fatalf("after bob's login the token is %q's", got)
			}
			wantEnded(t, w, alice, "replaced")

			bob := b.Clone()
			out := b.Fetch(http.MethodPost, "/bff/logout")
			var answered struct {
				LogoutURL string `json:"logout_url"`
			}
			out.JSON(t, &answered)
			if out.Status != http.StatusOK || answered.LogoutURL == "" {
				t.Fatalf("logout: %s, logout_url %q", out, answered.LogoutURL)
			}
			if b.Cookie() != "" {
				t.Error("logout left the session cookie")
			}
			wantEnded(t, w, bob, "logged_out")
			if again := b.Fetch(http.MethodPost, "/bff/logout"); again.Status != http.StatusOK {
				t.Errorf("a second logout: %s", again)
			}
		})
	}
}

// A-*: wherever a login is told to return to, it lands at the app's origin.
func TestBadReturnToLandsOnRoot(t *testing.T) {
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AutoLogin: gatewaytest.As("alice")})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		// Somewhere to land: whatever path survives.
		routes := c["apps"].([]any)[0].(map[string]any)["routes"].([]any)
		c.Set("apps.0.routes", append(routes, map[string]any{
			"path": "/", "upstream": routes[0].(map[string]any)["upstream"], "kind": "page", "auth": "none", "token": "none",
		}))
	}})
	for _, row := range []struct{ name, returnTo, lands string }{
		{"plain", "/orders?page=2", "/orders?page=2"},
		{"none", "", "/"},
		{"absolute", "https://evil.test/", "/"},
		{"scheme-relative", "//evil.test/", "/"},
		{"three slashes", "///evil.test/", "/"},
		{"backslash", `/\evil.test/`, "/"},
		{"two backslashes", `\\evil.test/`, "/"},
		{"encoded slashes", "/%2f%2fevil.test/", "/"},
		{"encoded backslash", "/%5cevil.test/", "/"},
		{"tab", "/\t/evil.test/", "/"},
		{"newline", "/\n/evil.test/", "/"},
		{"javascript", "javascript:alert(1)", "/"},
		{"userinfo", "/@evil.test", "/@evil.test"},
		{"relative", "orders", "/"},
		{"dot segments", "/a/..//evil.test", "/"},
		{"the login itself", "/bff/login", "/"},
		{"the callback", "/bff/callback", "/"},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := w.NewBrowser()
			page := b.Navigate("/bff/login?return_to="+url.QueryEscape(row.returnTo), "alice")
			if page.URL.Host != "app.test" {
				t.Fatalf("landed on %s", page.URL)
			}
			if got := page.URL.RequestURI(); got != row.lands {
				t.Errorf("landed on %q, want %q", got, row.lands)
			}
			if got := subject(t, token(b)); got != "sub-alice" {
				t.Errorf("the token is %q's", got)
			}
		})
	}
}

// A login that begins at another site's link replaces the session all the same,
// and a session is never fixed from outside.
func TestLoginFromAnotherSiteEndsTheOldSession(t *testing.T) {
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2})
	b := w.NewBrowser()
	b.Login("alice")
	old := b.Clone()
	page := b.Arrive(w.Origin+"/bff/login?return_to=%2Flanding&prompt=login", "bob")
	if page.Status != http.StatusOK || page.URL.Path != "/landing" {
		t.Fatalf("landed on %s with %s", page.URL, page)
	}
	if got := subject(t, token(b)); got != "sub-bob" {
		t.Fatalf("the token is %q's", got)
	}
	wantEnded(t, w, old, "replaced")
}

// B-*: state is checked before the code is spent, and a callback belongs to the
// browser that began it.
func TestCallbackOfAnotherBrowserSpendsNoCode(t *testing.T) {
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AutoLogin: gatewaytest.As("mallory")})
	w := rig.New(t, rig.Setup{Provider: reg})
	mallory, victim := w.NewBrowser(), w.NewBrowser()
	callback := mallory.NavigateUntil("/bff/login", "mallory", func(u *url.URL) bool {
		return u.Path == "/bff/callback"
	})
	before := p.Requests(gatewaytest.EndpointToken)
	r := victim.Arrive(callback.String(), "")
	if r.Status != http.StatusBadRequest {
		t.Errorf("a foreign callback: %s", r)
	}
	if victim.Cookie() != "" {
		t.Error("a foreign callback left a session cookie")
	}
	if n := p.Requests(gatewaytest.EndpointToken) - before; n != 0 {
		t.Errorf("a foreign callback made %d requests at the token endpoint", n)
	}
}
