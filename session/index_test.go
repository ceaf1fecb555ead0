package session_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cloakroom/cloakroom/session"
)

const issuer = "https://id.example"

var alice = session.Whose{Issuer: issuer, Subject: "SUBcanary-alice"}

// beginAs begins a session of the login that edit makes of alice's.
func (w *world) beginAs(k *session.Keeper, edit func(*session.Login)) (session.Ticket, error) {
	l := w.login()
	edit(&l)
	return k.Begin(w.t.Context(), w.app, l)
}

func TestEndBy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, other := w.replica(), w.replica()
	bank := *w.app
	bank.Name = "bank"
	begin := func(edit func(*session.Login)) session.Ticket {
		ticket, err := w.beginAs(k, edit)
		if err != nil {
			t.Fatal(err)
		}
		return ticket
	}
	plain := func(*session.Login) {}
	one, two := begin(plain), begin(func(l *session.Login) { l.ProviderSession = "ps-2" })
	bob := begin(func(l *session.Login) { l.Subject = "bob" })
	elsewhere := begin(func(l *session.Login) { l.Issuer = "https://other.example" })
	atBank, err := k.Begin(t.Context(), &bank, w.login())
	if err != nil {
		t.Fatal(err)
	}
	alive := func(ticket session.Ticket) bool {
		_, err := other.Open(t.Context(), w.app, ticket, probe)
		return err == nil
	}

	if n, err := other.EndBy(t.Context(), w.app, session.Whose{Issuer: issuer, ProviderSession: "ps-9"}, session.Ending{Reason: session.ReasonProviderLogout}); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := other.EndBy(t.Context(), w.app, session.Whose{Issuer: issuer, ProviderSession: "ps-2"}, session.Ending{Reason: session.ReasonProviderLogout}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	w.wantEnded(k, two, session.ReasonProviderLogout)
	if !alive(one) || !alive(bob) || !alive(elsewhere) {
		t.Fatal("a logout by sid ended others")
	}
	// By subject, also after an older session of the user ended; nobody else's.
	three := begin(plain)
	if n, err := other.EndBy(t.Context(), w.app, alice, session.Ending{Reason: session.ReasonRevoked, Except: three.SID}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	w.wantEnded(k, one, session.ReasonRevoked)
	if !alive(three) || !alive(bob) || !alive(elsewhere) {
		t.Fatal("a logout by subject ended others")
	}
	if _, err := k.Open(t.Context(), &bank, atBank, probe); err != nil {
		t.Fatal("another app's session ended:", err)
	}
	// All of the app's.
	w.pass(time.Second)
	if err := other.EndApp(t.Context(), w.app); err != nil {
		t.Fatal(err)
	}
	for _, ticket := range []session.Ticket{three, bob, elsewhere} {
		w.wantEnded(k, ticket, session.ReasonRevoked)
	}
	if _, err := k.Open(t.Context(), &bank, atBank, probe); err != nil {
		t.Fatal("another app's session ended:", err)
	}
	w.pass(time.Second)
	if !alive(begin(plain)) {
		t.Fatal("nobody can log in any more")
	}
}

func TestEndAppIsHeardByCaches(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.listening()
	ticket := w.begin(k)
	w.open(k, ticket, page)
	w.pass(time.Second)
	if err := w.replica().EndApp(t.Context(), w.app); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end is heard", func() bool {
		_, err := k.Open(t.Context(), w.app, ticket, page)
		return err != nil
	})
}

