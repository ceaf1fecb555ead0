package faults

import (
	"math"
	"os"
	"strconv"
	"testing"
	"time"
)

// make soak: MINUTES= is how long, SEED= and RESULTS= as for make faults. Without
// being asked for, only the arithmetic of its verdict is tested.
func TestSoak(t *testing.T) {
	if minutes, _ := strconv.Atoi(os.Getenv("MINUTES")); minutes > 0 {
		seed, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
		if err != nil {
			seed = 1
		}
		Run(t, Soak(minutes), Options{Seed: seed, Dir: os.Getenv("RESULTS"), Keep: os.Getenv("KEEP") != ""})
		return
	}
	for _, c := range []struct {
		name    string
		at      func(minute int) float64
		violate bool
	}{
		{"level", func(int) float64 { return 1000 }, false},
		{"noise", func(m int) float64 { return 1000 + 50*math.Sin(float64(m*m)) }, false},
		{"a leak", func(m int) float64 { return 1000 + float64(m) }, true},
		{"a leak below noise", func(m int) float64 { return 1000 + 4*float64(m) + 20*math.Sin(float64(m*m)) }, true},
		{"shrinks", func(m int) float64 { return 1000 - float64(m) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var kept []holding
			for m := range 60 {
				kept = append(kept, holding{at: time.Duration(m) * time.Minute, rss: c.at(m), heap: 1, goroutines: 1, fds: 1})
			}
			r := &Result{}
			judgeSoak(kept, &History{}, r)
			if got := len(r.Violations) > 0; got != c.violate {
				t.Errorf("violations: %q", r.Violations)
			}
		})
	}
}
