package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// closeTimeout is how long a tunnel that is ended waits for the end of a
	// frame, and then for the peers' answers to its Close frames.
	closeTimeout = 250 * time.Millisecond
	// writeTimeout is what a peer may take to read one buffer. It is longer
	// than a phone is out of reach in a tunnel of the other kind, and as long
	// as the buffer of one who has stopped reading is held.
	writeTimeout = time.Minute
	// halfTimeout is how long one peer may be silent after the other has sent
	// its last byte.
	halfTimeout = 10 * time.Second
	// bufferTimeout is how long a large buffer waits for its next bytes.
	bufferTimeout = time.Second
	// smallBuffer is what an idle direction holds. Most messages fit.
	smallBuffer = 1 << 10
	// largeBuffer is a TLS record.
	largeBuffer = 16 << 10
)

// largeBuffers lends buffers to the directions that have much to copy.
var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// side is one end of a tunnel.
type side struct {
	net.Conn
	// received is what comes from it: first what has come with the handshake,
	// then the Conn.
	received io.Reader
}

// closeWrite sends the end of the stream.
func (s side) closeWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// cut closes the connection at once: closing TLS would wait to say so to one
// who may not be reading.
func (s side) cut() {
	if c, ok := s.Conn.(*tls.Conn); ok {
		c.NetConn().Close()
		return
	}
	s.Conn.Close()
}

// tunnel copies the frames of one WebSocket between a client and an upstream.
// An idle one costs two small buffers and the stacks of three goroutines.
type tunnel struct {
	up, down lane // to the upstream, to the client
}

// newTunnel returns the tunnel between two peers. extended tells that they have
// agreed on an extension.
func newTunnel(client, upstream side, extended bool) *tunnel {
	return &tunnel{
		up:   lane{from: client, to: upstream, frames: frames{masked: true, extended: extended}},
		down: lane{from: upstream, to: client, frames: frames{extended: extended}},
	}
}

// run copies until both peers have sent all, or one is gone, or the tunnel is
// ended: by ended (4401), by ctx (1001), or by what is no frame (1002, the only
// error). When it returns, both connections are closed and its goroutines gone.
func (t *tunnel) run(ctx context.Context, ended <-chan struct{}) (err error) {
	var (
		over    = make(chan error, 4)
		open    = 2
		stop    = ctx.Done()
		timer   <-chan time.Time // none while all is well
		halved  bool
		ending  bool
		movedAt uint64
	)
	defer func() {
		t.up.to.cut()
		t.down.to.cut()
		for range open {
			<-over
		}
	}()
	go func() { over <- t.up.copy() }()
	go func() { over <- t.down.copy() }()
	end := func(c closing) {
		if ending {
			return
		}
		ending, ended, stop = true, nil, nil
		// Both, before one can answer: its answer is no farewell to the other.
		t.down.closing.Store(&c)
		t.up.closing.Store(&c)
		// Here and now, if that can be: where thousands end at once, a goroutine
		// might not get its turn before the cut.
		until := time.Now().Add(closeTimeout)
		for _, l := range [...]*lane{&t.down, &t.up} {
			if !l.tryEnd(until) {
				open++
				go func() { over <- l.end() }()
			}
		}
		timer = time.After(time.Until(until))
	}
	for open > 0 {
		select {
		case <-ended:
			end(sessionEnded)
		case <-stop:
			end(goingAway)
		case laneErr := <-over:
			open--
			switch {
			case laneErr == errMalformed:
				err = laneErr
				end(protocolError)
			case ending:
			case laneErr != nil:
				return nil // somebody is gone
			case !halved:
				halved, movedAt = true, t.moved()
				timer = time.After(halfTimeout)
			}
		case <-timer:
			now := t.moved()
			if ending || now == movedAt {
				return err
			}
			movedAt = now
			timer = time.After(halfTimeout)
		}
	}
	return err
}

func (t *tunnel) moved() uint64 { return t.up.moved.Load() + t.down.moved.Load() }

