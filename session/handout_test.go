package session_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// A predecessor in grace gets answers, and never a cookie: neither the current
// ticket's nor another.
func TestPredecessorInGraceGetsNoCookie(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	first := w.begin(k)
	second := w.rotate(k, first)
	w.open(k, second, probe)
	for range 3 {
		if o := w.open(k, first, page); o.Successor != nil {
			t.Fatal("a cookie in grace")
		}
		w.pass(15 * time.Second)
	}
}

// No beat, no cache: a replica that doesn't hear itself asks Redis.
func TestCacheIsNotBelievedWithoutTheBeat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.CacheTTL = 30 * time.Second
	k := w.listening()
	ticket := w.begin(k)
	w.open(k, ticket, page)
	w.open(k, ticket, page)
	w.redis.Stop()
	defer w.redis.Cont()
	eventually(t, "the cache is left", func() bool {
		_, err := k.Open(t.Context(), w.app, ticket, page)
		_, trouble := errors.AsType[*session.UnavailableError](err)
		return trouble
	})
}

// With no beat, time is Redis's alone to judge: each opening is a script.
func TestPlainReadNeedsTheBeat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	ticket := w.begin(k)
	w.open(k, ticket, page)
	c := w.client()
	scripts := func() int64 { return commandCalls(t, c.Info(context.Background(), "commandstats").Val(), "evalsha") }
	before := scripts()
	for range 10 {
		w.open(k, ticket, page)
	}
	if n := scripts() - before; n != 10 {
		t.Errorf("%d scripts for 10 openings", n)
	}
}

// Redis out of memory refuses the note that a successor was handed out: then it
// isn't, or the next bearer would get it too.
func TestNoHandoutWithoutItsNote(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	first := w.begin(k)
	w.pass(tokenLife)
	w.open(k, first, session.Need{Token: true}) // advanced, handed out to nobody
	w.open(k, first, session.Need{})
	w.redis.CLI("CONFIG", "SET", "maxmemory", "1")
	for range 2 {
		if o := w.open(k, first, probe); o.Successor != nil {
			t.Fatal("handed out without a note")
		}
	}
	w.redis.CLI("CONFIG", "SET", "maxmemory", "0")
	if o := w.open(k, first, probe); o.Successor == nil {
		t.Fatal("not handed out afterwards")
	}
}

// A request whose write was refused counts as activity all the same.
func TestRefusedWriteIsNotIdleTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	ticket := w.begin(k)
	w.pass(25 * time.Minute)
	w.redis.CLI("CONFIG", "SET", "maxmemory", "1")
	w.open(k, ticket, session.Need{Activity: true})
	w.redis.CLI("CONFIG", "SET", "maxmemory", "0")
	w.pass(6 * time.Minute)
	w.open(k, ticket, page)
}

// What a predecessor opened is not kept for its successor: whose first showing
// has to reach Redis, since it starts the predecessor's grace.
func TestFirstShowingReachesRedisPastTheCache(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.listening()
	first := w.begin(k)
	second := w.rotate(k, first)
	for range 20 { // the rotation's own news, which forbids keeping, is soon over
		w.open(k, first, page)
	}
	w.open(k, second, page)
	w.pass(w.app.Grace + time.Second)
	w.wantEnded(k, first, session.ReasonReuseDetected)
}

// The hand-out is noted in Redis before the token that has run out is refreshed
// in place: the answer carries the successor all the same.
func TestHandoutOutlivesARefreshInPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	first := w.begin(k)
	w.pass(tokenLife)
	nowhere := page
	nowhere.Cookie = false
	if o := w.open(k, first, nowhere); o.Successor != nil || o.Generation != 2 {
		t.Fatalf("generation %d, successor %v", o.Generation, o.Successor != nil)
	}
	w.pass(tokenLife)
	o := w.open(k, first, page)
	if o.Successor == nil || o.Successor.Ticket.Generation != 2 || w.provider.grants() != 3 {
		t.Fatalf("successor %v, %d grants", o.Successor != nil, w.provider.grants())
	}
	if again := w.open(k, first, page); again.Successor != nil {
		t.Error("handed out twice")
	}
	w.open(k, o.Successor.Ticket, page)
	w.provider.wantNoReuse(t)
}
