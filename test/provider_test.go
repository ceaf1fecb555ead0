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

// The provider can't or won't refresh now, and says so before it spends
// anything: 503 with Retry-After, then recovery, and nobody is lost.
func TestProviderTroubleLosesNobody(t *testing.T) {
	for _, row := range []struct {
		name  string
		start func(*gatewaytest.Provider) (stop func(testing.TB))
	}{
		{"answers 503", fails(gatewaytest.FailWith{Status: http.StatusServiceUnavailable, RetryAfter: "1"})},
		{"answers 429", fails(gatewaytest.FailWith{Status: http.StatusTooManyRequests, RetryAfter: "1"})},
		{"says invalid_client", fails(gatewaytest.FailWith{Error: "invalid_client"})},
		{"says temporarily_unavailable", fails(gatewaytest.FailWith{Error: "temporarily_unavailable"})},
		{"refuses connections", func(p *gatewaytest.Provider) func(testing.TB) {
			p.Refuse()
			return func(t testing.TB) {
				if err := p.Accept(); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: 2 * time.Second})
			w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2})
			people := map[string]*rig.Browser{"alice": w.NewBrowser(), "bob": w.NewBrowser()}
			for name, b := range people {
				b.Login(name)
			}
			for _, b := range people {
				tokenRunsOut(t, b)
			}
			p.Change(func(o *gatewaytest.Options) { o.AccessLife = time.Minute })
			stop := row.start(p)
			cookies := map[string]string{}
			for name, b := range people {
				cookies[name] = b.Cookie()
				for _, r := range []*rig.Response{token(b), b.Fetch(http.MethodGet, "/api/orders"), token(b)} {
					wantProblem(t, r, 503, "provider_unavailable", "")
					if after, err := strconv.Atoi(r.Header.Get("Retry-After")); err != nil || after < 1 || after > 60 {
						t.Errorf("Retry-After is %q", r.Header.Get("Retry-After"))
					}
				}
				// The session itself is intact.
				if r := b.Fetch(http.MethodGet, "/bff/session"); r.Status != http.StatusOK {
					t.Errorf("/bff/session meanwhile: %s", r)
				}
			}
			stop(t)
			for name, b := range people {
				var r *rig.Response
				rig.Within(t, 15*time.Second, name+" has a token again", func() bool {
					r = token(b)
					if r.Status != http.StatusOK {
						wantProblem(t, r, 503, "provider_unavailable", "")
					}
					return r.Status == http.StatusOK
				})
				if got := subject(t, r); got != gatewaytest.SubjectOf(name) {
					t.Errorf("%s's cookie opens %q's session", name, got)
				}
				if n := len(p.Redemptions(gatewaytest.SubjectOf(name))); n != 1 {
					t.Errorf("%d refreshes of %s's, want 1", n, name)
				}
			}
			if reuses := p.Reuses(); len(reuses) > 0 {
				t.Errorf("reuse at the provider: %v", reuses)
			}
		})
	}
}

func fails(with gatewaytest.FailWith) func(*gatewaytest.Provider) func(testing.TB) {
	return func(p *gatewaytest.Provider) func(testing.TB) {
		f := p.Fail(with)
		return func(testing.TB) { f.Clear() }
	}
}

// invalid_grant is the provider's own word that the session is over.
func TestInvalidGrantEndsTheSession(t *testing.T) {
	t.Parallel()
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: time.Second})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2})
	alice, bob := w.NewBrowser(), w.NewBrowser()
	alice.Login("alice")
	bob.Login("bob")
	tokenRunsOut(t, alice)
	p.RevokeSubject(gatewaytest.SubjectOf("alice"))
	wantProblem(t, token(alice), 401, "login_required", "refresh_rejected")
	wantEnded(t, w, alice, "refresh_rejected")
	tokenRunsOut(t, bob)
	if got := subject(t, token(bob)); got != "sub-bob" {
		t.Errorf("bob's cookie opens %q's session", got)
	}
}

