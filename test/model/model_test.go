// Package model explores how a session lives, with the real scripts on a real
// Redis: every order in which requests, two replicas, the provider, a thief and
// faults can take turns, within bounds that are stated with each exploration.
//
// A state is what Redis holds (both keys, byte for byte, in normal form) and the
// world around it; a step runs a script of session/store by the store's own
// methods, or is something of the world. So it is the Lua that is checked. What
// session.Keeper decides between two scripts is transcribed, next to the names of
// the functions that it transcribes; that it does so is for the tests of package
// session. It is in the module of the tests since it needs nothing that isn't
// exported.
//
// What is checked in each state, or by each step:
//
//	(a) an honest browser is never ended for reuse
//	(b) a successor is handed out once; after a theft, and a rotation that both
//	    have seen, owner and thief don't both go on
//	(c) an ended session stays dead
//	(d) a refresh token is presented once, unless its mark was found alone
//	(e) sessions are lost by the listed faults and no others
//	    every key has a TTL, the right one
//	    a script that runs twice answers as it did, and changes nothing
//
// Bounds: a clock in half graces, one theft, each fault once, few tickets and
// tokens. It is exhaustive within them, and no proof beyond.
//
// What breaks a property is told as a story. MODEL=large explores far more.
package model

import (
	"maps"
	"os"
	"slices"
	"testing"
)

// small is what every run of the tests explores.
var small = []bounds{
	{
		name: "honest", requestsAtOnce: 3, tickets: 3, rotations: 2,
		loses:   []uint16{},
		reaches: []string{"open: handout", "open: grace", "open: settled", "a successor issued again", "a re-issue beside a mark"},
	},
	{
		name: "theft", requestsAtOnce: 3, tickets: 3, rotations: 1, theft: true,
		reaches: []string{"ended for reuse after a theft"},
	},
	{
		name: "slow", requestsAtOnce: 1, tickets: 3, rotations: 2, slowAnswers: true, gone: true, background: true, timeouts: true,
		loses:   nil, // times that are over end sessions
		reaches: []string{"an advance with nobody to hand it out to", "a refresh in the background", "open: expired"},
	},
	{
		name: "late", requestsAtOnce: 1, tickets: 2, rotations: 1, faults: reply | late | loggedOut,
		loses:   []uint16{},
		reaches: []string{"a late call changed something", "a commit run again after a lost reply", "new tokens for an ended session were revoked"},
	},
	{
		name: "faults", requestsAtOnce: 1, tickets: 2, rotations: 1, faults: crash | lapse | unheard | badProxy | refused | busy, atOnce: 2,
		loses:   []uint16{crash, lapse, unheard},
		reaches: []string{"a lone mark was withdrawn", "a token of unknown fate is presented once more", "ended for a rejected token"},
	},
}

func TestModel(t *testing.T) {
	explorations := small
	if os.Getenv("MODEL") == "large" {
		explorations = large
	}
	redis := newMachine(t)
	for _, b := range explorations {
		t.Run(b.name, func(t *testing.T) {
			redis.t = t
			m := &model{machine: redis, bounds: b}
			if !m.explore(t) {
				return
			}
			for _, f := range slices.Sorted(maps.Keys(m.lost)) {
				if !slices.Contains(b.loses, f) {
					t.Errorf("a session is lost by %s:\n%s", names(f), m.story(m.lost[f], nil))
				}
			}
			for _, f := range b.loses {
				if _, ok := m.lost[f]; !ok {
					t.Errorf("no session is lost by %s: is the list right?", names(f))
				}
			}
			for _, what := range b.reaches {
				if m.reached[what] == 0 {
					t.Errorf("never reached: %s", what)
				}
			}
			for _, what := range slices.Sorted(maps.Keys(m.reached)) {
				t.Logf("%9d %s", m.reached[what], what)
			}
		})
	}
}
