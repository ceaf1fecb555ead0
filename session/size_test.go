package session_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/session"
	"github.com/cloakroom/cloakroom/session/store"
)

// claims is a JSON object of so many bytes.
func claims(size int) []byte {
	return []byte(`{"x":"` + strings.Repeat("x", size-8) + `"}`)
}

// What would not be read again whole doesn't begin.
func TestLoginTooLargeToBeKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	for _, size := range []int{store.MaxBody/2 + 1, store.MaxBody + 1, 3 * store.MaxBody} {
		_, err := w.beginAs(k, func(l *session.Login) { l.Claims = claims(size) })
		if !errors.Is(err, session.ErrTooLarge) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if keys := w.client().Keys(t.Context(), "*").Val(); len(keys) > 0 {
		t.Error("left behind:", keys)
	}
	ticket, err := w.beginAs(k, func(l *session.Login) { l.Claims = claims(store.MaxBody/2 - 1024) })
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // and it goes on
		w.open(w.replica(), ticket, page)
		ticket = w.rotate(k, ticket)
	}
}

// A refresh that brings more than can be kept costs nobody their session, if what
// it can do without is all.
func TestRefreshTooLargeToBeKept(t *testing.T) {
	t.Parallel()
	for _, split := range []bool{false, true} {
		w := newWorld(t)
		w.app.SplitKey = split
		k := w.replica()
		ticket := w.begin(k)
		need := page
		need.Local = split
		if o := w.open(k, ticket, need); split {
			need.LocalKey = o.LocalKey
		}
		tokens := w.provider.grant()
		tokens.ID = session.IDToken(claims(store.MaxBody))
		w.pass(tokenLife)
		tokens.IssuedAt, tokens.ExpiresAt = w.now(), w.now().Add(tokenLife)
		w.provider.answer(session.Refreshed{Outcome: session.OutcomeSpent, Tokens: tokens, Claims: claims(store.MaxBody)})
		o := w.open(k, ticket, need)
		if o.Successor == nil || o.Tokens.Access != tokens.Access || o.Tokens.ID != "" || string(o.Claims) != `{"name":"Alice"}` {
			t.Fatalf("split %v: successor %v, an ID token of %d bytes, claims of %d", split, o.Successor != nil, len(o.Tokens.ID), len(o.Claims))
		}
		if split {
			need.LocalKey = o.LocalKey
		}
		w.pass(tokenLife)
		if o := w.open(w.replica(), o.Successor.Ticket, need); o.Tokens.ID != "IDcanary" {
			t.Error("the next refresh's ID token")
		}
		w.provider.wantNoReuse(t)
	}
}

// Tokens that can't be kept at all go back to the provider.
func TestTokensTooLargeToBeKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	ticket := w.begin(k)
	w.pass(tokenLife)
	tokens := w.provider.grant()
	tokens.Access = session.AccessToken(claims(store.MaxBody))
	w.provider.answer(session.Refreshed{Outcome: session.OutcomeSpent, Tokens: tokens})
	w.wantEnded(k, ticket, session.ReasonRefreshRejected)
	if got := w.provider.revoked; len(got) != 1 || got[0] != tokens.Refresh {
		t.Errorf("%d tokens were revoked", len(got))
	}
}
