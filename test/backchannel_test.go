package test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// npm's certified provider tells the gateway of a logout there: by the session,
// when somebody logs out, and by the subject alone.
func TestCertifiedProviderLogsOut(t *testing.T) {
	t.Parallel()
	front := rig.NewFront(t)
	p := rig.NewCertified(t, rig.Origin, 5*time.Minute, "BACKCHANNEL_LOGOUT_URI="+front.URL+"/bff/backchannel-logout")
	w := rig.New(t, rig.Setup{Provider: p.Registration(), Replicas: 2})
	front.Serve(w)

	alice, laptop, bob := w.NewBrowser(), w.NewBrowser(), w.NewBrowser()
	alice.Login("alice")
	laptop.Login("alice")
	bob.Login("bob")
	stillIn := func(b *rig.Browser, who string) {
		t.Helper()
		for range w.Gateways {
			if got := subject(t, token(b)); got != who {
				t.Fatalf("the token is %q's", got)
			}
		}
	}
	for _, b := range []*rig.Browser{alice, laptop} {
		stillIn(b, "alice")
	}
	stillIn(bob, "bob")

	issuer := p.Registration().Issuer
	page := alice.Arrive(issuer+"/session/end", "")
	if page.Status != http.StatusOK {
		t.Fatalf("the provider's page to log out: %s", page)
	}
	if r := alice.Submit(page, url.Values{"logout": {"yes"}}); r.Status != http.StatusOK && r.Status/100 != 3 {
		t.Fatalf("logging out at the provider: %d: %.300s", r.Status, r.Body)
	}
	wantEnded(t, w, alice, "provider_logout")
	stillIn(laptop, "alice") // another session at the provider
	stillIn(bob, "bob")

	tell := func(q url.Values, want int) {
		t.Helper()
		resp, err := http.Post(issuer+"/tell?"+q.Encode(), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Fatalf("the provider answers %d: the gateway didn't take the logout token", resp.StatusCode)
		}
	}
	tell(url.Values{"sub": {"alice"}}, http.StatusNoContent)
	wantEnded(t, w, laptop, "provider_logout")
	stillIn(bob, "bob")
	tell(url.Values{"sub": {"nobody"}, "sid": {"no-such-session"}}, http.StatusNoContent)
	stillIn(bob, "bob")

	// Whoever logs in again is in: the logout was about the sessions before it.
	rig.Eventually(t, "a login after the logout holds", func() bool {
		again := w.NewBrowser()
		page := again.Navigate("/bff/login?return_to=%2Flanding&prompt=login", "alice")
		return page.Status == http.StatusOK && token(again).Status == http.StatusOK // iat is cut to the second
	})
}

