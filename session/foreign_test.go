package session_test

import (
	"errors"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// foreign makes a session's record one that this release can't read: of a later
// format, or damaged.
func (w *world) foreign(sid session.SID, record string) {
	w.t.Helper()
	c, key := w.client(), "cloakroom:s:{"+sid.String()+"}"
	ttl := c.TTL(w.t.Context(), key).Val()
	if err := c.Set(w.t.Context(), key, record, ttl).Err(); err != nil {
		w.t.Fatal(err)
	}
}

var unreadable = map[string]string{"a later format": "\x63 a record", "cut short": "\x01\x01 a record", "one byte": "\x01"}

// Two releases run side by side while one is rolled out. What this one can't read
// is still a session: it stays in the index, by which its user's logout finds it,
// and it keeps nobody else's from ending.
func TestUnreadableRecordAmongOthers(t *testing.T) {
	t.Parallel()
	for name, record := range unreadable {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			k := w.replica()
			var tickets []session.Ticket
			for range 40 { // more than are ended at a time
				tickets = append(tickets, w.begin(k))
			}
			key := "cloakroom:s:{" + tickets[0].SID.String() + "}"
			was := w.client().Get(t.Context(), key).Val()
			w.foreign(tickets[0].SID, record)

			infos, err := k.Sessions(t.Context(), w.app, alice)
			if err != nil || len(infos) != len(tickets)-1 {
				t.Fatalf("%d listed, %v", len(infos), err)
			}
			n, err := k.EndBy(t.Context(), w.app, alice, session.Ending{Reason: session.ReasonRevoked})
			if _, ok := errors.AsType[*session.UnavailableError](err); !ok {
				t.Errorf("a session that may live on: %v", err)
			}
			if n != len(tickets)-1 {
				t.Errorf("%d of %d were ended", n, len(tickets)-1)
			}
			for _, ticket := range tickets[1:] {
				w.wantEnded(k, ticket, session.ReasonRevoked)
			}
			w.wantUnavailable(k, tickets[0], page)

			// The other release's replica, or this one's once it is rolled out.
			w.foreign(tickets[0].SID, was)
			if n, err := k.EndBy(t.Context(), w.app, alice, session.Ending{Reason: session.ReasonRevoked}); n != 1 || err != nil {
				t.Errorf("once it can be read: %d ended, %v", n, err)
			}
			w.wantEnded(k, tickets[0], session.ReasonRevoked)
		})
	}
}

// It ends no other session's answers either.
func TestUnreadableRecordEndsNoOtherWatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.CacheTTL = 0
	k := w.listening()
	bad, good := w.begin(k), w.begin(k)
	w.foreign(bad.SID, "\x63 a record")
	one, two := k.Watch(w.app, bad.SID), k.Watch(w.app, good.SID)
	defer one.Stop()
	defer two.Stop()
	select {
	case <-one.Done():
	case <-time.After(15 * time.Second):
		t.Fatal("nobody can tell whether it lives")
	}
	if _, ok := errors.AsType[*session.UnavailableError](one.Err()); !ok {
		t.Error(one.Err())
	}
	select {
	case <-two.Done():
		t.Error("the other's:", two.Err())
	case <-time.After(700 * time.Millisecond): // a sweep
	}
}
