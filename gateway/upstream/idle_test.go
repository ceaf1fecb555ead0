package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// An upstream that says how long it keeps a connection is believed: a request that
// goes over one just as it is closed may be lost.
func TestKeepAlive(t *testing.T) {
	for _, tt := range []struct {
		name, header string
		good         time.Duration
	}{
		{"5 s", "Keep-Alive: timeout=5\r\n", 4 * time.Second},
		{"among others", "Keep-Alive: max=100, Timeout=10\r\n", 9 * time.Second},
		{"1 s", "keep-alive: timeout=1\r\n", time.Second / 2},
		{"not at all", "Keep-Alive: timeout=0\r\n", time.Nanosecond},
		{"longer than we do", "Keep-Alive: timeout=999999999999999999\r\n", time.Minute},
		{"nothing of it", "Keep-Alive: max=5\r\n", time.Minute},
		{"no number", "Keep-Alive: timeout=-1\r\n", time.Minute},
		{"nothing", "", time.Minute},
	} {
		raw := ok11 + tt.header + "Content-Length: 2\r\n\r\nok"
		t.Run(tt.name, func(t *testing.T) {
			for _, wait := range []time.Duration{tt.good - time.Nanosecond, tt.good} {
				synctest.Test(t, func(t *testing.T) {
					p := piped(t, func(_ string, c net.Conn, _ *bufio.Reader) { io.WriteString(c, raw) })
					defer p.Close()
					if _, err := get(p, &Exchange{}); err != nil {
						t.Fatal(err)
					}
					time.Sleep(wait)
					c := p.addresses[0].takeIdle(time.Now())
					if c != nil {
						defer c.Close()
					}
					if used := c != nil; used != (wait < tt.good) {
						t.Errorf("used again after %v: %v", wait, used)
					}
				})
			}
		})
		if tt.good == time.Minute || tt.good == time.Nanosecond {
			continue // net/http's own affair
		}
		t.Run(tt.name+" over net/http", func(t *testing.T) {
			for _, wait := range []time.Duration{tt.good - time.Nanosecond, tt.good} {
				synctest.Test(t, func(t *testing.T) {
					p := newPool(t, Options{}, "u.test:80")
					dialed := 0
					p.addresses[0].transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
						dialed++
						ours, theirs := net.Pipe()
						go func() {
							defer theirs.Close()
							for br := bufio.NewReader(theirs); ; {
								r, err := http.ReadRequest(br)
								if err != nil {
									return
								}
								io.Copy(io.Discard, r.Body)
								io.WriteString(theirs, raw)
							}
						}()
						return &observed{Conn: ours}, nil
					}
					for range 2 {
						r, err := http.NewRequest(http.MethodPost, "http://u.test/", strings.NewReader("body"))
						if err != nil {
							t.Fatal(err)
						}
						res, err := p.RoundTrip(r)
						if err != nil {
							t.Fatal(err)
						}
						io.Copy(io.Discard, res.Body)
						res.Body.Close()
						time.Sleep(wait)
					}
					if again := dialed == 1; again != (wait < tt.good) {
						t.Errorf("used again after %v: %v", wait, again)
					}
					p.Close()
					synctest.Wait()
				})
			}
		})
	}
}

// What is left of an address that doesn't answer any more is not used up a request at
// a time.
func TestFailuresCloseIdleConnections(t *testing.T) {
	s := serve(t, answering(answerOK, true))
	for _, tt := range []struct {
		name           string
		failures, idle int
		unopened       bool
	}{
		{"too few", strikes - 1, 3, false},
		{"in a row", strikes, 0, false},
		{"no connection opened", strikes, 3, true}, // those that there are may be good
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPool(t, Options{}, s.addr)
			var all []*Exchange
			for range 3 {
				x := &Exchange{Method: "GET", Target: "/", Timeout: patience, Caller: &call{}}
				if err := p.Do(x); err != nil {
					t.Fatal(err)
				}
				all = append(all, x)
			}
			for _, x := range all {
				for err := error(nil); err == nil; _, err = x.Next() {
				}
				x.Done()
			}
			for range tt.failures {
				p.addresses[0].fail(errors.New("silent"), tt.unopened)
			}
			if n := p.idle(); n != tt.idle {
				t.Errorf("%d idle connections; want %d", n, tt.idle)
			}
		})
	}
}
