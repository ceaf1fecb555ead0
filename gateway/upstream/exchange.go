package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"
)

var (
	// ErrTimeout is the error for an answer whose header took longer than
	// [Exchange].Timeout.
	ErrTimeout = errors.New("no answer in time")
	// ErrRequestBody wraps the error with which the request's body could not be
	// read.
	ErrRequestBody = errors.New("request body")

	errRequestLine   = errors.New("the request line can't be written")
	errAborted       = errors.New("aborted")
	errBusy          = errors.New("all connections are busy")
	errNotHTTP       = errors.New("the answer is not HTTP/1")
	errInformational = errors.New("too many informational answers")
	errSwitched      = errors.New("switched protocols unasked")
)

const (
	// maxInformational is how many informational answers to one request are
	// read. An upstream that sends more is broken: two or three are usual.
	maxInformational = 16
	// lookAfter is how long a request waits at least, and usually at most three
	// times as long, before Slow is called.
	lookAfter = 20 * time.Millisecond
)

// Caller is who an exchange is made for. Its methods are called by Do, Next and
// Done, on their goroutine.
type Caller interface {
	// Slow is called once if the exchange may wait for long: then is the time
	// to arrange for Abort.
	Slow()
	// Flush is called by Next before it waits.
	Flush()
	// Inform is told of informational answers, but not of a 100 that was asked
	// for. Its error ends the exchange.
	Inform(*Head) error
	// Unblock makes a Read of Body that waits return soon. Done may call it.
	Unblock()
}

// Exchange is one request over plain HTTP/1.1 and its answer. The fields of the
// first group are set before [Pool.Do]; all of its methods but Abort are its
// goroutine's. It may be used again after Done and Reset.
type Exchange struct {
	Method string
	Target string // path and query, as they go on the request line
	// Fields are header lines, each with its CRLF. Of the framing ones (Host,
	// Content-Length, Transfer-Encoding) there is none: they are Do's.
	Fields []byte
	// Body is nil where there is none. It is read by a goroutine of its own,
	// which has ended when Done returns.
	Body io.Reader
	// Length is the body's; -1: unknown, it is sent in chunks. 0: there is none.
	Length int64
	// Trailer is sent after a body of unknown length: names beforehand, values
	// once Body has ended.
	Trailer http.Header
	// Expect makes the body wait for a 100 (RFC 9110 section 10.1.1).
	Expect bool
	// Upgrade allows a 101.
	Upgrade bool
	// Timeout bounds the time to the final header, counted anew with each part
	// of the body that comes.
	Timeout time.Duration
	Caller  Caller

	// Head is the answer's.
	Head
	// Trailers are there once Next has returned io.EOF.
	Trailers []Field

	a        *address
	began    time.Time
	isSlow   bool
	answered bool // the final header is in
	reused   bool // the connection had carried a request before
	heard    bool // something of the answer has come
	buf      []byte
	pooled   *buffer
	r, w     int // what of buf is to be read
	framed   framed
	left     int64 // of the body, or of the chunk
	inChunks bool
	excess   int
	sound    bool // the answer has ended where its framing says
	c        *conn

	sender
	mu      sync.Mutex
	aborted bool
	readErr error  // Body's
	live    *conn  // what Abort closes
	cancel  func() // what Abort calls
}

// Do sends the request and reads the header of its answer: that it has come is
// all that a nil error says. [Exchange.Next] reads the body. Done must be called
// in any case.
//
// The request is sent again, at most once more over a connection of its own,
// where nobody could have acted on it: no connection was opened; or a kept one
// turned out to be closed before anything was answered and either not a byte
// was sent or the request is safe (GET, HEAD, OPTIONS) and without a body.
func (p *Pool) Do(x *Exchange) error {
	if !printable(x.Method) || !printable(x.Target) {
		return errRequestLine
	}
	if x.Length == 0 {
		x.Body = nil // nothing to send is nothing to wait for
	}
	x.began = time.Now()
	x.pooled = buffers.Get().(*buffer)
	x.buf = x.pooled[:]
	var tried []*address
	for fresh := false; ; {
		a := p.pick(tried)
		a.begin()
		x.a, x.heard, x.reused = a, false, false
		c, err := x.connect(fresh)
		unopened, unsent := err != nil, true
		if err == nil {
			unsent, err = x.attempt(c)
		}
		if err == nil {
			a.succeed()
			return nil
		}
		x.finish()
		aborted, bodyErr := x.state()
		switch {
		case bodyErr != nil:
			return fmt.Errorf("%w: %w", ErrRequestBody, bodyErr)
		case aborted:
			return errAborted
		case err == ErrTimeout && !x.isSent():
			return ErrTimeout // the client's fault as much as the upstream's
		case err == errBusy:
			return ErrTimeout // nobody has asked the address
		case err == ErrTimeout || time.Since(x.began) >= x.Timeout && unopened:
			a.fail(ErrTimeout, unopened)
			return ErrTimeout
		case unopened:
			a.fail(err, true)
			if tried = append(tried, a); len(tried) < len(p.addresses) {
				continue
			}
			return err
		case x.reused && !fresh && !x.heard && isClosed(err) && (unsent || x.safe()):
			fresh = true
			p.o.Metrics.retried(a.url.Host)
			continue
		}
		a.fail(err, false)
		return err
	}
}

