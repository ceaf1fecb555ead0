package store

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"
)

// waitTimeout is how long a write waits for replicas.
const waitTimeout = 100 * time.Millisecond

// warnEvery is how often a log says that replicas don't acknowledge.
const warnEvery = 10 * time.Second

// enough stands for an acknowledgement that nobody asked for.
const enough = 1 << 30

// eval runs a script, and returns how many replicas have what it wrote.
func (s *Store) eval(ctx context.Context, sc *script, keys []string, args []any) (reply *redis.Cmd, replicas int) {
	if s.wait() == 0 || !sc.durable {
		return sc.lua.Run(ctx, s.rdb(), keys, args...), enough
	}
	cmd, replicas := s.replicated(ctx, keys[0], func(c redis.Cmdable) redis.Cmder {
		return sc.lua.EvalSha(ctx, c, keys, args...)
	})
	if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
		cmd, replicas = s.replicated(ctx, keys[0], func(c redis.Cmdable) redis.Cmder {
			return sc.lua.Eval(ctx, c, keys, args...)
		})
	}
	return cmd.(*redis.Cmd), replicas
}

// replicated sends a command on key with a WAIT behind it, on one connection,
// and returns it with how many replicas acknowledged it. WAIT counts for all that
// its connection has seen: also for a command that only finds what its first
// run wrote.
func (s *Store) replicated(ctx context.Context, key string, send func(redis.Cmdable) redis.Cmder) (cmd redis.Cmder, replicas int) {
	if s.wait() == 0 {
		return send(s.rdb()), enough
	}
	if s.cluster() == nil {
		cmd, waited := s.withWait(ctx, s.rdb(), send)
		return cmd, waited
	}
	node, err := s.cluster().MasterForKey(ctx, key)
	if err == nil {
		if cmd, replicas = s.withWait(ctx, node, send); !elsewhere(cmd.Err()) {
			return cmd, replicas
		}
	}
	// The slot is on its way, or its master has gone: the Cluster's client knows
	// how to follow. To write twice is to write once.
	if cmd = send(s.rdb()); cmd.Err() != nil {
		return cmd, 0
	}
	if node, err = s.cluster().MasterForKey(ctx, key); err != nil {
		return cmd, 0
	}
	_, replicas = s.withWait(ctx, node, func(c redis.Cmdable) redis.Cmder { return c.Ping(ctx) })
	return cmd, replicas
}

func (s *Store) withWait(ctx context.Context, c redis.Cmdable, send func(redis.Cmdable) redis.Cmder) (cmd redis.Cmder, replicas int) {
	var waited *redis.IntCmd
	_, _ = c.Pipelined(ctx, func(p redis.Pipeliner) error {
		cmd = send(p)
		waited = redis.NewIntCmd(ctx, "wait", s.wait(), waitTimeout.Milliseconds())
		return p.Process(ctx, waited)
	})
	return cmd, int(waited.Val())
}

// set writes a plain key that has to survive.
func (s *Store) set(ctx context.Context, operation, key string, value any, a redis.SetArgs) error {
	cmd, replicas := s.replicated(ctx, key, func(c redis.Cmdable) redis.Cmder { return c.SetArgs(ctx, key, value, a) })
	if cmd.Err() == nil || errors.Is(cmd.Err(), redis.Nil) {
		s.acknowledged(ctx, operation, replicas)
	}
	return cmd.Err()
}

// elsewhere reports whether an error calls for asking the Cluster again: all but
// an answer that its node stands by.
func elsewhere(err error) bool {
	if _, replied := errors.AsType[redis.Error](err); !replied || errors.Is(err, redis.Nil) {
		return err != nil && !errors.Is(err, redis.Nil)
	}
	for _, prefix := range []string{"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN"} {
		if redis.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	return false
}

// acknowledged counts a write that too few replicas have. Nothing is refused for
// it: that would make an outage of a dead replica.
func (s *Store) acknowledged(ctx context.Context, operation string, replicas int) {
	if replicas >= s.wait() {
		return
	}
	s.unreplicated.WithLabelValues(operation).Inc()
	if s.log == nil {
		return
	}
	s.mu.Lock()
	quiet := time.Since(s.warnedAt) < warnEvery
	if !quiet {
		s.warnedAt = time.Now()
	}
	s.mu.Unlock()
	if !quiet {
		s.log.LogAttrs(ctx, slog.LevelWarn, "redis: too few replicas acknowledge writes: a failover now would lose them",
			slog.String("operation", operation), slog.Int("acknowledged", replicas), slog.Int("wait_replicas", s.wait()))
	}
}
