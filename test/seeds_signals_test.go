package test

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// B. Telling "renew" from "you are out".

func signalsAreDistinct(t *testing.T) {
	const audience = "https://api.example.com" // the strict provider's
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: time.Second})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		live(t, c)
		c.Set("apps.0.token.audience", []any{audience})
	}})
	alice, bob, carol := w.NewBrowser(), w.NewBrowser(), w.NewBrowser()
	for name, b := range map[string]*rig.Browser{"alice": alice, "bob": bob, "carol": carol} {
		b.Login(name)
	}
	byBearer := func(held string) *rig.Response {
		t.Helper()
		return alice.Send(rig.Request{Path: "/bearer/", Header: http.Header{"Authorization": {"Bearer " + held}}})
	}
	short := accessToken(t, token(alice)) // lives for a second or so
	rig.Eventually(t, "renew", func() bool {
		r := byBearer(short)
		if r.Status == http.StatusOK {
			return false
		}
		wantProblem(t, r, 401, "token_expired", "")
		return true
	})
	p.Change(func(o *gatewaytest.Options) { o.AccessLife = 5 * time.Minute })
	rig.Eventually(t, "the renewing call helps", func() bool { return byBearer(accessToken(t, token(alice))).Status == http.StatusOK })

	wantProblem(t, token(w.NewBrowser()), 401, "login_required", "no_session")
	w.Gateways[0].End(map[string]any{"sid": about(t, bob).SID})
	wantEnded(t, w, bob, "revoked")
	w.Gateways[0].End(map[string]any{"app": "shop", "sub": "sub-carol", "locked": true})
	rig.Eventually(t, "locked", func() bool { return token(carol).Status == http.StatusForbidden })
	wantProblem(t, token(carol), 403, "account_locked", "")

	w.Redis.Stop()
	rig.Eventually(t, "try later", func() bool { return token(alice).Status == http.StatusServiceUnavailable })
	r := token(alice)
	wantProblem(t, r, 503, "store_unavailable", "")
	if r.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	w.Redis.Cont()
	rig.Eventually(t, "nothing was lost by waiting", func() bool { return token(alice).Status == http.StatusOK })
}

func outsideSystemsEndSessions(t *testing.T) {
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2})
	bySession, byUser, atProvider, bystander := w.NewBrowser(), w.NewBrowser(), w.NewBrowser(), w.NewBrowser()
	for name, b := range map[string]*rig.Browser{"alice": bySession, "bob": byUser, "carol": atProvider, "dave": bystander} {
		b.Login(name)
		for range w.Gateways { // in both caches
			subject(t, token(b))
		}
	}
	w.Gateways[0].End(map[string]any{"sid": about(t, bySession).SID, "reason": "a rule of the business"})
	wantEnded(t, w, bySession, "revoked")
	w.Gateways[1].End(map[string]any{"app": "shop", "sub": "sub-bob", "reason": "a rule of the business"})
	wantEnded(t, w, byUser, "revoked")
	backChannel(t, w, w.Gateways[0], p.LogoutToken(gatewaytest.Logout{Subject: "sub-carol"}), http.StatusOK)
	wantEnded(t, w, atProvider, "provider_logout")
	for range w.Gateways {
		if got := subject(t, token(bystander)); got != "sub-dave" {
			t.Errorf("the token is %q's", got)
		}
	}
}

func liveTokenOfAnEndedSession(t *testing.T) {
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: func(c rig.Config) {
		mints(t, c)
		live(t, c)
	}})
	alice, bob := w.NewBrowser(), w.NewBrowser()
	alice.Login("alice")
	bob.Login("bob")
	hers, his := accessToken(t, token(alice)), accessToken(t, token(bob))
	ask := func(held string, on *rig.Gateway) *rig.Response {
		t.Helper()
		return alice.Send(rig.Request{Path: "/bearer/", On: on, Header: http.Header{"Authorization": {"Bearer " + held}}})
	}
	for _, g := range w.Gateways {
		if r := ask(hers, g); r.Status != http.StatusOK {
			t.Fatalf("before: %s", r)
		}
	}
	s := about(t, alice)
	w.Gateways[0].End(map[string]any{"sid": s.SID})
	for _, g := range w.Gateways {
		rig.Within(t, 2*time.Second, "her token is refused", func() bool {
			r := ask(hers, g)
			if r.Status == http.StatusOK {
				return false
			}
			wantProblem(t, r, 401, "token_invalid", "")
			return true
		})
		if r := ask(his, g); r.Status != http.StatusOK {
			t.Errorf("somebody else's token: %s", r)
		}
	}
	// The list cleans itself: all that is kept of an end goes by itself.
	for _, key := range keys(w.Redis) {
		if ttl, _ := strconv.Atoi(w.Redis.CLI("PTTL", key)); ttl <= 0 && w.Redis.CLI("EXISTS", key) == "1" {
			t.Errorf("%s is kept for ever", key)
		}
	}
}

func lockedIs403(t *testing.T) {
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg})
	b := w.NewBrowser()
	b.Login("alice")
	w.Gateways[0].End(map[string]any{"app": "shop", "sub": "sub-alice", "locked": true})
	for what, req := range map[string]rig.Request{
		"token": {Method: http.MethodPost, Path: "/bff/token"}, "user": {Path: "/bff/user"}, "route": {Path: "/api/orders"},
	} {
		rig.Within(t, 2*time.Second, what, func() bool { return b.Send(req).Status != http.StatusOK })
		wantProblem(t, b.Send(req), 403, "account_locked", "")
	}
	// Another login doesn't help.
	if page := w.NewBrowser().Navigate("/bff/login?return_to=%2Flanding", "alice"); page.Status != http.StatusForbidden {
		t.Errorf("a login landed on %s with %s", page.URL, page)
	}
}
