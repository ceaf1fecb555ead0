package store

import (
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session/storetest"
)

// Every operation on many sessions: in a Cluster these lie in all slots, and no
// call may need two at once.
func TestEveryOperation(t *testing.T) { inEveryMode(t, testEveryOperation) }

func testEveryOperation(t *testing.T, f *fixture) {
	ctx := t.Context()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var sids [][16]byte
	for range 40 {
		sids = append(sids, f.begin())
	}
	indexes := []Index{id(), id(), id(), id()}
	for _, sid := range sids {
		ok(f.Indexed(ctx, sid, time.Now().Add(time.Hour), indexes...))
	}
	all, err := f.Sessions(ctx, indexes...)
	if ok(err); len(all) != len(sids) {
		t.Errorf("%d sessions in the indexes", len(all))
	}
	every, err := f.EverySession(ctx, indexes...)
	if ok(err); len(every) != len(sids) {
		t.Errorf("every session: %d in the indexes", len(every))
	}
	ok(f.Unindex(ctx, indexes[0], sids[:3]...))
	records, _, err := f.ReadAll(ctx, append(sids, id(), id()))
	if ok(err); len(records) != len(sids) {
		t.Errorf("%d records", len(records))
	}
	headers, _, err := f.Headers(ctx, append(sids, id()))
	if ok(err); len(headers) != len(sids) {
		t.Errorf("%d headers", len(headers))
	}
	ok(f.Notice(ctx, indexes[0], time.UnixMilli(7), time.Minute))
	ok(f.LockNew(ctx, indexes[1], time.Minute))
	standings, err := f.Standings(ctx, indexes...)
	if ok(err); len(standings) != 4 || standings[0].NoticeAt != time.UnixMilli(7) || !standings[1].Locked || standings[2].Locked {
		t.Errorf("%+v", standings)
	}
	ok(f.UnlockNew(ctx, indexes...))
	set, err := f.SetNotBefore(ctx, f.app, time.Time{}, time.Minute)
	ok(err)
	if got, err := f.NotBefore(ctx, f.app); err != nil || !got.Equal(set) {
		t.Errorf("%v, want %v, %v", got, set, err)
	}
	ok(f.NoteToken(ctx, id(), sids[0], time.Minute))
	if _, found, err := f.TokenSession(ctx, id()); found || err != nil {
		t.Error(found, err)
	}
	name := [32]byte(append(sids[0][:], sids[1][:]...))
	if allowed, _, err := f.Take(ctx, name, 5); !allowed || err != nil {
		t.Error(allowed, err)
	}
	if turn, err := f.TakeTurn(ctx, name, time.Minute); turn != TurnFirst || err != nil {
		t.Error(turn, err)
	}
	ok(f.FinishTurn(ctx, name, time.Minute))
	if turn, err := f.TakeTurn(ctx, name, time.Minute); turn != TurnDone || err != nil {
		t.Error(turn, err)
	}
	app := text(id())
	_, err = f.FailBackoff(ctx, app, 0)
	ok(err)
	_, _, err = f.EnterBackoff(ctx, app, time.Second)
	ok(err)
	ok(f.PassBackoff(ctx, app))
	ok(f.LeaveBackoff(ctx, app))
	ok(f.Ping(ctx))

	// Each change of a session, and each way to end one.
	for i, sid := range sids {
		attempt := f.send(sid, 1)
		switch i % 5 {
		case 0:
			a, err := f.Withdraw(ctx, sid, 1, attempt)
			want(t, a, err, OK)
		case 1:
			a, err := f.Release(ctx, sid, 1, attempt)
			want(t, a, err, OK)
			a, err = f.Look(ctx, sid, 1, time.Minute, 1)
			want(t, a, err, Looked)
			a, err = f.ConfirmLocal(ctx, sid, 1)
			want(t, a, err, OK)
		case 2:
			a, err := f.EndAttempt(ctx, sid, f.app, 9, 1, attempt)
			want(t, a, err, OK)
			continue
		default:
			a, err := f.Commit(ctx, sid, f.advance(sid, 1, 1, attempt))
			want(t, a, err, OK)
			want(t, f.open(sid, 2), nil, Current)
			want(t, f.open(sid, 1), nil, InGrace)
		}
		a, err := f.End(ctx, sid, f.app, 3, Lock{Locked: true})
		want(t, a, err, OK)
		a, err = f.LiftLock(ctx, sid, f.app)
		want(t, a, err, OK)
	}

	nodes, err := f.Inspect(ctx)
	ok(err)
	primaries, replicas := 1, 0
	switch f.link.Load().opts.Mode {
	case Sentinel:
		replicas = 2
	case Cluster:
		primaries, replicas = 3, 3
	}
	for _, n := range nodes {
		if n.Err != nil {
			t.Errorf("%s: %v", n.Address, n.Err)
		}
		if n.Primary {
			primaries--
		} else {
			replicas--
		}
		if n.Primary != (n.Role == "master") || n.Policy != "noeviction" || n.Ahead.Abs() > time.Second || n.MinReplicas {
			t.Errorf("%+v", n)
		}
		if n.Primary && f.link.Load().opts.Mode != Single && n.Replicas == 0 {
			t.Errorf("%+v", n)
		}
	}
	if primaries != 0 || replicas != 0 {
		t.Errorf("%+v", nodes)
	}
}

