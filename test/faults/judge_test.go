package faults

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// What oidc-provider tells, and what the second judge makes of it.
func TestSecondJudge(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	at := func(s float64) float64 { return float64(start.UnixMilli()) + 1000*s }
	login := []rig.Event{
		{At: at(1), Event: "refresh_token.saved", Presented: "r1", Family: "f"},
		{At: at(1), Event: "grant.success", Route: "token", GrantType: "authorization_code", Presented: "c1", Issued: "r1", Family: "f", Subject: "sub-u00000"},
	}
	refreshed := func(s float64, from, to string) []rig.Event {
		return []rig.Event{
			{At: at(s), Event: "refresh_token.consumed", Presented: from, Family: "f"},
			{At: at(s), Event: "refresh_token.saved", Presented: to, Family: "f"},
			{At: at(s), Event: "grant.success", Route: "token", GrantType: "refresh_token", Presented: from, Issued: to, Family: "f", Subject: "sub-u00000"},
		}
	}
	reuse := []rig.Event{
		{At: at(9), Event: "grant.revoked", Route: "token", GrantType: "refresh_token", Presented: "r1", Family: "f"},
		{At: at(9), Event: "grant.error", Route: "token", GrantType: "refresh_token", Presented: "r1", Family: "f", Error: "invalid_grant", Detail: reused},
	}
	back := []rig.Event{{At: at(9), Event: "grant.revoked", Route: "revocation", Family: "f"}}
	ended := func(cause string) []Line {
		return []Line{
			{At: 8 * time.Second, Message: sayOnceMore, SID: "s", Cause: causeUnknown},
			{At: 9 * time.Second, Message: sayEnded, SID: "s", Reason: reasonRejected, Cause: cause},
		}
	}
	for _, row := range []struct {
		name    string
		events  []rig.Event
		session Session
		lines   []Line
		want    string // the invariants that are violated
	}{
		{"all is well", slices.Concat(login, refreshed(5, "r1", "r2")), Session{Final: 200}, nil, ""},
		{"a token is shown twice", slices.Concat(login, refreshed(5, "r1", "r2"), reuse), Session{Final: 401}, nil, "I2 I6"},
		{"once more, after its answer was lost", slices.Concat(login, refreshed(5, "r1", "r2"), reuse), Session{Final: 401}, ended(causeUnknown), ""},
		{"both got an answer", slices.Concat(login, refreshed(5, "r1", "r2"), refreshed(7, "r1", "r3")), Session{Final: 200}, nil, "I2 I2"},
		{"handed back, and served all the same", slices.Concat(login, refreshed(5, "r1", "r2"), back), Session{Final: 200}, nil, "I3"},
		{"handed back at a logout", slices.Concat(login, refreshed(5, "r1", "r2"), back), Session{Ending: 8 * time.Second, Final: 401}, nil, ""},
		{"lost, and the provider knows nothing of it", slices.Concat(login, refreshed(5, "r1", "r2")), Session{Final: 401}, nil, "I3"},
		{"a browser that was cut off shows its code again", slices.Concat(login, refreshed(5, "r1", "r2"), []rig.Event{
			{At: at(1.5), Event: "grant.revoked", Route: "token", GrantType: "authorization_code", Presented: "c2", Family: "g"},
			{At: at(1.5), Event: "grant.error", Route: "token", GrantType: "authorization_code", Presented: "c2", Error: "invalid_grant", Detail: "authorization code already consumed"},
		}), Session{Final: 200}, nil, ""},
		{"oidc-provider was not asked", login, Session{Final: 200}, nil, "rig"},
	} {
		t.Run(row.name, func(t *testing.T) {
			ledger, secrets := entries(row.events)
			if !slices.Contains(secrets, "r1") || !slices.Contains(secrets, "c1") {
				t.Errorf("%q are looked for", secrets)
			}
			row.session.ID, row.session.SID, row.session.User, row.session.Family = "u00000.0", "s", "u00000", "f"
			h := &History{
				Start: start, Ledger: ledger, Lines: row.lines, Sessions: []Session{row.session},
				Windows: []Window{{Name: "connections are cut", From: time.Second, To: 2 * time.Second}},
			}
			r := Check(h, Allowance{Unknown: true, Cut: true})
			secondJudge(nil, h, r)
			var got []string
			for _, v := range r.Violations {
				name, _, _ := strings.Cut(v, ":")
				got = append(got, name)
			}
			if s := strings.Join(got, " "); s != row.want {
				t.Errorf("violated: %q, want %q: %q", s, row.want, r.Violations)
			}
		})
	}
}

