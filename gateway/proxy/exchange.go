package proxy

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/cloakroom/cloakroom/gateway/upstream"
)

// exchange is one request under way.
type exchange struct {
	proxy   *Proxy
	call    Call
	in      *http.Request
	w       http.ResponseWriter
	upgrade bool // a WebSocket was asked for

	// Of the handler's goroutine.
	direct  upstream.Exchange // over plain HTTP/1.1, or unused
	started bool              // the final header is written
	dirty   bool              // something is, that was not flushed
	watched bool              // somebody listens for the end
	unwatch [2]func() bool    // stop the listening
	over    chan struct{}     // closed when Forward returns; nil: nobody listens
	cancel  func(error)       // ends the request to an http.RoundTripper; nil: direct
	conn    net.Conn          // that carries an upgrade through one

	mu      sync.Mutex
	phase   phase
	ended   bool  // by the caller, before the answer or within it
	late    bool  // the upstream did not answer in time
	bodyErr error // why the request's body could not be read
	read    bool  // to its end, or to bodyErr
}

// exchanges are those that nobody else has known of.
var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// recycle lets the next request have x, if no goroutine but the handler's can
// hold on to it.
func (x *exchange) recycle() {
	if x.watched || x.hasBody() {
		return
	}
	x.direct.Reset()
	fields := x.direct.Fields
	head := x.direct.Head
	*x = exchange{}
	x.direct.Fields, x.direct.Head = fields, head
	exchanges.Put(x)
}

// verdict says whose fault err is.
func (x *exchange) verdict(err error) error {
	x.mu.Lock()
	bodyErr, ended, late := x.bodyErr, x.ended, x.late
	x.mu.Unlock()
	switch {
	case ended:
		return ErrEnded
	case late || errors.Is(err, upstream.ErrTimeout):
		return ErrTimeout
	case x.in.Context().Err() != nil:
		return x.in.Context().Err()
	case bodyErr != nil:
		return fmt.Errorf("%w: %w", ErrRequestBody, bodyErr)
	}
	if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "dial" {
		if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
			return fmt.Errorf("%w: %v", ErrTimeout, err)
		}
	}
	return fmt.Errorf("%w: %v", ErrUnreachable, err)
}

// begin writes the final header. What the caller has put into the map goes
// along with what the upstream said.
func (x *exchange) begin(status int) {
	h := x.w.Header()
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or net/http would guess one
	}
	x.started = true
	x.dirty = true
	x.w.WriteHeader(status)
}

// write passes on a part of the body.
func (x *exchange) write(b []byte) error {
	x.dirty = true
	_, err := x.w.Write(b)
	return err
}

// Flush sends what was written, before somebody is waited for.
func (x *exchange) Flush() {
	if x.dirty {
		x.dirty = false
		_ = http.NewResponseController(x.w).Flush() // the next Write tells, too
	}
}

// broken logs an answer that can't be finished and gives it up.
func (x *exchange) broken(err error) {
	if log := x.proxy.cfg.Log; log != nil && x.in.Context().Err() == nil && !isClosed(x.call.Ended) {
		log.LogAttrs(x.in.Context(), slog.LevelWarn, "the upstream's answer broke off", slog.Any("err", err))
	}
	panic(http.ErrAbortHandler)
}

// inform passes informational responses on as the gateway wants it: what the caller has
// put into the header map is for the final one.
func (x *exchange) inform(status int, early http.Header) {
	if !x.in.ProtoAtLeast(1, 1) {
		return // RFC 9110 section 15.2: none to HTTP/1.0
	}
	header := x.w.Header()
	set := maps.Clone(header)
	clear(header)
	maps.Copy(header, early)
	x.w.WriteHeader(status)
	clear(header)
	maps.Copy(header, set)
}

// requestBody notes why the client's body could not be read, and passes on the
// trailers that its header announced.
type requestBody struct {
	io.ReadCloser
	x       *exchange
	clock   *clock // to be wound; nil: none
	trailer http.Header
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.clock != nil {
		b.clock.wind()
	}
	if err != nil {
		b.x.mu.Lock()
		b.x.read = true
		b.x.mu.Unlock()
	}
	switch {
	case err == io.EOF:
		for name := range b.trailer {
			b.trailer[name] = b.x.in.Trailer[name]
		}
	case err != nil:
		b.x.mu.Lock()
		b.x.bodyErr = err
		b.x.mu.Unlock()
	}
	return n, err
}

// hasBody reports whether the request has one. Over HTTP/2 net/http gives each a
// Body, and to what has none a length of 0; -1 is unknown.
func (x *exchange) hasBody() bool {
	return x.in.Body != nil && x.in.Body != http.NoBody && x.in.ContentLength != 0
}

// body is the request's, or nil if it has none, and the trailers that will be
// sent after it.
func (x *exchange) body(c *clock) (*requestBody, http.Header) {
	if !x.hasBody() {
		return nil, nil
	}
	var trailer http.Header
	for name := range x.in.Trailer {
		if isToken(name) && x.proxy.filter.trailer(name) {
			if trailer == nil {
				trailer = make(http.Header)
			}
			trailer[name] = nil
		}
	}
	return &requestBody{x.in.Body, x, c, trailer}, trailer
}

// isToken reports whether s can be a field's name (RFC 9110 section 5.1).
func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

// clock calls late once, when it has not been wound or stopped for a while.
type clock struct {
	mu      sync.Mutex
	timer   *time.Timer
	after   time.Duration
	stopped bool
	ok      bool // stopped in time
}

func (c *clock) start(after time.Duration, late func()) {
	c.after = after
	c.timer = time.AfterFunc(after, late)
}

// wind starts the time anew, unless it has run out or is of no interest any more.
func (c *clock) wind() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped {
		if c.timer.Stop() {
			c.timer.Reset(c.after)
		}
	}
}

// stop ends the clock and reports whether it was in time.
func (c *clock) stop() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped {
		c.stopped = true
		c.ok = c.timer.Stop()
	}
	return c.ok
}
