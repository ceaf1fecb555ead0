package store

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Node is one server of Redis, as it says of itself.
type Node struct {
	Address  string
	Primary  bool          // by its place; Role says what it takes itself for
	Role     string        // "master" or "slave"
	Ahead    time.Duration // its clock less this host's
	Policy   string        // maxmemory-policy
	Replicas int           // that follow it in step
	// MinReplicas: it refuses writes while too few replicas follow.
	MinReplicas bool
	Err         error // it doesn't answer; the rest is unset, but Primary
}

// Inspect asks every server of Redis, replicas included, what an operator should
// know. It is for looking at a deployment, not for serving.
func (s *Store) Inspect(ctx context.Context) ([]Node, error) {
	nodes, err := s.nodes(ctx)
	if err != nil {
		return nil, err
	}
	by := s.link.Load().opts
	for i := range nodes {
		o := &redis.Options{
			Network: network(nodes[i].Address), Addr: nodes[i].Address, Protocol: 2,
			Username: by.Username, Password: by.Password, TLSConfig: by.TLS,
			MaxRetries:  -1, // to show what a first try meets
			DialTimeout: by.Timeout, DialerRetries: 1, ReadTimeout: by.Timeout, WriteTimeout: by.Timeout, ContextTimeoutEnabled: true,
			PoolSize: 1, PipelinePoolSize: -1, DisableIdentity: true,
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		}
		c := redis.NewClient(o)
		nodes[i].Err = nodes[i].ask(ctx, c)
		_ = c.Close()
	}
	return nodes, nil
}

// nodes lists the servers, primaries first.
func (s *Store) nodes(ctx context.Context) (nodes []Node, err error) {
	switch {
	case s.cluster() != nil:
		served, err := s.cluster().ClusterSlots(ctx).Result()
		if err != nil {
			return nil, err
		}
		for _, r := range served {
			for i, n := range r.Nodes {
				if !slices.ContainsFunc(nodes, func(known Node) bool { return known.Address == n.Addr }) {
					nodes = append(nodes, Node{Address: n.Addr, Primary: i == 0})
				}
			}
		}
		slices.SortStableFunc(nodes, func(a, b Node) int { return flag(b.Primary) - flag(a.Primary) })
	case s.sentinels() != nil:
		primary, err := s.sentinels().find(ctx)
		if err != nil {
			return nil, err
		}
		nodes = []Node{{Address: primary, Primary: true}}
		for _, address := range s.sentinels().replicas(ctx) {
			nodes = append(nodes, Node{Address: address})
		}
	default:
		nodes = []Node{{Address: s.link.Load().opts.Address, Primary: true}}
	}
	return nodes, nil
}

// replicas are those that some sentinel sees at work.
func (p *sentinels) replicas(ctx context.Context) (addresses []string) {
	for _, c := range p.clients {
		cmd := redis.NewMapStringStringSliceCmd(ctx, "sentinel", "replicas", p.name)
		if c.Process(ctx, cmd) != nil {
			continue
		}
		for _, r := range cmd.Val() {
			if r["flags"] == "slave" {
				addresses = append(addresses, net.JoinHostPort(r["ip"], r["port"]))
			}
		}
		return addresses
	}
	return nil
}

func (n *Node) ask(ctx context.Context, c *redis.Client) error {
	if err := c.Ping(ctx).Err(); err != nil {
		return err
	}
	before := time.Now()
	theirs, err := c.Time(ctx).Result()
	if err != nil {
		return err
	}
	// Their reading was taken somewhere between our two.
	after := time.Now()
	n.Ahead = theirs.Sub(before.Add(after.Sub(before) / 2)).Round(time.Millisecond)
	replication, err := c.Info(ctx, "replication").Result()
	if err != nil {
		return err
	}
	memory, err := c.Info(ctx, "memory").Result()
	if err != nil {
		return err
	}
	n.Role, n.Policy = field(replication, "role"), field(memory, "maxmemory_policy")
	if n.Role == "" || n.Policy == "" {
		return errors.New("INFO doesn't tell role and maxmemory_policy")
	}
	n.Replicas, _ = strconv.Atoi(field(replication, "connected_slaves"))
	n.MinReplicas = field(replication, "min_slaves_good_slaves") != ""
	return nil
}
