// Package store keeps sessions in Redis. Each change of state is one Lua script
// (lua/*.lua), idempotent under its [Attempt], on keys of one slot, and every
// key has a TTL:
//
//	<prefix>s:{<sid>}      the record, or its tombstone
//	<prefix>p:{<sid>}      the predecessors that still work
//	<prefix>beat:<id>      a replica's beat; in a Cluster beat:{<tag>}<id>, one for each shard
//	<prefix>backoff:{<app>} how long to leave a provider alone
//	<prefix>i:{<index>}    the sessions of a subject, or of a provider's session
//	<prefix>o:{<index>}    a logout that holds for sessions still to come
//	<prefix>l:{<index>}    a lock on new sessions
//	<prefix>not_before     when each app's sessions have to have begun
//	<prefix>j:<hash>       something that may come once
//	<prefix>r:<hash>       attempts that are limited
//	<prefix>t:{<hash>}     the session that an access token was handed out to
//	<prefix>events         a channel: ends, changes, beats
//
// Redis may be one server, a primary that sentinels name, or a Cluster ([Mode]);
// all keys of a call are in one slot, or the call asks slot by slot.
//
// The package judges times and generations; it holds no key and can open
// nothing. Any error of a method means that Redis did not answer, or answered
// something that no release of this code writes: the caller reports an outage,
// and the change may still happen. A Store is safe for concurrent use.
package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// Store keeps sessions in Redis.
type Store struct {
	link     atomic.Pointer[Link] // by which calls go
	together together
	prefix   string
	offset   func() time.Duration
	log      *slog.Logger // or nil
	blind    sync.Once    // tells that INFO may not be asked
	replica  string       // names this process's beats

	latency      *prometheus.HistogramVec
	unreplicated *prometheus.CounterVec

	known  atomic.Pointer[known] // of what mu guards
	series sync.Map              // by operation and result: latency's observers

	mu    sync.Mutex // guards what follows; publish tells of changes
	beats uint64     // counts beats
	sent  map[uint64]sentBeat
	// shards are Redis's primaries with the slots that they have; without a
	// Cluster there is one.
	shards []*shard
	ear    uint64    // counts subscriptions
	told   time.Time // Redis's, with the last beat; zero: none has come
	toldAt time.Time // when that was, by this process's clock
	// listening is when the subscription that stands was made; zero: none stands.
	listening time.Time

	notBefore   map[[8]byte]time.Time
	notBeforeAt time.Time // when it was read

	epoch     uint64
	histories map[string]bool // of the primaries that were connected to
	warnedAt  time.Time       // of replicas that don't acknowledge

	leaving map[*Link]*time.Timer // links that calls may still go by
}

// New returns a Store. It does not dial.
func New(opts Options) *Store {
	opts.Timeout = cmp.Or(opts.Timeout, defaultTimeout)
	if opts.Address == "" && len(opts.Addresses) > 0 {
		opts.Address = opts.Addresses[0]
	} else if len(opts.Addresses) == 0 {
		opts.Addresses = []string{opts.Address}
	}
	if opts.Offset == nil {
		opts.Offset = func() time.Duration { return 0 }
	}
	var id [9]byte
	rand.Read(id[:])
	s := &Store{
		prefix:  opts.KeyPrefix,
		offset:  opts.Offset,
		log:     opts.Log,
		replica: base64.RawURLEncoding.EncodeToString(id[:]),
		sent:    map[uint64]sentBeat{},

		histories: map[string]bool{},
		leaving:   map[*Link]*time.Timer{},
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "cloakroom_store_seconds",
			Help:    "Time that a call of the session store took, by operation and result.",
			Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .05, .2, 1, 2, 5},
		}, []string{"operation", "result"}),
		unreplicated: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cloakroom_redis_unreplicated_writes_total",
			Help: "Writes that fewer replicas than redis.wait_replicas acknowledged in time, by operation.",
		}, []string{"operation"}),
	}
	s.link.Store(s.connect(opts))
	if s.cluster() == nil {
		s.shards = []*shard{{key: s.prefix + "beat:" + s.replica}}
	}
	s.publish()
	if opts.Metrics != nil {
		opts.Metrics.MustRegister(s.latency, s.unreplicated)
	}
	return s
}

func text(sid [16]byte) string { return base64.RawURLEncoding.EncodeToString(sid[:]) }

func (s *Store) recordKey(sid [16]byte) string      { return s.prefix + "s:{" + text(sid) + "}" }
func (s *Store) predecessorKey(sid [16]byte) string { return s.prefix + "p:{" + text(sid) + "}" }
func (s *Store) channel() string                    { return s.prefix + "events" }

// measure runs one call within the timeout.
func (s *Store) measure(ctx context.Context, operation string, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	start := time.Now()
	err := call(ctx)
	result := "ok"
	if err != nil {
		result = "error"
		err = fmt.Errorf("store: %s: %w", operation, err)
	}
	s.observer(operation, result).Observe(time.Since(start).Seconds())
	return err
}

