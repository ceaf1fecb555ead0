package session

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"log/slog"
	"time"

	"github.com/cloakroom/cloakroom/session/store"
)

const (
	labelTake = "cloakroom/1 take"
	// turnLease is how long one replica may take to do what may be done once.
	turnLease = 15 * time.Second
	// released is how long a name is remembered that is free again.
	released = time.Millisecond
	// releaseTimeout bounds what a store in trouble adds to an answer that is ready.
	releaseTimeout = 500 * time.Millisecond
)

// takeName is what Redis may know of an attempt's name. It may be a person's,
// which a plain hash would give away to anybody with a list.
func (k *Keeper) takeName(app *App, name string) [32]byte {
	h := hmac.New(sha256.New, k.keys.Load().Derive(labelTake, app.Name, 32)[0])
	h.Write([]byte(name))
	return [32]byte(h.Sum(nil))
}

// turnName needs no key, and must not have one: while server keys are being
// replaced, all replicas still have to agree on it.
func turnName(app *App, name string) [32]byte {
	return sha256.Sum256([]byte(app.Name + "\x00" + name))
}

// Take counts an attempt at whatever name stands for, for all replicas together,
// and reports whether it is one of perMinute. If not, there will be another after
// retryAfter. Its error is an [*UnavailableError]: nobody knows, so refuse.
func (k *Keeper) Take(ctx context.Context, app *App, name string, perMinute int) (allowed bool, retryAfter time.Duration, err error) {
	allowed, retryAfter, err = k.store.Take(ctx, k.takeName(app, name), perMinute)
	if err != nil {
		return false, 0, k.unavailable(ctx, err)
	}
	return allowed, retryAfter, nil
}

// DoOnce does what name stands for unless it has been done within ttl, by any
// replica, and reports which. What fails is not done: it may be tried again,
// [turnLease] later. Whoever comes meanwhile gets an [*UnavailableError], as when
// the store doesn't answer.
//
// The order is what makes it both safe and repeatable. Were the name remembered
// for good before the work, work that failed could never be repeated; were it
// remembered after the work alone, a copy could slip in beside it. So it is held
// for a moment first and remembered for good last.
func (k *Keeper) DoOnce(ctx context.Context, app *App, name string, ttl time.Duration, do func(context.Context) error) (first bool, err error) {
	hashed := turnName(app, name)
	turn, err := k.store.TakeTurn(ctx, hashed, turnLease)
	if err != nil {
		return false, k.unavailable(ctx, err)
	}
	switch turn {
	case store.TurnDone:
		return false, nil
	case store.TurnTaken:
		return false, &UnavailableError{RetryAfter: turnLease, Err: errTurn}
	}
	// Within the lease, so that nobody else is at it.
	work, cancel := context.WithTimeout(ctx, turnLease-2*time.Second)
	defer cancel()
	if err := do(work); err != nil {
		return false, err
	}
	if err := k.store.FinishTurn(ctx, hashed, ttl); err != nil {
		return false, k.unavailable(ctx, err)
	}
	return true, nil
}

// Alone reserves what name stands for to the caller, of all replicas', until it
// calls release, and at most for limit. It is for who is about to spend something
// that comes once: that the store has taken this tells that it takes what comes
// of it, too. Otherwise, or where somebody else is at it, the error is an
// [*UnavailableError] or ctx's.
func (k *Keeper) Alone(ctx context.Context, app *App, name string, limit time.Duration) (release func(), err error) {
	hashed := turnName(app, name)
	for attempt := 0; ; attempt++ {
		turn, err := k.store.TakeTurn(ctx, hashed, limit)
		if err != nil {
			return nil, k.unavailable(ctx, err)
		}
		if turn == store.TurnFirst {
			break
		}
		if attempt == 2 {
			return nil, &UnavailableError{RetryAfter: storeRetryAfter, Err: errTurn}
		}
		time.Sleep(2 * released) // it may have been released just now
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
		if err := k.store.FinishTurn(ctx, hashed, released); err != nil {
			k.log.LogAttrs(ctx, slog.LevelDebug, "a turn will be over by its time", slog.String("err", err.Error()))
		}
	}, nil
}

var errTurn = errors.New("somebody else is at it, or was a moment ago")
