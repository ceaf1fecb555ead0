package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"time"
)

// IsWebSocket reports whether r asks for a WebSocket (RFC 6455 section 4.1):
// the only upgrade that is forwarded. A request that asks for others beside it
// is served without any.
func IsWebSocket(r *http.Request) bool {
	return r.Method == http.MethodGet && r.ProtoMajor == 1 && r.ProtoMinor >= 1 && r.ContentLength == 0 && namesWebSocket(r.Header)
}

// namesWebSocket reports whether a header switches to a WebSocket and to
// nothing else.
func namesWebSocket(h http.Header) bool {
	up := h["Upgrade"]
	// The length keeps out what folds to ASCII, as the Kelvin sign does.
	return len(up) == 1 && len(up[0]) == len("websocket") && strings.EqualFold(up[0], "websocket") && hasToken(h["Connection"], "upgrade")
}

func hasToken(lines []string, token string) bool {
	for t := range tokens(lines) {
		if strings.EqualFold(t, token) {
			return true
		}
	}
	return false
}

func tokens(lines []string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, line := range lines {
			for t := range strings.SplitSeq(line, ",") {
				if !yield(textproto.TrimString(t)) {
					return
				}
			}
		}
	}
}

// errSwitched takes a 101 out of ReverseProxy's hands.
var errSwitched = errors.New("switched to a WebSocket")

// switched takes over the upstream's side of a WebSocket. Any other switch is
// an error, and so is one that nobody asked for.
func (x *exchange) switched(res *http.Response) error {
	body, ok := res.Body.(io.ReadWriteCloser)
	switch {
	case !x.upgrade:
		return errors.New("switched protocols unasked")
	case !namesWebSocket(res.Header):
		return errors.New("switched to another protocol")
	case !ok || x.conn == nil:
		return errors.New("the transport keeps its connection")
	}
	x.upstream = &side{Conn: x.conn, received: body}
	x.head = res.Header
	res.Body = http.NoBody // ReverseProxy will close it
	return errSwitched
}

// gotConn notes the connection that carries the request. The transport gives it
// up with a 101: then it is the response's body, but with deadlines.
func (x *exchange) gotConn(info httptrace.GotConnInfo) { x.conn = info.Conn }

// tunnel takes over the client's side, answers with the upstream's header and
// runs the WebSocket to its end. ctx is the server's request's. An error means
// that nothing was answered.
func (x *exchange) tunnel(ctx context.Context) error {
	if !x.hold(phaseTunnel) {
		x.upstream.cut()
		return ErrEnded
	}
	conn, rw, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		x.upstream.cut()
		return fmt.Errorf("%w: the client's connection can't be taken over: %v", ErrUnreachable, err)
	}
	client := side{Conn: conn, received: conn}
	if n := rw.Reader.Buffered(); n > 0 {
		early, _ := rw.Reader.Peek(n)
		client.received = io.MultiReader(bytes.NewReader(early), conn)
	}
	// They are ours now, but the server's conn refers to them until Forward
	// returns. Empty, they don't cost 8 KiB in the meantime.
	*rw.Reader, *rw.Writer = bufio.Reader{}, bufio.Writer{}
	extended := len(x.head["Sec-Websocket-Extensions"]) > 0
	if err := x.answer101(conn); err != nil {
		client.cut()
		x.upstream.cut()
		return nil
	}
	t := newTunnel(client, *x.upstream, extended)
	log := x.proxy.cfg.Log
	x.head, x.upstream, x.conn = nil, nil, nil
	x.cancel(nil) // nothing waits for the exchange any more, watch neither
	if err := t.run(ctx, x.call.Ended); err != nil && log != nil {
		log.LogAttrs(ctx, slog.LevelWarn, "websocket closed", slog.Any("err", err))
	}
	return nil
}

// answer101 writes the header of the client's 101: the upstream's, after what
// the caller has put into its own.
func (x *exchange) answer101(conn net.Conn) error {
	for name := range tokens(x.head["Connection"]) {
		if !strings.EqualFold(name, "upgrade") {
			x.head.Del(name)
		}
	}
	// Hop by hop, or about a body, which a 101 has not (RFC 9110 sections
	// 7.6.1, 8.6).
	for _, name := range [...]string{"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Content-Length"} {
		delete(x.head, name)
	}
	h := x.w.Header()
	for name, lines := range x.head {
		h[name] = append(h[name], lines...)
	}
	h["Connection"] = []string{"Upgrade"}
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	if err := h.Write(&b); err != nil {
		return err
	}
	b.WriteString("\r\n")
	if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := conn.Write(b.Bytes())
	return err
}
