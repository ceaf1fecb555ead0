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
