// Package proxy forwards requests to upstreams, and knows no session.
//
// A gateway calls [CanonicalPath] on the request line, answers 400 if that
// fails, finds its route in a [Table] by the result, decides who is asking, and
// has the route's [Proxy] forward the request under the same path:
//
//	path, err := proxy.CanonicalPath(r.RequestURI)
//	route, ok := routes.Match(path)
//	err = route.proxy.Forward(w, r, proxy.Call{Path: path, Bearer: token})
//
// # What reaches the upstream
//
// The method, the canonical path, the query byte for byte, the body and the
// header, less: the gateway's cookies; every header that only the gateway may
// set (Authorization, DPoP, Forwarded, X-Forwarded-*, X-Real-IP, X-BFF,
// X-BFF-*, Secure-Session-*, X-Auth-Request-*) and those by which well-known
// proxies assert an identity or another address or URL, in every spelling that
// differs by case or by what stands between letters and digits; hop-by-hop headers
// and those that Connection names; with [Call].FixedMethod, X-HTTP-Method-Override
// and its like. Then, so that no client can delete or double them: Authorization
// with the call's bearer, X-Forwarded-For, -Host and -Proto, traceparent. Host is
// the upstream's own. Of the upgrades only WebSocket passes.
//
// # What reaches the client
//
// The upstream's answer as it is, a redirect or a 401 too, less: cookies of the
// gateway's names, Clear-Site-Data, Alt-Svc (they speak for the whole origin)
// and the headers that only the gateway may set; in informational responses
// and trailers likewise. An answer to somebody known by a cookie ([Call].Private)
// is private to shared caches unless it says that it is public, as it is to all
// that know of the upstream's Authorization. What else an upstream says about the
// origin passes, since the operator chose it: Strict-Transport-Security, Report-To,
// Refresh, Service-Worker-Allowed.
//
// # What it promises
//
// Bodies are streamed both ways and flushed as they come; nothing is buffered
// whole. A request is sent once; only one that is safe (GET, HEAD, OPTIONS) and
// without a body, or of which nothing was written, is sent again when a kept
// connection turns out to be closed, or, the former, when an upstream gives it back
// over HTTP/2. An Idempotency-Key changes nothing about that. A client that goes away cancels the request to the upstream. An upstream
// that breaks off within its answer breaks off the answer
// (http.ErrAbortHandler). One that answers before it has read the request is
// heard: the client has 100 ms to get the answer and need not send the rest.
// "Expect: 100-continue" is between the client and the upstream: without the
// latter's 100, or a second of silence, the client is not told to go on.
//
// # How it is sent
//
// To an upstream over plain HTTP/1.1 the handler's goroutine itself speaks, by
// [upstream.Pool.Do]; who listens for the client's going and for the session's
// end begins to when the answer is not there at once. TLS and HTTP/2 are
// net/http's.
//
// # WebSockets
//
// Frames pass byte for byte, whatever extension the two ends have agreed on:
// only headers are looked at (RFC 6455 section 5.2), so that a Close frame of
// the gateway's comes between two frames and never inside one. Both ends get
// the same:
//
//   - 4401 "session ended", when [Call].Ended is closed;
//   - 1001, when the request's context is cancelled;
//   - 1002, when one of them sends what is no frame, which is not passed on.
//
// From then on they have 250 ms: for the frame that is under way, and to answer
// with a Close frame of their own. Then both connections are cut. When one
// breaks off, the other is cut at once.
//
// An end that has sent all, and says so by closing its half of the connection,
// still receives; the other may be silent for 10 s from then on. While nothing
// is wrong there is no deadline for reading: ping is between the two ends. An
// end that doesn't read is waited for, which keeps the other from sending more
// than one buffer (16 KiB) and what the kernel takes; for a minute, then both
// are cut off. An idle WebSocket holds no large buffer.
//
// # Headers set beforehand
//
// Headers that are in the ResponseWriter beforehand go out with the final
// header and not with an informational one. The final header is written by one
// WriteHeader, unless the protocol is switched: then the connection is
// hijacked.
package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/cloakroom/cloakroom/gateway/upstream"
)

