package store

import (
	"context"
	_ "embed"
	"encoding/base64"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/take.lua
var takeLua string

var takeScript = redis.NewScript(takeLua)

func (s *Store) takeKey(name [32]byte) string {
	return s.prefix + "r:" + base64.RawURLEncoding.EncodeToString(name[:])
}

// Take counts an attempt at name, for all replicas together, and reports whether
// it is one of perMinute; if not, after retryAfter there will be the next. Up to
// a minute's attempts may come at once. An attempt that isn't allowed counts for
// nothing. An error means that nobody knows: refuse.
func (s *Store) Take(ctx context.Context, name [32]byte, perMinute int) (allowed bool, retryAfter time.Duration, err error) {
	err = s.measure(ctx, "take", func(ctx context.Context) error {
		reply, err := takeScript.Run(ctx, s.rdb(), []string{s.takeKey(name)}, s.offset().Milliseconds(), perMinute).Int64Slice()
		if err != nil {
			return err
		}
		if len(reply) != 2 {
			return errShort
		}
		allowed, retryAfter = reply[0] == 1, time.Duration(reply[1])*time.Millisecond
		return nil
	})
	return allowed, retryAfter, err
}

// Turn is what has become of a message that may come once.
type Turn uint8

const (
	TurnTaken Turn = iota // somebody is at it, or was and didn't come to the end
	TurnFirst             // it is the caller's
	TurnDone              // it has been done
)

const turnDone = "done"

func (s *Store) turnKey(name [32]byte) string {
	return s.prefix + "j:" + base64.RawURLEncoding.EncodeToString(name[:])
}

// TakeTurn lets one caller at a time, of all replicas, do what name stands for:
// it has lease to come to [Store.FinishTurn], and then another may try. An error
// means that nobody knows: refuse.
func (s *Store) TakeTurn(ctx context.Context, name [32]byte, lease time.Duration) (turn Turn, err error) {
	err = s.measure(ctx, "turn", func(ctx context.Context) error {
		// A reply that is lost, and retried, finds our own mark and takes it for
		// another's: the caller tries again later, which is safe.
		err := s.rdb().SetArgs(ctx, s.turnKey(name), "", redis.SetArgs{Mode: "NX", TTL: lease}).Err()
		if err == nil {
			turn = TurnFirst
			return nil
		}
		if !errors.Is(err, redis.Nil) {
			return err
		}
		state, err := s.rdb().Get(ctx, s.turnKey(name)).Result()
		if state == turnDone {
			turn = TurnDone
		}
		if errors.Is(err, redis.Nil) {
			return nil // it has lapsed just now
		}
		return err
	})
	return turn, err
}

// FinishTurn remembers for ttl that what name stands for has been done.
func (s *Store) FinishTurn(ctx context.Context, name [32]byte, ttl time.Duration) error {
	return s.measure(ctx, "turn", func(ctx context.Context) error {
		return s.rdb().Set(ctx, s.turnKey(name), turnDone, ttl).Err()
	})
}
