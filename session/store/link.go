package store

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Link is a way to Redis: connections of one account, by TLS or not, and what is
// asked of a call over them. It is safe for concurrent use.
type Link struct {
	rdb       redis.UniversalClient
	cluster   *redis.ClusterClient // rdb, in a Cluster; else nil
	sentinels *sentinels           // nil without
	opts      Options
}

func (s *Store) rdb() redis.UniversalClient    { return s.link.Load().rdb }
func (s *Store) cluster() *redis.ClusterClient { return s.link.Load().cluster }
func (s *Store) sentinels() *sentinels         { return s.link.Load().sentinels }
func (s *Store) timeout() time.Duration        { return s.link.Load().opts.Timeout }
func (s *Store) wait() int                     { return s.link.Load().opts.WaitReplicas }

// Try makes another way to the same Redis: by other accounts, TLS, Timeout,
// WaitReplicas or MasterName. The rest of o is not looked at. It is an error if no
// beat can be written or none heard that way, while one can be as it is; if neither
// can be, what is new may be what mends it. The link is for [Store.Use], or to be
// closed.
func (s *Store) Try(ctx context.Context, o Options) (*Link, error) {
	was := s.link.Load().opts
	was.Username, was.Password, was.TLS = o.Username, o.Password, o.TLS
	was.MasterName, was.SentinelUsername, was.SentinelPassword = o.MasterName, o.SentinelUsername, o.SentinelPassword
	was.Timeout, was.WaitReplicas = cmp.Or(o.Timeout, defaultTimeout), o.WaitReplicas
	l := s.connect(was)
	if err := s.try(ctx, l); err != nil && (ctx.Err() != nil || s.Ping(ctx) == nil) {
		_ = l.Close()
		return nil, fmt.Errorf("store: try: %w", err)
	}
	return l, nil
}

// try does what all serving needs.
func (s *Store) try(ctx context.Context, l *Link) error {
	ctx, cancel := context.WithTimeout(ctx, l.opts.Timeout)
	defer cancel()
	shards := s.allShards()
	if len(shards) == 0 { // none is known yet
		shards = []*shard{{key: s.prefix + "beat:{" + tag(0) + "}" + s.replica}}
	}
	// Nobody waits to hear a beat of that number.
	if err := anyOf(shards, func(sh *shard) error { _, err := s.runBeat(ctx, l, sh, 0); return err }); err != nil {
		return err
	}
	sub := l.rdb.Subscribe(ctx, s.channel())
	defer sub.Close()
	_, err := sub.ReceiveTimeout(ctx, l.opts.Timeout)
	return err
}

// Use has all calls from now on go by l. What this replica hears it hears by l,
// too, after a gap like that of a connection that broke. The link before is closed
// once the calls that go by it must be over.
func (s *Store) Use(l *Link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.link.Swap(l)
	s.leaving[old] = time.AfterFunc(old.opts.Timeout, func() {
		s.mu.Lock()
		delete(s.leaving, old)
		s.mu.Unlock()
		_ = old.Close()
	})
}

// Close closes the link's connections.
func (l *Link) Close() error {
	err := l.rdb.Close()
	if l.sentinels != nil {
		l.sentinels.close()
	}
	return err
}

// Close closes the connections.
func (s *Store) Close() error {
	s.mu.Lock()
	var left []*Link
	for old, timer := range s.leaving {
		if timer.Stop() {
			left = append(left, old)
		}
	}
	s.mu.Unlock()
	for _, old := range left {
		_ = old.Close()
	}
	return s.link.Load().Close()
}
