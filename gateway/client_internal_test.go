package gateway

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestQ20FullConnection: who sends one request after the other, and reads no answer,
// is given up, however small the answers are: the first that finds no room in the
// kernel's buffers may be any, and its handler may have returned.
func TestQ20FullConnection(t *testing.T) {
	for name, size := range map[string]int{"small": 100, "of more than net/http's buffers": 30 << 10} {
		t.Run(name, func(t *testing.T) {
			g := bare()
			g.served.Store(&served{})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			body, closed := strings.Repeat("x", size), make(chan struct{})
			s := &http.Server{
				ConnState: func(c net.Conn, state http.ConnState) {
					ConnState(c, state)
					if state == http.StateClosed {
						close(closed)
					}
				},
				Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }),
			}
			ended := make(chan error)
			go func() { ended <- s.Serve(&listener{l, g, 100 * time.Millisecond}) }()
			defer func() { s.Close(); <-ended }()

			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				requests := strings.Repeat("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n", 1000)
				for {
					if _, err := io.WriteString(conn, requests); err != nil {
						return
					}
				}
			}()
			defer func() { conn.Close(); <-sent }()
			select {
			case <-closed:
			case <-time.After(10 * time.Second):
				t.Error("it is waited for")
			}
		})
	}
}

// TestTaker: before each write there is as much time as there must be, and no more
// than a quarter above it; and what others set holds where it is earlier.
func TestTaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c lastDeadline
		k := taker{conn: &c, while: time.Minute}
		left := func() time.Duration { return time.Until(c.at) }
		for range 200 {
			k.give()
			if d := left(); d < time.Minute || d > 75*time.Second {
				t.Fatalf("%v are given", d)
			}
			time.Sleep(7 * time.Second)
		}
		if c.set > 80 {
			t.Errorf("set %d times", c.set)
		}
		by := time.Now().Add(20 * time.Second)
		_ = k.ask(by)
		time.Sleep(15 * time.Second)
		if k.give(); !c.at.Equal(by) {
			t.Errorf("%v instead of what was asked for", left())
		}
		_ = k.ask(time.Time{})
		if d := left(); d < time.Minute {
			t.Errorf("%v are left of what was given", d)
		}
		k.take()
		if !c.at.IsZero() {
			t.Errorf("%v are left", left())
		}
		_ = k.ask(by)
		if k.take(); !c.at.Equal(by) {
			t.Error("another's deadline is gone")
		}
		_ = k.ask(time.Time{})
		if k.give(); left() < time.Minute {
			t.Errorf("%v are given to one who had none", left())
		}
	})
}

type lastDeadline struct {
	at  time.Time
	set int
}

func (l *lastDeadline) SetWriteDeadline(t time.Time) error { l.at, l.set = t, l.set+1; return nil }
