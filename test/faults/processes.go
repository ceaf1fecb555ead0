package faults

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// processRows are what happens to the gateway's own processes.
var processRows = []Row{
	{
		ID: "F0", Name: "nothing goes wrong",
		Length: 10 * time.Second,
	},
	{
		ID: "F1", Name: "a replica is killed (SIGKILL)",
		Setup:  func(_ testing.TB, s *Setup) { s.Replicas = 3 },
		Length: 25 * time.Second,
		Strike: func(w *World, r *rand.Rand) {
			at := w.Replicas()[r.IntN(3)]
			over := w.Fault("SIGKILL")
			w.Kill(at)
			over()
			w.Sleep(time.Duration(r.Int64N(int64(400 * time.Millisecond))))
			w.Boot(at)
		},
		// A grant that was at the provider when its replica died: nobody has the
		// answer. The one that presents it once more may be killed, too.
		Allow: Allowance{Unknown: true, Cut: true},
		Calm:  2 * time.Minute,
	},
	{
		ID: "F2", Name: "a rolling deploy (SIGTERM, one replica after the other)",
		Setup: func(_ testing.TB, s *Setup) {
			s.Change = func(c rig.Config) {
				c.Set("drain.delay", "1s")
				c.Set("drain.timeout", "10s")
			}
		},
		Length: 25 * time.Second,
		Strike: func(w *World, r *rand.Rand) {
			old := w.Running()[0]
			w.Add()
			over := w.Fault("SIGTERM")
			if code := w.Retire(old); code != 0 {
				w.Trouble("I7", "a replica that was asked to end exits with %d", code)
			}
			over()
		},
	},
	{
		ID: "F3", Name: "a replica sleeps for three leases (SIGSTOP), with answers of the provider's on their way to it",
		Setup:  func(_ testing.TB, s *Setup) { s.Patience = 4 * time.Second },
		Length: 75 * time.Second, Pause: 2 * time.Second,
		Strike: func(w *World, r *rand.Rand) {
			at := w.Replicas()[r.IntN(2)]
			hold := w.Provider.Gate(gatewaytest.GateAfterCommit, gatewaytest.Refreshing)
			w.arrived(hold, 4+r.IntN(8))
			over := w.Fault("SIGSTOP for 31 s")
			w.Freeze(at)
			hold.Release()
			w.Sleep(31 * time.Second)
			w.Thaw(at)
			over()
		},
		Calm:  100 * time.Second,
		Allow: Allowance{Unknown: true, Cut: true, Recovery: 10 * time.Second},
	},
}
