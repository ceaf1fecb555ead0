// Package model explores how a session lives, with the real scripts on a real
// Redis: every order in which requests, two replicas, the provider, a thief and
// faults can take turns, within bounds that are stated with each exploration.
//
// A state is what Redis holds (both keys, byte for byte, in normal form) and the
// world around it; a step runs a script of session/store by the store's own
// methods, or is something of the world. So it is the Lua that is checked. What
// session.Keeper decides between two scripts is transcribed, next to the names of
// the functions that it transcribes; [TestKeeper] walks with the model and two real
// keepers side by side. It is in the module of the tests since it needs nothing that isn't
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
// A failover may forget that a successor was handed out, so that it is once more.
// Then (a) holds but for a browser that got both answers, and (b) for the first
// rotation after theft and failover.
//
// Bounds: a clock in half graces, one theft, each fault once, few requests, tickets
// and tokens. It is exhaustive within them, and no proof beyond. Orders that make no
// difference are left out, see [model.requests]; [TestReduction] compares.
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
	{
		name: "limit", requestsAtOnce: 2, tickets: 10, rotations: 2, seeded: many(8, 1), sent: true,
		loses:   []uint16{},
		reaches: []string{"open: grace", "a commit in place, for there is no room for one more predecessor"},
	},
	{
		name: "below the limit", requestsAtOnce: 2, tickets: 10, rotations: 2, seeded: many(7, 1, 1), sent: true,
		loses:   []uint16{},
		reaches: []string{"open: grace", "an advance that drops a predecessor", "a commit in place, for there is no room for one more predecessor"},
	},
	{
		name: "limit, unconfirmed", requestsAtOnce: 2, tickets: 10, rotations: 2, seeded: many(8, 1, 1, 2, 2, 2, 2, 2, none), sent: true,
		loses:   []uint16{},
		reaches: []string{"open: grace", "open: settled", "a re-issue that drops a predecessor"},
	},
	{
		name: "theft and failover, wait", requestsAtOnce: 2, tickets: 2, rotations: 1, theft: true, faults: failover, wait: true,
		reaches: []string{"ended for reuse after a theft", "one of owner and thief goes on"},
	},
	{
		name: "theft and failover, replay", requestsAtOnce: 2, tickets: 2, rotations: 1, theft: true, faults: failover, replay: true,
		reaches: []string{"ended for reuse after a theft", "one of owner and thief goes on", "after a theft and a failover the owner's ticket is newer than the record"},
	},
}

// many is a record with n predecessors, whose graces are over in some ticks: a
// session that was refreshed n times within a grace. Without the last one's, the
// current ticket was handed out just now.
func many(n uint8, until ...int8) *kv {
	r := kv{status: live, gen: n + 1, uid: n + 1, confirmed: true, handed: none, ahead: none, looked: none, n: n}
	for i := range n {
		r.preds[i] = entry{gen: i + 1, uid: i + 1, until: graceTicks, leads: i + 2, bound: r.gen}
	}
	for i, left := range until {
		r.preds[i].until = left
	}
	if last := &r.preds[n-1]; last.until == none {
		r.confirmed, r.handed = false, 0
	}
	return &r
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
