package session_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// tab is a page of a split session: what its browser and its storage hold.
type tab struct {
	w      *world
	k      *session.Keeper
	ticket session.Ticket
	local  *session.LocalKey
}

func newTab(t *testing.T) *tab {
	w := newWorld(t)
	w.app.SplitKey = true
	k := w.replica()
	return &tab{w: w, k: k, ticket: w.begin(k)}
}

// token calls the one endpoint that may refresh. What comes back is stored if
// header and body arrive.
func (b *tab) token(header, body bool) (session.Opened, error) {
	need := page
	need.Local, need.LocalKey = true, b.local
	o, err := b.k.Open(b.w.t.Context(), b.w.app, b.ticket, need)
	if err != nil {
		return o, err
	}
	if o.Successor != nil && header {
		b.ticket = o.Successor.Ticket
	}
	if o.LocalKey != nil && body {
		b.local = o.LocalKey
	}
	return o, nil
}

func (b *tab) must(header, body bool) session.Opened {
	b.w.t.Helper()
	o, err := b.token(header, body)
	if err != nil {
		b.w.t.Fatal(err)
	}
	return o
}

func TestSplitKey(t *testing.T) {
	t.Parallel()
	t.Run("tab closed and reopened", func(t *testing.T) {
		b := newTab(t)
		b.must(true, true)
		if b.local == nil {
			t.Fatal("no local key")
		}
		for range 4 {
			b.w.pass(tokenLife)
			if o := b.must(true, true); o.LocalKey == nil || o.Successor == nil {
				t.Fatal("not both halves are replaced")
			}
			if o := b.must(true, true); o.LocalKey != nil {
				t.Fatal("handed out again after it was shown")
			}
		}
		b.w.provider.wantNoReuse(t)
	})
	t.Run("first answer lost", func(t *testing.T) {
		b := newTab(t)
		b.must(true, false)
		b.must(true, false)
		b.w.pass(tokenLife)
		b.must(true, false) // lost even across a refresh
		b.must(true, true)
		b.must(true, true)
		b.w.provider.wantNoReuse(t)
	})
	t.Run("body lost: ticket ahead of local storage", func(t *testing.T) {
		b := newTab(t)
		b.must(true, true)
		b.must(true, true)
		b.w.pass(tokenLife)
		b.must(true, false)
		if o := b.must(true, false); o.LocalKey == nil {
			t.Fatal("the local successor is not handed again")
		}
		b.w.pass(tokenLife) // and once more across a refresh
		b.must(true, false)
		b.must(true, true)
		b.must(true, true)
		b.w.provider.wantNoReuse(t)
	})
	t.Run("header lost: local storage ahead of ticket", func(t *testing.T) {
		b := newTab(t)
		b.must(true, true)
		b.must(true, true)
		b.w.pass(tokenLife)
		b.must(false, true)
		b.must(false, true)
		b.w.pass(3*b.w.app.Grace + time.Second)
		if o := b.must(true, true); o.Successor == nil {
			t.Fatal("not re-issued")
		}
		b.must(true, true)
		b.w.provider.wantNoReuse(t)
	})
	t.Run("two tabs, one with the older key", func(t *testing.T) {
		b := newTab(t)
		b.must(true, true)
		b.must(true, true)
		old := *b.local
		b.w.pass(tokenLife)
		b.must(true, true)
		other := *b
		other.local = &old
		if o := other.must(true, true); o.LocalKey == nil || *o.LocalKey != *b.local {
			t.Fatal("the tabs part")
		}
	})
	t.Run("routes", func(t *testing.T) {
		b := newTab(t)
		b.must(true, true)
		b.w.open(b.k, b.ticket, page)
		b.w.pass(tokenLife)
		if _, err := b.k.Open(t.Context(), b.w.app, b.ticket, page); !errors.Is(err, session.ErrTokenExpired) {
			t.Fatal(err)
		}
		b.w.open(b.k, b.ticket, probe)
		b.must(true, true)
		b.w.open(b.k, b.ticket, page)
	})
	refused := func(t *testing.T, b *tab) {
		t.Helper()
		if _, err := b.token(true, true); !errors.Is(err, session.ErrLocalKey) {
			t.Fatal(err)
		}
	}
	t.Run("cookie alone", func(t *testing.T) {
		b := newTab(t)
		b.must(true, true)
		b.must(true, true)
		b.local = nil
		refused(t, b)
		b.w.pass(tokenLife)
		refused(t, b)
		if n := b.w.provider.grants(); n != 1 {
			t.Fatalf("%d grants", n)
		}
	})
	t.Run("stale pair", func(t *testing.T) {
		b := newTab(t)
		b.must(true, true)
		b.must(true, true)
		old := *b.local
		b.w.pass(tokenLife)
		b.must(true, true)
		b.must(true, true) // both shown
		b.local = &old
		refused(t, b)
	})
	t.Run("foreign local key", func(t *testing.T) {
		b, other := newTab(t), newTab(t)
		b.must(true, true)
		other.must(true, true)
		b.must(true, true)
		b.local = other.local
		refused(t, b)
	})
	t.Run("in Redis", func(t *testing.T) {
		b := newTab(t)
		b.must(true, true)
		c := b.w.client()
		for _, key := range c.Keys(t.Context(), "*").Val() {
			value, _ := c.Get(t.Context(), key).Result()
			if strings.Contains(value, string(b.local[:])) || strings.Contains(value, b.local.Encode()) || strings.Contains(value, "canary") {
				t.Error("in clear:", key)
			}
		}
	})
}

// Where there is no refresh token there is nothing to check: the two halves advance
// all the same, and a page that comes back late is let in.
func TestSplitKeyWithoutARefreshToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.SplitKey, w.app.Revalidate = true, 5*time.Minute
	k := w.replica()
	ticket, err := w.beginAs(k, func(l *session.Login) { l.Tokens.Refresh = "" })
	if err != nil {
		t.Fatal(err)
	}
	b := &tab{w: w, k: k, ticket: ticket}
	b.must(true, true)
	first := *b.local
	for _, away := range []time.Duration{time.Minute, w.app.Revalidate + time.Second, 20 * time.Minute} {
		w.pass(away)
		b.must(true, true)
		if err := k.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.must(true, true)
	}
	if b.ticket.Generation < 3 || *b.local == first {
		t.Errorf("generation %d", b.ticket.Generation)
	}
	w.open(k, b.ticket, page) // a route's
}
