package upstream

import (
	"bufio"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// script is a connection to an upstream that says the same whatever it is asked: to
// each request the next of its answers, each in parts, and then the end.
type script struct {
	net.Conn
	mu      sync.Mutex
	asked   chan struct{} // closed by the first request
	once    sync.Once
	answers [][]string // guarded by mu
	parts   []string   // of the current answer; guarded by mu
}

func newScript(answers ...[]string) *script {
	return &script{asked: make(chan struct{}), answers: answers}
}

// inParts cuts an answer up: the first part has first bytes, each other one then.
func inParts(raw string, first, then int) (parts []string) {
	for n := max(1, first); len(raw) > n; n = max(1, then) {
		parts, raw = append(parts, raw[:n]), raw[n:]
	}
	return append(parts, raw)
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.answers) > 0 && strings.HasSuffix(string(p), "\r\n\r\n") {
		s.parts, s.answers = append(s.parts, s.answers[0]...), s.answers[1:]
	}
	s.once.Do(func() { close(s.asked) })
	return len(p), nil
}

func (s *script) Read(p []byte) (int, error) {
	<-s.asked
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.parts) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.parts[0])
	if s.parts[0] = s.parts[0][n:]; s.parts[0] == "" {
		s.parts = s.parts[1:]
	}
	return n, nil
}

func (s *script) Close() error {
	s.once.Do(func() { close(s.asked) })
	return nil
}

// quiet reports whether nothing can be read before the next request.
func (s *script) quiet() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.parts) == 0
}

func (*script) SetDeadline(time.Time) error      { return nil }
func (*script) SetReadDeadline(time.Time) error  { return nil }
func (*script) SetWriteDeadline(time.Time) error { return nil }
func (*script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

// idleScript makes s an idle connection of a pool's.
func idleScript(p *Pool, s *script) {
	c := &conn{Conn: s, a: p.addresses[0], raw: quietConn{}}
	c.look = func(uintptr) { c.quiet = s.quiet() }
	p.addresses[0].keep(c)
}

// FuzzAnswers lets ours and net/http's client read the same. Ours may refuse what
// net/http reads, and close what it keeps, and never the other way round; what both
// read, both read alike. Whatever it was, the next request gets its own answer.
func FuzzAnswers(f *testing.F) {
	log.SetOutput(io.Discard) // net/http tells of what nobody asked for
	for _, raw := range []string{
		answerOK, answerOK + "x", answerOK + answerOK, ok11 + "\r\nabc", ok11 + "Content-Length: 5\r\n\r\nabc",
		ok11 + chunkedLine + "Trailer: A\r\n\r\n3;x\r\nabc\r\n0\r\nA: b\r\n\r\n", ok11 + chunkedLine + "\r\n0\r\n\r\n" + answerOK,
		ok11 + chunkedLine + "Content-Length: 2\r\n\r\n0\r\n\r\n", ok11 + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nLink: </a>\r\n\r\n" + answerOK, "HTTP/1.1 102 X\r\nContent-Length: 3\r\n\r\n" + answerOK, "HTTP/1.0 100 \r\nContent-Length:\r\n\r\n" + answerOK,
		"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nabc",
		"HTTP/1.1 204 X\r\n\r\n", "HTTP/1.1 204 X\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 304 X\r\nContent-Length: 2\r\n\r\n", "HTTP/1.1 205 X\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 205 X\r\n\r\n",
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nConnection: a, close\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nConnection: a\r\nConnection: CLOSE\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
		ok11 + "A: b\r\n c\r\nContent-Length: 2\r\n\r\nok", "\r\n" + answerOK, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\r\nok",
	} {
		f.Add(raw, false, 1<<10, 1<<10)
		f.Add(raw, true, 1<<10, 1)
		f.Add(raw, false, len(raw)/2, 1)
		f.Add(raw, false, 1, 7)
	}
	target := &url.URL{Scheme: "http", Host: "u.test"}
	const second = "second"
	next := []string{ok11 + "Content-Length: 6\r\n\r\n" + second}
	f.Fuzz(func(t *testing.T, raw string, head bool, first, then int) {
		if raw == "" || len(raw) > 1<<16 {
			return // a connection that is closed is another matter
		}
		method := http.MethodGet
		if head {
			method = http.MethodHead
		}
		parts := inParts(raw, first, then)

		p, err := New(Options{Targets: []*url.URL{target}})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		idleScript(p, newScript(next))
		ours := newScript(parts, next)
		idleScript(p, ours)
		early := &call{}
		x := &Exchange{Method: method, Caller: early}
		body, err := get(p, x)
		kept := p.idle() == 2
		if n := beyond(method, raw); kept && ours.quiet() && n > 0 {
			t.Fatalf("keeps a connection on which %d more bytes came", n)
		}
		if got, err := get(p, &Exchange{}); got != second || err != nil {
			t.Fatalf("the next answer is %q, %v", got, err)
		}

		theirs := overNetHTTP(t, method, newScript(parts, next))
		if theirs.err != nil {
			if err == nil || kept {
				t.Fatalf("read %d %q %q, kept: %v; net/http says %v", x.Status, x.Head.Fields, body, kept, theirs.err)
			}
			return
		}
		if kept && !theirs.kept {
			t.Fatal("keeps a connection that net/http closes")
		}
		if err != nil {
			if !strings.HasPrefix(theirs.body, body) {
				t.Fatalf("a part %q; net/http's whole is %q", body, theirs.body)
			}
			return // refused, or cut
		}
		if x.Status != theirs.status || body != theirs.body || !slices.Equal(early.early, theirs.early) {
			t.Fatalf("%v %d %q; net/http's %v %d %q", early.early, x.Status, body, theirs.early, theirs.status, theirs.body)
		}
		sameHeader(t, x.Head.Fields, theirs.header)
		trailer := make(http.Header)
		for _, f := range x.Trailers {
			trailer[f.Name] = append(trailer[f.Name], f.Value)
		}
		for name, lines := range theirs.trailer {
			if len(lines) > 0 && !slices.Equal(trailer[name], lines) {
				t.Fatalf("trailer %s %q; net/http's %q", name, trailer[name], lines)
			}
		}
	})
}

// beyond returns how many bytes follow an answer.
func beyond(method, raw string) int {
	rest := strings.NewReader(raw)
	br := bufio.NewReaderSize(rest, 1<<16)
	for {
		res, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			return 0
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return 0
		}
		if res.StatusCode >= 200 {
			return br.Buffered() + rest.Len()
		}
	}
}

// readAnswer is what net/http makes of an answer.
type readAnswer struct {
	early           []int
	status          int
	header, trailer http.Header
	body            string
	kept            bool
	err             error
}

func overNetHTTP(t *testing.T, method string, s *script) (a readAnswer) {
	tr := &http.Transport{
		DisableCompression: true, MaxResponseHeaderBytes: maxHead,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return s, nil },
	}
	defer tr.CloseIdleConnections()
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		PutIdleConn:    func(err error) { a.kept = err == nil },
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error { a.early = append(a.early, code); return nil },
	})
	r, err := http.NewRequestWithContext(ctx, method, "http://u.test/", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := tr.RoundTrip(r)
	if err != nil {
		a.err = err
		return a
	}
	defer res.Body.Close()
	if a.status = res.StatusCode; a.status == http.StatusSwitchingProtocols {
		a.err = errSwitched
		return a
	}
	b, err := io.ReadAll(res.Body)
	a.header, a.trailer, a.body, a.err = res.Header, res.Trailer, string(b), err
	return a
}
