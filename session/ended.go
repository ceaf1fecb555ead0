package session

import (
	"cmp"
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/cloakroom/cloakroom/session/store"
)

// ends is what this replica knows of sessions' ends and lives, so that a bearer
// token can be judged without asking Redis. It holds each end that was heard for
// at least endsLife, and cleans itself. So it speaks for a token that is younger
// than that, and was issued since the list is complete: its session was alive
// then. Of any other token's session the record is asked, once.
type ends struct {
	mu       sync.RWMutex
	over     [2]map[SID]struct{} // of this turn, and of the one before
	live     [2]map[SID]life     // never of a session that is in over
	turned   time.Time
	complete time.Time // when the list lost something last
}

// life is a session as its record was found, alive.
type life struct {
	app     [8]byte
	asked   time.Time // before Redis was, by this process's clock
	created time.Time // Redis's
}

const (
	// endsLife is longer than access tokens live, where they are short.
	endsLife = 10 * time.Minute
	// endsEntries bounds the list; what is above any replica's use starts it anew.
	endsEntries = 1 << 18
	// clockSkew is how far the clock that a token's issue was told by may be off.
	clockSkew = time.Minute
)

func newEnds() *ends {
	return &ends{
		over: [2]map[SID]struct{}{{}, {}}, live: [2]map[SID]life{{}, {}},
		turned: time.Now(), complete: time.Now(),
	}
}

// turn forgets what is old, and what is too much. The caller holds mu.
func (e *ends) turn() {
	now := time.Now()
	switch {
	case len(e.over[0]) >= endsEntries:
		e.over[0], e.live, e.complete = map[SID]struct{}{}, [2]map[SID]life{{}, {}}, now
	case now.Sub(e.turned) >= endsLife:
		e.over[1], e.live[1] = e.over[0], e.live[0]
		e.over[0], e.live[0], e.turned = map[SID]struct{}{}, map[SID]life{}, now
	case len(e.live[0]) >= endsEntries:
		e.live[0] = map[SID]life{}
	}
}

// add notes an end.
func (e *ends) add(sid SID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.turn()
	e.over[0][sid] = struct{}{}
	delete(e.live[0], sid)
	delete(e.live[1], sid)
}

// lives notes that a session's record was found alive, unless its end has been
// heard meanwhile.
func (e *ends) lives(sid SID, l life) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.turn()
	if !e.overLocked(sid) {
		e.live[0][sid] = l
	}
}

func (e *ends) overLocked(sid SID) bool {
	_, now := e.over[0][sid]
	_, before := e.over[1][sid]
	return now || before
}

// known is what a list says of a session.
type known struct {
	over  bool
	life  life // where alive
	alive bool
	// reach is for how long the list has held every end.
	reach time.Duration
}

// find looks a session up, for a replica that has heard everything for hearing.
func (e *ends) find(sid SID, hearing time.Duration) known {
	e.mu.RLock()
	defer e.mu.RUnlock()
	n := known{over: e.overLocked(sid), reach: min(hearing, time.Since(e.complete))}
	if n.over {
		return n
	}
	for _, m := range e.live {
		// What was asked before the list was complete may have ended unheard.
		if l, ok := m[sid]; ok && time.Since(l.asked) < n.reach {
			n.life, n.alive = l, true
			break
		}
	}
	return n
}

// Vouch judges the session that an access token was handed out from, and which
// came back as a bearer: nil means that it lives. It asks Redis only where this
// replica's own list of ends doesn't reach: about tokens from before the replica
// began to hear the others, once per session, and about each while it is deaf. A
// zero issuedAt is one that nobody knows. The error is [ErrNoSession], an
// [*EndedError], an [*UnavailableError] or ctx's.
func (k *Keeper) Vouch(ctx context.Context, app *App, sid SID, issuedAt time.Time) error {
	notBefore, err := k.store.NotBefore(ctx, appID(app.Name))
	if err != nil {
		return k.unavailable(ctx, err)
	}
	n := k.ends.find(sid, k.store.Hearing())
	if n.over {
		return errOver
	}
	// A token is younger than its session, as far as clocks agree.
	age := k.now().Sub(issuedAt) + clockSkew
	young := !issuedAt.IsZero() && age < min(n.reach, endsLife)
	if young && issuedAt.After(notBefore.Add(clockSkew)) {
		return nil
	}
	if !n.alive {
		lives, err := k.lives(ctx, app, sid)
		if err != nil {
			return err
		}
		if n.life, n.alive = lives[sid]; !n.alive {
			if k.ends.find(sid, 0).over {
				return errOver
			}
			return ErrNoSession
		}
	}
	if n.life.app != appID(app.Name) {
		return ErrNoSession
	}
	if n.life.created.Before(notBefore) {
		return errOver
	}
	return nil
}

var errOver error = &EndedError{Reason: ReasonRevoked}

