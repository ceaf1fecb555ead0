package faults

import (
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/test/rig"
)

// clockRows put the gateways' wall clocks wrong. Redis's is another name for the
// same: that of all gateways, by as much.
var clockRows = []Row{
	clockRow("F17", "replicas' clocks are 90 s ahead and 90 s behind", "0:90", "0:-90"),
	clockRow("F17a", "a replica's clock goes back an hour, another's goes 90 s ahead", "8:-3600", "12:90"),
	clockRow("F17b", "Redis's clock is 90 s behind all replicas'", "0:90", "0:90"),
}

func clockRow(id, name string, clocks ...string) Row {
	return Row{
		ID: id, Name: name, Length: 20 * time.Second,
		Setup: func(t testing.TB, s *Setup) {
			s.Binary = rig.BuildWithClock(t)
			s.Each = func(w *rig.World, replica int) { w.Env = []string{"TEST_CLOCK=" + clocks[replica%len(clocks)]} }
		},
	}
}
