package session

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/cloakroom/cloakroom/session/store"
)

// view is a session as one ticket opened it.
type view struct {
	*Session
	ticket       Ticket // the current one: the shown one, or derived from it
	current      bool   // the shown ticket is the current one
	settled      bool   // the successor was lost: another may be issued
	version      uint64
	seenAt       time.Time
	now          time.Time // Redis's
	predecessors []store.Predecessor
	record       store.Record
	handout      *Handout
	splitKey     bool   // the refresh token needs the local key
	split        *split // of a split session that the request unlocked
}

// reuseVerdictAge is how late a verdict of reuse still ends a session. Redis may
// have judged long after the request: a late verdict is no proof of anything.
const reuseVerdictAge = 2 * time.Second

// limitMargin is how close to a time limit only Redis itself is asked.
const limitMargin = time.Second

func (a *App) hold() time.Duration   { return a.Grace / 3 }
func (a *App) settle() time.Duration { return 3 * a.Grace }

// idle is the idle timeout of a session; 0: none.
func (a *App) idle(s *Session) time.Duration {
	if s.Remembered {
		return a.Remember
	}
	return a.IdleTimeout
}

// interval is how often last-seen is written at most.
func (a *App) interval() time.Duration {
	if a.IdleTimeout > 0 && a.IdleTimeout < 10*time.Minute {
		return a.IdleTimeout / 10
	}
	return time.Minute
}

// judge opens a ticket once: from the cache, by a plain read where nothing is to
// be written, or by the script.
func (k *Keeper) judge(ctx context.Context, app *App, t Ticket, need Need) (*view, error) {
	sent, glance := k.now(), k.store.Glance()
	shared, now, err := k.recall(app, t, need, sent, glance)
	if err != nil {
		return nil, err
	}
	if shared != nil {
		v := *shared
		v.now = now
		return &v, nil
	}
	return k.inquire(ctx, app, t, need, sent, glance.Ear())
}

// recall opens a ticket from the cache, if it may: the view is shared, and was
// judged at the time that comes with it. Without one, Redis has to be asked.
func (k *Keeper) recall(app *App, t Ticket, need Need, sent time.Time, glance store.Glance) (*view, time.Time, error) {
	if k.store.Lame(t.SID) {
		return nil, time.Time{}, &UnavailableError{RetryAfter: storeRetryAfter, Err: errLame}
	}
	e, ok := k.cache.find(app.Name, t)
	if !ok || e.ended == nil && need.Local && e.view.splitKey {
		return nil, time.Time{}, nil
	}
	if e.ended != nil {
		return nil, time.Time{}, e.ended
	}
	ear := glance.Ear()
	if ear != 0 && e.ear == ear && sent.Sub(e.stored) < app.CacheTTL {
		now, ok := glance.Now()
		if !ok {
			now = sent
		}
		if !e.view.CreatedAt.Before(glance.NotBefore(e.view.record.App)) && !k.due(app, e.view, need, now) {
			k.metrics.fromCache.Inc()
			return e.view, now, nil
		}
	}
	return nil, time.Time{}, nil
}

// inquire opens a ticket by what Redis says.
func (k *Keeper) inquire(ctx context.Context, app *App, t Ticket, need Need, sent time.Time, ear uint64) (*view, error) {
	if ear != 0 {
		if seen, ok := k.seen.written.GetIfPresent(t.SID); ok && (!need.Activity || k.time().Sub(seen) < app.interval()) {
			v, err := k.read(ctx, app, t, need)
			if v != nil || err != nil {
				if v != nil {
					k.keep(app, v, sent, ear)
				}
				return v, err
			}
		}
	}
	v, err := k.ask(ctx, app, t, need, sent)
	if err != nil {
		return nil, err
	}
	if v.current && v.record.Confirmed {
		k.keep(app, v, sent, ear)
	}
	return v, nil
}

var errLame = errors.New("the store takes no writes")

func (k *Keeper) keep(app *App, v *view, sent time.Time, ear uint64) {
	if app.CacheTTL <= 0 || ear == 0 {
		return
	}
	kept := *v
	kept.record.Body, kept.predecessors, kept.handout = nil, nil, nil
	k.cache.keep(v.SID, &cached{app: app.Name, hash: v.ticket.Secret.Hash(), view: &kept, stored: sent, ear: ear, ttl: app.CacheTTL}, sent)
}

