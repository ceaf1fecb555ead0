package session

import (
	"context"
	"errors"
	"time"
)

const (
	// paceLimit is how long a refresh waits for its turn: less than a request
	// waits for a refresh.
	paceLimit = 10 * time.Second
	// callsAtOnce bounds how many refresh tokens of an app are on their way from
	// this replica. When a provider stops answering, that many are lost sight of
	// before anybody notices.
	callsAtOnce = 128
	// bookedUp is how long all are told what one was: that the places of the next
	// paceLimit are taken. Of a herd most are turned away, and each would cost three
	// calls of Redis, which those pay for that only pass by.
	bookedUp = 250 * time.Millisecond
)

// refusal is what a refresh was told that found no place, and until when others
// are.
type refusal struct {
	until time.Time
	err   *UnavailableError
}

var errPaced = errors.New("more sessions want new tokens than the provider is asked for at a time")

// turn waits until an app's provider may be asked: by its rate, and by what is
// under way here. It returns how to say that the call is over; or, if it would
// take too long, an [*UnavailableError].
func (k *Keeper) turn(ctx context.Context, app *App) (done func(), err error) {
	if app.RefreshRate > 0 {
		wait, booked, err := k.store.Pace(ctx, app.Name, app.RefreshRate, paceLimit)
		if err != nil {
			return nil, k.unavailable(ctx, err)
		}
		if !booked {
			err := &UnavailableError{Provider: true, RetryAfter: wait, Err: errPaced}
			k.mu.Lock()
			k.refused[app.Name] = refusal{k.now().Add(bookedUp), err}
			k.mu.Unlock()
			return nil, err
		}
		if wait > 0 {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	k.mu.Lock()
	calls := k.calls[app.Name]
	if calls == nil {
		calls = make(chan struct{}, callsAtOnce)
		k.calls[app.Name] = calls
	}
	k.mu.Unlock()
	done = func() { <-calls }
	select {
	case calls <- struct{}{}:
		return done, nil
	default:
	}
	timer := time.NewTimer(paceLimit)
	defer timer.Stop()
	select {
	case calls <- struct{}{}:
		return done, nil
	case <-timer.C:
		return nil, &UnavailableError{Provider: true, RetryAfter: storeRetryAfter, Err: errPaced}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
