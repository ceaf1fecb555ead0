package store

import (
	"testing"
	"time"
)

// What is decided on one version must not be done on another: so whatever
// changes box, ticket or mark raises it, and nothing else does.
func TestChangesOfBoxTicketOrMarkRaiseTheVersion(t *testing.T) {
	inEveryMode(t, testChangesOfBoxTicketOrMarkRaiseTheVersion)
}

func testChangesOfBoxTicketOrMarkRaiseTheVersion(t *testing.T, f *fixture) {
	ctx := t.Context()
	sid := f.begin()
	version := uint64(1)
	check := func(what string, a Answer, err error, raised uint64) {
		t.Helper()
		want(t, a, err, OK)
		version += raised
		if a.Record.Version != version {
			t.Fatalf("%s: version %d, want %d", what, a.Record.Version, version)
		}
	}
	one := Attempt(id())
	a, err := f.Claim(ctx, sid, version, one, 10*time.Second)
	check("claim", a, err, 0)
	a, err = f.Send(ctx, sid, version, one, 10*time.Second)
	check("sending", a, err, 0)
	a, err = f.Withdraw(ctx, sid, version, one)
	check("withdraw", a, err, 1)
	a, err = f.Commit(ctx, sid, f.advance(sid, version, 1, f.send(sid, version)))
	check("advance", a, err, 1)
	if a := f.open(sid, 1); a.Record.Version != version {
		t.Fatal("an opening raised the version")
	}
	if a := f.open(sid, 2); a.Record.Version != version || !a.Record.Confirmed {
		t.Fatal("a confirmation raised the version")
	}
	two := f.send(sid, version)
	a, err = f.Commit(ctx, sid, Change{Kind: InPlace, Version: version, Attempt: two, Sent: true, Body: []byte("x"), Key: f.keys[0]})
	check("in place", a, err, 1)
	three := f.send(sid, version)
	a, err = f.Release(ctx, sid, version, three)
	check("release", a, err, 0)
	a, err = f.Look(ctx, sid, version, 30*time.Second, 1)
	want(t, a, err, Looked)
	f.offset += 31 * time.Second
	a, err = f.Look(ctx, sid, version, 30*time.Second, 1)
	want(t, a, err, Withdrawn)
	if version++; a.Record.Version != version {
		t.Fatal("a look's withdrawal kept the version")
	}
	// The holder was only asleep: its commit comes too late.
	if a, err := f.Commit(ctx, sid, f.advance(sid, version-1, 2, three)); err != nil || a.Result != Moved {
		t.Fatal(a.Result, err)
	}
}

// Redis may run a script long after its caller gave up.
func TestLateCopiesOfAFinishedAttemptDoNothing(t *testing.T) {
	inEveryMode(t, testLateCopiesOfAFinishedAttemptDoNothing)
}

func testLateCopiesOfAFinishedAttemptDoNothing(t *testing.T, f *fixture) {
	ctx := t.Context()
	for _, finish := range []string{"withdraw", "advance"} {
		sid := f.begin()
		old := f.send(sid, 1)
		commit := f.advance(sid, 1, 1, old)
		if finish == "withdraw" {
			a, err := f.Withdraw(ctx, sid, 1, old)
			want(t, a, err, OK)
		} else {
			a, err := f.Commit(ctx, sid, commit)
			want(t, a, err, OK)
		}
		next := f.send(sid, 2)
		before := f.rdb.Get(ctx, f.recordKey(sid)).Val()
		f.Claim(ctx, sid, 1, old, 10*time.Second)
		f.Send(ctx, sid, 1, old, 10*time.Second)
		f.Commit(ctx, sid, commit)
		f.Withdraw(ctx, sid, 1, old)
		f.Release(ctx, sid, 1, old)
		f.Look(ctx, sid, 1, 0, 1)
		f.EndAttempt(ctx, sid, f.app, 9, 1, old)
		if f.rdb.Get(ctx, f.recordKey(sid)).Val() != before {
			t.Errorf("%s: a late copy changed the record", finish)
		}
		a, err := f.Commit(ctx, sid, f.advance(sid, 2, 2, next))
		want(t, a, err, OK)
	}
}

// invalid_grant ends a session only if the record still holds the token that was
// presented.
func TestRejectedTokenMustStillBeTheRecords(t *testing.T) {
	inEveryMode(t, testRejectedTokenMustStillBeTheRecords)
}

