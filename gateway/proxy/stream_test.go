package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

func TestUpgradesThatAreNotForwarded(t *testing.T) {
	u := serveRaw(t, nil)
	f := newFront(t, u.to(), frontOptions{})
	for _, tt := range []struct{ name, raw, status string }{
		{"I-09 h2c", get("/", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ", "Connection: Upgrade, HTTP2-Settings"), "200"},
		{"J-05 two protocols", get("/", "Connection: Upgrade", "Upgrade: websocket, h2c"), "200"},
		{"J-05 two headers", get("/", "Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c"), "200"},
		{"J-05 not ASCII", get("/", "Connection: Upgrade", "Upgrade: websock\u00e9t"), "502"},
		{"J-05 Kelvin sign", get("/", "Connection: Upgrade", "Upgrade: websoc\u212aet"), "502"},
		{"POST", request("POST", "/", "", "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0"), "200"},
		{"not a connection option", get("/", "Upgrade: websocket"), "200"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(u.received())
			if got := status(send(t, f.addr, tt.raw)); got != tt.status {
				t.Errorf("status %s; want %s", got, tt.status)
			}
			for _, head := range u.received()[before:] {
				if strings.Contains(strings.ToLower(head), "upgrade") || strings.Contains(head, "HTTP2-Settings") {
					t.Errorf("forwarded %q", head)
				}
			}
		})
	}
}

// Each event must arrive before the next one is made.
func TestEventStream(t *testing.T) {
	for _, tt := range []struct{ name, head, frame string }{
		{"chunked", "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n", "9\r\ndata: x\n\n\r\n"},
		{"delimited by the connection", "Content-Type: text/event-stream\r\n", "data: x\n\n"},
		{"another type, of known length", "Content-Type: text/plain\r\nContent-Length: 36\r\n", "data: x\n\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			next := make(chan struct{})
			u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, _ *bufio.Reader) bool {
				io.WriteString(c, "HTTP/1.1 200 OK\r\n"+tt.head+"\r\n")
				for range next {
					io.WriteString(c, tt.frame)
				}
				return false
			})
			f := newFront(t, u.to(), frontOptions{})
			c := dial(t, f.addr)
			io.WriteString(c, get("/events"))
			res, err := http.ReadResponse(bufio.NewReader(c), nil) // the header comes before any event
			if err != nil {
				t.Fatal(err)
			}
			event := make([]byte, len("data: x\n\n"))
			for range 4 {
				next <- struct{}{}
				if _, err := io.ReadFull(res.Body, event); err != nil || string(event) != "data: x\n\n" {
					t.Fatalf("event %q, %v", event, err)
				}
			}
			close(next)
		})
	}
}

// Both directions at once, over HTTP/1.1: the answer begins before the request
// has ended.
func TestStreamingBothWays(t *testing.T) {
	u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, br *bufio.Reader) bool {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for {
			size, err := br.ReadString('\n')
			if err != nil {
				return false
			}
			data, _ := br.ReadString('\n')
			io.WriteString(c, size+data)
			if size == "0\r\n" {
				return false
			}
		}
	})
	f := newFront(t, u.to(), frontOptions{})
	c := dial(t, f.addr)
	io.WriteString(c, request("POST", "/", "", "Transfer-Encoding: chunked"))
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, msg := range []string{"one", "two", "six"} {
		io.WriteString(c, "3\r\n"+msg+"\r\n")
		got := make([]byte, 3)
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != msg {
			t.Fatalf("echo %q, %v; want %q", got, err, msg)
		}
	}
	io.WriteString(c, "0\r\n\r\n")
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
		t.Errorf("rest %q, %v", rest, err)
	}
}

func TestExpectContinue(t *testing.T) {
	u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, br *bufio.Reader) bool {
		io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		body := make([]byte, 4)
		io.ReadFull(br, body)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"+string(body))
		return true
	})
	f := newFront(t, u.to(), frontOptions{})
	c := dial(t, f.addr)
	io.WriteString(c, request("POST", "/", "", "Expect: 100-continue", "Content-Length: 4"))
	br := bufio.NewReader(c)
	if head, err := readHead(br); err != nil || status(head) != "100" {
		t.Fatalf("answer %q, %v; want 100", head, err)
	}
	io.WriteString(c, "body")
	rest, _ := io.ReadAll(br)
	// A second 100 is allowed (RFC 9110 section 15.2), and harmless.
	if got := string(rest); !strings.HasSuffix(got, "\r\n\r\nbody") || !strings.Contains(got, "HTTP/1.1 200 OK") {
		t.Errorf("answer %q", got)
	}
}