// observer is latency's for an operation and its result, looked up once.
func (s *Store) observer(operation, result string) prometheus.Observer {
	key := [2]string{operation, result}
	if o, ok := s.series.Load(key); ok {
		return o.(prometheus.Observer)
	}
	o := s.latency.WithLabelValues(operation, result)
	s.series.Store(key, o)
	return o
}

// Begin writes a new session's record, which must not exist.
func (s *Store) Begin(ctx context.Context, sid [16]byte, r Record) error {
	if len(r.Body) > MaxBody {
		return ErrTooLarge
	}
	return s.measure(ctx, "begin", func(ctx context.Context) error {
		err := s.set(ctx, "begin", s.recordKey(sid), r.marshal(), redis.SetArgs{
			Mode:     "NX",
			ExpireAt: r.ExpiresAt.Add(24*time.Hour - s.offset()),
		})
		if errors.Is(err, redis.Nil) {
			// A retry after a lost reply finds the first run's record: it is ours,
			// since 128 random bits don't meet.
			return nil
		}
		return err
	})
}

// Read returns the record by one plain read, and whether there is one. A record
// of an unknown format is an error.
func (s *Store) Read(ctx context.Context, sid [16]byte) (r Record, found bool, err error) {
	err = s.measure(ctx, "read", func(ctx context.Context) error {
		b, err := s.get(ctx, s.recordKey(sid))
		if errors.Is(err, redis.Nil) {
			return nil
		}
		if err != nil {
			return err
		}
		found = true
		r, err = parse(b)
		return err
	})
	return r, found, err
}

// get is a plain read. In a Cluster it goes by itself: a node that is down would
// keep the others' answers waiting.
func (s *Store) get(ctx context.Context, key string) ([]byte, error) {
	if s.cluster() != nil {
		return value(read(ctx, s.rdb(), key))
	}
	return s.together.get(ctx, s.rdb(), key)
}

// Result is what a script answered.
type Result string

// Results. Each change documents which it returns.
const (
	OK        Result = "ok"
	None      Result = "none"      // there is no record, or it is another app's
	Foreign   Result = "format"    // a record of a newer format
	Ended     Result = "ended"     // Record is the tombstone
	Moved     Result = "version"   // the record is not as it was: open again
	Busy      Result = "busy"      // another holds the lease
	Sending   Result = "sending"   // a mark stands
	Full      Result = "full"      // as many predecessors as a record keeps
	Looked    Result = "looked"    // the mark was seen; look again later
	Spent     Result = "spent"     // the token was presented as often as allowed
	Withdrawn Result = "withdrawn" // the mark is gone: present the token again
)

// Verdicts of [Store.Open]; None, Foreign and Ended are further ones.
const (
	Expired     Result = "expired"     // ended just now, for a time that has passed
	UnknownKey  Result = "key"         // the box's server key is not known here
	Ahead       Result = "ahead"       // newer than its record, seen just now
	Lost        Result = "lost"        // newer than its record, for some time
	Mismatch    Result = "mismatch"    // right generation, wrong secret
	Current     Result = "current"     // the current ticket
	Handout     Result = "handout"     // a predecessor: this answer hands the successor out
	Superseding Result = "predecessor" // a predecessor whose successor was handed out
	Settled     Result = "settled"     // a predecessor whose successor was lost: re-issue
	InGrace     Result = "grace"       // a predecessor whose successor is confirmed
	Reuse       Result = "reuse"       // superseded
)

// Answer is what a script found or made.
type Answer struct {
	Result       Result
	Now          time.Time // Redis's clock
	Record       Record
	Predecessors []Predecessor
}

// run executes a script on a session. Its arguments follow the three that every
// script shares.
func (s *Store) run(ctx context.Context, sc *script, sid [16]byte, args ...any) (a Answer, err error) {
	all := append([]any{s.offset().Milliseconds(), s.channel(), text(sid)}, args...)
	keys := []string{s.recordKey(sid), s.predecessorKey(sid)}
	err = s.measure(ctx, sc.name, func(ctx context.Context) error {
		cmd, replicas := s.eval(ctx, sc, keys, all)
		reply, err := cmd.Slice()
		if err != nil {
			return err
		}
		if a, err = parseAnswer(reply); err == nil && a.Result == OK {
			s.acknowledged(ctx, sc.name, replicas)
		}
		return err
	})
	return a, err
}

func parseAnswer(reply []any) (a Answer, err error) {
	if len(reply) < 2 {
		return a, errShort
	}
	result, ok := reply[0].(string)
	now, ok2 := reply[1].(int64)
	if !ok || !ok2 {
		return a, errShort
	}
	a.Result, a.Now = Result(result), time.UnixMilli(now)
	if len(reply) > 2 && a.Result != Foreign {
		if b, _ := reply[2].(string); b != "" {
			if a.Record, err = parse([]byte(b)); err != nil {
				return a, err
			}
		}
	}
	if len(reply) > 3 {
		b, _ := reply[3].(string)
		a.Predecessors, err = parsePredecessors([]byte(b))
	}
	return a, err
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func u64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
