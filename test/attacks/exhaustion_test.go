package attacks

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Q: what a client can make the gateway hold, or do, for little of its own.
func TestQ(t *testing.T) {
	t.Parallel()
	a := newArena(t, setup{secure: true, overTLS: true, routes: filesRoutes(t)})
	rangeRow(a)

	a.row("Q-20_clients_that_do_not_read", func(c *row) {
		// An answer that its client takes nothing of lets go of the upstream after a
		// minute, however it is copied.
		const limit = 85 * time.Second
		endless := func(head string, chunk []byte, gone chan<- string, name string) func(*served) bool {
			return func(s *served) bool {
				io.WriteString(s.conn, head)
				for {
					if _, err := s.conn.Write(chunk); err != nil {
						gone <- name
						return false
					}
				}
			}
		}
		gone := make(chan string, 16)
		data := bytes.Repeat([]byte("x"), 32<<10)
		chunked := append(append([]byte("8000\r\n"), data...), "\r\n"...)
		for _, up := range []*upstream{c.up, c.tls} {
			up.teach("endless", endless("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n", data, gone, up.scheme+" of a known length"))
			up.teach("chunks", endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunked, gone, up.scheme+" in chunks"))
		}
		want := map[string]bool{}
		ask := func(kind, target, do string) {
			conn, err := net.Dial("tcp", c.g.Public)
			if err != nil {
				c.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			io.WriteString(conn, "GET "+target+"?do="+do+" HTTP/1.1\r\nHost: app.test\r\n"+fetched+a.cookie("alice")+"\r\n")
			want[kind] = true
		}
		ask("http of a known length", "/app/x", "endless")
		ask("http in chunks", "/app/x", "chunks")
		ask("https of a known length", "/over-tls/x", "endless")
		ask("https in chunks", "/over-tls/x", "chunks")

		// Over HTTP/2 a client can hold back all of many answers.
		base := usageOf(a.secure)
		conn := c.dialHTTP2()
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(2 * limit))
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		fr := http2.NewFramer(conn, conn)
		_ = fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		for i := range uint32(200) {
			openStream(fr, 2*i+1, fields("GET", []string{"/bff/nothing", "/public/x"}[i%2]))
		}
		c.eventually("streams are open", func() bool { return usageOf(a.secure).goroutines > base.goroutines+150 })

		for end := time.After(limit); len(want) > 0; {
			select {
			case name := <-gone:
				delete(want, name)
			case <-end:
				c.Fatalf("after %v there is still an answer %v", limit, want)
			}
		}
		for end := time.Now().Add(limit / 4); usageOf(a.secure).goroutines > base.goroutines+40; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				c.Fatalf("HTTP/2: %v goroutines, %v at first", usageOf(a.secure).goroutines, base.goroutines)
			}
		}
	})
	a.row("Q-21_http2_floods", func(c *row) {
		base := usageOf(a.secure)
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for _, f := range fields("GET", "/public/x") {
			_ = enc.WriteField(hpack.HeaderField{Name: f.name, Value: f.value})
		}
		head := bytes.Clone(block.Bytes())
		// A field of 4 KiB in the table, named 20 000 times.
		_ = enc.WriteField(hpack.HeaderField{Name: "x-a", Value: strings.Repeat("a", 3900)})
		bomb := append(bytes.Clone(block.Bytes()), bytes.Repeat([]byte{0x80 | 62}, 16000)...)
		for name, flood := range map[string]func(fr *http2.Framer, i uint32) error{
			"resets": func(fr *http2.Framer, i uint32) error {
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: head, EndHeaders: true, EndStream: true})
				return fr.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
			},
			"continuations": func(fr *http2.Framer, i uint32) error {
				if i == 0 {
					_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head})
				}
				return fr.WriteContinuation(1, false, bytes.Repeat([]byte{0x80 | 2}, 1000))
			},
			"empty continuations": func(fr *http2.Framer, i uint32) error {
				if i == 0 {
					_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head})
				}
				return fr.WriteContinuation(1, false, nil)
			},
			"bombs": func(fr *http2.Framer, i uint32) error {
				return fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: bomb, EndHeaders: true, EndStream: true})
			},
			"settings": func(fr *http2.Framer, i uint32) error { return fr.WriteSettings() },
			"pings":    func(fr *http2.Framer, i uint32) error { return fr.WritePing(false, [8]byte{}) },
			"table sizes": func(fr *http2.Framer, i uint32) error {
				return fr.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: i % 2 << 30})
			},
			"empty data": func(fr *http2.Framer, i uint32) error {
				if i == 0 {
					_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head, EndHeaders: true})
				}
				return fr.WriteData(1, false, nil)
			},
			"priorities": func(fr *http2.Framer, i uint32) error {
				return fr.WritePriority(2*i+1, http2.PriorityParam{StreamDep: 2*i + 3, Weight: 1})
			},
			"windows of 0": func(fr *http2.Framer, i uint32) error { // each makes the server reset a stream that it works on
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: head, EndHeaders: true, EndStream: true})
				return fr.WriteRawFrame(http2.FrameWindowUpdate, 0, 2*i+1, make([]byte, 4))
			},
			"windows beyond 2^31": func(fr *http2.Framer, i uint32) error {
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: head, EndHeaders: true, EndStream: true})
				return fr.WriteWindowUpdate(2*i+1, 1<<31-1)
			},
			"data after the end": func(fr *http2.Framer, i uint32) error {
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: head, EndHeaders: true, EndStream: true})
				return fr.WriteData(2*i+1, false, []byte("x"))
			},
			"headers after the end": func(fr *http2.Framer, i uint32) error {
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: head, EndHeaders: true, EndStream: true})
				return fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: head, EndHeaders: true, EndStream: true})
			},
			"streams of themselves": func(fr *http2.Framer, i uint32) error {
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: head, EndHeaders: true, EndStream: true})
				return fr.WritePriority(2*i+1, http2.PriorityParam{StreamDep: 2*i + 1})
			},
			"malformed requests": func(fr *http2.Framer, i uint32) error { // with a part of a path
				return fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: head[:1], EndHeaders: true, EndStream: true})
			},
			"unknown frames": func(fr *http2.Framer, i uint32) error { return fr.WriteRawFrame(0xee, 0xff, 2*i+1, make([]byte, 100)) },
			"padding": func(fr *http2.Framer, i uint32) error {
				if i == 0 {
					_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head, EndHeaders: true})
				}
				return fr.WriteDataPadded(1, false, nil, make([]byte, 255))
			},
			"streams": func(fr *http2.Framer, i uint32) error {
				return fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: head, EndHeaders: true})
			},
		} {
			conn := c.dialHTTP2()
			go func() { _, _ = io.Copy(io.Discard, conn) }()
			_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
			out := bufio.NewWriterSize(conn, 64<<10)
			fr := http2.NewFramer(out, conn)
			fr.AllowIllegalWrites = true
			for i := uint32(0); i < 20_000; i++ {
				if flood(fr, i) != nil {
					break // it has had enough of us
				}
			}
			_ = out.Flush()
			start := time.Now()
			if got := c.http2(fields("GET", "/public/x")); got.status() != http.StatusOK {
				c.Errorf("%s: another connection: %d", name, got.status())
			}
			if took := time.Since(start); took > 5*time.Second {
				c.Errorf("%s: another connection waited for %v", name, took)
			}
			conn.Close()
		}
		now := usageOf(a.secure)
		if now.memory > base.memory+200<<20 {
			c.Errorf("memory: %.0f MiB, %.0f at first", now.memory/(1<<20), base.memory/(1<<20))
		}
		c.eventually("goroutines are gone", func() bool { return usageOf(a.secure).goroutines <= base.goroutines+40 })
	})
	a.row("Q-22_unfinished_requests", func(c *row) {
		// Many that begin and don't go on, in every phase. Everybody else is served.
		var all sync.WaitGroup
		defer all.Wait() // also when somebody else is not served
		for i := range 300 {
			text := []string{"", "G", "GET /app/x HTTP/1.1\r\nHost: app.test\r\n", "GET /app/x HTTP/1.1\r\nHost: app.test\r\nCookie: " + strings.Repeat("a", 8000), "\r\n\r\n\r\n", "\x16\x03\x01\x02\x00\x01"}[i%6]
			all.Go(func() {
				conn, err := net.Dial("tcp", []string{c.g.Public, c.secure.Public}[i/6%2])
				if err != nil {
					c.Error(err)
					return
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				io.WriteString(conn, text)
				if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
					c.Errorf("%.20q: open after %v", text, patience)
				}
			})
		}
		for range 20 {
			c.want(c.send(get("/app/x", fetched, a.cookie("alice"))), http.StatusOK, "")
		}
	})
	a.row("Q-23_labels", func(c *row) {
		// What clients make up makes no series.
		series := func() int { return strings.Count(c.g.Metrics(), "\ncloakroom_") }
		c.send(get("/public/first"))
		before := series()
		for i := range 200 {
			c.send(request(fmt.Sprintf("M%d", i), fmt.Sprintf("/public/%d", i)))
			c.send("GET / HTTP/1.1\r\nHost: " + fmt.Sprintf("h%d.test", i) + "\r\nConnection: close\r\n\r\n")
			c.send(get(fmt.Sprintf("/bff/%d", i)))
		}
		if after := series(); after > before+20 {
			c.Errorf("%d series, %d at first", after, before)
		}
	})
}

// eventually waits for what has to come about.
func (c *row) eventually(what string, ok func() bool) {
	c.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			c.Fatalf("not in %v: %s", patience, what)
		}
	}
}

// openStream sends a request and waits for nothing.
func openStream(fr *http2.Framer, id uint32, head []field) {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range head {
		_ = enc.WriteField(hpack.HeaderField{Name: f.name, Value: f.value, Sensitive: true}) // not into the table
	}
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
}
