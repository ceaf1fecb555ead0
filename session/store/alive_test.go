package store

import (
	"context"
	"testing"
	"time"
)

func TestHeaders(t *testing.T) { inEveryMode(t, testHeaders) }

func testHeaders(t *testing.T, f *fixture) {
	live, over, none := f.begin(), f.begin(), id()
	if a, err := f.End(t.Context(), over, f.app, 3, Lock{}); err != nil || a.Result != OK {
		t.Fatal(a.Result, err)
	}
	sids := [][16]byte{none, live, over}
	for len(sids) < 1200 { // more than a batch
		sids = append(sids, id())
	}
	found, unreadable, err := f.Headers(t.Context(), append(sids, f.begin()))
	if err != nil || len(found) != 3 || len(unreadable) != 0 {
		t.Fatalf("%d found, %d unreadable, %v", len(found), len(unreadable), err)
	}
	if r := found[live]; r.Ended || r.App != f.app || r.Generation != 1 || len(r.Body) != 0 {
		t.Errorf("%+v", r)
	}
	if r := found[over]; !r.Ended || r.Reason != 3 {
		t.Errorf("%+v", r)
	}
	f.rdb.SetRange(t.Context(), f.recordKey(live), 0, "\x63")
	if found, unreadable, err := f.Headers(t.Context(), [][16]byte{live, over}); err != nil || unreadable[live] == nil || len(found) != 1 {
		t.Errorf("a record of a newer format says nothing about its session, and the other's says all: %v %v %v", found, unreadable, err)
	}
}

func TestNoteToken(t *testing.T) { inEveryMode(t, testNoteToken) }

func testNoteToken(t *testing.T, f *fixture) {
	token, sid := id(), id()
	if _, found, err := f.TokenSession(t.Context(), token); found || err != nil {
		t.Error(found, err)
	}
	if err := f.NoteToken(t.Context(), token, sid, time.Minute); err != nil {
		t.Fatal(err)
	}
	if got, found, err := f.TokenSession(t.Context(), token); got != sid || !found || err != nil {
		t.Error(got, found, err)
	}
	if ttl := f.rdb.PTTL(t.Context(), f.tokenKey(token)).Val(); ttl <= 0 || ttl > time.Minute {
		t.Error(ttl)
	}
	f.rdb.Set(t.Context(), f.tokenKey(token), "short", 0)
	if _, _, err := f.TokenSession(t.Context(), token); err == nil {
		t.Error("a damaged note")
	}
}

// Whatever breaks the subscription, the time since it was made is never too long.
func TestHearing(t *testing.T) {
	f := newFixture(t)
	if f.Hearing() != 0 {
		t.Error("it hears before it listens")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { f.Run(ctx, func(Event) {}); close(done) }()
	defer func() { cancel(); <-done }()
	hears := func() {
		t.Helper()
		for f.Hearing() == 0 {
			select {
			case <-time.After(5 * time.Millisecond):
			case <-t.Context().Done():
				t.Fatal("never hears")
			}
		}
	}
	hears()
	cut := time.Now()
	if n, err := f.rdb.Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Int(); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	for f.Hearing() > time.Since(cut) {
		<-time.After(time.Millisecond)
	}
	hears()
	if got := f.Hearing(); got > time.Since(cut) {
		t.Errorf("%v, and the channel was cut since", got)
	}
}