func TestSlots(t *testing.T) {
	// The value that the Redis Cluster specification gives, and one of its examples.
	if got := slot("123456789"); got != 0x31c3 {
		t.Errorf("%#x", got)
	}
	for _, n := range []int{0, 1, 5461, 16383} {
		if got := slot(tag(n)); got != n {
			t.Errorf("%d, want %d", got, n)
		}
	}
}

// A shard that takes no writes is not believed about its own sessions; the
// others are.
func TestOneShardIsLame(t *testing.T) {
	t.Parallel()
	c := storetest.Cluster(t)
	s := running(t, Options{Mode: Cluster, Addresses: c.Addrs(), KeyPrefix: "t:"}, func(Event) {})
	until(t, 5*time.Second, "hears itself", s.Hears)
	cut := c.Nodes[1]
	var here, elsewhere [16]byte
	for here == [16]byte{} || elsewhere == [16]byte{} {
		sid := id()
		master, err := c.Master(t.Context(), slot(text(sid)))
		if err != nil {
			t.Fatal(err)
		}
		if master == cut {
			here = sid
		} else {
			elsewhere = sid
		}
	}
	if s.Lame(here, elsewhere) {
		t.Fatal("lame from the start")
	}
	if _, err := cut.CLI("CONFIG", "SET", "min-replicas-to-write", "5"); err != nil {
		t.Fatal(err)
	}
	until(t, 3*time.Second, "is lame", func() bool { return s.Lame(here) })
	if s.Lame(elsewhere) || !s.Lame(elsewhere, here) {
		t.Error("another shard's session is lame, too")
	}
	until(t, 3*time.Second, "is deaf", func() bool { return !s.Hears() })
	if err := s.Ping(t.Context()); err != nil {
		t.Error("two thirds of all sessions can be served:", err)
	}
	if _, err := cut.CLI("CONFIG", "SET", "min-replicas-to-write", "0"); err != nil {
		t.Fatal(err)
	}
	until(t, 3*time.Second, "is believed again", func() bool { return !s.Lame(here) && s.Hears() })
}

// What a Redis that can't serve answers is an error, never a verdict.
func TestRefusals(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	sid := f.begin()
	a, err := f.End(ctx, sid, f.app, 3, Lock{})
	want(t, a, err, OK)
	p := Presented{App: f.app, KnownKeys: f.keys, Generation: 1, Hash: hash(1)}
	for _, row := range []struct {
		name     string
		set, end []string
		err      string
	}{
		{"a replica", []string{"REPLICAOF", "127.0.0.1", "1"}, []string{"REPLICAOF", "NO", "ONE"}, "READONLY"},
		{"a replica without its primary", []string{"CONFIG", "SET", "replica-serve-stale-data", "no"}, nil, "READONLY"},
		{"too few replicas", []string{"CONFIG", "SET", "min-replicas-to-write", "1"}, []string{"CONFIG", "SET", "min-replicas-to-write", "0"}, "NOREPLICAS"},
	} {
		if row.name == "a replica without its primary" {
			f.server.CLI("REPLICAOF", "127.0.0.1", "1")
		}
		f.server.CLI(row.set...)
		live := id()
		err := f.Begin(ctx, live, Record{App: f.app, ExpiresAt: time.Now().Add(time.Hour)})
		if err == nil || !strings.Contains(err.Error(), row.err) {
			t.Errorf("%s: begin: %v", row.name, err)
		}
		if a, err := f.End(ctx, id(), f.app, 3, Lock{}); err == nil && a.Result != None {
			t.Errorf("%s: end: %s", row.name, a.Result)
		}
		// What is there may be read, but not as anything else.
		if a, err := f.Open(ctx, sid, p); err == nil && a.Result != Ended {
			t.Errorf("%s: open: %s", row.name, a.Result)
		}
		if f.Ping(ctx) == nil || !f.Lame(sid) {
			t.Errorf("%s: is believed", row.name)
		}
		f.server.CLI("CONFIG", "SET", "replica-serve-stale-data", "yes")
		f.server.CLI("REPLICAOF", "NO", "ONE")
		if row.end != nil {
			f.server.CLI(row.end...)
		}
		if err := f.Ping(ctx); err != nil || f.Lame(sid) {
			t.Errorf("%s: is not believed afterwards: %v", row.name, err)
		}
	}
}

// An app's end once left a session alive that had begun in the same millisecond.
func TestNotBeforeEndsWhatBeganThisMillisecond(t *testing.T) {
	f := newFixture(t)
	for range 50 {
		began, err := f.rdb.Time(t.Context()).Result()
		if err != nil {
			t.Fatal(err)
		}
		set, err := f.SetNotBefore(t.Context(), f.app, time.Time{}, time.Minute)
		if err != nil || !began.Truncate(time.Millisecond).Before(set) {
			t.Fatalf("begun at %v, all ended before %v, %v", began, set, err)
		}
	}
}
