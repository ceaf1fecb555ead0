package store

import (
	"context"
	"encoding/base64"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// Headers reads records without their bodies, a batch at a time; found has those
// that there are. Of one of another format, in unreadable, nobody here can tell
// whether its session lives.
func (s *Store) Headers(ctx context.Context, sids [][16]byte) (found map[[16]byte]Record, unreadable map[[16]byte]error, err error) {
	const batch = 500
	found, unreadable = make(map[[16]byte]Record, len(sids)), map[[16]byte]error{}
	for len(sids) > 0 {
		n := min(batch, len(sids))
		err = s.measure(ctx, "headers", func(ctx context.Context) error {
			replies := make([]*redis.StringCmd, n)
			_, err := s.rdb().Pipelined(ctx, func(p redis.Pipeliner) error {
				for i, sid := range sids[:n] {
					replies[i] = p.GetRange(ctx, s.recordKey(sid), 0, header-1)
				}
				return nil
			})
			if err != nil {
				return err
			}
			for i, reply := range replies {
				b, err := reply.Bytes()
				if err != nil {
					return err
				}
				if len(b) == 0 {
					continue
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

// Hearing is for how long, by this process's clock, everything that was published
// has arrived here without a gap; 0: it doesn't now. It is never too long. What
// was published within the last second may still be on its way.
func (s *Store) Hearing() time.Duration {
	if !s.Hears() {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listening.IsZero() {
		return 0
	}
	return time.Since(s.listening)
}

// LastNotBefore is what NotBefore was when it was read last. It asks nobody.
func (s *Store) LastNotBefore(app [8]byte) time.Time {
	return s.Glance().NotBefore(app)
}

func (s *Store) setListening(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listening = at
}

func (s *Store) tokenKey(hash [16]byte) string {
	return s.prefix + "t:{" + base64.RawURLEncoding.EncodeToString(hash[:]) + "}"
}

// NoteToken remembers, for ttl, which session an access token was handed out to.
func (s *Store) NoteToken(ctx context.Context, hash, sid [16]byte, ttl time.Duration) error {
	return s.measure(ctx, "token", func(ctx context.Context) error {
		return s.rdb().Set(ctx, s.tokenKey(hash), sid[:], ttl).Err()
	})
}

// TokenSession is what NoteToken remembers of a token, if anything.
func (s *Store) TokenSession(ctx context.Context, hash [16]byte) (sid [16]byte, found bool, err error) {
	err = s.measure(ctx, "token", func(ctx context.Context) error {
		b, err := s.rdb().Get(ctx, s.tokenKey(hash)).Bytes()
		if errors.Is(err, redis.Nil) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(b) != len(sid) {
			return errShort
		}
		sid, found = [16]byte(b), true
		return nil
	})
	return sid, found, err
}
