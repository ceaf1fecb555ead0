package session_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// The rows of the table "opening a ticket", one subtest each.
func TestOpening(t *testing.T) {
	t.Parallel()
	t.Run("no record", func(t *testing.T) {
		w := newWorld(t)
		_, err := w.replica().Open(t.Context(), w.app, session.Ticket{SID: session.NewSID(), Generation: 1}, page)
		if !errors.Is(err, session.ErrNoSession) {
			t.Fatal(err)
		}
	})
	t.Run("another app's", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		ticket := w.begin(k)
		other := *w.app
		other.Name = "bank"
		if _, err := k.Open(t.Context(), &other, ticket, page); !errors.Is(err, session.ErrNoSession) {
			t.Fatal(err)
		}
		if err := k.End(t.Context(), &other, ticket.SID, session.ReasonLoggedOut); err != nil {
			t.Fatal(err)
		}
		w.open(k, ticket, page)
	})
	t.Run("format unknown here", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		ticket := w.begin(k)
		c, key := w.client(), "cloakroom:s:{"+ticket.SID.String()+"}"
		if err := c.SetRange(t.Context(), key, 0, "\x02").Err(); err != nil {
			t.Fatal(err)
		}
		before := c.Get(t.Context(), key).Val()
		w.wantUnavailable(k, ticket, page)
		if err := k.End(t.Context(), w.app, ticket.SID, session.ReasonLoggedOut); err == nil {
			t.Error("a newer record was ended")
		}
		if c.Get(t.Context(), key).Val() != before {
			t.Error("a newer record was overwritten")
		}
	})
	t.Run("server key unknown here", func(t *testing.T) {
		w := newWorld(t)
		ticket := w.begin(w.replica())
		stranger := w.replicaWith(keyring(t, session.NewServerKey()))
		w.wantUnavailable(stranger, ticket, page)
		w.open(w.replica(), ticket, page)
	})
	t.Run("ended", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		for _, reason := range []session.Reason{session.ReasonLoggedOut, session.ReasonReplaced, session.ReasonRevoked, session.ReasonProviderLogout} {
			ticket := w.begin(k)
			if err := k.End(t.Context(), w.app, ticket.SID, reason); err != nil {
				t.Fatal(err)
			}
			if err := k.End(t.Context(), w.app, ticket.SID, session.ReasonLoggedOut); err != nil {
				t.Fatal("ending twice:", err)
			}
			w.wantEnded(k, ticket, reason)
			w.wantEnded(w.replica(), ticket, reason)
		}
	})
	t.Run("idle time over", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		ticket := w.begin(k)
		w.pass(w.app.IdleTimeout - 10*time.Second)
		w.open(k, ticket, probe) // does not extend it
		w.pass(11 * time.Second)
		w.wantEnded(k, ticket, session.ReasonIdleTimeout)
		w.wantEnded(w.replica(), ticket, session.ReasonIdleTimeout)
	})
	t.Run("activity extends the idle time", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		ticket := w.begin(k)
		w.pass(w.app.IdleTimeout - 10*time.Second)
		w.open(k, ticket, session.Need{Activity: true})
		w.pass(w.app.IdleTimeout - 10*time.Second)
		if o := w.open(k, ticket, probe); o.IdleExpiresAt.Sub(w.now()) > 11*time.Second {
			t.Error("idle time is told wrongly:", o.IdleExpiresAt)
		}
	})
	t.Run("absolute time over", func(t *testing.T) {
		w := newWorld(t)
		w.app.IdleTimeout = 0
		k := w.replica()
		ticket := w.begin(k)
		w.pass(w.app.AbsoluteTimeout)
		w.wantEnded(k, ticket, session.ReasonAbsoluteTimeout)
	})
	t.Run("generation above the record's", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		ticket := w.begin(k)
		ticket.Generation = 7
		w.wantUnavailable(k, ticket, page)
		w.pass(9 * time.Second)
		w.wantUnavailable(k, ticket, page)
		w.pass(2 * time.Second)
		w.wantEnded(k, ticket, session.ReasonStoreLost)
		ticket.Generation = 1
		w.open(k, ticket, page) // never reuse
	})
	t.Run("hash differs", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		first := w.begin(k)
		second := w.rotate(k, first)
		for _, ticket := range []session.Ticket{first, second} {
			forged := ticket
			forged.Secret[0] ^= 1
			if _, err := k.Open(t.Context(), w.app, forged, page); !errors.Is(err, session.ErrNoSession) {
				t.Errorf("generation %d: %v", ticket.Generation, err)
			}
		}
		w.open(k, second, page)
	})
	t.Run("current and confirmed", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		ticket := w.begin(k)
		if o := w.open(k, ticket, page); o.Successor != nil {
			t.Error("a successor without a refresh")
		}
	})
	t.Run("current and unconfirmed", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		first := w.begin(k)
		second := w.rotate(k, first)
		w.open(k, second, probe) // confirms: the predecessor's grace begins
		w.open(k, first, page)
		w.pass(w.app.Grace - time.Second)
		w.open(k, first, page)
		w.pass(2 * time.Second)
		w.wantEnded(k, first, session.ReasonReuseDetected)
		w.wantEnded(k, second, session.ReasonReuseDetected)
	})
	t.Run("predecessor, successor not handed out", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		first := w.begin(k)
		w.pass(tokenLife)
		// The request has gone, or can't carry a cookie: nothing is handed out.
		if o := w.open(k, first, session.Need{Token: true}); o.Successor != nil {
			t.Fatal("handed out on an answer that can't carry it")
		}
		if o := w.open(k, first, session.Need{}); o.Successor != nil {
			t.Fatal("handed out on an answer that can't carry it")
		}
		o := w.open(k, first, probe)
		if o.Successor == nil {
			t.Fatal("the next bearer gets no successor")
		}
		if o := w.open(k, first, probe); o.Successor != nil {
			t.Fatal("handed out twice")
		}
		w.open(k, o.Successor.Ticket, page)
	})
	t.Run("predecessor, handed out not long ago", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		first := w.begin(k)
		second := w.rotate(k, first)
		w.pass(3*w.app.Grace - time.Second)
		if o := w.open(k, first, page); o.Successor != nil || o.Generation != 2 {
			t.Fatal("handed out twice, or not served from the successor's box")
		}
		w.open(k, second, page)
	})
	t.Run("predecessor, handed out long ago", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		first := w.begin(k)
		lost := w.rotate(k, first)
		grants := w.provider.grants()
		w.pass(3*w.app.Grace + time.Second)
		o := w.open(k, first, page)
		if o.Successor == nil || o.Successor.Ticket.Generation != 3 {
			t.Fatal("no other successor")
		}
		if w.provider.grants() != grants {
			t.Error("the re-issue cost a grant")
		}
		if o := w.open(k, first, page); o.Successor != nil {
			t.Fatal("handed out twice")
		}
		w.open(k, o.Successor.Ticket, page)
		// The unused one is superseded: showing it is reuse.
		w.wantEnded(k, lost, session.ReasonReuseDetected)
	})
	t.Run("predecessor, handed out long ago, verdict too late", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		first := w.begin(k)
		second := w.rotate(k, first)
		w.pass(3*w.app.Grace + time.Second)
		// It came before the successor left, and was held up until now.
		late := page
		late.Received = w.now().Add(-3 * w.app.Grace)
		if o := w.open(k, first, late); o.Successor != nil || o.Generation != 2 {
			t.Fatal("the successor was superseded on its way")
		}
		w.open(k, second, page)
	})
	t.Run("predecessor, handed out long ago, token out", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		first := w.begin(k)
		w.rotate(k, first)
		w.pass(tokenLife)
		o := w.open(k, first, page)
		if o.Successor == nil || o.Tokens.ExpiresAt.Before(w.now()) {
			t.Fatal("not refreshed in place and re-issued")
		}
		w.open(k, o.Successor.Ticket, page)
		w.provider.wantNoReuse(t)
	})
	t.Run("predecessor in grace, token out", func(t *testing.T) {
		w := newWorld(t)
		w.app.Grace = 10 * time.Minute
		k := w.replica()
		first := w.begin(k)
		second := w.rotate(k, first)
		w.open(k, second, page)
		w.pass(tokenLife)
		o := w.open(k, first, page)
		if o.Successor != nil || o.Generation != 2 || o.Tokens.ExpiresAt.Before(w.now()) {
			t.Fatal("not refreshed in place")
		}
		if o := w.open(k, second, page); o.Generation != 2 {
			t.Fatal("the ticket changed")
		}
		w.provider.wantNoReuse(t)
	})
	t.Run("older, verdict in time", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		first := w.begin(k)
		third := w.rotate(k, w.rotate(k, first))
		w.open(k, third, page)
		w.pass(w.app.Grace)
		w.wantEnded(k, first, session.ReasonReuseDetected)
		w.wantEnded(k, third, session.ReasonReuseDetected)
	})
	t.Run("older, at a replica that could take no connections", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		first := w.begin(k)
		second := w.rotate(k, first)
		w.open(k, second, page)
		w.pass(w.app.Grace)
		k.Interrupted()
		w.wantUnavailable(k, first, page)
		w.open(k, second, page)
		w.wantEnded(w.replica(), first, session.ReasonReuseDetected)
	})
	t.Run("older, verdict too late", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		first := w.begin(k)
		second := w.rotate(k, first)
		w.open(k, second, page)
		w.pass(w.app.Grace)
		late := page
		late.Received = w.now().Add(-3 * time.Second)
		w.wantUnavailable(k, first, late)
		w.open(k, second, page)
	})
}