// LO-8: a logout that arrives before its session exists still wins.
func TestLogoutBeforeTheSessionExists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	issued := w.now()
	end := func(whose session.Whose) {
		t.Helper()
		if _, err := k.EndBy(t.Context(), w.app, whose, session.Ending{Reason: session.ReasonProviderLogout, Notice: issued}); err != nil {
			t.Fatal(err)
		}
	}
	ended := func(iat time.Time, providerSession string) bool {
		t.Helper()
		ticket, err := w.beginAs(k, func(l *session.Login) { l.IssuedAt, l.ProviderSession = iat, providerSession })
		if err == nil {
			return false
		}
		if e, ok := errors.AsType[*session.EndedError](err); !ok || e.Reason != session.ReasonProviderLogout || ticket != (session.Ticket{}) {
			t.Fatal(err)
		}
		return true
	}
	end(session.Whose{Issuer: issuer, ProviderSession: "ps-1"})
	if !ended(issued.Add(time.Minute), "ps-1") || ended(issued, "ps-2") || ended(issued, "") {
		t.Error("by sid: that session, whenever its token was issued, and no other")
	}
	end(alice)
	if !ended(issued, "") || !ended(issued.Add(-time.Minute), "ps-2") || !ended(time.Time{}, "") {
		t.Error("by subject: what was issued before is ended")
	}
	if ended(issued.Add(time.Second), "ps-3") {
		t.Error("by subject: a later login must work")
	}
}