var (
	// ErrMethod is the error for a method that is never forwarded: CONNECT,
	// and TRACE, which would show the bearer to the browser. The answer is 405.
	ErrMethod = errors.New("method is not forwarded")
	// ErrRequestBody is the error for a request whose body could not be read
	// to its end: broken framing, or a limit (errors.As finds an
	// *http.MaxBytesError). The answer is 400, or 413.
	ErrRequestBody = errors.New("request body broke off")
	// ErrUnreachable is the error for an upstream that gave no usable answer.
	// The answer is 502.
	ErrUnreachable = errors.New("upstream gave no answer")
	// ErrTimeout is the error for an upstream that was silent for longer than
	// the route allows. The answer is 504.
	ErrTimeout = errors.New("upstream did not answer in time")
	// ErrEnded is the error for a request whose [Call] had Ended before it was
	// answered. The answer is 401.
	ErrEnded = errors.New("ended by the gateway")
)

// DefaultTimeout is a [Config]'s Timeout where it is zero.
const DefaultTimeout = 30 * time.Second

// Config is a route's way to its upstream.
type Config struct {
	// Target is the upstream: http or https, a host, and maybe a base path that
	// is put before every request's.
	Target *url.URL
	// StripPrefix is taken off the request's path, see [StripPrefix].
	StripPrefix string
	// Timeout is how long the upstream may take for its response header,
	// counted anew with every part of the request body that the client sends.
	// A response that has begun may last; a stream has no deadline here. Zero
	// means [DefaultTimeout].
	Timeout time.Duration
	// PublicScheme is what X-Forwarded-Proto says: the scheme of the app's
	// origin. Empty means that of the connection, which behind a proxy that
	// ends TLS is "http".
	PublicScheme string
	// TrustedProxies are the peers whose X-Forwarded-For is continued instead
	// of replaced. None by default.
	TrustedProxies []netip.Prefix
	// OwnCookies reports whether a cookie is the gateway's, and so hidden from
	// the upstream and not for it to set. It is asked about each name as it
	// stands, and about the same in lower case without its prefixes
	// ("cloakroom" for "__Host-Http-Cloakroom"), and should know both. Nil: the
	// gateway has none.
	OwnCookies func(name string) bool
	// IdentityHeaders are names by which the route's upstream is told of the
	// caller ([Call.Headers]). They are taken out of requests in every spelling
	// that differs by case or by what stands between letters and digits, and out of
	// responses.
	IdentityHeaders []string
	// Transport carries the requests. An [upstream.Pool] has its own addresses,
	// whatever host Target names, and over plain HTTP/1.1 is spoken to directly.
	// With any other one, WebSockets need one that is, or wraps, an
	// http.Transport: the tunnel needs the connection that httptrace tells of.
	// Nil makes a pool of Target.
	Transport http.RoundTripper
	// Log is told of answers that broke off, and of WebSockets whose frames
	// are malformed. Nil: nothing is logged.
	Log *slog.Logger
}

// Bearer is an access token. It prints as "[redacted]".
type Bearer string

const redacted = "[redacted]"

func (Bearer) String() string       { return redacted }
func (Bearer) GoString() string     { return redacted }
func (Bearer) LogValue() slog.Value { return slog.StringValue(redacted) }

// Call is what the gateway decided about one request.
type Call struct {
	// Path is the request's [CanonicalPath].
	Path string
	// Bearer is for the upstream's Authorization; empty means none.
	Bearer Bearer
	// Headers are set beside those of the request, once all of these names are
	// out. Their names must be among [Config.IdentityHeaders]; one whose value
	// can't stand in a header (RFC 9110 section 5.5) is left out.
	Headers []Header
	// Traceparent is for the upstream; empty means [Traceparent] of the request.
	Traceparent string
	// Private tells that the request's cookie, and nothing that caches know of, says
	// whose the answer is: none of them may share it, unless the upstream says so.
	Private bool
	// FixedMethod tells that the route is for some methods alone: headers by which
	// some upstreams would take the request for one of another method are taken
	// out.
	FixedMethod bool
	// Ended is closed when the session that the call is made for has ended.
	// If it is closed already, nothing is sent. A request that is not answered
	// yet is cancelled, and its error is [ErrEnded]; an answer under way is cut;
	// a WebSocket is closed with 4401. Nil: it never ends.
	Ended <-chan struct{}
}

