package store

import (
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// slowLine passes bytes on to address, answers with a delay now and then.
type slowLine struct {
	net.Listener
	address string
	delay   func() time.Duration
	work    sync.WaitGroup
	mu      sync.Mutex
	conns   []net.Conn
}

func newSlowLine(t *testing.T, address string, delay func() time.Duration) *slowLine {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &slowLine{Listener: l, address: address, delay: delay}
	s.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", address)
			if err != nil {
				c.Close()
				continue
			}
			s.mu.Lock()
			s.conns = append(s.conns, c, up)
			s.mu.Unlock()
			s.work.Go(func() { io.Copy(up, c); up.Close() })
			s.work.Go(func() { s.answer(c, up) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		s.work.Wait()
	})
	return s
}

// answer delivers late what comes late, and delivers all of it.
func (s *slowLine) answer(c, up net.Conn) {
	defer c.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := up.Read(buf)
		if n > 0 {
			if d := s.delay(); d > 0 {
				<-time.After(d)
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// A reply that comes after its command gave up never answers another.
func TestLateRepliesAnswerNobody(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const timeout = 20 * time.Millisecond
	var late atomic.Int64
	line := newSlowLine(t, f.server.Addr(), func() time.Duration {
		if rand.IntN(40) != 0 {
			return 0
		}
		late.Add(1)
		return timeout + time.Duration(rand.IntN(int(timeout)))
	})
	s := New(Options{Address: line.Addr().String(), KeyPrefix: "t:", Timeout: timeout, WaitReplicas: 0})
	defer s.Close()

	const sessions = 50
	var sids [sessions][16]byte
	for i := range sids {
		sids[i] = id()
		now := time.Now()
		err := f.Begin(t.Context(), sids[i], Record{App: f.app, Key: f.keys[0], Version: 1, Generation: uint64(i + 1), Hash: hash(byte(i)), Confirmed: true,
			CreatedAt: now, SeenAt: now, ExpiresAt: now.Add(time.Hour), Body: binary.BigEndian.AppendUint64(nil, uint64(i))})
		if err != nil {
			t.Fatal(err)
		}
	}
	var answered, failed atomic.Int64
	check := func(i int, r Record, err error) {
		if err != nil {
			failed.Add(1)
			return
		}
		answered.Add(1)
		if r.Generation != uint64(i+1) || binary.BigEndian.Uint64(r.Body) != uint64(i) {
			t.Errorf("asked for %d and got %d", i, r.Generation-1)
		}
	}
	var work sync.WaitGroup
	for w := range 16 {
		work.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(w)))
			for range 400 {
				i := random.IntN(sessions)
				ctx, cancel := context.WithCancel(t.Context())
				switch random.IntN(10) {
				case 0: // the caller goes away in the middle
					time.AfterFunc(time.Duration(random.IntN(300))*time.Microsecond, cancel)
					fallthrough
				case 1, 2, 3, 4, 5:
					r, found, err := s.Read(ctx, sids[i])
					if err == nil && !found {
						t.Errorf("%d was not found", i)
						break
					}
					check(i, r, err)
				case 6, 7, 8:
					a, err := s.Open(ctx, sids[i], Presented{App: f.app, KnownKeys: f.keys, Generation: uint64(i + 1), Hash: hash(byte(i)),
						IdleTimeout: time.Hour, Grace: time.Minute, Settle: time.Minute, Interval: time.Minute})
					if err == nil && a.Result != Current {
						t.Errorf("%d is %s", i, a.Result)
						break
					}
					check(i, a.Record, err)
				default:
					k := random.IntN(sessions)
					found, _, err := s.ReadAll(ctx, [][16]byte{sids[i], sids[k]})
					check(i, found[sids[i]], err)
					check(k, found[sids[k]], err)
				}
				cancel()
			}
		})
	}
	work.Wait()
	t.Logf("%d replies were late, %d answers, %d errors", late.Load(), answered.Load(), failed.Load())
	if late.Load() < 50 || failed.Load() < 20 || answered.Load() < 3000 {
		t.Error("that proves nothing")
	}
}
