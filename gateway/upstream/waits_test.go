package upstream

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// In these tests time is synctest's, and a connection is a pipe.

// quietConn stands in for a socket that nothing has come on.
type quietConn struct{ syscall.RawConn }

func (quietConn) Control(f func(uintptr)) error { f(0); return nil }

// piped gives a new pool an idle connection, and runs serve at its other end for
// each request, whose head was read.
func piped(t *testing.T, serve func(head string, c net.Conn, br *bufio.Reader)) *Pool {
	t.Helper()
	p, err := New(Options{Targets: []*url.URL{{Scheme: "http", Host: "u.test"}}})
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	c := &conn{Conn: ours, a: p.addresses[0], raw: quietConn{}}
	c.look = func(uintptr) { c.quiet = true }
	p.addresses[0].keep(c)
	go func() {
		defer theirs.Close()
		for br := bufio.NewReader(theirs); ; {
			var head strings.Builder
			for line := ""; line != "\r\n"; head.WriteString(line) {
				if line, err = br.ReadString('\n'); err != nil {
					return
				}
			}
			serve(head.String(), theirs, br)
		}
	}()
	return p
}

func (p *Pool) idle() int {
	a := p.addresses[0]
	a.idleMu.Lock()
	defer a.idleMu.Unlock()
	return len(a.idle)
}

// An answer that takes longer than the deadline that is there to look up, and a
// body that takes longer than the header may.
func TestSlowAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := piped(t, func(_ string, c net.Conn, _ *bufio.Reader) {
			for _, part := range []string{"HTTP/1.1 200 ", "OK\r\nContent-Le", "ngth: 4\r\n\r\na", "b", "c", "d"} {
				time.Sleep(2 * lookAfter)
				io.WriteString(c, part)
			}
		})
		defer p.Close()
		for range 2 {
			slow := 0
			if got, err := get(p, &Exchange{Timeout: 7 * lookAfter, Caller: &call{slow: func() { slow++ }}}); got != "abcd" || err != nil || slow != 1 {
				t.Errorf("body %q, %v, slow %d times", got, err, slow)
			}
		}
		if n := p.idle(); n != 1 {
			t.Errorf("%d idle connections; want the one", n)
		}
	})
}

// The header's time runs out when it should: not with each part of it, nor with an
// informational answer, but from the last part of the request's body on.
func TestHeaderIsDue(t *testing.T) {
	const timeout = time.Second
	for _, tt := range []struct {
		name string
		body io.Reader
		want time.Duration
	}{
		{"no body", nil, timeout},
		{"a body at once", strings.NewReader("body"), timeout},
		{"a body in parts", &drip{left: 4, each: timeout * 3 / 4}, 3*timeout + timeout},
		{"a body that pauses for too long", &drip{left: 4, each: timeout * 5 / 4}, timeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := piped(t, func(_ string, c net.Conn, br *bufio.Reader) {
					over := make(chan struct{})
					go func() {
						defer close(over)
						io.Copy(io.Discard, br)
					}()
					for range 5 {
						io.WriteString(c, "HTTP/1.1 103 X\r\n\r\n")
						time.Sleep(timeout / 4)
					}
					<-over
				})
				defer p.Close()
				began := time.Now()
				x := &Exchange{Method: "POST", Body: tt.body, Length: 4, Timeout: timeout}
				if d, ok := tt.body.(*drip); ok {
					d.stop = make(chan struct{})
					x.Caller = &call{unblock: func() { close(d.stop) }}
				}
				if _, err := get(p, x); err != ErrTimeout || time.Since(began) != tt.want {
					t.Errorf("%v after %v; want ErrTimeout after %v", err, time.Since(began), tt.want)
				}
				time.Sleep(timeout) // the server's last pause
			})
		})
	}
}

// drip is a body that comes byte by byte.
type drip struct {
	left int
	each time.Duration
	stop chan struct{}
}

func (d *drip) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(d.each):
		d.left--
		return copy(p, "x"), nil
	case <-d.stop:
		return 0, errors.New("stopped")
	}
}

// asked is a body that knows when it was first read.
type asked struct {
	io.Reader
	at time.Time
}

func (a *asked) Read(p []byte) (int, error) {
	if a.at.IsZero() {
		a.at = time.Now()
	}
	return a.Reader.Read(p)
}

// A body that waits for a 100 goes when that comes, or when nothing does for a
// second, and never if the answer has come instead: who doesn't want it would take
// it for another request.
func TestExpect(t *testing.T) {
	const never = -1
	for _, tt := range []struct {
		name   string
		answer func(c net.Conn, body func())
		sent   time.Duration // after the request
		kept   int
	}{
		{"a 100", func(c net.Conn, body func()) {
			time.Sleep(time.Millisecond)
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			body()
			io.WriteString(c, answerOK)
		}, time.Millisecond, 1},
		{"two of them", func(c net.Conn, body func()) {
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
			body()
			io.WriteString(c, answerOK)
		}, 0, 1},
		{"nothing", func(c net.Conn, body func()) {
			body()
			io.WriteString(c, answerOK)
		}, continueTimeout, 1},
		{"early hints", func(c net.Conn, body func()) {
			io.WriteString(c, "HTTP/1.1 103 X\r\n\r\n")
			body()
			io.WriteString(c, answerOK)
		}, continueTimeout, 1},
		{"the answer", func(c net.Conn, _ func()) {
			io.WriteString(c, answerOK)
		}, never, 0},
		{"an answer that lasts", func(c net.Conn, _ func()) {
			io.WriteString(c, ok11+"Content-Length: 2\r\n\r\n")
			time.Sleep(5 * continueTimeout)
			io.WriteString(c, "ok")
		}, never, 0},
		{"the answer, and a 100 in it", func(c net.Conn, _ func()) {
			io.WriteString(c, ok11+"Content-Length: 25\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
		}, never, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := piped(t, func(_ string, c net.Conn, br *bufio.Reader) {
					tt.answer(c, func() { br.Discard(4) })
				})
				defer p.Close()
				began := time.Now()
				body := &asked{Reader: strings.NewReader("body")}
				if _, err := get(p, &Exchange{Method: "POST", Body: body, Length: 4, Expect: true}); err != nil {
					t.Fatal(err)
				}
				switch sent := body.at.Sub(began); {
				case body.at.IsZero():
					if tt.sent != never {
						t.Error("the body was not sent")
					}
				case sent != tt.sent:
					t.Errorf("the body was sent after %v; want %v", sent, tt.sent)
				}
				if n := p.idle(); n != tt.kept {
					t.Errorf("%d idle connections; want %d", n, tt.kept)
				}
			})
		})
	}
}

// An answer that begins before its request has ended costs the connection, even if
// the rest of the request is sent after all.
func TestEarlyAnswer(t *testing.T) {
	for name, early := range map[string]bool{"before": true, "after": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := piped(t, func(_ string, c net.Conn, br *bufio.Reader) {
					if !early {
						br.Discard(4)
					}
					io.WriteString(c, ok11+"Content-Length: 2\r\n\r\no")
					if early {
						br.Discard(4)
					}
					time.Sleep(time.Second)
					io.WriteString(c, "k")
				})
				defer p.Close()
				body := &drip{left: 4, each: time.Second, stop: make(chan struct{})}
				if got, err := get(p, &Exchange{Method: "POST", Body: body, Length: 4}); got != "ok" || err != nil {
					t.Errorf("%q, %v", got, err)
				}
				if kept := p.idle() == 1; kept == early {
					t.Errorf("kept: %v", kept)
				}
			})
		})
	}
}
