package session

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"github.com/cloakroom/cloakroom/session/store"
)

// freshness of an access token.
type freshness uint8

const (
	tokenFresh freshness = iota
	tokenDue             // serve it, and refresh it
	tokenOut             // of no use
)

// youngest is the age below which a token is not refreshed again: else a client,
// or a thief, could refresh at will.
const youngest = 30 * time.Second

// freshFor judges v's access token for need.
func freshFor(app *App, v *view, need Need, now time.Time) freshness {
	if !need.Token {
		return tokenFresh
	}
	t := &v.Tokens
	if app.Revalidate > 0 {
		// Where there is nothing to check, the ticket advances all the same, once it is
		// the current one that is shown.
		none := t.Refresh == "" && (!v.splitKey || v.split != nil)
		switch age := now.Sub(t.IssuedAt); {
		case age >= app.Revalidate+app.Revalidate/5 && !none:
			return tokenOut
		case age >= app.Revalidate && (!none || v.current):
			return tokenDue
		}
		return tokenFresh
	}
	life, left := t.ExpiresAt.Sub(t.IssuedAt), t.ExpiresAt.Sub(now)
	if left <= min(2*time.Second, life/10) {
		return tokenOut
	}
	if now.Sub(t.IssuedAt) < min(youngest, life/2) || t.Refresh == "" {
		return tokenFresh
	}
	if left < min(need.MinTTL, life/2) {
		return tokenOut
	}
	// A fifth of the life, less up to a fifth of that: sessions that began
	// together don't refresh together.
	jitter := time.Duration(v.SID[0]) * life / 5 / 5 / 256
	if left < life/5-jitter {
		return tokenDue
	}
	return tokenFresh
}

// flight is a refresh under way in this process. The goroutine that flies owns
// it: it alone fills in the result, closes done and removes it.
type flight struct {
	wake chan struct{} // news of the session
	done chan struct{}

	view *view // the session as committed; nil: judge again
	err  error
}

const (
	leaseTTL = 10 * time.Second
	// looksApart is how long a mark without a live lease stands before its token
	// is presented once more.
	looksApart = 30 * time.Second
	// lookAgain is how long what a look told is remembered.
	lookAgain = time.Second
	forever   = 365 * 24 * time.Hour
	// answerLimit bounds one exchange with the provider.
	answerLimit = 15 * time.Second
)

// refresh gets the session a live token: by its own exchange, for which it
// returns the session as committed, or by waiting for another's, for which it
// returns nil.
func (k *Keeper) refresh(ctx context.Context, app *App, v *view, need Need) (*view, error) {
	if v.Tokens.Refresh == "" {
		return nil, k.expire(ctx, app, v.SID, ReasonRefreshRejected)
	}
	stays := func() bool { return need.Cookie && ctx.Err() == nil }
	f, own := k.board(app, v, stays)
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if f.err != nil {
		// A token that lives, if not as long as asked for, is better than none.
		if _, trouble := errors.AsType[*UnavailableError](f.err); trouble && freshFor(app, v, Need{Token: true}, v.now) != tokenOut {
			return v, nil
		}
		return nil, f.err
	}
	if !own {
		return nil, nil
	}
	return f.view, nil
}

// refreshInBackground starts a refresh that nobody waits for. Its successor
// goes to the next bearer.
func (k *Keeper) refreshInBackground(app *App, v *view) {
	k.board(app, v, func() bool { return false })
}

// board joins the refresh that is under way, or starts one on the server's own
// context: a closed tab burns no refresh token. stays tells, at the commit,
// whether there is still a request whose answer can carry the successor.
func (k *Keeper) board(app *App, v *view, stays func() bool) (f *flight, own bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.flights[v.SID]; f != nil {
		return f, false
	}
	f = &flight{wake: make(chan struct{}, 1), done: make(chan struct{})}
	if wait := k.quiet[app.Name].Sub(k.now()); wait > 0 {
		f.err = &UnavailableError{Provider: true, RetryAfter: wait, Err: errBackoff}
		close(f.done)
		return f, false
	}
	if b := k.refused[app.Name]; k.now().Before(b.until) {
		f.err = b.err
		close(f.done)
		return f, false
	}
	if l, ok := k.looked.GetIfPresent(v.SID); ok && k.now().Sub(l.at) < lookAgain {
		f.err = l.told
		close(f.done)
		return f, false
	}
	k.flights[v.SID] = f
	k.flying.Go(func() {
		defer func() {
			k.mu.Lock()
			delete(k.flights, v.SID)
			k.mu.Unlock()
			close(f.done)
		}()
		f.view, f.err = k.fly(context.Background(), app, v, stays, f.wake)
	})
	return f, true
}

var errBackoff = errors.New("the provider is left alone for a moment")

