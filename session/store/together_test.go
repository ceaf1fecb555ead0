package store

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cloakroom/cloakroom/session/storetest"
)

// Whoever reads together with others gets its own answer.
func TestReadsTogether(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: storetest.Redis(t).Addr()})
	defer rdb.Close()
	const keys, readers, rounds = 50, 100, 40
	for i := range keys {
		if err := rdb.Set(t.Context(), fmt.Sprint("k", i), fmt.Sprint("v", i), 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	var (
		g  together
		wg sync.WaitGroup
	)
	for r := range readers {
		wg.Go(func() {
			for n := range rounds {
				i := (r*7 + n) % (keys + 1) // the last is not there
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				if (r+n)%10 == 0 {
					cancel() // gone at once
				}
				b, err := g.get(ctx, rdb, fmt.Sprint("k", i))
				switch {
				case (r+n)%10 == 0 && errors.Is(err, context.Canceled):
				case i == keys && errors.Is(err, redis.Nil):
				case err != nil || string(b) != fmt.Sprint("v", i):
					t.Errorf("k%d: %q, %v", i, b, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if g.flying != 0 || len(g.waiting) != 0 {
		t.Errorf("%d are flying and %d wait, with nobody left", g.flying, len(g.waiting))
	}
}

// What waits for company goes in one write, and no read waits longer than it may:
// not for its turn, and not for an answer that never comes.
func TestReadsTogetherGoAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var held sync.WaitGroup
	defer held.Wait()
	var conns atomic.Int64
	held.Go(func() { // a Redis that takes all and says nothing
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			held.Go(func() {
				defer c.Close()
				b := make([]byte, 4096)
				for {
					if _, err := c.Read(b); err != nil {
						return
					}
				}
			})
		}
	})
	rdb := redis.NewClient(&redis.Options{Addr: l.Addr().String(), MaxRetries: -1, ContextTimeoutEnabled: true, ReadTimeout: 5 * time.Second})
	defer rdb.Close()
	var (
		g  together
		wg sync.WaitGroup
	)
	start := time.Now()
	for range 50 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := g.get(ctx, rdb, "k"); err == nil {
				t.Error("an answer out of nothing")
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	if g.flying != 0 || len(g.waiting) != 0 {
		t.Errorf("%d are flying and %d wait, with nobody left", g.flying, len(g.waiting))
	}
	l.Close()
	rdb.Close()
}

// Those that wait are taken along by the next, and one whose client goes meanwhile
// takes nothing away from the others.
func TestReadsTogetherAreOneParcel(t *testing.T) {
	server := storetest.Redis(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer rdb.Close()
	var parcels atomic.Int64
	rdb.AddHook(counter{&parcels})
	if err := rdb.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	g := together{flying: maxFlying} // all places are taken
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if b, err := g.get(t.Context(), rdb, "k"); err != nil || string(b) != "v" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
	for waits := 0; waits < 20; { // until all wait
		g.mu.Lock()
		waits = len(g.waiting)
		g.mu.Unlock()
	}
	g.land() // a place is free
	wg.Wait()
	if n := parcels.Load(); n != 1 {
		t.Errorf("%d parcels, want 1", n)
	}
}

type counter struct{ n *atomic.Int64 }

func (c counter) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (c counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (c counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() == "getrange" {
			c.n.Add(1)
		}
		return next(ctx, cmds)
	}
}

// One whose time is nearly up doesn't cut the others' short that it takes along.
func TestReadsTogetherHaveTheirOwnTime(t *testing.T) {
	server := storetest.Redis(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1})
	defer rdb.Close()
	if err := rdb.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	g := together{flying: maxFlying} // all places are taken
	waiting := func(n int) {
		for waits := 0; waits < n; {
			g.mu.Lock()
			waits = len(g.waiting)
			g.mu.Unlock()
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, _ = g.get(ctx, rdb, "k") // in time or not
	})
	waiting(1)
	for range 5 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if b, err := g.get(ctx, rdb, "k"); err != nil || string(b) != "v" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
	waiting(6)
	if err := rdb.Do(t.Context(), "CLIENT", "PAUSE", "600").Err(); err != nil {
		t.Fatal(err)
	}
	g.land() // a place is free
	wg.Wait()
}
