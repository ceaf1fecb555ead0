package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"runtime"
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

// continueTimeout is how long a body waits for the 100 that was asked for.
const continueTimeout = time.Second

// roundTrip tries addresses until one can be connected to.
func (p *Pool) roundTrip(r *http.Request) (res *http.Response, err error) {
	var body *keptOpen
	if r.Body != nil && r.Body != http.NoBody {
		body = &keptOpen{Reader: r.Body} // net/http closes it with any error
		defer func() {
			if err != nil {
				r.Body.Close()
			}
		}()
	}
	var tried []*address
	for {
		a := p.pick(tried)
		// Each has a trace of its own: the hooks that r has are written into it.
		out := r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{GotConn: settled}))
		u := *r.URL
		u.Scheme, u.Host = a.url.Scheme, a.url.Host
		out.URL = &u
		if body != nil {
			out.Body = body
		}
		a.begin()
		res, err = a.transport.RoundTrip(out)
		if err == nil {
			a.succeed()
			res.Request = r
			res.Body = endOf(res.Body, a)
			return res, nil
		}
		a.end()
		if r.Context().Err() != nil || body != nil && body.failed.Load() {
			return nil, err // by no fault of the address
		}
		unopened := isDial(err)
		a.fail(err, unopened)
		if tried = append(tried, a); unopened && len(tried) < len(p.addresses) {
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
		return &observed{Conn: c}, nil
	}
}

// observed is a connection below net/http's.
type observed struct {
	net.Conn
	waiting atomic.Bool // a Read is under way
	closed  atomic.Bool
}

func (c *observed) Read(p []byte) (int, error) {
	c.waiting.Store(true)
	n, err := c.Conn.Read(p)
	c.waiting.Store(false)
	return n, err
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

// settled keeps what an upstream has sent beyond one answer from being the
// next user's. net/http offers an HTTP/1.1 connection for use again, and only
// then looks whether something is left in its buffers: who takes it in between is
// answered with that. Once it waits for more, there is nothing left; if there is
// something, it closes the connection, and the request goes over another.
func settled(info httptrace.GotConnInfo) {
	if !info.Reused {
		return
	}
	under := info.Conn
	if c, ok := under.(*tls.Conn); ok {
		if c.ConnectionState().NegotiatedProtocol == "h2" {
			return
		}
		under = c.NetConn()
	}
	c, ok := under.(*observed)
	if !ok {
		return
	}
	for end := time.Now().Add(settleTimeout); !c.waiting.Load() && !c.closed.Load(); runtime.Gosched() {
		if time.Now().After(end) {
			c.Close() // better no answer than another's
			return
		}
	}
}

// settleTimeout is far above what it takes net/http to look into a buffer.
const settleTimeout = time.Second

// isDial reports whether err means that no connection was opened.
func isDial(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial" && !errors.Is(err, context.Canceled)
}

// keptOpen is a request's body for more than one attempt.
type keptOpen struct {
	io.Reader
	failed atomic.Bool // by itself
}

func (b *keptOpen) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && err != io.EOF {
		b.failed.Store(true)
	}
	return n, err
}

func (*keptOpen) Close() error { return nil }

// endOf counts the request as under way until its body is closed. A body that
// can be written to, that of a 101, stays one.
func endOf(body io.ReadCloser, a *address) io.ReadCloser {
	counted := &countedBody{ReadCloser: body, a: a}
	if w, ok := body.(io.ReadWriteCloser); ok {
		return &struct {
			*countedBody
			io.Writer
		}{counted, w}
	}
	return counted
}

type countedBody struct {
	io.ReadCloser
	a *address
}

func (b *countedBody) Close() error {
	if a := b.a; a != nil {
		b.a = nil
		a.end()
	}
	return b.ReadCloser.Close()
}
