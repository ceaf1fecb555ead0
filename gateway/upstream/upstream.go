// Package upstream keeps the connections to one upstream, at one or several
// addresses, and knows neither sessions nor routes.
//
//	pool, err := upstream.New(upstream.Options{Targets: addresses})
//	res, err := pool.RoundTrip(r) // to the better of two addresses
//
// # Two ways
//
// Plain HTTP/1.1 has a client of its own, [Pool.Do], which runs on its caller's
// goroutine: net/http's has two for each connection, and each hand-over costs
// more than all that is done with the header. It is strict where two readers
// could read an answer in two ways, since the end of one answer is the beginning
// of the next user's: Content-Length twice or beside Transfer-Encoding, any
// coding but chunked, lines that end in a bare LF, folded lines, control
// characters, more than a little beside the data of chunks are errors. A
// connection is kept only if both messages have ended where their framing says
// and nothing is left on it, and used again only if nothing has come since. Nor is
// one kept whose answer began before its request had ended: upstreams that don't read
// the rest of a request take it for another; or whose answer has no body, to HEAD for
// one, and yet names it: it may come later, and be taken for the next answer. An
// upstream that says how long it keeps a connection (Keep-Alive: timeout=5) is believed,
// but for a second: what can't be sent twice would be lost on one that it closes.
//
// TLS and HTTP/2 are net/http's business: [Pool.RoundTrip]. It is held to the same
// in what may be the next user's: how often a request is sent, also over HTTP/2, and
// over which connection of HTTP/1.1.
//
// # Addresses
//
// Of two addresses drawn at random, the one with fewer requests under way gets
// the next. One that can't be connected to, or that resets or lets run out
// three requests in a row, is left out for a second, then two, four, up to 30;
// never the last one. Then one request goes there, and the others once that is
// answered. Over HTTP/2, where all requests share a connection, one on which
// nothing has come since a request that ran out was sent, nor does for a while longer,
// is closed. A connection that can't be opened, or that TLS can't be agreed
// on, costs nobody an answer while another address is left: nothing was sent, so any
// request may go there.
package upstream

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// Protocols of [Options].
const (
	protocolHTTP1 = "http1"
	protocolH2C   = "h2c"
)

// Options say where an upstream is and how it is spoken to.
type Options struct {
	// Targets are the upstream's addresses: http or https, the same for all,
	// and a host each. Paths are not looked at.
	Targets []*url.URL
	// Protocol is "" for HTTP/1.1, and HTTP/2 where TLS agrees on it; "http1"
	// for HTTP/1.1 alone; "h2c" for HTTP/2 without TLS.
	Protocol string
	// TLS holds roots, client certificates, a server's name. Nil: the system's
	// roots and TLS 1.2 or newer.
	TLS *tls.Config
	// MaxConns is how many connections one address may have: a request that
	// finds them all busy waits. 0: no limit.
	MaxConns int
	// MaxIdleConns is how many unused connections to one address are kept.
	// 0: 256.
	MaxIdleConns int
	// DialTimeout bounds the connection and, once more, the TLS handshake.
	// 0: 5 s.
	DialTimeout time.Duration
	// IdleTimeout is how long an unused connection is kept. 0: 60 s.
	IdleTimeout time.Duration
	// Log is told of addresses that are left out and come back. Nil: nothing
	// is logged.
	Log *slog.Logger
	// Metrics is made once for all pools of a process; nil: none.
	Metrics *Metrics
}

// Pool is the way to one upstream. It is safe for concurrent use.
type Pool struct {
	o         Options
	addresses []*address
}

// New returns a pool. Unusable options are an error; nothing is connected to
// before the first request.
func New(o Options) (*Pool, error) {
	if len(o.Targets) == 0 {
		return nil, errors.New("upstream: no address")
	}
	scheme := ""
	for _, t := range o.Targets {
		switch {
		case t == nil || t.Scheme != "http" && t.Scheme != "https" || t.Hostname() == "" || t.Opaque != "" || t.User != nil:
			return nil, errors.New("upstream: want http(s)://host[:port]")
		case scheme != "" && t.Scheme != scheme:
			return nil, errors.New("upstream: http and https addresses are mixed")
		}
		scheme = t.Scheme
	}
	switch {
	case o.Protocol != "" && o.Protocol != protocolHTTP1 && o.Protocol != protocolH2C:
		return nil, errors.New("upstream: the protocol is \"\", http1 or h2c")
	case o.Protocol == protocolH2C && scheme == "https":
		return nil, errors.New("upstream: h2c is HTTP/2 without TLS")
	}
	if o.MaxIdleConns <= 0 {
		o.MaxIdleConns = 256
	}
	if o.DialTimeout <= 0 {
		o.DialTimeout = 5 * time.Second
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = 60 * time.Second
	}
	p := &Pool{o: o}
	for _, t := range o.Targets {
		p.addresses = append(p.addresses, newAddress(&p.o, t))
	}
	return p, nil
}

// Direct reports whether [Pool.Do] may be used: over plain HTTP/1.1.
func (p *Pool) Direct() bool {
	return p.o.Targets[0].Scheme == "http" && p.o.Protocol != protocolH2C
}

// RoundTrip sends r to one of the addresses, whatever host its URL names, with
// that address as its Host unless r has its own. See [http.RoundTripper]. If r's
// context ends by cause of [ErrTimeout], and the upstream alone was waited for, that
// counts as the address's failure.
func (p *Pool) RoundTrip(r *http.Request) (*http.Response, error) {
	return p.roundTrip(r)
}

// Close closes the connections that are idle, and each other one when its
// request is over. The pool may still be used, without keeping connections.
func (p *Pool) Close() {
	for _, a := range p.addresses {
		a.close()
	}
}
