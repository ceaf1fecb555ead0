package store

import (
	"context"
	_ "embed"
	"encoding/base64"
	"errors"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/index_add.lua
var indexAddLua string

//go:embed lua/not_before.lua
var notBeforeLua string

var (
	indexAddScript  = redis.NewScript(indexAddLua)
	notBeforeScript = &script{name: "not_before", lua: redis.NewScript(notBeforeLua), durable: true}
)

// Index names a set of sessions: a keyed hash of what they have in common. An
// index is a hint in a slot of its own: it may name sessions that are gone, and
// whoever reads it says so with [Store.Unindex].
type Index [16]byte

const (
	// maxIndexed bounds what is listed of one index.
	maxIndexed = 10_000
	// indexPage is how much of one is read at a time.
	indexPage = 1000
)

func (s *Store) indexKey(i Index) string  { return s.prefix + "i:{" + text(i) + "}" }
func (s *Store) noticeKey(i Index) string { return s.prefix + "o:{" + text(i) + "}" }
func (s *Store) lockKey(i Index) string   { return s.prefix + "l:{" + text(i) + "}" }

// Indexed adds a session to indexes, until expires.
func (s *Store) Indexed(ctx context.Context, sid [16]byte, expires time.Time, indexes ...Index) error {
	return s.measure(ctx, "index", func(ctx context.Context) error {
		for _, i := range indexes {
			err := indexAddScript.Run(ctx, s.rdb(), []string{s.indexKey(i)},
				s.offset().Milliseconds(), text(sid), expires.UnixMilli(), (24 * time.Hour).Milliseconds()).Err()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Sessions lists the sessions of indexes, each once: of an index of more than
// 10 000, those that may live longest. Some may be gone.
func (s *Store) Sessions(ctx context.Context, indexes ...Index) ([][16]byte, error) {
	var list sidList
	err := s.measure(ctx, "index", func(ctx context.Context) error {
		for _, i := range indexes {
			names, err := s.rdb().ZRevRange(ctx, s.indexKey(i), 0, maxIndexed-1).Result()
			if err != nil {
				return err
			}
			list.add(names)
		}
		return nil
	})
	return list.sids, err
}

// EverySession lists all sessions of indexes, each once, that are there from the
// call's beginning to its end. Some may be gone.
func (s *Store) EverySession(ctx context.Context, indexes ...Index) ([][16]byte, error) {
	var list sidList
	for _, i := range indexes {
		for cursor := uint64(0); ; {
			err := s.measure(ctx, "index", func(ctx context.Context) error {
				pairs, next, err := s.rdb().ZScan(ctx, s.indexKey(i), cursor, "", indexPage).Result()
				if err != nil {
					return err
				}
				for n := 0; n < len(pairs); n += 2 { // each with its score
					list.add(pairs[n : n+1])
				}
				cursor = next
				return nil
			})
			if err != nil {
				return nil, err
			}
			if cursor == 0 {
				break
			}
		}
	}
	return list.sids, nil
}

// sidList is what an index's members name, each once.
type sidList struct {
	sids  [][16]byte
	known map[[16]byte]bool
}

func (l *sidList) add(names []string) {
	if l.known == nil {
		l.known = map[[16]byte]bool{}
	}
	for _, name := range names {
		b, err := base64.RawURLEncoding.DecodeString(name)
		if err != nil || len(b) != 16 || l.known[[16]byte(b)] {
			continue
		}
		l.known[[16]byte(b)] = true
		l.sids = append(l.sids, [16]byte(b))
	}
}

// Unindex takes sessions that are gone out of an index.
func (s *Store) Unindex(ctx context.Context, i Index, sids ...[16]byte) error {
	if len(sids) == 0 {
		return nil
	}
	return s.measure(ctx, "index", func(ctx context.Context) error {
		names := make([]any, len(sids))
		for n, sid := range sids {
			names[n] = text(sid)
		}
		return s.rdb().ZRem(ctx, s.indexKey(i), names...).Err()
	})
}

// ReadAll reads records, a batch at a time; found has those that there are. What a
// newer release has written, in unreadable, is there, too, and not ours to list.
func (s *Store) ReadAll(ctx context.Context, sids [][16]byte) (found map[[16]byte]Record, unreadable map[[16]byte]error, err error) {
	const batch = 500
	found, unreadable = make(map[[16]byte]Record, len(sids)), map[[16]byte]error{}
	for len(sids) > 0 {
		n := min(batch, len(sids))
		err = s.measure(ctx, "read_all", func(ctx context.Context) error {
			replies := make([]*redis.StringCmd, n)
			_, err := s.rdb().Pipelined(ctx, func(p redis.Pipeliner) error {
				for i, sid := range sids[:n] {
					replies[i] = read(ctx, p, s.recordKey(sid))
				}
				return nil
			})
			if err != nil && !errors.Is(err, redis.Nil) {
				return err
			}
			for i, reply := range replies {
				b, err := value(reply)
				if errors.Is(err, redis.Nil) {
					continue
				}
				if err != nil {
					return err
				}
				if r, err := parse(b); err == nil {
					found[sids[i]] = r
				} else {
					unreadable[sids[i]] = err
				}
			}
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
		sids = sids[n:]
	}
	return found, unreadable, nil
}

// Notice remembers, for ttl, that sessions of an index which began with an ID
// token issued up to at are over, even those that don't exist yet.
func (s *Store) Notice(ctx context.Context, i Index, at time.Time, ttl time.Duration) error {
	return s.measure(ctx, "notice", func(ctx context.Context) error {
		return s.set(ctx, "notice", s.noticeKey(i), at.UnixMilli(), redis.SetArgs{TTL: ttl})
	})
}

// LockNew keeps new sessions of an index from beginning, for ttl; UnlockNew
// lifts it.
func (s *Store) LockNew(ctx context.Context, i Index, ttl time.Duration) error {
	return s.measure(ctx, "lock", func(ctx context.Context) error {
		return s.set(ctx, "lock", s.lockKey(i), 1, redis.SetArgs{TTL: ttl})
	})
}

// UnlockNew lifts the locks of indexes.
func (s *Store) UnlockNew(ctx context.Context, indexes ...Index) error {
	return s.measure(ctx, "lock", func(ctx context.Context) error {
		for _, i := range indexes {
			if err := s.rdb().Del(ctx, s.lockKey(i)).Err(); err != nil {
				return err
			}
		}
		return nil
	})
}

// Standing is what holds against a new session.
type Standing struct {
	Locked   bool
	NoticeAt time.Time // zero: no notice
}

// Standings reads what holds against new sessions of each index.
func (s *Store) Standings(ctx context.Context, indexes ...Index) (out []Standing, err error) {
	err = s.measure(ctx, "standing", func(ctx context.Context) error {
		out = make([]Standing, len(indexes))
		notices, locks := make([]*redis.StringCmd, len(indexes)), make([]*redis.IntCmd, len(indexes))
		// The error of all is the first of any, and a notice that isn't there is one:
		// each reply has its own.
		_, _ = s.rdb().Pipelined(ctx, func(p redis.Pipeliner) error {
			for n, i := range indexes {
				notices[n], locks[n] = p.Get(ctx, s.noticeKey(i)), p.Exists(ctx, s.lockKey(i))
			}
			return nil
		})
		for n := range indexes {
			held, err := locks[n].Result()
			if err != nil {
				return err
			}
			out[n].Locked = held > 0
			switch ms, err := notices[n].Int64(); {
			case err == nil:
				out[n].NoticeAt = time.UnixMilli(ms)
			case !errors.Is(err, redis.Nil):
				return err
			}
		}
		return nil
	})
	return out, err
}

// NotBefore is when each app's sessions have to have begun to be alive, by app
// id. It is read twice a second, and true up to then while the replica hears itself.
func (s *Store) NotBefore(ctx context.Context, app [8]byte) (time.Time, error) {
	g := s.Glance()
	if g.Ear() == 0 {
		if err := s.readNotBefore(ctx); err != nil {
			return time.Time{}, err
		}
		g = s.Glance()
	}
	return g.NotBefore(app), nil
}

func (s *Store) readNotBefore(ctx context.Context) error {
	start := time.Now()
	return s.measure(ctx, "not_before", func(ctx context.Context) error {
		all, err := s.rdb().HGetAll(ctx, s.prefix+"not_before").Result()
		if err != nil {
			return err
		}
		times := make(map[[8]byte]time.Time, len(all))
		for name, value := range all {
			ms, err := strconv.ParseInt(value, 10, 64)
			if err == nil && len(name) == 8 {
				times[[8]byte([]byte(name))] = time.UnixMilli(ms)
			}
		}
		s.mu.Lock()
		s.notBefore, s.notBeforeAt = times, start
		s.publish()
		s.mu.Unlock()
		return nil
	})
}

// SetNotBefore ends all of an app's sessions that began before at, or so far if at
// is zero, by Redis's clock, and remembers it for ttl. It returns that time.
func (s *Store) SetNotBefore(ctx context.Context, app [8]byte, at time.Time, ttl time.Duration) (set time.Time, err error) {
	err = s.measure(ctx, "not_before", func(ctx context.Context) error {
		cmd, replicas := s.eval(ctx, notBeforeScript, []string{s.prefix + "not_before"},
			[]any{s.offset().Milliseconds(), s.channel(), string(app[:]), int64(millis(at)), ttl.Milliseconds()})
		ms, err := cmd.Int64()
		if set = time.UnixMilli(ms); err == nil {
			s.acknowledged(ctx, "not_before", replicas)
		}
		return err
	})
	return set, err
}
