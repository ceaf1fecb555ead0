package model

// large is what MODEL=large explores: minutes, and some gigabytes of memory.
//
// Where no replica is waited for, a failover may forget that an opening handed a
// successor out: nothing runs that again. Then it is handed out a second time; and
// if that answer is overtaken by a whole rotation, it takes the jar back. The rows
// say so: with two requests at once a failover alone may lose a session. It may
// also forget a mark, and a re-issue that was judged before gets in the way of the
// new tokens.
var large = []bounds{
	{
		name: "honest", requestsAtOnce: 3, tickets: 4, rotations: 3,
		loses:   []uint16{},
		reaches: []string{"open: handout", "open: grace", "open: settled", "a successor issued again", "a re-issue beside a mark"},
	},
	{
		name: "slow", requestsAtOnce: 3, tickets: 3, rotations: 2, slowAnswers: true, gone: true, background: true,
		loses:   []uint16{},
		reaches: []string{"an advance with nobody to hand it out to", "a refresh in the background"},
	},
	{
		name: "theft", requestsAtOnce: 3, tickets: 3, rotations: 2, theft: true,
		reaches: []string{"ended for reuse after a theft", "one of owner and thief goes on"},
	},
	{
		name: "all faults", requestsAtOnce: 2, tickets: 2, rotations: 2, faults: crash | lapse | unheard | badProxy | refused | busy | reply | late | loggedOut, atOnce: 2,
		loses: []uint16{crash, lapse, unheard},
	},
	{
		name: "failover, no wait, no replay", requestsAtOnce: 2, tickets: 3, rotations: 2, faults: failover | loggedOut,
		loses: []uint16{failover},
	},
	{
		name: "failover, wait", requestsAtOnce: 3, tickets: 3, rotations: 2, faults: failover | loggedOut, wait: true,
		loses: []uint16{},
	},
	{
		name: "failover, replay", requestsAtOnce: 2, tickets: 3, rotations: 2, faults: failover | loggedOut, replay: true,
		loses:   []uint16{failover},
		reaches: []string{"ended for reuse, since a failover forgot a hand-out"},
	},
	{
		name: "theft and failover, no wait, no replay", requestsAtOnce: 2, tickets: 3, rotations: 2, theft: true, faults: failover,
		reaches: []string{"ended for reuse after a theft", "one of owner and thief goes on"},
	},
	{
		name: "theft and failover, wait", requestsAtOnce: 2, tickets: 3, rotations: 2, theft: true, faults: failover, wait: true,
		reaches: []string{"ended for reuse after a theft", "one of owner and thief goes on"},
	},
	{
		name: "theft and failover, replay", requestsAtOnce: 2, tickets: 3, rotations: 2, theft: true, faults: failover, replay: true,
		reaches: []string{"ended for reuse after a theft", "one of owner and thief goes on", "after a theft and a failover the owner's ticket is newer than the record"},
	},
}
