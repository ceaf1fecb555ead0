package faults

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session/storetest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// judgeRows are some of the other rows' faults with npm's oidc-provider, which is
// certified and not ours: a refresh token that is shown twice costs the session
// there, and what it tells of it decides.
var judgeRows = []Row{
	{
		ID: "F1o", Name: "oidc-provider: a replica is killed (SIGKILL), or the provider's answers are lost",
		Setup:  func(_ testing.TB, s *Setup) { certified(s); s.Replicas = 3 },
		Load:   fewer,
		Length: 15 * time.Second,
		Strike: func(w *World, r *rand.Rand) {
			if r.IntN(4) == 0 {
				over := w.Fault("connections to the provider are reset")
				w.ProviderLink.Break()
				over()
				return
			}
			at := w.Replicas()[r.IntN(3)]
			over := w.Fault("SIGKILL")
			w.Kill(at)
			over()
			w.Sleep(time.Duration(r.Int64N(int64(400 * time.Millisecond))))
			w.Boot(at)
		},
		// Who had the answer is gone: the token is presented once more, and
		// oidc-provider takes that for a reuse if it was spent.
		Allow: Allowance{Unknown: true, Cut: true, Recovery: 15 * time.Second},
		Calm:  2 * time.Minute,
		Judge: secondJudge,
	},
	{
		ID: "F2o", Name: "oidc-provider: a rolling deploy (SIGTERM, one replica after the other)",
		Setup: func(_ testing.TB, s *Setup) {
			certified(s)
			s.Change = func(c rig.Config) {
				c.Set("drain.delay", "1s")
				c.Set("drain.timeout", "10s")
			}
		},
		Load:   fewer,
		Length: 15 * time.Second,
		Strike: func(w *World, _ *rand.Rand) {
			old := w.Running()[0]
			w.Add()
			over := w.Fault("SIGTERM")
			if code := w.Retire(old); code != 0 {
				w.Trouble("I7", "a replica that was asked to end exits with %d", code)
			}
			over()
		},
		Judge: secondJudge,
	},
	{
		ID: "F4o", Name: "oidc-provider: the primary is killed (Sentinel), with wait_replicas: 1",
		Setup: func(t testing.TB, s *Setup) {
			certified(s)
			s.Sentinels = storetest.Sentinel(t)
			s.Change = func(c rig.Config) { c.Set("redis.wait_replicas", 1) }
		},
		Load:   fewer,
		Length: 15 * time.Second,
		Strike: func(w *World, _ *rand.Rand) {
			old := w.primary()
			over := w.Fault("the primary is killed")
			old.Kill()
			rig.Eventually(w.T, "there is another primary", func() bool { return w.primary() != old })
			over()
			if err := old.Restart(); err != nil {
				w.T.Fatal(err)
			}
			w.whole(w.Setup.Sentinels.Wait)
		},
		Allow: Allowance{Cut: true, Recovery: 6 * time.Second, Outside: 5},
		Judge: secondJudge,
	},
	{
		ID: "F6o", Name: "oidc-provider: Redis stalls: paused, frozen, answers that come too late",
		Setup: func(_ testing.TB, s *Setup) {
			certified(s)
			s.Change = func(c rig.Config) { c.Set("apps.0.session.cache_ttl", "0s") }
		},
		Load:   fewer,
		Length: 20 * time.Second, Pause: 2500 * time.Millisecond,
		Strike: stall,
		Allow:  Allowance{Recovery: 3 * time.Second, Cut: true},
		Judge:  secondJudge,
	},
	{
		ID: "F14o", Name: "oidc-provider: clients leave during grants, and answers with a new ticket are lost or late",
		Setup: func(_ testing.TB, s *Setup) { certified(s) },
		Load: func(l *Load) {
			fewer(l)
			l.Abort, l.Burst = 100, 100
			l.Lose, l.Late, l.LateBy = 100, 110, 1500*time.Millisecond
		},
		Length: 15 * time.Second,
		Strike: func(w *World, r *rand.Rand) {
			if r.IntN(2) == 0 {
				over := w.Fault("all clients are gone while the provider is slow")
				w.ProviderLink.Set(rig.Down, rig.Fault{Delay: 200 * time.Millisecond})
				w.Sleep(150 * time.Millisecond)
				for _, at := range w.Running() {
					at.Client.Break()
				}
				w.Sleep(100 * time.Millisecond)
				w.ProviderLink.Heal()
				over()
				return
			}
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
		Judge: func(w *World, h *History, r *Result) {
			secondJudge(w, h, r)
			lost := 0
			for i := range h.Ops {
				if o := &h.Ops[i]; o.Got != "" && o.Lost {
					lost++
				}
			}
			r.Faults["a new ticket is lost"] += lost
		},
	},
}

// certified puts oidc-provider into a world, and so few browsers that it keeps up
// with them beside everything else.
func certified(s *Setup) { s.Certified, s.Browsers = true, 80 }

// fewer is a load for them.
func fewer(l *Load) { l.Rate, l.Workers = 500, 64 }
