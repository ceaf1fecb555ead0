package gateway

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Nobody has to send, or to read, in a hurry: uploads, downloads and event streams
// last as long as they last. But a client that does nothing at all holds a
// connection, a goroutine, maybe an upstream's connection and a place on a route,
// and it costs a client nothing to hold thousands.

const (
	// unreadTimeout is how long a client may take for what is left of a body that
	// nobody wants: net/http reads that before the answer goes, or after it, with no
	// deadline of its own.
	unreadTimeout = 5 * time.Second
	// answeredTimeout is the same where the answer has gone already.
	answeredTimeout = 500 * time.Millisecond
	// stallTimeout is how long a client may take to make room for the next part of
	// an answer: as long as a WebSocket's, and nginx's default.
	stallTimeout = time.Minute
	// stallPart is such a part where the kernel copies: with the timeout, 4 KiB a
	// second is the slowest that a client may be. The kernel's own buffer comes on
	// top.
	stallPart = 256 << 10
)

// taker gives the client of a connection a while for each part that is written to
// it: of answers, and of what net/http writes when their handlers have returned.
// Even the first byte may have to wait, behind answers before it that nobody reads.
// Whoever else sets a deadline for writing sets it here, and the earlier one holds.
type taker struct {
	conn  interface{ SetWriteDeadline(time.Time) error }
	while time.Duration
	given atomic.Int64 // when, since processStart; 0: not

	mu    sync.Mutex
	until time.Time // guarded by mu: what was given; zero: any time
	asked time.Time // guarded by mu: what others have set; zero: nothing
}

var processStart = time.Now()

// give is called before each write. A quarter more is given than what must be, or
// there would be a deadline to set each time.
func (t *taker) give() {
	now := time.Since(processStart)
	if last := t.given.Load(); last != 0 && now-time.Duration(last) < t.while/4 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.given.Store(int64(now))
	t.until = time.Now().Add(t.while + t.while/4)
	_ = t.set() // the write tells, too
}

// take ends that, for who watches by himself.
func (t *taker) take() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.given.Store(0)
	t.until = time.Time{}
	_ = t.set()
}

// ask is another's deadline.
func (t *taker) ask(by time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked = by
	return t.set()
}

func (t *taker) set() error {
	if by := t.asked; !by.IsZero() && (t.until.IsZero() || by.Before(t.until)) {
		return t.conn.SetWriteDeadline(by)
	}
	return t.conn.SetWriteDeadline(t.until)
}

// stall watches a write that may wait for the client where a connection's deadline
// doesn't: over HTTP/2, where a client can hold back each answer by itself, and of
// what the kernel copies.
type stall struct {
	mu      sync.Mutex
	timer   *time.Timer // nil: nothing was watched yet
	writing bool        // guarded by mu
	over    bool        // guarded by mu: the client has taken nothing for too long
}

var errStalled = errors.New("the client has not read for too long")

// expect begins to watch.
func (w *response) expect() {
	s := &w.stall
	s.mu.Lock()
	s.writing = true
	s.mu.Unlock()
	if s.timer == nil {
		s.timer = time.AfterFunc(stallTimeout, w.stuck)
	} else {
		s.timer.Reset(stallTimeout)
	}
}

// taken ends the watch. It reports whether the client has been given up.
func (w *response) taken() (stalled bool) {
	s := &w.stall
	s.timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = false
	return s.over
}

// stuck ends a write that has waited for too long, and so the answer.
func (w *response) stuck() {
	s := &w.stall
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writing { // or the deadline would be the next request's
		s.over = true
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Unix(1, 0))
	}
}

// copyFrom copies all of src, part by part.
func (w *response) copyFrom(src io.Reader) (total int64, err error) {
	whole, limited := src.(*io.LimitedReader) // what the kernel's ways know
	for {
		part := &io.LimitedReader{R: src, N: stallPart}
		if limited {
			part = &io.LimitedReader{R: whole.R, N: min(whole.N, stallPart)}
		}
		want := part.N
		w.expect()
		n, err := io.Copy(w.ResponseWriter, part)
		if w.taken() && err != nil {
			err = errStalled // src may have deadlines of its own
		}
		w.bytes += n
		total += n
		if limited {
			whole.N -= n
		}
		if err != nil || n < want || limited && whole.N == 0 {
			return total, err
		}
	}
}

// dropBody gives the client a while to send the rest of a body that nobody reads.
func (w *response) dropBody(while time.Duration) {
	_ = http.NewResponseController(w.ResponseWriter).SetReadDeadline(time.Now().Add(while))
}

// leave gives the client a while for what is left of an answer in HTTP/2's
// buffers when its handler returns. Over HTTP/1.1 such a deadline would be the
// connection's, and outlive the answer.
func (w *response) leave() {
	if w.http2 {
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(stallTimeout))
	}
}
