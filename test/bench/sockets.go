package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"
)

// idleSockets opens n WebSockets through c and leaves them idle.
func (w *world) idleSockets(ctx context.Context, c *contender, n int) (open []net.Conn, err error) {
	p, err := w.start("sockets", filepath.Join(w.dir, "bare"), "-mode", "sockets", "-listen", w.sockets)
	if err != nil {
		return nil, err
	}
	if err := p.ready(ctx, w.sockets, ""); err != nil {
		return nil, err
	}
	for i := range n {
		conn, err := net.DialTimeout("tcp", c.address, patience)
		if err != nil {
			return open, err
		}
		open = append(open, conn)
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, err = fmt.Fprintf(conn, "GET /ws/ HTTP/1.1\r\nHost: %s\r\nOrigin: https://%s\r\nCookie: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", relayHost, relayHost, c.cookies[i%len(c.cookies)])
		if err != nil {
			return open, err
		}
		in := bufio.NewReader(conn)
		for first := true; ; first = false {
			line, err := in.ReadString('\n')
			if err != nil {
				return open, err
			}
			if first && !strings.HasPrefix(line, "HTTP/1.1 101 ") {
				return open, fmt.Errorf("no WebSocket: %s", line)
			}
			if line == "\r\n" {
				break
			}
		}
	}
	time.Sleep(time.Second) // the handshakes' garbage
	return open, nil
}
