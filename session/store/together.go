package store

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// together sends plain reads that are wanted at the same time in one write to
// Redis, and so takes their answers in one read: a system call each costs more than
// all else about a GET. A read that meets no others goes by itself, at once.
//
// Each goes as one command of its own, once (or, as ever, a second time after a
// connection that broke). None waits longer than its context allows, but for who
// takes others along, and stays for them. Nothing runs in the background: whoever's
// read is over gives its place to one that waits, who takes along all the others
// that do.
type together struct {
	mu      sync.Mutex // guards the rest
	flying  int
	waiting []*wanted
}

const (
	// maxFlying is how many reads, or parcels of them, are under way before the next
	// ones wait for company. With fewer, a Redis that is far away would be waited for
	// twice; with more, there is less company.
	maxFlying = 4
	// maxParcel bounds the answers that have to be read before the last is.
	maxParcel = 128
)

// wanted is a read that waits.
type wanted struct {
	key   string
	until time.Time // its deadline; zero: none
	value []byte
	err   error
	turn  chan bool // true: it has been answered; false: it is to go now
}

// get reads a key by itself, or along with others.
func (g *together) get(ctx context.Context, rdb redis.UniversalClient, key string) ([]byte, error) {
	g.mu.Lock()
	if g.flying < maxFlying {
		g.flying++
		g.mu.Unlock()
		defer g.land()
		return value(read(ctx, rdb, key))
	}
	w := &wanted{key: key, turn: make(chan bool, 1)}
	w.until, _ = ctx.Deadline()
	g.waiting = append(g.waiting, w)
	g.mu.Unlock()

	select {
	case answered := <-w.turn:
		if answered {
			return w.value, w.err
		}
		defer g.land()
		return g.fly(ctx, rdb, w)
	case <-ctx.Done():
		g.mu.Lock()
		if i := slices.Index(g.waiting, w); i >= 0 {
			g.waiting = slices.Delete(g.waiting, i, i+1)
		}
		g.mu.Unlock()
		select {
		case answered := <-w.turn:
			if !answered {
				g.land() // its turn had come: let the next have it
			}
		default: // it is under way, and nobody needs the answer
		}
		return nil, ctx.Err()
	}
}

// land gives the place of a read that is over to the one that has waited longest.
func (g *together) land() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.flying--
		g.waiting = nil
		return
	}
	next := g.waiting[0]
	g.waiting = g.waiting[1:]
	next.turn <- false
}

// fly reads w's key and those of all that wait.
func (g *together) fly(ctx context.Context, rdb redis.UniversalClient, w *wanted) ([]byte, error) {
	g.mu.Lock()
	n := min(len(g.waiting), maxParcel-1)
	others := slices.Clone(g.waiting[:n])
	g.waiting = g.waiting[n:]
	g.mu.Unlock()
	if n == 0 {
		return value(read(ctx, rdb, w.key))
	}
	// That this one's client has gone, or its time is up, must not take the others'
	// answers away.
	shared, until := context.WithoutCancel(ctx), w.until
	for _, o := range others {
		if until.IsZero() || o.until.IsZero() {
			until = time.Time{}
			break
		}
		if o.until.After(until) {
			until = o.until
		}
	}
	if !until.IsZero() {
		var cancel context.CancelFunc
		shared, cancel = context.WithDeadline(shared, until)
		defer cancel()
	}
	pipe := rdb.Pipeline()
	first := read(shared, pipe, w.key)
	replies := make([]*redis.StringCmd, n)
	for i, o := range others {
		replies[i] = read(shared, pipe, o.key)
	}
	_, _ = pipe.Exec(shared) // each reply has its own error
	for i, o := range others {
		o.value, o.err = value(replies[i])
		o.turn <- true
	}
	return value(first)
}

// longest is how many bytes of a record are read. What isn't whole doesn't open, so
// nothing longer is written.
const longest = 4 << 20

// read is GET, of no more than longest bytes. [value] has its answer.
func read(ctx context.Context, c redis.Cmdable, key string) *redis.StringCmd {
	return c.GetRange(ctx, key, 0, longest-1)
}

// value is what [read] found, or redis.Nil where there is no key or an empty value,
// which GETRANGE answers alike. Nothing writes one; whoever did, a login helps.
func value(reply *redis.StringCmd) ([]byte, error) {
	b, err := reply.Bytes()
	if err == nil && len(b) == 0 {
		err = redis.Nil
	}
	return b, err
}
