package store

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/cloakroom/cloakroom/session/storetest"
)

// heard collects ends.
type heard struct {
	mu   sync.Mutex
	ends map[[16]byte]bool
}

func (h *heard) handle(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.Ended {
		if h.ends == nil {
			h.ends = map[[16]byte]bool{}
		}
		h.ends[e.SID] = true
	}
}

func (h *heard) ended(sid [16]byte) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ends[sid]
}

// outage breaks Redis, and sees that reads and writes go on with whoever takes
// over, that the epoch tells, and that ends are heard again.
func outage(t *testing.T, o Options, break_ func(ctx context.Context, s *Store, sid [16]byte)) {
	t.Helper()
	o.Timeout = time.Second
	var ends heard
	s := running(t, o, ends.handle)
	f := &fixture{Store: s, t: t, rdb: s.rdb(), app: [8]byte{1}, keys: [][4]byte{{9}}}
	until(t, 5*time.Second, "hears itself", s.Hears)
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	sid := f.begin()
	// Replication is not what is tested: what was written is there.
	waiting := new(Store)
	waiting.link.Store(&Link{rdb: s.rdb(), cluster: s.cluster(), opts: Options{WaitReplicas: 1}})
	until(t, 10*time.Second, "a replica has it", func() bool {
		_, waited := waiting.replicated(ctx, s.recordKey(sid), func(c redis.Cmdable) redis.Cmder { return c.Ping(ctx) })
		return waited > 0
	})
	epoch := s.Epoch()
	break_(ctx, s, sid)
	start := time.Now()
	attempt := Attempt(id())
	var last error
	read := until(t, 15*time.Second, "a read", func() bool {
		_, found, err := s.Read(ctx, sid)
		if err == nil && !found {
			t.Fatal("the session is gone")
		}
		return err == nil
	})
	wrote := until(t, 15*time.Second, "a write", func() bool {
		a, err := s.Claim(ctx, sid, 1, attempt, 10*time.Second)
		if err == nil && a.Result != OK {
			t.Fatal(a.Result)
		}
		last = err
		return err == nil
	})
	t.Logf("reads after %v, writes %v later", read, wrote)
	until(t, 3*time.Second, "the epoch tells", func() bool { return s.Epoch() != epoch })
	until(t, 10*time.Second, fmt.Sprintf("hears itself again (%v)", last), s.Hears)
	t.Logf("hears itself after %v", time.Since(start))
	a, err := s.End(ctx, sid, f.app, 3, Lock{})
	want(t, a, err, OK)
	until(t, 2*time.Second, "the end is heard", func() bool { return ends.ended(sid) })
	if err := s.Ping(ctx); err != nil {
		t.Error(err)
	}
}

func TestSentinelReplacesThePrimary(t *testing.T) {
	for _, row := range []struct {
		name   string
		break_ func(g *storetest.Sentinels, primary *storetest.Node) error
	}{
		{"killed", func(_ *storetest.Sentinels, primary *storetest.Node) error { primary.Kill(); return nil }},
		{"frozen, with one sentinel", func(g *storetest.Sentinels, primary *storetest.Node) error {
			if err := g.Sentinels[0].Stop(); err != nil {
				return err
			}
			return primary.Stop()
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := storetest.Sentinel(t)
			var old *storetest.Node
			var store *Store
			var session [16]byte
			o := Options{Mode: Sentinel, Addresses: g.Addrs(), MasterName: storetest.MasterName, KeyPrefix: "t:"}
			outage(t, o, func(ctx context.Context, s *Store, sid [16]byte) {
				var err error
				if old, err = g.Primary(ctx); err != nil {
					t.Fatal(err)
				}
				store, session = s, sid
				if err := row.break_(g, old); err != nil {
					t.Fatal(err)
				}
			})
			if !old.Running() {
				return
			}
			wakes(t, old, store, session)
		})
	}
}

func TestClusterReplacesAMaster(t *testing.T) {
	for _, frozen := range []bool{false, true} {
		t.Run(map[bool]string{false: "killed", true: "frozen"}[frozen], func(t *testing.T) {
			t.Parallel()
			c := storetest.Cluster(t)
			o := Options{Mode: Cluster, Addresses: c.Addrs()[:1], KeyPrefix: "t:"}
			var old *storetest.Node
			var store *Store
			var session [16]byte
			outage(t, o, func(ctx context.Context, s *Store, sid [16]byte) {
				var err error
				if old, err = c.Master(ctx, slot(text(sid))); err != nil {
					t.Fatal(err)
				}
				store, session = s, sid
				if !frozen {
					old.Kill()
				} else if err := old.Stop(); err != nil {
					t.Fatal(err)
				}
			})
			if frozen {
				wakes(t, old, store, session)
			}
		})
	}
}