// wake tells a flight that there is news of its session.
func (k *Keeper) wake(sid SID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.flights[sid]; f != nil {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

var errNotWhole = errors.New("redis has just been replaced: what it has may be old")

// fly takes the lease, asks the provider and commits. It returns nil, nil if
// the session has to be judged again.
func (k *Keeper) fly(ctx context.Context, app *App, v *view, stays func() bool, wake <-chan struct{}) (*view, error) {
	if !k.isWhole() {
		return nil, &UnavailableError{RetryAfter: storeRetryAfter, Err: errNotWhole}
	}
	attempt := newAttempt()
	answer, err := k.store.Claim(ctx, v.SID, v.version, attempt, leaseTTL)
	if err != nil {
		return nil, k.unavailable(ctx, err)
	}
	switch answer.Result {
	case store.OK:
	case store.Busy:
		k.await(ctx, v.SID, v.version, wake)
		k.forget(v.SID)
		return nil, nil
	case store.Sending:
		return nil, k.look(ctx, app, v)
	case store.Ended:
		return nil, &EndedError{Reason: reasonOf(answer.Record.Reason), Locked: k.locked(answer.Record)}
	case store.Foreign:
		return nil, k.alarm(app, v.SID, "record_format")
	default:
		k.forget(v.SID) // the session isn't as it was when it was kept
		return nil, nil
	}
	e := &exchange{k: k, app: app, keys: k.keys.Load(), view: v, attempt: attempt, record: answer.Record, predecessors: answer.Predecessors, stays: stays, redis: answer.Now, local: k.now()}
	if answer.Record.Hash != v.ticket.Secret.Hash() {
		// Redis lost what was judged, and came to this version by another way.
		e.withdraw(ctx)
		k.forget(v.SID)
		return nil, nil
	}
	defer e.renew(ctx)()
	if v.Tokens.Refresh == "" {
		return e.advance(ctx)
	}
	done, err := k.turn(ctx, app)
	if err != nil {
		e.withdraw(ctx)
		return nil, err
	}
	defer done()
	wait, probe, err := k.store.EnterBackoff(ctx, app.Name, answerLimit)
	if err != nil || wait > 0 {
		e.withdraw(ctx)
		if err != nil {
			return nil, k.unavailable(ctx, err)
		}
		return nil, k.leaveAlone(app, wait, errBackoff)
	}
	e.probe = probe
	return e.present(ctx)
}

func newAttempt() (a store.Attempt) {
	rand.Read(a[:])
	return a
}

// forget has the session judged by Redis next time.
func (k *Keeper) forget(sid SID) { k.cache.hear(store.Event{SID: sid}, k.now()) }

// leaveAlone remembers, in this process too, that the provider is left alone.
func (k *Keeper) leaveAlone(app *App, wait time.Duration, err error) error {
	k.mu.Lock()
	k.quiet[app.Name] = k.now().Add(wait)
	k.mu.Unlock()
	return &UnavailableError{Provider: true, RetryAfter: wait, Err: err}
}

// await returns when another replica's refresh is likely over: on news of the
// session, or when looking shows it, since news can be lost.
func (k *Keeper) await(ctx context.Context, sid SID, version uint64, wake <-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	pause, longest := 100*time.Millisecond, time.Second
	if k.store.Glance().Ear() != 0 {
		// News is rarely lost where it is heard, and of a herd thousands wait here.
		pause, longest = 500*time.Millisecond, 2*time.Second
	}
	for ; ; pause = min(2*pause, longest) {
		timer := time.NewTimer(pause)
		select {
		case <-wake:
			timer.Stop()
			return
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		record, found, err := k.store.Read(ctx, sid)
		if err == nil && (!found || record.Ended || record.Version != version || !record.LeaseUntil.After(k.time())) {
			return
		}
	}
}

// look is what a look at a lone mark told, and when.
type look struct {
	at   time.Time
	told *UnavailableError
}

// look deals with a mark that nobody stands behind: a replica died between
// sending and commit, or the answer was lost. Nobody knows whether the token was
// spent. Presenting it once more can only save the session, but it waits for the
// holder, which may be asleep, and for the provider to work.
func (k *Keeper) look(ctx context.Context, app *App, v *view) error {
	wait, _, err := k.store.EnterBackoff(ctx, app.Name, 0)
	if err != nil {
		return k.unavailable(ctx, err)
	}
	pause := looksApart
	if wait > 0 {
		pause = forever // a look all the same, but the token isn't presented to a provider that fails
	}
	allowed := 1
	if app.UnknownAnswerEnds {
		allowed = 0
	}
	answer, err := k.store.Look(ctx, v.SID, v.version, pause, allowed)
	if err != nil {
		return k.unavailable(ctx, err)
	}
	switch answer.Result {
	case store.Looked:
		left := looksApart - answer.Now.Sub(answer.Record.LookedAt)
		u := &UnavailableError{Provider: true, RetryAfter: max(left, wait, time.Second), Err: errUnknownAnswer}
		k.looked.Set(v.SID, look{k.now(), u})
		return u
	case store.Withdrawn:
		k.forget(v.SID)
		k.audit("refresh token presented once more", app, v.SID, slog.String("cause", "answer_unknown"))
		return nil
	case store.Spent:
		answer, err := k.store.EndAttempt(ctx, v.SID, appID(app.Name), ReasonRefreshRejected.code(), v.version, answer.Record.Sending)
		if err != nil {
			return k.unavailable(ctx, err)
		}
		if answer.Result == store.OK {
			k.ended(app, v.SID, ReasonRefreshRejected, store.Lock{}, slog.String("cause", "answer_unknown"))
		}
	}
	return nil
}

var errUnknownAnswer = errors.New("the provider's answer to a refresh is not known")
