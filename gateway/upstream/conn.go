package upstream

import (
	"context"
	"net"
	"syscall"
	"time"
)

// conn is one connection over plain HTTP/1.1. It is in the hands of one
// exchange, or idle.
type conn struct {
	net.Conn  // TCP
	a         *address
	raw       syscall.RawConn
	look      func(fd uintptr) // peeks, and sets quiet
	quiet     bool
	idleSince time.Time
	idleFor   time.Duration // at most, as the upstream says; 0: it doesn't
	// What the connection's deadlines are: setting one costs more than all else
	// that is done before a request is written.
	readBy, writeBy time.Time
}

func (a *address) dial(ctx context.Context) (*conn, error) {
	d := net.Dialer{Timeout: a.o.DialTimeout, KeepAlive: 30 * time.Second}
	nc, err := d.DialContext(ctx, "tcp", a.hostport)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, a: a}
	if c.raw, err = nc.(*net.TCPConn).SyscallConn(); err != nil {
		nc.Close()
		return nil, err
	}
	c.look = func(fd uintptr) { c.quiet = quiet(fd) }
	a.o.Metrics.dialed(a.url.Host)
	return c, nil
}

// usable reports whether an idle connection may carry another request: it is
// open, and nothing has come on it that nobody asked for. Such bytes would be
// read as the answer to somebody else's request.
func (c *conn) usable(now time.Time) bool {
	if idle := now.Sub(c.idleSince); idle >= c.a.o.IdleTimeout || c.idleFor > 0 && idle >= c.idleFor {
		return false
	}
	c.quiet = false
	return c.raw.Control(c.look) == nil && c.quiet
}

// wakeBy sets the read deadline to a time from min to max, if it isn't already.
func (c *conn) wakeBy(min, max time.Time) {
	if c.readBy.Before(min) || c.readBy.After(max) {
		c.readBy = max
		_ = c.SetReadDeadline(max) // Read tells, too
	}
}

// takeIdle returns an idle connection that is usable, or nil.
func (a *address) takeIdle(now time.Time) *conn {
	for {
		a.idleMu.Lock()
		n := len(a.idle) - 1
		if n < 0 {
			a.idleMu.Unlock()
			return nil
		}
		c := a.idle[n]
		a.idle[n] = nil
		a.idle = a.idle[:n]
		a.idleMu.Unlock()
		if c.usable(now) {
			return c
		}
		c.Close()
	}
}

// keep makes c idle, or closes it.
func (a *address) keep(c *conn) {
	c.idleSince = time.Now()
	a.idleMu.Lock()
	if a.closed || len(a.idle) >= a.o.MaxIdleConns {
		a.idleMu.Unlock()
		c.Close()
		return
	}
	a.idle = append(a.idle, c)
	if len(a.idle) == 1 && a.reaper == nil {
		a.reaper = time.AfterFunc(a.o.IdleTimeout, a.reap)
	}
	a.idleMu.Unlock()
}

// reap closes what has been idle for too long.
func (a *address) reap() {
	now := time.Now()
	a.idleMu.Lock()
	old := 0 // the longest idle come first
	for old < len(a.idle) && now.Sub(a.idle[old].idleSince) >= a.o.IdleTimeout {
		old++
	}
	dead := append([]*conn(nil), a.idle[:old]...)
	n := copy(a.idle, a.idle[old:])
	clear(a.idle[n:])
	a.idle = a.idle[:n]
	if n > 0 && !a.closed {
		a.reaper.Reset(a.o.IdleTimeout - now.Sub(a.idle[0].idleSince))
	} else {
		a.reaper = nil
	}
	a.idleMu.Unlock()
	for _, c := range dead {
		c.Close()
	}
}

func (a *address) close() {
	a.idleMu.Lock()
	a.closed = true
	if a.reaper != nil {
		a.reaper.Stop()
		a.reaper = nil
	}
	a.idleMu.Unlock()
	a.dropIdle()
}

// dropIdle closes all connections that are idle.
func (a *address) dropIdle() {
	a.transport.CloseIdleConnections()
	a.idleMu.Lock()
	idle := a.idle
	a.idle = nil
	a.idleMu.Unlock()
	for _, c := range idle {
		c.Close()
	}
}
