package faults

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session/storetest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// mixedRows are two faults at once.
var mixedRows = []Row{
	{
		ID: "F21", Name: "the primary is killed (Sentinel) as the provider comes back",
		Setup: func(t testing.TB, s *Setup) {
			s.Sentinels = storetest.Sentinel(t)
			s.Change = func(c rig.Config) { c.Set("redis.wait_replicas", 1) }
		},
		Length: 25 * time.Second,
		Allow:  Allowance{Cut: true, Recovery: 12 * time.Second, Outside: 5, Unknown: true},
		Strike: func(w *World, _ *rand.Rand) {
			over := w.Fault("the provider is away, and then the primary")
			w.ProviderLink.Refuse()
			w.Sleep(5 * time.Second) // tokens run out
			w.ProviderLink.Accept()
			old := w.primary()
			old.Kill()
			rig.Eventually(w.T, "there is another primary", func() bool { return w.primary() != old })
			over()
			if err := old.Restart(); err != nil {
				w.T.Fatal(err)
			}
			w.whole(w.Setup.Sentinels.Wait)
		},
		Judge: func(_ *World, h *History, r *Result) { losses(h, r) },
	},
	{
		ID: "F21a", Name: "a replica is killed while slots move (Cluster)",
		Setup: func(t testing.TB, s *Setup) {
			clustered(t, s)
			s.Replicas = 3
		},
		Length: 25 * time.Second,
		Allow:  Allowance{Cut: true, Unknown: true},
		Strike: func(w *World, r *rand.Rand) {
			at := w.Replicas()[r.IntN(3)]
			late := time.Duration(r.Int64N(int64(300 * time.Millisecond)))
			over := w.Fault("SIGKILL")
			var killing sync.WaitGroup
			killing.Go(func() {
				w.Sleep(late)
				w.Kill(at)
			})
			moveSlots(w, r)
			killing.Wait()
			over()
			w.Boot(at)
		},
		Judge: func(_ *World, h *History, r *Result) { losses(h, r) },
	}, {
		ID: "F21b", Name: "a rolling deploy (SIGTERM) while a herd of sessions wakes up",
		Setup: func(t testing.TB, s *Setup) {
			herd(t, s)
			change := s.Change
			s.Change = func(c rig.Config) {
				change(c)
				c.Set("drain.delay", "3s") // who has connected is heard by then, on a busy machine too
				c.Set("drain.timeout", "15s")
			}
		},
		Load:   func(l *Load) { *l = Load{Rate: 1, Workers: 1} },
		Length: 100 * time.Millisecond,
		Strike: func(w *World, r *rand.Rand) {
			var waking sync.WaitGroup
			waking.Go(func() { wake(w, r) })
			rig.Eventually(w.T, "the herd wakes", func() bool { return w.struck("the herd wakes") })
			w.Sleep(2 * time.Second) // all are in, and most of them wait for their turn
			for _, old := range w.Running() {
				w.Add()
				over := w.Fault("SIGTERM")
				if code := w.Retire(old); code != 0 {
					w.Trouble("I7", "a replica that was asked to end exits with %d", code)
				}
				over()
			}
			waking.Wait()
		},
		// A replica that is told to end waits for the provider, but not for ever.
		Allow: Allowance{Outside: 100, Presentations: 1, Unknown: true},
		Calm:  100 * time.Second,
		Judge: func(w *World, _ *History, r *Result) {
			for name, value := range w.figures {
				r.Figure(name, value)
			}
		},
	},
}

// struck reports whether a window of that name was opened. Any goroutine may ask.
func (w *World) struck(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.windows, func(o Window) bool { return o.Name == name })
}
