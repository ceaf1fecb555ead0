package test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// victim is a session whose refresh is in flight.
type victim struct {
	user    string
	sid     string
	op      string       // the provider's own name of its session
	browser *rig.Browser // has the session
	other   *rig.Browser // has another one of the same user's
}

// ender ends a victim's session at a replica.
type ender struct {
	name   string
	reason string
	end    func(t *testing.T, w *rig.World, p *gatewaytest.Provider, v *victim, on *rig.Gateway)
}

func enders() []ender {
	return []ender{
		{"the user logs out", "logged_out", func(t *testing.T, w *rig.World, _ *gatewaytest.Provider, v *victim, on *rig.Gateway) {
			r := v.browser.Clone().Send(rig.Request{Method: http.MethodPost, Path: "/bff/logout", On: on})
			if r.Status != http.StatusOK {
				t.Fatalf("logout: %s", r)
			}
		}},
		{"the user ends it from another browser", "revoked", func(t *testing.T, w *rig.World, _ *gatewaytest.Provider, v *victim, on *rig.Gateway) {
			r := v.other.Send(rig.Request{Method: http.MethodDelete, Path: "/bff/sessions/" + v.sid, On: on})
			if r.Status != http.StatusNoContent {
				t.Fatalf("DELETE: %s", r)
			}
		}},
		{"an operator, by sid", "revoked", func(t *testing.T, _ *rig.World, _ *gatewaytest.Provider, v *victim, on *rig.Gateway) {
			on.End(map[string]any{"sid": v.sid})
		}},
		{"an operator, by sub", "revoked", func(t *testing.T, _ *rig.World, _ *gatewaytest.Provider, v *victim, on *rig.Gateway) {
			on.End(map[string]any{"app": "shop", "sub": gatewaytest.SubjectOf(v.user)})
		}},
		{"the provider, by sid", "provider_logout", func(t *testing.T, w *rig.World, p *gatewaytest.Provider, v *victim, on *rig.Gateway) {
			backChannel(t, w, on, p.LogoutToken(gatewaytest.Logout{SessionID: v.op}), http.StatusOK)
		}},
		{"the provider, by sub", "provider_logout", func(t *testing.T, w *rig.World, p *gatewaytest.Provider, v *victim, on *rig.Gateway) {
			backChannel(t, w, on, p.LogoutToken(gatewaytest.Logout{Subject: gatewaytest.SubjectOf(v.user)}), http.StatusOK)
		}},
		{"a new login", "replaced", func(t *testing.T, _ *rig.World, _ *gatewaytest.Provider, v *victim, on *rig.Gateway) {
			if _, err := logInFast(v.browser.Clone(), v.user, 1, on); err != nil {
				t.Fatal(err)
			}
		}},
		// It ends everybody's: the last.
		{"an operator, the whole app", "revoked", func(t *testing.T, _ *rig.World, _ *gatewaytest.Provider, v *victim, on *rig.Gateway) {
			on.End(map[string]any{"app": "shop"})
		}},
	}
}

// backChannel sends a logout token as a provider does.
func backChannel(t testing.TB, w *rig.World, on *rig.Gateway, token string, want int) *rig.Response {
	t.Helper()
	r := w.NewBrowser().Send(rig.Request{
		Method: http.MethodPost, Path: "/bff/backchannel-logout", On: on, Body: url.Values{"logout_token": {token}}.Encode(),
		Header: http.Header{
			"Content-Type": {"application/x-www-form-urlencoded"}, "X-Bff": {}, "Origin": {},
			"Sec-Fetch-Site": {}, "Sec-Fetch-Mode": {}, "Sec-Fetch-Dest": {},
		},
	})
	if r.Status != want {
		t.Fatalf("the back channel answers %s, want %d: %s", r, want, r.Body)
	}
	return r
}

