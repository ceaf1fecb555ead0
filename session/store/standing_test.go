package store

import (
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session/storetest"
)

// What holds against a login is known of every index, or of none: that nobody has a
// notice for the first says nothing of whether the others could be asked.
func TestStandingsAreAllKnownOrNone(t *testing.T) { inEveryMode(t, testStandingsAreAllKnownOrNone) }

func testStandingsAreAllKnownOrNone(t *testing.T, f *fixture) {
	ctx := t.Context()
	first, second := Index(id()), Index(id())
	if err := f.LockNew(ctx, second, time.Minute); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Standings(ctx, first, second); err != nil || got[0].Locked || !got[1].Locked {
		t.Fatal(got, err)
	}
	key := f.noticeKey(second)
	if err := f.rdb.LPush(ctx, key, "no text").Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Standings(ctx, first, second); err == nil {
		t.Error("a notice that can't be read:", got)
	}
	f.rdb.Set(ctx, key, "no number", time.Minute)
	if got, err := f.Standings(ctx, first, second); err == nil {
		t.Error("a notice without a time:", got)
	}
}

// A Cluster's shard that is away may hold the lock.
func TestStandingsOfAShardThatIsAway(t *testing.T) {
	t.Parallel()
	c := storetest.Cluster(t)
	f := fixtureOf(t, Options{Mode: Cluster, Addresses: c.Addrs(), KeyPrefix: "t:", Timeout: 5 * time.Second})
	away := c.Nodes[0]
	var here, there Index
	for here == (Index{}) || there == (Index{}) {
		i := Index(id())
		master, err := c.Master(t.Context(), slot(text(i)))
		if err != nil {
			t.Fatal(err)
		}
		if master == away {
			there = i
		} else {
			here = i
		}
	}
	if err := f.LockNew(t.Context(), there, time.Minute); err != nil {
		t.Fatal(err)
	}
	away.Kill()
	for range 5 {
		if got, err := f.Standings(t.Context(), here, there); err == nil && !got[1].Locked {
			t.Fatal("a lock that nobody could ask about doesn't hold")
		}
	}
}
