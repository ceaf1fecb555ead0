package session

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cloakroom/cloakroom/session/store"
)

// Whose selects sessions of an app: those of a subject, or of one session at
// the provider.
type Whose struct {
	Issuer          string
	Subject         string
	ProviderSession string // where set, it selects alone
}

// Info is what can be shown of a session without its ticket.
type Info struct {
	SID       SID
	Subject   string
	Address   string
	Browser   string
	CreatedAt time.Time
	SeenAt    time.Time
	ExpiresAt time.Time
	IssuedAt  time.Time // the ID token's iat; zero where it isn't known
	Ended     bool
	Reason    Reason // of an ended one
	Locked    bool   // likewise
}

// Ending says how sessions end.
type Ending struct {
	Reason Reason
	// Except is left alone.
	Except SID
	// Notice is when whoever ends them decided so. Sessions that begin later with
	// an ID token issued up to then are ended, too. Zero: only those that are.
	Notice time.Time
	// UpTo spares sessions whose ID token was issued later: a logout by subject
	// that arrives late, or once more, is not about those. Zero: none is spared.
	UpTo time.Time
	// Lock keeps the subject from new sessions, until Until; zero: until lifted.
	Lock  bool
	Until time.Time
}

const (
	labelIndex = "cloakroom/1 index"
	// noticeLife is how long a notice is remembered: as long as an ID token may be
	// on its way here.
	noticeLife = time.Hour
	// lockLife is the TTL of a lock without an end.
	lockLife = 10 * 365 * 24 * time.Hour
	// endAppLife is the TTL of an app's end: longer than any session, whatever the
	// policy was when it began. Of an app there is one.
	endAppLife = lockLife
	// endWorkers bounds how many sessions are ended at a time.
	endWorkers = 16
)

// indexes are the names of what selects w's sessions, one per server key, the
// writing one first.
func (r *Keyring) indexes(app string, w Whose) []store.Index {
	kind, value := byte(1), w.Subject
	if w.ProviderSession != "" {
		kind, value = 2, w.ProviderSession
	}
	var out []store.Index
	for _, key := range r.Derive(labelIndex, app, 32) {
		h := hmac.New(sha256.New, key)
		h.Write([]byte{kind})
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(w.Issuer))))
		h.Write([]byte(w.Issuer))
		h.Write([]byte(value))
		out = append(out, store.Index(h.Sum(nil)[:16]))
	}
	return out
}

// Sessions lists the live sessions of a subject or of a provider's session,
// newest first. It mends the index it reads.
func (k *Keeper) Sessions(ctx context.Context, app *App, w Whose) ([]Info, error) {
	infos, err := k.infos(ctx, app, w)
	return slices.DeleteFunc(infos, func(i Info) bool { return i.Ended }), err
}

func (k *Keeper) infos(ctx context.Context, app *App, w Whose) ([]Info, error) {
	indexes := k.keys.Load().indexes(app.Name, w)
	sids, err := k.store.Sessions(ctx, indexes...)
	if err != nil {
		return nil, k.unavailable(ctx, err)
	}
	records, unreadable, err := k.store.ReadAll(ctx, sids)
	if err != nil {
		return nil, k.unavailable(ctx, err)
	}
	var infos []Info
	var gone [][16]byte
	for _, sid := range sids {
		if unreadable[sid] != nil {
			continue // another release's: who ends the user's sessions has to find it
		}
		record, ok := records[sid]
		if !ok || record.App != appID(app.Name) || record.Ended && !record.Locked {
			gone = append(gone, sid)
			continue
		}
		infos = append(infos, k.info(app, sid, record))
	}
	for _, i := range indexes {
		k.store.Unindex(ctx, i, gone...) // a hint that stays wrong is read again
	}
	slices.SortFunc(infos, func(a, b Info) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.SID.String(), b.SID.String()))
	})
	return infos, nil
}

// Info tells of one session, live or ended. Its error is [ErrNoSession] or an
// [*UnavailableError].
func (k *Keeper) Info(ctx context.Context, app *App, sid SID) (Info, error) {
	record, found, err := k.store.Read(ctx, sid)
	if err != nil {
		return Info{}, k.unavailable(ctx, err)
	}
	if !found || record.App != appID(app.Name) {
		return Info{}, ErrNoSession
	}
	return k.info(app, sid, record), nil
}

func (k *Keeper) info(app *App, sid SID, r store.Record) Info {
	i := Info{SID: sid, CreatedAt: r.CreatedAt, SeenAt: r.SeenAt, ExpiresAt: r.ExpiresAt}
	if r.Ended {
		i.Ended, i.Reason, i.Locked = true, reasonOf(r.Reason), k.locked(r)
		return i
	}
	body, err := parseSections(r.Body)
	if err != nil {
		return i
	}
	plain, err := k.keys.Load().unsealForServer(labelLabel, app.Name, body.get(bodyLabel), scope(app.Name, sid, 0))
	if err != nil {
		return i
	}
	if label, err := parseSections(plain); err == nil {
		i.Subject, i.Address, i.Browser = label.text(labelSubject), label.text(labelAddress), label.text(labelBrowser)
		i.IssuedAt = label.time(labelIssuedAt)
	}
	return i
}

