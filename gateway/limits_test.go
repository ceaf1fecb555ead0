package gateway_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/session"
)

// limited is an app with limits on its routes.
func limited(a *gateway.App) {
	up := a.Routes[0].Upstream
	a.Routes = append(a.Routes,
		gateway.Route{Path: "/api/small", Upstream: up, MaxBody: 10},
		gateway.Route{Path: "/api/few", Upstream: up, MaxConcurrent: 2},
		gateway.Route{Path: "/api/brief", Upstream: up, Deadline: 300 * time.Millisecond},
	)
}

// Of one session, alice's, whoever asks.
func (b *browser) lines() string {
	return "Host: " + host + "\r\nCookie: " + b.cookies(request{}) + "\r\nX-BFF: 1\r\nSec-Fetch-Site: same-origin\r\n"
}

// A body that is too large is 413: before anything is asked of Redis or of the
// upstream where its length is told, else as soon as it is known.
func TestMaxBody(t *testing.T) {
	w := newWorld(t, limited)
	b := w.browser(w.replica())
	b.login()
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) bool {
		got, err := io.ReadAll(r.Body)
		if err != nil {
			return true
		}
		fmt.Fprintf(rw, "%d bytes", len(got))
		return true
	})
	chunked := "Transfer-Encoding: chunked\r\n\r\n"
	for _, test := range []struct {
		name, rest string
		status     int
		early      bool
	}{
		{"none", "\r\n", 200, false},
		{"as large as it may be", "Content-Length: 10\r\n\r\n0123456789", 200, false},
		{"a byte more", "Content-Length: 11\r\n\r\n0123456789a", 413, true},
		{"as large as it gets", "Content-Length: 9223372036854775807\r\n\r\n", 413, true},
		{"a byte more, expected", "Content-Length: 11\r\nExpect: 100-continue\r\n\r\n", 413, true},
		{"chunks", chunked + "5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n", 200, false},
		{"chunks of a byte more", chunked + "5\r\n01234\r\n6\r\n56789a\r\n0\r\n\r\n", 413, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			commands, reached := w.redisCommands(), len(w.upstream.requests())
			a := w.raw(b.at, "POST /api/small HTTP/1.1\r\n"+b.lines()+"Connection: close\r\n"+test.rest)
			if code, _ := a.problem(); a.status != test.status || (a.status == 413) != (code == "too_large") {
				t.Fatalf("%d %s: %s", a.status, code, a.body)
			}
			if test.early && (w.redisCommands() != commands || len(w.upstream.requests()) != reached) {
				t.Error("somebody was asked first")
			}
		})
	}
	// Nobody's body is read on behalf of who may not send it.
	want(t, w.browser(b.at).fetch("POST", "/api/small"), 401, "login_required")
}

func TestMaxConcurrent(t *testing.T) {
	w := newWorld(t, limited)
	r := w.replica()
	b := w.browser(r)
	b.login()
	w.upstream.streams(t)
	first, second := b.stream("/api/few/events", ""), b.stream("/api/few/ws", "")
	a := b.fetch("GET", "/api/few/x")
	want(t, a, 503, "upstream_busy")
	if a.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After: %q", a.header.Get("Retry-After"))
	}
	want(t, b.fetch("GET", "/api/x"), 200) // another route has room
	first.conn.Close()
	eventually(t, "a place is free again", func() bool { return b.fetch("GET", "/api/few/x").status == 200 })
	second.conn.Close()
	eventually(t, "and another", func() bool {
		s, err := b.tryStream("/api/few/events", "")
		if err == nil {
			defer s.conn.Close()
		}
		return err == nil && s.resp.StatusCode == 200 && b.fetch("GET", "/api/few/x").status == 200
	})
}

