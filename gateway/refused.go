package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/cloakroom/cloakroom/gateway/proxy"
)

// Listener returns l for a server whose ConnState is [ConnState]. A client that takes
// nothing of what is written to it is given up after a minute. And what net/http
// refuses by itself, because it is no HTTP/1.1 or too large a header, is answered,
// logged and counted like every other refusal; on a connection with TLS net/http's
// own words remain, but for a request that came without.
func (g *Gateway) Listener(l net.Listener) net.Listener { return &listener{l, g, stallTimeout} }

// ConnState is for [http.Server]'s field of that name.
func ConnState(c net.Conn, state http.ConnState) {
	if c, ok := c.(*clientConn); ok && state == http.StateIdle { // all of the last answer is written
		c.begins.Store(true)
	}
}

type listener struct {
	net.Listener
	g     *Gateway
	stall time.Duration
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	tcp, ok := c.(*net.TCPConn) // whose ways to let the kernel copy are kept
	if err != nil || !ok {
		return c, err
	}
	out := &clientConn{TCPConn: tcp, g: l.g, taker: taker{conn: tcp, while: l.stall}}
	out.begins.Store(true)
	return out, nil
}

// clientConn is a connection below net/http's server. That has no hook for its own
// refusals; but it writes each at once, and before anything else that answers
// the request.
type clientConn struct {
	*net.TCPConn
	g      *Gateway
	begins atomic.Bool // what is written next begins an answer
	taker  taker
}

// ReadFrom lets the kernel copy, which response watches part by part.
func (c *clientConn) ReadFrom(src io.Reader) (int64, error) {
	c.taker.take()
	return c.TCPConn.ReadFrom(src)
}

func (c *clientConn) SetWriteDeadline(t time.Time) error { return c.taker.ask(t) }

func (c *clientConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.taker.ask(t))
}

func (c *clientConn) Write(p []byte) (int, error) {
	c.taker.give()
	if c.begins.Load() {
		c.begins.Store(false)
		if status := refusedByServer(p); status != 0 {
			_, err := c.TCPConn.Write(c.g.refusal(status, c.RemoteAddr()))
			return len(p), err
		}
	}
	return c.TCPConn.Write(p)
}

const (
	// serverRefusal follows the status line of net/http's own refusals. No answer of
	// a handler's begins so: it has a Date.
	serverRefusal = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
	// notTLS is the beginning of its answer to plain HTTP where TLS is spoken.
	notTLS = "HTTP/1.0 400 Bad Request\r\n\r\n"
)

// refusedByServer returns the status of net/http's own refusal that p is, or 0.
func refusedByServer(p []byte) int {
	const version, longest = "HTTP/1.1 ", 512
	if len(p) > longest || len(p) < len(version)+3 {
		return 0
	}
	if bytes.HasPrefix(p, []byte(notTLS)) {
		return http.StatusBadRequest
	}
	line, _, ok := bytes.Cut(p, []byte(serverRefusal))
	if !ok || !bytes.HasPrefix(line, []byte(version)) || bytes.IndexByte(line, '\n') >= 0 {
		return 0
	}
	status, err := strconv.Atoi(string(line[len(version):][:3]))
	if err != nil || status < 400 {
		return 0
	}
	return status
}

// refusal is our own in its place. Its status may be one that our codes don't
// have: 501 for a transfer coding, 505 for a version of HTTP.
func (g *Gateway) refusal(status int, from net.Addr) []byte {
	c, detail := codeInvalidRequest, "this is no HTTP/1.1 request of one reading"
	if status == http.StatusRequestHeaderFieldsTooLarge {
		c, detail = codeHeadersTooLarge, ""
	}
	doc := problemDocument{
		Type: "urn:cloakroom:" + string(c), Title: codes[c].title, Status: status,
		Detail: detail, Code: c, TraceID: proxy.TraceID(proxy.Traceparent(nil)),
	}
	body, err := json.Marshal(doc)
	if err != nil {
		panic(err) // texts and numbers
	}
	h := make(http.Header)
	hardenOwn(h)
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Connection", "close")
	h.Set("Date", g.now().UTC().Format(http.TimeFormat))
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	_ = h.Write(&b)
	b.WriteString("\r\n")
	b.Write(body)

	g.metrics.refusals.WithLabelValues(string(c)).Inc()
	g.log.LogAttrs(context.Background(), slog.LevelInfo, "refused",
		slog.Bool("audit", true), slog.String("trace_id", doc.TraceID), slog.String("endpoint", endpointNone.String()),
		slog.String("address", g.address(&http.Request{RemoteAddr: from.String()})),
		slog.Int("status", status), slog.String("code", string(c)))
	return b.Bytes()
}
