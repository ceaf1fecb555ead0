package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// sentinels find the primary, and leave the one that was.
//
// go-redis has a client of its own for this, which keeps to one sentinel for as
// long as its connection stands: if that one is frozen or out of reach, as when
// it shared the lost primary's host, no new connection can be made any more.
// Here all are asked at once, for each connection and with each beat. Of their
// answers the one with the highest configuration epoch holds; whoever is dialled
// then has to say itself that it is a primary. Connections to another than the
// one that is named now are closed at once: a primary that was isolated or asleep
// would go on answering from what it had.
type sentinels struct {
	name    string
	clients []*redis.Client
	tls     *tls.Config
	timeout time.Duration
	log     *slog.Logger // or nil

	mu      sync.Mutex
	primary string
	askedAt time.Time
	conns   map[*primaryConn]struct{}

	asking sync.WaitGroup
}

const (
	// askTimeout is for how long a minority's answer waits for the others'.
	askTimeout = 500 * time.Millisecond
	// askAgain is for how long an answer is good for further dials: a pool that
	// lost all its connections at once makes many.
	askAgain = 50 * time.Millisecond
)

func newSentinels(o Options) *sentinels {
	p := &sentinels{name: o.MasterName, tls: o.TLS, timeout: o.Timeout, log: o.Log, conns: map[*primaryConn]struct{}{}}
	for _, address := range o.Addresses {
		p.clients = append(p.clients, redis.NewClient(&redis.Options{
			Addr:      address,
			Protocol:  2,
			Username:  o.SentinelUsername,
			Password:  o.SentinelPassword,
			TLSConfig: o.TLS,
			// Two connections: a frozen one doesn't hold up the next question.
			PoolSize:                 2,
			PipelinePoolSize:         -1,
			MaxRetries:               1,
			DialTimeout:              askTimeout,
			DialerRetries:            1,
			ReadTimeout:              askTimeout,
			WriteTimeout:             askTimeout,
			PoolTimeout:              askTimeout,
			ContextTimeoutEnabled:    true,
			DisableIdentity:          true,
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		}))
	}
	return p
}

func (p *sentinels) close() {
	for _, c := range p.clients {
		_ = c.Close()
	}
	p.asking.Wait()
}

// answer is what one sentinel says.
type answer struct {
	address string
	epoch   int64
	err     error
}

var errNoPrimary = errors.New("no sentinel names a primary")

// find asks for the primary, and closes all connections to others.
func (p *sentinels) find(ctx context.Context) (string, error) {
	p.mu.Lock()
	if p.primary != "" && time.Since(p.askedAt) < askAgain {
		defer p.mu.Unlock()
		return p.primary, nil
	}
	p.mu.Unlock()

	start := time.Now()
	answers := make(chan answer, len(p.clients))
	for _, c := range p.clients {
		p.asking.Go(func() {
			// Not cancelled when the others' answers do: that would cost the
			// connection.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(askTimeout, p.timeout/2))
			defer cancel()
			answers <- p.ask(ctx, c)
		})
	}
	best, named := answer{err: errNoPrimary}, 0
	var failures []error
	for range p.clients {
		var a answer
		select {
		case a = <-answers:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if a.err != nil {
			failures = append(failures, a.err)
			continue
		}
		if best.err != nil || a.epoch > best.epoch {
			best = a
		}
		// A majority has to agree to a new primary, so one of any majority knows.
		if named++; 2*named > len(p.clients) {
			break
		}
	}
	if best.err != nil {
		return "", errors.Join(append([]error{errNoPrimary}, failures...)...)
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	if start.Before(p.askedAt) {
		return p.primary, nil // a later question has been answered already
	}
	if p.log != nil && p.primary != "" && p.primary != best.address {
		p.log.LogAttrs(ctx, slog.LevelWarn, "redis has another primary", slog.String("address", best.address), slog.String("before", p.primary))
	}
	p.primary, p.askedAt = best.address, start
	for c := range p.conns {
		if c.address != best.address {
			_ = c.Conn.Close()
			delete(p.conns, c)
		}
	}
	return best.address, nil
}

func (p *sentinels) ask(ctx context.Context, c *redis.Client) answer {
	var address *redis.StringSliceCmd
	var state *redis.MapStringStringCmd
	_, err := c.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		// Only the first tells of a primary that is being promoted.
		address = redis.NewStringSliceCmd(ctx, "sentinel", "get-master-addr-by-name", p.name)
		state = redis.NewMapStringStringCmd(ctx, "sentinel", "master", p.name)
		_ = pipe.Process(ctx, address)
		return pipe.Process(ctx, state)
	})
	fail := func(err error) answer { return answer{err: fmt.Errorf("sentinel %s: %w", c.Options().Addr, err)} }
	if errors.Is(address.Err(), redis.Nil) {
		return fail(errors.New("knows no " + strconv.Quote(p.name)))
	}
	if err != nil {
		return fail(err)
	}
	hostPort := address.Val()
	epoch, err := strconv.ParseInt(state.Val()["config-epoch"], 10, 64)
	if err != nil || len(hostPort) != 2 {
		return fail(errShort)
	}
	return answer{address: net.JoinHostPort(hostPort[0], hostPort[1]), epoch: epoch}
}

// dial connects to the primary of the moment.
func (p *sentinels) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	address, err := p.find(ctx)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: p.timeout, KeepAlive: 15 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if p.tls != nil {
		config := p.tls.Clone()
		if config.ServerName == "" {
			config.ServerName, _, _ = net.SplitHostPort(address)
		}
		secured := tls.Client(conn, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		conn = secured
	}
	c := &primaryConn{Conn: conn, address: address, of: p}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.primary != address {
		_ = conn.Close()
		return nil, fmt.Errorf("%s has been replaced", address)
	}
	p.conns[c] = struct{}{}
	if raw, ok := conn.(syscall.Conn); ok {
		return struct {
			*primaryConn
			syscall.Conn
		}{c, raw}, nil
	}
	return c, nil
}

// primaryConn is a connection to who was the primary when it was made. The pool
// looks at idle connections by their syscall.Conn, where they have one.
type primaryConn struct {
	net.Conn
	address string
	of      *sentinels
}

func (c *primaryConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