// What isn't over by its route's deadline is ended, whoever is slow.
func TestDeadline(t *testing.T) {
	w := newWorld(t, limited)
	b := w.browser(w.replica())
	b.login()
	w.upstream.streams(t)
	want(t, b.fetch("GET", "/api/brief/x"), 200)
	want(t, b.fetch("GET", "/api/brief/wait"), 504, "upstream_timeout")
	events := b.stream("/api/brief/events", "")
	if rest, err := io.ReadAll(events.resp.Body); err == nil {
		t.Errorf("the stream ended well, with %q", rest)
	}
	ws := b.stream("/api/brief/ws", "")
	head := make([]byte, 4)
	if _, err := io.ReadFull(ws.r, head); err != nil || head[0] != 0x88 || int(head[2])<<8|int(head[3]) != 1001 {
		t.Errorf("the WebSocket got % x, %v", head, err)
	}

	// A client that doesn't read: its connection is cut. What the kernel holds for
	// it is far less than this.
	over := make(chan error, 1)
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) bool {
		var err error
		for n := 0; n < 4096 && err == nil; n++ {
			_, err = rw.Write(make([]byte, 16<<10))
		}
		over <- err
		return true
	})
	conn, err := net.Dial("tcp", b.at.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, "GET /api/brief/x HTTP/1.1\r\n"+b.lines()+"\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-over; err == nil {
		t.Error("the upstream could send it all")
	}
	if n, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Errorf("all of it came, %d bytes", n)
	}
	// A connection that is kept is as good as new.
	w.upstream.answers(nil)
	want(t, b.fetch("GET", "/api/brief/x"), 200)
}

// G-13: a header that is too large is 431, a problem like any other, before
// anything is asked of anybody.
func TestG13HeaderBytes(t *testing.T) {
	w := newWorld(t)
	w.served = func(s *gateway.Served) { s.HeaderBytes = 8 << 10 }
	b := w.browser(w.replica())
	b.login()
	for _, test := range []struct {
		name, line string
		status     int
	}{
		{"small", "X-A: b\r\n", 200},
		{"a long line", "X-A: " + strings.Repeat("b", 8<<10) + "\r\n", 431},
		{"many lines", strings.Repeat("X-A: b\r\n", 1100), 431},
		{"many names", func() string {
			var out strings.Builder
			for i := range 1000 {
				fmt.Fprintf(&out, "X-%d: b\r\n", i)
			}
			return out.String()
		}(), 431},
	} {
		t.Run(test.name, func(t *testing.T) {
			commands, reached := w.redisCommands(), len(w.upstream.requests())
			a := w.raw(b.at, "GET /api/x HTTP/1.1\r\n"+b.lines()+test.line+"Connection: close\r\n\r\n")
			if code, _ := a.problem(); a.status != test.status || (a.status == 431) != (code == "headers_too_large") {
				t.Fatalf("%d %s: %s", a.status, code, a.body)
			}
			if test.status == 431 && (w.redisCommands() != commands || len(w.upstream.requests()) != reached) {
				t.Error("somebody was asked first")
			}
		})
	}
	if a := w.raw(b.at, "GET /api/"+strings.Repeat("x", 8<<10)+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n"); a.status != 431 {
		t.Errorf("a long path: %d", a.status)
	}
}

// What has two readings is 400, and what is too large 413 or 431, to a browser
// whose ticket opens a session: nothing is asked of Redis or of the upstream.
func TestRefusedBeforeAnyWork(t *testing.T) {
	w := newWorld(t, limited)
	w.served = func(s *gateway.Served) { s.HeaderBytes = 8 << 10 }
	b := w.browser(w.replica())
	b.login()
	for _, test := range []struct {
		name, target string
		status       int
	}{
		{"H-01 encoded slash", "/api%2fx", 400},
		{"H-02 dots", "/api/../x", 400},
		{"H-02 encoded dots", "/api/%2e%2e/x", 400},
		{"H-05 two slashes", "/api//x", 400},
		{"H-06 backslash", `/api\x`, 400},
		{"H-06 encoded backslash", "/api%5cx", 400},
		{"H-07 parameters", "/api/..;/x", 400},
		{"H-10 NUL", "/api/%00", 400},
		{"H-10 bad escape", "/api/%zz", 400},
		{"H-08 fragment", "/api/x#y", 400},
		{"nothing there", "/else", 404},
	} {
		t.Run(test.name, func(t *testing.T) {
			commands, reached := w.redisCommands(), len(w.upstream.requests())
			a := w.raw(b.at, "GET "+test.target+" HTTP/1.1\r\n"+b.lines()+"Connection: close\r\n\r\n")
			if a.status != test.status {
				t.Errorf("%d: %s", a.status, a.body)
			}
			if w.redisCommands() != commands || len(w.upstream.requests()) != reached {
				t.Error("somebody was asked first")
			}
		})
	}
}

