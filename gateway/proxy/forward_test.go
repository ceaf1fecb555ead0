package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloakroom/cloakroom/gateway/upstream"
)

func TestForwardRequest(t *testing.T) {
	u := serveRaw(t, nil)
	cfg := Config{Target: target("http://" + u.addr + "/base/"), StripPrefix: "/api"}
	f := newFront(t, cfg, frontOptions{bearer: "ATcanary"})
	got := send(t, f.addr, get("/api/%61/b%2bc?q=1", "Accept: text/x", "Accept-Encoding: br", "X-Two: 1", "X-Two: 2", "Cookie: a=1"))
	if status(got) != "200" || !strings.HasSuffix(got, "\r\n\r\nok") {
		t.Fatalf("answer %q", got)
	}
	head := u.last(t)
	if line, _, _ := strings.Cut(head, "\r\n"); line != "GET /base/a/b%2Bc?q=1 HTTP/1.1" {
		t.Errorf("request line %q", line)
	}
	for name, want := range map[string][]string{
		"Host": {u.addr}, "Accept": {"text/x"}, "Accept-Encoding": {"br"}, "X-Two": {"1", "2"}, "Cookie": {"a=1"},
		"Authorization": {"Bearer ATcanary"}, "X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"app.test"},
		"X-Forwarded-Proto": {"http"}, "User-Agent": nil, "Connection": nil,
	} {
		if got := values(head, name); !slices.Equal(got, want) {
			t.Errorf("%s = %q; want %q", name, got, want)
		}
	}
}

