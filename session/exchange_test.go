package session_test

import (
	"context"
	"testing"
)

// New tokens whose commit is refused for another reason than an end may be in
// use: revoking them would end a healthy session's family.
func TestRefusedCommitRevokesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	first := w.begin(k)
	w.pass(tokenLife)
	w.provider.after = func() { // as if the mark had been taken for an orphan meanwhile
		if err := w.client().SetRange(context.Background(), "cloakroom:s:{"+first.SID.String()+"}", 16, "\x00\x00\x00\x00\x00\x00\x00\x63").Err(); err != nil {
			t.Error(err)
		}
		w.provider.mu.Lock()
		w.provider.after = nil
		w.provider.mu.Unlock()
	}
	w.wantUnavailable(k, first, page)
	if err := k.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(w.provider.revoked); n != 0 {
		t.Errorf("%d tokens revoked", n)
	}
}
