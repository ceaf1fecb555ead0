package session

import (
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/cloakroom/cloakroom/session/store"
)

// cache is what this replica remembers of sessions: opened ones for a moment,
// ends for a while, and what it has heard of each lately.
//
// Whether an opened session may be believed is decided at each look-up: the
// replica must hear its own beat, and the entry be younger than the app's
// cache_ttl. An event about a session drops it and forbids keeping any opening
// that was sent before the event came.
type cache struct {
	mu      sync.Mutex // orders keeping against forgetting
	entries *otter.Cache[SID, *cached]
	news    *otter.Cache[SID, news]
}

// cached is an opened session whose ticket is current and confirmed, or an end.
type cached struct {
	app    string
	hash   [32]byte // of the ticket's secret; unset for an end
	view   *view
	ended  *EndedError
	stored time.Time
	ear    uint64 // the subscription that was listened to when it was asked for
	ttl    time.Duration
}

// news is the last that was heard of a session.
type news struct {
	at         time.Time
	generation uint64
	ended      bool
}

const (
	// cacheBytes bounds the opened sessions' boxes, newsEntries the sessions that
	// news is kept of. Both are far above what a replica has in use at a time.
	cacheBytes  = 256 << 20
	newsEntries = 1 << 18
	// newsAge outlives any opening that is still under way and any hold.
	newsAge = 2 * time.Minute
	endAge  = time.Minute
)

func newCache() *cache {
	return &cache{
		entries: otter.Must(&otter.Options[SID, *cached]{
			MaximumWeight: cacheBytes,
			Weigher:       func(_ SID, c *cached) uint32 { return c.weight() },
			ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[SID, *cached]) time.Duration {
				return e.Value.ttl
			}),
		}),
		news: otter.Must(&otter.Options[SID, news]{
			MaximumSize:      newsEntries,
			ExpiryCalculator: otter.ExpiryWriting[SID, news](newsAge),
		}),
	}
}

func (c *cached) weight() uint32 {
	if c.view == nil {
		return 256
	}
	t := c.view.Tokens
	held := len(t.Access) + len(t.Refresh) + len(t.ID) + len(c.view.Claims)
	return uint32(1024 + held)
}

// find returns what is remembered for a ticket. The view is to be believed only
// as long as age allows.
func (c *cache) find(app string, t Ticket) (*cached, bool) {
	e, ok := c.entries.GetIfPresent(t.SID)
	if !ok || e.app != app || e.ended == nil && e.hash != t.Secret.Hash() {
		return nil, false
	}
	return e, true
}

// keep remembers e unless there has been news since sent.
func (c *cache) keep(sid SID, e *cached, sent time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n, ok := c.news.GetIfPresent(sid); ok && !n.at.Before(sent) {
		return
	}
	c.entries.Set(sid, e)
}

// bury remembers an end, so that no opening sent before is kept over it.
func (c *cache) bury(sid SID, e *cached, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note(store.Event{SID: sid, Ended: true}, now)
	c.entries.Set(sid, e)
}

// hear takes an event.
func (c *cache) hear(e store.Event, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note(e, now)
}

func (c *cache) note(e store.Event, now time.Time) {
	n, _ := c.news.GetIfPresent(e.SID)
	n.at = now
	n.ended = n.ended || e.Ended
	n.generation = max(n.generation, e.Generation)
	c.news.Set(e.SID, n)
	if old, ok := c.entries.GetIfPresent(e.SID); ok && old.ended == nil {
		c.entries.Invalidate(e.SID)
	}
}

// newest reports whether nothing newer than that generation has been heard of,
// and no end.
func (c *cache) newest(sid SID, generation uint64) bool {
	n, ok := c.news.GetIfPresent(sid)
	return !ok || !n.ended && n.generation <= generation
}

// heardEnd reports whether the session's end was heard lately.
func (c *cache) heardEnd(sid SID) bool {
	n, _ := c.news.GetIfPresent(sid)
	return n.ended
}

// seen remembers when sessions were last seen: what is known to be written, so
// that a plain read may do, and what could not be written, since time in which
// the gateway could not write is not idle time.
type seen struct {
	written   *otter.Cache[SID, time.Time]
	unwritten *otter.Cache[SID, time.Time]
}

func newSeen() *seen {
	times := func() *otter.Cache[SID, time.Time] {
		return otter.Must(&otter.Options[SID, time.Time]{
			MaximumSize:      newsEntries,
			ExpiryCalculator: otter.ExpiryWriting[SID, time.Time](24 * time.Hour),
		})
	}
	return &seen{written: times(), unwritten: times()}
}
