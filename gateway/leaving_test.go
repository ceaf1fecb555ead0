package gateway_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/session"
)

// LO-1: the logout's answer doesn't wait for the revocation, which is tried again
// where the provider stumbles.
func TestRevocationTriedAgain(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	failing := w.provider.Fail(gatewaytest.FailWith{Endpoint: gatewaytest.EndpointRevoke, Status: 503, Times: 2})
	gate := w.provider.Gate(gatewaytest.GateBeforeCommit, gatewaytest.At(gatewaytest.EndpointRevoke))
	want(t, b.fetch("POST", "/bff/logout"), 200) // with the provider still at it
	gate.Release()
	eventually(t, "the refresh token is revoked", func() bool { return len(w.provider.Live("")) == 0 })
	if failing.Hits() != 2 {
		t.Errorf("%d failures", failing.Hits())
	}
}

// RV-2: when it comes back to it is the provider's to say (RFC 7009 section 2.2.1).
func TestRevocationRetryAfter(t *testing.T) {
	t.Parallel() // it waits for the provider's second
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	w.provider.Fail(gatewaytest.FailWith{Endpoint: gatewaytest.EndpointRevoke, Status: 503, RetryAfter: "1", Times: 1})
	before := time.Now()
	want(t, b.fetch("POST", "/bff/logout"), 200)
	eventually(t, "the refresh token is revoked", func() bool { return len(w.provider.Live("")) == 0 })
	if d := time.Since(before); d < time.Second {
		t.Errorf("it was asked again within %v", d)
	}
}

// What the provider refuses for good is not tried again.
func TestRevocationRefused(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	w.provider.Fail(gatewaytest.FailWith{Endpoint: gatewaytest.EndpointRevoke, Error: "invalid_client"})
	want(t, b.fetch("POST", "/bff/logout"), 200)
	eventually(t, "it is logged", func() bool { return w.log.find("not revoked") != "" })
	if line := w.log.find("not revoked"); !strings.Contains(line, `"again":false`) || !strings.Contains(line, `"attempt":1`) {
		t.Error(line)
	}
}

// The process doesn't wait for a provider that is away: one last attempt, and
// out.
func TestRevocationAtShutdown(t *testing.T) {
	w := newWorld(t)
	r := w.replica()
	b := w.browser(r)
	b.login()
	w.provider.Refuse()
	want(t, b.fetch("POST", "/bff/logout"), 200)
	eventually(t, "it is tried", func() bool { return w.log.find("not revoked") != "" })
	if err := r.Wait(t.Context()); err != nil { // the pauses alone would be half a minute
		t.Error(err)
	}
	if w.log.find(`"again":false`) == "" {
		t.Error("no last attempt")
	}
}

// LO-2: what browsers are told to forget.
func TestClearSiteData(t *testing.T) {
	w := newWorld(t, func(a *gateway.App) { a.ClearSiteData = []string{"storage", "cache"} })
	b := w.browser(w.replica())
	b.login()
	if a := b.fetch("GET", "/bff/user"); a.header.Get("Clear-Site-Data") != "" {
		t.Errorf("%v", a)
	}
	form := request{method: "POST", url: origin + "/bff/logout", navigation: true, header: map[string]string{
		"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate",
		"Sec-Fetch-Dest": "document", "Origin": origin,
	}}
	byForm, err := b.send(form)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []answer{byForm, b.fetch("POST", "/bff/logout")} {
		want(t, a, 200)
		if got := a.header.Values("Clear-Site-Data"); len(got) != 1 || got[0] != `"storage", "cache"` {
			t.Errorf("%q", got)
		}
	}
	if a := b.fetch("POST", "/bff/logout", "Origin: https://evil.test"); a.header.Get("Clear-Site-Data") != "" {
		t.Errorf("%v", a)
	}

	plain := newWorld(t, func(a *gateway.App) {
		a.ClearSiteData = []string{"storage"}
		a.Origin, _ = url.Parse("http://app.test")
	})
	b = plain.browser(plain.replica())
	a := b.fetch("POST", "/bff/logout", "Origin: http://app.test")
	want(t, a, 200)
	if a.header.Get("Clear-Site-Data") != "" {
		t.Errorf("over http: %v", a)
	}
}

// seeds B: whose account is locked is told so, and that a login won't help; what
// the login brought is revoked.
func TestLockedLogin(t *testing.T) {
	w := newWorld(t)
	r := w.replica()
	b := w.browser(r)
	whose := session.Whose{Issuer: w.provider.Issuer(), Subject: alice}
	if _, err := r.keeper.EndBy(t.Context(), &session.App{Name: "shop"}, whose, session.Ending{Reason: session.ReasonRevoked, Lock: true}); err != nil {
		t.Fatal(err)
	}
	a := b.visit("/bff/login", "none")
	if a.status != 403 || !strings.Contains(a.body, "account_locked") || strings.Contains(a.body, "/bff/login") ||
		!strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
		t.Errorf("%v: %s", a, a.body)
	}
	if len(b.jar) != 0 {
		t.Errorf("%v", b.jar)
	}
	eventually(t, "the tokens are revoked", func() bool { return len(w.provider.Live("")) == 0 })
	if err := r.keeper.Unlock(t.Context(), &session.App{Name: "shop"}, whose); err != nil {
		t.Fatal(err)
	}
	b.login()
}

// A predecessor ends the session and hands the current refresh token back.
func TestLogoutByPredecessorRevokes(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	old := b.copy()
	w.pass(tokenLife)
	if a := b.fetch("POST", "/bff/token"); !a.handsOut() {
		t.Fatal(a)
	}
	a := old.fetch("POST", "/bff/logout")
	want(t, a, 200)
	if !strings.HasPrefix(a.field("logout_url"), w.provider.Issuer()) {
		t.Error(a.body)
	}
	eventually(t, "the successor's refresh token is revoked", func() bool { return len(w.provider.Live("")) == 0 })
	want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "logged_out")
}
