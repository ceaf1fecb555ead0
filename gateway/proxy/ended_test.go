package proxy

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/upstream"
)

func TestEndedBeforeItIsSent(t *testing.T) {
	u := serveRaw(t, nil)
	ended := make(chan struct{})
	close(ended)
	f := newFront(t, u.to(), frontOptions{ended: ended})
	for _, raw := range []string{get("/"), wsRequest} {
		c := dial(t, f.addr)
		io.WriteString(c, raw)
		if head, err := readHead(bufio.NewReader(c)); err != nil || status(head) != "401" {
			t.Errorf("answer %q, %v", head, err)
		}
		if err := f.result(t); err != ErrEnded {
			t.Errorf("Forward: %v", err)
		}
	}
	if got := u.received(); len(got) != 0 {
		t.Errorf("the upstream received %q", got)
	}
}

// J-04: what is not answered yet is cancelled, whatever it waits for.
func TestEndedBeforeItIsAnswered(t *testing.T) {
	for _, tt := range []struct{ name, raw string }{
		{"request", get("/")},
		{"WebSocket", wsRequest},
		{"upload that the client doesn't finish", request("POST", "/", "x", "Content-Length: 9")},
		{"chunked upload that the client doesn't finish", request("POST", "/", "1\r\nx\r\n", "Transfer-Encoding: chunked")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ended, gone := make(chan struct{}), make(chan struct{})
			u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, br *bufio.Reader) bool {
				close(ended)
				io.Copy(io.Discard, br)
				close(gone)
				return false
			})
			f := newFront(t, u.to(), frontOptions{ended: ended})
			c := dial(t, f.addr)
			io.WriteString(c, tt.raw)
			if head, err := readHead(bufio.NewReader(c)); err != nil || status(head) != "401" {
				t.Errorf("answer %q, %v", head, err)
			}
			if err := f.result(t); !errors.Is(err, ErrEnded) {
				t.Errorf("Forward: %v", err)
			}
			<-gone
		})
	}
}

// An answer that comes with the end comes too late, before anybody listens.
func TestEndedAsItIsAnswered(t *testing.T) {
	for _, answer := range []string{okAnswer, switchAnswer} {
		ended := make(chan struct{})
		u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, _ *bufio.Reader) bool {
			close(ended)
			io.WriteString(c, answer)
			return false
		})
		f := newFront(t, u.to(), frontOptions{ended: ended})
		c := dial(t, f.addr)
		io.WriteString(c, wsRequest)
		if head, err := readHead(bufio.NewReader(c)); err != nil || status(head) != "401" {
			t.Errorf("answer %q, %v", head, err)
		}
		if err := f.result(t); err != ErrEnded {
			t.Errorf("Forward: %v", err)
		}
	}
}

// J-04: an answer under way is cut, whoever is being waited for.
func TestEndedWithinTheAnswer(t *testing.T) {
	for _, tt := range []struct {
		name, head, part string
		flood            bool
	}{
		{"event stream", "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n", "9\r\ndata: x\n\n\r\n", false},
		{"known length", "Content-Length: 100\r\n", "data: x\n\n", false},
		{"delimited by the connection", "", "data: x\n\n", false},
		{"the client doesn't read", "Content-Length: 1000000000000\r\n", "data: x\n\n", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gone := make(chan struct{})
			u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, br *bufio.Reader) bool {
				defer close(gone)
				io.WriteString(c, "HTTP/1.1 200 OK\r\n"+tt.head+"\r\n"+tt.part)
				for part := make([]byte, 1<<20); tt.flood; {
					if _, err := c.Write(part); err != nil {
						return false
					}
				}
				io.Copy(io.Discard, br)
				return false
			})
			ended := make(chan struct{})
			f := newFront(t, u.to(), frontOptions{ended: ended})
			c := dial(t, f.addr)
			io.WriteString(c, get("/"))
			br := bufio.NewReader(c)
			if head, err := readHead(br); err != nil || status(head) != "200" {
				t.Fatalf("answer %q, %v", head, err)
			}
			for { // to the part
				line, err := br.ReadString('\n')
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasPrefix(line, "data") {
					break
				}
			}
			at := time.Now()
			close(ended)
			select {
			case <-gone:
			case <-time.After(patience):
				t.Fatal("the upstream is still being asked")
			}
			rest, err := io.ReadAll(br)
			if isTimeout(err) || strings.Contains(string(rest[max(0, len(rest)-10):]), "0\r\n\r\n") {
				t.Errorf("then %d bytes, %v; want a cut", len(rest), err)
			}
			if took := time.Since(at); took > time.Second+closeTimeout {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestEndedOverHTTP2(t *testing.T) {
	u := serveRaw(t, func(_ *rawUpstream, head string, c net.Conn, br *bufio.Reader) bool {
		if strings.HasPrefix(head, "GET /stream ") {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\ndata: x")
			for part := make([]byte, 1<<20); ; {
				if _, err := c.Write(part); err != nil {
					return false
				}
			}
		}
		io.Copy(io.Discard, br)
		return false
	})
	ended := make(chan struct{})
	p, err := New(u.to())
	if err != nil {
		t.Fatal(err)
	}
	defer p.cfg.Transport.(*upstream.Pool).Close()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := p.Forward(w, r, Call{Path: r.URL.Path, Ended: ended}); errors.Is(err, ErrEnded) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = nil
	srv.StartTLS()
	defer srv.Close()
	tr := srv.Client().Transport.(*http.Transport)
	tr.TLSClientConfig = &tls.Config{RootCAs: tr.TLSClientConfig.RootCAs, MinVersion: tls.VersionTLS12}

	res, err := srv.Client().Get(srv.URL + "/stream")
	if err != nil || res.ProtoMajor != 2 {
		t.Fatal(res, err)
	}
	defer res.Body.Close()
	waiting := make(chan int, 1)
	go func() {
		res, err := srv.Client().Post(srv.URL+"/silent", "text/plain", strings.NewReader("x"))
		if err != nil {
			waiting <- 0
			return
		}
		res.Body.Close()
		waiting <- res.StatusCode
	}()
	io.ReadFull(res.Body, make([]byte, 7))
	for len(u.received()) < 2 {
		time.Sleep(time.Millisecond)
	}
	close(ended)
	if n, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Errorf("the answer ends after %d bytes; want a cut", n)
	}
	if code := <-waiting; code != 401 {
		t.Errorf("status %d; want 401", code)
	}
}

func TestEndedLater(t *testing.T) {
	u := serveRaw(t, nil)
	ended := make(chan struct{})
	f := newFront(t, u.to(), frontOptions{ended: ended})
	c := dial(t, f.addr)
	br := bufio.NewReader(c)
	for range 3 { // the connection is as good as before
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
		if head, err := readHead(br); err != nil || status(head) != "200" {
			t.Fatalf("answer %q, %v", head, err)
		}
		io.CopyN(io.Discard, br, 2)
		if err := f.result(t); err != nil {
			t.Errorf("Forward: %v", err)
		}
	}
	close(ended)
}
