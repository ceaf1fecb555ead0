package session

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/cloakroom/cloakroom/session/store"
)

// Watch tells who answers a session's requests that the session is over, while
// their answers are under way. It is shared by all of a session's requests in
// this process. Its methods may be called on nil: then nothing is ever over.
type Watch struct {
	app    *App
	sid    SID
	shard  *watchShard
	ctx    context.Context // done when the session is over; the cause says why
	cancel context.CancelCauseFunc

	// Guarded by the shard's mutex.
	users  int           // 0: it is kept for the next one, up to the next sweep
	asking bool          // an answer of Redis's is on its way
	until  time.Time     // the absolute end, out of the box; zero: not known
	swept  bool          // it has lived through a sweep
	asked  time.Time     // before the header was read; zero: it wasn't
	header *store.Record // nil: not read
	wanted time.Time     // since when an answer is missing; zero: none is
}

const (
	// sweepInterval is how often all watches are looked at.
	sweepInterval = 500 * time.Millisecond
	// blindLimit is how long an answer goes on while Redis can't be asked whether
	// its session lives; the app's cache_ttl, if that is longer.
	blindLimit = 5 * time.Second
	// askInterval is how often Redis is asked all the same: what it lost in a
	// failover, no event told.
	askInterval = 30 * time.Second
)

// Watch watches a session. Call it before [Keeper.Open], so that no end falls in
// between, and [Watch.Stop] once when the answer is over.
//
// An end that is heard is told at once. A session's time runs out under an answer,
// which is no activity. Where this replica may have missed something, it asks
// Redis; and if Redis can't be asked, the watch is over too.
func (k *Keeper) Watch(app *App, sid SID) *Watch {
	s := &k.watches[int(sid[0])%len(k.watches)]
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.bySID[sid]
	switch {
	case w == nil || w.users == 0 && (w.asking || w.app != app):
		w = &Watch{app: app, sid: sid, shard: s}
		w.ctx, w.cancel = context.WithCancelCause(context.Background())
		s.bySID[sid] = w
	case w.users == 0: // a page's requests come one after another
		w.until, w.swept, w.asked, w.header, w.wanted = time.Time{}, false, time.Time{}, nil, time.Time{}
	}
	w.users++
	return w
}

// Stop ends one request's interest.
func (w *Watch) Stop() {
	if w == nil {
		return
	}
	w.shard.mu.Lock()
	defer w.shard.mu.Unlock()
	w.users--
}

// Until notes when the session, which has been opened, ends at the latest.
func (w *Watch) Until(end time.Time) {
	if w == nil {
		return
	}
	w.shard.mu.Lock()
	defer w.shard.mu.Unlock()
	w.until = end
}

// Done is closed when the session is over.
func (w *Watch) Done() <-chan struct{} {
	if w == nil {
		return nil
	}
	return w.ctx.Done()
}

// Err is why the watch is over, and nil while it isn't: [ErrNoSession], an
// [*EndedError], whose reason may not be the true one, or an [*UnavailableError].
func (w *Watch) Err() error {
	if w == nil {
		return nil
	}
	return context.Cause(w.ctx)
}

// AfterFunc calls f in a goroutine of its own when the session is over, unless
// stop is called before, which then returns true.
func (w *Watch) AfterFunc(f func()) (stop func() bool) {
	if w == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(w.ctx, f)
}

// watchShard is a part of the sessions with an answer under way.
type watchShard struct {
	mu    sync.Mutex
	bySID map[SID]*Watch
}

type watches [64]watchShard

func newWatches() *watches {
	var ws watches
	for i := range ws {
		ws[i].bySID = map[SID]*Watch{}
	}
	return &ws
}

// end ends the watch of a session, if there is one. Whoever watches from now on
// gets another: an event may be wrong about a session that lives.
func (ws *watches) end(sid SID, why error) {
	s := &ws[int(sid[0])%len(ws)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.bySID[sid]; w != nil {
		delete(s.bySID, sid)
		w.cancel(why)
	}
}

// over tells all in this process that a session has ended.
func (k *Keeper) over(sid SID, why error) {
	k.ends.add(sid)
	k.watches.end(sid, why)
}

// sweep looks at all watches until ctx is done.
func (k *Keeper) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			k.sweepOnce(ctx)
		}
	}
}

