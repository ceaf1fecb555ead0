package upstream

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"
)

// With net/http's client, too, who lets requests run out is left out, and for nobody
// else's fault.
func TestRequestsThatRunOut(t *testing.T) {
	for _, tt := range []struct {
		name   string
		cause  error
		body   io.Reader
		fails  int
		opened bool
	}{
		{"in time", ErrTimeout, nil, 1, true},
		{"with a body", ErrTimeout, http.NoBody, 1, true},
		{"the client goes", nil, nil, 0, true},
		{"the client doesn't send the rest", ErrTimeout, over{}, 0, true},
		{"all connections are busy", ErrTimeout, nil, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			arrived := make(chan struct{}, 1)
			s := serve(t, func(_ *server, _, _ int, _ string, _ net.Conn, br *bufio.Reader) bool {
				arrived <- struct{}{}
				io.Copy(io.Discard, br)
				return false
			})
			p := newPool(t, Options{MaxConns: 1}, s.addr)
			send := func(body io.Reader) (cancel context.CancelCauseFunc, over chan error) {
				ctx, cancel := context.WithCancelCause(t.Context())
				over = make(chan error, 1)
				r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://u/", body)
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					_, err := p.RoundTrip(r)
					over <- err
				}()
				return cancel, over
			}
			if !tt.opened {
				cancel, first := send(nil)
				defer func() { cancel(nil); <-first }()
				<-arrived
			}
			body, unblock := tt.body, func() {}
			if _, ok := body.(over); ok {
				pr, pw := io.Pipe()
				body, unblock = pr, func() { pw.CloseWithError(io.ErrClosedPipe) }
			}
			cancel, over := send(body)
			if tt.opened {
				<-arrived
			}
			cancel(tt.cause)
			unblock() // as a proxy would
			if err := <-over; err == nil {
				t.Error("answered")
			}
			if n := p.addresses[0].fails; n != tt.fails {
				t.Errorf("%d failures; want %d", n, tt.fails)
			}
		})
	}
}

// Over HTTP/2 all requests share a connection. One whose other end is gone without a
// word is closed, and the next request goes over another.
func TestDeadConnectionOfHTTP2(t *testing.T) {
	silent := make(chan struct{})
	at, requests := serveH2C(t, func(n int64, stream uint32, c net.Conn) bool {
		if n == 2 {
			close(silent)
			<-t.Context().Done() // reads no more, a PING neither
			return false
		}
		c.Write(frame(frameHeaders, flagEndHeaders|flagEndStream, stream, []byte{0x88})) // :status 200
		return true
	})
	p, err := New(Options{Targets: []*url.URL{{Scheme: "http", Host: at}}, Protocol: "h2c", DialTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	send := func(after <-chan struct{}) error {
		limited, stop := context.WithTimeoutCause(t.Context(), patience/5, ErrTimeout)
		defer stop()
		ctx, cancel := context.WithCancelCause(limited)
		go func() {
			select {
			case <-after:
				cancel(ErrTimeout)
			case <-ctx.Done():
			}
		}()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://u/", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := p.RoundTrip(r)
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	if err := send(nil); err != nil {
		t.Fatal(err)
	}
	if err := send(silent); err != ErrTimeout {
		t.Fatal(err)
	}
	for range 10 { // until the doubt is settled
		if err = send(nil); err == nil {
			break
		}
	}
	if err != nil {
		t.Errorf("%v after %d requests", err, requests.Load())
	}
}

// A connection that is doubted is closed if nothing comes, and only then.
func TestDoubt(t *testing.T) {
	for name, alive := range map[string]bool{"dead": false, "alive": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				c := &observed{Conn: ours, patience: time.Second}
				read := make(chan struct{})
				go func() {
					defer close(read)
					for b := make([]byte, 1); ; {
						if _, err := c.Read(b); err != nil {
							return
						}
					}
				}()
				c.doubt()
				time.Sleep(time.Second / 2)
				c.doubt() // net/http asks but once
				if alive {
					io.WriteString(theirs, "x")
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if c.closed.Load() == alive {
					t.Errorf("closed: %v", c.closed.Load())
				}
				ours.Close()
				<-read
			})
		})
	}
}
