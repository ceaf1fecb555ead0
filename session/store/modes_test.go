package store

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/cloakroom/cloakroom/session/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(groups{m}) }

// groups ends what the tests share before leaks are looked for.
type groups struct{ *testing.M }

func (g groups) Run() int {
	code := g.M.Run()
	if shared.sentinels != nil {
		shared.sentinels.Close()
	}
	if shared.shards != nil {
		shared.shards.Close()
	}
	if shared.dir != "" {
		os.RemoveAll(shared.dir)
	}
	return code
}

// shared is for tests that leave Redis as it is: keys don't meet, since each has
// a prefix of its own.
var shared struct {
	mu        sync.Mutex
	dir       string
	sentinels *storetest.Sentinels
	shards    *storetest.Shards
}

// options leads to a shared Redis of the mode.
func options(t *testing.T, mode Mode) Options {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	var err error
	if shared.dir == "" {
		if shared.dir, err = os.MkdirTemp("", "store"); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{Mode: mode, KeyPrefix: text(id()) + ":", Metrics: prometheus.NewRegistry()}
	switch mode {
	case Sentinel:
		if shared.sentinels == nil {
			if shared.sentinels, err = storetest.NewSentinels(storetest.GroupOptions{Dir: filepath.Join(shared.dir, string(mode))}); err != nil {
				t.Fatal(err)
			}
		}
		o.Addresses, o.MasterName = shared.sentinels.Addrs(), storetest.MasterName
	case Cluster:
		if shared.shards == nil {
			if shared.shards, err = storetest.NewCluster(storetest.GroupOptions{Dir: filepath.Join(shared.dir, string(mode))}); err != nil {
				t.Fatal(err)
			}
		}
		o.Addresses = shared.shards.Addrs()[:2]
	default:
		o.Address = storetest.Redis(t).Addr()
	}
	return o
}

// inEveryMode runs a test on one Redis, behind sentinels, and in a Cluster; and
// where there are replicas, with and without waiting for one.
func inEveryMode(t *testing.T, test func(*testing.T, *fixture)) {
	for _, row := range []struct {
		name string
		mode Mode
		wait int
	}{
		{"single", Single, 0},
		{"sentinel", Sentinel, 1},
		{"cluster", Cluster, 0},
		{"cluster, waiting", Cluster, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			o := options(t, row.mode)
			o.WaitReplicas = row.wait
			test(t, fixtureOf(t, o))
		})
	}
}

// running runs a store until the test ends.
func running(t *testing.T, o Options, handle func(Event)) *Store {
	t.Helper()
	s := New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx, handle) }()
	t.Cleanup(func() {
		cancel()
		<-done
		s.Close()
	})
	return s
}

// until asks until it is told yes, or within has passed.
func until(t *testing.T, within time.Duration, what string, yes func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for !yes() {
		select {
		case <-poll.C:
		case <-t.Context().Done():
			t.Fatal(what + ": the test is over")
		}
		if time.Since(start) > within {
			t.Fatalf("%s: not within %v", what, within)
		}
	}
	return time.Since(start)
}
