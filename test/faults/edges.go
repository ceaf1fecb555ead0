package faults

import (
	"math/rand/v2"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// edgeRows are what goes wrong between the gateways and those whom they serve:
// upstreams and browsers.
var edgeRows = []Row{
	{
		ID: "F13", Name: "the upstream resets and cuts",
		Load:   func(l *Load) { l.Post = 400 },
		Length: 15 * time.Second,
		Strike: func(w *World, r *rand.Rand) {
			if r.IntN(4) == 0 {
				over := w.Fault("all connections to the upstream are reset")
				for _, at := range w.Running() {
					at.Upstream.Break()
				}
				over()
				return
			}
			share, name := int64(100), "the upstream fails 1 in 100"
			if r.IntN(3) == 0 {
				share, name = 1, "the upstream fails always"
			}
			over := w.Fault(name)
			w.Upstream.Harming(func(op int64) Harm {
				if op%share != 0 {
					return NoHarm
				}
				return Harm(1 + op/share%4)
			})
			w.Sleep(500*time.Millisecond + time.Duration(r.Int64N(int64(time.Second))))
			w.Upstream.Harming(nil)
			over()
		},
		Allow: Allowance{Cut: true, Recovery: time.Second},
		Judge: func(w *World, h *History, r *Result) {
			// Nothing of this is the session's business.
			for i := range h.Ops {
				if o := &h.Ops[i]; o.Status == 503 || o.Status == 401 && o.Reason != "logged_out" && o.Reason != "replaced" && o.Reason != "no_session" {
					r.Violate("I7", "an upstream's fault became the session's: %s", o)
				}
			}
		},
	},
	{
		ID: "F14", Name: "clients leave at any moment",
		Load:   func(l *Load) { l.Abort = 100 },
		Length: 15 * time.Second,
		Strike: func(w *World, r *rand.Rand) {
			// All of them at once, with a grant in the provider's hands.
			over := w.Fault("all clients are gone during a grant")
			hold := w.Provider.Gate([]gatewaytest.Point{gatewaytest.GateBeforeCommit, gatewaytest.GateAfterCommit, gatewaytest.GateMidBody}[r.IntN(3)], gatewaytest.Refreshing)
			w.arrived(hold, 1+r.IntN(8))
			for _, at := range w.Running() {
				at.Client.Break()
			}
			hold.Release()
			over()
		},
		Allow: Allowance{Cut: true},
		Judge: func(_ *World, h *History, r *Result) {
			left := 0
			for i := range h.Ops {
				if h.Ops[i].Error == "aborted" {
					left++
				}
			}
			r.Figure("requests given up", float64(left))
		},
	},
	{
		ID: "F15", Name: "answers with a new ticket are lost, or arrive late and out of order",
		// A fifth of all answers; those that carry no ticket lose nothing by it.
		Load: func(l *Load) {
			l.Lose, l.Late, l.LateBy = 100, 110, 1500*time.Millisecond
			l.Burst = 100
		},
		Length: 25 * time.Second,
		Strike: func(w *World, r *rand.Rand) {
			over := w.Fault("answers to clients are cut")
			for _, at := range w.Running() {
				at.Client.Set(rig.Down, rig.Fault{Cut: []rig.Cut{rig.Reset, rig.Truncate}[r.IntN(2)], After: r.IntN(400), Odds: 0.3})
			}
			w.Sleep(100 * time.Millisecond)
			for _, at := range w.Running() {
				at.Client.Heal()
			}
			over()
		},
		Allow: Allowance{Cut: true},
		Judge: func(_ *World, h *History, r *Result) {
			lost, late, back := 0, 0, 0
			for i := range h.Ops {
				o := &h.Ops[i]
				if o.Got != "" && o.Lost {
					lost++
				}
				if o.Got != "" && o.Late {
					late++
				}
				if o.Back {
					back++
				}
			}
			r.Faults["a new ticket is lost"] += lost
			r.Faults["a new ticket is late"] += late
			r.Figure("jar went back to an older session", float64(back))
			r.Figure("false ends per 10,000 sessions", 1e4*float64(r.FalseEnds)/float64(max(r.Sessions, 1)))
		},
	},
	{
		ID: "F15R", Name: "superseded tickets are shown by others",
		Load:   func(l *Load) { l.Thief, l.Login = 4, 3 },
		Length: 30 * time.Second,
		Judge: func(_ *World, _ *History, r *Result) {
			r.Faults["a superseded ticket is shown"] += r.Replays
			if r.Replays < 20 {
				r.Violate("rig", "only %d replays", r.Replays)
			}
		},
	},
}

// arrived waits until so many requests stand at a gate, for at most five
// seconds, and returns how many do.
func (w *World) arrived(hold *gatewaytest.Hold, want int) (n int) {
	limit := time.NewTimer(5 * time.Second)
	defer limit.Stop()
	for n < want {
		select {
		case <-hold.Arrived():
			n++
		case <-limit.C:
			return n
		}
	}
	return n
}