// N-10: the answer to a refresh can't be read. The token is served while it
// lives, then 503; after two looks it is presented once more, which saves the
// session if the first time spent nothing. Nobody else is touched.
func TestUnknownAnswer(t *testing.T) {
	for _, row := range []struct {
		name  string
		fail  gatewaytest.FailWith
		saved bool
	}{
		{"reset, unspent", gatewaytest.FailWith{Drop: true}, true},
		{"reset, spent", gatewaytest.FailWith{Drop: true, AfterCommit: true}, false},
		{"502, unspent", gatewaytest.FailWith{Status: http.StatusBadGateway, Body: "bad gateway"}, true},
		{"502, spent", gatewaytest.FailWith{Status: http.StatusBadGateway, Body: "bad gateway", AfterCommit: true}, false},
		{"half an answer, spent", gatewaytest.FailWith{Truncate: true}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: 10 * time.Second})
			w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2})
			alice := w.NewBrowser()
			alice.Login("alice")
			p.Change(func(o *gatewaytest.Options) { o.AccessLife = 5 * time.Minute })
			bob := w.NewBrowser()
			bob.Login("bob")

			row.fail.Times = 1
			row.fail.Only = func(r gatewaytest.Request) bool {
				return gatewaytest.Refreshing(r) && r.Subject == gatewaytest.SubjectOf("alice")
			}
			failing := p.Fail(row.fail)

			// In its last fifth a token is refreshed in the background: that fails,
			// and the token is served all the same.
			rig.Eventually(t, "a refresh in the background fails", func() bool {
				if got := subject(t, token(alice)); got != "sub-alice" {
					t.Fatalf("the token is %q's", got)
				}
				return failing.Hits() == 1
			})
			cookie := alice.Cookie()
			s := about(t, alice)
			for s.ServerTime.Before(s.AccessTokenExpiresAt.Add(-2 * time.Second)) { // in its last second it is of no use
				if got := subject(t, token(alice)); got != "sub-alice" {
					t.Fatalf("the token is %q's", got)
				}
				s = about(t, alice)
			}
			tokenRunsOut(t, alice)

			var last *rig.Response
			refused := 0
			rig.Within(t, 100*time.Second, "the token is presented once more", func() bool {
				last = token(alice)
				if last.Status == http.StatusServiceUnavailable {
					refused++
					wantProblem(t, last, 503, "provider_unavailable", "")
					return false
				}
				return true
			})
			if refused == 0 {
				t.Error("with its token run out and its refresh in doubt, the session was not refused first")
			}
			if row.saved {
				if got := subject(t, last); got != "sub-alice" {
					t.Errorf("the token is %q's", got)
				}
			} else {
				wantProblem(t, last, 401, "login_required", "refresh_rejected")
				told := false
				for _, g := range w.Gateways {
					told = told || strings.Contains(g.Output(), "answer_unknown")
				}
				if !told {
					t.Error("no audit line says answer_unknown")
				}
			}
			if got := alice.Cookie(); !row.saved && got != cookie {
				t.Error("the cookie was touched")
			}
			if n := len(p.Presentations(firstRefreshToken(p, "alice"))); n != 2 {
				t.Errorf("the refresh token was presented %d times, want 2", n)
			}
			if got := subject(t, token(bob)); got != "sub-bob" {
				t.Errorf("bob's cookie opens %q's session", got)
			}
		})
	}
}

// firstRefreshToken names the refresh token that a user's login was given.
func firstRefreshToken(p *gatewaytest.Provider, user string) string {
	for _, e := range p.Ledger() {
		if e.Kind == gatewaytest.KindRefresh && e.Outcome == gatewaytest.Issued && e.Subject == gatewaytest.SubjectOf(user) {
			return e.Token
		}
	}
	return ""
}

// A provider that is down when the gateway starts stops nothing but logins.
func TestProviderDownAtStart(t *testing.T) {
	t.Parallel()
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	p.Refuse()
	w := rig.New(t, rig.Setup{Provider: reg})
	b := w.NewBrowser()
	wantProblem(t, token(b), 401, "login_required", "no_session")
	if r := b.Navigate("/landing", ""); r.Status != http.StatusOK {
		t.Errorf("a route that asks for no login: %s", r)
	}
	r := b.Navigate("/bff/login", "alice")
	if r.Status != http.StatusServiceUnavailable || !strings.Contains(string(r.Body), "provider_unavailable") || r.Header.Get("Retry-After") == "" {
		t.Errorf("login: %s, Retry-After %q: %.200s", r, r.Header.Get("Retry-After"), r.Body)
	}
	if err := p.Accept(); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, "login works", func() bool {
		return b.Navigate("/bff/login?return_to=/landing", "alice").Status == http.StatusOK
	})
	if got := subject(t, token(b)); got != "sub-alice" {
		t.Errorf("the token is %q's", got)
	}
}