// WhichOf returns the session among candidates of which all but one are noise.
// The error is [ErrNoSession], an [*UnavailableError] or ctx's.
func (k *Keeper) WhichOf(ctx context.Context, app *App, candidates [][16]byte) (SID, error) {
	if len(candidates) == 1 {
		return candidates[0], nil
	}
	hearing := k.store.Hearing()
	sids := make([]SID, len(candidates))
	for i, sid := range candidates {
		if n := k.ends.find(sid, hearing); n.over || n.alive && n.life.app == appID(app.Name) {
			return sid, nil
		}
		sids[i] = sid
	}
	lives, err := k.lives(ctx, app, sids...)
	if err != nil {
		return SID{}, err
	}
	for _, sid := range sids {
		if _, ok := lives[sid]; ok || k.ends.find(sid, 0).over {
			return sid, nil
		}
	}
	return SID{}, ErrNoSession
}

// lives asks Redis which of an app's sessions are alive, and remembers the answer.
func (k *Keeper) lives(ctx context.Context, app *App, sids ...SID) (map[SID]life, error) {
	ids := make([][16]byte, len(sids))
	for i, sid := range sids {
		ids[i] = sid
	}
	asked := time.Now()
	found, unreadable, err := k.headers(ctx, ids)
	for _, id := range ids {
		err = cmp.Or(err, unreadable[id])
	}
	if err != nil {
		return nil, k.unavailable(ctx, err)
	}
	lives := make(map[SID]life, len(found))
	for id, r := range found {
		switch {
		case r.App != appID(app.Name):
		case r.Ended:
			k.ends.add(id)
		case k.time().Before(r.ExpiresAt):
			l := life{app: r.App, asked: asked, created: r.CreatedAt}
			k.ends.lives(id, l)
			lives[id] = l
		}
	}
	return lives, nil
}

// headers reads records, unless Redis is not to be believed.
func (k *Keeper) headers(ctx context.Context, sids [][16]byte) (found map[[16]byte]store.Record, unreadable map[[16]byte]error, err error) {
	if k.store.Lame(sids...) {
		return nil, nil, errLame
	}
	return k.store.Headers(ctx, sids)
}

// VouchForStranger judges a bearer token that no session of ours handed out: by
// what holds for all of the app's sessions. The error is as [Keeper.Vouch]'s.
func (k *Keeper) VouchForStranger(ctx context.Context, app *App, issuedAt time.Time) error {
	notBefore, err := k.store.NotBefore(ctx, appID(app.Name))
	if err != nil {
		return k.unavailable(ctx, err)
	}
	if !notBefore.IsZero() && issuedAt.Before(notBefore) {
		return errOver
	}
	return nil
}

// owners remembers whose an access token is.
type owners = otter.Cache[[16]byte, owner]

// owner is the session that a token was handed out to, if any.
type owner struct {
	sid   SID
	found bool
}

const (
	ownerEntries = 1 << 18
	// strangerLife is how long a token is taken for nobody's. It may yet be
	// handed out.
	strangerLife = 2 * time.Second
	// longestToken bounds how long an access token is remembered in Redis.
	longestToken = 30 * 24 * time.Hour
)

func newOwners() *owners {
	return otter.Must(&otter.Options[[16]byte, owner]{
		MaximumSize: ownerEntries,
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[[16]byte, owner]) time.Duration {
			if e.Value.found {
				return endsLife
			}
			return strangerLife
		}),
	})
}

func tokenHash(app *App, t AccessToken) [16]byte {
	id := appID(app.Name)
	sum := sha256.Sum256(append(id[:], t...))
	return [16]byte(sum[:16])
}

// NoteToken remembers whose a provider's access token is, on all replicas, until
// it runs out. Call it before the token is handed out: whoever shows it as a
// bearer is refused once the session has ended. expires is asked once per token;
// zero: there is nothing to remember. The error is an [*UnavailableError] or
// ctx's.
func (k *Keeper) NoteToken(ctx context.Context, app *App, sid SID, t AccessToken, expires func() time.Time) error {
	hash := tokenHash(app, t)
	if o, ok := k.owners.GetIfPresent(hash); ok && o.found && o.sid == sid {
		return nil
	}
	if end := expires(); !end.IsZero() {
		left := min(end.Sub(k.now())+clockSkew, longestToken)
		if left <= 0 {
			return nil // it has run out for everybody
		}
		if err := k.store.NoteToken(ctx, hash, sid, left); err != nil {
			return k.unavailable(ctx, err)
		}
	}
	k.owners.Set(hash, owner{sid: sid, found: true})
	return nil
}

// TokenSession returns the session that a provider's access token was handed out
// to, if it was. The error is an [*UnavailableError] or ctx's.
func (k *Keeper) TokenSession(ctx context.Context, app *App, t AccessToken) (sid SID, found bool, err error) {
	hash := tokenHash(app, t)
	if o, ok := k.owners.GetIfPresent(hash); ok {
		return o.sid, o.found, nil
	}
	sid, found, err = k.store.TokenSession(ctx, hash)
	if err != nil {
		return SID{}, false, k.unavailable(ctx, err)
	}
	k.owners.Set(hash, owner{sid: sid, found: found})
	return sid, found, nil
}
