package session_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// herd begins n sessions whose tokens run out together, each with a family of
// refresh tokens of its own.
func (w *world) herd(k *session.Keeper, n int, answer func()) (open func(*session.Keeper) (served, refused int)) {
	w.t.Helper()
	w.app.Refresh = func(_ context.Context, s *session.Session, sending func() error) session.Refreshed {
		if err := sending(); err != nil {
			return session.Refreshed{Outcome: session.OutcomeNotSent, Err: err}
		}
		answer()
		return session.Refreshed{Outcome: session.OutcomeSpent, Tokens: session.Tokens{
			Access: "next", TokenType: "Bearer", IssuedAt: w.now(), ExpiresAt: w.now().Add(tokenLife), Refresh: s.Tokens.Refresh + "'",
		}}
	}
	tickets := make([]session.Ticket, n)
	for i := range tickets {
		tickets[i] = w.begin(k)
	}
	w.pass(tokenLife)
	return func(k *session.Keeper) (served, refused int) {
		var wg sync.WaitGroup
		var ok, no atomic.Int64
		for _, ticket := range tickets {
			wg.Go(func() {
				_, err := k.Open(context.Background(), w.app, ticket, page)
				u, unavailable := errors.AsType[*session.UnavailableError](err)
				switch {
				case err == nil:
					ok.Add(1)
				case unavailable && u.Provider && u.RetryAfter > 0:
					no.Add(1)
				default:
					w.t.Errorf("%v", err)
				}
			})
		}
		wg.Wait()
		return int(ok.Load()), int(no.Load())
	}
}

func TestHerdIsPacedOverAllReplicas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.RefreshRate = 30
	var mu sync.Mutex
	var at []time.Time
	open := w.herd(w.replica(), 75, func() {
		mu.Lock()
		defer mu.Unlock()
		at = append(at, time.Now())
	})
	var wg sync.WaitGroup
	for range 2 {
		k := w.replica()
		wg.Go(func() {
			if _, refused := open(k); refused > 0 {
				t.Errorf("%d refused", refused)
			}
		})
	}
	wg.Wait()
	if len(at) != 75 {
		t.Fatalf("%d grants for 75 sessions", len(at))
	}
	// A second's worth at once, and then 30 a second: the last 45 take 1.5 s.
	if took := at[len(at)-1].Sub(at[0]); took < 1300*time.Millisecond {
		t.Errorf("75 grants within %v", took)
	}
}

func TestHerdOverTheLimitIsToldWhenToComeBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.RefreshRate = 1
	open := w.herd(w.replica(), 30, func() {})
	served, refused := open(w.replica())
	if served < 5 || served > 13 || served+refused != 30 {
		t.Errorf("%d served, %d refused", served, refused)
	}
}

// What one refresh was told of the places being taken, the next ones are told
// without a word to Redis: neither a lease, nor a place, nor its withdrawal.
func TestWhoComesWhenAllPlacesAreTakenCostsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.RefreshRate = 1
	first, others := w.herd(w.replica(), 1, func() {}), w.herd(w.replica(), 10, func() {})
	st, c := w.store(2*time.Second), w.client()
	for booked := true; booked; {
		var err error
		if _, booked, err = st.Pace(t.Context(), w.app.Name, w.app.RefreshRate, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	// The moment for which it is remembered doesn't pass by itself.
	began := time.Now()
	k := session.New(w.store(2*time.Second), w.keys, session.Options{Now: func() time.Time { return began.Add(time.Duration(w.offset.Load())) }})
	scripts := func(open func(*session.Keeper) (served, refused int), want int) (n int64) {
		before := commandCalls(t, c.Info(context.Background(), "commandstats").Val(), "evalsha")
		if _, refused := open(k); refused != want {
			t.Errorf("%d refused, want %d", refused, want)
		}
		return commandCalls(t, c.Info(context.Background(), "commandstats").Val(), "evalsha") - before
	}
	if n := scripts(first, 1); n != 4 { // opened, claimed, no place, withdrawn
		t.Errorf("%d scripts for the first", n)
	}
	if n := scripts(others, 10); n != 10 { // opened, and that is all
		t.Errorf("%d scripts for the ten that come next", n)
	}
	w.pass(300 * time.Millisecond)
	if n := scripts(first, 1); n != 4 {
		t.Errorf("%d scripts for one that comes later: it is to ask again", n)
	}
}

func TestCallsToAProviderAtOnceAreBounded(t *testing.T) {
	t.Parallel()
	const most = 128
	w := newWorld(t)
	var now, peak atomic.Int64
	full := make(chan struct{})
	var once sync.Once
	open := w.herd(w.replica(), most+40, func() {
		n := now.Add(1)
		defer now.Add(-1)
		for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
		}
		if n >= most {
			once.Do(func() { close(full) })
		}
		<-full
	})
	if served, refused := open(w.replica()); served != most+40 {
		t.Errorf("%d served, %d refused", served, refused)
	}
	if p := peak.Load(); p > most {
		t.Errorf("%d calls at once", p)
	}
}
