package faults

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/test/rig"
)

// silence is how long Redis says nothing in the long stalls: longer than tokens,
// leases and the provider's patience.
const silence = 30 * time.Second

// freezeRows are stalls of Redis that are longer than anything waits.
var freezeRows = []Row{{
	ID: "F6a", Name: fmt.Sprintf("Redis says nothing for %v: frozen (SIGSTOP), and then paused (CLIENT PAUSE)", silence),
	Setup: func(_ testing.TB, s *Setup) {
		s.Change = func(c rig.Config) { c.Set("apps.0.session.cache_ttl", "0s") } // every request asks
	},
	Length: 100 * time.Millisecond, // one strike has both
	Strike: func(w *World, r *rand.Rand) {
		strikes := []func(){
			func() {
				over := w.Fault("frozen for " + silence.String())
				w.Redis.Stop()
				w.Sleep(silence)
				w.Redis.Cont()
				over()
			},
			func() {
				over := w.Fault("paused for " + silence.String())
				w.Redis.CLI("CLIENT", "PAUSE", fmt.Sprint(silence.Milliseconds()), "ALL")
				w.Sleep(silence)
				over()
			},
		}
		first := r.IntN(2)
		strikes[first]()
		w.Sleep(6 * time.Second)
		strikes[1-first]()
	},
	Calm:  70 * time.Second,
	Allow: Allowance{Recovery: 4 * time.Second, Cut: true},
	Judge: func(_ *World, h *History, r *Result) {
		outages(h, r, "frozen for "+silence.String(), 4*time.Second)
		outages(h, r, "paused for "+silence.String(), 4*time.Second)
		// A refusal comes within Redis's timeout (2 s), however long it lasts. Only who
		// waits for a refresh that was under way waits for longer.
		refused := func(code string) float64 {
			return slowest(h, func(o *Op) bool {
				return o.Status == 503 && o.Code == code && o.Kind != KindLogin && o.Kind != KindLogout
			})
		}
		took := refused("store_unavailable")
		r.Figure("refused: p99, ms", took)
		r.Figure("refused, a refresh was under way: p99, ms", refused("provider_unavailable"))
		if took > 5000 {
			r.Violate("F6a", "refusals took %.0f ms", took)
		}
		losses(h, r)
	},
}}
