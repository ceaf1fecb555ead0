package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"github.com/cloakroom/cloakroom/gateway/upstream"
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

// printable keeps out of reach what folds to ASCII in one place and not in
// another.
func printable(lines []string) bool {
	for _, line := range lines {
		for i := range len(line) {
			if line[i] < ' ' || line[i] > '~' {
				return false
			}
		}
	}
	return true
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

var errSwitch = errors.New("switched to another protocol")

// switchDirect takes over a connection of the upstream's for a WebSocket.
func (x *exchange) switchDirect() error {
	head := make(http.Header)
	for _, f := range x.direct.Head.Fields {
		head[f.Name] = append(head[f.Name], f.Value)
	}
	if !namesWebSocket(head) {
		return x.verdict(errSwitch)
	}
	conn, early := x.direct.Hijack()
	up := side{Conn: conn, received: conn}
	if len(early) > 0 {
		up.received = io.MultiReader(bytes.NewReader(early), conn)
	}
	return x.tunnel(up, x.direct.Head.Fields)
}

// switchRelayed does the same with a connection that net/http gives up. Any
// other switch is an error, and so is one that nobody asked for. The response's
// body is the connection, but has no deadlines.
func (x *exchange) switchRelayed(res *http.Response, fields []upstream.Field) error {
	body, ok := res.Body.(io.ReadWriteCloser)
	switch {
	case !x.upgrade:
		return x.verdict(errors.New("switched protocols unasked"))
	case !namesWebSocket(res.Header):
		return x.verdict(errSwitch)
	case !ok || x.conn == nil:
		return x.verdict(errors.New("the transport keeps its connection"))
	}
	return x.tunnel(side{Conn: x.conn, received: body}, fields)
}

// tunnel takes over the client's side, answers with the upstream's header and
// runs the WebSocket to its end. An error means that nothing was answered.
func (x *exchange) tunnel(up side, fields []upstream.Field) error {
	if !x.hold(phaseTunnel) {
		up.cut()
		return ErrEnded
	}
	conn, rw, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		up.cut()
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
	head := make(http.Header)
	x.incoming(head, fields)
	if err := x.answer101(conn, head); err != nil {
		client.cut()
		up.cut()
		return nil
	}
	t := newTunnel(client, up, len(head["Sec-Websocket-Extensions"]) > 0)
	// Nothing waits for the exchange any more, watch neither; and it is to hold
	// nothing for as long as this lasts.
	x.unwatchAll()
	if x.cancel != nil {
		x.cancel(nil)
	}
	ctx, ended, log := x.in.Context(), x.call.Ended, x.proxy.cfg.Log
	x.call, x.conn, x.direct.Fields, x.direct.Head = Call{}, nil, nil, upstream.Head{}
	if err := t.run(ctx, ended); err != nil && log != nil {
		log.LogAttrs(ctx, slog.LevelWarn, "websocket closed", slog.Any("err", err))
	}
	return nil
}

// answer101 writes the header of the client's 101: the upstream's, after what
// the caller has put into its own.
func (x *exchange) answer101(conn net.Conn, head http.Header) error {
	// About a body, which a 101 has not (RFC 9110 section 8.6).
	delete(head, "Content-Length")
	h := x.w.Header()
	for name, lines := range head {
		h[name] = append(h[name], lines...)
	}
	h["Connection"] = []string{"Upgrade"}
	h["Upgrade"] = []string{"websocket"}
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
