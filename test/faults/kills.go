package faults

import (
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

// killRows are ends that race with refreshes.
var killRows = []Row{{
	ID: "F16", Name: "sessions are ended while they are refreshed",
	Load:   func(l *Load) { l.Login = 1 },
	Length: 30 * time.Second, Pause: 200 * time.Millisecond,
	Strike: func(w *World, r *rand.Rand) {
		var all sync.WaitGroup
		for _, n := range r.Perm(len(w.Browsers))[:12] {
			b, gate, how, at := w.Browsers[n], r.IntN(3), r.IntN(4), w.Running()[r.IntN(len(w.Running()))]
			all.Go(func() { w.killInFlight(b, gate, how, at) })
		}
		all.Wait()
	},
	Judge: func(w *World, h *History, r *Result) {
		// No refresh token of an ended session works at the provider.
		killed, alive := map[string]bool{}, 0
		for _, s := range h.Sessions {
			if s.Why == "kill" && s.Ended != 0 {
				killed[s.Family] = true
			}
		}
		live := w.Provider.Live("")
		slices.Sort(live)
		for _, e := range h.Ledger {
			if e.Outcome == gatewaytest.Issued && e.Kind == gatewaytest.KindRefresh && killed[e.Family] {
				if _, found := slices.BinarySearch(live, e.Token); found {
					alive++
				}
			}
		}
		r.Figure("sessions killed in flight", float64(len(killed)))
		r.Figure("refresh tokens left alive", float64(alive))
		if alive*100 > len(killed) {
			r.Violate("I5", "%d refresh tokens of %d killed sessions still work", alive, len(killed))
		}
	},
}}

// killInFlight holds a session's next refresh at the provider, ends the session
// meanwhile, and lets the refresh go on.
func (w *World) killInFlight(b *Browser, gate, how int, at *Replica) {
	subject := gatewaytest.SubjectOf(b.User)
	hold := w.Provider.Gate([]gatewaytest.Point{gatewaytest.GateBeforeCommit, gatewaytest.GateAfterCommit, gatewaytest.GateMidBody}[gate],
		gatewaytest.Refreshing, func(r gatewaytest.Request) bool { return r.Subject == subject })
	defer hold.Release()
	if w.arrived(hold, 1) == 0 {
		return
	}
	cookie, s := b.Ticket()
	g := at.Gateway()
	if s == nil || g == nil || w.unnamed(s) {
		return
	}
	over := w.Fault([]string{"logout", "an operator, by sid", "an operator, by sub", "the back channel"}[how] + " during a refresh")
	defer over()
	acknowledged := w.ending(s, "kill")
	done := false
	switch how {
	case 0:
		op := b.Do(Ask{Kind: KindLogout, Cookie: cookie, Session: s, At: at})
		done = op.Status == http.StatusOK
	case 1:
		status, _, err := g.Order("/admin/sessions/end", map[string]any{"sid": s.SID})
		done = err == nil && status == http.StatusOK
	case 2:
		status, _, err := g.Order("/admin/sessions/end", map[string]any{"app": "shop", "sub": subject})
		done = err == nil && status == http.StatusOK
	default:
		token := w.Provider.LogoutToken(gatewaytest.Logout{Subject: subject})
		op, _ := b.send(request{kind: KindKill, at: at, method: http.MethodPost, path: "/bff/backchannel-logout",
			header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, body: url.Values{"logout_token": {token}}.Encode()})
		done = op.Status == http.StatusOK
	}
	if !done {
		w.Trouble("I5", "an end of %s's session was not taken (%d)", b.User, how)
		return
	}
	acknowledged()
	w.mu.Lock()
	w.dead = append(w.dead, dead{b, cookie, s})
	w.mu.Unlock()
	hold.Release()
	for _, r := range w.Running() {
		b.Do(Ask{Kind: KindGhost, Cookie: cookie, Session: s, At: r})
	}
}
