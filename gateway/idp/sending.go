package idp

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// postForm sends a form to the provider, with the client's credentials. It
// sends it once: another attempt is made only where a kept-alive connection
// turned out to be dead before any of the body had left.
//
// sending, if there is one, is called when the connection is open and before
// the body's first byte leaves, at most once; its error keeps the body here.
// left reports whether any of the body may have left this process, whatever
// err is. refused is sending's error.
func (p *Provider) postForm(ctx context.Context, op operation, target string, form url.Values, sending func() error) (a answer, left bool, refused, err error) {
	if p.cfg.ClientAuth == ClientSecretPost {
		form.Set("client_id", p.cfg.ClientID)
		form.Set("client_secret", string(p.cfg.ClientSecret))
	}
	encoded := form.Encode()
	for attempt := 0; ; attempt++ {
		body := &onceBody{ctx: ctx, rest: encoded, sending: sending}
		var reused atomic.Bool
		traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) {
			reused.Store(c.Reused)
			body.conn.Store(watched(c.Conn))
		}})
		req, err := http.NewRequestWithContext(traced, http.MethodPost, target, nil)
		if err != nil {
			return answer{}, false, nil, err // unreachable: endpoints are checked
		}
		// No GetBody: net/http repeats a request by itself only with one, or
		// where it never read the body.
		req.Body, req.ContentLength = body, int64(len(encoded))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if p.cfg.ClientAuth == ClientSecretBasic {
			req.SetBasicAuth(url.QueryEscape(p.cfg.ClientID), url.QueryEscape(string(p.cfg.ClientSecret)))
		}
		a, err := p.roundTrip(op, req, maxAnswer)
		left, refused := body.over(err != nil)
		if err != nil && !left && refused == nil && attempt == 0 && reused.Load() && ctx.Err() == nil {
			if body.asked {
				sending = nil // it has been called, and holds
			}
			continue
		}
		return a, left, refused, err
	}
}

// onceBody is a request body that exists once and says when it leaves.
type onceBody struct {
	ctx     context.Context
	sending func() error
	conn    atomic.Pointer[watchedConn] // what it goes to; nil if that isn't known

	mu      sync.Mutex // guards the rest, and is held while sending runs
	rest    string
	asked   bool  // a Read came, and sending was called if there is one
	given   bool  // bytes have been given to the transport
	before  int64 // what conn had taken by then
	refused error // sending's
	err     error // what Read answers from now on
}

func (b *onceBody) Read(buf []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil || len(buf) == 0 {
		return 0, b.err
	}
	if !b.given {
		// Too late already: don't set a latch for nothing.
		if b.err = b.ctx.Err(); b.err != nil {
			return 0, b.err
		}
		b.asked = true
		if b.sending != nil {
			if b.refused = b.sending(); b.refused != nil {
				b.err = b.refused
				return 0, b.err
			}
		}
		// sending may have taken its time. Nothing has left yet, so better
		// nothing leaves than a token whose answer nobody waits for.
		if b.err = b.ctx.Err(); b.err != nil {
			return 0, b.err
		}
		if c := b.conn.Load(); c != nil {
			b.before = c.taken.Load()
		}
		b.given = true
	}
	n := copy(buf, b.rest)
	b.rest = b.rest[n:]
	if n == 0 {
		b.err = io.EOF
		return 0, io.EOF
	}
	return n, nil
}

// Close is the transport's. It may come from another goroutine than Read.
func (b *onceBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = errOver
	}
	return nil
}

// over waits for a Read under way and ends all reading: a transport may give up
// on a request while its body is being read. left is then final. Where the
// request failed, the connection is asked whether it took any of what it was
// given.
func (b *onceBody) over(failed bool) (left bool, refused error) {
	b.Close()
	left = b.given
	if c := b.conn.Load(); left && failed && c != nil {
		left = c.stop() != b.before
	}
	return left, b.refused
}

// watchedConn counts what the system has taken for sending.
type watchedConn struct {
	net.Conn
	taken   atomic.Int64
	writing atomic.Int32
	stopped atomic.Bool
}

func dialWatched(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &watchedConn{Conn: c}, nil
}

// watched finds the watchedConn below c; nil if there is none.
func watched(c net.Conn) *watchedConn {
	for {
		switch under := c.(type) {
		case *watchedConn:
			return under
		case *tls.Conn:
			c = under.NetConn()
		default:
			return nil
		}
	}
}

func (c *watchedConn) Write(b []byte) (int, error) {
	c.writing.Add(1)
	defer c.writing.Add(-1)
	if c.stopped.Load() {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Write(b)
	c.taken.Add(int64(n))
	return n, err
}

// stop refuses all writes to come and returns what has been taken, or -1 where a
// write is under way: what becomes of that isn't known. The connection is of no
// more use.
func (c *watchedConn) stop() int64 {
	// In this order: a write that hasn't seen stopped is seen by writing.
	c.stopped.Store(true)
	if c.writing.Load() > 0 {
		return -1
	}
	return c.taken.Load()
}