// sweepOnce ends the watches whose time is over, and asks Redis about those that
// only it can judge.
func (k *Keeper) sweepOnce(ctx context.Context) {
	hearing, now := k.store.Hearing(), k.time()
	var ask []*Watch
	for i := range k.watches {
		s := &k.watches[i]
		s.mu.Lock()
		for _, w := range s.bySID {
			if w.users == 0 {
				delete(s.bySID, w.sid)
				continue
			}
			switch why := k.timeIsUp(w, now, k.store.LastNotBefore(appID(w.app.Name))); {
			case why == nil:
			case why == errIdle:
				ask = append(ask, w) // it may have been used at another replica
				w.asking = true
				continue
			default:
				delete(s.bySID, w.sid)
				w.cancel(why)
				continue
			}
			// Most answers are over by the second sweep, and cost Redis nothing. What
			// the others were opened by may be what has been missed since.
			if w.header == nil && w.swept || w.header != nil && time.Since(w.asked) >= min(hearing, askInterval) {
				ask = append(ask, w)
				w.asking = true
			}
			w.swept = true
		}
		s.mu.Unlock()
	}
	if len(ask) > 0 {
		k.askAbout(ctx, ask)
	}
}

var errIdle error = &EndedError{Reason: ReasonIdleTimeout}

// timeIsUp returns why a session must be over, as far as is known of it. The
// caller holds the shard's mutex.
func (k *Keeper) timeIsUp(w *Watch, now, notBefore time.Time) error {
	if !w.until.IsZero() && !now.Before(w.until) {
		return &EndedError{Reason: ReasonAbsoluteTimeout}
	}
	r := w.header
	if r == nil {
		return nil
	}
	if r.CreatedAt.Before(notBefore) {
		return errOver
	}
	if !now.Before(r.ExpiresAt) {
		return &EndedError{Reason: ReasonAbsoluteTimeout}
	}
	idle, seen := w.app.IdleTimeout, r.SeenAt
	if r.Remembered {
		idle = w.app.Remember
	}
	if at, ok := k.seen.unwritten.GetIfPresent(w.sid); ok && at.After(seen) {
		seen = at
	}
	if idle > 0 && now.Sub(seen) >= idle {
		return errIdle
	}
	return nil
}

// askAbout reads the records of watched sessions and judges them by what they say.
func (k *Keeper) askAbout(ctx context.Context, ask []*Watch) {
	sids := make([][16]byte, len(ask))
	for i, w := range ask {
		sids[i] = w.sid
	}
	asked := time.Now()
	found, unreadable, err := k.headers(ctx, sids)
	now := k.time()
	for _, w := range ask {
		w.shard.mu.Lock()
		w.asking = false
		why := k.answered(w, found, cmp.Or(err, unreadable[w.sid]), asked, now)
		if why != nil && w.shard.bySID[w.sid] == w {
			delete(w.shard.bySID, w.sid)
		}
		w.shard.mu.Unlock()
		if why != nil {
			w.cancel(why)
		}
	}
}

// answered takes Redis's answer, and returns why the watch is over, if it is. The
// caller holds the shard's mutex.
func (k *Keeper) answered(w *Watch, found map[[16]byte]store.Record, err error, asked, now time.Time) error {
	if err != nil {
		if w.wanted.IsZero() {
			w.wanted = asked
		}
		if asked.Sub(w.wanted) < max(blindLimit, w.app.CacheTTL) {
			return nil
		}
		return &UnavailableError{RetryAfter: storeRetryAfter, Err: err}
	}
	w.wanted = time.Time{}
	r, ok := found[w.sid]
	switch {
	case !ok || r.App != appID(w.app.Name):
		return ErrNoSession
	case r.Ended:
		k.ends.add(w.sid)
		return &EndedError{Reason: reasonOf(r.Reason), Locked: k.locked(r)}
	}
	w.header, w.asked = &r, asked
	return k.timeIsUp(w, now, time.Time{})
}
