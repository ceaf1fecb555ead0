package faults

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

// lost is I3: a session that nobody ended was refused as ended, or never came
// back.
func (j *judge) lost() {
	reasons := map[string]string{} // by session
	where := map[string]*Op{}
	var order []string
	for i := range j.h.Ops {
		o := &j.h.Ops[i]
		s := j.sessions[o.Session]
		if s == nil || o.Status != http.StatusUnauthorized && o.Status != http.StatusForbidden || s.Ending != 0 && o.End >= s.Ending {
			continue
		}
		if _, known := reasons[s.ID]; !known {
			reasons[s.ID], where[s.ID] = cmp.Or(o.Reason, o.Code), o
			order = append(order, s.ID)
		}
	}
	spent := map[string]bool{} // families of which a token was spent, and then refused
	for _, e := range j.h.Ledger {
		if e.Kind == gatewaytest.KindRefresh && e.Outcome == gatewaytest.Reuse {
			spent[e.Family] = true
		}
	}
	for _, id := range order {
		s, reason := j.sessions[id], reasons[id]
		var end *Line
		for _, l := range j.lines[s.SID] {
			if l.Message == sayEnded {
				end = l
			}
		}
		audited := end != nil && end.Reason == reason
		switch {
		case reason == reasonRejected && j.allow.Unknown && audited && end.Cause == causeUnknown && spent[s.Family]:
			j.r.LostAllowed[causeUnknown]++
		case j.r.LostAllowed[reason] < j.allow.Lost[reason] && (audited || j.allow.Unaudited):
			j.r.LostAllowed[reason]++
		default:
			j.r.Lost++
			j.r.Violate("I3", "session %s (%s) was lost: %s; audited: %v", id, s.SID, where[id], audited)
		}
	}
	stuck := 0
	for i := range j.h.Sessions {
		s := &j.h.Sessions[i]
		if s.Ending == 0 && reasons[s.ID] == "" && (s.Final == 0 && s.FinalReason != "" || s.Final >= 500 || s.Final == -1) {
			if stuck++; stuck > j.allow.Unended {
				j.r.Lost++
				j.r.Violate("I3", "session %s (%s) never came back: %d", s.ID, s.SID, s.Final)
			}
		}
	}
}

// honest is I7.
func (j *judge) honest() {
	posts := map[int64]int{}
	for _, a := range j.h.Arrivals {
		if a.Method == http.MethodPost {
			if posts[a.Op]++; posts[a.Op] == 2 {
				j.r.Twice++
				j.r.Violate("I7", "op %d changes something and came to the upstream twice", a.Op)
			}
		}
	}
	for i := range j.h.Ops {
		o := &j.h.Ops[i]
		in := j.h.within(o.Start, o.End, j.allow.Recovery)
		if o.Leak != "" {
			j.r.Leaks++
			j.r.Violate("I4", "%s shows a secret (%s…)", o, o.Leak)
		}
		if o.Cleared && !(o.Kind == KindLogout && o.Status == http.StatusOK) {
			j.r.Violate("I7", "%s deletes the cookie", o)
		}
		if o.Got != "" && o.Status >= 400 {
			j.r.Violate("I7", "%s is a refusal, and sets a cookie", o)
		}
		if o.Partial {
			j.r.Violate("I7", "%s is cut, and looks complete", o)
		}
		if o.Kind != KindLogin && o.Status/100 == 3 {
			j.r.Violate("I7", "%s redirects to %s", o, o.To)
		}
		switch {
		case o.Error != "" && o.Error != "aborted":
			name := "network: " + o.Error
			j.r.Errors[name]++
			if in && !j.allow.Cut {
				j.r.Violate("I7", "%s", o)
			}
		case o.Status >= 500 && o.Error == "":
			j.r.Errors[strings.TrimSpace(http.StatusText(o.Status)+": "+o.Code)]++
			fine := o.Status == http.StatusBadGateway || o.Status == http.StatusServiceUnavailable || o.Status == http.StatusGatewayTimeout ||
				slices.Contains(j.allow.Statuses, o.Status)
			if !fine {
				j.r.Violate("I7", "%s", o)
			}
			if o.Status == http.StatusServiceUnavailable && !o.Retry {
				j.r.Violate("I7", "%s has no Retry-After", o)
			}
		case o.Status >= 400 && o.Status != http.StatusUnauthorized && !slices.Contains(j.allow.Statuses, o.Status):
			j.r.Errors[strings.TrimSpace(http.StatusText(o.Status)+": "+o.Code)]++
			j.r.Violate("I7", "%s", o)
			continue
		default:
			continue
		}
		if !in && j.inDoubt(o) {
			j.r.Errors["of these, refresh in doubt"]++
		} else if !in {
			if j.r.Outside++; j.r.Outside > j.allow.Outside {
				j.r.Violate("I7", "outside of all faults: %s", o)
			}
		}
	}
}

