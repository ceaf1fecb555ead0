package session_test

import (
	"context"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
	"github.com/cloakroom/cloakroom/session/store"
)

// A lease that a stall of Redis outlasts sends the others to look at the mark of
// a replica that is at work.
func TestLeaseOutlivesAStall(t *testing.T) {
	t.Parallel()
	const stall = 5 * time.Second // two timeouts of the store, and a renewal missed
	w := newWorld(t)
	k := w.replica()
	first := w.begin(k)
	other := w.store(2 * time.Second)
	var left time.Duration
	w.provider.before = func() {
		r, found, err := other.Read(context.Background(), first.SID)
		if err != nil || !found || r.Sending == (store.Attempt{}) {
			t.Errorf("no mark: %v, %v", found, err)
		}
		left = r.LeaseUntil.Sub(w.now())
	}
	w.rotate(k, first)
	if left < stall {
		t.Errorf("the lease is over in %v", left)
	}
}

// Who hangs up while the provider is asked leaves neither mark nor lease behind.
func TestClientGoneLeavesNoMark(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	first := w.begin(k)
	w.pass(tokenLife)
	w.provider.answer(session.Refreshed{Outcome: session.OutcomeUnspent})
	ctx, hangUp := context.WithCancel(t.Context())
	w.provider.before = hangUp
	if _, err := k.Open(ctx, w.app, first, page); err != context.Canceled {
		t.Fatal(err)
	}
	if err := k.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, found, err := w.store(2*time.Second).Read(t.Context(), first.SID)
	if err != nil || !found || r.Sending != (store.Attempt{}) || !r.LeaseUntil.IsZero() {
		t.Errorf("found %v, %v, sending %x, lease until %v", found, err, r.Sending, r.LeaseUntil)
	}
}
