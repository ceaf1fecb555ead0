package proxy

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// duplex is a connection in memory whose halves close one by one, as TCP's do.
type duplex struct {
	net.Conn // what is read
	out      net.Conn
}

func newDuplex() (a, b *duplex) {
	r1, w1 := net.Pipe()
	r2, w2 := net.Pipe()
	return &duplex{r1, w2}, &duplex{r2, w1}
}

func (d *duplex) Write(b []byte) (int, error)         { return d.out.Write(b) }
func (d *duplex) CloseWrite() error                   { return d.out.Close() }
func (d *duplex) SetWriteDeadline(at time.Time) error { return d.out.SetWriteDeadline(at) }
func (d *duplex) Close() error                        { d.out.Close(); return d.Conn.Close() }

// rig is a tunnel in memory, in a bubble where time is made.
type rig struct {
	client, upstream *duplex
	ended            chan struct{}
	cancel           context.CancelFunc
	err              chan error
	began            time.Time
}

func newRig(t *testing.T) *rig {
	c, toClient := newDuplex()
	u, toUpstream := newDuplex()
	ctx, cancel := context.WithCancel(t.Context())
	g := &rig{client: c, upstream: u, ended: make(chan struct{}), cancel: cancel, err: make(chan error, 1), began: time.Now()}
	tn := newTunnel(side{toClient, toClient}, side{toUpstream, toUpstream}, false)
	go func() { g.err <- tn.run(ctx, g.ended) }()
	t.Cleanup(func() {
		cancel()
		c.Close()
		u.Close()
	})
	return g
}

// over waits for the tunnel's end and returns how long it took from the start.
func (g *rig) over(t *testing.T, want error) time.Duration {
	t.Helper()
	if err := <-g.err; err != want {
		t.Errorf("run: %v; want %v", err, want)
	}
	return time.Since(g.began)
}

// collect reads all that comes, in the background.
func collect(r io.Reader) <-chan []byte {
	c := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(r)
		c <- b
	}()
	return c
}

// wantClose checks that b is one Close frame.
func wantClose(t *testing.T, who string, b []byte, masked bool, text string) {
	t.Helper()
	r := bufio.NewReader(bytes.NewReader(b))
	first, payload, m, err := readFrame(r)
	if err != nil || first != 0x88 || m != masked || closeText(payload) != text || r.Buffered() != 0 {
		t.Errorf("%s gets %x %q, %v; want Close %s", who, b, payload, err, text)
	}
}

func TestTunnelEnds(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		end        func(g *rig)
		err        error
	}{
		{"J-04 session ended", "4401 session ended", func(g *rig) { close(g.ended) }, nil},
		{"J-08 shutdown", "1001 going away", func(g *rig) { g.cancel() }, nil},
		{"malformed from the upstream", "1002 protocol error", func(g *rig) { io.WriteString(g.upstream, "\x83\x00") }, errMalformed},
		{"malformed from the client", "1002 protocol error", func(g *rig) { io.WriteString(g.client, "\x81\x00") }, errMalformed},
		{"both ended and shut down", "4401 session ended", func(g *rig) { close(g.ended); synctest.Wait(); g.cancel() }, nil},
	} {
		t.Run(tt.name+", nobody answers", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newRig(t)
				c, u := collect(g.client), collect(g.upstream)
				time.Sleep(24 * time.Hour) // no deadline while idle
				tt.end(g)
				if took := g.over(t, tt.err); took != 24*time.Hour+closeTimeout {
					t.Errorf("cut after %v", took)
				}
				wantClose(t, "client", <-c, false, tt.text)
				wantClose(t, "upstream", <-u, true, tt.text)
			})
		})
	}
}

func TestTunnelEndIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t)
		close(g.ended)
		answer := func(d *duplex, masked bool) {
			r := bufio.NewReader(d)
			if first, _, _, err := readFrame(r); first != 0x88 || err != nil {
				t.Errorf("first frame %x, %v", first, err)
			}
			// What was on its way goes nowhere; the answer ends the wait.
			d.Write(frameBytes(0x81, []byte("late"), masked))
			d.Write(goingAway.frame(masked))
			if rest, err := io.ReadAll(r); len(rest) != 0 || err != nil {
				t.Errorf("after the Close frame comes %x, %v", rest, err)
			}
		}
		var both sync.WaitGroup
		both.Go(func() { answer(g.upstream, false) })
		both.Go(func() { answer(g.client, true) })
		both.Wait()
		if took := g.over(t, nil); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

func TestTunnelEndsAfterTheFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t)
		c, u := collect(g.client), collect(g.upstream)
		frame := frameBytes(0x02, make([]byte, 100<<10), false) // a fragment
		g.upstream.Write(frame[:50<<10])
		close(g.ended)
		time.Sleep(closeTimeout - time.Millisecond)
		// A ping follows in the same write, and belongs to nobody any more.
		g.upstream.Write(append(frame[50<<10:], 0x89, 0x00))
		g.over(t, nil)
		got := <-c
		if !bytes.HasPrefix(got, frame) {
			t.Fatalf("the frame is cut: %d bytes", len(got))
		}
		wantClose(t, "client", got[len(frame):], false, "4401 session ended")
		wantClose(t, "upstream", <-u, true, "4401 session ended")
	})
}

