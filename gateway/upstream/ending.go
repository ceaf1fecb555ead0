package upstream

import (
	"bytes"
	"net"
	"time"
)

// Hijack hands over the connection of a 101, with what has come after its
// header. It is the caller's to close, before Done.
func (x *Exchange) Hijack() (net.Conn, []byte) {
	c := x.c
	x.mu.Lock()
	x.live = nil
	x.mu.Unlock()
	c.wakeBy(time.Time{}, time.Time{})
	_ = c.SetWriteDeadline(time.Time{})
	early := bytes.Clone(x.buf[x.r:x.w])
	x.giveBack()
	return c.Conn, early
}

// Abort ends the exchange from any goroutine: what waits for it returns with an
// error.
func (x *Exchange) Abort() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.aborted = true
	if x.cancel != nil {
		x.cancel()
	}
	if x.live != nil {
		x.live.Close()
	}
}

// state tells why the exchange was ended from elsewhere, if it was.
func (x *Exchange) state() (aborted bool, bodyErr error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.aborted, x.readErr
}

// finish gives up the connection: it is kept if nothing of either message is
// left on it, and closed in any other case. When in doubt, it is closed: what
// would be left on it is the next user's answer.
func (x *Exchange) finish() {
	x.mu.Lock()
	c := x.c
	x.c, x.live = nil, nil
	aborted := x.aborted
	x.mu.Unlock()
	if c != nil {
		if x.sound && x.framed.keep && !aborted && x.r == x.w && x.isSent() {
			c.idleFor = x.framed.idle
			c.a.keep(c)
		} else {
			c.Close()
		}
	}
	if a := x.a; a != nil {
		x.a = nil
		a.end()
		if a.tokens != nil {
			<-a.tokens
		}
	}
}

// Done ends the exchange. A body that is not read to its end costs the
// connection.
func (x *Exchange) Done() {
	x.finish()
	x.join()
	x.giveBack()
}

// Disown leaves the bytes that Next has returned to whoever has them, for good: the
// buffer is not used again. It is for a client that did not take them: net/http's
// HTTP/2 returns from a Write to a stream that is closed meanwhile, and another
// goroutine may only then read what was to be written, and send it.
func (x *Exchange) Disown() { x.pooled = nil }

func (x *Exchange) giveBack() {
	if x.pooled != nil {
		buffers.Put(x.pooled)
	}
	x.pooled, x.buf, x.r, x.w = nil, nil, 0, 0
}

// Reset makes x as good as new, but for the room in its slices.
func (x *Exchange) Reset() {
	fields, list, trailers := x.Fields[:0], x.Head.Fields, x.Trailers
	clear(list)
	clear(trailers)
	*x = Exchange{}
	x.Fields, x.Head.Fields, x.Trailers = fields, list[:0], trailers[:0]
}
