package store

import (
	"context"
	_ "embed"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/backoff_enter.lua
var backoffEnterLua string

//go:embed lua/backoff_fail.lua
var backoffFailLua string

//go:embed lua/backoff_pass.lua
var backoffPassLua string

var (
	backoffPassScript  = redis.NewScript(backoffPassLua)
	backoffEnterScript = redis.NewScript(backoffEnterLua)
	backoffFailScript  = redis.NewScript(backoffFailLua)
)

// All replicas leave a provider that fails alone together: from backoffFirst,
// doubling, up to backoffLongest, with jitter; then one probe at a time.
const (
	backoffFirst   = 250 * time.Millisecond
	backoffLongest = 10 * time.Second
	backoffLapse   = 30 * time.Second // without failure or probe: as good as new
	backoffTTL     = time.Minute
)

func (s *Store) backoffKey(app string) []string { return []string{s.prefix + "backoff:{" + app + "}"} }

// EnterBackoff asks whether app's provider may be called now. If not, wait says
// how long to leave it alone. If so, probe says that others are waiting for
// this call, which may take as long as deadline.
func (s *Store) EnterBackoff(ctx context.Context, app string, deadline time.Duration) (wait time.Duration, probe bool, err error) {
	err = s.measure(ctx, "backoff", func(ctx context.Context) error {
		reply, err := backoffEnterScript.Run(ctx, s.rdb(), s.backoffKey(app),
			s.offset().Milliseconds(), deadline.Milliseconds(), backoffTTL.Milliseconds(), backoffLapse.Milliseconds()).Int64Slice()
		if err != nil {
			return err
		}
		if len(reply) != 2 {
			return errShort
		}
		wait, probe = time.Duration(reply[0])*time.Millisecond, reply[1] == 1
		return nil
	})
	return wait, probe, err
}

// FailBackoff notes that app's provider failed and returns how long everybody
// leaves it alone: at least as long as it asked for, within the limit.
func (s *Store) FailBackoff(ctx context.Context, app string, asked time.Duration) (wait time.Duration, err error) {
	err = s.measure(ctx, "backoff", func(ctx context.Context) error {
		ms, err := backoffFailScript.Run(ctx, s.rdb(), s.backoffKey(app),
			s.offset().Milliseconds(), backoffFirst.Milliseconds(), backoffLongest.Milliseconds(),
			rand.Float64(), asked.Milliseconds(), backoffTTL.Milliseconds()).Int64()
		wait = time.Duration(ms) * time.Millisecond
		return err
	})
	return wait, err
}

// PassBackoff gives a probe back that was not made.
func (s *Store) PassBackoff(ctx context.Context, app string) error {
	return s.measure(ctx, "backoff", func(ctx context.Context) error {
		return backoffPassScript.Run(ctx, s.rdb(), s.backoffKey(app), s.offset().Milliseconds()).Err()
	})
}

// LeaveBackoff notes that app's provider works.
func (s *Store) LeaveBackoff(ctx context.Context, app string) error {
	return s.measure(ctx, "backoff", func(ctx context.Context) error {
		return s.rdb().Del(ctx, s.backoffKey(app)...).Err()
	})
}
