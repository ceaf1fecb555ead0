// Package session keeps signed-in browsers' tokens on the server, so that each
// is usable only with the ticket that its browser holds.
//
// A login begins a session and makes its first [Ticket], which goes into a
// cookie. The tokens are sealed into a box that only the ticket opens, and the
// box goes into Redis ([github.com/cloakroom/cloakroom/session/store]). Each
// request shows its ticket to [Keeper.Open], which judges it, refreshes the
// tokens where need be, and says whether this request's answer hands the next
// ticket out. Ticket and refresh token are a pair: a refresh makes the next
// generation of both, and the older ticket keeps working only until its
// successor has been shown, and a grace longer. Whoever shows a superseded
// ticket ends the session.
//
// What is under way when a session ends is told by a [Watch], and a bearer token
// that was handed out from it is refused by [Keeper.Vouch]; both on every replica,
// from what the replicas tell each other, and by asking Redis where a replica may
// have missed something.
//
// The package promises, in this order: a ticket never opens another's session;
// an ended session stays dead; trouble ends no session. What it asks for: a
// request and its answer are under way for less than the grace, and the clocks
// of Redis's nodes agree within a third of it. It knows no HTTP and no OpenID
// Connect: the provider is an [App]'s two functions.
//
// docs/sessions.md has the protocol, the record and test vectors.
package session

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/cloakroom/cloakroom/session/store"
)

// Keeper begins, opens, refreshes and ends sessions. It is safe for concurrent
// use and lives as long as the process.
type Keeper struct {
	store   *store.Store
	keys    atomic.Pointer[Keyring]
	log     *slog.Logger
	now     func() time.Time
	metrics *metrics
	cache   *cache
	seen    *seen
	ends    *ends
	owners  *owners
	watches *watches
	journal *journal
	pulse   pulse
	whole   atomic.Uint64 // the epoch in which what is on record can be refreshed
	settled atomic.Uint64 // the epoch in which all has been run again

	mu      sync.Mutex // guards flights, quiet, refused and calls
	flights map[SID]*flight
	quiet   map[string]time.Time     // app: when its provider may be called again
	refused map[string]refusal       // app: until when there is no use in asking for a place
	calls   map[string]chan struct{} // app: a place for each call under way
	looked  *otter.Cache[SID, look]  // what a look at a lone mark told, for a moment
	flying  sync.WaitGroup
}

// Options are a Keeper's optional parts.
type Options struct {
	Log     *slog.Logger          // nil: nothing is logged
	Metrics prometheus.Registerer // nil: nothing is measured
	Now     func() time.Time      // nil: time.Now
}

// New returns a Keeper over st. Call [Keeper.Run] to make it listen.
func New(st *store.Store, keys *Keyring, opts Options) *Keeper {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	k := &Keeper{
		store:   st,
		log:     opts.Log,
		now:     opts.Now,
		metrics: newMetrics(opts.Metrics),
		cache:   newCache(),
		seen:    newSeen(),
		ends:    newEnds(),
		owners:  newOwners(),
		watches: newWatches(),
		journal: newJournal(),
		flights: map[SID]*flight{},
		quiet:   map[string]time.Time{},
		refused: map[string]refusal{},
		calls:   map[string]chan struct{}{},
		looked: otter.Must(&otter.Options[SID, look]{
			MaximumSize:      newsEntries,
			ExpiryCalculator: otter.ExpiryWriting[SID, look](lookAgain),
		}),
	}
	k.keys.Store(keys)
	return k
}

// ReplaceKeys has the Keeper use other server keys from now on. What is under way
// ends with those that it began with, so a key that has written within the last
// minute must be among them, and one that still opens sessions too: what no key
// opens is an alarm and no session.
func (k *Keeper) ReplaceKeys(keys *Keyring) { k.keys.Store(keys) }

// Run listens to the other replicas until ctx is done. Without it nothing is
// cached.
func (k *Keeper) Run(ctx context.Context) {
	var working sync.WaitGroup
	defer working.Wait()
	working.Go(func() { k.sweep(ctx) })
	working.Go(func() { k.repeat(ctx) })
	working.Go(func() { k.pulse.run(ctx) })
	k.store.Run(ctx, func(e store.Event) {
		k.cache.hear(e, k.now())
		if e.Ended {
			k.journal.revoke(e.SID)
			k.over(e.SID, errOver)
		}
		k.wake(e.SID)
	})
}