func TestHandoutLeavesWithinHold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	first := w.begin(k)
	w.pass(tokenLife)
	o := w.open(k, first, page)
	if !k.MayHandOut(o.Successor) {
		t.Fatal("may not leave at once")
	}
	w.pass(w.app.Grace / 3)
	if k.MayHandOut(o.Successor) {
		t.Fatal("may leave after the hold")
	}
}

func TestHandoutNeverLeavesBehindANewerTicket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.Grace = time.Hour
	k := w.replica()
	first := w.begin(k)
	w.pass(tokenLife)
	slow := w.open(k, first, page)
	second := slow.Successor.Ticket
	w.rotate(k, second)
	if k.MayHandOut(slow.Successor) {
		t.Fatal("would take the browser back")
	}
}

func TestHandoutNeverLeavesAfterAnEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	first := w.begin(k)
	w.pass(tokenLife)
	o := w.open(k, first, page)
	if err := k.End(t.Context(), w.app, first.SID, session.ReasonLoggedOut); err != nil {
		t.Fatal(err)
	}
	if k.MayHandOut(o.Successor) {
		t.Fatal("a dead ticket leaves")
	}
}

func TestEightPredecessorsThenInPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.Grace = 2 * time.Hour
	w.app.IdleTimeout = 0
	k := w.replica()
	tickets := []session.Ticket{w.begin(k)}
	for range 8 {
		tickets = append(tickets, w.rotate(k, tickets[len(tickets)-1]))
	}
	last := tickets[len(tickets)-1]
	w.open(k, last, probe)
	w.pass(tokenLife)
	if o := w.open(k, last, page); o.Successor != nil || o.Generation != 9 {
		t.Fatal("a ninth predecessor")
	}
	for _, ticket := range tickets { // each derives its way forward
		if o := w.open(k, ticket, page); o.Generation != 9 {
			t.Errorf("generation %d opens %d", ticket.Generation, o.Generation)
		}
	}
	w.provider.wantNoReuse(t)
}

