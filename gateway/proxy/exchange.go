package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"time"
)

// maxInformational is how many informational responses to one request are
// passed on. An upstream that sends more is broken: two or three are usual.
const maxInformational = 16

// exchange is one request under way. It travels in the request's context.
type exchange struct {
	proxy   *Proxy
	call    Call
	in      *http.Request
	w       http.ResponseWriter
	ctx     context.Context
	cancel  context.CancelCauseFunc
	upgrade bool // a WebSocket was asked for
	clock   clock

	// Of the handler's goroutine.
	err      error       // set by fail
	conn     net.Conn    // that carries the upgrade
	upstream *side       // set when the upstream has agreed to it
	head     http.Header // of its 101

	mu      sync.Mutex
	phase   phase
	ended   bool  // by the caller, before the answer or within it
	bodyErr error // why the request's body could not be read
	done    bool  // the final header is in: no more informational ones
	passed  int   // informational responses passed on
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange { return ctx.Value(exchangeKey{}).(*exchange) }

// rewrite makes the upstream's request: strip first, then set.
func (p *Proxy) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	x := exchangeOf(in.Context())

	path := x.call.Path
	if p.cfg.StripPrefix != "" {
		path = StripPrefix(path, p.cfg.StripPrefix)
	}
	path = p.base + path
	out.URL = &url.URL{
		Scheme:  p.cfg.Target.Scheme,
		Host:    p.cfg.Target.Host,
		Path:    decodePath(path),
		RawPath: path,
		// ReverseProxy has dropped from its own what it can't parse.
		RawQuery:   in.URL.RawQuery,
		ForceQuery: in.URL.ForceQuery,
	}
	out.Host = ""

	h := out.Header
	p.filter.request(h)
	for _, f := range x.call.Headers {
		if validValue(f.Value) {
			h.Set(f.Name, f.Value)
		}
	}
	if !x.upgrade {
		// Whatever protocol it names (h2c!), it would not be one we can judge.
		delete(h, "Connection")
		delete(h, "Upgrade")
	}
	if x.call.Bearer != "" {
		h["Authorization"] = []string{"Bearer " + string(x.call.Bearer)}
	}
	if v := forwardedFor(in, p.cfg.TrustedProxies); v != "" {
		h["X-Forwarded-For"] = []string{v}
	}
	h["X-Forwarded-Host"] = []string{in.Host}
	h["X-Forwarded-Proto"] = []string{p.publicScheme(in)}
	tp := x.call.Traceparent
	if tp == "" {
		tp = Traceparent(h)
	}
	if got := h["Traceparent"]; len(got) != 1 || got[0] != tp {
		delete(h, "Tracestate") // it belongs to a trace that ends here
		h["Traceparent"] = []string{tp}
	}
	unmarkIdempotent(h)

	out.Trailer = nil
	if out.Body != nil {
		for name := range in.Trailer {
			if p.filter.trailer(name) {
				if out.Trailer == nil {
					out.Trailer = make(http.Header)
				}
				out.Trailer[name] = nil
			}
		}
		out.Body = &requestBody{ReadCloser: out.Body, x: x, trailer: out.Trailer}
	}
}

func (p *Proxy) publicScheme(r *http.Request) string {
	switch {
	case p.cfg.PublicScheme != "":
		return p.cfg.PublicScheme
	case r.TLS != nil:
		return "https"
	}
	return "http"
}

// unmarkIdempotent keeps http.Transport from sending a POST without a body
// twice because of an Idempotency-Key: it looks for the key under its canonical
// name only. On the wire the name is the same in any case.
func unmarkIdempotent(h http.Header) {
	for _, name := range [...]string{"Idempotency-Key", "X-Idempotency-Key"} {
		if v, ok := h[name]; ok {
			delete(h, name)
			h[strings.ToLower(name)] = v
		}
	}
}

