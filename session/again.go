package session

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cloakroom/cloakroom/session/store"
)

// journal is what this replica has had acknowledged lately. Redis acknowledges
// a write before its replicas have it, so a failover may take the last ones back,
// and a restart too. Then they are run again, as they were: a change answers a
// second run as the first, and does nothing to a record that has gone on.
//
// A login or a commit of a session whose end was heard since is not run again:
// an end always wins.
type journal struct {
	mu      sync.Mutex       // guards the rest
	entries []*entry         // oldest first
	current map[SID][]*entry // those that can still be revoked
	bytes   int
}

// entry is one acknowledged write.
type entry struct {
	at   time.Time
	sid  SID
	size int
	// again runs it once more, and reports whether that is all there is to do.
	again func(context.Context) (settled bool)
	// revocable: a login, a commit or a lock, which an end or an unlock takes off.
	revocable bool
	revoked   bool // guarded by mu
}

const (
	// journalLife is how far back a failover may reach.
	journalLife = time.Minute
	// journalBytes bounds what is kept: what is over it is given up, oldest first.
	journalBytes = 64 << 20
	// entrySize is an entry's own, about.
	entrySize = 512
	// againWorkers bounds how much is run again at a time.
	againWorkers = 16
)

// refreshHeld is how long no refresh begins after Redis was found to be another:
// a record may have gone back to a token that is spent. Every replica has found it
// by then, and run its writes again.
const refreshHeld = 1500 * time.Millisecond

// againAfter is when everything is run again, counted from when Redis was found
// to be another: at once, and for what the old one acknowledged meanwhile.
var againAfter = [...]time.Duration{0, 2 * time.Second, 10 * time.Second}

func newJournal() *journal { return &journal{current: map[SID][]*entry{}} }

// write notes what has just been acknowledged.
func (j *journal) write(e *entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e.size += entrySize
	j.entries = append(j.entries, e)
	j.bytes += e.size
	if e.revocable {
		j.current[e.sid] = append(j.current[e.sid], e)
	}
	j.drop(e.at.Add(-journalLife))
}

// drop forgets what is from before. The caller holds mu.
func (j *journal) drop(before time.Time) {
	n := 0
	for n < len(j.entries) && (j.bytes > journalBytes || j.entries[n].at.Before(before)) {
		e := j.entries[n]
		j.entries[n] = nil
		j.bytes -= e.size
		if of := j.current[e.sid]; len(of) > 0 && of[0] == e {
			if j.current[e.sid] = of[1:]; len(of) == 1 {
				delete(j.current, e.sid)
			}
		}
		n++
	}
	j.entries = j.entries[n:]
}

// revoke takes a session's login and commits off: it is over. Or an index's
// lock: it was lifted.
func (j *journal) revoke(sid SID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.current[sid] {
		e.revoked = true
		e.again = nil // it holds the box
	}
	delete(j.current, sid)
}

// since returns what was acknowledged after at, ends first: nobody shall come
// in by a session that is about to be ended again.
func (j *journal) since(at time.Time) (ends, rest []*entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.entries {
		switch {
		case e.revoked || e.at.Before(at):
		case e.revocable:
			rest = append(rest, e)
		default:
			ends = append(ends, e)
		}
	}
	return ends, rest
}

// isEmpty reports whether nothing has been acknowledged yet.
func (j *journal) isEmpty() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.entries) == 0
}

// run is e.again, unless e has been revoked meanwhile.
func (j *journal) run(ctx context.Context, e *entry) (settled bool) {
	j.mu.Lock()
	again := e.again
	j.mu.Unlock()
	return again == nil || again(ctx)
}

// repeat runs what is in the journal again whenever Redis turns out to be
// another than it was, until ctx is done.
func (k *Keeper) repeat(ctx context.Context) {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	epoch := k.store.Epoch()
	if k.journal.isEmpty() {
		// A Cluster's masters are met one by one. To one who has just begun each is as
		// much news as the first, and none of them has replaced another.
		k.whole.Store(anyEpoch)
		k.settled.Store(anyEpoch)
		_ = k.store.Meet(ctx) // whoever doesn't answer is news when it does
		if k.journal.isEmpty() {
			epoch = k.store.Epoch()
		}
		k.whole.Store(epoch)
		k.settled.Store(epoch)
	}
	var found time.Time // when Redis was last found to be another
	round := len(againAfter)
	var open []*entry // what could not be run again so far
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if e := k.store.Epoch(); e != epoch {
			epoch, found, round = e, time.Now(), 0
		}
		if time.Since(found) >= refreshHeld {
			k.whole.Store(epoch)
		}
		if round == len(againAfter) && len(open) == 0 {
			k.settled.Store(epoch)
		}
		switch ago := time.Since(found); {
		case round < len(againAfter) && ago >= againAfter[round]:
			open = k.runAgain(ctx, found)
			round++
		case len(open) > 0 && ago < journalLife:
			open = k.runAll(ctx, open)
		default:
			open = nil
		}
	}
}

// isWhole reports whether what Redis has on record can be refreshed.
func (k *Keeper) isWhole() bool { return k.isOf(&k.whole) }