// A thief copies the ticket and polls; so does the owner. They part at the first
// rotation, and the second to come is found out.
func TestThiefIsFoundOut(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"owner", "thief"} {
		t.Run(first+" rotates", func(t *testing.T) {
			w := newWorld(t)
			k := w.replica()
			copied := w.begin(k)
			next := w.rotate(k, copied)
			for range 5 { // while the successor is unconfirmed, and in grace
				if o := w.open(k, copied, page); o.Successor != nil {
					t.Fatal("both follow")
				}
			}
			w.open(k, next, page)
			w.pass(w.app.Grace + time.Second)
			w.wantEnded(k, copied, session.ReasonReuseDetected)
			w.wantEnded(k, next, session.ReasonReuseDetected)
		})
	}
}

func TestRecordMovedElsewhereDoesNotOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	alice, mallory := w.begin(k), w.begin(k)
	c := w.client()
	name := func(t session.Ticket) string { return "cloakroom:s:{" + t.SID.String() + "}" }
	record := c.Get(t.Context(), name(alice)).Val()
	c.Set(t.Context(), name(mallory), record, time.Hour)
	if _, err := k.Open(t.Context(), w.app, mallory, page); !errors.Is(err, session.ErrNoSession) {
		t.Error("whole record:", err)
	}
	// With mallory's own hash written over alice's, the box still is alice's.
	own := session.Ticket{SID: mallory.SID, Generation: 1, Secret: mallory.Secret}
	hash := own.Secret.Hash()
	c.SetRange(t.Context(), name(mallory), 32, string(hash[:]))
	w.wantUnavailable(k, mallory, page)
	// One bit of the box.
	flipped := []byte(record)
	flipped[len(flipped)-20] ^= 1
	c.Set(t.Context(), name(alice), flipped, time.Hour)
	w.wantUnavailable(k, alice, page)
}

func TestOldRecordPutBackWidensNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.IdleTimeout = 0
	k := w.replica()
	ticket := w.begin(k)
	c, name := w.client(), "cloakroom:s:{"+ticket.SID.String()+"}"
	// A Redis writer moves the absolute end: the box is believed.
	far := make([]byte, 8)
	far[1] = 0xff
	c.SetRange(t.Context(), name, 92, string(far))
	w.pass(w.app.AbsoluteTimeout)
	w.wantEnded(k, ticket, session.ReasonAbsoluteTimeout)
}

func TestServerKeysReplacedInTurn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.Grace = time.Hour
	one, two := session.NewServerKey(), session.NewServerKey()
	old, both, turned, late := w.replicaWith(keyring(t, one)), w.replicaWith(keyring(t, one, two)), w.replicaWith(keyring(t, two, one)), w.replicaWith(keyring(t, two))
	first := w.begin(old)
	second := w.rotate(turned, first)
	w.open(both, first, page) // derives its way under both keys
	w.open(both, second, page)
	third := w.rotate(turned, second)
	w.open(late, third, page) // all of it moved to the new key
	w.wantUnavailable(old, third, page)
	w.open(turned, first, page)
}

// One process turns from key to key, in the middle of a refresh too.
func TestServerKeysReplacedWhileRunning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := session.NewServerKey(), session.NewServerKey()
	k := w.replicaWith(keyring(t, one))
	first := w.begin(k)
	k.ReplaceKeys(keyring(t, one, two))
	second := w.rotate(k, first)

	w.provider.before = func() { k.ReplaceKeys(keyring(t, two)) }
	third := w.rotate(k, second)
	w.provider.before = nil
	w.wantUnavailable(k, third, page)
	w.open(w.replicaWith(keyring(t, one)), third, page) // committed with the key that it began with

	k.ReplaceKeys(keyring(t, two, one))
	fourth := w.rotate(k, third)
	k.ReplaceKeys(keyring(t, two))
	w.open(k, fourth, page)
	k.ReplaceKeys(keyring(t, one))
	w.wantUnavailable(k, fourth, page)
	w.provider.wantNoReuse(t)
}

func TestCacheAsksRedisNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, other := w.listening(), w.listening()
	ticket := w.begin(k)
	w.open(k, ticket, page)
	calls := w.client()
	count := func() (n int64) {
		for _, name := range []string{"getrange", "evalsha", "eval"} {
			n += commandCalls(t, calls.Info(context.Background(), "commandstats").Val(), name)
		}
		return n
	}
	// Beats are scripts too: they come twice a second and a replica.
	before, start := count(), time.Now()
	for range 200 {
		w.open(k, ticket, page)
	}
	beats := int64(time.Since(start)/(400*time.Millisecond)+2) * 2
	if n := count() - before; n > beats {
		t.Errorf("%d commands for 200 openings, at most %d of them beats", n, beats)
	}
	// An end elsewhere is heard at once.
	if err := other.End(t.Context(), w.app, ticket.SID, session.ReasonRevoked); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end is heard", func() bool {
		_, err := k.Open(t.Context(), w.app, ticket, page)
		return err != nil
	})
	w.wantEnded(k, ticket, session.ReasonRevoked)
}