// respond cleans the upstream's response. An error from here means that it
// can't be passed on.
func (p *Proxy) respond(res *http.Response) error {
	x := exchangeOf(res.Request.Context())
	if !x.clock.stop() {
		return ErrTimeout // it came as the time ran out, and its body is cut off
	}
	p.filter.response(res.Header)
	if res.StatusCode == http.StatusSwitchingProtocols {
		return x.switched(res)
	}
	if !x.hold(phaseAnswering) {
		return ErrEnded
	}
	if _, ok := res.Header["Content-Type"]; !ok {
		x.w.Header()["Content-Type"] = nil // or net/http would guess one
	}
	if res.ContentLength < 0 || res.ProtoMajor != 1 {
		p.filter.response(res.Trailer)
		if len(res.Trailer) > 0 && x.in.ProtoMajor == 1 && x.in.Method != http.MethodHead {
			delete(res.Header, "Content-Length") // HTTP/1.1 has trailers after chunks alone
		}
		res.Body = &responseBody{ReadCloser: res.Body, res: res, filter: &p.filter}
	}
	if res.ContentLength < 0 && res.ProtoMajor == 1 && len(res.TransferEncoding) == 0 && x.in.ProtoMajor == 1 {
		// The end of such a body is the end of its connection, and can't be told
		// from a cut. Say as much to the client.
		res.Header["Connection"] = []string{"close"}
	}
	return nil
}

// fail is where ReverseProxy reports errors before the final header.
func fail(_ http.ResponseWriter, r *http.Request, err error) {
	exchangeOf(r.Context()).err = err
}

// verdict says whose fault x.err is.
func (x *exchange) verdict() error {
	x.mu.Lock()
	bodyErr, ended := x.bodyErr, x.ended
	x.mu.Unlock()
	switch cause := context.Cause(x.ctx); {
	case ended:
		return ErrEnded
	case errors.Is(cause, ErrTimeout) || errors.Is(x.err, ErrTimeout):
		return ErrTimeout
	case x.in.Context().Err() != nil:
		return x.in.Context().Err()
	case bodyErr != nil:
		return fmt.Errorf("%w: %w", ErrRequestBody, bodyErr)
	}
	if op, ok := errors.AsType[*net.OpError](x.err); !ok || op.Op != "dial" {
		if t, ok := errors.AsType[net.Error](x.err); ok && t.Timeout() {
			return fmt.Errorf("%w: %v", ErrTimeout, x.err)
		}
	}
	return fmt.Errorf("%w: %v", ErrUnreachable, x.err)
}

// informer is a transport that passes informational responses on as the
// gateway wants it. ReverseProxy's own way would send what the caller has put
// into the header map along with them, unfiltered, and then forget it.
type informer struct{ http.RoundTripper }

func (t informer) RoundTrip(r *http.Request) (*http.Response, error) {
	x := exchangeOf(r.Context())
	trace := &httptrace.ClientTrace{Got1xxResponse: x.inform}
	if x.upgrade {
		trace.GotConn = x.gotConn
	}
	// From x.ctx, not from r's: this takes the place of ReverseProxy's trace.
	res, err := t.RoundTripper.RoundTrip(r.WithContext(httptrace.WithClientTrace(x.ctx, trace)))
	x.mu.Lock()
	x.done = true
	x.mu.Unlock()
	return res, err
}

// inform passes one informational response on. It runs on the transport's
// goroutine, while the handler's waits in RoundTrip.
func (x *exchange) inform(code int, h textproto.MIMEHeader) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.done || !x.in.ProtoAtLeast(1, 1) { // RFC 9110 section 15.2: none to HTTP/1.0
		return nil
	}
	if x.passed++; x.passed > maxInformational {
		return errors.New("too many informational responses")
	}
	x.proxy.filter.response(http.Header(h))
	header := x.w.Header()
	set := maps.Clone(header)
	clear(header)
	maps.Copy(header, h)
	x.w.WriteHeader(code)
	clear(header)
	maps.Copy(header, set)
	return nil
}

// requestBody winds the clock as the client sends, and passes on the trailers
// that the header announced.
type requestBody struct {
	io.ReadCloser
	x       *exchange
	trailer http.Header
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.x.clock.wind()
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

// responseBody cleans the trailers, which are there once the body has ended.
type responseBody struct {
	io.ReadCloser
	res    *http.Response
	filter *filter
}

func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.filter.response(b.res.Trailer)
	}
	return n, err
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