// Wait returns when no refresh is under way, or with ctx's error.
func (k *Keeper) Wait(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		k.flying.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// time is Redis's, as far as this replica knows it.
func (k *Keeper) time() time.Time {
	if t, ok := k.store.Now(); ok {
		return t
	}
	return k.now()
}

// longestLogin is how large a new session may be: half of what can be kept, so that
// what a refresh brings fits in as well.
const longestLogin = store.MaxBody / 2

// shared turns times by this process's clock into Redis's, the one clock that
// all replicas have: which said redis when this one said local. The distance is
// told by the monotonic clock, since the other may have been set meanwhile.
func (t Tokens) shared(redis, local time.Time) Tokens {
	for _, at := range []*time.Time{&t.IssuedAt, &t.ExpiresAt, &t.RefreshExpiresAt} {
		if !at.IsZero() {
			*at = redis.Add(at.Sub(local))
		}
	}
	return t
}

// Begin starts a session and returns its first ticket. Its error is an
// [*EndedError] if the person is locked out, has been logged out at the provider
// meanwhile, or has begun as many later sessions at the same time as there may be;
// [ErrTooLarge]; an [*UnavailableError]; or ctx's. Then nothing has begun that
// anybody could open.
func (k *Keeper) Begin(ctx context.Context, app *App, l Login) (Ticket, error) {
	t := Ticket{SID: NewSID(), Generation: 1, Secret: newSecret()}
	now := k.time()
	s := &Session{
		SID:             t.SID,
		Generation:      t.Generation,
		Tokens:          l.Tokens.shared(now, k.now()),
		Issuer:          l.Issuer,
		Subject:         l.Subject,
		ProviderSession: l.ProviderSession,
		AuthTime:        l.AuthTime,
		Claims:          l.Claims,
		CreatedAt:       now,
		ExpiresAt:       now.Add(app.AbsoluteTimeout),
		Remembered:      l.Remember && app.Remember > 0,
	}
	if s.Remembered {
		s.ExpiresAt = now.Add(app.Remember)
	}
	var halves *split
	if app.SplitKey {
		halves = &split{local: newLocalKey(), open: true, held: []*LocalKey{nil}} // it waits for who shows the ticket
	}
	keys := k.keys.Load()
	_, key := keys.first()
	record := store.Record{
		App:        appID(app.Name),
		Key:        key,
		Version:    1,
		Generation: t.Generation,
		Hash:       t.Secret.Hash(),
		Confirmed:  true, // there is no predecessor to give up
		CreatedAt:  now,
		SeenAt:     now,
		ExpiresAt:  s.ExpiresAt,
		Remembered: s.Remembered,
		Body:       keys.pack(app.Name, t, s, sections{{bodyLabel, keys.label(app.Name, t.SID, l)}}, halves),
	}
	if len(record.Body) > longestLogin {
		return Ticket{}, ErrTooLarge
	}
	if err := k.store.Begin(ctx, t.SID, record); err != nil {
		return Ticket{}, k.unavailable(ctx, err)
	}
	again, err := k.register(ctx, app, s, l)
	if err != nil {
		// Nobody holds the ticket; the record must not stay behind it.
		k.End(context.WithoutCancel(ctx), app, t.SID, ReasonRevoked)
		return Ticket{}, err
	}
	k.begun(app, t.SID, record, again)
	k.seen.written.Set(t.SID, now)
	k.metrics.begun.WithLabelValues(app.Name).Inc()
	k.audit("session begun", app, t.SID, slog.Uint64("generation", t.Generation))
	return t, nil
}

// End ends a session, whatever refreshes are in flight. A session that has
// ended, or never was, is no error: ending is idempotent. Its error is an
// [*UnavailableError] or ctx's; then the session may live on.
func (k *Keeper) End(ctx context.Context, app *App, sid SID, reason Reason) error {
	_, err := k.end(ctx, app, sid, reason, store.Lock{})
	return err
}

// end reports whether it was this call that ended the session.
func (k *Keeper) end(ctx context.Context, app *App, sid SID, reason Reason, lock store.Lock) (bool, error) {
	answer, err := k.store.End(ctx, sid, appID(app.Name), reason.code(), lock)
	if err != nil {
		return false, k.unavailable(ctx, err)
	}
	switch answer.Result {
	case store.OK:
		k.ended(app, sid, reason, lock)
		return true, nil
	case store.Ended:
		k.cache.hear(store.Event{SID: sid, Ended: true}, k.now())
	case store.Foreign:
		return false, k.alarm(app, sid, "record_format")
	case store.None:
		if k.mayReturn() {
			return false, &UnavailableError{RetryAfter: storeRetryAfter, Err: errNotWhole}
		}
	}
	return false, nil
}

// MayHandOut reports whether h may still leave: its time is not over, and this
// replica knows of no newer ticket and of no end.
func (k *Keeper) MayHandOut(h *Handout) bool {
	return h != nil && k.now().Before(h.until) && k.cache.newest(h.Ticket.SID, h.Ticket.Generation)
}

// ended notes an end that this replica made.
func (k *Keeper) ended(app *App, sid SID, reason Reason, lock store.Lock, more ...slog.Attr) {
	k.buried(app, sid, reason, lock)
	k.cache.hear(store.Event{SID: sid, Ended: true}, k.now())
	k.over(sid, &EndedError{Reason: reason})
	k.metrics.ended.WithLabelValues(app.Name, string(reason)).Inc()
	k.audit("session ended", app, sid, append(more, slog.String("reason", string(reason)))...)
}

// audit writes a line that operators keep.
func (k *Keeper) audit(message string, app *App, sid SID, more ...slog.Attr) {
	attrs := append([]slog.Attr{slog.Bool("audit", true), slog.String("app", app.Name), slog.Any("sid", sid)}, more...)
	k.log.LogAttrs(context.Background(), slog.LevelInfo, message, attrs...)
}

// alarm reports what should not be: the session is left as it is.
func (k *Keeper) alarm(app *App, sid SID, kind string) *UnavailableError {
	k.metrics.alarms.WithLabelValues(app.Name, kind).Inc()
	k.log.LogAttrs(context.Background(), slog.LevelError, "session alarm",
		slog.Bool("audit", true), slog.String("app", app.Name), slog.Any("sid", sid), slog.String("alarm", kind))
	return &UnavailableError{RetryAfter: storeRetryAfter, Err: errAlarm(kind)}
}

type errAlarm string

func (e errAlarm) Error() string { return string(e) }

// storeRetryAfter is what clients are told when Redis doesn't answer.
const storeRetryAfter = 2 * time.Second

// unavailable turns a store's error into what the caller gets: a caller that
// has gone learns that, not that the store is down.
func (k *Keeper) unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &UnavailableError{RetryAfter: storeRetryAfter, Err: err}
}
