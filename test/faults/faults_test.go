package faults

import (
	"os"
	"strconv"
	"testing"

	"github.com/cloakroom/cloakroom/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// make faults: ROW=F1,F3 picks rows, SEED= the seed, ROUNDS= how often all of it
// is done, each time with the next seed, STRETCH=2 makes them longer, RESULTS= is
// where the results go, and KEEP=1 keeps all histories.
//
// Without any of these it is a row of a few seconds, in which nothing goes wrong.
func TestRows(t *testing.T) {
	o := Options{Seed: 1, Dir: os.Getenv("RESULTS"), Keep: os.Getenv("KEEP") != ""}
	number := func(name string, otherwise float64) float64 {
		s := os.Getenv(name)
		if s == "" {
			return otherwise
		}
		n, err := strconv.ParseFloat(s, 64)
		if err != nil || n <= 0 {
			t.Fatalf("%s=%q is no number", name, s)
		}
		return n
	}
	o.Seed, o.Stretch = uint64(number("SEED", 1)), number("STRETCH", 1)
	rounds := int(number("ROUNDS", 1))
	ids := os.Getenv("ROW")
	if o.Dir == "" && ids == "" {
		ids, o.Stretch = "F0", 0.2
	}
	rows, err := Named(ids)
	if err != nil {
		t.Fatal(err)
	}
	for range rounds {
		for _, row := range rows {
			t.Run(row.ID+" "+row.Name+" seed "+strconv.FormatUint(o.Seed, 10), func(t *testing.T) { Run(t, row, o) })
		}
		o.Seed++
	}
}