// printable keeps a second line out of the first.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return s != ""
}

// safe reports whether the request may be sent twice.
func (x *Exchange) safe() bool {
	return x.Body == nil && safe(x.Method)
}

// isClosed reports whether err is what a connection says that the other side
// has closed.
func isClosed(err error) bool {
	return err == io.EOF || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// connect takes an idle connection, or opens one.
func (x *Exchange) connect(fresh bool) (*conn, error) {
	a := x.a
	if a.tokens != nil {
		select {
		case a.tokens <- struct{}{}:
		default:
			if err := x.wait(func(ctx context.Context) error {
				select {
				case a.tokens <- struct{}{}:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}); err != nil {
				x.a = nil // has no token to give back
				a.end()
				return nil, errBusy
			}
		}
	}
	if !fresh {
		if c := a.takeIdle(x.began); c != nil {
			x.reused = true
			return c, nil
		}
	}
	var c *conn
	err := x.wait(func(ctx context.Context) (err error) {
		c, err = a.dial(ctx)
		return err
	})
	return c, err
}

// wait runs f, which may take long, until Abort is called or the time runs out.
func (x *Exchange) wait(f func(context.Context) error) error {
	x.slow()
	ctx, cancel := context.WithDeadline(context.Background(), x.began.Add(x.Timeout))
	defer cancel()
	x.mu.Lock()
	if x.aborted {
		x.mu.Unlock()
		return errAborted
	}
	x.cancel = cancel
	x.mu.Unlock()
	err := f(ctx)
	x.mu.Lock()
	x.cancel = nil
	x.mu.Unlock()
	return err
}

// attempt sends the request over c and reads the header of the answer. unsent
// tells that not a byte has left.
func (x *Exchange) attempt(c *conn) (unsent bool, err error) {
	x.mu.Lock()
	x.c, x.live = c, c
	aborted := x.aborted
	x.mu.Unlock()
	if aborted {
		return true, errAborted
	}
	if x.Body != nil {
		x.slow() // the client may have to be waited for
	}
	now := x.began
	if x.isSlow {
		now = time.Now()
	}
	if by := now.Add(x.Timeout); c.writeBy.Before(now.Add(x.Timeout/2)) || c.writeBy.After(by) {
		c.writeBy = by
		_ = c.SetWriteDeadline(by) // Write tells, too
	}
	head := x.appendHead(x.buf[:0])
	if n, err := c.Write(head); err != nil {
		return n == 0, err
	}
	if x.Body != nil {
		c.writeBy = time.Time{}
		_ = c.SetWriteDeadline(time.Time{})
		x.send(c)
	}
	by := now.Add(x.Timeout)
	c.wakeBy(earlier(now.Add(lookAfter), by), earlier(now.Add(3*lookAfter), by))
	return false, x.readHead()
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// appendHead writes the request's head (RFC 9112 section 3).
func (x *Exchange) appendHead(b []byte) []byte {
	b = append(b, x.Method...)
	b = append(b, ' ')
	b = append(b, x.Target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, x.a.url.Host...)
	b = append(b, "\r\n"...)
	b = append(b, x.Fields...)
	switch {
	case x.Body == nil:
		// RFC 9110 section 8.6: where the method anticipates content.
		if x.Method == http.MethodPost || x.Method == http.MethodPut || x.Method == http.MethodPatch {
			b = append(b, "Content-Length: 0\r\n"...)
		}
	case x.Length >= 0:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, x.Length, 10)
		b = append(b, "\r\n"...)
	default:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		for name := range x.Trailer {
			b = append(b, "Trailer: "...)
			b = append(b, name...)
			b = append(b, "\r\n"...)
		}
	}
	return append(b, "\r\n"...)
}
