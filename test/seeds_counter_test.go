package test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// D. Tokens behind the counter.

func tokensBehindTheCounter(t *testing.T) {
	_, _, b := quickWorld(t)
	r := token(b) // a refresh: every token there is has passed
	var cookie *http.Cookie
	for _, c := range r.SetCookies {
		if c.Name == rig.SessionCookie {
			cookie = c
		}
	}
	if cookie == nil || !cookie.HttpOnly || !cookie.Secure || cookie.SameSite != http.SameSiteStrictMode || cookie.Domain != "" {
		t.Fatalf("the cookie is %v", cookie)
	}
	if !strings.Contains(r.Header.Get("Cache-Control"), "no-store") {
		t.Error("the answer with the token may be stored")
	}
	held := accessToken(t, r)
	var members map[string]any
	r.JSON(t, &members)
	for name := range members {
		if !slices.Contains([]string{"access_token", "token_type", "expires_in", "scope"}, name) {
			t.Errorf("the answer has %q", name)
		}
	}
	canaries := gatewaytest.Canaries() // refresh tokens carry one, access and ID tokens another
	for _, path := range []string{"/bff/user", "/bff/session", "/bff/sessions", "/bff/token"} {
		answer := string(b.Fetch(http.MethodGet, path).Body)
		if path == "/bff/token" {
			answer = strings.ReplaceAll(answer, held, "")
		}
		for _, canary := range canaries {
			if strings.Contains(answer, canary) {
				t.Errorf("%s shows a token", path)
			}
		}
	}
}

// The pair: were the session's id tied to the user alone, the one from before a
// refresh would still be good.
func reissueKillsTheOldID(t *testing.T) {
	p, _, b := quickWorld(t)
	old := b.Clone()
	if token(b).Successor() == "" {
		t.Fatal("the refresh didn't rotate the ticket")
	}
	redeemed(t, p, 1)
	token(b)
	rig.Eventually(t, "the old id is dead", func() bool { return token(old).Status == http.StatusUnauthorized })
	redeemed(t, p, 1)
}

func passwordLoginAnswers(t *testing.T) {
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) { passwords(c, p, reg) }})
	p.Enrol(gatewaytest.User{Username: "alice", Password: aPassword})
	b := w.NewBrowser()
	r, err := logInFast(b, "alice", 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := subject(t, r); got != "sub-alice" || r.Successor() == "" || strings.Contains(string(r.Body), "refresh") {
		t.Errorf("the token is %q's, and the cookie has %d bytes", got, len(r.Successor()))
	}
	if got := subject(t, token(b)); got != "sub-alice" {
		t.Errorf("the next token is %q's", got)
	}
}

// Three ways in which a provider tells: it refuses the refresh, it refuses the
// check between refreshes, or it says so.
func changedPasswordEnds(t *testing.T) {
	p, w, b := quickWorld(t) // the next token needs a refresh
	p.RevokeSubject("sub-alice")
	wantProblem(t, token(b), 401, "login_required", "refresh_rejected")
	wantEnded(t, w, b, "refresh_rejected")

	b.Login("bob")
	backChannel(t, w, w.Gateways[0], p.LogoutToken(gatewaytest.Logout{Subject: "sub-bob"}), http.StatusOK)
	wantEnded(t, w, b, "provider_logout")

	cutOffTimeIsASetting(t)
}

func publicKeysAreServed(t *testing.T) {
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) { mints(t, c) }})
	anybody := w.NewBrowser()
	var doc struct {
		Keys string `json:"jwks_uri"`
	}
	anybody.Fetch(http.MethodGet, "/.well-known/openid-configuration").JSON(t, &doc)
	u, err := url.Parse(doc.Keys)
	if err != nil {
		t.Fatal(err)
	}
	r := anybody.Fetch(http.MethodGet, u.Path)
	var set struct {
		Keys []struct{ Kty, D string }
	}
	r.JSON(t, &set)
	if r.Status != http.StatusOK || len(set.Keys) != 1 || set.Keys[0].Kty != "EC" || set.Keys[0].D != "" {
		t.Errorf("%d %s", r.Status, r.Body)
	}
}
