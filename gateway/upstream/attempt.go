package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptrace"
	"runtime"
	"sync/atomic"
	"time"
)

// errGivenBack is the error for a request that the upstream says to have done nothing
// with, over HTTP/2.
var errGivenBack = errors.New("refused by the upstream, and not to be sent again")

// attempt is one RoundTrip of net/http's, as its hooks tell: it may take several
// connections to it.
type attempt struct {
	h2c    bool
	method string
	safe   bool // it may be sent once more
	body   *keptOpen
	cancel func() // the request

	// Of RoundTrip's goroutine.
	wanted bool      // a connection: nothing was wrong with the request
	got    bool      // one
	http2  bool      // which speaks that
	spent  bool      // it was sent as often as it may be
	conn   *observed // that one
	reads  uint64    // what had come on it by then
	unsent bool      // it was closed before it was used
	old    bool      // for it had been idle for too long

	dialing atomic.Bool  // a connection is opened for it
	sent    atomic.Int32 // how often, over HTTP/2
}

// trace tells y alone.
func (y *attempt) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn:      func(string) { y.wanted = true },
		ConnectStart: func(string, string) { y.dialing.Store(true) },
		GotConn:      y.gotConn,
		WroteHeaders: func() { y.sent.Add(1) },
	}
}

// gotConn comes before the request is sent, and before each time that it is sent
// again. Over HTTP/1.1 net/http keeps to what [Pool.Do] keeps to. Over HTTP/2 it
// sends what has no body up to eight times, when the stream is reset by
// REFUSED_STREAM or by PROTOCOL_ERROR, or the connection goes away: it takes the
// upstream's word that it did nothing, and in the second case not even that. A
// request that is cancelled here is not sent.
func (y *attempt) gotConn(info httptrace.GotConnInfo) {
	most := int32(0)
	if y.safe {
		most = 1
	}
	if y.http2 && y.sent.Load() > most {
		y.spent = true
		y.cancel()
	}
	y.got = true
	under := info.Conn
	c, ok := under.(*tls.Conn)
	if ok {
		under = c.NetConn()
	}
	if y.conn, _ = under.(*observed); y.conn != nil {
		y.reads = y.conn.reads.Load()
	}
	if y.h2c || ok && c.ConnectionState().NegotiatedProtocol == "h2" {
		y.http2 = true
		return
	}
	y.unsent = false
	switch {
	case y.spent:
		info.Conn.Close()
	case info.Reused && y.conn != nil:
		if idleFor := time.Duration(y.conn.idleFor.Load()); idleFor > 0 && info.IdleTime >= idleFor {
			y.old = true
			y.conn.last.Store(true)
		}
		y.unsent = !y.conn.settle()
	}
	if y.unsent && y.body != nil {
		y.body.locked.Store(true)
	}
	if y.method == http.MethodHead && y.conn != nil && !y.unsent {
		y.conn.last.Store(true) // net/http offers it again before it tells of the answer
	}
}

// late reports whether the time has run out, and by nobody's fault but the upstream's.
func (y *attempt) late(ctx context.Context) bool {
	switch {
	case context.Cause(ctx) != ErrTimeout:
		return false
	case !y.got:
		return y.dialing.Load() // or it has waited for others' connections
	case y.body != nil && !y.body.ended.Load():
		return false
	}
	return true
}

// doubt doubts a connection of HTTP/2 on which nothing has come since the request was
// sent.
func (y *attempt) doubt() {
	if y.http2 && y.conn != nil && y.conn.reads.Load() == y.reads {
		y.conn.doubt()
	}
}

// last reports whether an answer over HTTP/1.1 is to be the last of its connection,
// though net/http would use it again: the answer has begun before its request had
// ended, or it has no body and one may follow. See [Exchange].
func (y *attempt) last(res *http.Response) bool {
	switch {
	case y.conn == nil || y.http2 || res.StatusCode == http.StatusSwitchingProtocols:
		return false
	case y.body != nil && !y.body.ended.Load():
		return true
	case y.method == http.MethodHead:
		return true // see gotConn
	case res.StatusCode == http.StatusNoContent || res.StatusCode == http.StatusNotModified:
		length := int64(-1)
		if lines := res.Header["Content-Length"]; len(lines) > 0 {
			var err error
			if length, err = parseLength(lines[0]); err != nil {
				return true
			}
		}
		return mayFollow(y.method, len(res.TransferEncoding) > 0, length)
	}
	return false
}

// safe reports whether a request of this method may be sent twice (RFC 9110 section
// 9.2.1).
func safe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// settle keeps what an upstream has sent beyond one answer from being the
// next user's. net/http offers an HTTP/1.1 connection for use again, and only
// then looks whether something is left in its buffers: who takes it in between is
// answered with that. Once it waits for more, there is nothing left; if there is
// something, it closes the connection, and the request goes over another. False
// means that it is closed already.
func (c *observed) settle() bool {
	if c.last.Load() {
		c.Close()
	}
	for end := time.Now().Add(settleTimeout); !c.closed.Load(); runtime.Gosched() {
		if c.waiting.Load() {
			return true
		}
		if time.Now().After(end) {
			c.Close() // better no answer than another's
		}
	}
	return false
}

// settleTimeout is far above what it takes net/http to look into a buffer.
const settleTimeout = time.Second