// mayReturn reports whether what Redis doesn't have may yet be run again, by
// this replica or another.
func (k *Keeper) mayReturn() bool { return !k.isOf(&k.settled) }

// anyEpoch stands for whichever there is, while all of Redis is being met.
const anyEpoch = math.MaxUint64

// isOf reports whether the epoch is the one that was noted.
func (k *Keeper) isOf(noted *atomic.Uint64) bool {
	epoch := noted.Load()
	return epoch == anyEpoch || epoch == k.store.Epoch()
}

// runAgain runs what was acknowledged in the last minute before found, and
// since, again. It returns what is left to do.
func (k *Keeper) runAgain(ctx context.Context, found time.Time) (open []*entry) {
	ends, rest := k.journal.since(found.Add(-journalLife))
	if len(ends)+len(rest) == 0 {
		return nil
	}
	open = append(k.runAll(ctx, ends), k.runAll(ctx, rest)...)
	k.metrics.again.Add(float64(len(ends) + len(rest) - len(open)))
	k.log.LogAttrs(ctx, slog.LevelWarn, "redis is another than it was: acknowledged writes were run again",
		slog.Int("ends", len(ends)), slog.Int("changes", len(rest)), slog.Int("left", len(open)))
	return open
}

// runAll runs entries again, those of one session in their order, and returns
// those that are not settled.
func (k *Keeper) runAll(ctx context.Context, entries []*entry) (open []*entry) {
	bySession := map[SID][]*entry{}
	var order []SID
	for _, e := range entries {
		if bySession[e.sid] == nil {
			order = append(order, e.sid)
		}
		bySession[e.sid] = append(bySession[e.sid], e)
	}
	var mu sync.Mutex // guards open
	var work errgroup.Group
	work.SetLimit(againWorkers)
	for _, sid := range order {
		work.Go(func() error {
			for _, e := range bySession[sid] {
				if !k.journal.run(ctx, e) {
					mu.Lock()
					open = append(open, e)
					mu.Unlock()
				}
			}
			return nil
		})
	}
	work.Wait()
	return open
}

// begun notes a login: its record, and how it is registered. Who logged its user
// out while Redis had forgotten it found nothing to end.
func (k *Keeper) begun(app *App, sid SID, r store.Record, register func(context.Context) error) {
	k.journal.write(&entry{at: time.Now(), sid: sid, size: len(r.Body), revocable: true, again: func(ctx context.Context) bool {
		// A record that is there is this one, or what it became.
		if k.store.Begin(ctx, sid, r) != nil {
			return false
		}
		err := register(ctx)
		if ended, ok := errors.AsType[*EndedError](err); ok {
			err = k.End(ctx, app, sid, ended.Reason)
		}
		return err == nil
	}})
	k.revokeIfEnded(sid)
}

// revokeIfEnded takes off again what was noted after its session's end was heard.
func (k *Keeper) revokeIfEnded(sid SID) {
	if k.cache.heardEnd(sid) {
		k.journal.revoke(sid)
	}
}

// changed notes a commit.
func (k *Keeper) changed(sid SID, c store.Change) {
	c.Again = true
	k.journal.write(&entry{at: time.Now(), sid: sid, size: len(c.Body), revocable: true, again: func(ctx context.Context) bool {
		answer, err := k.store.Commit(ctx, sid, c)
		if err == nil && answer.Result == store.OK {
			k.forget(sid)
		}
		// A record that has gone back further waits for another replica's commit.
		return err == nil && (answer.Result != store.Moved || answer.Record.Version > c.Version) && answer.Result != store.None
	}})
	k.revokeIfEnded(sid)
}

// buried notes an end.
func (k *Keeper) buried(app *App, sid SID, reason Reason, lock store.Lock) {
	k.journal.revoke(sid)
	id := appID(app.Name)
	k.journal.write(&entry{at: time.Now(), sid: sid, again: func(ctx context.Context) bool {
		answer, err := k.store.End(ctx, sid, id, reason.code(), lock)
		return err == nil && answer.Result != store.Foreign
	}})
}

// noticed notes a notice, which holds against sessions that are about to begin.
func (k *Keeper) noticed(i store.Index, at time.Time) {
	k.journal.write(&entry{at: time.Now(), sid: SID(i), again: func(ctx context.Context) bool {
		return k.store.Notice(ctx, i, at, noticeLife) == nil
	}})
}

// lockedOut notes a lock on new sessions. One that another replica lifted within
// the minute is set again: that is the safe side, and it can be lifted again.
func (k *Keeper) lockedOut(i store.Index, ttl time.Duration) {
	k.journal.write(&entry{at: time.Now(), sid: SID(i), revocable: true, again: func(ctx context.Context) bool {
		return k.store.LockNew(ctx, i, ttl) == nil
	}})
}

// endedAll notes the end of an app's sessions.
func (k *Keeper) endedAll(app *App, at time.Time) {
	id := appID(app.Name)
	k.journal.write(&entry{at: time.Now(), again: func(ctx context.Context) bool {
		_, err := k.store.SetNotBefore(ctx, id, at, endAppLife)
		return err == nil
	}})
}
