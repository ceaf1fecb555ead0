package main

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cloakroom/cloakroom/config"
	"github.com/cloakroom/cloakroom/session/storetest"
)

func TestCheckLooksAtEveryServer(t *testing.T) {
	g := storetest.Sentinel(t)
	c := storetest.Cluster(t)
	primary, replica := g.Nodes[0], g.Nodes[1]
	sentinel := config.Redis{Mode: "sentinel", Addresses: g.Addrs(), Sentinel: config.Sentinel{Master: storetest.MasterName}}
	for _, row := range []struct {
		name  string
		redis config.Redis
		set   func() // what is changed before
		want  []string
	}{
		{"one server", config.Redis{Mode: "single", Addresses: []string{storetest.Redis(t).Addr()}}, nil,
			[]string{"redis ok", "redis role ok", "redis maxmemory-policy ok", "redis clock ok"}},
		{"one server that is a replica", config.Redis{Mode: "single", Addresses: []string{replica.Addr()}}, nil, []string{"redis failed"}},
		{"nobody waits", sentinel, func() { set(t, primary, "min-replicas-to-write", "1") },
			[]string{"redis ok", "redis PRIMARY role ok", "redis PRIMARY maxmemory-policy ok", "redis PRIMARY replicas warning", "redis PRIMARY clock ok",
				"redis REPLICA clock ok", "redis REPLICA clock ok"}},
		{"three wait for two", with(sentinel, 3), nil, []string{"redis PRIMARY replicas failed"}},
		{"a primary that goes on alone", with(sentinel, 2), func() { set(t, primary, "min-replicas-to-write", "0") }, []string{"redis PRIMARY replicas warning"}},
		{"all is well", with(sentinel, 2), func() { set(t, primary, "min-replicas-to-write", "1") }, []string{"redis PRIMARY replicas ok"}},
		{"it evicts", with(sentinel, 2), func() { set(t, primary, "maxmemory-policy", "allkeys-lru") }, []string{"redis PRIMARY maxmemory-policy failed"}},
		{"other sentinels' primary", config.Redis{Mode: "sentinel", Addresses: g.Addrs(), Sentinel: config.Sentinel{Master: "another"}}, nil, []string{"redis failed"}},
		{"a Cluster", config.Redis{Mode: "cluster", Addresses: c.Addrs()[:1], WaitReplicas: 1}, nil,
			[]string{"redis ok", "redis SHARD replicas ok", "redis SHARD replicas ok", "redis SHARD replicas ok"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.set != nil {
				row.set()
			}
			row.redis.KeyPrefix, row.redis.Timeout = "t:", 2*time.Second
			cfg := &config.Config{Redis: row.redis, Apps: []config.App{{Session: config.Session{RotationGrace: time.Minute}}}}
			s := newStore(cfg.Redis, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
			defer s.Close()
			var got []string
			for _, f := range askRedis(s, cfg) {
				name := strings.NewReplacer(primary.Addr(), "PRIMARY", replica.Addr(), "REPLICA", g.Nodes[2].Addr(), "REPLICA",
					c.Nodes[0].Addr(), "SHARD", c.Nodes[1].Addr(), "SHARD", c.Nodes[2].Addr(), "SHARD").Replace(f.Subject)
				got = append(got, name+" "+f.Status)
			}
			rest := got
			for _, w := range row.want {
				for len(rest) > 0 && rest[0] != w {
					rest = rest[1:]
				}
				if len(rest) == 0 {
					t.Fatalf("%q has no %q, or too early", got, w)
				}
				rest = rest[1:]
			}
			if len(row.want) > 3 && row.redis.Mode != "cluster" && len(got) != len(row.want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

func with(r config.Redis, wait int) config.Redis {
	r.WaitReplicas = wait
	return r
}

func set(t *testing.T, n *storetest.Node, name, value string) {
	t.Helper()
	if _, err := n.CLI("CONFIG", "SET", name, value); err != nil {
		t.Fatal(err)
	}
}
