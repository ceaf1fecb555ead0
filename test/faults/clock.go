package faults

import (
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/test/rig"
)

// clockRows put the gateways' wall clocks wrong. Redis's is another name for the
// same: that of all gateways, by as much.
var clockRows = []Row{
	clockRow("F17", "replicas' clocks are 90 s ahead and 90 s behind", Allowance{}, "0:90", "0:-90"),
	// Nobody can log in by a clock that is an hour off (502, or 400 for a login that
	// began at the other replica); who is in stays in.
	clockRow("F17a", "a replica's clock goes back an hour, another's goes 90 s ahead",
		Allowance{Statuses: []int{400}, Outside: 1000}, "8:-3600", "12:90"),
	clockRow("F17b", "Redis's clock is 90 s behind all replicas'", Allowance{}, "0:90", "0:90"),
}

func clockRow(id, name string, allow Allowance, clocks ...string) Row {
	return Row{
		ID: id, Name: name, Length: 20 * time.Second, Allow: allow,
		Setup: func(t testing.TB, s *Setup) {
			s.Binary = rig.BuildWithClock(t)
			s.Each = func(w *rig.World, replica int) { w.Env = []string{"TEST_CLOCK=" + clocks[replica%len(clocks)]} }
		},
	}
}
