package session

import (
	"context"
	"errors"
	"time"
)

// waitLimit bounds how long a request waits for a token.
const waitLimit = 15 * time.Second

// Open judges a ticket and returns the session it opens, with a live access
// token if need asks for one, waiting for a refresh if it must. Its error is
// [ErrNoSession], [ErrTokenExpired], an [*EndedError], an [*UnavailableError], or
// ctx's.
func (k *Keeper) Open(ctx context.Context, app *App, t Ticket, need Need) (Opened, error) {
	if need.Received.IsZero() {
		need.Received = k.now()
	}
	sent, glance := k.now(), k.store.Glance()
	v, now, err := k.recall(app, t, need, sent, glance)
	shared := v != nil
	if v == nil && err == nil {
		if v, err = k.inquire(ctx, app, t, need, sent, glance.Ear()); err == nil {
			now = v.now
		}
	}
	if err == nil && !v.splitKey && !v.settled && freshFor(app, v, need, now) == tokenFresh {
		return k.opened(app, v, now), nil // as nearly always: nothing to wait for
	}
	ctx, cancel := context.WithTimeoutCause(ctx, waitLimit, errWait)
	defer cancel()
	var handout *Handout // that Redis has noted for this answer: it carries it, or none does
	for round := 0; ; round++ {
		if round > 0 || shared { // what is in the cache is read only
			if err := pause(ctx, round); err != nil {
				return Opened{}, waited(ctx, err)
			}
			v, err = k.judge(ctx, app, t, need)
		}
		if err == errMoved {
			continue
		}
		if err != nil {
			return Opened{}, waited(ctx, err)
		}
		if v.handout != nil {
			handout = v.handout
		}
		if need.Local && v.splitKey {
			if err := k.unlock(ctx, app, v, need.LocalKey); err != nil {
				return Opened{}, waited(ctx, err)
			}
		}
		fresh := freshFor(app, v, need, v.now)
		if need.NoRefresh && fresh != tokenFresh {
			if fresh == tokenOut {
				return Opened{}, ErrTokenExpired
			}
			return k.opened(app, v, v.now), nil
		}
		if v.splitKey && v.split == nil {
			// Without the local key nothing can be refreshed or sealed again.
			if fresh == tokenOut {
				return Opened{}, ErrTokenExpired
			}
			return k.opened(app, v, v.now), nil
		}
		// What has waited here for long says nothing of where the first successor is.
		inTime := k.timely(need, v.now, app.Grace)
		if v.settled && need.Cookie && fresh != tokenOut && inTime {
			again, err := k.reissue(ctx, app, v, t)
			if err != nil {
				return Opened{}, waited(ctx, err)
			}
			if again {
				continue
			}
		}
		switch fresh {
		case tokenDue:
			k.refreshInBackground(app, v)
		case tokenOut:
			next, err := k.refresh(ctx, app, v, need)
			if err != nil {
				return Opened{}, waited(ctx, err)
			}
			if next == nil {
				continue // the exchange was another's: judge afresh, with our own ticket
			}
			if v.settled && next != v {
				continue // in place first, then re-issue
			}
			v = next
		}
		if handout != nil && v.handout == nil && v.ticket == handout.Ticket {
			refreshed := *v // in place, meanwhile
			refreshed.handout = handout
			v = &refreshed
		}
		return k.opened(app, v, v.now), nil
	}
}

// pause keeps a request that loses every race from turning in circles.
func pause(ctx context.Context, round int) error {
	if round < 3 {
		return nil
	}
	timer := time.NewTimer(time.Duration(round) * 10 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errWait = errors.New("waited too long for a token")

// waited turns our own limit on waiting into what it is: trouble, not a client
// that has gone.
func waited(ctx context.Context, err error) error {
	if context.Cause(ctx) == errWait && err == ctx.Err() {
		return &UnavailableError{Provider: true, RetryAfter: storeRetryAfter, Err: errWait}
	}
	return err
}

func (k *Keeper) opened(app *App, v *view, now time.Time) Opened {
	o := Opened{Session: v.Session, Now: now, Successor: v.handout, IdleExpiresAt: v.ExpiresAt}
	if v.split != nil && v.split.handOut {
		o.LocalKey = &v.split.local
	}
	if idle := app.idle(v.Session); idle > 0 && v.seenAt.Add(idle).Before(v.ExpiresAt) {
		o.IdleExpiresAt = v.seenAt.Add(idle)
	}
	return o
}
