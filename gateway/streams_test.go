package gateway_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/session"
)

// streams makes the upstream hold on to what it is asked: a WebSocket or an event
// stream is opened and kept, and /wait answers nothing until the client has gone.
func (u *upstream) streams(t testing.TB) {
	u.answers(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, "/ws"):
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return true
			}
			defer conn.Close()
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n\x81\x02hi")
			io.Copy(io.Discard, rw)
		case strings.HasSuffix(r.URL.Path, "/events"):
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: hi\n\n")
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case strings.HasSuffix(r.URL.Path, "/wait"):
			<-r.Context().Done()
		default:
			return false
		}
		return true
	})
}

// stream is a response under way.
type stream struct {
	conn net.Conn
	r    *bufio.Reader
	resp *http.Response
	ws   bool
}

// stream opens a WebSocket (…/ws) or another response that stays, with the
// browser's cookie or a bearer.
func (b *browser) stream(path, bearer string) *stream {
	b.t.Helper()
	s, err := b.tryStream(path, bearer)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *browser) tryStream(path, bearer string) (*stream, error) {
	conn, err := net.Dial("tcp", b.at.addr)
	if err != nil {
		return nil, err
	}
	b.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	s := &stream{conn: conn, r: bufio.NewReader(conn), ws: strings.HasSuffix(path, "/ws")}
	text := "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n"
	if bearer != "" {
		text += "Authorization: Bearer " + bearer + "\r\n"
	} else {
		text += "Cookie: " + b.cookies(request{}) + "\r\nOrigin: " + origin + "\r\n"
	}
	if s.ws {
		text += "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eDEyMzQ1Njc4OTAxMjM0NQ==\r\n"
	}
	if _, err := io.WriteString(conn, text+"\r\n"); err != nil {
		return nil, err
	}
	if s.resp, err = http.ReadResponse(s.r, &http.Request{Method: "GET"}); err != nil {
		return nil, err
	}
	first := make([]byte, 4)
	if s.ws {
		_, err = io.ReadFull(s.r, first)
	} else {
		_, err = io.ReadFull(s.resp.Body, first)
	}
	if err != nil || s.resp.StatusCode >= 300 {
		return nil, fmt.Errorf("%s: %d %v", path, s.resp.StatusCode, err)
	}
	return s, nil
}

// over waits for the end, and returns a WebSocket's close code; 0: it was cut
// without one. An event stream must have broken off.
func (s *stream) over() (code int, err error) {
	defer s.conn.Close()
	if !s.ws {
		if _, err := io.Copy(io.Discard, s.resp.Body); err == nil {
			return 0, errors.New("the stream ended as if it were whole")
		} else if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			return 0, err
		}
		return 0, nil
	}
	var head [2]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return 0, err
	}
	body := make([]byte, head[1]&0x7f)
	if _, err := io.ReadFull(s.r, body); err != nil || head[0] != 0x88 || len(body) < 2 {
		return 0, fmt.Errorf("frame %x %q %v", head, body, err)
	}
	return int(binary.BigEndian.Uint16(body)), nil
}

