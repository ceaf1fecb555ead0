package store

import (
	"context"
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Mode is how Redis is deployed.
type Mode string

// Modes. The zero value is Single.
const (
	Single   Mode = "single"
	Sentinel Mode = "sentinel" // a primary that sentinels name, and replace
	Cluster  Mode = "cluster"  // several primaries, each with its slots
)

const defaultTimeout = 2 * time.Second

// Options say where Redis is.
type Options struct {
	Mode Mode
	// Address is Addresses where there is one.
	Address string
	// Addresses are host:port: of the one Redis (or the path of its unix
	// socket), of all sentinels, or of some of the Cluster's nodes.
	Addresses []string
	Username  string
	Password  string
	// TLS is for every connection, sentinels' included; nil: no TLS. Without a
	// ServerName, each host has to show a certificate for its own.
	TLS *tls.Config

	MasterName       string // what the sentinels call the primary
	SentinelUsername string
	SentinelPassword string

	KeyPrefix string
	Timeout   time.Duration // of one call, connecting included; 0 means 2 s
	// WaitReplicas is how many replicas are waited for, 100 ms at most, after a
	// write that must not get lost. A replica that doesn't acknowledge in time
	// is counted and logged, and nothing is refused.
	WaitReplicas int

	Metrics prometheus.Registerer // nil: nothing is measured
	Log     *slog.Logger          // nil: nothing is logged
	// Offset is added to Redis's clock. For tests.
	Offset func() time.Duration
}

// connect makes a link; it dials nothing yet.
//
// Common to all: scripts answer a second run as the first, so that a retry is
// safe. A reply that comes too late finds its connection closed: go-redis throws
// a connection away after any error but Redis's own, and RESP 2 knows no message
// that isn't a reply, so that whatever comes unasked condemns the connection,
// too. Nothing is read from replicas, ever: they lag behind ends. A command's
// wait for a connection, its retries and their pauses all end with the call's
// context.
func (s *Store) connect(o Options) *Link {
	const (
		poolSize   = 64
		idleConns  = 32 // of them, once a burst is over
		firstPause = 5 * time.Millisecond
		lastPause  = 50 * time.Millisecond
	)
	// No server of a maintenance window speaks first here, see above.
	off := &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	if o.Mode == Cluster {
		c := redis.NewClusterClient(&redis.ClusterOptions{
			Addrs:     o.Addresses,
			Protocol:  2,
			Username:  o.Username,
			Password:  o.Password,
			TLSConfig: o.TLS,
			OnConnect: s.connected,
			// While a slot moves, a script meets TRYAGAIN until both its keys are
			// on one side. That is soon; with the pauses this is about a second.
			MaxRedirects:    16,
			MinRetryBackoff: firstPause,
			MaxRetryBackoff: 2 * lastPause,
			// A dead master doesn't say who took over. CLUSTER SLOTS once a
			// second costs nothing, and ends the outage as soon as it can end.
			ClusterStateReloadInterval: time.Second,
			// Each command here has keys of one slot, and goes to its master.
			DisableRoutingPolicies: true,

			DialTimeout:              o.Timeout,
			DialerRetries:            1,
			ReadTimeout:              o.Timeout,
			WriteTimeout:             o.Timeout,
			ContextTimeoutEnabled:    true,
			PoolTimeout:              o.Timeout,
			PoolSize:                 poolSize,
			MaxIdleConns:             idleConns,
			PipelinePoolSize:         -1, // one pool: pipelines are rare
			DisableIdentity:          true,
			MaintNotificationsConfig: off,
		})
		return &Link{rdb: c, cluster: c, opts: o}
	}
	l := &Link{opts: o}
	opts := &redis.Options{
		Network:   network(o.Address),
		Addr:      o.Address,
		Protocol:  2,
		Username:  o.Username,
		Password:  o.Password,
		TLSConfig: o.TLS,
		OnConnect: s.connected,
		// One retry is what a connection that died while idle costs.
		MaxRetries:            1,
		MinRetryBackoff:       firstPause,
		MaxRetryBackoff:       lastPause,
		DialTimeout:           o.Timeout,
		DialerRetries:         1,
		ReadTimeout:           o.Timeout,
		WriteTimeout:          o.Timeout,
		ContextTimeoutEnabled: true,
		// A pool that waits as long as a call may take adds no wait of its own.
		PoolTimeout:              o.Timeout,
		PoolSize:                 poolSize,
		MaxIdleConns:             idleConns,
		PipelinePoolSize:         -1, // one pool: pipelines are rare
		DisableIdentity:          true,
		MaintNotificationsConfig: off,
	}
	if o.Mode == Sentinel {
		l.sentinels = newSentinels(o)
		opts.Network, opts.Addr = "tcp", "primary of "+o.MasterName
		opts.Dialer = l.sentinels.dial
		// A READONLY answer costs one, the dial that finds the next primary not
		// yet promoted another.
		opts.MaxRetries = 3
	}
	l.rdb = redis.NewClient(opts)
	return l
}

// go-redis writes to a logger of the whole process. Whatever it has to say of a
// call comes back as that call's error, too.
func init() { redis.SetLogger(silence{}) }

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

func network(address string) string {
	if len(address) > 0 && address[0] == '/' {
		return "unix"
	}
	return "tcp"
}