func TestI05RequestTrailers(t *testing.T) {
	trailers := make(chan string, 1)
	u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, br *bufio.Reader) bool {
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				return false
			}
			if line == "0\r\n" {
				break
			}
		}
		head, _ := readHead(br)
		trailers <- head
		io.WriteString(c, okAnswer)
		return false
	})
	f := newFront(t, u.to(), frontOptions{bearer: "ATcanary"})
	body := "2\r\nhi\r\n0\r\nX-Checksum: 42\r\nAuthorization: Bearer EVIL\r\nCookie: EVIL\r\nX_Forwarded_User: EVIL\r\nX-Unannounced: EVIL\r\n\r\n"
	got := send(t, f.addr, request("POST", "/", body, "Transfer-Encoding: chunked", "Trailer: X-Checksum, Authorization, Cookie, X_Forwarded_User", "TE: trailers"))
	if status(got) != "200" {
		t.Fatalf("answer %q", got)
	}
	if got := <-trailers; got != "X-Checksum: 42\r\n\r\n" {
		t.Errorf("trailers %q", got)
	}
	head := u.last(t)
	if !slices.Equal(values(head, "Trailer"), []string{"X-Checksum"}) || !slices.Equal(values(head, "Te"), []string{"trailers"}) || strings.Contains(head, "EVIL") {
		t.Errorf("head %q", head)
	}
}

// Names that can be no field's would be net/http's reason to refuse the request, and
// somebody's to call the upstream unreachable.
func TestI05TrailersThatAreNone(t *testing.T) {
	u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, br *bufio.Reader) bool {
		for line := ""; line != "\r\n"; {
			line, _ = br.ReadString('\n')
			if line == "" {
				return false
			}
		}
		io.WriteString(c, okAnswer)
		return false
	})
	for name, transport := range map[string]http.RoundTripper{"direct": nil, "relayed": newTransport(t, nil)} {
		t.Run(name, func(t *testing.T) {
			cfg := u.to()
			cfg.Transport = transport
			f := newFront(t, cfg, frontOptions{})
			got := send(t, f.addr, request("POST", "/", "0\r\n\r\n", "Transfer-Encoding: chunked", "Trailer: A b, C: d, \"e\", X-Fine"))
			if head := u.last(t); status(got) != "200" || !slices.Equal(values(head, "Trailer"), []string{"X-Fine"}) {
				t.Errorf("answer %q, head %q", got, head)
			}
		})
	}
}

func TestLargeBodiesBothWays(t *testing.T) {
	payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	defer srv.Close()
	f := newFront(t, Config{Target: target(srv.URL)}, frontOptions{})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Post("http://"+f.addr+"/", "application/octet-stream", bytes.NewReader(payload))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, payload) {
		t.Errorf("%d bytes, %v; want %d", len(got), err, len(payload))
	}
}

func TestHTTPSUpstream(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if IsWebSocket(r) {
			conn, rw, _ := http.NewResponseController(w).Hijack()
			defer conn.Close()
			rw.WriteString(switchAnswer)
			rw.Flush()
			io.Copy(conn, unmasking(rw))
			return
		}
		w.Header().Set("Trailer", "Grpc-Status, Set-Cookie")
		w.Header().Set("X-Proto", r.Proto)
		io.Copy(w, r.Body)
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set("Set-Cookie", "cloakroom=EVIL")
		w.Header().Set(http.TrailerPrefix+"Alt-Svc", "EVIL")
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	pool := srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	tr := newTransport(t, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})
	f := newFront(t, Config{Target: target(srv.URL), Transport: tr}, frontOptions{})

	got := send(t, f.addr, request("POST", "/", "hi", "Content-Length: 2", "TE: trailers"))
	if !strings.Contains(got, "X-Proto: HTTP/2.0") || !strings.Contains(got, "Grpc-Status: 0\r\n") || strings.Contains(got, "EVIL") {
		t.Errorf("answer %q", got)
	}
	w := dialWebSocket(t, f.addr) // over HTTP/1.1
	for _, size := range echoSizes {
		w.echo(size)
	}
}

// retaining is a client that is gone: it takes nothing, and holds on to what it was
// to be given, as net/http's HTTP/2 does for a while.
type retaining struct {
	http.ResponseWriter
	kept chan<- []byte
}

func (w retaining) Write(b []byte) (int, error) {
	w.kept <- b
	return 0, io.ErrClosedPipe
}

// A buffer that a failed write may still read from is not the next user's.
func TestBuffersOfFailedWritesAreNobodysAgain(t *testing.T) {
	u := serveRaw(t, func(_ *rawUpstream, head string, c net.Conn, _ *bufio.Reader) bool {
		path := strings.Fields(head)[1]
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 16384\r\n\r\n"+strings.Repeat(path[1:2], 16384))
		return true
	})
	for name, transport := range map[string]http.RoundTripper{"direct": nil, "relayed": newTransport(t, nil)} {
		t.Run(name, func(t *testing.T) {
			cfg := u.to()
			cfg.Transport = transport
			held := make(chan []byte, 1)
			var gone atomic.Bool
			f := newFront(t, cfg, frontOptions{wrap: func(w http.ResponseWriter) http.ResponseWriter {
				if gone.Load() {
					return retaining{w, held}
				}
				return w
			}})
			for range 8 {
				gone.Store(true)
				io.WriteString(dial(t, f.addr), get("/a"))
				kept := <-held
				was := bytes.Clone(kept)
				gone.Store(false)
				for range 4 {
					if got := send(t, f.addr, get("/b")); !strings.HasSuffix(got, "bbb") {
						t.Fatalf("answer %q", got)
					}
				}
				if !bytes.Equal(kept, was) {
					t.Fatalf("what was one user's is %q, and %q now", was[:3], kept[:3])
				}
			}
		})
	}
}
