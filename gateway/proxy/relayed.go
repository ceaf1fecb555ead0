package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"

	"github.com/cloakroom/cloakroom/gateway/upstream"
)

// maxInformational is how many informational responses to one request are
// passed on. An upstream that sends more is broken: two or three are usual.
const maxInformational = 16

// relay is what an exchange needs beside, over an http.RoundTripper: TLS,
// HTTP/2.
type relay struct {
	x     *exchange
	clock clock

	mu     sync.Mutex
	done   bool // the final header is in: no more informational ones
	passed int  // informational responses passed on
}

// forwardRelayed forwards through an http.RoundTripper.
func (x *exchange) forwardRelayed() error {
	y := &relay{x: x}
	ctx, cancel := context.WithCancelCause(x.in.Context())
	defer cancel(nil)
	x.cancel = cancel
	x.Slow()
	defer x.unwatchAll()
	y.clock.start(x.proxy.cfg.Timeout, x.tooLate)
	defer y.clock.stop()

	trace := &httptrace.ClientTrace{Got1xxResponse: y.inform}
	if x.upgrade {
		trace.GotConn = func(info httptrace.GotConnInfo) { x.conn = info.Conn } // see switched
	}
	out := x.request(httptrace.WithClientTrace(ctx, trace), &y.clock)
	res, err := x.proxy.cfg.Transport.RoundTrip(out)
	y.mu.Lock()
	y.done = true
	y.mu.Unlock()
	if err != nil {
		err = x.verdict(tellable(err))
		x.closeBody(out.Body)
		return err
	}
	defer res.Body.Close()
	defer x.closeBody(out.Body) // first: the other one waits for whoever reads it
	if !y.clock.stop() {
		return ErrTimeout // it came as the time ran out, and its body is cut off
	}
	fields := fieldsOf(res.Header)
	if res.StatusCode == http.StatusSwitchingProtocols {
		return x.switchRelayed(res, fields)
	}
	if !x.hold(phaseAnswering) {
		return ErrEnded
	}
	h := x.w.Header()
	x.incoming(h, fields)
	if x.call.Private {
		keepPrivate(h, fields)
	}
	names := make([]string, 0, len(res.Trailer))
	for name := range res.Trailer {
		names = append(names, name)
	}
	if x.announce(h, names) > 0 && x.in.ProtoMajor == 1 && x.in.Method != http.MethodHead {
		delete(h, "Content-Length") // HTTP/1.1 has trailers after chunks alone
	}
	if res.ContentLength < 0 && res.ProtoMajor == 1 && len(res.TransferEncoding) == 0 && x.in.ProtoMajor == 1 && x.in.Method != http.MethodHead {
		h["Connection"] = []string{"close"} // its end can't be told from a cut
	}
	x.begin(res.StatusCode)
	x.copy(res.Body)
	x.trailers(fieldsOf(res.Trailer))
	if !x.hold(phaseOver) {
		panic(http.ErrAbortHandler) // its last bytes may have been cut off
	}
	return nil
}

// closeBody sees to it that the body is not read any more. The transport may be
// waiting for the client, and Close waits for it.
func (x *exchange) closeBody(body io.Closer) {
	if body == nil {
		return
	}
	x.mu.Lock()
	read := x.read
	x.mu.Unlock()
	if !read {
		x.Unblock()
	}
	body.Close()
}

// request is the upstream's.
func (x *exchange) request(ctx context.Context, c *clock) *http.Request {
	path := x.path()
	out := &http.Request{
		Method: x.in.Method,
		URL: &url.URL{
			Scheme:     x.proxy.cfg.Target.Scheme,
			Host:       x.proxy.cfg.Target.Host,
			Path:       decodePath(path),
			RawPath:    path,
			RawQuery:   x.in.URL.RawQuery,
			ForceQuery: x.in.URL.ForceQuery,
		},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	fields := outgoing{fields: make(http.Header)}
	x.header(&fields)
	if body, trailer := x.body(c); body != nil {
		out.Body, out.Trailer, out.ContentLength = body, trailer, x.in.ContentLength
		if x.expects() {
			fields.add("Expect", "100-continue")
		}
	}
	out.Header = fields.fields
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // or net/http would name itself
	}
	unmarkIdempotent(out.Header)
	return out.WithContext(ctx)
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

func fieldsOf(h http.Header) []upstream.Field {
	fields := make([]upstream.Field, 0, len(h))
	for name, lines := range h {
		for _, v := range lines {
			fields = append(fields, upstream.Field{Name: name, Value: v})
		}
	}
	return fields
}

// copy passes the body on as it comes.
func (x *exchange) copy(body io.Reader) {
	b := buffers.Get()
	for {
		x.Flush()
		n, err := body.Read(b)
		if n > 0 {
			if err := x.write(b[:n]); err != nil {
				x.broken(err) // b may still be read, see upstream.Exchange.Disown
			}
		}
		if err != nil {
			buffers.Put(b)
			if err != io.EOF {
				x.broken(tellable(err))
			}
			return
		}
	}
}

var errUnreadable = errors.New("connection broken, or not HTTP")

// tellable is err, if it can be logged: net/http quotes what it can't parse, and
// what an upstream sends may be the bearer that it got.
func tellable(err error) error {
	if found, ok := errors.AsType[net.Error](err); ok { // addresses, the system's errors, and timeouts
		return found
	}
	if found, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return found
	}
	for _, known := range [...]error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, known) {
			return known
		}
	}
	return errUnreadable
}

// inform passes one informational response on. It runs on the transport's
// goroutine, while the handler's waits in RoundTrip.
func (y *relay) inform(code int, h textproto.MIMEHeader) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.done {
		return nil
	}
	if y.passed++; y.passed > maxInformational {
		return errors.New("too many informational responses")
	}
	early := make(http.Header)
	y.x.incoming(early, fieldsOf(http.Header(h)))
	y.x.inform(code, early)
	return nil
}