// oidc-provider itself says so when somebody shows a refresh token twice, and the
// judge hears it.
func TestSecondJudgeHearsOfAReuse(t *testing.T) {
	t.Parallel()
	w := New(t, Setup{Seed: 1, Browsers: 2, Certified: true, Provider: gatewaytest.Options{AccessLife: 2 * time.Second}})
	w.Populate()
	rig.Eventually(t, "both have been refreshed", func() bool {
		spent := 0
		for _, b := range w.Browsers {
			b.Do(Ask{Kind: KindToken})
		}
		for _, e := range w.Certified.Events() {
			if e.Event == "refresh_token.consumed" {
				spent++
			}
		}
		return spent >= 2
	})
	h := w.history("judge", 1, nil)
	r := Check(h, Allowance{})
	if secondJudge(w, h, r); len(r.Violations) > 0 {
		t.Fatalf("before: %q", r.Violations)
	}
	var stolen string
	for _, e := range w.Certified.Events() {
		if e.Event == "refresh_token.consumed" {
			stolen = e.Presented
		}
	}
	reg := w.Certified.Registration()
	ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
	defer cancel()
	ask, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+w.Certified.Addr()+"/token",
		strings.NewReader(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {stolen}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	ask.Host = w.ProviderLink.Addr()
	ask.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	ask.SetBasicAuth(reg.ClientID, reg.ClientSecret)
	resp, err := w.client.Do(ask)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("oidc-provider answers %d to a token that was spent", resp.StatusCode)
	}
	wantHeard(t, w)
}

// wantHeard fails the test where a reuse was not noticed by both: as a second
// presentation, and as a family that was revoked.
func wantHeard(t *testing.T, w *World) {
	t.Helper()
	h := w.history("judge", 1, nil)
	r := Check(h, Allowance{})
	secondJudge(w, h, r)
	if r.Double == 0 || r.FalseEnds == 0 {
		t.Errorf("presented twice: %d, revoked: %d: %q", r.Double, r.FalseEnds, r.Violations)
	}
}

// The negative control (make faults-controls): a gateway whose refresh tokens leave
// without a latch, on two replicas, with a provider that takes its time.
func TestControlsSecondJudge(t *testing.T) {
	i := slices.IndexFunc(controls, func(c wrong) bool { return c.want == "I2" })
	if os.Getenv("CONTROLS") == "" {
		rig.Overlay(t, controls[i].edits...)
		return
	}
	w := New(t, Setup{Seed: 1, Browsers: 2, Certified: true, Binary: rig.Build(t, controls[i].edits...), Provider: gatewaytest.Options{AccessLife: 2 * time.Second}})
	w.Populate()
	w.Sleep(2 * time.Second) // the tokens run out
	over := w.Fault("the provider is slow")
	w.ProviderLink.Set(rig.Down, rig.Fault{Delay: 300 * time.Millisecond})
	var all sync.WaitGroup
	for _, b := range w.Browsers {
		for _, at := range w.Replicas() {
			all.Go(func() { b.Do(Ask{Kind: KindToken, At: at, Within: time.Second}) })
		}
	}
	all.Wait()
	w.ProviderLink.Heal()
	over()
	wantHeard(t, w)
}
