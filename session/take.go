package session

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/cloakroom/cloakroom/session/store"
)

const (
	labelTake = "cloakroom/1 take"
	// turnLease is how long one replica may take to do what may be done once.
	turnLease = 15 * time.Second
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

var errTurn = errors.New("somebody else is at it, or was a moment ago")
