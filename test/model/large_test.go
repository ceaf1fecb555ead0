package model

// large is what MODEL=large explores: minutes, and some gigabytes of memory.
var large = []bounds{
	{
		name: "theft", requestsAtOnce: 2, tickets: 3, rotations: 2, theft: true,
		reaches: []string{"ended for reuse after a theft", "one of owner and thief goes on"},
	},
	{
		name: "all faults", requestsAtOnce: 1, tickets: 2, rotations: 2, faults: crash | lapse | unheard | badProxy | refused | busy | reply | late | loggedOut, atOnce: 2,
		loses: []uint16{crash, lapse, unheard},
	},
	{
		name: "failover, no wait, no replay", requestsAtOnce: 1, tickets: 3, rotations: 2, faults: failover | loggedOut,
		loses: []uint16{failover},
	},
	{
		name: "failover, wait", requestsAtOnce: 1, tickets: 3, rotations: 2, faults: failover | loggedOut, wait: true,
		loses: []uint16{},
	},
	{
		name: "failover, replay", requestsAtOnce: 1, tickets: 3, rotations: 2, faults: failover | loggedOut, replay: true,
		loses: []uint16{},
	},
}
