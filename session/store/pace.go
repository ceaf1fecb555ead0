package store

import (
	"context"
	_ "embed"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/pace.lua
var paceLua string

var paceScript = redis.NewScript(paceLua)

// Pace books the next free place for a call to app's provider, where all
// replicas together make perSecond calls a second at most, and says how long it
// is to wait for it. If that is longer than longest, nothing is booked.
func (s *Store) Pace(ctx context.Context, app string, perSecond int, longest time.Duration) (wait time.Duration, booked bool, err error) {
	err = s.measure(ctx, "pace", func(ctx context.Context) error {
		reply, err := paceScript.Run(ctx, s.rdb(), []string{s.prefix + "pace:{" + app + "}"},
			s.offset().Milliseconds(), perSecond, longest.Milliseconds()).Int64Slice()
		if err != nil {
			return err
		}
		if len(reply) != 2 {
			return errShort
		}
		wait, booked = time.Duration(reply[0])*time.Millisecond, reply[1] == 1
		return nil
	})
	return wait, booked, err
}
