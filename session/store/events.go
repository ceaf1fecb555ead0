package store

import (
	"context"
	"encoding/base64"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
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
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		for ctx.Err() == nil {
			s.listen(ctx, handle)
			wait(ctx, beatInterval)
		}
	})
	work.Go(func() {
		for ctx.Err() == nil {
			_ = s.findShards(ctx, true)
			wait(ctx, 2*beatInterval)
		}
	})
	work.Go(func() {
		for ctx.Err() == nil {
			_ = s.readNotBefore(ctx)
			wait(ctx, beatInterval)
		}
	})
	for ctx.Err() == nil {
		s.beatAll(ctx, work.Go)
		if s.sentinels() != nil {
			// It closes the connections to a primary that has been replaced.
			work.Go(func() { _, _ = s.sentinels().find(ctx) })
		}
		wait(ctx, beatInterval)
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// listen subscribes and hands events on until the subscription breaks, goes
// silent, its link is replaced, or ctx is done. A half-open connection would ping
// well and hear nothing: silence for longer than a few beats ends it.
func (s *Store) listen(ctx context.Context, handle func(Event)) {
	link := s.link.Load()
	sub := link.rdb.Subscribe(ctx, s.channel())
	defer sub.Close()
	// What is published between two subscriptions is heard by nobody: what was
	// learnt before this one can't be kept up.
	defer s.deafen()
	defer s.setListening(time.Time{})
	for ctx.Err() == nil && s.link.Load() == link {
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
		s.heardBeat(count)
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

// Now is Redis's time as the last beat told it, and whether one has.
func (s *Store) Now() (time.Time, bool) {
	return s.Glance().Now()
}

// clock is Redis's time at a moment of this process's.
func (s *Store) clock(at time.Time) time.Time { return s.known.Load().clock(at, s.offset()) }
