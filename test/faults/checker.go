package faults

import (
	"net/http"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

// Messages and reasons of the gateway's audit log that are judged here.
const (
	sayEnded    = "session ended"
	sayBegun    = "session begun"
	sayAdvanced = "ticket advanced"
	sayInPlace  = "tokens refreshed in place"
	sayReissued = "successor issued again"
	sayOnceMore = "refresh token presented once more"

	reasonReuse    = "reuse_detected"
	reasonRejected = "refresh_rejected"
	causeUnknown   = "answer_unknown"
)

// judge is a history with what finds things in it.
type judge struct {
	h        *History
	allow    Allowance
	r        *Result
	ops      map[int64]*Op
	sessions map[string]*Session
	byFamily map[string]*Session
	bySID    map[string]*Session
	lines    map[string][]*Line         // by sid
	asked    map[string][]time.Duration // by family: when a refresh token was presented
}

// Check decides from a history if the invariants held, but for what is allowed.
func Check(h *History, allow Allowance) *Result {
	if allow.Recovery == 0 {
		allow.Recovery = 2 * time.Second
	}
	if allow.Known == 0 {
		allow.Known = 2 * time.Second
	}
	j := &judge{
		asked: map[string][]time.Duration{},
		h:     h, allow: allow,
		r: &Result{Row: h.Row, Seed: h.Seed, Started: h.Start, Seconds: h.Length.Seconds(), Requests: len(h.Ops), Sessions: len(h.Sessions),
			Faults: map[string]int{}, Errors: map[string]int{}, LostAllowed: map[string]int{}},
		ops: map[int64]*Op{}, sessions: map[string]*Session{}, byFamily: map[string]*Session{}, bySID: map[string]*Session{}, lines: map[string][]*Line{},
	}
	for i := range h.Ops {
		j.ops[h.Ops[i].ID] = &h.Ops[i]
	}
	for i := range h.Sessions {
		s := &h.Sessions[i]
		j.sessions[s.ID] = s
		if s.Family != "" {
			j.byFamily[s.Family] = s
		}
		if s.SID != "" {
			j.bySID[s.SID] = s
		}
	}
	for i := range h.Lines {
		l := &h.Lines[i]
		if l.SID != "" {
			j.lines[l.SID] = append(j.lines[l.SID], l)
		}
		switch l.Message {
		case sayBegun:
			j.r.Logins++
		case sayAdvanced:
			j.r.Rotations++
		case sayInPlace:
			j.r.InPlace++
		case sayReissued:
			j.r.Reissued++
		}
	}
	for _, w := range h.Windows {
		j.r.Faults[w.Name]++
	}
	j.wrongUser()
	j.redemptions()
	j.lost()
	j.failClosed()
	j.reuses()
	j.honest()
	j.resources()
	j.recovery()
	for _, t := range h.Troubles {
		if t.Invariant == "I4" {
			j.r.Leaks++
		}
		j.r.Violate(t.Invariant, "%s", t.What)
	}
	return j.r
}

// wrongUser is I1.
func (j *judge) wrongUser() {
	wrong := func(format string, args ...any) {
		j.r.WrongUser++
		j.r.Violate("I1", format, args...)
	}
	for i := range j.h.Ops {
		o := &j.h.Ops[i]
		if o.Subject == "" && o.Family == "" && o.Echo == 0 {
			continue
		}
		if want := gatewaytest.SubjectOf(o.User); o.Subject != "" && o.Subject != want {
			wrong("%s was answered with %s's data", o, o.Subject)
		}
		if s := j.sessions[o.Session]; s != nil && s.Family != "" && o.Family != "" && o.Family != s.Family {
			wrong("%s was answered from %s, its session is %s", o, o.Family, s.Family)
		}
		if o.Echo != 0 && o.Echo != o.ID {
			wrong("%s was answered with what op %d asked for", o, o.Echo)
		}
	}
	for _, a := range j.h.Arrivals {
		o := j.ops[a.Op]
		if o == nil || a.Subject == "" {
			continue
		}
		if want := gatewaytest.SubjectOf(o.User); a.Subject != want {
			wrong("%s came to the upstream as %s", o, a.Subject)
		}
	}
}

// redemptions is I2, and I9's part that the ledger tells.
func (j *judge) redemptions() {
	presented := map[string][]gatewaytest.Entry{}
	var tokens []string
	redeemed := map[string][]gatewaytest.Entry{}
	unspent := 0
	for _, e := range j.h.Ledger {
		if e.Endpoint != gatewaytest.EndpointToken {
			continue
		}
		switch e.Outcome {
		case gatewaytest.Redeemed, gatewaytest.Repeated, gatewaytest.Reuse, gatewaytest.Rejected, gatewaytest.Unspent:
		default:
			continue
		}
		if e.Kind == gatewaytest.KindCode {
			// A browser whose connection is reset asks again, and who had redeemed the
			// code is gone.
			if e.Outcome == gatewaytest.Reuse && !(j.allow.Cut && j.h.within(j.h.at(e.At), j.h.at(e.At), j.allow.Recovery)) {
				j.r.Double++
				j.r.Violate("I2", "a code was redeemed twice: %s", e)
			}
			continue
		}
		if e.Token == "" {
			continue
		}
		if presented[e.Token] == nil {
			tokens = append(tokens, e.Token)
		}
		presented[e.Token] = append(presented[e.Token], e)
		j.asked[e.Family] = append(j.asked[e.Family], j.h.at(e.At))
		if e.Outcome == gatewaytest.Redeemed || e.Outcome == gatewaytest.Repeated {
			j.r.Grants++
			redeemed[e.Family] = append(redeemed[e.Family], e)
		}
		if e.Outcome == gatewaytest.Unspent {
			unspent++
		}
	}
	for _, token := range tokens {
		succeeded := 0
		for i, e := range presented[token] {
			if e.Outcome == gatewaytest.Redeemed || e.Outcome == gatewaytest.Repeated {
				succeeded++
			}
			if i == 0 || presented[token][i-1].Outcome == gatewaytest.Unspent {
				continue
			}
			before := presented[token][i-1]
			if !j.audited(e.Family, before.At, e.At) {
				if j.allow.Forgets {
					j.r.figure("presented again, forgotten")
					continue
				}
				j.r.Double++
				j.r.Violate("I2", "presented again, and nothing says that its answer was unknown: %s, after %s", e, before)
			}
		}
		if succeeded > 1 {
			j.r.Double++
			j.r.Violate("I2", "%s was redeemed %d times", token, succeeded)
		}
	}
	// A token that was just got is not traded again, but where its answer took
	// longer than it lived.
	const apart = time.Second
	for family, all := range redeemed {
		for i := 1; i < len(all); i++ {
			if at := j.h.at(all[i-1].At); all[i].At.Sub(all[i-1].At) < apart && !j.h.within(at, at, j.allow.Recovery) {
				j.r.Violate("I9", "%s was refreshed twice within %v: %s", family, all[i].At.Sub(all[i-1].At), all[i])
			}
		}
	}
	j.r.Figure("presentations that spent nothing", float64(unspent))
	if most := j.allow.Presentations; most > 0 && unspent > most {
		j.r.Violate("I9", "%d presentations spent nothing, %d are allowed", unspent, most)
	}
}

// audited reports whether, between two moments, a gateway wrote down that a
// session's token is presented once more.
func (j *judge) audited(family string, from, to time.Time) bool {
	s := j.byFamily[family]
	if s == nil || s.SID == "" {
		return false
	}
	for _, l := range j.lines[s.SID] {
		if l.Message == sayOnceMore && l.At >= j.h.at(from) && l.At <= j.h.at(to) {
			return true
		}
	}
	return false
}

// failClosed is I5.
func (j *judge) failClosed() {
	over := func(s *Session, at time.Duration) bool { return s != nil && s.Ended != 0 && at > s.Ended+j.allow.Known }
	seen := map[string]bool{}
	revived := func(s *Session, format string, args ...any) {
		if seen[s.ID] {
			return
		}
		seen[s.ID] = true
		if j.r.Revived++; j.r.Revived > j.allow.Revived {
			j.r.Violate("I5", format, args...)
		}
	}
	for i := range j.h.Ops {
		o := &j.h.Ops[i]
		s := j.sessions[o.Session]
		if accepted(o) && o.Kind != KindLogin && o.Kind != KindLogout && over(s, o.Start) {
			revived(s, "%s was accepted %v after its session ended (%s)", o, (o.Start - s.Ended).Round(time.Millisecond), s.Why)
		}
	}
	for _, a := range j.h.Arrivals {
		o := j.ops[a.Op]
		switch {
		case a.Subject == "":
			j.r.Violate("I5", "op %d came to the upstream without a token", a.Op)
		// What a busy machine takes on the way is not the token's fault.
		case o != nil && a.Expires.Before(a.Clock.Add(o.Start-a.At-time.Second)) && !j.h.within(a.At, a.At, j.allow.Recovery):
			j.r.Violate("I5", "op %d came to the upstream with a token that ran out %v before", a.Op, a.Clock.Sub(a.Expires))
		case o != nil && o.Session == "":
			j.r.Violate("I5", "op %d came to the upstream without a session", a.Op)
		case o != nil && over(j.sessions[o.Session], o.Start):
			revived(j.sessions[o.Session], "%s came to the upstream after its session ended", o)
		}
	}
}

func accepted(o *Op) bool {
	return o.Status == http.StatusOK || o.Status == http.StatusSwitchingProtocols
}

// reuses is I6.
func (j *judge) reuses() {
	seen := map[string]bool{}
	for i := range j.h.Lines {
		l := &j.h.Lines[i]
		if l.Message != sayEnded || l.Reason != reasonReuse || seen[l.SID] {
			continue
		}
		seen[l.SID] = true
		if s := j.bySID[l.SID]; s == nil || s.Why != "thief" {
			j.r.FalseEnds++
			j.r.Violate("I6", "session %s ended for a reuse at %v, and nobody had shown a superseded ticket", l.SID, l.At.Round(time.Millisecond))
		}
	}
	for i := range j.h.Ops {
		o := &j.h.Ops[i]
		if o.Kind != KindReplay {
			continue
		}
		j.r.Replays++
		if o.Status == http.StatusOK {
			j.r.MissedReuse++
			j.r.Violate("I6", "a superseded ticket was taken: %s", o)
		}
	}
}