// Kill against refresh: a refresh is held at the provider, before it has spent
// the token, after, and in the middle of its answer; everybody who may ends the
// session meanwhile, at the replica that refreshes or at the other. The session
// is dead at the end in all of them, whatever ticket is shown where, and no
// refresh token that came of it works at the provider.
func TestKillAgainstRefresh(t *testing.T) {
	t.Parallel()
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: time.Second})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: func(c rig.Config) {
		passwords(c, p, reg)
	}})
	type row struct {
		ender
		gate gatewaytest.Point
		at   int // the replica that ends; 0 refreshes
		victim
	}
	var rows []row
	for _, e := range enders() {
		for _, gate := range []gatewaytest.Point{gatewaytest.GateBeforeCommit, gatewaytest.GateAfterCommit, gatewaytest.GateMidBody} {
			for at := range w.Gateways {
				rows = append(rows, row{ender: e, gate: gate, at: at})
			}
		}
	}
	ops := map[string]string{}
	p.Change(func(o *gatewaytest.Options) {
		o.EditIDToken = func(r gatewaytest.Request, claims map[string]any) {
			if r.Grant == "password" {
				sid, _ := claims["sid"].(string)
				ops[r.Subject] = sid // logins are done one at a time
			}
		}
	})
	logIn := func(user string, n int) *rig.Browser {
		b := w.NewBrowser()
		if _, err := logInFast(b, user, n, nil); err != nil {
			t.Fatal(err)
		}
		return b
	}
	for i := range rows {
		v := &rows[i].victim
		v.user = fmt.Sprintf("victim%d", i)
		p.Enrol(gatewaytest.User{Username: v.user, Password: aPassword})
		v.other = logIn(v.user, 2*i)
		v.browser = logIn(v.user, 2*i+1)
		v.op = ops[gatewaytest.SubjectOf(v.user)]
		v.sid = about(t, v.browser).SID
	}
	for i := range rows {
		tokenRunsOut(t, rows[i].browser)
	}
	p.Change(func(o *gatewaytest.Options) { o.AccessLife, o.EditIDToken = 5*time.Minute, nil })

	for i := range rows {
		r := &rows[i]
		t.Run(fmt.Sprintf("%s, %s, replica %d", r.name, r.gate, r.at), func(t *testing.T) {
			everybody := strings.HasSuffix(r.name, "app")
			if everybody && i > 0 && strings.HasSuffix(rows[i-1].name, "app") {
				// The one before has ended this one, too: begin again.
				p.Change(func(o *gatewaytest.Options) { o.AccessLife = time.Second })
				r.browser, r.other = logIn(r.user, 1000+2*i), logIn(r.user, 1001+2*i)
				tokenRunsOut(t, r.browser)
				p.Change(func(o *gatewaytest.Options) { o.AccessLife = 5 * time.Minute })
			}
			subject := gatewaytest.SubjectOf(r.user)
			hold := p.Gate(r.gate, gatewaytest.Refreshing, func(req gatewaytest.Request) bool { return req.Subject == subject })
			defer hold.Release()

			shown := r.browser.Clone()
			type result struct {
				r   *rig.Response
				err error
			}
			refreshed := make(chan result, 1)
			go func() {
				resp, err := r.browser.Try(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: w.Gateways[0]})
				refreshed <- result{resp, err}
			}()
			var family string
			select {
			case req := <-hold.Arrived():
				family = p.FamilyOf(req.Token)
			case <-time.After(rig.Patience):
				t.Fatal("no refresh has come to the provider")
			}
			if family == "" {
				t.Fatal("the ledger knows no family of the refresh token")
			}
			r.end(t, w, p, &r.victim, w.Gateways[r.at])
			if everybody {
				// No record holds this one: a replica has to have heard of it, for
				// which it has a second.
				rig.Within(t, time.Second, "the replica that refreshes knows", func() bool {
					return r.other.Send(rig.Request{Path: "/bff/session", On: w.Gateways[0]}).Status == http.StatusUnauthorized
				})
			}
			hold.Release()

			got := <-refreshed
			if got.err != nil {
				t.Fatal(got.err)
			}
			wantProblem(t, got.r, 401, "login_required", r.reason)
			for _, b := range []*rig.Browser{shown, r.browser} {
				for n, g := range w.Gateways {
					for _, req := range []rig.Request{
						{Method: http.MethodPost, Path: "/bff/token", On: g},
						{Method: http.MethodGet, Path: "/api/orders", On: g},
					} {
						if answer := b.Send(req); answer.Status != http.StatusUnauthorized {
							t.Errorf("replica %d, %s: %s", n, req.Path, answer)
						} else {
							wantProblem(t, answer, 401, "login_required", r.reason)
						}
					}
				}
			}
			rig.Eventually(t, "no refresh token of the session works at the provider", func() bool {
				return !slices.ContainsFunc(p.Live(subject), func(name string) bool { return p.FamilyOf(name) == family })
			})
		})
	}
	if reuses := p.Reuses(); len(reuses) > 0 {
		t.Errorf("reuse at the provider: %v", reuses)
	}
}
