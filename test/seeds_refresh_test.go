package test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// A. Refresh tokens, and what they prove.

func refreshTokenNeedsItsCookie(t *testing.T) {
	p, _, alice := quickWorld(t) // her access token has run out: any answer needs the refresh token
	sid := about(t, alice).SID
	for what, cookie := range map[string]string{"none": "", "the sid": sid, "an altered one": altered(alice.Cookie()), "half of it": alice.Cookie()[:len(alice.Cookie())/2]} {
		thief := alice.Clone()
		thief.SetCookie(cookie)
		r := token(thief)
		if r.Status != http.StatusUnauthorized {
			t.Errorf("cookie: %s: %s", what, r)
		}
	}
	redeemed(t, p, 0)
	if got := subject(t, token(alice)); got != "sub-alice" {
		t.Errorf("the token is %q's", got)
	}
	redeemed(t, p, 1)
}

// Two settings bound it: how long a token lives that nobody asks about, and how
// often the provider is asked.
func cutOffTimeIsASetting(t *testing.T) {
	const lifetime, revalidate = 7 * time.Second, 5 * time.Second
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		mints(t, c)
		c.Set("apps.0.token.lifetime", lifetime.String())
		c.Set("apps.0.session.revalidate", revalidate.String())
	}})
	b := w.NewBrowser()
	b.Login("alice")
	c := claims(t, accessToken(t, token(b)))
	if life := c["exp"].(float64) - c["iat"].(float64); life != lifetime.Seconds() {
		t.Errorf("a token lives for %v s, want %v", life, lifetime)
	}
	p.RevokeSubject("sub-alice") // a password was changed, and nobody tells us
	out := time.Now()
	var last float64
	rig.Eventually(t, "the next check ends the session", func() bool {
		r := token(b)
		if r.Status == http.StatusOK {
			last = claims(t, accessToken(t, r))["exp"].(float64)
			return false
		}
		wantProblem(t, r, 401, "login_required", "refresh_rejected")
		return true
	})
	if took := time.Since(out); took > revalidate*6/5+2*time.Second {
		t.Errorf("the session ended after %v, revalidate is %v", took, revalidate)
	}
	if bound := out.Add(revalidate*6/5 + lifetime + time.Second); time.Unix(int64(last), 0).After(bound) {
		t.Errorf("the last token lives until %v, want until %v at most", time.Unix(int64(last), 0), bound)
	}
}

func oldOnesAreDeadAndRemembered(t *testing.T) {
	p, w, b := quickWorld(t)
	s, old := about(t, b), b.Clone()
	if token(b).Successor() == "" {
		t.Fatal("the refresh didn't rotate the ticket")
	}
	if live := p.Live("sub-alice"); len(live) != 1 {
		t.Errorf("%d refresh tokens work after a rotation", len(live))
	}
	token(b) // shows the successor: the grace begins
	rig.Eventually(t, "the old ticket is found out", func() bool {
		r := token(old)
		if r.Status == http.StatusOK {
			return false
		}
		wantProblem(t, r, 401, "login_required", "reuse_detected")
		return true
	})
	wantEnded(t, w, b, "reuse_detected")
	// What is left remembers that, for as long as a ticket might have been good.
	for _, key := range keys(w.Redis) {
		if strings.Contains(key, s.SID) {
			ttl, err := strconv.Atoi(w.Redis.CLI("TTL", key))
			if left := time.Until(s.ExpiresAt); err != nil || time.Duration(ttl)*time.Second < left {
				t.Errorf("the tombstone is kept for %d s, the session would have had %v", ttl, left)
			}
			return
		}
	}
	t.Error("there is no tombstone")
}

func rememberedSessionsRotate(t *testing.T) {
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: time.Second, AutoLogin: gatewaytest.As("alice")})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		quick(c)
		c.Set("apps.0.session.remember", "120h")
		c.Set("apps.0.provider.login_params", []any{"remember"})
	}})
	for login, want := range map[string]time.Duration{
		"/bff/login?return_to=%2Flanding&remember=1": 120 * time.Hour,
		"/bff/login?return_to=%2Flanding":            12 * time.Hour,
	} {
		b := w.NewBrowser()
		b.Navigate(login, "")
		s := about(t, b)
		if left := s.ExpiresAt.Sub(s.ServerTime); left < want-time.Minute || left > want {
			t.Errorf("%s: the session has %v left, want %v", login, left, want)
		}
		tokenRunsOut(t, b)
		r := token(b)
		if r.Successor() == "" {
			t.Fatalf("%s: the refresh didn't rotate the ticket: %s", login, r)
		}
		if persistent := r.SetCookies[0].MaxAge > 0; persistent != (want > 12*time.Hour) {
			t.Errorf("%s: the next cookie's Max-Age is %d", login, r.SetCookies[0].MaxAge)
		}
	}
	if reuses := p.Reuses(); len(reuses) > 0 {
		t.Errorf("reuse at the provider: %v", reuses)
	}
}

func resourceServersAskNobody(t *testing.T) {
	const audience = "https://api.test"
	front := rig.NewFront(t)
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) { mints(t, c) }})
	front.Serve(w)
	api := resourceServer(t, front, audience) // fetches the keys, once
	b := w.NewBrowser()
	b.Login("alice")
	held := accessToken(t, token(b))
	w.Gateways[0].Terminate()
	w.Redis.Kill()
	if v := byKeyfunc(t, api, held); v.Error != "" {
		t.Errorf("with nobody to be asked: %s", v.Error)
	}
}
