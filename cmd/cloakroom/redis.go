package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cloakroom/cloakroom/config"
	"github.com/cloakroom/cloakroom/session/store"
)

// newStore makes the store that the configuration names.
func newStore(r config.Redis, metrics prometheus.Registerer, log *slog.Logger) *store.Store {
	o := storeOptions(r)
	o.Metrics, o.Log = metrics, log
	return store.New(o)
}

func storeOptions(r config.Redis) store.Options {
	return store.Options{
		Mode:             store.Mode(r.Mode),
		Addresses:        r.Addresses,
		Username:         r.Username,
		Password:         string(r.Password),
		TLS:              r.TLS,
		MasterName:       r.Sentinel.Master,
		SentinelUsername: r.Sentinel.Username,
		SentinelPassword: string(r.Sentinel.Password),
		KeyPrefix:        r.KeyPrefix,
		Timeout:          r.Timeout,
		WaitReplicas:     r.WaitReplicas,
	}
}

// tryRedis makes another way to Redis, if the configuration says so now, and sees
// that it leads there. Nil: there is nothing to change, or another Redis, whose
// accounts are of no use with this one.
func tryRedis(ctx context.Context, s *store.Store, now, next config.Redis) (*store.Link, error) {
	if len(elsewhere(now, next)) > 0 || sameWay(now, next) {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, now.Timeout+next.Timeout)
	defer cancel()
	link, err := s.Try(ctx, storeOptions(next))
	if err != nil {
		return nil, fmt.Errorf("redis doesn't take the gateway as it says now: %w", err)
	}
	return link, nil
}

// elsewhere are the keys by which b is another Redis than a.
func elsewhere(a, b config.Redis) (keys []string) {
	if a.Mode != b.Mode {
		keys = append(keys, "redis.mode")
	}
	if !slices.Equal(a.Addresses, b.Addresses) {
		keys = append(keys, "redis.addresses")
	}
	if a.KeyPrefix != b.KeyPrefix {
		keys = append(keys, "redis.key_prefix")
	}
	return keys
}

// sameWay reports whether a and b lead to one Redis in the same way.
func sameWay(a, b config.Redis) bool {
	sameTLS := (a.TLS == nil) == (b.TLS == nil)
	if a.TLS != nil && b.TLS != nil {
		// They hold functions, and can't be compared as they are.
		sameTLS = a.TLS.RootCAs.Equal(b.TLS.RootCAs) &&
			slices.EqualFunc(a.TLS.Certificates, b.TLS.Certificates, func(x, y tls.Certificate) bool {
				return slices.EqualFunc(x.Certificate, y.Certificate, bytes.Equal)
			})
	}
	a.TLS, b.TLS = nil, nil
	return sameTLS && reflect.DeepEqual(a, b)
}

// askRedis asks what the gateway needs of Redis.
func askRedis(s *store.Store, cfg *config.Config) []finding {
	ctx, cancel := context.WithTimeout(context.Background(), onlineTimeout)
	defer cancel()
	if err := s.Ping(ctx); err != nil {
		return []finding{{"redis", statusFailed, "does not answer, or takes no writes: " + err.Error()}}
	}
	nodes, err := s.Inspect(ctx)
	if err != nil {
		return []finding{{"redis", statusFailed, "does not tell its servers: " + err.Error()}}
	}
	primaries := 0
	for _, n := range nodes {
		if n.Primary {
			primaries++
		}
	}
	out := []finding{{"redis", statusOK, "answers and takes writes"}}
	if len(nodes) > 1 {
		out[0].Detail += fmt.Sprintf(" (%s: %d primaries, %d replicas)", cfg.Redis.Mode, primaries, len(nodes)-primaries)
	}
	for _, n := range nodes {
		name := "redis"
		if len(nodes) > 1 {
			name += " " + n.Address
		}
		if n.Err != nil {
			f := finding{name, statusWarning, "can't be looked at: " + n.Err.Error()}
			if n.Primary && len(nodes) > 1 {
				f.Status = statusFailed
			}
			out = append(out, f)
			continue
		}
		if n.Primary {
			out = append(out, role(name, n), eviction(name, n))
			if f, ok := replication(name, n, cfg.Redis); ok {
				out = append(out, f)
			}
		}
		out = append(out, skew(name, n, cfg))
	}
	return out
}

// role judges whether a primary knows that it is one.
func role(name string, n store.Node) finding {
	if n.Role != "master" {
		return finding{name + " role", statusFailed, "is " + n.Role + " where the primary should be: what it says may be old"}
	}
	return finding{name + " role", statusOK, n.Role}
}

// eviction judges maxmemory-policy: a Redis that evicts logs people out, and
// may forget that a session has ended.
func eviction(name string, n store.Node) finding {
	f := finding{name + " maxmemory-policy", statusOK, n.Policy}
	if n.Policy != "noeviction" {
		f.Status, f.Detail = statusFailed, "is "+n.Policy+" and must be noeviction: an evicted session is a person logged out"
	}
	return f
}

// replication judges what a primary's death would cost.
func replication(name string, n store.Node, r config.Redis) (finding, bool) {
	f := finding{name + " replicas", statusOK, fmt.Sprintf("%d follow", n.Replicas)}
	switch {
	case n.Replicas < r.WaitReplicas:
		f.Status = statusFailed
		f.Detail += fmt.Sprintf(", and redis.wait_replicas asks for %d: each write that waits takes 100 ms longer", r.WaitReplicas)
	case r.Mode == "sentinel" && !n.MinReplicas:
		f.Status = statusWarning
		f.Detail += "; with min-replicas-to-write 0, a primary that is cut off goes on alone, and what it takes is lost"
	case r.Mode != "single" && n.Replicas == 0:
		f.Status = statusWarning
		f.Detail += ": nobody can take over"
	case r.Mode != "single" && r.WaitReplicas == 0:
		f.Status = statusWarning
		f.Detail += "; with redis.wait_replicas 0, nobody waits for them: a failover may lose the last ends and rotations"
	case r.Mode == "single" && n.Replicas == 0:
		return finding{}, false
	}
	return f, true
}

// skew judges a clock by this host's. A third of the grace is what the protocol
// assumes of Redis's clocks among each other: a replica may take over.
func skew(name string, n store.Node, cfg *config.Config) finding {
	allowed := time.Duration(1<<63 - 1)
	for _, a := range cfg.Apps {
		allowed = min(allowed, a.Session.RotationGrace/3)
	}
	f := finding{name + " clock", statusOK, fmt.Sprintf("differs from this host's by %v", n.Ahead)}
	if n.Ahead.Abs() > allowed {
		f.Status = statusFailed
		f.Detail += fmt.Sprintf(", more than a third of session.rotation_grace (%v)", allowed)
	}
	return f
}