// J-04: whoever ends a session, on whatever replica, ends what it has open.
func TestJ04StreamsEnd(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(w *world, b *browser, sid session.SID)
	}{
		{"logout", func(w *world, b *browser, _ session.SID) { want(t, b.fetch("POST", "/bff/logout"), 200) }},
		{"by sid", func(w *world, b *browser, sid session.SID) {
			if err := b.at.keeper.End(t.Context(), &session.App{Name: "shop"}, sid, session.ReasonRevoked); err != nil {
				t.Error(err)
			}
		}},
		{"all of the app", func(w *world, b *browser, _ session.SID) {
			if err := b.at.keeper.EndApp(t.Context(), &session.App{Name: "shop", AbsoluteTimeout: time.Hour}); err != nil {
				t.Error(err)
			}
		}},
		{"absolute timeout", func(w *world, _ *browser, _ session.SID) { w.pass(12 * time.Hour) }},
		{"idle timeout", func(w *world, _ *browser, _ session.SID) { w.pass(30 * time.Minute) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newMintWorld(t, func(a *gateway.App) { a.Session.CacheTTL = 5 * time.Second })
			w.upstream.streams(t)
			here, there := w.listening(), w.listening()
			b := w.browser(here)
			b.login()
			sid, _ := session.ParseSID(b.fetch("GET", "/bff/session").field("sid"))
			token := b.fetch("POST", "/bff/token").field("access_token")
			other := b.copy()
			other.at = there
			var open []*stream
			for _, at := range []*browser{b, other} {
				open = append(open, at.stream("/api/ws", ""), at.stream("/api/events", ""),
					at.stream("/both/ws", token), at.stream("/both/events", token))
			}
			if strings.HasSuffix(test.name, "timeout") {
				<-time.After(1200 * time.Millisecond) // they have been looked at
			}
			start := time.Now()
			test.end(w, b, sid)
			for i, s := range open {
				code, err := s.over()
				if want := map[bool]int{true: 4401}[s.ws]; err != nil || code != want {
					t.Errorf("stream %d: closed with %d, %v", i, code, err)
				}
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// The session ends before the upstream has answered: 401 with the reason, on the
// replica that didn't end it too.
func TestEndedBeforeTheAnswer(t *testing.T) {
	w := newWorld(t, relaying, func(a *gateway.App) { a.Session.CacheTTL = 5 * time.Second })
	w.upstream.streams(t)
	here, there := w.listening(), w.listening()
	b := w.browser(here)
	b.login()
	token := b.fetch("POST", "/bff/token").field("access_token")
	other := b.copy()
	other.at = there
	asks := []func() (answer, error){
		func() (answer, error) { return b.copy().try("GET", "/api/wait") },
		func() (answer, error) { return other.try("GET", "/api/wait") },
		func() (answer, error) { return b.copy().try("GET", "/bearer/wait", "Authorization: Bearer "+token) },
		func() (answer, error) {
			return other.copy().try("POST", "/bearer/wait", "Authorization: Bearer "+token)
		},
	}
	answers, before := make([]answer, len(asks)), len(w.upstream.requests())
	var under sync.WaitGroup
	for i, ask := range asks {
		under.Go(func() {
			var err error
			if answers[i], err = ask(); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "all wait at the upstream", func() bool { return len(w.upstream.requests()) == before+len(asks) })
	want(t, b.fetch("POST", "/bff/logout"), 200)
	under.Wait()
	for i, a := range answers {
		if i < 2 {
			want(t, a, 401, "login_required", "logged_out")
		} else {
			want(t, a, 401, "token_invalid")
		}
		if len(a.header["Set-Cookie"]) > 0 {
			t.Errorf("%d sets a cookie", i)
		}
	}
}

// What is open is no activity, and what another tab does is: the stream of a
// session that is in use stays.
func TestStreamOutlivesIdleTimeoutOfItsOpening(t *testing.T) {
	w := newMintWorld(t)
	w.upstream.streams(t)
	here, there := w.listening(), w.listening()
	b := w.browser(here)
	b.login()
	s := b.stream("/api/ws", "")
	<-time.After(1200 * time.Millisecond) // it has been looked at
	tab := b.copy()
	tab.at = there
	w.pass(29 * time.Minute)
	want(t, tab.fetch("GET", "/bff/user"), 200)
	w.pass(10 * time.Minute)
	<-time.After(1200 * time.Millisecond)
	s.conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := s.r.Peek(1); !isTimeout(err) {
		t.Fatalf("closed: %v", err)
	}
	s.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	w.pass(20 * time.Minute)
	if code, err := s.over(); code != 4401 || err != nil {
		t.Errorf("%d %v", code, err)
	}
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// A replica whose channel is cut misses the end; the next look tells. While Redis
// doesn't answer at all, nothing is told for a few seconds, and then a stream is
// closed as one that may open again.
func TestDeafReplica(t *testing.T) {
	for _, test := range []struct {
		name  string
		deaf  func(w *world, p *tap)
		bound time.Duration
		code  int
	}{
		{"channel cut", func(w *world, _ *tap) { w.redis.CLI("CLIENT", "KILL", "TYPE", "pubsub") }, 3 * time.Second, 4401},
		{"channel half-open", func(_ *world, p *tap) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.mute = true
		}, 4 * time.Second, 4401},
		{"Redis stopped", func(w *world, _ *tap) { w.redis.Stop() }, 12 * time.Second, 1001},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newMintWorld(t, func(a *gateway.App) { a.Session.CacheTTL = 5 * time.Second })
			w.upstream.streams(t)
			p := newTap(t, w.redis.Addr())
			w.redisAddr = p.Addr().String()
			b := w.browser(w.listening())
			b.login()
			sid, _ := session.ParseSID(b.fetch("GET", "/bff/session").field("sid"))
			token := b.fetch("POST", "/bff/token").field("access_token")
			ws, events, bearer := b.stream("/api/ws", ""), b.stream("/api/events", ""), b.stream("/both/ws", token)
			<-time.After(1200 * time.Millisecond)
			start := time.Now()
			test.deaf(w, p)
			if test.code == 4401 {
				// The end is written and told to nobody: as by a replica whose message is
				// lost in the gap.
				if err := silentlyEnd(w, sid); err != nil {
					t.Fatal(err)
				}
			}
			for i, s := range []*stream{ws, events, bearer} {
				want := map[bool]int{true: test.code}[s.ws]
				if code, err := s.over(); err != nil || code != want {
					t.Errorf("stream %d: %d %v", i, code, err)
				}
			}
			if took := time.Since(start); took > test.bound {
				t.Errorf("it took %v", took)
			}
			if test.code == 1001 {
				want(t, b.fetch("GET", "/api/x"), 503, "store_unavailable")
				want(t, b.bearer("GET", "/both/x", token), 503, "store_unavailable")
				w.redis.Cont()
				eventually(t, "it is served again", func() bool { return b.fetch("GET", "/api/x").status == 200 })
				want(t, b.bearer("GET", "/both/x", token), 200)
				return
			}
			want(t, b.bearer("GET", "/both/x", token), 401, "token_invalid")
			want(t, b.fetch("GET", "/api/x"), 401, "login_required")
		})
	}
}

// silentlyEnd writes a session's tombstone as the script does, and publishes
// nothing.
func silentlyEnd(w *world, sid session.SID) error {
	w.redis.CLI("SETRANGE", "cloakroom:s:{"+sid.String()+"}", "1", "\x02")
	w.redis.CLI("SETRANGE", "cloakroom:s:{"+sid.String()+"}", "2", "\x04")
	return nil
}

// A false word on the channel closes streams, and ends nothing.
func TestFalseEvent(t *testing.T) {
	w := newMintWorld(t)
	w.upstream.streams(t)
	b := w.browser(w.listening())
	b.login()
	sid := b.fetch("GET", "/bff/session").field("sid")
	answered, before := make(chan answer, 1), len(w.upstream.requests())
	go func() {
		a, _ := b.copy().try("GET", "/api/wait")
		answered <- a
	}()
	eventually(t, "it waits", func() bool { return len(w.upstream.requests()) == before+1 })
	w.redis.CLI("PUBLISH", "cloakroom:events", "end "+sid)
	want(t, <-answered, 503, "store_unavailable")
	want(t, b.fetch("GET", "/api/x"), 200)
	if code, err := b.stream("/api/ws", "").quiet(); err != nil {
		t.Error(code, err)
	}
}

// quiet reports that nothing happens for a moment.
func (s *stream) quiet() (int, error) {
	s.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if b, err := s.r.Peek(1); !isTimeout(err) {
		return int(b[0]), fmt.Errorf("it says %v", err)
	}
	return 0, nil
}
