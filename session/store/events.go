package store

import (
	"context"
	_ "embed"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/beat.lua
var beatLua string

var beatScript = redis.NewScript(beatLua)

// A replica beats every beatInterval and is deaf if it has not heard a beat of
// its own that it sent within the last deafAfter.
const (
	beatInterval = 500 * time.Millisecond
	deafAfter    = time.Second
)

// Event is news of a session from this or another replica.
type Event struct {
	SID        [16]byte
	Ended      bool
	Generation uint64 // of a change
}

// Run beats and listens until ctx is done, and gives each event to handle, one
// at a time.
func (s *Store) Run(ctx context.Context, handle func(Event)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			s.listen(ctx, handle)
			wait(ctx, beatInterval)
		}
	}()
	for count := uint64(1); ctx.Err() == nil; count++ {
		// A beat that fails is a beat that isn't heard.
		if s.beat(ctx, count) == nil {
			s.readNotBefore(ctx)
		}
		wait(ctx, beatInterval)
	}
	<-done
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// beat writes and publishes, and learns Redis's time.
func (s *Store) beat(ctx context.Context, count uint64) error {
	start := time.Now()
	s.mu.Lock()
	if count > 0 {
		s.sent[count] = start
		for c, at := range s.sent {
			if start.Sub(at) > 2*deafAfter {
				delete(s.sent, c)
			}
		}
	}
	s.mu.Unlock()
	return s.measure(ctx, "beat", func(ctx context.Context) error {
		reply, err := beatScript.Run(ctx, s.rdb, []string{s.prefix + "beat:" + s.replica},
			(10 * time.Second).Milliseconds(), s.channel(), s.replica, count).Int64Slice()
		// Out of memory is the one refusal that ends get around.
		_, replied := errors.AsType[redis.Error](err)
		s.mu.Lock()
		s.lame = replied && !redis.HasErrorPrefix(err, "OOM")
		s.mu.Unlock()
		if err != nil {
			return err
		}
		if len(reply) != 2 {
			return errShort
		}
		end := time.Now()
		now := time.Unix(reply[0], reply[1]*1000)
		s.mu.Lock()
		s.drift, s.timed = now.Sub(start.Add(end.Sub(start)/2)), true
		s.mu.Unlock()
		return nil
	})
}

// listen subscribes and hands events on until the subscription breaks, goes
// silent, or ctx is done. A half-open connection would ping well and hear
// nothing: silence for longer than a few beats ends it.
func (s *Store) listen(ctx context.Context, handle func(Event)) {
	sub := s.rdb.Subscribe(ctx, s.channel())
	defer sub.Close()
	// What is published between two subscriptions is heard by nobody: what was
	// learnt before this one can't be kept up.
	defer s.deafen()
	defer s.setListening(time.Time{})
	for ctx.Err() == nil {
		msg, err := sub.ReceiveTimeout(ctx, 4*beatInterval)
		if err != nil {
			return
		}
		switch m := msg.(type) {
		case *redis.Subscription:
			s.deafen()
			s.setListening(time.Now()) // what was published before may not have come
		case *redis.Message:
			s.hear(ctx, m.Payload, handle)
		}
	}
}

// hear takes one message. Whoever can publish to the channel can at most make
// this replica forget what it has cached.
func (s *Store) hear(ctx context.Context, payload string, handle func(Event)) {
	kind, rest, _ := strings.Cut(payload, " ")
	name, tail, _ := strings.Cut(rest, " ")
	switch kind {
	case "beat":
		count, err := strconv.ParseUint(tail, 10, 64)
		if err != nil || name != s.replica {
			return
		}
		s.mu.Lock()
		if at, ok := s.sent[count]; ok && at.After(s.heard) {
			s.heard = at
		}
		s.mu.Unlock()
	case "not_before":
		s.readNotBefore(ctx)
	case "end", "change":
		b, err := base64.RawURLEncoding.DecodeString(name)
		if err != nil || len(b) != 16 {
			return
		}
		generation, _ := strconv.ParseUint(tail, 10, 64)
		handle(Event{SID: [16]byte(b), Ended: kind == "end", Generation: generation})
	}
}

// deafen forgets that beats were heard: the next are a new subscription's.
func (s *Store) deafen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ear++
	s.heard = time.Time{}
}

// Hears reports whether this replica hears itself: whether all that was
// published, and every app's not-before, until a second ago has arrived here.
func (s *Store) Hears() bool { return s.Ear() != 0 }

// Lame reports whether Redis refused the last beat: it takes no ends either, or
// is not the primary that has them. What it says of a session is not to be
// believed.
func (s *Store) Lame() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lame
}

// Ear names the subscription by which this replica hears itself; 0 if it
// doesn't. As long as the name stays, nothing published has been missed but
// what is under way for up to a second.
func (s *Store) Ear() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heard.IsZero() || time.Since(s.heard) >= deafAfter || time.Since(s.notBeforeAt) >= deafAfter {
		return 0
	}
	return s.ear
}

// Now is Redis's time as the last beat told it, and whether one has.
func (s *Store) Now() (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.drift + s.offset()), s.timed
}
