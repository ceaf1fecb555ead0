package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session/storetest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// redisRows are what happens to Redis.
var redisRows = []Row{
	sentinelRow("F4", "the primary is killed (Sentinel), with wait_replicas: 1", 1, Allowance{
		// Refreshes are held back for 1.5 s whenever Redis's history is another: when
		// a replica takes over, and when connections to the old one break for good.
		Cut: true, Recovery: 6 * time.Second, Outside: 5,
	}),
	sentinelRow("F4a", "the primary is killed (Sentinel), without wait_replicas", 0, Allowance{
		// What was acknowledged in the last moments of the old primary.
		Cut: true, Recovery: 6 * time.Second, Outside: 5,
		Lost: map[string]int{"store_lost": 10, "no_session": 10, "refresh_rejected": 10}, Unaudited: true, Revived: 10, Unknown: true,
	}),
	{
		ID: "F6", Name: "Redis stalls: paused, frozen, answers that come too late",
		Setup: func(_ testing.TB, s *Setup) {
			s.Change = func(c rig.Config) { c.Set("apps.0.session.cache_ttl", "0s") } // every request asks
		},
		Length: 40 * time.Second,
		Pause:  2500 * time.Millisecond, // what one stall held up is over before the next
		Allow:  Allowance{Recovery: 3 * time.Second, Cut: true},
		Strike: stall,
		Judge: func(_ *World, h *History, r *Result) {
			if failed, all := share(h, r, "a pause of at most 1 s"); failed > 0 {
				r.Violate("F6", "%d of %d requests failed in pauses of at most 1 s", failed, all)
			}
			outages(h, r, "frozen", 3*time.Second)
		},
	},
	{
		ID: "F7", Name: "slots of sessions in use move back and forth (Cluster)",
		Setup:  clustered,
		Length: 25 * time.Second,
		Pause:  100 * time.Millisecond,
		Strike: moveSlots,
		Judge: func(_ *World, h *History, r *Result) {
			if failed, all := share(h, r, "slots move"); failed*1000 > all {
				r.Violate("F7", "%d of %d requests failed while slots moved", failed, all)
			}
		},
	},
	{
		ID: "F7a", Name: "a master is killed (Cluster), with wait_replicas: 1",
		Setup: func(t testing.TB, s *Setup) {
			clustered(t, s)
			s.Change = func(c rig.Config) { c.Set("redis.wait_replicas", 1) }
		},
		Length: 25 * time.Second,
		Allow:  Allowance{Cut: true, Recovery: 4 * time.Second, Outside: 5},
		Strike: func(w *World, r *rand.Rand) {
			ctx, cancel := context.WithTimeout(context.Background(), rig.Patience)
			defer cancel()
			slot, err := w.Setup.Shards.Slot(ctx, w.hotKey(r))
			if err != nil {
				w.T.Fatal(err)
			}
			master, err := w.Setup.Shards.Master(ctx, slot)
			if err != nil {
				w.T.Fatal(err)
			}
			over := w.Fault("a master is killed")
			master.Kill()
			w.whole(w.Setup.Shards.Wait)
			over()
			if err := master.Restart(); err != nil {
				w.T.Fatal(err)
			}
			w.whole(w.Setup.Shards.Wait)
		},
		Judge: func(_ *World, h *History, r *Result) {
			outages(h, r, "a master is killed", 4*time.Second)
			losses(h, r)
		},
	},
	{
		ID: "F8", Name: "Redis is out of memory (noeviction)",
		Setup:  func(_ testing.TB, s *Setup) { s.Provider.AccessLife = 2 * time.Minute },
		Length: 25 * time.Second,
		Strike: func(w *World, r *rand.Rand) {
			over := w.Fault("out of memory")
			w.Redis.CLI("CONFIG", "SET", "maxmemory", "1mb")
			w.Sleep(time.Second + time.Duration(r.Int64N(int64(2*time.Second))))
			w.Redis.CLI("CONFIG", "SET", "maxmemory", "0")
			over()
		},
		Allow: Allowance{Recovery: 3 * time.Second},
		Judge: func(_ *World, h *History, r *Result) {
			// Who has a session and a live token is served.
			failed, all := 0, 0
			for i := range h.Ops {
				o := &h.Ops[i]
				if o.Kind == KindAPI && h.within(o.Start, o.End, 0) {
					if all++; o.Status >= 500 {
						failed++
					}
				}
			}
			r.Figure("proxied requests without memory", float64(all))
			r.Figure("of them failed", float64(failed))
			if failed > 0 {
				r.Violate("F8", "%d of %d requests with a live token failed", failed, all)
			}
		},
	},
	{
		ID: "F8a", Name: "Redis evicts (allkeys-random), then loses everything (FLUSHALL)",
		Setup:  func(_ testing.TB, s *Setup) { s.Provider.AccessLife = 4 * time.Second },
		Length: 15 * time.Second,
		Strike: func(w *World, r *rand.Rand) {
			if r.IntN(3) == 0 {
				over := w.Fault("FLUSHALL")
				w.Redis.CLI("FLUSHALL")
				w.Sleep(500 * time.Millisecond)
				over()
				return
			}
			over := w.Fault("eviction")
			used, _ := strconv.Atoi(w.Redis.CLI("EVAL", `return tonumber(string.match(redis.call('INFO', 'memory'), 'used_memory:(%d+)'))`, "0"))
			w.Redis.CLI("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
			w.Redis.CLI("CONFIG", "SET", "maxmemory", strconv.Itoa(used-used/50))
			w.Sleep(500 * time.Millisecond)
			w.Redis.CLI("CONFIG", "SET", "maxmemory", "0")
			over()
		},
		// Whoever was evicted logs in again. A tombstone that was evicted fails
		// closed: there is no session.
		Allow: Allowance{Lost: map[string]int{"no_session": 100_000, "store_lost": 100_000}, Unaudited: true, Recovery: 3 * time.Second},
		Judge: func(_ *World, h *History, r *Result) { losses(h, r) },
	},
}

// sentinelRow kills primaries, with Sentinel to replace them.
func sentinelRow(id, name string, replicas int, allow Allowance) Row {
	return Row{
		ID: id, Name: name, Length: 35 * time.Second, Allow: allow,
		Setup: func(t testing.TB, s *Setup) {
			s.Sentinels = storetest.Sentinel(t)
			s.Change = func(c rig.Config) { c.Set("redis.wait_replicas", replicas) }
		},
		Strike: func(w *World, _ *rand.Rand) {
			old := w.primary()
			over := w.Fault("the primary is killed")
			old.Kill()
			rig.Eventually(w.T, "there is another primary", func() bool { return w.primary() != old })
			over()
			if err := old.Restart(); err != nil {
				w.T.Fatal(err)
			}
			w.whole(w.Setup.Sentinels.Wait)
		},
		Judge: func(_ *World, h *History, r *Result) {
			outages(h, r, "the primary is killed", 4*time.Second)
			losses(h, r)
		},
	}
}

func clustered(t testing.TB, s *Setup) { s.Shards = storetest.Cluster(t) }

// hotKey is the key of a session that is in use.
func (w *World) hotKey(r *rand.Rand) string { return "cloakroom:s:{" + w.hot(r) + "}" }

// moveSlots moves the slots of a few sessions in use to another master, and back.
func moveSlots(w *World, r *rand.Rand) {
	ctx, cancel := context.WithTimeout(context.Background(), rig.Patience)
	defer cancel()
	shards := w.Setup.Shards
	var moved []int
	var from, to *storetest.Node
	for range 8 {
		slot, err := shards.Slot(ctx, w.hotKey(r))
		if err != nil {
			w.T.Fatal(err)
		}
		at, err := shards.Master(ctx, slot)
		if err != nil {
			w.T.Fatal(err)
		}
		switch {
		case from == nil:
			from = at
		case at != from && to == nil:
			to = at
			continue
		case at != from:
			continue
		}
		if !slices.Contains(moved, slot) {
			moved = append(moved, slot)
		}
	}
	if to == nil {
		return // another draw
	}
	over := w.Fault("slots move")
	defer over()
	if err := shards.MigrateSlots(ctx, from, to, moved...); err != nil {
		w.T.Fatal(err)
	}
	if err := shards.MigrateSlots(ctx, to, from, moved...); err != nil {
		w.T.Fatal(err)
	}
}

// stall stops Redis, or the answers on the way from it, for a while.
func stall(w *World, r *rand.Rand) {
	switch r.IntN(4) {
	case 0, 1:
		over := w.Fault("a pause of at most 1 s")
		d := []time.Duration{200 * time.Millisecond, time.Second}[r.IntN(2)]
		w.Redis.CLI("CLIENT", "PAUSE", fmt.Sprint(d.Milliseconds()), "ALL")
		w.Sleep(d + 200*time.Millisecond)
		over()
	case 2:
		over := w.Fault("frozen")
		w.Redis.Stop()
		w.Sleep(5 * time.Second)
		w.Redis.Cont()
		over()
	default:
		// Longer than the client waits; then all of it comes.
		over := w.Fault("late answers")
		at := w.Running()[r.IntN(len(w.Running()))]
		at.Redis.Set(rig.Down, rig.Fault{Delay: 2500 * time.Millisecond})
		w.Sleep(3 * time.Second)
		at.Redis.Heal()
		over()
	}
}