// The strict provider tells the gateway of a logout there, over a real
// connection; then tokens that are replayed, forged or for somebody else are
// refused, and end nobody. (All that makes one unacceptable: see the tests of
// gateway and gateway/idp.)
func TestLogoutTokens(t *testing.T) {
	t.Parallel()
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	stranger, _ := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2})
	p.Register(gatewaytest.Client{
		ID: reg.ClientID, Secret: reg.ClientSecret, Auth: reg.ClientAuth,
		RedirectURIs: []string{rig.Origin + "/bff/callback"}, PostLogoutRedirectURIs: []string{rig.Origin + "/bff/logged-out"},
		BackChannelLogoutURI: "http://app.test/bff/backchannel-logout",
	})
	p.Change(func(o *gatewaytest.Options) {
		o.Notify = &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, w.Gateways[1].Public)
			},
			DisableKeepAlives: true,
		}}
	})

	alice, bob := w.NewBrowser(), w.NewBrowser()
	alice.Login("alice")
	bob.Login("bob")
	subject(t, token(alice))
	p.SignOut(gatewaytest.SubjectOf("alice"))
	for _, n := range p.Notifications() {
		if n.Status != http.StatusOK {
			t.Errorf("the gateway answered the provider with %d", n.Status)
		}
	}
	if len(p.Notifications()) == 0 {
		t.Fatal("the provider told nobody")
	}
	wantEnded(t, w, alice, "provider_logout")

	sub := gatewaytest.SubjectOf("bob")
	used := p.LogoutToken(gatewaytest.Logout{Subject: gatewaytest.SubjectOf("nobody")})
	backChannel(t, w, w.Gateways[0], used, http.StatusOK)
	good := p.LogoutToken(gatewaytest.Logout{Subject: sub})
	signed := strings.Split(good, ".")
	for name, token := range map[string]string{
		"replayed at the other replica": used,
		"another provider's":            stranger.LogoutToken(gatewaytest.Logout{Subject: sub, Edit: func(_, c map[string]any) { c["iss"] = p.Issuer() }}),
		"for another client":            p.LogoutToken(gatewaytest.Logout{Subject: sub, Client: "somebody-else"}),
		"with a nonce":                  p.LogoutToken(gatewaytest.Logout{Subject: sub, Edit: func(_, c map[string]any) { c["nonce"] = "n" }}),
		"without events":                p.LogoutToken(gatewaytest.Logout{Subject: sub, Edit: func(_, c map[string]any) { delete(c, "events") }}),
		"without a jti":                 p.LogoutToken(gatewaytest.Logout{Subject: sub, Edit: func(_, c map[string]any) { delete(c, "jti") }}),
		"for nobody":                    p.LogoutToken(gatewaytest.Logout{}),
		"too old": p.LogoutToken(gatewaytest.Logout{Subject: sub, Edit: func(_, c map[string]any) {
			c["iat"], c["exp"] = time.Now().Add(-time.Hour).Unix(), time.Now().Add(-58*time.Minute).Unix()
		}}),
		"unsigned":          "eyJhbGciOiJub25lIn0." + signed[1] + ".",
		"another signature": signed[0] + "." + signed[1] + "." + strings.Split(used, ".")[2],
		"no token":          "x",
	} {
		r := backChannel(t, w, w.Gateways[1], token, http.StatusBadRequest)
		var answer struct {
			Error string `json:"error"`
		}
		r.JSON(t, &answer)
		if answer.Error != "invalid_request" {
			t.Errorf("%s: %s", name, r.Body)
		}
	}
	for range w.Gateways {
		if got := subject(t, token(bob)); got != sub {
			t.Errorf("bob's token is %q's", got)
		}
	}
	// None of them has used the good one up.
	backChannel(t, w, w.Gateways[0], good, http.StatusOK)
	wantEnded(t, w, bob, "provider_logout")
}

// The provider's logout arrives while the login is on its way: the code is at
// the gateway, its session isn't there yet. The logout wins.
func TestLogoutBeforeItsSession(t *testing.T) {
	for _, by := range []string{"sid", "sub"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
			w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2})
			op := make(chan string, 8)
			p.Change(func(o *gatewaytest.Options) {
				o.EditIDToken = func(_ gatewaytest.Request, c map[string]any) { op <- fmt.Sprint(c["sid"]) }
			})
			// The ID token is made and its answer is on the way.
			hold := p.Gate(gatewaytest.GateMidBody, func(r gatewaytest.Request) bool { return r.Grant == "authorization_code" })
			b := w.NewBrowser()
			landed := make(chan *rig.Response, 1)
			go func() { landed <- b.Navigate("/bff/login?return_to=%2Flanding", "alice") }()
			select {
			case <-hold.Arrived():
			case <-time.After(rig.Patience):
				t.Fatal("no code has come to the provider")
			}
			l := gatewaytest.Logout{Subject: gatewaytest.SubjectOf("alice")}
			if sid := <-op; by == "sid" {
				l = gatewaytest.Logout{SessionID: sid}
			}
			backChannel(t, w, w.Gateways[0], p.LogoutToken(l), http.StatusOK)
			hold.Release()
			page := <-landed
			if page.Status == http.StatusOK || !strings.Contains(string(page.Body), "provider_logout") && page.Status/100 != 4 {
				t.Errorf("the login landed on %s with %s: %.300s", page.URL, page, page.Body)
			}
			if r := token(b); r.Status != http.StatusUnauthorized {
				t.Errorf("after a logout that won: %s", r)
			}
			rig.Eventually(t, "its refresh token is revoked", func() bool {
				return len(p.Live(gatewaytest.SubjectOf("alice"))) == 0
			})

			// The next login is another one.
			p.Change(func(o *gatewaytest.Options) { o.EditIDToken = nil })
			rig.Eventually(t, "a later login holds", func() bool {
				b := w.NewBrowser()
				b.Navigate("/bff/login?return_to=%2Flanding&prompt=login", "alice")
				return token(b).Status == http.StatusOK
			})
		})
	}
}