// wakes lets a replaced primary go on: as the primary that it was, which says
// that the session lives.
func wakes(t *testing.T, old *storetest.Node, s *Store, sid [16]byte) {
	t.Helper()
	if err := old.Cont(); err != nil {
		t.Fatal(err)
	}
	if _, err := old.CLI("PING"); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		if r, found, err := s.Read(t.Context(), sid); err == nil && found && !r.Ended {
			t.Fatal("an ended session is read as alive, from the old primary")
		}
	}
}

// While slots move back and forth, scripts run as if nothing was: each wholly, on
// one side or the other.
func TestSlotsMoveUnderScripts(t *testing.T) {
	t.Parallel()
	c := storetest.Cluster(t)
	registry := prometheus.NewRegistry()
	f := fixtureOf(t, Options{Mode: Cluster, Addresses: c.Addrs(), KeyPrefix: "t:", WaitReplicas: 1, Metrics: registry})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	from, to := c.Nodes[0], c.Nodes[1]
	endOnTheMove(t, f, c)
	stop := make(chan struct{})
	var moves atomic.Int64
	moved := make(chan error, 1)
	var sids [][16]byte
	for len(sids) < 8 {
		sids = append(sids, f.begin())
	}
	slots := make([]int, len(sids))
	masters := make([]*storetest.Node, len(sids))
	for i, sid := range sids {
		slots[i] = slot(text(sid))
		var err error
		if masters[i], err = c.Master(ctx, slots[i]); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		for {
			for i := range slots {
				select {
				case <-stop:
					moved <- nil
					return
				default:
				}
				next := to
				if masters[i] == to {
					next = from
				}
				if err := c.MigrateSlots(ctx, masters[i], next, slots[i]); err != nil {
					moved <- err
					return
				}
				masters[i] = next
				moves.Add(1)
			}
		}
	}()

	var work sync.WaitGroup
	var calls, failed atomic.Int64
	for _, sid := range sids {
		work.Go(func() {
			version, generation := uint64(1), uint64(1)
			try := func(what string, call func() (Answer, error)) bool {
				calls.Add(1)
				a, err := call()
				if err != nil {
					failed.Add(1)
					t.Logf("%s: %v", what, err)
					a, err = call()
				}
				if err != nil || a.Result != OK {
					t.Errorf("%s: %s %v", what, a.Result, err)
					return false
				}
				version = a.Record.Version
				return true
			}
			for generation < 40 {
				attempt := Attempt(id())
				if !try("claim", func() (Answer, error) { return f.Claim(ctx, sid, version, attempt, 10*time.Second) }) ||
					!try("sending", func() (Answer, error) { return f.Send(ctx, sid, version, attempt, 10*time.Second) }) {
					return
				}
				change := f.advance(sid, version, generation, attempt)
				if !try("commit", func() (Answer, error) { return f.Commit(ctx, sid, change) }) {
					return
				}
				generation++
				a, err := f.Open(ctx, sid, Presented{App: f.app, KnownKeys: f.keys, Generation: generation, Hash: hash(byte(generation)),
					IdleTimeout: time.Hour, Grace: time.Second, Settle: time.Minute, Interval: time.Minute})
				calls.Add(1)
				if err != nil {
					failed.Add(1)
					t.Log("open:", err)
				} else if a.Result != Current {
					t.Errorf("open: %s", a.Result)
				}
			}
			a, err := f.End(ctx, sid, f.app, 3, Lock{Locked: true})
			if err != nil || a.Result != OK && a.Result != Ended {
				t.Errorf("end: %s %v", a.Result, err)
			}
		})
	}
	work.Wait()
	close(stop)
	if err := <-moved; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d calls, %d failed at first, %d slots moved", calls.Load(), failed.Load(), moves.Load())
	if moves.Load() < 3 {
		t.Error("no slot moved")
	}
	if 1000*failed.Load() > calls.Load() {
		t.Errorf("%d of %d calls failed", failed.Load(), calls.Load())
	}
	for _, sid := range sids {
		if r, found, err := f.Read(ctx, sid); err != nil || !found || !r.Ended || !r.Locked {
			t.Errorf("an end left %+v, %v, %v", r, found, err)
		}
	}
}

