package session_test

import (
	"errors"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// A check asks on behalf of a request whose answer it doesn't carry.
var check = session.Need{Token: true, NoRefresh: true}

func TestNoRefresh(t *testing.T) {
	t.Parallel()
	for name, replica := range map[string]func(*world) *session.Keeper{
		"without a cache": (*world).replica, "with a cache": (*world).listening,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			k := replica(w)
			first := w.begin(k)
			access := func(ticket session.Ticket) string {
				t.Helper()
				o := w.open(k, ticket, check)
				if o.Successor != nil {
					t.Fatal("a check was handed a successor")
				}
				return string(o.Tokens.Access)
			}
			grants := func(n int) {
				t.Helper()
				if err := k.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := w.provider.grants(); got != n {
					t.Fatalf("%d grants, want %d", got, n)
				}
			}
			if access(first) != "ATcanary-1" || access(first) != "ATcanary-1" {
				t.Fatal("another token")
			}
			w.pass(tokenLife - 20*time.Second) // due
			if access(first) != "ATcanary-1" {
				t.Fatal("another token")
			}
			grants(1)
			w.pass(20 * time.Second) // out
			for range 2 {
				if _, err := k.Open(t.Context(), w.app, first, check); !errors.Is(err, session.ErrTokenExpired) {
					t.Fatal(err)
				}
			}
			grants(1)
			w.open(k, first, session.Need{NoRefresh: true}) // who wants no token

			// Whoever may refresh does, and checks see it, of the old ticket and the new.
			o := w.open(k, first, page)
			if o.Successor == nil {
				t.Fatal("no successor")
			}
			second := o.Successor.Ticket
			if access(first) != "ATcanary-2" || access(second) != "ATcanary-2" {
				t.Fatal("another token")
			}
			grants(2)

			// The check was the second ticket's confirmation.
			w.pass(w.app.Grace + time.Second)
			if _, err := k.Open(t.Context(), w.app, first, check); err == nil {
				t.Fatal("a ticket out of its grace still serves")
			}
			w.wantEnded(k, second, session.ReasonReuseDetected)
		})
	}
}

// A successor that nobody has got yet is not lost to a check.
func TestNoRefreshLeavesTheSuccessor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	first := w.begin(k)
	w.pass(tokenLife - 20*time.Second)
	w.open(k, first, page) // refreshes behind its back
	if err := k.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if o := w.open(k, first, check); o.Successor != nil || string(o.Tokens.Access) != "ATcanary-2" {
			t.Fatalf("%v, token %q", o.Successor, string(o.Tokens.Access))
		}
		w.pass(w.app.Grace / 2)
	}
	o := w.open(k, first, page)
	if o.Successor == nil {
		t.Fatal("the page gets no successor")
	}
	w.open(k, o.Successor.Ticket, check)
}

func TestNoRefreshIsNoActivity(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	ticket := w.begin(k)
	for range 2 {
		w.pass(w.app.IdleTimeout / 3)
		w.open(k, ticket, session.Need{NoRefresh: true})
	}
	w.pass(w.app.IdleTimeout / 3)
	w.wantEnded(k, ticket, session.ReasonIdleTimeout)
}
