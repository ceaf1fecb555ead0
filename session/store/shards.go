package store

import (
	"context"
	_ "embed"
	"errors"
	"slices"
	"strconv"
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

// shard is a primary with the slots that it has, as far as this replica knows:
// what beats are about. One shard's health says nothing of another's. So each
// gets a beat of its own, under a key in its slots, which finds its way to
// whoever has the slot. All beats are published on the one channel, which a
// Cluster carries to every node. Hence:
//
//   - a shard is lame if it refuses the beat's write: it is no primary any more
//     (READONLY), cut off from its replicas (NOREPLICAS), or can't persist
//     (MISCONF). What it says of its own sessions isn't believed; other shards'
//     sessions are served. A primary that a Cluster has cut off answers nothing
//     at all, CLUSTERDOWN, reads included, within its node timeout, before the
//     others replace it. One that sentinels watch goes on alone: only
//     min-replicas-to-write makes it refuse.
//   - the replica hears if it hears every shard's beats: a session's end is
//     published by its own shard's primary, and might be lost on the way from
//     there alone. While one shard is away, nothing is cached.
type shard struct {
	key    string   // of the beat
	ranges [][2]int // its slots, in a Cluster

	busy  bool      // a beat is under way
	heard time.Time // when the last beat that came back on this subscription was sent
	lame  bool      // the last beat's write was refused

	silent  time.Time      // since when no beat was written, by Redis's clock; zero: it is
	outages [][2]time.Time // the latest that are over
}

// sentBeat is a beat that has not been heard yet.
type sentBeat struct {
	shard *shard
	at    time.Time
}

func (s *shard) has(slot int) bool {
	return slices.ContainsFunc(s.ranges, func(r [2]int) bool { return r[0] <= slot && slot <= r[1] })
}

// Ping reports whether Redis answers and takes writes: in a Cluster, whether one
// shard at least does. It is for telling whether this replica can serve anybody.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.findShards(ctx, false); err != nil {
		return err
	}
	return anyOf(s.allShards(), func(sh *shard) error { return s.beat(ctx, sh) })
}