// due reports whether opening v now has anything to write: last-seen, or an end
// that may be near.
func (k *Keeper) due(app *App, v *view, need Need, now time.Time) bool {
	limit := v.ExpiresAt
	if idle := app.idle(v.Session); idle > 0 && v.seenAt.Add(idle).Before(limit) {
		limit = v.seenAt.Add(idle)
	}
	if r := v.Tokens.RefreshExpiresAt; !r.IsZero() && r.Before(limit) {
		limit = r
	}
	return limit.Sub(now) <= limitMargin || need.Activity && now.Sub(v.seenAt) >= app.interval()
}

// read answers a current, confirmed ticket with nothing to write by one plain
// read. It returns nil for all else: the script judges that, afresh.
func (k *Keeper) read(ctx context.Context, app *App, t Ticket, need Need) (*view, error) {
	record, found, err := k.store.Read(ctx, t.SID)
	if errors.Is(err, store.ErrUnreadable) {
		return nil, nil // and the script's judgement is an alarm
	}
	if err != nil {
		return nil, k.unavailable(ctx, err)
	}
	if !found || record.Ended || record.App != appID(app.Name) || !record.Confirmed ||
		record.Generation != t.Generation || record.Hash != t.Secret.Hash() {
		return nil, nil
	}
	if _, ok := k.keys.Load().find(record.Key); !ok {
		return nil, nil
	}
	v, err := k.view(ctx, app, t, store.Answer{Result: store.Current, Now: k.time(), Record: record})
	if err != nil || k.due(app, v, need, v.now) {
		return nil, err
	}
	k.metrics.fromRead.Inc()
	return v, nil
}

// ask has the script judge.
func (k *Keeper) ask(ctx context.Context, app *App, t Ticket, need Need, sent time.Time) (*view, error) {
	unwritten, _ := k.seen.unwritten.GetIfPresent(t.SID)
	keys := k.keys.Load()
	known := make([][4]byte, len(keys.ids))
	for i, id := range keys.ids {
		known[i] = id
	}
	answer, err := k.store.Open(ctx, t.SID, store.Presented{
		App:         appID(app.Name),
		KnownKeys:   known,
		Generation:  t.Generation,
		Hash:        t.Secret.Hash(),
		IdleTimeout: app.IdleTimeout,
		Remembered:  app.Remember,
		Grace:       app.Grace,
		Settle:      app.settle(),
		Interval:    app.interval(),
		Activity:    need.Activity,
		Cookie:      need.Cookie,
		SeenAt:      unwritten,
	})
	if err != nil {
		if need.Activity {
			k.seen.unwritten.Set(t.SID, k.time().Truncate(time.Millisecond))
		}
		return nil, k.unavailable(ctx, err)
	}
	k.metrics.fromScript.Inc()
	switch answer.Result {
	case store.Current, store.Handout, store.Superseding, store.Settled, store.InGrace:
	default:
		return nil, k.refuse(ctx, app, t, need, answer)
	}
	v, err := k.view(ctx, app, t, answer)
	if err != nil {
		return nil, err
	}
	v.settled = answer.Result == store.Settled
	if answer.Result == store.Handout {
		v.handout = k.handout(app, v.ticket, sent, answer)
	}
	switch { // refused: Redis is out of memory
	case need.Activity && answer.Now.Sub(v.seenAt) >= app.interval():
		k.seen.unwritten.Set(t.SID, answer.Now)
	case v.seenAt.Before(unwritten) && v.seenAt.Before(answer.Now):
	default:
		k.seen.written.Set(t.SID, v.seenAt)
		k.seen.unwritten.Invalidate(t.SID)
	}
	return v, nil
}

// handout is a successor whose cookie may leave within the hold, counted from
// before Redis was asked.
func (k *Keeper) handout(app *App, t Ticket, sent time.Time, answer store.Answer) *Handout {
	// A change that ran twice was made the first time.
	since := answer.Now.Sub(answer.Record.HandedAt)
	return &Handout{Ticket: t, until: sent.Add(app.hold() - since)}
}

