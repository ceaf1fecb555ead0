package model

import "testing"

// TestReduction explores little with all orders and with those that are explored
// elsewhere, and finds the same: records, jars, endings and losses.
func TestReduction(t *testing.T) {
	redis := newMachine(t)
	for _, b := range []bounds{
		{name: "honest", requestsAtOnce: 2, tickets: 2, rotations: 2, loses: []uint16{}},
		{name: "theft", requestsAtOnce: 2, tickets: 2, rotations: 1, theft: true, loses: []uint16{}},
		{name: "slow", requestsAtOnce: 2, tickets: 2, rotations: 1, slowAnswers: true, gone: true, loses: []uint16{}},
		{name: "faults", requestsAtOnce: 1, tickets: 2, rotations: 1, faults: crash | unheard | badProxy | loggedOut | failover, atOnce: 1, loses: []uint16{}},
	} {
		t.Run(b.name, func(t *testing.T) {
			redis.t = t
			var found [2]map[outline]bool
			var lost [2]map[uint16]int32
			for i := range found {
				b.all = i == 0
				m := &model{machine: redis, bounds: b}
				if !m.explore(t) {
					return
				}
				found[i], lost[i] = m.outlines(), m.lost
			}
			t.Logf("%d outlines", len(found[0]))
			for i, name := range []string{"all orders", "fewer orders"} {
				for o := range found[i] {
					if !found[1-i][o] {
						t.Fatalf("only %s: %+v", name, o)
					}
				}
				for f := range lost[i] {
					if _, ok := lost[1-i][f]; !ok {
						t.Errorf("only %s lose a session by %s", name, names(f))
					}
				}
			}
		})
	}
}

// outline is what the order of things that make no difference doesn't show.
type outline struct {
	record kv
	jar    uint8
	gens   [maxTickets + 1]uint8
	watch  uint8
	used   [2]bool
	faults uint16
}

func (m *model) outlines() map[outline]bool {
	found := map[outline]bool{}
	for i := range m.known.n {
		s := m.known.state(i)
		o := outline{record: m.kvs[s.kv], jar: s.jar, gens: s.gens, watch: s.watch, used: s.used, faults: s.faults}
		o.record.rt = 0 // changes when the provider answers
		found[o] = true
	}
	return found
}
