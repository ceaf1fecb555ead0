package session_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
	"github.com/cloakroom/cloakroom/session/store"
	"github.com/cloakroom/cloakroom/session/storetest"
)

// A Redis that restarts from its last snapshot has forgotten what it has
// acknowledged since, as one does that takes over from another.

func (w *world) snapshot() { w.redis.CLI("SAVE") }

func TestCommitRunsAgainAfterRedisForgotIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, other := w.listening(), w.replica()
	first := w.begin(k)
	w.snapshot()
	second := w.rotate(k, first)
	w.redis.Restart()
	eventually(t, "the successor opens again", func() bool {
		o, err := other.Open(t.Context(), w.app, second, page)
		return err == nil && o.Generation == second.Generation
	})
	w.pass(tokenLife)
	var third session.Opened
	eventually(t, "it is refreshed again", func() bool {
		o, err := k.Open(t.Context(), w.app, second, page)
		third = o
		return err == nil
	})
	w.open(other, third.Successor.Ticket, page)
	w.provider.wantNoReuse(t)
}

func TestTwoCommitsRunAgainInTheirOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.listening(), w.listening()
	first := w.begin(a)
	w.snapshot()
	second := w.rotate(a, first)
	third := w.rotate(b, second) // builds on the other replica's
	w.redis.Restart()
	eventually(t, "the newest ticket opens again", func() bool {
		o, err := b.Open(t.Context(), w.app, third, page)
		return err == nil && o.Generation == third.Generation
	})
	w.pass(tokenLife)
	eventually(t, "it is refreshed again", func() bool {
		_, err := a.Open(t.Context(), w.app, third, page)
		return err == nil
	})
	w.provider.wantNoReuse(t)
}

func TestEndRunsAgainAfterRedisForgotIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, other := w.listening(), w.replica()
	ticket := w.begin(k)
	w.snapshot()
	if err := k.End(t.Context(), w.app, ticket.SID, session.ReasonLoggedOut); err != nil {
		t.Fatal(err)
	}
	w.redis.Restart()
	eventually(t, "the session is dead again", func() bool {
		i, err := other.Info(t.Context(), w.app, ticket.SID)
		return err == nil && i.Ended && i.Reason == session.ReasonLoggedOut
	})
	w.wantEnded(other, ticket, session.ReasonLoggedOut)
}

func TestEndOfAnAppRunsAgainAfterRedisForgotIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, other := w.listening(), w.replica()
	ticket := w.begin(k)
	w.snapshot()
	if err := k.EndApp(t.Context(), w.app); err != nil {
		t.Fatal(err)
	}
	w.redis.Restart()
	w.pass(time.Second)
	later := w.begin(other)
	eventually(t, "the older session is dead again", func() bool {
		_, err := other.Open(t.Context(), w.app, ticket, probe)
		ended, ok := errors.AsType[*session.EndedError](err)
		return ok && ended.Reason == session.ReasonRevoked
	})
	w.open(other, later, page)
}

func TestLoginRunsAgainAfterRedisForgotIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, other := w.listening(), w.replica()
	w.begin(k)
	w.snapshot()
	ticket := w.begin(k)
	w.redis.Restart()
	eventually(t, "the session is there again", func() bool {
		_, err := other.Open(t.Context(), w.app, ticket, page)
		return err == nil
	})
	eventually(t, "its subject finds it", func() bool {
		infos, err := other.Sessions(t.Context(), w.app, session.Whose{Issuer: "https://id.example", Subject: "SUBcanary-alice"})
		return err == nil && len(infos) == 2
	})
}

// What Redis has may have gone back to a token that is spent: it is not presented
// before the replicas had time to run their commits again. (Fault row F7a.)
func TestRefreshWaitsForWhatRedisForgot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, other := w.replica(), w.replica()
	first := w.begin(k)
	w.open(other, first, page)
	w.snapshot()
	w.rotate(k, first)
	w.redis.Restart()
	w.wantUnavailable(other, first, page)
	w.provider.wantNoReuse(t)
}

