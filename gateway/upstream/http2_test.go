package upstream

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// What RFC 9113 section 6 calls types of frames, and section 7 errors.
const (
	frameHeaders   = 0x1
	frameReset     = 0x3
	frameSettings  = 0x4
	framePing      = 0x6
	frameGoAway    = 0x7
	protocolError  = 0x1
	internalError  = 0x2
	refusedStream  = 0x7
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
)

// serveH2C is an upstream that speaks HTTP/2 without TLS, just as far as needed. It
// answers each request with what answer writes; that reports whether the connection
// goes on. It returns its address, and how many requests there were.
func serveH2C(t *testing.T, answer func(n int64, stream uint32, c net.Conn) bool) (at string, requests *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	requests = new(atomic.Int64)
	var all sync.WaitGroup
	serve := func(c net.Conn) {
		defer c.Close()
		defer context.AfterFunc(t.Context(), func() { c.Close() })()
		if _, err := io.ReadFull(c, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
			return
		}
		c.Write(frame(frameSettings, 0, 0, nil))
		for {
			var head [9]byte
			if _, err := io.ReadFull(c, head[:]); err != nil {
				return
			}
			size := int64(head[0])<<16 | int64(head[1])<<8 | int64(head[2])
			payload := make([]byte, size)
			if _, err := io.ReadFull(c, payload); err != nil {
				return
			}
			switch {
			case head[3] == framePing && head[4]&flagAck == 0:
				c.Write(frame(framePing, flagAck, 0, payload))
			case head[3] == frameSettings && head[4]&flagAck == 0:
				c.Write(frame(frameSettings, flagAck, 0, nil))
			case head[3] == frameHeaders:
				if !answer(requests.Add(1), binary.BigEndian.Uint32(head[5:]), c) {
					return
				}
			}
		}
	}
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		all.Wait()
	})
	return ln.Addr().String(), requests
}

func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// R-07 over HTTP/2, where net/http takes a word of the upstream's for it that nothing
// was done, and sends again what has no body.
func TestR07SentAtMostOnceOverHTTP2(t *testing.T) {
	code := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	for _, failure := range []struct {
		name  string
		after func(stream uint32, c net.Conn) bool
	}{
		{"protocol error", func(stream uint32, c net.Conn) bool {
			c.Write(frame(frameReset, 0, stream, code(protocolError)))
			return true
		}},
		{"refused", func(stream uint32, c net.Conn) bool {
			c.Write(frame(frameReset, 0, stream, code(refusedStream)))
			return true
		}},
		{"internal error", func(stream uint32, c net.Conn) bool {
			c.Write(frame(frameReset, 0, stream, code(internalError)))
			return true
		}},
		{"goes away", func(_ uint32, c net.Conn) bool {
			c.Write(frame(frameGoAway, 0, 0, append(code(0), code(0)...)))
			return false
		}},
		{"closes", func(uint32, net.Conn) bool { return false }},
	} {
		for _, tt := range []struct {
			method, body string
			most         int64
		}{
			{"GET", "", 2},
			{"HEAD", "", 2},
			{"GET", "x", 1},
			{"POST", "", 1},
			{"POST", "x", 1},
			{"PUT", "", 1},
			{"DELETE", "", 1},
			{"PATCH", "", 1},
		} {
			t.Run(failure.name+" "+tt.method+" "+tt.body, func(t *testing.T) {
				at, requests := serveH2C(t, func(n int64, stream uint32, c net.Conn) bool {
					if n == 1 {
						return failure.after(stream, c)
					}
					c.Write(frame(frameHeaders, flagEndHeaders|flagEndStream, stream, []byte{0x88})) // :status 200
					return true
				})
				p, err := New(Options{Targets: []*url.URL{{Scheme: "http", Host: at}}, Protocol: "h2c"})
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				r, err := http.NewRequest(tt.method, "http://"+at+"/", nil)
				if err != nil {
					t.Fatal(err)
				}
				if tt.body != "" {
					r.Body, r.ContentLength = io.NopCloser(strings.NewReader(tt.body)), int64(len(tt.body))
				}
				res, err := p.RoundTrip(r)
				if err == nil {
					res.Body.Close()
				}
				if n := requests.Load(); n > tt.most || n == 1 && err == nil {
					t.Errorf("sent %d times, %v; want at most %d", n, err, tt.most)
				}
				if n := p.addresses[0].underWay.Load(); n != 0 {
					t.Errorf("%d under way", n)
				}
			})
		}
	}
}

// What is safe goes there twice, and not eight times.
func TestGivenBackEachTime(t *testing.T) {
	at, requests := serveH2C(t, func(_ int64, stream uint32, c net.Conn) bool {
		c.Write(frame(frameReset, 0, stream, binary.BigEndian.AppendUint32(nil, refusedStream)))
		return true
	})
	p, err := New(Options{Targets: []*url.URL{{Scheme: "http", Host: at}}, Protocol: "h2c"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	r, err := http.NewRequest("GET", "http://"+at+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := p.RoundTrip(r); err != errGivenBack || requests.Load() != 2 {
		t.Errorf("%v %v, sent %d times; want an error after 2", res, err, requests.Load())
	}
}
