package idp

import (
	"context"
	"sync"
	"time"
)

const (
	// refetchInterval is the least time between two fetches of the same thing,
	// whoever asks and however the first went. It is what a provider that is
	// down, or a flood of tokens with made-up key ids, can cost; and how long
	// a login may fail after the provider has come back or changed its keys.
	refetchInterval = 5 * time.Second
	// freshFor is how long a fetched document serves before it is fetched
	// again, in the background.
	freshFor = time.Hour
)

// remote is a document at the provider: fetched when first needed, by one
// fetch at a time whoever waits, kept while later fetches fail.
type remote[T any] struct {
	fetch   func(context.Context) (*T, error)
	failed  func(error)
	now     func() time.Time
	timeout time.Duration

	mu      sync.Mutex // guards the rest
	value   *T         // the last good one
	gotAt   time.Time
	triedAt time.Time     // the end of the last fetch
	err     error         // of the last fetch
	flight  chan struct{} // closed when the fetch under way ends; nil if there is none
}

func (r *remote[T]) known() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.value != nil
}

// get returns the document. It waits only for the first one.
func (r *remote[T]) get(ctx context.Context) (*T, error) {
	r.mu.Lock()
	if v := r.value; v != nil {
		if age := r.now().Sub(r.gotAt); age < 0 || age >= freshFor {
			r.start(ctx)
		}
		r.mu.Unlock()
		return v, nil
	}
	flight := r.start(ctx)
	r.mu.Unlock()
	return r.wait(ctx, flight, nil)
}

// after returns a document other than old if there is one or a fetch now
// brings one, else old. The error is that of the last fetch, if it failed.
func (r *remote[T]) after(ctx context.Context, old *T) (*T, error) {
	r.mu.Lock()
	if r.value != old {
		defer r.mu.Unlock()
		return r.value, nil
	}
	flight := r.start(ctx)
	r.mu.Unlock()
	return r.wait(ctx, flight, old)
}

func (r *remote[T]) wait(ctx context.Context, flight chan struct{}, old *T) (*T, error) {
	if flight != nil {
		select {
		case <-flight:
		case <-ctx.Done():
			return old, ended(ctx)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.value, r.err
	}
	return r.value, nil
}

// start begins a fetch unless one is under way or was a short time ago. It
// returns what to wait for: nil if there is nothing. r.mu is held.
func (r *remote[T]) start(ctx context.Context) chan struct{} {
	if r.flight != nil {
		return r.flight
	}
	// A clock that was set back must not stop the fetching: hence d >= 0.
	if d := r.now().Sub(r.triedAt); !r.triedAt.IsZero() && d >= 0 && d < refetchInterval {
		return nil
	}
	flight := make(chan struct{})
	r.flight = flight
	go func() {
		// Others wait for this fetch too: the one who began it may leave.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.timeout)
		defer cancel()
		v, err := r.fetch(ctx)
		r.mu.Lock()
		now := r.now()
		r.triedAt, r.err, r.flight = now, err, nil
		if err == nil {
			r.value, r.gotAt = v, now
		}
		r.mu.Unlock()
		if err != nil {
			r.failed(err)
		}
		close(flight)
	}()
	return flight
}
