package store

import (
	"context"
	_ "embed"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/prelude.lua
var prelude string

//go:embed lua/open.lua
var openLua string

//go:embed lua/claim.lua
var claimLua string

//go:embed lua/sending.lua
var sendingLua string

//go:embed lua/withdraw.lua
var withdrawLua string

//go:embed lua/release.lua
var releaseLua string

//go:embed lua/look.lua
var lookLua string

//go:embed lua/commit.lua
var commitLua string

//go:embed lua/unlock.lua
var unlockLua string

//go:embed lua/confirm_local.lua
var confirmLocalLua string

//go:embed lua/end.lua
var endLua string

type script struct {
	name    string
	lua     *redis.Script
	durable bool // what it writes has to survive: replicas are waited for
}

func newScript(name, body string) *script {
	return &script{name: name, lua: redis.NewScript(prelude + body)}
}

func newDurable(name, body string) *script {
	return &script{name: name, lua: redis.NewScript(prelude + body), durable: true}
}

var (
	openScript     = newScript("open", openLua)
	claimScript    = newScript("claim", claimLua)
	sendingScript  = newDurable("sending", sendingLua)
	withdrawScript = newScript("withdraw", withdrawLua)
	releaseScript  = newScript("release", releaseLua)
	lookScript     = newScript("look", lookLua)
	commitScript   = newDurable("commit", commitLua)
	endScript      = newDurable("end", endLua)
	unlockScript   = newScript("unlock", unlockLua)

	confirmLocalScript = newScript("confirm_local", confirmLocalLua)
)

// Presented is a ticket as Redis may know it, with the policy to judge it by.
type Presented struct {
	App         [8]byte
	KnownKeys   [][4]byte
	Generation  uint64
	Hash        [32]byte
	IdleTimeout time.Duration // 0: none
	Remembered  time.Duration // the idle timeout of a remembered session
	Grace       time.Duration
	Settle      time.Duration
	Interval    time.Duration // how often last-seen is written
	Activity    bool          // the request counts against the idle timeout
	Cookie      bool          // its answer can carry a Set-Cookie
	SeenAt      time.Time     // activity that could not be written so far
}

// Open judges a ticket and notes what follows from its having been shown. It
// ends a session only for a time that has passed.
func (s *Store) Open(ctx context.Context, sid [16]byte, p Presented) (Answer, error) {
	known := make([]byte, 0, 4*len(p.KnownKeys))
	for _, k := range p.KnownKeys {
		known = append(known, k[:]...)
	}
	a, err := s.run(ctx, openScript, sid, p.App[:], known, p.Generation, p.Hash[:],
		p.IdleTimeout.Milliseconds(), p.Grace.Milliseconds(), p.Settle.Milliseconds(), p.Interval.Milliseconds(),
		flag(p.Activity), flag(p.Cookie), int64(millis(p.SeenAt)), p.Remembered.Milliseconds(), s.excused(sid))
	if err == nil && a.Result == Handout && s.wait() > 0 {
		// A failover that forgets it would have the successor handed out once more,
		// and one of the two answers takes the browser back when it is late.
		_, replicas := s.replicated(ctx, s.recordKey(sid), func(c redis.Cmdable) redis.Cmder { return c.Ping(ctx) })
		s.acknowledged(ctx, "open", replicas)
	}
	return a, err
}

// Claim takes the lease of a refresh for ttl, or renews it: OK, Busy, Sending,
// Moved, Ended, None, Foreign.
func (s *Store) Claim(ctx context.Context, sid [16]byte, version uint64, a Attempt, ttl time.Duration) (Answer, error) {
	return s.run(ctx, claimScript, sid, u64(version), a[:], ttl.Milliseconds())
}

// Send sets the latch that lets the refresh token leave: OK for one attempt per
// version, Busy, Sending, Moved, Ended, None or Foreign for all others.
func (s *Store) Send(ctx context.Context, sid [16]byte, version uint64, a Attempt, ttl time.Duration) (Answer, error) {
	return s.run(ctx, sendingScript, sid, u64(version), a[:], ttl.Milliseconds())
}

// Withdraw takes the attempt's own mark and lease back: the token is unspent.
func (s *Store) Withdraw(ctx context.Context, sid [16]byte, version uint64, a Attempt) (Answer, error) {
	return s.run(ctx, withdrawScript, sid, u64(version), a[:])
}

// Release gives the attempt's own lease back and leaves its mark.
func (s *Store) Release(ctx context.Context, sid [16]byte, version uint64, a Attempt) (Answer, error) {
	return s.run(ctx, releaseScript, sid, u64(version), a[:])
}

// Look looks at a mark without a live lease: Looked, Withdrawn when it was first
// seen pause ago, Spent when that has happened allowed times; or Busy, Moved,
// Ended, None, Foreign.
func (s *Store) Look(ctx context.Context, sid [16]byte, version uint64, pause time.Duration, allowed int) (Answer, error) {
	return s.run(ctx, lookScript, sid, u64(version), pause.Milliseconds(), allowed)
}

// ConfirmLocal notes that the local half of a split session was shown: OK, Moved,
// Ended, None, Foreign.
func (s *Store) ConfirmLocal(ctx context.Context, sid [16]byte, version uint64) (Answer, error) {
	return s.run(ctx, confirmLocalScript, sid, u64(version))
}

// Kinds of [Change].
const (
	Advance = "advance"
	InPlace = "in_place"
	Reissue = "reissue"
)

// Change replaces the box, and the ticket too unless it is made InPlace.
type Change struct {
	Kind    string
	Version uint64
	Attempt Attempt
	Sent    bool    // the attempt holds the mark
	Key     [4]byte // the server key behind the box
	Body    []byte
	// Again: Redis has acknowledged this change and may have gone back behind it.
	// It is made over a mark that was set since: the token behind that is spent.
	Again bool

	// The rest is for Advance and Reissue.
	Generation   uint64
	Hash         [32]byte
	Handed       bool          // the caller's own answer carries the successor
	Settle       time.Duration // three graces
	Predecessor  Predecessor   // for Advance: the ticket that was current
	Predecessors []Predecessor // the older ones, their salts sealed anew
}

// Commit makes a change: OK, Full, Sending, Moved, Ended, None, Foreign.
func (s *Store) Commit(ctx context.Context, sid [16]byte, c Change) (Answer, error) {
	if len(c.Body) > MaxBody {
		return Answer{}, ErrTooLarge
	}
	var entry, leads []byte
	if c.Kind == Advance {
		entry = c.Predecessor.marshal()
	}
	for i := range c.Predecessors {
		leads = append(leads, c.Predecessors[i].lead()...)
	}
	return s.run(ctx, commitScript, sid, u64(c.Version), c.Attempt[:], c.Kind, flag(c.Sent), u64(c.Generation), c.Hash[:],
		c.Key[:], flag(c.Handed || c.Kind == Reissue), c.Settle.Milliseconds(), entry, leads, c.Body, flag(c.Again))
}

// Lock says whether an end locks, and until when; zero: until it is lifted.
type Lock struct {
	Locked bool
	Until  time.Time
}

// End ends a session: OK, Ended, None, Foreign.
func (s *Store) End(ctx context.Context, sid [16]byte, app [8]byte, reason EndReason, lock Lock) (Answer, error) {
	return s.run(ctx, endScript, sid, app[:], int(reason), flag(lock.Locked), "", "", int64(millis(lock.Until)))
}

// EndAttempt ends a session if the attempt's mark still stands on that version:
// OK, Moved, Ended, None, Foreign.
func (s *Store) EndAttempt(ctx context.Context, sid [16]byte, app [8]byte, reason EndReason, version uint64, a Attempt) (Answer, error) {
	return s.run(ctx, endScript, sid, app[:], int(reason), 0, u64(version), a[:], 0)
}

// LiftLock takes the lock off a tombstone, whose session stays dead: OK, None,
// Foreign, or Moved if the session is alive.
func (s *Store) LiftLock(ctx context.Context, sid [16]byte, app [8]byte) (Answer, error) {
	return s.run(ctx, unlockScript, sid, app[:])
}
