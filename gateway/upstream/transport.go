package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"
)

// maxHead is far above any upstream's response header that a browser would
// take, and far below net/http's 10 MiB.
const maxHead = 256 << 10

// newTransport returns net/http's client: bodies are left as they are coded;
// the environment's proxy settings are not looked at; redirects are not its
// business.
func newTransport(o *Options) *http.Transport {
	cfg := o.TLS
	if cfg == nil {
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	t := &http.Transport{
		DialContext:            dialObserved(o),
		TLSClientConfig:        cfg,
		TLSHandshakeTimeout:    o.DialTimeout,
		MaxConnsPerHost:        o.MaxConns,
		MaxIdleConnsPerHost:    o.MaxIdleConns,
		IdleConnTimeout:        o.IdleTimeout,
		ExpectContinueTimeout:  continueTimeout,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHead,
		Protocols:              new(http.Protocols),
	}
	switch o.Protocol {
	case protocolH2C:
		t.Protocols.SetUnencryptedHTTP2(true)
	case protocolHTTP1:
		t.Protocols.SetHTTP1(true)
	default:
		t.Protocols.SetHTTP1(true)
		t.Protocols.SetHTTP2(true)
	}
	return t
}

var errUpgrade = errors.New("HTTP/2 has no upgrades")

// continueTimeout is how long a body waits for the 100 that was asked for.
const continueTimeout = time.Second

// roundTrip tries addresses until one can be connected to.
func (p *Pool) roundTrip(r *http.Request) (res *http.Response, err error) {
	if r.Header["Upgrade"] != nil && p.o.Protocol == protocolH2C {
		return nil, errUpgrade // as net/http would say, but by no fault of an address
	}
	hasBody := r.Body != nil && r.Body != http.NoBody
	if hasBody {
		defer func() {
			if err != nil {
				r.Body.Close()
			}
		}()
	}
	var tried []*address
	for again := 0; ; {
		a := p.pick(tried)
		u := *r.URL
		u.Scheme, u.Host = a.url.Scheme, a.url.Host
		ctx, cancel := context.WithCancel(r.Context())
		y := &attempt{h2c: p.o.Protocol == protocolH2C, method: r.Method, safe: !hasBody && safe(r.Method), cancel: cancel}
		out := r.WithContext(httptrace.WithClientTrace(ctx, y.trace()))
		out.URL, out.GetBody = &u, nil // or it would be sent again
		if hasBody {
			y.body = &keptOpen{Reader: r.Body, left: r.ContentLength} // net/http closes it with any error
			out.Body = y.body
		}
		a.begin()
		res, err = a.transport.RoundTrip(out)
		if err == nil {
			a.succeed()
			res.Request = r
			if y.conn != nil {
				y.conn.doubted.Store(false)
				y.conn.idleFor.Store(int64(keepAlive(strings.Join(res.Header["Keep-Alive"], ","))))
			}
			counted := &countedBody{ReadCloser: res.Body, a: a, cancel: cancel}
			if y.last(res) {
				y.conn.last.Store(true)
				counted.conn = y.conn
			}
			res.Body = writable(counted)
			return res, nil
		}
		a.end()
		cancel()
		if y.spent {
			err = errGivenBack
		}
		if y.late(r.Context()) {
			y.doubt()
			a.fail(ErrTimeout, !y.got)
			return nil, ErrTimeout
		}
		if r.Context().Err() != nil || hasBody && y.body.failed.Load() || !y.wanted {
			return nil, err // by no fault of the address
		}
		if again++; y.unsent && again < maxStale {
			if y.old {
				a.transport.CloseIdleConnections() // they have been idle for longer
			}
			continue
		}
		a.fail(err, isDial(err))
		if tried = append(tried, a); !y.got && len(tried) < len(p.addresses) {
			continue
		}
		return nil, err
	}
}

// dialObserved opens connections that tell whether somebody waits for what comes
// on them.
func dialObserved(o *Options) func(context.Context, string, string) (net.Conn, error) {
	d := net.Dialer{Timeout: o.DialTimeout, KeepAlive: 30 * time.Second}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &observed{Conn: c, patience: max(o.DialTimeout, time.Second)}, nil
	}
}

// observed is a connection below net/http's.
type observed struct {
	net.Conn
	patience time.Duration // with one that is doubted
	waiting  atomic.Bool   // a Read is under way
	closed   atomic.Bool
	last     atomic.Bool   // nobody may be answered over it any more
	idleFor  atomic.Int64  // see [conn]
	reads    atomic.Uint64 // that brought something
	doubted  atomic.Bool   // and not answered over since
}

func (c *observed) Read(p []byte) (int, error) {
	c.waiting.Store(true)
	n, err := c.Conn.Read(p)
	c.waiting.Store(false)
	if n > 0 {
		c.reads.Add(1)
	}
	return n, err
}

// doubt closes a connection of HTTP/2 on which nothing comes any more: its other end
// may be gone without a word, and all requests would go there until the system finds
// out, which takes it a quarter of an hour. It is for when a request was cancelled
// since whose sending nothing has come: then net/http sends a PING, to which the
// other end answers if it lives, but not another one until there was an answer.
func (c *observed) doubt() {
	if c.doubted.Swap(true) {
		return
	}
	before := c.reads.Load()
	time.AfterFunc(c.patience, func() {
		if c.reads.Load() == before {
			c.Close()
		}
	})
}

func (c *observed) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// CloseWrite is a tunnel's.
func (c *observed) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// isDial reports whether err means that no connection was opened.
func isDial(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial" && !errors.Is(err, context.Canceled)
}

// maxStale is how many connections a request is given that are closed as it gets
// them.
const maxStale = 8

// keptOpen is a request's body for one attempt.
type keptOpen struct {
	io.Reader
	left   int64       // of the length that was told
	locked atomic.Bool // for good: the next attempt is to find it unread
	failed atomic.Bool // by itself
	ended  atomic.Bool
}

func (b *keptOpen) Read(p []byte) (int, error) {
	if b.locked.Load() {
		return 0, net.ErrClosed
	}
	n, err := b.Reader.Read(p)
	b.left -= int64(n)
	switch {
	case err == io.EOF || err == nil && b.left == 0:
		b.ended.Store(true)
	case err != nil:
		b.failed.Store(true)
	}
	return n, err
}

func (*keptOpen) Close() error { return nil }

// countedBody counts its request as under way until it is closed.
type countedBody struct {
	io.ReadCloser
	a      *address
	cancel func()
	conn   *observed // to be closed with it
}

func (b *countedBody) Close() error {
	if a := b.a; a != nil {
		b.a = nil
		a.end()
		defer b.cancel()
		if b.conn != nil {
			b.conn.Close()
		}
	}
	return b.ReadCloser.Close()
}

// writable leaves a body that can be written to, that of a 101, one.
func writable(b *countedBody) io.ReadCloser {
	if w, ok := b.ReadCloser.(io.ReadWriteCloser); ok {
		return &struct {
			*countedBody
			io.Writer
		}{b, w}
	}
	return b
}