// M-03: a logout by subject that comes late, or once more, spares who has logged
// in since.
func TestLateLogoutSparesLaterSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	at := w.now()
	before, err := w.beginAs(k, func(l *session.Login) { l.IssuedAt = at.Add(-time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	since, err := w.beginAs(k, func(l *session.Login) { l.IssuedAt = at.Add(time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := w.beginAs(k, func(*session.Login) {})
	if err != nil {
		t.Fatal(err)
	}
	n, err := k.EndBy(t.Context(), w.app, alice, session.Ending{Reason: session.ReasonProviderLogout, Notice: at, UpTo: at})
	if n != 2 || err != nil {
		t.Fatal(n, err)
	}
	w.wantEnded(k, before, session.ReasonProviderLogout)
	w.wantEnded(k, unknown, session.ReasonProviderLogout)
	w.open(k, since, probe)
}

// Begin against EndBy, whatever the order: nobody slips through.
func TestBeginAgainstEndBy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, other := w.replica(), w.replica()
	for range 50 {
		var wg sync.WaitGroup
		var ticket session.Ticket
		var err error
		issued := w.now()
		wg.Go(func() { ticket, err = w.beginAs(k, func(l *session.Login) { l.IssuedAt = issued }) })
		wg.Go(func() {
			if _, err := other.EndBy(context.Background(), w.app, alice, session.Ending{Reason: session.ReasonProviderLogout, Notice: issued}); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if err != nil {
			continue
		}
		if _, err := k.Open(t.Context(), w.app, ticket, probe); err == nil {
			t.Fatal("a session slipped through")
		}
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	locked := func(err error) bool {
		e, ok := errors.AsType[*session.EndedError](err)
		return ok && e.Locked
	}
	t.Run("until lifted", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		ticket := w.begin(k)
		if _, err := k.EndBy(t.Context(), w.app, alice, session.Ending{Reason: session.ReasonRevoked, Lock: true}); err != nil {
			t.Fatal(err)
		}
		_, err := k.Open(t.Context(), w.app, ticket, probe)
		_, err2 := w.beginAs(k, func(*session.Login) {})
		if !locked(err) || !locked(err2) {
			t.Fatal(err, err2)
		}
		if _, err := w.beginAs(k, func(l *session.Login) { l.Subject = "bob" }); err != nil {
			t.Fatal("bob:", err)
		}
		if err := k.Unlock(t.Context(), w.app, alice); err != nil {
			t.Fatal(err)
		}
		w.wantEnded(k, ticket, session.ReasonRevoked)
		if _, err := k.Open(t.Context(), w.app, ticket, probe); locked(err) {
			t.Fatal("still locked")
		}
		w.open(k, w.begin(k), page)
	})
	t.Run("lifted after another end", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		ticket := w.begin(k)
		for _, lock := range []bool{true, false} {
			if _, err := k.EndBy(t.Context(), w.app, alice, session.Ending{Reason: session.ReasonRevoked, Lock: lock}); err != nil {
				t.Fatal(err)
			}
		}
		if err := k.Unlock(t.Context(), w.app, alice); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Open(t.Context(), w.app, ticket, probe); locked(err) {
			t.Fatal("the old ticket says locked for ever")
		}
	})
	t.Run("until a time", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		ticket := w.begin(k)
		if _, err := k.EndOne(t.Context(), w.app, ticket.SID, session.Ending{Reason: session.ReasonRevoked, Lock: true, Until: w.now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Open(t.Context(), w.app, ticket, probe); !locked(err) {
			t.Fatal(err)
		}
		w.open(k, w.begin(k), page) // that session alone
		w.pass(time.Hour)
		if _, err := k.Open(t.Context(), w.app, ticket, probe); locked(err) || err == nil {
			t.Fatal(err)
		}
	})
}

func TestSessionsAreListed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	var sids []session.SID
	for i := range 5 {
		ticket, err := w.beginAs(k, func(l *session.Login) { l.Browser = fmt.Sprint("browser ", i) })
		if err != nil {
			t.Fatal(err)
		}
		sids = append(sids, ticket.SID)
		w.pass(time.Second)
	}
	if err := k.End(t.Context(), w.app, sids[1], session.ReasonLoggedOut); err != nil {
		t.Fatal(err)
	}
	infos, err := k.Sessions(t.Context(), w.app, alice)
	if err != nil || len(infos) != 4 {
		t.Fatal(infos, err)
	}
	if i := infos[0]; i.SID != sids[4] || i.Browser != "browser 4" || i.Address != "192.0.2.7" || i.Subject != alice.Subject {
		t.Errorf("%+v", i)
	}
	if slices.ContainsFunc(infos, func(i session.Info) bool { return i.SID == sids[1] }) {
		t.Error("an ended one is listed")
	}
	i, err := k.Info(t.Context(), w.app, sids[1])
	if err != nil || !i.Ended || i.Reason != session.ReasonLoggedOut || i.Subject != "" {
		t.Errorf("%+v %v", i, err)
	}
	if _, err := k.Info(t.Context(), w.app, session.NewSID()); !errors.Is(err, session.ErrNoSession) {
		t.Error(err)
	}
}

func TestMaxPerUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.MaxPerUser = 2
	k := w.replica()
	var tickets []session.Ticket
	for range 4 {
		tickets = append(tickets, w.begin(k))
		w.pass(time.Second)
	}
	w.wantEnded(k, tickets[0], session.ReasonSessionLimit)
	w.wantEnded(k, tickets[1], session.ReasonSessionLimit)
	w.open(k, tickets[2], page)
	w.open(k, tickets[3], page)
}

func TestRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.Remember = 30 * 24 * time.Hour
	k := w.replica()
	short := w.begin(k)
	ticket, err := w.beginAs(k, func(l *session.Login) { l.Remember = true })
	if err != nil {
		t.Fatal(err)
	}
	w.pass(29 * 24 * time.Hour)
	w.wantEnded(k, short, session.ReasonAbsoluteTimeout)
	o := w.open(k, ticket, page)
	if !o.Remembered || o.Successor == nil {
		t.Fatal("not remembered")
	}
	w.pass(24*time.Hour + time.Minute)
	w.wantEnded(k, o.Successor.Ticket, session.ReasonAbsoluteTimeout)
}

// What ended an app's sessions is remembered for as long as any may live: also one
// from when the policy let them live longer.
func TestEndAppOutlivesAShorterPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.Remember = 30 * 24 * time.Hour
	k := w.replica()
	ticket, err := w.beginAs(k, func(l *session.Login) { l.Remember = true })
	if err != nil {
		t.Fatal(err)
	}
	w.pass(time.Second)
	tightened := *w.app
	tightened.Remember, tightened.AbsoluteTimeout = 0, time.Hour
	if err := k.EndApp(t.Context(), &tightened); err != nil {
		t.Fatal(err)
	}
	record := w.client().TTL(t.Context(), "cloakroom:s:{"+ticket.SID.String()+"}").Val()
	if ttl := w.client().TTL(t.Context(), "cloakroom:not_before").Val(); ttl < record {
		t.Errorf("the end is forgotten after %v, the session's record after %v", ttl, record)
	}
}

// A clock that was set back keeps nobody out.
func TestMaxPerUserAfterAClockSetBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.MaxPerUser = 2
	k := w.replica()
	w.pass(time.Hour)
	tickets := []session.Ticket{w.begin(k), w.begin(k)}
	w.pass(-time.Hour)
	k = w.replica() // which has not seen the other time
	for range 3 {
		tickets = append(tickets, w.begin(k))
		w.pass(time.Second)
	}
	for _, t := range tickets[:3] {
		w.wantEnded(k, t, session.ReasonSessionLimit)
	}
	w.open(k, tickets[3], page)
	w.open(k, tickets[4], page)
}

// As many of a user's sessions stay as may: the newest, also when several begin at
// the same time.
func TestMaxPerUserAtOnce(t *testing.T) {
	t.Parallel()
	for limit := 1; limit <= 3; limit++ {
		w := newWorld(t)
		k, logins := w.replica(), 8
		w.app.MaxPerUser = limit
		for range 10 {
			tickets := make([]session.Ticket, logins)
			var begun sync.WaitGroup
			for i := range tickets {
				begun.Go(func() {
					tickets[i], _ = k.Begin(t.Context(), w.app, w.login()) // or it is over at once
				})
			}
			begun.Wait()
			alive := 0
			for _, ticket := range tickets {
				if ticket.SID == (session.SID{}) {
					continue
				}
				if _, err := k.Open(t.Context(), w.app, ticket, probe); err == nil {
					alive++
				}
			}
			if alive != limit {
				t.Fatalf("%d sessions, %d may be", alive, limit)
			}
			w.pass(time.Second)
		}
	}
}

// However many sessions a user has had, all that live end, and are listed.
func TestLongIndex(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]session.Ending{
		"ended":  {Reason: session.ReasonRevoked},
		"locked": {Reason: session.ReasonRevoked, Lock: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			k, c := w.replica(), w.client()
			first := w.begin(k)
			key := c.Keys(t.Context(), "cloakroom:i:*").Val()[0]
			for range 21 { // what has ended otherwise stays until it would have run out
				var over []redis.Z
				for range 500 {
					over = append(over, redis.Z{Score: float64(w.now().Add(time.Hour).UnixMilli()), Member: session.NewSID().String()})
				}
				if err := c.ZAdd(t.Context(), key, over...).Err(); err != nil {
					t.Fatal(err)
				}
			}
			last := w.begin(k)
			if n, err := k.EndBy(t.Context(), w.app, alice, end); n != 2 || err != nil {
				t.Errorf("%d ended, %v", n, err)
			}
			w.wantEnded(k, last, session.ReasonRevoked)
			if !end.Lock {
				if infos, err := k.Sessions(t.Context(), w.app, alice); len(infos) != 0 || err != nil {
					t.Error(infos, err)
				}
				next := w.begin(k)
				if infos, err := k.Sessions(t.Context(), w.app, alice); len(infos) != 1 || err != nil || infos[0].SID != next.SID {
					t.Error(infos, err)
				}
				return
			}
			if err := k.Unlock(t.Context(), w.app, alice); err != nil {
				t.Fatal(err)
			}
			for _, ticket := range []session.Ticket{first, last} {
				if info, err := k.Info(t.Context(), w.app, ticket.SID); err != nil || info.Locked {
					t.Error("still locked:", err)
				}
			}
		})
	}
}