// Every answer for an https origin has the header once, and in our words.
func TestHSTS(t *testing.T) {
	const hsts = "max-age=31536000"
	w := newWorld(t, func(a *gateway.App) { a.HSTS = hsts })
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) bool {
		rw.Header()["Strict-Transport-Security"] = []string{"max-age=0", "max-age=1"}
		return false
	})
	b := w.browser(w.replica())
	b.login()
	for _, a := range []answer{
		b.fetch("GET", "/api/x"), b.fetch("GET", "/bff/user"), b.fetch("GET", "/else"), b.fetch("GET", "/api/x", "Sec-Fetch-Site: cross-site"),
		b.visit("/page/x", "none"), w.raw(b.at, "GET /api//x HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n"),
	} {
		if got := a.header.Values("Strict-Transport-Security"); !slices.Equal(got, []string{hsts}) {
			t.Errorf("%v: %q", a, got)
		}
	}
	if a := w.raw(b.at, "GET / HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n"); a.header.Get("Strict-Transport-Security") != "" {
		t.Error("we speak for another host")
	}

	plain := newWorld(t)
	plain.upstream.answers(func(rw http.ResponseWriter, r *http.Request) bool {
		rw.Header().Set("Strict-Transport-Security", "max-age=1")
		return false
	})
	p := plain.browser(plain.replica())
	if a := p.fetch("GET", "/public/x"); a.header.Get("Strict-Transport-Security") != "max-age=1" {
		t.Errorf("without one of ours the upstream's is %q", a.header.Get("Strict-Transport-Security"))
	}
	if a := p.fetch("GET", "/else"); a.header.Get("Strict-Transport-Security") != "" {
		t.Error("HSTS that nobody asked for")
	}
}

// An access log is a line a request at level info, without what it must not tell.
func TestAccessLog(t *testing.T) {
	w := newWorld(t)
	w.options = func(o *gateway.Options) { o.Access = o.Log }
	b := w.browser(w.replica())
	b.login()
	want(t, b.fetch("GET", "/api/very-private?also=this"), 200)
	want(t, b.fetch("POST", "/bff/token"), 200)
	if w.log.find(`"msg":"request","endpoint":"route","app":"shop","trace_id"`) == "" {
		t.Error("no line of a route")
	}
	line := w.log.find(`"level":"INFO","msg":"request","endpoint":"token","app":"shop","trace_id"`)
	if line == "" {
		t.Fatal("no line")
	}
	var told struct {
		Trace   string `json:"trace_id"`
		Method  string
		Address string
		Status  int
		Bytes   int64
		Took    time.Duration
		SID     string
	}
	if err := json.Unmarshal([]byte(line), &told); err != nil {
		t.Fatal(err)
	}
	if _, err := session.ParseSID(told.SID); err != nil || len(told.Trace) != 32 || told.Method != "POST" || told.Address == "" || told.Status != 200 || told.Bytes == 0 || told.Took <= 0 {
		t.Errorf("the line tells %+v (%v)", told, err)
	}
	if a := w.raw(b.at, "GET / HTTP/1.1\r\nHost: nobody.test\r\nConnection: close\r\n\r\n"); a.status != 421 {
		t.Errorf("nobody's host: %d", a.status)
	}
	line = w.log.find(`"level":"INFO","msg":"request","endpoint":"none","trace_id"`)
	if line == "" || strings.Contains(line, `"app"`) || strings.Contains(line, `"sid"`) {
		t.Errorf("of no app: %q", line)
	}
	if w.log.find("very-private") != "" || w.log.find("also=this") != "" {
		t.Error("a path or a query is in the log")
	}
}