// Redis may go back between the judgement and the latch, too.
func TestLatchOfARedisThatWentBackSendsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	ticket := w.begin(k)
	latched := false
	w.app.Refresh = func(_ context.Context, _ *session.Session, sending func() error) session.Refreshed {
		w.snapshot() // with the lease
		w.redis.Restart()
		err := sending()
		latched = err == nil
		return session.Refreshed{Outcome: session.OutcomeNotSent, Err: err}
	}
	w.pass(tokenLife)
	if u := w.wantUnavailable(k, ticket, page); latched || u.Provider {
		t.Errorf("latched: %v, told: %v", latched, u)
	}
}

// A ticket whose session Redis doesn't know is not turned away while replicas may
// be running again what it forgot: the page would go to the login for nothing.
func TestForgottenLoginIsNotTurnedAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	unknown := session.Ticket{SID: session.NewSID(), Generation: 1}
	if _, err := k.Open(t.Context(), w.app, unknown, page); err != session.ErrNoSession {
		t.Fatalf("no session: %v", err)
	}
	w.snapshot()
	ticket := w.begin(k)
	w.redis.Restart()
	w.wantUnavailable(k, ticket, page)
}

// What Redis doesn't know may yet be run again, so nobody can say that it is over.
func TestForgottenLoginIsNotSaidToBeOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	if err := k.End(t.Context(), w.app, session.NewSID(), session.ReasonLoggedOut); err != nil {
		t.Fatal("no session:", err)
	}
	w.snapshot()
	ticket := w.begin(k)
	w.redis.Restart()
	err := k.End(t.Context(), w.app, ticket.SID, session.ReasonLoggedOut)
	if _, ok := errors.AsType[*session.UnavailableError](err); !ok {
		t.Error("one session:", err)
	}
	_, err = k.EndBy(t.Context(), w.app, alice, session.Ending{Reason: session.ReasonRevoked})
	if _, ok := errors.AsType[*session.UnavailableError](err); !ok {
		t.Error("a user's:", err)
	}
}

// A logout that finds nothing, since Redis has forgotten the login, holds against
// the login's being run again.
func TestLoginThatRunsAgainFindsItsLogout(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]session.Ending{
		"logged out at the provider": {Reason: session.ReasonProviderLogout, Notice: time.Now().Add(time.Minute)},
		"locked":                     {Reason: session.ReasonRevoked, Lock: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			k, other := w.replica(), w.replica()
			w.snapshot()
			ticket := w.begin(k)
			bob, err := w.beginAs(k, func(l *session.Login) { l.Subject = "bob" })
			if err != nil {
				t.Fatal(err)
			}
			w.redis.Restart()
			other.EndBy(t.Context(), w.app, alice, end)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { k.Run(ctx); close(done) }()
			defer func() { cancel(); <-done }()
			eventually(t, "another login is there again", func() bool {
				_, err := k.Info(t.Context(), w.app, bob.SID)
				return err == nil
			})
			eventually(t, "it has ended", func() bool {
				_, err := other.Open(t.Context(), w.app, ticket, probe)
				_, over := errors.AsType[*session.EndedError](err)
				return over
			})
			if info, err := k.Info(t.Context(), w.app, bob.SID); err != nil || info.Ended {
				t.Error("another login:", info.Reason, err)
			}
		})
	}
}

// Whoever began a session has heard of its end, so it isn't begun again, even if
// who ended it is gone.
func TestEndedSessionIsNotBegunAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, other := w.listening(), w.replica()
	w.snapshot()
	ticket := w.begin(k)
	watch := k.Watch(w.app, ticket.SID)
	defer watch.Stop()
	if err := other.End(t.Context(), w.app, ticket.SID, session.ReasonRevoked); err != nil {
		t.Fatal(err)
	}
	<-watch.Done()
	control := w.begin(k)
	w.redis.Restart()
	eventually(t, "the other is there again", func() bool {
		_, err := other.Open(t.Context(), w.app, control, page)
		return err == nil
	})
	if _, err := other.Info(t.Context(), w.app, ticket.SID); err != session.ErrNoSession {
		t.Errorf("the ended session: %v", err)
	}
}

