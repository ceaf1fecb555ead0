package session

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/cloakroom/cloakroom/session/store"
)

// exchange is one attempt at trading a refresh token, by the holder of the
// session's lease.
type exchange struct {
	k            *Keeper
	app          *App
	keys         *Keyring // what is read and written with, to the end
	view         *view
	attempt      store.Attempt
	record       store.Record // as claimed
	predecessors []store.Predecessor
	stays        func() bool
	probe        bool      // others wait for this call
	redis, local time.Time // the clocks as it was claimed
}

// renew keeps the lease until the returned function is called.
func (e *exchange) renew(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(leaseTTL / 3)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				// A renewal that fails is made up for by the next: the lease only
				// tells others whom to wait for.
				e.k.store.Claim(ctx, e.view.SID, e.view.version, e.attempt, leaseTTL)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// errNotOurs: the latch is another's, or Redis didn't say. Nothing was sent.
var errNotOurs = errors.New("session: the refresh token is not this attempt's to send")

// present asks the provider and deals with the answer.
func (e *exchange) present(ctx context.Context) (*view, error) {
	k, app, v := e.k, e.app, e.view
	var latch error // why the latch was not set
	var latched time.Time
	sending := func() error {
		answer, err := k.store.Send(ctx, v.SID, v.version, e.attempt, leaseTTL)
		if err != nil {
			latch = k.unavailable(ctx, err)
		} else if answer.Result != store.OK {
			latch = errNotOurs
		} else if !k.isWhole() {
			// Redis was replaced after the session was judged: the record, and this
			// latch in it, may be of before a commit.
			latch = &UnavailableError{RetryAfter: storeRetryAfter, Err: errNotWhole}
		}
		if latch == nil {
			latched = k.now()
		}
		return latch
	}
	ask := func(sending func() error) Refreshed {
		ctx, cancel := context.WithTimeout(ctx, answerLimit)
		defer cancel()
		return app.Refresh(ctx, v.Session, sending)
	}
	r := ask(sending)
	if r.Outcome == OutcomeUnknown && k.now().Sub(latched) < app.RefreshReuse/2 {
		// The provider has declared that a second use so soon is no reuse.
		k.count(app, v, r)
		if again := ask(func() error {
			if k.now().Sub(latched) >= app.RefreshReuse {
				return errNotOurs
			}
			return nil
		}); again.Outcome != OutcomeNotSent && again.Outcome != OutcomeUnspent {
			r = again // else the first presentation is as unknown as before
		}
	}
	if latch != nil {
		e.withdraw(ctx)
		if e.probe {
			k.store.PassBackoff(ctx, app.Name) // if it fails, the probe runs out
		}
		if latch == errNotOurs {
			k.forget(v.SID)
			return nil, nil
		}
		return nil, latch
	}
	k.count(app, v, r)
	if e.probe && (r.Outcome == OutcomeSpent || r.Outcome == OutcomeRejected || r.Outcome == OutcomeForeign) {
		k.store.LeaveBackoff(ctx, app.Name) // if it fails, the next probe says so again
	}
	switch r.Outcome {
	case OutcomeSpent:
		return e.commit(ctx, r, true)
	case OutcomeRejected:
		return nil, e.rejected(ctx, "invalid_grant")
	case OutcomeForeign:
		k.alarm(app, v.SID, "foreign_subject")
		e.revoke(ctx, r.Tokens.Refresh)
		return nil, e.rejected(ctx, "foreign_subject")
	case OutcomeNotSent, OutcomeUnspent:
		e.withdraw(ctx)
		if r.Local {
			if e.probe {
				k.store.PassBackoff(ctx, app.Name) // if it fails, the probe runs out
			}
			return nil, &UnavailableError{Provider: true, RetryAfter: time.Second, Err: errors.New("refresh: this replica can't send it")}
		}
	default:
		// Nobody knows whether the token was spent. Only one that the provider
		// doesn't replace may be presented again at once.
		if v.refreshKept {
			e.withdraw(ctx)
		} else {
			e.persist(ctx, func(ctx context.Context) (store.Answer, error) {
				return k.store.Release(ctx, v.SID, v.version, e.attempt)
			})
		}
	}
	wait, err := k.store.FailBackoff(ctx, app.Name, r.RetryAfter)
	if err != nil {
		wait = time.Second
	}
	return nil, k.leaveAlone(app, wait, errors.New("refresh: "+r.Outcome.String()))
}

func (k *Keeper) count(app *App, v *view, r Refreshed) {
	k.metrics.refreshes.WithLabelValues(app.Name, r.Outcome.String()).Inc()
	level := slog.LevelWarn
	switch {
	case r.Outcome == OutcomeSpent:
		level = slog.LevelDebug
	case r.Misconfigured || r.Outcome == OutcomeForeign:
		level = slog.LevelError
	}
	attrs := []slog.Attr{slog.String("app", app.Name), slog.Any("sid", v.SID), slog.String("outcome", r.Outcome.String())}
	if r.Err != nil {
		attrs = append(attrs, slog.String("err", r.Err.Error()))
	}
	k.log.LogAttrs(context.Background(), level, "refresh", attrs...)
}

// rejected ends the session if the record still holds the token that the
// provider refused for cause.
func (e *exchange) rejected(ctx context.Context, cause string) error {
	answer, ok := e.persist(ctx, func(ctx context.Context) (store.Answer, error) {
		return e.k.store.EndAttempt(ctx, e.view.SID, appID(e.app.Name), ReasonRefreshRejected.code(), e.view.version, e.attempt)
	})
	if !ok || answer.Result != store.OK {
		return nil // whatever happened, judge again
	}
	if e.record.Unknowns > 0 {
		cause = "answer_unknown"
	}
	e.k.ended(e.app, e.view.SID, ReasonRefreshRejected, store.Lock{}, slog.String("cause", cause))
	return &EndedError{Reason: ReasonRefreshRejected}
}

// advance makes the next ticket where there is nothing to refresh: a stolen
// ticket has to give itself away there, too.
func (e *exchange) advance(ctx context.Context) (*view, error) {
	if !e.view.current {
		e.withdraw(ctx)
		return nil, nil
	}
	same := e.view.Tokens
	same.IssuedAt = e.k.now()
	return e.commit(ctx, Refreshed{Tokens: same}, false)
}

// commit keeps the new tokens: under a new ticket if the current one was shown,
// else under the same. sent says that a refresh token was.
func (e *exchange) commit(ctx context.Context, r Refreshed, sent bool) (*view, error) {
	k, app, v := e.k, e.app, e.view
	s := *v.Session
	old := s.Tokens
	s.Tokens = r.Tokens.shared(e.redis, e.local)
	s.refreshKept = r.Tokens.Refresh == "" || r.Tokens.Refresh == old.Refresh
	if r.Tokens.Refresh == "" {
		s.Tokens.Refresh = old.Refresh
		s.Tokens.RefreshExpiresAt = old.RefreshExpiresAt
	}
	if r.Tokens.ID == "" {
		s.Tokens.ID = old.ID
	}
	if r.Tokens.Scope == "" {
		s.Tokens.Scope = old.Scope // RFC 6749 §5.1: omitted if unchanged
	}
	if r.Claims != nil {
		s.Claims = r.Claims
	}
	body, err := parseSections(e.record.Body)
	if err != nil {
		return nil, k.alarm(app, v.SID, "box")
	}
	_, key := e.keys.first()
	inPlace := store.Change{Kind: store.InPlace, Version: v.version, Attempt: e.attempt, Sent: sent, Key: key, Settle: app.settle()}
	change, ticket := inPlace, v.ticket
	if v.current && e.record.Confirmed && len(e.predecessors) < store.MaxPredecessors {
		if next, c, err := e.keys.succession(app, v.ticket, e.record.Generation, e.predecessors, inPlace); err == nil {
			change, ticket = c, next
		} else {
			k.alarm(app, v.SID, "successor")
		}
	}
	for lean := false; ; {
		s.Generation = ticket.Generation
		halves := v.split
		if halves != nil && change.Kind == store.Advance {
			halves = v.split.succeed()
		}
		change.Body = e.keys.pack(app.Name, ticket, &s, body, halves)
		if len(change.Body) > store.MaxBody {
			// What came is spent for. A session can do without the newest claims, and
			// without an ID token, which is a hint to who logs out.
			k.alarm(app, v.SID, "too_large")
			if lean {
				e.revoke(ctx, s.Tokens.Refresh)
				return nil, e.rejected(ctx, "too_large")
			}
			lean, s.Tokens.ID, s.Claims = true, "", v.Claims
			continue
		}
		var asked time.Time
		answer, ok := e.persist(ctx, func(ctx context.Context) (store.Answer, error) {
			asked = k.now()
			if change.Kind == store.Advance {
				change.Handed = e.stays()
			}
			return k.store.Commit(ctx, v.SID, change)
		})
		if !ok {
			return nil, &UnavailableError{RetryAfter: storeRetryAfter, Err: errHeldTooLong}
		}
		switch answer.Result {
		case store.OK:
			k.changed(v.SID, change)
			// The end of a whole app is in no record, so this commit has not found it.
			notBefore, err := k.store.NotBefore(ctx, appID(app.Name))
			if err != nil {
				return nil, k.unavailable(ctx, err)
			}
			if s.CreatedAt.Before(notBefore) {
				err := k.expire(ctx, app, v.SID, ReasonRevoked)
				e.revoke(ctx, s.Tokens.Refresh)
				return nil, err
			}
			next := e.committed(&s, ticket, change, answer, asked)
			next.split = halves
			return next, nil
		case store.Full:
			change, ticket = inPlace, v.ticket
			continue
		case store.Ended:
			e.revoke(ctx, s.Tokens.Refresh)
			return nil, &EndedError{Reason: reasonOf(answer.Record.Reason), Locked: k.locked(answer.Record)}
		case store.None:
			e.revoke(ctx, s.Tokens.Refresh)
			return nil, nil
		default:
			// Not ended, so nothing is revoked: it might be in use.
			k.alarm(app, v.SID, "commit_refused")
			k.forget(v.SID)
			return nil, nil
		}
	}
}

var errHeldTooLong = errors.New("new tokens could not be stored")

// committed is the session as this exchange left it.
func (e *exchange) committed(s *Session, t Ticket, change store.Change, answer store.Answer, sent time.Time) *view {
	k, app := e.k, e.app
	v := *e.view
	s.unknown = nil
	v.Session, v.ticket, v.record, v.version, v.now = s, t, answer.Record, answer.Record.Version, answer.Now
	v.predecessors, v.handout = nil, nil
	if change.Kind == store.Advance {
		v.current = false
		// Redis's record says whether the first run of this commit handed it out.
		if !answer.Record.HandedAt.IsZero() && change.Handed {
			v.handout = k.handout(app, t, sent, answer)
		}
		k.audit("ticket advanced", app, s.SID, slog.Uint64("generation", t.Generation), slog.Bool("handed_out", v.handout != nil))
	} else {
		k.audit("tokens refreshed in place", app, s.SID, slog.Uint64("generation", t.Generation))
	}
	k.cache.hear(store.Event{SID: s.SID, Generation: t.Generation}, k.now())
	return &v
}

// withdraw takes the mark, if it was set, and the lease back.
func (e *exchange) withdraw(ctx context.Context) {
	e.persist(ctx, func(ctx context.Context) (store.Answer, error) {
		return e.k.store.Withdraw(ctx, e.view.SID, e.view.version, e.attempt)
	})
}

// persist runs a change until Redis has taken it, or the session would be over
// anyway. The lease is renewed meanwhile.
func (e *exchange) persist(ctx context.Context, change func(context.Context) (store.Answer, error)) (store.Answer, bool) {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		answer, err := change(ctx)
		if err == nil {
			return answer, true
		}
		if !e.k.now().Before(e.view.ExpiresAt) {
			return store.Answer{}, false
		}
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return store.Answer{}, false
		}
	}
}

// revoke hands back tokens that came to a session that has ended.
func (e *exchange) revoke(ctx context.Context, t RefreshToken) {
	if e.app.Revoke == nil || t == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	e.app.Revoke(ctx, t)
}