// view opens the box with the shown ticket, forward along its successors.
func (k *Keeper) view(ctx context.Context, app *App, t Ticket, answer store.Answer) (*view, error) {
	ticket := t
	if t.Generation != answer.Record.Generation {
		var err error
		if ticket, err = k.keys.Load().forward(app.Name, t, &answer.Record, answer.Predecessors); err != nil {
			return nil, k.alarm(app, t.SID, "successor")
		}
	}
	s, err := k.keys.Load().unpack(app.Name, ticket, &answer.Record)
	if err != nil {
		return nil, k.alarm(app, t.SID, "box")
	}
	// The box is believed: what stands outside can't widen it.
	if !answer.Now.Before(s.ExpiresAt) {
		return nil, k.expire(ctx, app, t.SID, ReasonAbsoluteTimeout)
	}
	// Unlike the absolute end, this one moves: a refresh that is under way may
	// have been in time.
	if end := s.Tokens.RefreshExpiresAt; !end.IsZero() && !answer.Now.Before(end) && answer.Record.Sending == (store.Attempt{}) {
		return nil, k.outlived(ctx, app, t.SID, answer.Record.Version)
	}
	notBefore, err := k.store.NotBefore(ctx, appID(app.Name))
	if err != nil {
		return nil, k.unavailable(ctx, err)
	}
	if s.CreatedAt.Before(notBefore) {
		return nil, k.expire(ctx, app, t.SID, ReasonRevoked)
	}
	refreshBox, err := findSection(answer.Record.Body, bodyRefreshBox)
	if err != nil {
		return nil, k.alarm(app, t.SID, "box")
	}
	return &view{
		splitKey:     refreshBox != nil,
		Session:      s,
		ticket:       ticket,
		current:      t.Generation == answer.Record.Generation,
		version:      answer.Record.Version,
		seenAt:       answer.Record.SeenAt,
		now:          answer.Now,
		predecessors: answer.Predecessors,
		record:       answer.Record,
	}, nil
}

// errMoved: the session is not as it was judged. Judge again.
var errMoved = errors.New("session: judge again")

// outlived ends a session whose refresh token has died of age, unless it has
// got another meanwhile.
func (k *Keeper) outlived(ctx context.Context, app *App, sid SID, version uint64) error {
	answer, err := k.store.EndAttempt(ctx, sid, appID(app.Name), ReasonRefreshRejected.code(), version, store.Attempt{})
	if err != nil {
		return k.unavailable(ctx, err)
	}
	if answer.Result != store.OK {
		k.forget(sid)
		return errMoved
	}
	k.ended(app, sid, ReasonRefreshRejected, store.Lock{}, slog.String("cause", "refresh_token_expired"))
	return &EndedError{Reason: ReasonRefreshRejected}
}

// expire ends a session and tells so.
func (k *Keeper) expire(ctx context.Context, app *App, sid SID, reason Reason) error {
	if err := k.End(ctx, app, sid, reason); err != nil {
		return err
	}
	return &EndedError{Reason: reason}
}

// refuse turns a verdict that serves nothing into an error.
func (k *Keeper) refuse(ctx context.Context, app *App, t Ticket, need Need, answer store.Answer) error {
	switch answer.Result {
	case store.None:
		if k.mayReturn() {
			return k.alarm(app, t.SID, "store_behind")
		}
		return ErrNoSession
	case store.Ended, store.Expired:
		ended := &EndedError{Reason: reasonOf(answer.Record.Reason), Locked: k.locked(answer.Record)}
		if answer.Result == store.Expired {
			k.ended(app, t.SID, ended.Reason, store.Lock{})
		}
		// An end is final, so it may be remembered. A lock may be lifted.
		if !ended.Locked {
			k.cache.bury(t.SID, &cached{app: app.Name, ended: ended, ttl: endAge}, k.now())
		}
		return ended
	case store.Ahead:
		return k.alarm(app, t.SID, "ticket_ahead")
	case store.Lost:
		k.alarm(app, t.SID, "store_lost")
		return &EndedError{Reason: ReasonStoreLost}
	case store.Mismatch:
		k.alarm(app, t.SID, "secret_mismatch")
		return ErrNoSession
	case store.Reuse:
		if !k.timely(need, answer.Now, reuseVerdictAge) {
			return &UnavailableError{RetryAfter: storeRetryAfter, Err: errAlarm("late verdict")}
		}
		// On the server's context: a thief that hangs up doesn't save itself.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		return k.expire(end, app, t.SID, ReasonReuseDetected)
	case store.UnknownKey:
		return k.alarm(app, t.SID, "server_key")
	default:
		return k.alarm(app, t.SID, "record_format")
	}
}