func TestLockRunsAgainUnlessItWasLifted(t *testing.T) {
	t.Parallel()
	for name, lift := range map[string]bool{"it holds": false, "lifted": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			k := w.listening()
			alice := session.Whose{Issuer: "https://id.example", Subject: "SUBcanary-alice"}
			w.begin(k)
			w.snapshot()
			if _, err := k.EndBy(t.Context(), w.app, alice, session.Ending{Reason: session.ReasonRevoked, Lock: true}); err != nil {
				t.Fatal(err)
			}
			if lift {
				if err := k.Unlock(t.Context(), w.app, alice); err != nil {
					t.Fatal(err)
				}
			}
			marker := w.login()
			marker.Subject = "SUBcanary-bob"
			bob, err := k.Begin(t.Context(), w.app, marker)
			if err != nil {
				t.Fatal(err)
			}
			w.redis.Restart()
			eventually(t, "what was written after the lock is there again", func() bool {
				_, err := k.Info(context.Background(), w.app, bob.SID)
				return err == nil
			})
			_, err = k.Begin(t.Context(), w.app, w.login())
			if locked := err != nil; locked == lift {
				t.Errorf("a new login: %v", err)
			}
		})
	}
}

// A commit that Redis forgot wins over a mark that was set since: what the mark
// guards is spent, and the other attempt's invalid_grant must not end the session.
func TestCommitRunsAgainOverAForeignMark(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	first := w.begin(k)
	w.snapshot()
	second := w.rotate(k, first)
	w.redis.Restart()
	s := w.store(2 * time.Second)
	record, found, err := s.Read(t.Context(), first.SID)
	if err != nil || !found || record.Generation != first.Generation {
		t.Fatalf("not as before: %v %v generation %d", err, found, record.Generation)
	}
	attempt := store.Attempt{1}
	if a, err := s.Claim(t.Context(), first.SID, record.Version, attempt, 10*time.Second); err != nil || a.Result != store.OK {
		t.Fatal(a.Result, err)
	}
	if a, err := s.Send(t.Context(), first.SID, record.Version, attempt, 10*time.Second); err != nil || a.Result != store.OK {
		t.Fatal(a.Result, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { k.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	eventually(t, "the successor opens again", func() bool {
		o, err := k.Open(t.Context(), w.app, second, page)
		return err == nil && o.Generation == second.Generation
	})
	a, err := s.EndAttempt(t.Context(), first.SID, record.App, 1, record.Version, attempt)
	if err != nil || a.Result != store.Moved {
		t.Errorf("the other attempt's invalid_grant: %s, %v", a.Result, err)
	}
	w.provider.wantNoReuse(t)
}

// A replica that starts in a Cluster meets its masters one after the other. That
// isn't one Redis after another: it refreshes from its first request on.
func TestReplicaThatStartsInAClusterRefreshesAtOnce(t *testing.T) {
	w := newWorld(t)
	c := storetest.Cluster(t)
	start := func() *session.Keeper {
		st := store.New(store.Options{Mode: store.Cluster, Addresses: c.Addrs(), KeyPrefix: "cloakroom:", Timeout: 2 * time.Second,
			Offset: func() time.Duration { return time.Duration(w.offset.Load()) }})
		k := session.New(st, w.keys, session.Options{Now: w.now, Log: testLog(t)})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { k.Run(ctx); close(done) }()
		t.Cleanup(func() { cancel(); <-done; k.Wait(context.Background()); st.Close() })
		eventually(t, "the replica hears itself", st.Hears)
		return k
	}
	open := w.herd(start(), 12, func() {})
	if served, refused := open(start()); served != 12 || refused != 0 {
		t.Errorf("%d served, %d refused", served, refused)
	}
}
