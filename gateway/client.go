package gateway

import (
	"errors"
	"io"
	"net/http"
	"sync"
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
	// stallFree is how much of an answer is not watched over HTTP/1.1: the buffers
	// between here and the network take most of it, and most answers are smaller.
	// Over HTTP/2 a client can hold back the first byte.
	stallFree = 32 << 10
)

// stall watches a write that may wait for the client.
type stall struct {
	mu      sync.Mutex
	timer   *time.Timer // nil: nothing was watched yet
	writing bool        // guarded by mu
	over    bool        // guarded by mu: the client has taken nothing for too long
}

var errStalled = errors.New("the client has not read for too long")

// expect begins to watch, if n more bytes may have to wait.
func (w *response) expect(n int) (watched bool) {
	if !w.http2 && w.bytes+int64(n) <= stallFree {
		return false
	}
	s := &w.stall
	s.mu.Lock()
	s.writing = true
	s.mu.Unlock()
	if s.timer == nil {
		s.timer = time.AfterFunc(stallTimeout, w.stuck)
	} else {
		s.timer.Reset(stallTimeout)
	}
	return true
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
		watched := w.expect(int(want))
		n, err := io.Copy(w.ResponseWriter, part)
		if watched && w.taken() && err != nil {
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
