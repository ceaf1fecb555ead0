package model

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"testing"
	"time"
)

// conn speaks to Redis beside the store: it puts a state there and reads what a
// script has left, several commands a round trip.
type conn struct {
	t testing.TB
	c net.Conn
	r *bufio.Reader
	w []byte
	n int // commands that wait for their answers
}

func dial(t testing.TB, network, address string) *conn {
	t.Helper()
	c, err := net.DialTimeout(network, address, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &conn{t: t, c: c, r: bufio.NewReader(c)}
}

// command queues one.
func (c *conn) command(args ...string) {
	c.w = fmt.Appendf(c.w, "*%d\r\n", len(args))
	for _, a := range args {
		c.w = fmt.Appendf(c.w, "$%d\r\n%s\r\n", len(a), a)
	}
	c.n++
}

// flush sends what is queued and returns the answers: numbers as text, nil as "".
func (c *conn) flush() []string {
	c.c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.c.Write(c.w); err != nil {
		c.t.Fatal(err)
	}
	answers := make([]string, c.n)
	for i := range answers {
		answers[i] = c.answer()
	}
	c.w, c.n = c.w[:0], 0
	return answers
}

func (c *conn) answer() string {
	line, err := c.r.ReadString('\n')
	if err != nil || len(line) < 3 {
		c.t.Fatalf("redis: %q, %v", line, err)
	}
	line = line[:len(line)-2]
	switch line[0] {
	case '+', ':':
		return line[1:]
	case '$':
		n, err := strconv.Atoi(line[1:])
		if err != nil {
			c.t.Fatal(err)
		}
		if n < 0 {
			return ""
		}
		b := make([]byte, n+2)
		if _, err := io.ReadFull(c.r, b); err != nil {
			c.t.Fatal(err)
		}
		return string(b[:n])
	}
	c.t.Fatalf("redis: %s", line)
	return ""
}