// lane is one direction of a tunnel. Its copy alone reads from one peer; to the
// other, copy and end write.
type lane struct {
	from, to side
	moved    atomic.Uint64           // reads that brought something
	closing  atomic.Pointer[closing] // to be sent at the end of the frame

	// Of copy alone.
	small [smallBuffer]byte
	held  [maxFrameHeader]byte // the part of a header that has come
	nheld int

	mu     sync.Mutex
	frames frames // changed by copy alone
	sealed bool   // nothing more will be written
	armed  time.Time
}

// copy copies until the peer has sent all (nil), or one is gone, or what comes
// is no frame (errMalformed). Once the lane is ended it goes on to the end of
// the frame, and then until the peer has answered with a Close frame.
func (l *lane) copy() error {
	var large *[largeBuffer]byte
	defer func() {
		if large != nil {
			largeBuffers.Put(large)
		}
	}()
	for {
		buf := l.small[:]
		if large != nil {
			buf = large[:]
		}
		n := copy(buf, l.held[:l.nheld])
		m, err := l.from.received.Read(buf[n:])
		if m > 0 {
			l.moved.Add(1)
			if err := l.pass(buf[:n+m]); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
		}
		// Much is there, or on its way.
		more := n+m == len(buf) || l.frames.rest > smallBuffer
		switch {
		case err == io.EOF:
			return l.half()
		case large != nil && errors.Is(err, os.ErrDeadlineExceeded):
			more = false
		case err != nil:
			return err
		}
		switch {
		case more:
			if large == nil {
				large = largeBuffers.Get().(*[largeBuffer]byte)
			}
			_ = l.from.SetReadDeadline(time.Now().Add(bufferTimeout)) // Read tells, too
		case large != nil:
			largeBuffers.Put(large)
			large = nil
			_ = l.from.SetReadDeadline(time.Time{})
		}
	}
}

// pass writes what has come, but for a header that is not whole: so what is
// written ends within a frame that is one, or between frames. io.EOF means that
// the peer has answered the lane's end.
func (l *lane) pass(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	ending := l.closing.Load() != nil
	if ending && !l.sealed {
		n := l.frames.skip(b)
		if err := l.write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
		if l.frames.rest > 0 {
			l.nheld = 0
			return nil
		}
		if err := l.seal(); err != nil {
			return err
		}
	}
	n, bad := l.frames.scan(b)
	l.nheld = copy(l.held[:], b[n:])
	if ending {
		if bad != nil || l.frames.closed && l.frames.rest == 0 {
			return io.EOF
		}
		return nil
	}
	if n > 0 {
		if err := l.write(b[:n]); err != nil {
			return err
		}
	}
	return bad
}

// tryEnd sends the Close frame, unless a frame is under way: then copy will. It
// reports false, and has done nothing, if copy is writing.
func (l *lane) tryEnd(until time.Time) bool {
	if !l.mu.TryLock() {
		return false
	}
	defer l.mu.Unlock()
	l.armed = time.Now()
	_ = l.to.SetWriteDeadline(until)
	_ = l.endLocked() // if somebody is gone, copy will find out
	return true
}

// end does the same when copy lets it.
func (l *lane) end() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.endLocked()
}

func (l *lane) endLocked() error {
	if l.sealed || l.frames.rest > 0 {
		return nil
	}
	return l.seal()
}

// seal writes the Close frame, unless the peer's own has passed. It is the last
// that this lane writes.
func (l *lane) seal() error {
	l.sealed = true
	if l.frames.closed {
		return nil
	}
	return l.write(l.closing.Load().frame(l.frames.masked))
}

// half passes on that a peer has sent all.
func (l *lane) half() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sealed {
		return nil
	}
	l.sealed = true
	return l.to.closeWrite()
}

func (l *lane) write(b []byte) error {
	if now := time.Now(); now.Sub(l.armed) > writeTimeout/4 {
		l.armed = now
		if err := l.to.SetWriteDeadline(now.Add(writeTimeout)); err != nil {
			return err
		}
	}
	_, err := l.to.Write(b)
	return err
}