// A key that isn't there can't be written while its slot is leaving: an end must
// not take the record away before it writes the tombstone.
func endOnTheMove(t *testing.T, f *fixture, c *storetest.Shards) {
	t.Helper()
	ctx := t.Context()
	sid := f.begin()
	a, err := f.Commit(ctx, sid, f.advance(sid, 1, 1, f.send(sid, 1))) // both keys are there
	want(t, a, err, OK)
	moving := slot(text(sid))
	from, err := c.Master(ctx, moving)
	if err != nil {
		t.Fatal(err)
	}
	to := c.Nodes[0]
	if to == from {
		to = c.Nodes[1]
	}
	ids := map[*storetest.Node]string{}
	for _, n := range []*storetest.Node{from, to} {
		if ids[n], err = n.CLI("CLUSTER", "MYID"); err != nil {
			t.Fatal(err)
		}
	}
	for n, state := range map[*storetest.Node][]any{to: {"importing", ids[from]}, from: {"migrating", ids[to]}} {
		if err := n.Do(ctx, append([]any{"cluster", "setslot", moving}, state...)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	a, err = f.End(ctx, sid, f.app, 3, Lock{Locked: true})
	want(t, a, err, OK)
	if r, found, err := f.Read(ctx, sid); err != nil || !found || !r.Ended || !r.Locked {
		t.Errorf("an end left %+v, %v, %v", r, found, err)
	}
	if err := c.MigrateSlots(ctx, from, to, moving); err != nil {
		t.Fatal(err)
	}
	if r, found, err := f.Read(ctx, sid); err != nil || !found || !r.Ended || !r.Locked {
		t.Errorf("a move left %+v, %v, %v", r, found, err)
	}
}

// A replica that doesn't acknowledge costs 100 ms, a count and a line, no refusal.
func TestWaitingForReplicas(t *testing.T) {
	t.Parallel()
	g := storetest.Sentinel(t)
	registry := prometheus.NewRegistry()
	var out strings.Builder
	o := Options{Mode: Sentinel, Addresses: g.Addrs(), MasterName: storetest.MasterName, KeyPrefix: "t:", WaitReplicas: 2,
		Metrics: registry, Log: slog.New(slog.NewTextHandler(&out, nil))}
	f := fixtureOf(t, o)
	ctx := t.Context()
	missed := func() (n float64) {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			if family.GetName() == "cloakroom_redis_unreplicated_writes_total" {
				for _, m := range family.GetMetric() {
					n += m.GetCounter().GetValue()
				}
			}
		}
		return n
	}
	rotate := func() {
		t.Helper()
		sid := f.begin()
		a, err := f.Commit(ctx, sid, f.advance(sid, 1, 1, f.send(sid, 1)))
		want(t, a, err, OK)
		a, err = f.End(ctx, sid, f.app, 3, Lock{})
		want(t, a, err, OK)
	}
	// A busy machine's replicas may take longer than they are waited for, now and then.
	base := -1.0
	for range 20 {
		before := missed()
		rotate()
		if missed() == before {
			base = before
			break
		}
	}
	if base < 0 {
		t.Fatalf("%v missed, and all replicas follow: %s", missed(), &out)
	}
	out.Reset()
	primary, err := g.Primary(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range g.Nodes {
		if n != primary {
			if err := n.Stop(); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	start := time.Now()
	rotate()
	if took := time.Since(start); took < 4*waitTimeout {
		t.Errorf("it waited only %v", took)
	}
	if missed()-base != 4 {
		t.Errorf("%v missed, want begin, sending, commit and end", missed())
	}
	if err := f.LockNew(ctx, Index{1}, time.Minute); err != nil {
		t.Error(err)
	}
	if err := f.Notice(ctx, Index{1}, time.Now(), time.Minute); err != nil {
		t.Error(err)
	}
	if _, err := f.SetNotBefore(ctx, f.app, time.Time{}, time.Minute); err != nil {
		t.Error(err)
	}
	if missed()-base != 7 {
		t.Errorf("%v missed, want lock, notice and not-before too", missed())
	}
	if n := strings.Count(out.String(), "too few replicas"); n > 1 || n == 0 && base == 0 {
		t.Errorf("%d lines, want one in a while: %s", n, &out)
	}
	// An opening waits if it notes that it hands a successor out, and not otherwise.
	sid := f.begin()
	advance := f.advance(sid, 1, 1, f.send(sid, 1))
	advance.Handed = false
	a, err := f.Commit(ctx, sid, advance)
	want(t, a, err, OK)
	before := missed()
	for _, opening := range []struct {
		result Result
		missed float64
	}{{Handout, 1}, {Superseding, 0}} {
		if a := f.open(sid, 1); a.Result != opening.result || missed()-before != opening.missed {
			t.Errorf("%v, %v missed, want %v", a.Result, missed()-before, opening)
		}
		before = missed()
	}
	// A second run writes nothing, and still has to wait for what the first wrote.
	sid = f.begin()
	attempt := f.send(sid, 1)
	before = missed()
	a, err = f.Send(ctx, sid, 1, attempt, 10*time.Second)
	want(t, a, err, OK)
	if missed() != before+1 {
		t.Error("a second run counts as acknowledged")
	}
}
