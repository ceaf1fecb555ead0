package rig

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Line is the network between a gateway and its Redis. It can swallow or delay
// what Redis says to the gateway's subscriptions, and nothing else: the
// connections stay open, as half-open ones do.
type Line struct {
	listener net.Listener
	to       string
	mute     atomic.Bool
	delay    atomic.Int64
	all      sync.WaitGroup
}

// NewLine leads to a Redis, for the length of the test.
func NewLine(t testing.TB, to string) *Line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("rig: %v", err)
	}
	l := &Line{listener: listener, to: to}
	var conns sync.Map
	t.Cleanup(func() {
		listener.Close()
		conns.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		l.all.Wait()
	})
	l.all.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			conns.Store(c, nil)
			conns.Store(s, nil)
			l.all.Go(func() { l.carry(c, s) })
		}
	})
	return l
}

// Addr is the line's near end.
func (l *Line) Addr() string { return l.listener.Addr().String() }

// Mute swallows what subscriptions are sent from now on, or lets it through.
func (l *Line) Mute(on bool) { l.mute.Store(on) }

// Delay lets what subscriptions are sent arrive late.
func (l *Line) Delay(d time.Duration) { l.delay.Store(int64(d)) }

// carry copies both ways until one end closes.
func (l *Line) carry(c, s net.Conn) {
	type piece struct {
		at   time.Time
		text []byte
	}
	var subscribed atomic.Bool
	late := make(chan piece, 4096)
	l.all.Go(func() {
		defer c.Close()
		defer s.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := c.Read(buf)
			if bytes.Contains(bytes.ToLower(buf[:n]), []byte("subscribe")) {
				subscribed.Store(true)
			}
			if _, werr := s.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	})
	l.all.Go(func() {
		defer c.Close()
		for p := range late {
			if subscribed.Load() {
				if wait := time.Until(p.at.Add(time.Duration(l.delay.Load()))); wait > 0 {
					time.Sleep(wait)
				}
			}
			if _, err := c.Write(p.text); err != nil {
				_, _ = io.Copy(io.Discard, s) // until it closes
			}
		}
	})
	defer close(late)
	defer s.Close()
	for {
		buf := make([]byte, 32<<10)
		n, err := s.Read(buf)
		if n > 0 && !(subscribed.Load() && l.mute.Load()) {
			late <- piece{time.Now(), buf[:n]}
		}
		if err != nil {
			return
		}
	}
}
