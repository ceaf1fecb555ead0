package store

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cloakroom/cloakroom/session/storetest"
)

type fixture struct {
	*Store
	t      *testing.T
	rdb    redis.UniversalClient
	server *storetest.Server // of newFixture alone
	offset time.Duration
	app    [8]byte
	keys   [][4]byte
}

// newFixture has a Redis of its own.
func newFixture(t *testing.T) *fixture {
	server := storetest.Redis(t)
	f := fixtureOf(t, Options{Address: server.Addr(), KeyPrefix: "t:"})
	f.server = server
	return f
}

func fixtureOf(t *testing.T, o Options) *fixture {
	f := &fixture{t: t, app: [8]byte{1, 2, 3}, keys: [][4]byte{{9}, {7}}}
	o.Offset = func() time.Duration { return f.offset }
	f.Store = New(o)
	f.rdb = f.Store.rdb()
	t.Cleanup(func() { f.Close() })
	return f
}

func id() (b [16]byte) { rand.Read(b[:]); return b }

func hash(n byte) (b [32]byte) { b[0] = n; return b }

func (f *fixture) begin() [16]byte {
	f.t.Helper()
	sid := id()
	now := time.Now().Add(f.offset)
	err := f.Begin(f.t.Context(), sid, Record{
		App: f.app, Key: f.keys[0], Version: 1, Generation: 1, Hash: hash(1), Confirmed: true,
		CreatedAt: now, SeenAt: now, ExpiresAt: now.Add(time.Hour), Body: []byte("body"),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return sid
}

func (f *fixture) open(sid [16]byte, generation uint64, more ...func(*Presented)) Answer {
	f.t.Helper()
	p := Presented{App: f.app, KnownKeys: f.keys, Generation: generation, Hash: hash(byte(generation)),
		IdleTimeout: 30 * time.Minute, Grace: time.Minute, Settle: 3 * time.Minute, Interval: time.Minute, Cookie: true}
	for _, m := range more {
		m(&p)
	}
	a, err := f.Open(f.t.Context(), sid, p)
	if err != nil {
		f.t.Fatal(err)
	}
	return a
}

func want(t *testing.T, a Answer, err error, r Result) Answer {
	t.Helper()
	if err != nil || a.Result != r {
		t.Fatalf("%s %v, want %s", a.Result, err, r)
	}
	return a
}

// send leads a session to the point where its refresh token may leave.
func (f *fixture) send(sid [16]byte, version uint64) Attempt {
	f.t.Helper()
	attempt := Attempt(id())
	a, err := f.Claim(f.t.Context(), sid, version, attempt, 10*time.Second)
	want(f.t, a, err, OK)
	a, err = f.Send(f.t.Context(), sid, version, attempt, 10*time.Second)
	want(f.t, a, err, OK)
	return attempt
}

func (f *fixture) advance(sid [16]byte, version, generation uint64, attempt Attempt) Change {
	return Change{Kind: Advance, Version: version, Attempt: attempt, Sent: true, Key: f.keys[0], Body: []byte("new body"),
		Generation: generation + 1, Hash: hash(byte(generation + 1)), Handed: true,
		Predecessor: Predecessor{Generation: generation, Hash: hash(byte(generation)), Key: f.keys[1], Salt: SealedSalt{5}}}
}

// The scripts know the record's layout by number.
func TestScriptsAndGoAgreeOnTheLayout(t *testing.T) {
	r := Record{
		Ended: true, Reason: 3, Locked: true, App: [8]byte{1, 1}, Key: [4]byte{2, 2}, Version: 0x0303, Generation: 0x0404,
		Hash: [32]byte{5, 5}, Confirmed: true, Unknowns: 7, LocalConfirmed: true, HandedAt: time.UnixMilli(0x0808), CreatedAt: time.UnixMilli(0x0909),
		SeenAt: time.UnixMilli(0x0a0a), ExpiresAt: time.UnixMilli(0x0b0b), AheadAt: time.UnixMilli(0x0c0c),
		LeaseUntil: time.UnixMilli(0x0d0d), Lease: Attempt{0xe, 0xe}, Sending: Attempt{0xf, 0xf},
		LockedUntil: time.UnixMilli(0x1010), Attempt: Attempt{0x11, 0x11}, Body: []byte("body"),
	}
	b := r.marshal()
	for name, lead := range map[string][]byte{
		"format": {Format}, "status": {statusEnded}, "reason": {3}, "flags": {1}, "app": {1, 1}, "key": {2, 2},
		"version": {0, 0, 0, 0, 0, 0, 3, 3}, "generation": {0, 0, 0, 0, 0, 0, 4, 4}, "hash": {5, 5}, "confirmed": {1}, "unknowns": {7}, "['local']": {1},
		"handed": {0, 0, 0, 0, 0, 0, 8, 8}, "created": {0, 0, 0, 0, 0, 0, 9, 9}, "seen": {0, 0, 0, 0, 0, 0, 0xa, 0xa},
		"expires": {0, 0, 0, 0, 0, 0, 0xb, 0xb}, "ahead": {0, 0, 0, 0, 0, 0, 0xc, 0xc}, "lease_until": {0, 0, 0, 0, 0, 0, 0xd, 0xd},
		"lease": {0xe, 0xe}, "sending": {0xf, 0xf}, "looked": {0, 0, 0, 0, 0, 0, 0x10, 0x10}, "attempt": {0x11, 0x11},
	} {
		_, rest, ok := strings.Cut(prelude, " "+name+" = ")
		if !ok {
			t.Errorf("prelude.lua has no %s", name)
			continue
		}
		at, _ := strconv.Atoi(rest[:strings.IndexAny(rest, ", \n")])
		if !bytes.HasPrefix(b[at:], lead) {
			t.Errorf("%s is not at %d", name, at)
		}
	}
	if !strings.Contains(prelude, fmt.Sprintf("HEADER = %d\n", header)) || !strings.Contains(prelude, fmt.Sprintf("ENTRY, ENTRY_UNTIL, ENTRY_KEY = %d, 40, 48", entry)) {
		t.Error("sizes differ")
	}
	back, err := parse(b)
	if err != nil || fmt.Sprint(back) != fmt.Sprint(r) {
		t.Errorf("%v\n%v", back, r)
	}
}

// Every change, run twice, answers as the first time and changes nothing more;
// on another version it does nothing.
func TestChangesAreIdempotentAndFenced(t *testing.T) {
	inEveryMode(t, testChangesAreIdempotentAndFenced)
}

func testChangesAreIdempotentAndFenced(t *testing.T, f *fixture) {
	ctx := t.Context()
	for _, row := range []struct {
		name   string
		sent   bool // needs a mark
		change func(sid [16]byte, version uint64, a Attempt) (Answer, error)
	}{
		{"claim", false, func(sid [16]byte, v uint64, a Attempt) (Answer, error) {
			return f.Claim(ctx, sid, v, a, 10*time.Second)
		}},
		{"sending", true, func(sid [16]byte, v uint64, a Attempt) (Answer, error) {
			return f.Send(ctx, sid, v, a, 10*time.Second)
		}},
		{"withdraw", true, func(sid [16]byte, v uint64, a Attempt) (Answer, error) { return f.Withdraw(ctx, sid, v, a) }},
		{"advance", true, func(sid [16]byte, v uint64, a Attempt) (Answer, error) {
			return f.Commit(ctx, sid, f.advance(sid, v, 1, a))
		}},
		{"in place", true, func(sid [16]byte, v uint64, a Attempt) (Answer, error) {
			return f.Commit(ctx, sid, Change{Kind: InPlace, Version: v, Attempt: a, Sent: true, Body: []byte("x"), Key: f.keys[0]})
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			sid, attempt := f.begin(), Attempt(id())
			if row.sent {
				attempt = f.send(sid, 1)
			}
			key := f.recordKey(sid)
			if a, err := row.change(sid, 99, attempt); err != nil || a.Result != Moved {
				t.Errorf("on another version: %s %v", a.Result, err)
			}
			first, err := row.change(sid, 1, attempt)
			want(t, first, err, OK)
			// The clock goes on between the runs; it must not show, but in a lease.
			before := f.rdb.Get(ctx, key).Val()
			second, err := row.change(sid, 1, attempt)
			want(t, second, err, OK)
			after := f.rdb.Get(ctx, key).Val()
			if row.name != "claim" && row.name != "sending" && before != after {
				t.Error("the second run changed the record")
			}
			if second.Record.Version != first.Record.Version {
				t.Error("the second run raised the version")
			}
			if a, err := row.change(sid, 1, Attempt(id())); err != nil || a.Result == OK {
				t.Errorf("another attempt: %s %v", a.Result, err)
			}
		})
	}
}

func TestOneReplicaSendsPerVersion(t *testing.T) { inEveryMode(t, testOneReplicaSendsPerVersion) }

func testOneReplicaSendsPerVersion(t *testing.T, f *fixture) {
	sid := f.begin()
	slow, quick := Attempt(id()), Attempt(id())
	a, err := f.Claim(t.Context(), sid, 1, slow, time.Second)
	want(t, a, err, OK)
	a, err = f.Claim(t.Context(), sid, 1, quick, time.Second)
	want(t, a, err, Busy)
	f.offset += 2 * time.Second // the lease lapses under a sleeping holder
	a, err = f.Claim(t.Context(), sid, 1, quick, time.Second)
	want(t, a, err, OK)
	a, err = f.Send(t.Context(), sid, 1, quick, time.Second)
	want(t, a, err, OK)
	a, err = f.Send(t.Context(), sid, 1, slow, time.Second)
	want(t, a, err, Busy)
	f.offset += 2 * time.Second // the mark stands without a lease
	a, err = f.Claim(t.Context(), sid, 1, slow, time.Second)
	want(t, a, err, Sending)
	a, err = f.Commit(t.Context(), sid, f.advance(sid, 1, 1, slow))
	want(t, a, err, Sending)
	a, err = f.Commit(t.Context(), sid, f.advance(sid, 1, 1, quick))
	want(t, a, err, OK)
}

func TestMarkIsTouchedByItsOwnAlone(t *testing.T) { inEveryMode(t, testMarkIsTouchedByItsOwnAlone) }

func testMarkIsTouchedByItsOwnAlone(t *testing.T, f *fixture) {
	sid := f.begin()
	first := f.send(sid, 1)
	a, err := f.Commit(t.Context(), sid, f.advance(sid, 1, 1, first))
	want(t, a, err, OK)
	f.offset += 4 * time.Minute
	want(t, f.open(sid, 1), nil, Settled)
	f.send(sid, 2)
	c := f.advance(sid, 2, 2, Attempt(id()))
	c.Kind, c.Sent, c.Settle = Reissue, false, 3*time.Minute
	a, err = f.Commit(t.Context(), sid, c)
	want(t, a, err, Sending)
	want(t, f.open(sid, 2), nil, Current) // openings go on beside it
	a, err = f.End(t.Context(), sid, f.app, 3, Lock{})
	want(t, a, err, OK)
}

func TestEveryKeyHasATTL(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	sid := f.begin()
	a, err := f.Commit(ctx, sid, f.advance(sid, 1, 1, f.send(sid, 1)))
	want(t, a, err, OK)
	check := func(when string, most int) {
		t.Helper()
		keys := f.rdb.Keys(ctx, "*").Val()
		if len(keys) > most {
			t.Errorf("%s: %q", when, keys)
		}
		for _, k := range keys {
			if ttl := f.rdb.TTL(ctx, k).Val(); ttl <= 0 || ttl > 25*time.Hour+time.Minute {
				t.Errorf("%s: %s lives %v", when, k, ttl)
			}
		}
	}
	check("advanced", 2)
	f.open(sid, 2)
	if ttl := f.rdb.PTTL(ctx, f.predecessorKey(sid)).Val(); ttl <= 0 || ttl > time.Minute {
		t.Errorf("predecessors live %v after the confirmation", ttl)
	}
	if err := f.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := f.FailBackoff(ctx, "shop", 0); err != nil {
		t.Fatal(err)
	}
	check("confirmed", 4)
	a, err = f.End(ctx, sid, f.app, 3, Lock{Locked: true})
	want(t, a, err, OK)
	if f.rdb.Exists(ctx, f.predecessorKey(sid)).Val() != 0 {
		t.Error("predecessors outlive the session")
	}
	check("ended", 3)
	if a := f.open(sid, 2); a.Result != Ended || a.Record.Reason != 3 || !a.Record.Locked {
		t.Errorf("%+v", a)
	}
	if strings.Contains(f.rdb.Get(ctx, f.recordKey(sid)).Val(), "body") {
		t.Error("the tombstone holds the box")
	}
}

// P15: a full Redis refuses writes, not judgements, and ends go through.
func TestOutOfMemoryLeavesTheVerdictStanding(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	sid := f.begin()
	a, err := f.Commit(ctx, sid, f.advance(sid, 1, 1, f.send(sid, 1)))
	want(t, a, err, OK)
	f.open(sid, 9) // loads the script's code
	if err := f.rdb.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if a := f.open(sid, 2); a.Result != Current || a.Record.Confirmed {
		t.Errorf("%s, confirmed %v", a.Result, a.Record.Confirmed)
	}
	a, err = f.End(ctx, sid, f.app, 3, Lock{})
	if err != nil {
		t.Fatal("end:", err)
	}
	f.rdb.ConfigSet(ctx, "maxmemory", "0")
	want(t, f.open(sid, 2), nil, Ended)
	_ = a
}

func TestBackoffLetsOneProbeThrough(t *testing.T) { inEveryMode(t, testBackoffLetsOneProbeThrough) }

func testBackoffLetsOneProbeThrough(t *testing.T, f *fixture) {
	enter := func() (time.Duration, bool) {
		wait, probe, err := f.EnterBackoff(t.Context(), "shop", 15*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return wait, probe
	}
	if wait, probe := enter(); wait != 0 || probe {
		t.Fatal("closed at first")
	}
	for range 12 {
		wait, err := f.FailBackoff(t.Context(), "shop", 0)
		if err != nil || wait <= 0 || wait > 10*time.Second {
			t.Fatal(wait, err)
		}
		if left, _ := enter(); left <= 0 || left > wait {
			t.Fatal("open during the back-off")
		}
		f.offset += wait
		if left, probe := enter(); left != 0 || !probe {
			t.Fatal("no probe", left)
		}
		if left, probe := enter(); left <= 0 || left > time.Second || probe {
			t.Fatal("two probes", left)
		}
	}
	// A probe that was not made is the next one's to make, and no news of the provider.
	if err := f.PassBackoff(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	if left, probe := enter(); left != 0 || !probe {
		t.Fatal("not given back", left)
	}
	if left, probe := enter(); left <= 0 || left > time.Second || probe {
		t.Fatal("given back to everybody", left)
	}
	if wait, err := f.FailBackoff(t.Context(), "shop", time.Hour); err != nil || wait != 10*time.Second {
		t.Fatal(wait, err)
	}
	if err := f.LeaveBackoff(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	if wait, probe := enter(); wait != 0 || probe {
		t.Fatal("not closed by success")
	}
}

func FuzzRecord(f *testing.F) {
	r := Record{Version: 3, Body: []byte("x")}
	f.Add(r.marshal())
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parse(b); err == nil && len(r.Body) != len(b)-header {
			t.Error("body")
		}
		parsePredecessors(b)
	})
}

func FuzzHear(f *testing.F) {
	s := New(Options{})
	f.Add("end AAAAAAAAAAAAAAAAAAAAAA")
	f.Add("change AAAAAAAAAAAAAAAAAAAAAA 7")
	f.Add("beat x 1")
	f.Fuzz(func(t *testing.T, payload string) { s.hear(t.Context(), payload, func(Event) {}) })
}