// locked reports whether a tombstone's lock still holds.
func (k *Keeper) locked(r store.Record) bool {
	return r.Locked && (r.LockedUntil.IsZero() || k.time().Before(r.LockedUntil))
}

// EndBy ends sessions that somebody else than their bearer wants ended, those
// that are about to begin included, and returns how many were alive. An error is
// an [*UnavailableError]: some may live on, so do it again.
func (k *Keeper) EndBy(ctx context.Context, app *App, w Whose, how Ending) (ended int, err error) {
	indexes := k.keys.Load().indexes(app.Name, w)
	// First what holds against sessions that are about to begin, then the list:
	// one of the two finds each.
	if how.Lock && w.ProviderSession == "" {
		ttl := lockLife
		if !how.Until.IsZero() {
			ttl = how.Until.Sub(k.time())
		}
		if ttl > 0 {
			for _, i := range indexes { // it may outlive a server key
				if err := k.store.LockNew(ctx, i, ttl); err != nil {
					return 0, k.unavailable(ctx, err)
				}
				k.lockedOut(i, ttl)
			}
		}
	}
	if !how.Notice.IsZero() {
		if err := k.store.Notice(ctx, indexes[0], how.Notice, noticeLife); err != nil {
			return 0, k.unavailable(ctx, err)
		}
		k.noticed(indexes[0], how.Notice)
	}
	sids, err := k.store.EverySession(ctx, indexes...)
	if err != nil {
		return 0, k.unavailable(ctx, err)
	}
	if !how.UpTo.IsZero() {
		if sids, err = k.issuedUpTo(ctx, app, sids, how.UpTo); err != nil {
			return 0, err
		}
	}
	var mu sync.Mutex   // guards what follows
	var over [][16]byte // those that this call ended
	var left error      // of one that this release can't end
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(endWorkers)
	for _, sid := range sids {
		if sid == how.Except {
			continue
		}
		work.Go(func() error {
			did, err := k.end(ctx, app, sid, how.Reason, store.Lock{Locked: how.Lock, Until: how.Until})
			mu.Lock()
			defer mu.Unlock()
			if did {
				over = append(over, sid)
			}
			if u, ok := errors.AsType[*UnavailableError](err); ok {
				if _, alarm := errors.AsType[errAlarm](u.Err); alarm {
					left = err
					return nil // the others end all the same
				}
			}
			return err
		})
	}
	if err := cmp.Or(work.Wait(), left); err != nil {
		return len(over), err
	}
	if k.mayReturn() { // and what was not listed, too
		return len(over), &UnavailableError{RetryAfter: storeRetryAfter, Err: errNotWhole}
	}
	// A lock is lifted through the index, so what was locked stays in it.
	if !how.Lock {
		for _, i := range indexes {
			k.store.Unindex(context.WithoutCancel(ctx), i, over...)
		}
	}
	return len(over), nil
}

// issuedUpTo leaves out the sessions that are known to have begun with a later
// ID token.
func (k *Keeper) issuedUpTo(ctx context.Context, app *App, sids [][16]byte, at time.Time) ([][16]byte, error) {
	var left [][16]byte
	for some := range slices.Chunk(sids, 500) { // records are large
		records, _, err := k.store.ReadAll(ctx, some)
		if err != nil {
			return nil, k.unavailable(ctx, err)
		}
		for _, sid := range some {
			if r, ok := records[sid]; !ok || r.Ended || !k.info(app, sid, r).IssuedAt.After(at) {
				left = append(left, sid)
			}
		}
	}
	return left, nil
}

// EndOne ends one session for somebody else than its bearer, and reports whether
// it was alive.
func (k *Keeper) EndOne(ctx context.Context, app *App, sid SID, how Ending) (ended bool, err error) {
	return k.end(ctx, app, sid, how.Reason, store.Lock{Locked: how.Lock, Until: how.Until})
}

// EndApp ends all of an app's sessions that have begun so far.
func (k *Keeper) EndApp(ctx context.Context, app *App) error {
	at, err := k.store.SetNotBefore(ctx, appID(app.Name), time.Time{}, endAppLife)
	if err != nil {
		return k.unavailable(ctx, err)
	}
	k.endedAll(app, at)
	k.audit("all sessions ended", app, SID{})
	return nil
}

// Unlock lifts the locks of a subject, and of its ended sessions, which stay
// dead: the person may log in again.
func (k *Keeper) Unlock(ctx context.Context, app *App, w Whose) error {
	indexes := k.keys.Load().indexes(app.Name, w)
	if err := k.store.UnlockNew(ctx, indexes...); err != nil {
		return k.unavailable(ctx, err)
	}
	for _, i := range indexes {
		k.journal.revoke(SID(i))
	}
	sids, err := k.store.EverySession(ctx, indexes...)
	if err != nil {
		return k.unavailable(ctx, err)
	}
	for _, sid := range sids {
		if err := k.UnlockOne(ctx, app, sid); err != nil {
			return err
		}
	}
	return nil
}

// UnlockOne lifts the lock of one ended session.
func (k *Keeper) UnlockOne(ctx context.Context, app *App, sid SID) error {
	if _, err := k.store.LiftLock(ctx, sid, appID(app.Name)); err != nil {
		return k.unavailable(ctx, err)
	}
	return nil
}
