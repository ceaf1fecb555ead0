package storetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// slots is how many slots a Cluster has.
const slots = 16384

// Shards is a Redis Cluster: three masters, then a replica of each. A master that
// is gone for a second is replaced.
type Shards struct {
	Nodes []*Node
	ids   []string
}

// Cluster starts a Redis Cluster of six nodes for a test. Further arguments are
// redis-server's own.
func Cluster(t testing.TB, args ...string) *Shards {
	t.Helper()
	return ClusterWith(t, GroupOptions{Args: args})
}

// ClusterWith is Cluster with all options; the directory is the test's.
func ClusterWith(t testing.TB, opts GroupOptions) *Shards {
	t.Helper()
	opts.Dir = t.TempDir()
	c, err := NewCluster(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// NewCluster starts a Redis Cluster of six nodes, and returns when all slots are
// served and the replicas follow.
func NewCluster(opts GroupOptions) (*Shards, error) {
	return attempts(opts, func(opts GroupOptions) (*Shards, error) {
		c := &Shards{}
		err := c.start(opts)
		if err != nil {
			c.Close()
		}
		return c, err
	})
}

func (c *Shards) start(opts GroupOptions) (err error) {
	buses := make([]string, 6)
	for i := range 6 {
		if buses[i], err = freePort(); err != nil {
			return err
		}
		args := append([]string{
			"--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port", buses[i],
			"--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1",
		}, opts.Args...)
		n, err := newNode(opts.Dir, fmt.Sprintf("node-%d", i), opts.TLS, args...)
		if err != nil {
			return err
		}
		c.Nodes, c.ids = append(c.Nodes, n), append(c.ids, hexID())
	}
	// Each is told of all: nodes that have to meet first take seconds more.
	for i, n := range c.Nodes {
		var conf strings.Builder
		for k, other := range c.Nodes {
			flags, master, epoch, served := "master", "-", strconv.Itoa(k+1), fmt.Sprintf(" %d-%d", k*slots/3, (k+1)*slots/3-1)
			if k >= 3 {
				flags, master, epoch, served = "slave", c.ids[k-3], strconv.Itoa(k-2), ""
			}
			if k == i {
				flags = "myself," + flags
			}
			fmt.Fprintf(&conf, "%s 127.0.0.1:%s@%s %s %s 0 0 %s connected%s\n", c.ids[k], other.port, buses[k], flags, master, epoch, served)
		}
		conf.WriteString("vars currentEpoch 3 lastVoteEpoch 0\n")
		if err := os.WriteFile(filepath.Join(n.dir, "nodes.conf"), []byte(conf.String()), 0o600); err != nil {
			return err
		}
	}
	if err := together(c.Nodes, func(_ int, n *Node) error { return n.start() }); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return c.Wait(ctx)
}

// Addrs are the nodes' addresses.
func (c *Shards) Addrs() []string { return addrs(c.Nodes) }

// Close kills all that runs.
func (c *Shards) Close() {
	for _, n := range c.Nodes {
		n.close()
	}
}

// Wait returns when every node that runs sees all slots served, by masters that
// it can reach, and every replica that runs is in step.
func (c *Shards) Wait(ctx context.Context) error {
	return eventually(ctx, func() error {
		view := ""
		for _, n := range c.Nodes {
			if !n.Running() {
				continue
			}
			info, err := n.client().ClusterInfo(ctx).Result()
			if err != nil {
				return err
			}
			if !strings.Contains(info, "cluster_state:ok") {
				return fmt.Errorf("%s: not ok", n.Addr())
			}
			served, err := n.client().ClusterSlots(ctx).Result()
			if err != nil {
				return err
			}
			mine, listed := "", map[string]bool{}
			for _, s := range served {
				mine += fmt.Sprint(s.Start, "-", s.End, s.Nodes[0].Addr, " ")
				for _, node := range s.Nodes {
					listed[node.Addr] = true
				}
			}
			for _, other := range c.Nodes {
				if listed[other.Addr()] != other.Running() {
					return fmt.Errorf("%s doesn't know how %s is", n.Addr(), other.Addr())
				}
			}
			if view == "" {
				view = mine
			}
			if mine != view {
				return errors.New("the nodes disagree on who serves what")
			}
			state, err := n.info(ctx, "replication")
			if err != nil {
				return err
			}
			if state["role"] == "slave" && state["master_link_status"] != "up" {
				return fmt.Errorf("%s is not in step", n.Addr())
			}
		}
		return nil
	})
}

// Slot is the slot of a key.
func (c *Shards) Slot(ctx context.Context, key string) (int, error) {
	for _, n := range c.Nodes {
		if n.Running() {
			slot, err := n.client().ClusterKeySlot(ctx, key).Result()
			return int(slot), err
		}
	}
	return 0, errors.New("storetest: no node runs")
}

// Master is the node that serves a slot, as most nodes which run say.
func (c *Shards) Master(ctx context.Context, slot int) (*Node, error) {
	votes, running := map[string]int{}, 0
	for _, n := range c.Nodes {
		if !n.Running() {
			continue
		}
		running++
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		served, err := n.client().ClusterSlots(ctx).Result()
		cancel()
		if err != nil {
			continue
		}
		for _, s := range served {
			if s.Start <= slot && slot <= s.End && len(s.Nodes) > 0 {
				votes[s.Nodes[0].Addr]++
			}
		}
	}
	for _, n := range c.Nodes {
		if 2*votes[n.Addr()] > running {
			return n, nil
		}
	}
	return nil, fmt.Errorf("the nodes agree on no master of slot %d", slot)
}

// Replica is a node that runs and follows master.
func (c *Shards) Replica(ctx context.Context, master *Node) (*Node, error) {
	for _, n := range c.Nodes {
		if n == master || !n.Running() {
			continue
		}
		info, err := n.info(ctx, "replication")
		if err == nil && info["role"] == "slave" && info["master_port"] == master.port {
			return n, nil
		}
	}
	return nil, fmt.Errorf("nobody follows %s", master.Addr())
}

// Failover has a replica take over from its master, without loss, and returns
// when all nodes know.
func (c *Shards) Failover(ctx context.Context, replica *Node) error {
	if err := replica.Do(ctx, "cluster", "failover").Err(); err != nil {
		return err
	}
	err := eventually(ctx, func() error {
		info, err := replica.info(ctx, "replication")
		if err == nil && info["role"] != "master" {
			err = errors.New("still a replica")
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.Wait(ctx)
}

// MigrateSlots moves slots with all their keys from one master to another, one
// after the other and one key after the other, as an operator's reshard does.
// Clients meet MOVED, ASK and, with several keys, TRYAGAIN meanwhile. It returns
// when all nodes that run know: whoever doesn't would undo a quick move back.
func (c *Shards) MigrateSlots(ctx context.Context, from, to *Node, move ...int) error {
	ids := map[*Node]string{}
	for _, n := range []*Node{from, to} {
		id, err := n.client().Do(ctx, "cluster", "myid").Text()
		if err != nil {
			return err
		}
		ids[n] = id
	}
	for _, slot := range move {
		// A node that has only just come back may not know yet what it has.
		if err := eventually(ctx, func() error { return c.agree(ctx, slot, from) }); err != nil {
			return err
		}
		if err := to.Do(ctx, "cluster", "setslot", slot, "importing", ids[from]).Err(); err != nil {
			return err
		}
		if err := from.Do(ctx, "cluster", "setslot", slot, "migrating", ids[to]).Err(); err != nil {
			return err
		}
		for {
			keys, err := from.client().ClusterGetKeysInSlot(ctx, slot, 1).Result()
			if err != nil {
				return err
			}
			if len(keys) == 0 {
				break
			}
			// One at a time, so that clients see slots of which half has moved.
			if err := from.Do(ctx, "migrate", "127.0.0.1", to.port, keys[0], 0, 2000, "replace").Err(); err != nil && !errors.Is(err, redis.Nil) {
				return err
			}
		}
		for _, n := range append([]*Node{to, from}, c.Nodes...) {
			if !n.Running() {
				continue
			}
			err := n.Do(ctx, "cluster", "setslot", slot, "node", ids[to]).Err()
			if err != nil && (n == to || n == from) { // replicas refuse, and hear of it
				return fmt.Errorf("storetest: slot %d is moved: %s: %w", slot, n.Addr(), err)
			}
		}
		if err := eventually(ctx, func() error { return c.agree(ctx, slot, to) }); err != nil {
			return err
		}
	}
	return nil
}

// agree asks all nodes that run whether master serves slot.
func (c *Shards) agree(ctx context.Context, slot int, master *Node) error {
	for _, n := range c.Nodes {
		if !n.Running() {
			continue
		}
		served, err := n.client().ClusterSlots(ctx).Result()
		if err != nil {
			return err
		}
		for _, s := range served {
			if s.Start <= slot && slot <= s.End && s.Nodes[0].Addr != master.Addr() {
				return fmt.Errorf("%s takes %s for the master of slot %d", n.Addr(), s.Nodes[0].Addr, slot)
			}
		}
	}
	return nil
}