func TestTunnelCutsWithinAFrame(t *testing.T) {
	for _, tt := range []struct {
		name string
		from func(*rig) *duplex
		part []byte
	}{
		{"the upstream stalls", func(g *rig) *duplex { return g.upstream }, frameBytes(0x82, make([]byte, 1<<20), false)[:5000]},
		{"the client stalls", func(g *rig) *duplex { return g.client }, frameBytes(0x82, make([]byte, 1<<20), true)[:5000]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newRig(t)
				c, u := collect(g.client), collect(g.upstream)
				tt.from(g).Write(tt.part)
				synctest.Wait()
				close(g.ended)
				if took := g.over(t, nil); took != closeTimeout {
					t.Errorf("cut after %v", took)
				}
				if got := <-c; tt.part[1]&0x80 == 0 {
					if !bytes.Equal(got, tt.part) {
						t.Errorf("client gets %d bytes; want what came of the frame", len(got))
					}
					wantClose(t, "upstream", <-u, true, "4401 session ended")
				} else {
					wantClose(t, "client", got, false, "4401 session ended")
					if got := <-u; !bytes.Equal(got, tt.part) {
						t.Errorf("upstream gets %d bytes; want what came of the frame", len(got))
					}
				}
			})
		})
	}
	t.Run("half a header", func(t *testing.T) { // which isn't passed on
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t)
			c := collect(g.client)
			io.WriteString(g.upstream, "\x82\x7e\x01")
			synctest.Wait()
			close(g.ended)
			g.over(t, nil)
			wantClose(t, "client", <-c, false, "4401 session ended")
		})
	})
}

// A Close frame of the peers' own is the only one.
func TestTunnelAfterACloseFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t)
		c, u := collect(g.client), collect(g.upstream)
		closed := closing{1000, "bye"}.frame(false)
		g.upstream.Write(closed)
		synctest.Wait()
		close(g.ended)
		g.over(t, nil)
		if got := <-c; !bytes.Equal(got, closed) {
			t.Errorf("client gets %x", got)
		}
		wantClose(t, "upstream", <-u, true, "4401 session ended")
	})
}

func TestTunnelHalfClose(t *testing.T) {
	ping := frameBytes(0x89, nil, false)
	t.Run("the other goes on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t)
			c, u := collect(g.client), collect(g.upstream)
			io.WriteString(g.client, "\x81\x82\x00\x00\x00\x00hi")
			g.client.CloseWrite()
			if got := <-u; string(got) != "\x81\x82\x00\x00\x00\x00hi" {
				t.Errorf("upstream gets %q", got)
			}
			var sent []byte
			for range 20 {
				time.Sleep(halfTimeout - time.Second)
				g.upstream.Write(ping)
				sent = append(sent, ping...)
			}
			g.upstream.CloseWrite()
			g.over(t, nil)
			if got := <-c; !bytes.Equal(got, sent) {
				t.Errorf("client gets %x; want %x", got, sent)
			}
		})
	})
	t.Run("the other is silent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t)
			u := collect(g.client)
			g.upstream.CloseWrite()
			<-u // the client hears of it
			if took := g.over(t, nil); took != halfTimeout {
				t.Errorf("cut after %v", took)
			}
		})
	})
	t.Run("then ended", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t)
			c := collect(g.client)
			g.client.CloseWrite()
			io.ReadAll(g.upstream)
			close(g.ended)
			if took := g.over(t, nil); took != closeTimeout {
				t.Errorf("cut after %v", took)
			}
			wantClose(t, "client", <-c, false, "4401 session ended")
		})
	})
}

// J-06: one who doesn't read holds one buffer, and for a minute.
func TestTunnelSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t)
		frame := frameBytes(0x82, make([]byte, 1<<20), false)
		sent := make(chan int, 1)
		go func() {
			n, _ := g.upstream.Write(frame)
			sent <- n
		}()
		// As long as a little is read now and then, it goes on.
		read := 0
		for range 10 {
			time.Sleep(writeTimeout / 2)
			n, err := io.ReadFull(g.client, make([]byte, largeBuffer))
			if read += n; err != nil {
				t.Fatalf("after %d bytes: %v", read, err)
			}
		}
		if took := g.over(t, nil) - 5*writeTimeout; took > writeTimeout || took < writeTimeout/2 {
			t.Errorf("cut %v after it stopped reading", took)
		}
		if n := <-sent; n > read+largeBuffer+smallBuffer {
			t.Errorf("took %d bytes for a client that read %d", n, read)
		}
	})
}