func TestQueryIsForwardedAsReceived(t *testing.T) {
	u := serveRaw(t, nil)
	f := newFront(t, u.to(), frontOptions{})
	for _, q := range []string{
		"?", "??", "?a;b=c", "?a=%zz&b=%", "?a=1&&=&b", "?x=/../%2e%2e//y", "?%61=%41+%2B", "?caf\xc3\xa9=\xff", `?a="<'>\`, "?" + strings.Repeat("a&", 12000),
	} {
		if got := status(send(t, f.addr, get("/p"+q))); got != "200" {
			t.Errorf("%.40q: status %s", q, got)
			continue
		}
		if line, _, _ := strings.Cut(u.last(t), "\r\n"); line != "GET /p"+q+" HTTP/1.1" {
			t.Errorf("%.40q became %.60q", q, line)
		}
	}
}

// The whole list of ambiguous targets, on the wire: 400, and the upstream hears
// nothing.
func TestAmbiguousTargetsOnTheWire(t *testing.T) {
	u := serveRaw(t, nil)
	f := newFront(t, Config{Target: target("http://" + u.addr), StripPrefix: "/svc-a"}, frontOptions{bearer: "ATcanary"})
	for _, tt := range ambiguousTargets {
		if tt.target == "" {
			continue
		}
		if got := send(t, f.addr, get(tt.target)); status(got) != "400" || strings.Contains(got, "Location") {
			t.Errorf("%s: %q: %.60q; want 400", tt.name, tt.target, got)
		}
	}
	if heads := u.received(); len(heads) != 0 {
		t.Errorf("the upstream received %q", heads)
	}
}

func TestA15HostsAreTheGatewaysAlone(t *testing.T) {
	u := serveRaw(t, nil)
	f := newFront(t, u.to(), frontOptions{})
	send(t, f.addr, get("/", "X-Forwarded-Host: evil.test", "X-Host: evil.test"))
	if got := values(u.last(t), "Host"); !slices.Equal(got, []string{u.addr}) {
		t.Errorf("Host = %q", got)
	}
	if got := values(u.last(t), "X-Forwarded-Host"); !slices.Equal(got, []string{"app.test"}) {
		t.Errorf("X-Forwarded-Host = %q", got)
	}
}

func TestMethods(t *testing.T) {
	u := serveRaw(t, nil)
	f := newFront(t, u.to(), frontOptions{bearer: "ATcanary"})
	for _, m := range []string{"TRACE", "CONNECT"} {
		if got := send(t, f.addr, request(m, "/x", "")); status(got) != "405" || f.result(t) != ErrMethod {
			t.Errorf("%s: %q; want 405", m, got)
		}
	}
	if n := len(u.received()); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
	for _, m := range []string{"HEAD", "OPTIONS", "DELETE", "PROPFIND", "X-OWN"} {
		send(t, f.addr, request(m, "/x", ""))
		if got := u.last(t); !strings.HasPrefix(got, m+" /x ") {
			t.Errorf("%s: %q", m, got)
		}
	}
}

func TestResponsePasses(t *testing.T) {
	tests := []struct{ name, raw, status, has string }{
		{"R-08 401 of the upstream's", "HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer\r\nContent-Length: 1\r\n\r\nx", "401", "Www-Authenticate: Bearer\r\n"},
		{"R-10 redirect to an inner host", "HTTP/1.1 302 Found\r\nLocation: http://u1:9000/x\r\nContent-Length: 0\r\n\r\n", "302", "Location: http://u1:9000/x\r\n"},
		{"R-10 redirect to another site", "HTTP/1.1 307 X\r\nLocation: //evil\r\nContent-Length: 0\r\n\r\n", "307", "Location: //evil\r\n"},
		{"coded body", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00", "200", "Content-Encoding: gzip\r\n"},
		{"range", "HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-0/2\r\nContent-Length: 1\r\n\r\nx", "206", "Content-Range: bytes 0-0/2\r\n"},
		{"not modified", "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n\r\n", "304", "Etag: \"x\"\r\n"},
		{"R-03 the operator's own business", "HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=0\r\nContent-Length: 0\r\n\r\n", "200", "Strict-Transport-Security"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u := serveRaw(t, answerWith(tt.raw))
			f := newFront(t, u.to(), frontOptions{bearer: "ATcanary"})
			got := send(t, f.addr, get("/"))
			if status(got) != tt.status || !strings.Contains(got, tt.has) || strings.Contains(got, "canary") {
				t.Errorf("answer %q; want %s with %q", got, tt.status, tt.has)
			}
			_, sent, _ := strings.Cut(tt.raw, "\r\n\r\n")
			if !strings.HasSuffix(got, "\r\n\r\n"+sent) {
				t.Errorf("answer %q; want the body %q", got, sent)
			}
			if n := len(u.received()); n != 1 {
				t.Errorf("%d requests; want 1", n)
			}
		})
	}
}

func TestContentTypeIsNotGuessed(t *testing.T) {
	u := serveRaw(t, answerWith("HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n<script></script"))
	f := newFront(t, u.to(), frontOptions{})
	if got := send(t, f.addr, get("/")); strings.Contains(got, "Content-Type") {
		t.Errorf("answer %q", got)
	}
}

// What must not pass, in whichever part of a response it comes.
const poison = "Set-Cookie: __Host-Http-cloakroom=EVIL\r\nset-cookie: __host-HTTP-cloakroom=; Max-Age=0; Path=/EVIL\r\nSet-Cookie: cloakroom=EVIL; Domain=app.test\r\n" +
	"Set-Cookie: theme=dark\r\nSet-Cookie: __Host-cloakroom-login-1=EVIL\r\nClear-Site-Data: \"EVIL\"\r\nAlt-Svc: h3=\"evil:443\"; EVIL\r\n" +
	"Authorization: EVIL\r\nX-Forwarded-Access-Token: EVIL\r\nX_Forwarded_User: EVIL\r\nX-BFF-User: EVIL\r\nSecure-Session-Registration: EVIL\r\nX-Kept: yes\r\n"

func TestResponseIsCleaned(t *testing.T) {
	for _, tt := range []struct{ name, raw string }{
		{"R-01 R-03 G-17 final", "HTTP/1.1 200 OK\r\n" + poison + "Content-Length: 2\r\n\r\nok"},
		{"R-01 informational", "HTTP/1.1 103 Early Hints\r\n" + poison + "\r\n" + okAnswer},
		{"R-01 trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Set-Cookie, X-Kept, Alt-Svc\r\n\r\n2\r\nok\r\n0\r\n" + poison + "\r\n"},
		{"R-01 unannounced trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n" + poison + "\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := serveRaw(t, answerWith(tt.raw))
			f := newFront(t, u.to(), frontOptions{})
			got := send(t, f.addr, get("/"))
			if !strings.Contains(got, "ok") || strings.Contains(got, "EVIL") {
				t.Errorf("answer %q", got)
			}
			if !strings.Contains(got, "Set-Cookie: theme=dark\r\n") || !strings.Contains(got, "X-Kept: yes\r\n") {
				t.Errorf("answer %q; want what is harmless", got)
			}
			if strings.Contains(got, "Trailer: ") && strings.Contains(got, "Alt-Svc") {
				t.Errorf("answer %q announces what is gone", got)
			}
		})
	}
}

func TestR05InformationalStorm(t *testing.T) {
	u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, _ *bufio.Reader) bool {
		for range 100_000 {
			if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nSet-Cookie: __Host-Http-cloakroom=EVIL\r\n\r\n"); err != nil {
				return false
			}
		}
		io.WriteString(c, okAnswer)
		return false
	})
	f := newFront(t, u.to(), frontOptions{})
	got := send(t, f.addr, get("/"))
	if n := strings.Count(got, "103 Early"); n > maxInformational || !strings.Contains(got, "HTTP/1.1 502") || strings.Contains(got, "EVIL") {
		t.Errorf("%d informational responses, then %q", n, got[max(0, len(got)-200):])
	}
	if err := f.result(t); !errors.Is(err, ErrUnreachable) {
		t.Errorf("Forward: %v", err)
	}
}

func TestInformationalNotToHTTP10(t *testing.T) {
	u := serveRaw(t, answerWith("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"+okAnswer))
	f := newFront(t, u.to(), frontOptions{})
	if got := send(t, f.addr, "GET / HTTP/1.0\r\nHost: app.test\r\n\r\n"); strings.Contains(got, "103") || status(got) != "200" {
		t.Errorf("answer %q", got)
	}
}

// finalCookie is what the gateway's wrapper does: it decides at the final
// header, and then no cache may keep the answer.
type finalCookie struct {
	http.ResponseWriter
	wrote bool
}

func (w *finalCookie) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *finalCookie) WriteHeader(code int) {
	if code >= 200 && !w.wrote {
		w.wrote = true
		NoStore(w.Header())
		w.Header().Add("Set-Cookie", "__Host-Http-cloakroom=next")
	}
	w.ResponseWriter.WriteHeader(code)
}

func TestK02CookieOnACacheableResponse(t *testing.T) {
	u := serveRaw(t, answerWith("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"+
		"HTTP/1.1 200 OK\r\nCache-Control: public, s-maxage=31536000\r\nCDN-Cache-Control: max-age=9\r\nSurrogate-Control: max-age=9\r\n"+
		"Expires: Thu, 01 Jan 2099 00:00:00 GMT\r\nSet-Cookie: a=1\r\nContent-Length: 2\r\n\r\nok"))
	f := newFront(t, u.to(), frontOptions{
		before: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Before", "yes") },
		wrap:   func(w http.ResponseWriter) http.ResponseWriter { return &finalCookie{ResponseWriter: w} },
	})
	early, final, ok := strings.Cut(send(t, f.addr, get("/")), "\r\n\r\n")
	if !ok || !strings.HasPrefix(early, "HTTP/1.1 103") || !strings.Contains(early, "Link: </a.css>") ||
		strings.Contains(early, "Set-Cookie") || strings.Contains(early, "X-Before") {
		t.Errorf("early %q", early)
	}
	if got := values(final, "Set-Cookie"); !slices.Equal(got, []string{"a=1", "__Host-Http-cloakroom=next"}) {
		t.Errorf("Set-Cookie = %q", got)
	}
	if got := values(final, "Cache-Control"); !slices.Equal(got, []string{"no-store"}) || !strings.Contains(final, "X-Before: yes") ||
		strings.Contains(final, "max-age") || strings.Contains(final, "Expires") || strings.Contains(final, "Link") {
		t.Errorf("final %q", final)
	}
}

func TestR06Truncation(t *testing.T) {
	head := "HTTP/1.1 200 OK\r\n"
	t.Run("Content-Length", func(t *testing.T) {
		u := serveRaw(t, answerWith(head+"Content-Length: 10\r\n\r\nhalf"))
		f := newFront(t, u.to(), frontOptions{})
		if got := send(t, f.addr, get("/")); !strings.Contains(got, "Content-Length: 10\r\n") || !strings.HasSuffix(got, "\r\n\r\nhalf") {
			t.Errorf("answer %q; want it to end where the upstream did", got)
		}
	})
	t.Run("chunked", func(t *testing.T) {
		u := serveRaw(t, answerWith(head+"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"))
		f := newFront(t, u.to(), frontOptions{})
		if got := send(t, f.addr, get("/")); !strings.HasSuffix(got, "4\r\nhalf\r\n") {
			t.Errorf("answer %q; want it without a last chunk", got)
		}
	})
	t.Run("bad chunk", func(t *testing.T) {
		u := serveRaw(t, answerWith(head+"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n"))
		f := newFront(t, u.to(), frontOptions{})
		if got := send(t, f.addr, get("/")); strings.Contains(got, "\r\n0\r\n") {
			t.Errorf("answer %q; want it without a last chunk", got)
		}
	})
	t.Run("delimited by the connection", func(t *testing.T) {
		u := serveRaw(t, answerWith(head+"\r\nhalf"))
		f := newFront(t, u.to(), frontOptions{})
		// Its end can't be told from a cut, so the connection ends with it.
		if got := send(t, f.addr, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"); !strings.Contains(got, "Connection: close\r\n") {
			t.Errorf("answer %q", got)
		}
	})
}

func TestR06AbortPropagates(t *testing.T) {
	u := serveRaw(t, answerWith("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"))
	got := make(chan any, 1)
	p, err := New(u.to())
	if err != nil {
		t.Fatal(err)
	}
	defer p.cfg.Transport.(*upstream.Pool).Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			got <- v
			panic(v)
		}()
		p.Forward(w, r, Call{Path: "/"})
	}))
	defer srv.Close()
	send(t, srv.Listener.Addr().String(), get("/"))
	if v := <-got; v != http.ErrAbortHandler {
		t.Errorf("recovered %v; want http.ErrAbortHandler", v)
	}
}

// the upstream closes a kept connection just as the request arrives.
func TestR07SentAtMostOnce(t *testing.T) {
	for _, tt := range []struct {
		name, method, body string
		lines              []string
		sent               int
		status             string
	}{
		{"POST", "POST", "x", []string{"Content-Length: 1"}, 1, "502"},
		{"POST without a body", "POST", "", []string{"Content-Length: 0"}, 1, "502"},
		{"POST with an idempotency key", "POST", "", []string{"Content-Length: 0", "Idempotency-Key: k1"}, 1, "502"},
		{"POST with the other key", "POST", "", []string{"Content-Length: 0", "X-Idempotency-Key: k1"}, 1, "502"},
		{"DELETE", "DELETE", "", nil, 1, "502"},
		{"GET", "GET", "", nil, 2, "200"},
	} {
		for _, relayed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, relayed: %v", tt.name, relayed), func(t *testing.T) {
				u := serveRaw(t, func(u *rawUpstream, head string, c net.Conn, _ *bufio.Reader) bool {
					if strings.Contains(head, "/second") && len(u.received()) == 2 {
						return false
					}
					io.WriteString(c, okAnswer)
					return true
				})
				cfg := u.to()
				if relayed {
					cfg.Transport = newTransport(t, nil)
				}
				f := newFront(t, cfg, frontOptions{})
				send(t, f.addr, get("/first"))
				got := send(t, f.addr, request(tt.method, "/second", tt.body, tt.lines...))
				heads := u.received()[1:]
				if status(got) != tt.status || len(heads) != tt.sent {
					t.Errorf("status %s, sent %d times; want %s and %d", status(got), len(heads), tt.status, tt.sent)
				}
				for _, line := range tt.lines {
					if name, value, _ := strings.Cut(line, ": "); strings.Contains(name, "Key") && !slices.Equal(values(heads[0], name), []string{value}) {
						t.Errorf("%s is lost: %q", name, heads[0])
					}
				}
			})
		}
	}
}

func TestForwardErrors(t *testing.T) {
	refusing, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + refusing.Addr().String()
	refusing.Close()

	silent := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, _ *bufio.Reader) bool {
		io.Copy(io.Discard, c)
		return false
	})
	raw := func(answer string) string { return "http://" + serveRaw(t, answerWith(answer)).addr }
	tests := []struct {
		name, target, request string
		timeout               time.Duration
		want                  error
		status                string
	}{
		{"connection refused", closed, get("/"), 0, ErrUnreachable, "502"},
		{"connection refused amid an upload", closed, request("POST", "/", "x", "Content-Length: 9"), 0, ErrUnreachable, "502"},
		{"closed amid an upload", raw(""), request("POST", "/", "x", "Content-Length: 9"), 0, ErrUnreachable, "502"},
		{"closed without a word", raw(""), get("/"), 0, ErrUnreachable, "502"},
		{"no HTTP", raw("SSH-2.0-x\r\n"), get("/"), 0, ErrUnreachable, "502"},
		{"half a header", raw("HTTP/1.1 200 OK\r\nX: "), get("/"), 0, ErrUnreachable, "502"},
		{"endless header", raw("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxResponseHeader+5000) + "\r\n\r\n"), get("/"), 0, ErrUnreachable, "502"},
		{"J-05 switches protocols unasked", raw("HTTP/1.1 101 X\r\n\r\nEVIL"), get("/"), 0, ErrUnreachable, "502"},
		{"J-05 switches protocols unasked, with a name", raw("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nEVIL"), get("/"), 0, ErrUnreachable, "502"},
		{"silence", "http://" + silent.addr, get("/"), 20 * time.Millisecond, ErrTimeout, "504"},
		{"silence after a body", "http://" + silent.addr, request("POST", "/", "x", "Content-Length: 1"), 20 * time.Millisecond, ErrTimeout, "504"},
		{"silence of both", "http://" + silent.addr, request("POST", "/", "x", "Content-Length: 9"), 20 * time.Millisecond, ErrTimeout, "504"},
		{"broken chunks from the client", "http://" + silent.addr, request("POST", "/", "zz\r\n", "Transfer-Encoding: chunked"), 0, ErrRequestBody, "400"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFront(t, Config{Target: target(tt.target), Timeout: tt.timeout}, frontOptions{bearer: "ATcanary"})
			got := send(t, f.addr, tt.request)
			err := f.result(t)
			if !errors.Is(err, tt.want) || status(got) != tt.status {
				t.Errorf("Forward: %v, answer %q; want %v and %s", err, got, tt.want, tt.status)
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("the error tells a token: %v", err)
			}
		})
	}
}

func TestRequestBodyLimit(t *testing.T) {
	u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, _ *bufio.Reader) bool {
		io.Copy(io.Discard, c)
		return false
	})
	f := newFront(t, u.to(), frontOptions{before: func(w http.ResponseWriter, r *http.Request) { r.Body = http.MaxBytesReader(w, r.Body, 3) }})
	send(t, f.addr, request("POST", "/", "4\r\n1234\r\n0\r\n\r\n", "Transfer-Encoding: chunked"))
	err := f.result(t)
	if limit, ok := errors.AsType[*http.MaxBytesError](err); !errors.Is(err, ErrRequestBody) || !ok || limit.Limit != 3 {
		t.Errorf("Forward: %v; want ErrRequestBody and the limit", err)
	}
}

func TestClientGone(t *testing.T) {
	gone := make(chan struct{})
	reached := make(chan struct{})
	u := serveRaw(t, func(_ *rawUpstream, _ string, c net.Conn, _ *bufio.Reader) bool {
		close(reached)
		io.Copy(io.Discard, c) // until the gateway hangs up
		close(gone)
		return false
	})
	f := newFront(t, u.to(), frontOptions{})
	c := dial(t, f.addr)
	io.WriteString(c, get("/"))
	<-reached
	c.Close()
	if err := f.result(t); err != context.Canceled {
		t.Errorf("Forward: %v; want context.Canceled", err)
	}
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("the upstream is still being asked")
	}
}

func TestClock(t *testing.T) {
	const after = time.Second
	t.Run("runs out", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var c clock
			late := 0
			c.start(after, func() { late++ })
			for range 5 { // a slow upload
				time.Sleep(after - time.Millisecond)
				c.wind()
			}
			time.Sleep(after + time.Millisecond)
			c.wind()
			time.Sleep(2 * after)
			synctest.Wait()
			if c.stop() || late != 1 {
				t.Errorf("late %d times; want once", late)
			}
		})
	})
	t.Run("stopped", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var c clock
			late := 0
			c.start(after, func() { late++ })
			if !c.stop() {
				t.Error("stopped late")
			}
			c.wind() // an upload that goes on beside the response
			time.Sleep(2 * after)
			synctest.Wait()
			if !c.stop() || late != 0 {
				t.Errorf("late %d times after it was stopped", late)
			}
		})
	})
}

func TestNewRefuses(t *testing.T) {
	for _, s := range []string{"", "/x", "ftp://u", "http://", "mailto:x", "http://a:b@u", "http://u/?x", "http://u?", "http://u/a/../b", "http://u//", "http://u/%2f", "http://u/#x"} {
		if _, err := New(Config{Target: target(s)}); err == nil {
			t.Errorf("New with target %q is no error", s)
		}
	}
	for _, s := range []string{"api", "/a//", "/%61", "/a?b"} {
		if _, err := New(Config{Target: target("http://u"), StripPrefix: s}); err == nil {
			t.Errorf("New with prefix %q is no error", s)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("New without a target is no error")
	}
}

func TestBearerIsRedacted(t *testing.T) {
	c := Call{Path: "/", Bearer: "ATcanary"}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "bearer", c.Bearer, "call", c)
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), fmt.Sprintf("%s %q %v", c.Bearer, c.Bearer, c.Bearer), log.String()} {
		if strings.Contains(s, "canary") {
			t.Errorf("printed as %s", s)
		}
	}
}

// canned answers without a network, to measure what is ours.
type canned struct{}

func (canned) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Request: r, ContentLength: 2, Body: io.NopCloser(strings.NewReader("ok")),
		Header: http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-cache"}, "Date": {"x"}, "Content-Length": {"2"}},
	}, nil
}

type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Flush()                      {}

func BenchmarkForward(b *testing.B) {
	r := httptest.NewRequest("GET", "/api/orders/17?page=2", nil)
	r.Header = http.Header{
		"Accept": {"application/json"}, "Accept-Encoding": {"gzip, deflate, br"}, "Accept-Language": {"en"}, "User-Agent": {"Mozilla/5.0"},
		"Referer": {"https://app.test/"}, "Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Dest": {"empty"},
		"Cookie": {"theme=dark; __Host-Http-cloakroom=" + strings.Repeat("x", 240)},
	}
	p, err := New(Config{Target: &url.URL{Scheme: "http", Host: "u"}, StripPrefix: "/api", OwnCookies: owned, Transport: canned{}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		path, _ := CanonicalPath("/api/orders/17?page=2")
		if err := p.Forward(&discard{make(http.Header)}, r, Call{Path: path, Bearer: "ATcanary"}); err != nil {
			b.Fatal(err)
		}
	}
}