func testRejectedTokenMustStillBeTheRecords(t *testing.T, f *fixture) {
	ctx := t.Context()
	sid := f.begin()
	a, err := f.Commit(ctx, sid, f.advance(sid, 1, 1, f.send(sid, 1)))
	want(t, a, err, OK)
	mark := f.send(sid, 2)
	a, err = f.EndAttempt(ctx, sid, f.app, 9, 1, mark)
	want(t, a, err, Moved)
	a, err = f.EndAttempt(ctx, sid, f.app, 9, 2, Attempt(id()))
	want(t, a, err, Moved)
	want(t, f.open(sid, 2), nil, Current)
	a, err = f.EndAttempt(ctx, sid, f.app, 9, 2, mark)
	want(t, a, err, OK)
}

// A mark is an orphan only while nobody holds its lease; a holder that wakes up
// in between starts the wait anew.
func TestLooksWaitForTheHolder(t *testing.T) { inEveryMode(t, testLooksWaitForTheHolder) }

func testLooksWaitForTheHolder(t *testing.T, f *fixture) {
	ctx := t.Context()
	sid := f.begin()
	holder := f.send(sid, 1)
	a, err := f.Look(ctx, sid, 1, 30*time.Second, 1)
	want(t, a, err, Busy)
	f.offset += 11 * time.Second
	a, err = f.Look(ctx, sid, 99, 30*time.Second, 1)
	want(t, a, err, Moved)
	a, err = f.Look(ctx, sid, 1, 30*time.Second, 1)
	want(t, a, err, Looked)
	f.offset += 29 * time.Second
	a, err = f.Claim(ctx, sid, 1, holder, 10*time.Second) // awake again
	want(t, a, err, OK)
	f.offset += 11 * time.Second
	a, err = f.Look(ctx, sid, 1, 30*time.Second, 1)
	want(t, a, err, Looked)
	f.offset += 29 * time.Second
	a, err = f.Look(ctx, sid, 1, 30*time.Second, 1)
	want(t, a, err, Looked)
	a, err = f.Commit(ctx, sid, f.advance(sid, 1, 1, holder))
	want(t, a, err, OK)
}

// Only predecessors that still work are carried on, each with its salt sealed
// anew; a re-issue leaves the unused successor out.
func TestPredecessorsThatACommitCarriesOn(t *testing.T) {
	inEveryMode(t, testPredecessorsThatACommitCarriesOn)
}

func testPredecessorsThatACommitCarriesOn(t *testing.T, f *fixture) {
	ctx := t.Context()
	sid := f.begin()
	advance := func(version, generation uint64, salt byte, older ...Predecessor) Answer {
		t.Helper()
		c := f.advance(sid, version, generation, f.send(sid, version))
		for i := range older {
			older[i].Salt, older[i].Key = SealedSalt{salt}, [4]byte{salt}
		}
		c.Predecessors = older
		a, err := f.Commit(ctx, sid, c)
		want(t, a, err, OK)
		return f.open(sid, generation+1)
	}
	a := advance(1, 1, 0)
	f.offset += 30 * time.Second
	a = advance(2, 2, 20, a.Predecessors...)
	if ps := a.Predecessors; len(ps) != 2 || ps[0].Salt != (SealedSalt{20}) || ps[0].Key != [4]byte{20} || ps[0].Hash != hash(1) {
		t.Fatalf("%+v", ps)
	}
	f.offset += 31 * time.Second // generation 1's grace is over, 2's isn't
	c := f.advance(sid, 3, 3, f.send(sid, 3))
	c.Predecessors = a.Predecessors
	a, err := f.Commit(ctx, sid, c)
	want(t, a, err, OK)
	f.offset += 4 * time.Minute
	settled := f.open(sid, 3)
	want(t, settled, nil, Settled)
	if ps := settled.Predecessors; len(ps) != 2 || ps[0].Generation != 2 || ps[1].Generation != 3 {
		t.Fatalf("%+v", ps)
	}
	c = Change{Kind: Reissue, Version: 4, Attempt: Attempt(id()), Key: f.keys[0], Body: []byte("b"), Generation: 5, Hash: hash(5),
		Settle: 3 * time.Minute, Predecessors: settled.Predecessors[1:]}
	a, err = f.Commit(ctx, sid, c)
	want(t, a, err, OK)
	want(t, f.open(sid, 4), nil, Reuse)
	want(t, f.open(sid, 3), nil, Superseding)
	if a := f.open(sid, 5); a.Result != Current || len(a.Predecessors) != 1 || a.Predecessors[0].Generation != 3 {
		t.Fatalf("%s %+v", a.Result, a.Predecessors)
	}
}
