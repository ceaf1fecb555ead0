package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/config"
)

// shown is a front within the test, whose answers to /held wait.
type shown struct {
	*front
	t       *testing.T
	address string
	arrived chan struct{}
	release chan struct{}
}

func show(t *testing.T, cfg *config.Config) *shown {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &shown{t: t, address: l.Addr().String(), arrived: make(chan struct{}, 1), release: make(chan struct{})}
	s.front = newFront(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/held" {
			s.arrived <- struct{}{}
			<-s.release
		}
		_, _ = io.WriteString(w, r.Proto)
	}), slog.New(slog.DiscardHandler))
	s.use(cfg)
	t.Cleanup(s.close)
	return s
}

// line is one connection to it.
type line struct {
	net.Conn
	in *bufio.Reader
}

func (s *shown) dial() *line {
	s.t.Helper()
	c, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	return &line{c, bufio.NewReader(c)}
}

// ask sends a GET with further lines, and returns the answer.
func (l *line) ask(t *testing.T, path, more string) *http.Response {
	t.Helper()
	if _, err := io.WriteString(l, "GET "+path+" HTTP/1.1\r\nHost: app.test\r\n"+more+"\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(l.in, nil)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	late := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-poll.C:
		case <-late:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// Where a server's limit changes, another server has it; who is connected already is
// answered, and told to come back.
func TestFrontReplacesItsServer(t *testing.T) {
	first := &config.Config{Limits: config.Limits{HeaderBytes: 4096}}
	s := show(t, first)
	long := "X-Long: " + strings.Repeat("x", 20000) + "\r\n"
	kept, busy := s.dial(), s.dial()
	if resp := kept.ask(t, "/", ""); resp.StatusCode != 200 || resp.Close {
		t.Fatalf("%d, closed: %v", resp.StatusCode, resp.Close)
	}
	s.use(first)
	if resp := kept.ask(t, "/", ""); resp.StatusCode != 200 || resp.Close {
		t.Errorf("after no change: %d, closed: %v", resp.StatusCode, resp.Close)
	}
	if resp := s.dial().ask(t, "/", long); resp.StatusCode != 431 {
		t.Errorf("a long header: %d", resp.StatusCode)
	}
	held := make(chan *http.Response, 1)
	go func() { held <- busy.ask(t, "/held", "") }()
	<-s.arrived

	s.use(&config.Config{Limits: config.Limits{HeaderBytes: 16384}})
	if resp := s.dial().ask(t, "/", long); resp.StatusCode != 200 || resp.Close {
		t.Errorf("a long header where it is none any more: %d, closed: %v", resp.StatusCode, resp.Close)
	}
	if resp := kept.ask(t, "/", ""); resp.StatusCode != 200 || !resp.Close {
		t.Errorf("on a connection that was there: %d, closed: %v", resp.StatusCode, resp.Close)
	}
	if _, err := kept.in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("it is not closed: %v", err)
	}

	// A server that has nobody left is forgotten; this one has.
	s.use(&config.Config{Limits: config.Limits{HeaderBytes: 8192}})
	if n := len(s.before); n != 2 || s.before[0].limits != first.Limits {
		t.Errorf("%d servers before this one", n)
	}
	// The process waits for what is open anywhere.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a request open: %v", err)
	}
	close(s.release)
	if resp := <-held; resp.StatusCode != 200 {
		t.Errorf("the open request: %d", resp.StatusCode)
	}
	if err := s.shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	for _, old := range s.before {
		if !old.over() {
			t.Error("a connection is left")
		}
	}
	s.use(first)
	if s.current.Load().limits == first.Limits {
		t.Error("it serves again")
	}
}

// Servers that nobody is connected to any more are not kept.
func TestFrontForgetsServers(t *testing.T) {
	s := show(t, &config.Config{Limits: config.Limits{HeaderBytes: 4096}})
	for n := range 5 {
		l := s.dial()
		l.ask(t, "/", "")
		was := s.current.Load()
		s.use(&config.Config{Limits: config.Limits{HeaderBytes: 4097 + n}})
		l.Close()
		eventually(t, "its last connection is closed", was.over)
	}
	if n := len(s.before); n != 1 {
		t.Errorf("%d are kept", n)
	}
}

// TLS comes and goes with the configuration, on one listener.
func TestFrontTurnsTLSOnAndOff(t *testing.T) {
	certFile, keyFile := selfSigned(t)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	plain := &config.Config{Limits: config.Limits{HeaderBytes: 4096}}
	secure := &config.Config{Limits: plain.Limits, Certificate: &cert}
	s := show(t, plain)
	old := s.dial()
	old.ask(t, "/", "")
	secured := client(t)

	s.use(secure)
	resp, proto := fetch(t, secured, "https://"+s.address+"/", "shop.test")
	if resp.StatusCode != 200 || proto != "HTTP/2.0" {
		t.Errorf("on: %d %s", resp.StatusCode, proto)
	}
	if resp := s.dial().ask(t, "/", ""); resp.StatusCode != 400 {
		t.Errorf("a stranger to TLS: %d", resp.StatusCode)
	}
	if resp := old.ask(t, "/", ""); resp.StatusCode != 200 || !resp.Close {
		t.Errorf("who was there: %d, closed: %v", resp.StatusCode, resp.Close)
	}

	s.use(plain)
	if resp := s.dial().ask(t, "/", ""); resp.StatusCode != 200 {
		t.Errorf("off: %d", resp.StatusCode)
	}
	if resp, proto := fetch(t, secured, "https://"+s.address+"/", "shop.test"); resp.StatusCode != 200 || proto != "HTTP/2.0" {
		t.Errorf("who was there by TLS: %d %s", resp.StatusCode, proto)
	}
}

// A listener that fails for good ends the process; one that has no files left goes on.
func TestFrontFails(t *testing.T) {
	broken := errors.New("broken")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := newFront(refusing{l, broken}, http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	f.use(&config.Config{})
	if err := <-f.failed; !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	f.close()
}