// inDoubt reports whether a refusal is one of a session's whose last refresh
// nobody knows the outcome of: it may have been under way, or its latch set,
// during a fault, and no commit has been written down since.
func (j *judge) inDoubt(o *Op) bool {
	s := j.sessions[o.Session]
	if s == nil || !j.allow.Unknown || o.Code != "provider_unavailable" {
		return false
	}
	var commit time.Duration
	for _, l := range j.lines[s.SID] {
		if (l.Message == sayAdvanced || l.Message == sayInPlace) && l.At < o.Start {
			commit = max(commit, l.At)
		}
	}
	return slices.ContainsFunc(j.h.Windows, func(w Window) bool {
		return w.From < o.Start && o.Start < w.To+doubt && commit <= w.To+j.allow.Recovery
	})
}

// doubt is how long a refresh may be in doubt: the provider's answer is waited
// for, a lease, and two looks 30 s apart, the first of which somebody has to take.
const doubt = 65 * time.Second

// resources is I8.
func (j *judge) resources() {
	var before Gauge
	for _, g := range j.h.Before {
		before.Goroutines, before.FDs, before.RSS = max(before.Goroutines, g.Goroutines), max(before.FDs, g.FDs), max(before.RSS, g.RSS)
	}
	if len(j.h.Before) == 0 {
		return
	}
	for _, g := range j.h.After {
		if g.Goroutines > 1.1*before.Goroutines+50 {
			j.r.Violate("I8", "process %d has %.0f goroutines, %.0f before", g.Process, g.Goroutines, before.Goroutines)
		}
		// A pool may hold connections that the other end has reset until it looks at
		// them again.
		if g.FDs > 1.1*before.FDs+200 {
			j.r.Violate("I8", "process %d has %.0f open files, %.0f before", g.Process, g.FDs, before.FDs)
		}
		j.r.Figure("resident memory, MiB", max(j.r.Figures["resident memory, MiB"], g.RSS/(1<<20)))
	}
}

// recovery tells how soon after each fault something worked.
func (j *judge) recovery() {
	type success struct{ start, end time.Duration }
	var all []success
	for i := range j.h.Ops {
		o := &j.h.Ops[i]
		if accepted(o) && o.Error == "" && (o.Kind == KindAPI || o.Kind == KindToken || o.Kind == KindPost) {
			all = append(all, success{o.Start, o.End})
		}
	}
	slices.SortFunc(all, func(a, b success) int { return cmp.Compare(a.end, b.end) })
	for i := 1; i < len(all); i++ {
		j.r.Gap = max(j.r.Gap, float64(all[i].end-all[i-1].end)/1e6)
	}
	var firsts []float64
	for _, w := range j.h.Windows {
		if w.To == 0 {
			continue
		}
		i, _ := slices.BinarySearchFunc(all, w.To, func(s success, at time.Duration) int { return cmp.Compare(s.end, at) })
		for ; i < len(all); i++ {
			if all[i].start >= w.To {
				firsts = append(firsts, float64(all[i].end-w.To)/1e6)
				break
			}
		}
	}
	if len(firsts) > 0 {
		slices.Sort(firsts)
		j.r.FirstP50, j.r.FirstMax = firsts[len(firsts)/2], firsts[len(firsts)-1]
	}
}
