package storetest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// MasterName is how a [Sentinels]' sentinels call what they watch.
const MasterName = "mymaster"

// GroupOptions are what the processes of a group are started with.
type GroupOptions struct {
	Dir      string   // where each gets a directory; must exist
	TLS      *TLS     // nil: without
	Args     []string // further arguments of each redis-server, not of sentinels
	Sentinel []string // further lines of each sentinel's file
}

// Sentinels is a primary with two replicas and the three sentinels that watch
// them: a primary that is gone for a second is replaced.
type Sentinels struct {
	Nodes     []*Node // the first began as the primary
	Sentinels []*Node
}

// Sentinel starts a primary, two replicas and three sentinels for a test.
// Further arguments are redis-server's own.
func Sentinel(t testing.TB, args ...string) *Sentinels {
	t.Helper()
	return SentinelWith(t, GroupOptions{Args: args})
}

// SentinelWith is Sentinel with all options; the directory is the test's.
func SentinelWith(t testing.TB, opts GroupOptions) *Sentinels {
	t.Helper()
	opts.Dir = t.TempDir()
	g, err := NewSentinels(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

// NewSentinels starts a primary, two replicas and three sentinels, and returns
// when the replicas follow and the sentinels agree.
func NewSentinels(opts GroupOptions) (*Sentinels, error) {
	return attempts(opts, func(opts GroupOptions) (*Sentinels, error) {
		g := &Sentinels{}
		err := g.start(opts)
		if err != nil {
			g.Close()
		}
		return g, err
	})
}

// attempts starts a group until it stands: Redis can't be told to pick a port
// itself, so another process may take one that we found before Redis does.
func attempts[G any](opts GroupOptions, start func(GroupOptions) (G, error)) (g G, err error) {
	if err := needed(); err != nil {
		return g, err
	}
	dir := opts.Dir
	for n := range 3 {
		opts.Dir = filepath.Join(dir, strconv.Itoa(n))
		if g, err = start(opts); err == nil {
			return g, nil
		}
	}
	return g, fmt.Errorf("storetest: %w", err)
}

func (g *Sentinels) start(opts GroupOptions) error {
	args := append([]string{"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"}, opts.Args...)
	for i := range 3 {
		n, err := newNode(opts.Dir, fmt.Sprintf("redis-%d", i), opts.TLS, args...)
		if err != nil {
			return err
		}
		if i > 0 {
			n.args = append(n.args[:len(n.args):len(n.args)], "--replicaof", "127.0.0.1 "+g.Nodes[0].port)
		}
		g.Nodes = append(g.Nodes, n)
		n, err = newNode(opts.Dir, fmt.Sprintf("sentinel-%d", i), opts.TLS)
		if err != nil {
			return err
		}
		n.config = filepath.Join(n.dir, "sentinel.conf")
		g.Sentinels = append(g.Sentinels, n)
	}
	// Sentinels would take seconds to find each other.
	ids := []string{hexID(), hexID(), hexID()}
	for i, n := range g.Sentinels {
		lines := []string{
			"sentinel myid " + ids[i],
			"sentinel monitor " + MasterName + " 127.0.0.1 " + g.Nodes[0].port + " 2",
			"sentinel down-after-milliseconds " + MasterName + " 1000",
			"sentinel failover-timeout " + MasterName + " 5000",
		}
		for _, replica := range g.Nodes[1:] {
			lines = append(lines, "sentinel known-replica "+MasterName+" 127.0.0.1 "+replica.port)
		}
		for k, other := range g.Sentinels {
			if k != i {
				lines = append(lines, "sentinel known-sentinel "+MasterName+" 127.0.0.1 "+other.port+" "+ids[k])
			}
		}
		lines = append(lines, opts.Sentinel...)
		if err := os.WriteFile(n.config, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			return err
		}
	}
	if err := g.Nodes[0].start(); err != nil {
		return err
	}
	if err := together(g.Nodes[1:], func(_ int, n *Node) error { return n.start() }); err != nil {
		return err
	}
	if err := together(g.Sentinels, func(_ int, n *Node) error { return n.start() }); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return g.Wait(ctx)
}

// Wait returns when there is one primary, every other node that runs follows it
// in step, and every sentinel that runs knows so.
func (g *Sentinels) Wait(ctx context.Context) error {
	return eventually(ctx, func() error {
		primary, err := g.Primary(ctx)
		if err != nil {
			return err
		}
		replicas := 0
		for _, n := range g.Nodes {
			if n == primary || !n.Running() {
				continue
			}
			replicas++
			info, err := n.info(ctx, "replication")
			if err != nil {
				return err
			}
			if info["role"] != "slave" || info["master_port"] != primary.port || info["master_link_status"] != "up" {
				return fmt.Errorf("%s does not follow %s", n.Addr(), primary.Addr())
			}
		}
		for _, s := range g.Sentinels {
			if !s.Running() {
				continue
			}
			known, err := s.client().Do(ctx, "sentinel", "master", MasterName).Slice()
			if err != nil {
				return err
			}
			m := pairs(known)
			if m["port"] != primary.port || m["flags"] != "master" {
				return fmt.Errorf("sentinel %s: %s is %s", s.Addr(), m["port"], m["flags"])
			}
			if replicas == 0 {
				continue
			}
			if _, err := s.client().Do(ctx, "sentinel", "ckquorum", MasterName).Result(); err != nil {
				return err
			}
			ready := 0
			list, err := s.client().Do(ctx, "sentinel", "replicas", MasterName).Slice()
			if err != nil {
				return err
			}
			for _, r := range list {
				entry, _ := r.([]any)
				if m := pairs(entry); m["flags"] == "slave" && m["master-link-status"] == "ok" {
					ready++
				}
			}
			if ready < replicas {
				return fmt.Errorf("sentinel %s sees %d of %d replicas", s.Addr(), ready, replicas)
			}
		}
		return nil
	})
}

// Addrs are the sentinels' addresses.
func (g *Sentinels) Addrs() []string { return addrs(g.Sentinels) }

// Primary is the node that a majority of the sentinels which run names, and that
// says itself that it is one. While there is none, it is an error.
func (g *Sentinels) Primary(ctx context.Context) (*Node, error) {
	votes, running := map[string]int{}, 0
	for _, s := range g.Sentinels {
		if !s.Running() {
			continue
		}
		running++
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		addr, err := s.client().Do(ctx, "sentinel", "get-master-addr-by-name", MasterName).StringSlice()
		cancel()
		if err == nil && len(addr) == 2 {
			votes[net.JoinHostPort(addr[0], addr[1])]++
		}
	}
	for _, n := range g.Nodes {
		if 2*votes[n.Addr()] <= running {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		info, err := n.info(ctx, "replication")
		if err != nil {
			return nil, err
		}
		if info["role"] != "master" {
			return nil, fmt.Errorf("%s is a %s", n.Addr(), info["role"])
		}
		return n, nil
	}
	return nil, errors.New("the sentinels agree on no primary")
}

// Failover has the sentinels replace a primary that works, and returns when the
// others follow the new one.
func (g *Sentinels) Failover(ctx context.Context) error {
	old, err := g.Primary(ctx)
	if err != nil {
		return err
	}
	if err := g.Sentinels[0].Do(ctx, "sentinel", "failover", MasterName).Err(); err != nil {
		return err
	}
	err = eventually(ctx, func() error {
		if now, err := g.Primary(ctx); err != nil || now == old {
			return errors.Join(err, errors.New("no new primary yet"))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return g.Wait(ctx)
}

// Close kills all that runs.
func (g *Sentinels) Close() {
	// First those who would begin a failover.
	for _, n := range append(g.Sentinels[:len(g.Sentinels):len(g.Sentinels)], g.Nodes...) {
		n.close()
	}
}

// info is a section of INFO.
func (n *Node) info(ctx context.Context, section string) (map[string]string, error) {
	text, err := n.client().Info(ctx, section).Result()
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields, nil
}

func addrs(nodes []*Node) []string {
	out := make([]string, len(nodes))
	for i, n := range nodes {
		out[i] = n.Addr()
	}
	return out
}

// pairs reads names and values that follow each other.
func pairs(list []any) map[string]string {
	m := map[string]string{}
	for i := 0; i+1 < len(list); i += 2 {
		m[fmt.Sprint(list[i])] = fmt.Sprint(list[i+1])
	}
	return m
}

// hexID is a name as Redis gives itself one.
func hexID() string {
	var b [20]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