// Header is one field of a header.
type Header struct{ Name, Value string }

// Proxy forwards requests to one upstream. It is immutable and safe for
// concurrent use.
type Proxy struct {
	cfg    Config
	base   string         // canonical, without its trailing slash
	pool   *upstream.Pool // nil: requests go through Transport
	filter filter
}

// New returns the proxy of one route. An unusable Target or StripPrefix is an
// error.
func New(cfg Config) (*Proxy, error) {
	p := &Proxy{cfg: cfg}
	t := cfg.Target
	switch {
	case t == nil || t.Scheme != "http" && t.Scheme != "https" || t.Host == "" || t.Opaque != "":
		return nil, errors.New("upstream: want http(s)://host[:port][/path]")
	case t.User != nil || t.RawQuery != "" || t.ForceQuery || t.Fragment != "":
		return nil, errors.New("upstream: no user, query or fragment, please")
	}
	if path := t.EscapedPath(); path != "" {
		base, err := CanonicalPath(path)
		if err != nil {
			return nil, fmt.Errorf("upstream: path: %w", err)
		}
		p.base = strings.TrimSuffix(base, "/")
	}
	if cfg.StripPrefix != "" {
		if c, err := CanonicalPath(cfg.StripPrefix); err != nil || c != cfg.StripPrefix {
			return nil, fmt.Errorf("strip prefix %q is not a canonical path", cfg.StripPrefix)
		}
	}
	p.filter.own = cfg.OwnCookies
	for _, name := range cfg.IdentityHeaders {
		var buf foldBuffer
		p.filter.identity = append(p.filter.identity, string(foldHeader(&buf, name)))
	}
	if p.cfg.Timeout <= 0 {
		p.cfg.Timeout = DefaultTimeout
	}
	if p.cfg.Transport == nil {
		pool, err := upstream.New(upstream.Options{Targets: []*url.URL{t}, Log: cfg.Log})
		if err != nil {
			return nil, err
		}
		p.cfg.Transport = pool
	}
	if pool, ok := p.cfg.Transport.(*upstream.Pool); ok && pool.Direct() {
		p.pool = pool
	}
	return p, nil
}

// Forward sends r to the upstream and its answer to w. An error means that no
// final header has been written, so the caller can still answer: it wraps
// [ErrUnreachable], [ErrTimeout], [ErrRequestBody], [ErrEnded] or [ErrMethod],
// or is the request's context's (context.Canceled: the client is gone). Its text
// is for logs, not for the client.
//
// When r's context is cancelled later, the response breaks off; a WebSocket is
// closed with 1001, which is how a server that shuts down takes leave of those
// that http.Server.Shutdown doesn't know any more. Forward returns when a
// WebSocket is over and both its connections are closed. It panics with
// http.ErrAbortHandler when an answer that has begun can't be finished.
func (p *Proxy) Forward(w http.ResponseWriter, r *http.Request, c Call) error {
	if r.Method == http.MethodConnect || r.Method == http.MethodTrace {
		return ErrMethod
	}
	if isClosed(c.Ended) {
		return ErrEnded
	}
	if !printable(r.Header["Upgrade"]) {
		return fmt.Errorf("%w: no protocol can be called that", ErrUnreachable)
	}
	x := exchanges.Get().(*exchange)
	x.proxy, x.call, x.in, x.w, x.upgrade = p, c, r, w, IsWebSocket(r)
	if r.ProtoMajor == 1 && r.Body != http.NoBody {
		// Or net/http would swallow what is left of the request before it lets
		// the response's header go. A writer that can't, can't.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	if p.pool == nil {
		return x.forwardRelayed()
	}
	err := x.forwardDirect(p.pool)
	x.recycle()
	return err
}
