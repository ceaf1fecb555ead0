package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Epoch changes when a connection has been made to a primary whose history this
// process had not known: another one took over, or the one that was there has
// restarted. Writes that Redis acknowledged before may be gone there. It may
// change for less, never for nothing: a Cluster's new shard, a restart that kept
// everything. Whoever wants to run writes again takes it before each write, and
// again once the write is on its list.
//
// Each new connection asks for the history's name, in one round trip, and each
// beat brings it along: a connection made to a Cluster's replica, to ask for the
// slots, is there still when that has become a master.
func (s *Store) Epoch() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

// Meet asks every primary for a sign of life, and so has Epoch know them all.
func (s *Store) Meet(ctx context.Context) error {
	return s.measure(ctx, "meet", func(ctx context.Context) error {
		if s.cluster() == nil {
			return s.rdb().Ping(ctx).Err()
		}
		return s.cluster().ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
			return master.Ping(ctx).Err()
		})
	})
}

// connected looks at whom a new connection leads to. A master's replication id
// names a history of writes: a restart and a promotion draw a new one, so that
// an old primary that comes back as one is told apart, too.
func (s *Store) connected(ctx context.Context, cn *redis.Conn) error {
	info, err := cn.Info(ctx, "replication").Result()
	if _, replied := errors.AsType[redis.Error](err); replied {
		// Not allowed to ask, or asked of something that only speaks like Redis. It
		// may be anybody; but who took each connection for another Redis would never
		// come to refresh anything.
		s.blind.Do(func() {
			if s.log == nil {
				return
			}
			level := slog.LevelDebug
			if redis.HasErrorPrefix(err, "NOPERM") {
				level = slog.LevelWarn // an operator can mend it
			}
			s.log.Log(ctx, level, "redis refuses INFO replication: what a failover or a restart loses is not written again", slog.String("err", err.Error()))
		})
		return nil
	}
	if err != nil {
		return err
	}
	role := field(info, "role")
	if role == "master" {
		s.history(field(info, "master_replid"))
	} else if s.sentinels() != nil {
		// Named a primary and not promoted yet, or not any more.
		return fmt.Errorf("the primary that the sentinels name is a %s", role)
	}
	return nil
}

// maxHistories bounds what is remembered; a Cluster has a thousand masters at
// most.
const maxHistories = 1000

// history notes that a primary of this history is in use.
func (s *Store) history(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.histories[id] && len(s.histories) > 0 {
		s.epoch++
	}
	if len(s.histories) >= maxHistories {
		clear(s.histories)
	}
	if s.cluster() == nil {
		// There is one primary. Whoever goes back to another than the last one
		// leaves what was written in between.
		clear(s.histories)
	}
	s.histories[id] = true
}

// field is one line of INFO.
func field(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