// anyOf asks all at once, and returns nil as soon as one answers so.
func anyOf(shards []*shard, ask func(*shard) error) error {
	errs := make(chan error, len(shards))
	for _, sh := range shards {
		go func() { errs <- ask(sh) }()
	}
	var failures []error
	for range shards {
		err := <-errs
		if err == nil {
			return nil
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

func (s *Store) allShards() []*shard {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.shards)
}

var errNoShards = errors.New("the Cluster has no slots")

// findShards learns a Cluster's shards: again if they are known already.
func (s *Store) findShards(ctx context.Context, again bool) error {
	if s.cluster() == nil || !again && len(s.allShards()) > 0 {
		return nil
	}
	return s.measure(ctx, "shards", func(ctx context.Context) error {
		served, err := s.cluster().ClusterSlots(ctx).Result()
		if err != nil {
			return err
		}
		masters := map[string]*shard{}
		var found []*shard
		for _, r := range served { // in order of their slots
			if len(r.Nodes) == 0 {
				continue
			}
			master := r.Nodes[0].Addr
			if masters[master] == nil {
				masters[master] = &shard{key: s.prefix + "beat:{" + tag(r.Start) + "}" + s.replica}
				found = append(found, masters[master])
			}
			masters[master].ranges = append(masters[master].ranges, [2]int{r.Start, r.End})
		}
		if len(found) == 0 {
			return errNoShards
		}
		s.setShards(found)
		return nil
	})
}

// setShards keeps what is known of those that stay. A new one has not been heard
// yet.
func (s *Store) setShards(found []*shard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := map[string]*shard{}
	for _, sh := range s.shards {
		known[sh.key] = sh
	}
	for i, sh := range found {
		if old := known[sh.key]; old != nil {
			old.ranges = sh.ranges
			found[i] = old
		}
	}
	s.shards = found
	s.publish()
}

// beatAll sends a beat to every shard that has answered its last.
func (s *Store) beatAll(ctx context.Context, run func(func())) {
	for _, sh := range s.allShards() {
		s.mu.Lock()
		busy := sh.busy
		sh.busy = true
		s.mu.Unlock()
		if busy {
			continue
		}
		run(func() {
			// A beat that fails is a beat that isn't heard.
			_ = s.beat(ctx, sh)
			s.mu.Lock()
			sh.busy = false
			s.mu.Unlock()
		})
	}
}

// beat writes and publishes, and learns Redis's time.
func (s *Store) beat(ctx context.Context, sh *shard) error {
	start := time.Now()
	s.mu.Lock()
	from := s.clock(start)
	s.beats++
	count := s.beats
	s.sent[count] = sentBeat{sh, start}
	for c, b := range s.sent {
		if start.Sub(b.at) > 2*deafAfter {
			delete(s.sent, c)
		}
	}
	s.mu.Unlock()
	return s.measure(ctx, "beat", func(ctx context.Context) error {
		reply, err := s.runBeat(ctx, s.link.Load(), sh, count)
		// Out of memory is the one refusal that ends get around.
		_, replied := errors.AsType[redis.Error](err)
		s.mu.Lock()
		sh.lame = replied && !redis.HasErrorPrefix(err, "OOM")
		sh.outage(from, s.clock(time.Now()), err == nil)
		s.publish()
		s.mu.Unlock()
		if err != nil {
			return err
		}
		if len(reply) != 3 {
			return errShort
		}
		seconds, ok1 := reply[0].(int64)
		micros, ok2 := reply[1].(int64)
		history, ok3 := reply[2].(string)
		if !ok1 || !ok2 || !ok3 {
			return errShort
		}
		if history != "" {
			s.history(history)
		}
		end := time.Now()
		now := time.Unix(seconds, micros*1000)
		s.mu.Lock()
		// A Cluster has many clocks, which agree as far as sessions care.
		s.told, s.toldAt = now, start.Add(end.Sub(start)/2)
		s.publish()
		s.mu.Unlock()
		return nil
	})
}

func (s *Store) runBeat(ctx context.Context, l *Link, sh *shard, count uint64) ([]any, error) {
	return beatScript.Run(ctx, l.rdb, []string{sh.key}, (10 * time.Second).Milliseconds(), s.channel(), s.replica, count).Slice()
}

// heardBeat notes that a beat of this replica's has come back.
func (s *Store) heardBeat(count uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.sent[count]; ok && b.at.After(b.shard.heard) {
		b.shard.heard = b.at
		s.publish()
	}
}

// deafen forgets that beats were heard: the next are a new subscription's.
func (s *Store) deafen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ear++
	for _, sh := range s.shards {
		sh.heard = time.Time{}
	}
	clear(s.sent)
	s.publish()
}

// Hears reports whether this replica hears itself: whether all that was
// published, and every app's not-before, until a second ago has arrived here.
func (s *Store) Hears() bool { return s.Ear() != 0 }

// Lame reports whether Redis refused the last beat to where one of these sessions
// is kept: it takes no ends either, or is not the primary that has them. What it
// says of that session is not to be believed.
func (s *Store) Lame(sids ...[16]byte) bool {
	if !s.known.Load().lame {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range s.shards {
		if !sh.lame {
			continue
		}
		if s.cluster() == nil {
			return true
		}
		for _, sid := range sids {
			if sh.has(slot(text(sid))) {
				return true
			}
		}
	}
	return false
}

// Ear is [Glance.Ear] of now.
func (s *Store) Ear() uint64 { return s.Glance().Ear() }

// slots is how many slots a Cluster has.
const slots = 16384

// slot is the slot of what stands between a key's braces: CRC-16/XMODEM, as
// the Redis Cluster specification has it.
func slot(tag string) int {
	crc := uint16(0)
	for i := range len(tag) {
		crc ^= uint16(tag[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % slots
}

// tag is a text of that slot.
func tag(of int) string {
	for n := 0; ; n++ {
		if text := strconv.Itoa(n); slot(text) == of {
			return text
		}
	}
}
