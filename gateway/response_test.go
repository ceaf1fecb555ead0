package gateway

import (
	"bufio"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// wrapped serves one answer through the wrapper, with a successor on its way,
// over a real connection.
func wrapped(t *testing.T, may bool, answer func(w *response, r *http.Request), edit ...func(*http.Request) *http.Request) (*http.Response, string) {
	t.Helper()
	a := testApp(t, "shop")
	g := New(&session.Keeper{}, Options{})
	g.mayHandOut = func(*session.Handout) bool { return may }
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w := &response{ResponseWriter: rw, g: g, app: a, received: time.Now(), successor: &session.Handout{Ticket: newTicket()}}
		answer(w, r)
	}))
	defer srv.Close()
	r, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range edit {
		r = f(r)
	}
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func mustRing(t testing.TB) *session.Keyring {
	t.Helper()
	ring, err := session.NewKeyring(session.NewServerKey())
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func handsOut(resp *http.Response) bool {
	return slices.ContainsFunc(resp.Cookies(), func(c *http.Cookie) bool { return c.Name == sessionCookie })
}

// bare is a gateway for an answer that needs none.
func bare() *Gateway {
	return &Gateway{log: slog.New(slog.DiscardHandler), metrics: newMetrics(nil), now: time.Now}
}

func TestResponseHandsOut(t *testing.T) {
	for _, test := range []struct {
		name   string
		may    bool
		answer func(w *response, r *http.Request)
		status int
		want   bool
	}{
		{"body without a header", true, func(w *response, r *http.Request) { io.WriteString(w, "x") }, 200, true},
		{"header alone", true, func(w *response, r *http.Request) { w.WriteHeader(204) }, 204, true},
		{"upstream's own 404", true, func(w *response, r *http.Request) { w.WriteHeader(404) }, 404, true},
		{"flush before the body", true, func(w *response, r *http.Request) { w.Flush(); io.WriteString(w, "x") }, 200, true},
		{"flush by a controller", true, func(w *response, r *http.Request) { http.NewResponseController(w).Flush() }, 200, true},
		{"second header is ignored", true, func(w *response, r *http.Request) { w.WriteHeader(201); w.WriteHeader(500) }, 201, true},
		{"not any more", false, func(w *response, r *http.Request) { io.WriteString(w, "x") }, 200, false},
		{"refusal", true, func(w *response, r *http.Request) { w.g.fail(w, r, session.ErrNoSession) }, 401, false},
		{"refusal, upstream's trouble", true, func(w *response, r *http.Request) { w.g.fail(w, r, io.ErrUnexpectedEOF) }, 500, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp, _ := wrapped(t, test.may, test.answer)
			if resp.StatusCode != test.status || handsOut(resp) != test.want {
				t.Errorf("status %d, handed out %v; want %d, %v", resp.StatusCode, handsOut(resp), test.status, test.want)
			}
			if handsOut(resp) && resp.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("Cache-Control: %q beside a Set-Cookie", resp.Header.Get("Cache-Control"))
			}
		})
	}
}

// The question is asked when the header is written: an upload that took longer
// than the hold must not take the browser back to an older ticket (N-06).
func TestResponseAsksAtTheFinalHeader(t *testing.T) {
	resp, _ := wrapped(t, true, func(w *response, r *http.Request) {
		w.Header().Set("X-Slow", "upstream")
		w.g.mayHandOut = func(*session.Handout) bool { return false }
		w.WriteHeader(200)
	})
	if handsOut(resp) {
		t.Error("a successor left after its time")
	}
}

// K-02: an upstream that wants its answer kept by caches can't have that and the
// cookie.
func TestResponseK02(t *testing.T) {
	cacheable := func(w *response, r *http.Request) {
		for name, value := range map[string]string{
			"Cache-Control": "public, s-maxage=31536000", "CDN-Cache-Control": "max-age=3600", "Expires": "Thu, 01 Jan 2037 00:00:00 GMT",
			"Surrogate-Control": "max-age=3600", "Cloudflare-CDN-Cache-Control": "max-age=3600", "ETag": `"x"`,
		} {
			w.Header().Set(name, value)
		}
		io.WriteString(w, "x")
	}
	resp, _ := wrapped(t, true, cacheable)
	if got := resp.Header.Values("Cache-Control"); !handsOut(resp) || len(got) != 1 || got[0] != "no-store" {
		t.Errorf("handed out %v, Cache-Control %q", handsOut(resp), got)
	}
	for _, name := range []string{"CDN-Cache-Control", "Expires", "Surrogate-Control", "Cloudflare-CDN-Cache-Control"} {
		if v := resp.Header.Get(name); v != "" {
			t.Errorf("%s: %s", name, v)
		}
	}
	resp, _ = wrapped(t, false, cacheable)
	if got := resp.Header.Get("Cache-Control"); got != "public, s-maxage=31536000" {
		t.Errorf("without a cookie the upstream's answer was changed: %q", got)
	}
}

// 1xx headers carry no cookie: the one that comes after them does.
func TestResponseInformational(t *testing.T) {
	early := make(chan http.Header, 1)
	resp, _ := wrapped(t, true, func(w *response, r *http.Request) {
		w.Header().Set("Link", "</x.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
	}, func(r *http.Request) *http.Request {
		return r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				early <- http.Header(h)
				return nil
			},
		}))
	})
	if h := <-early; h.Get("Link") == "" || h.Get("Set-Cookie") != "" || !handsOut(resp) {
		t.Errorf("103 had %v, 200 handed out: %v", h, handsOut(resp))
	}
}

func TestResponseUpgrade(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer func(w *response)
	}{
		{"101 written", func(w *response) { w.WriteHeader(http.StatusSwitchingProtocols) }},
		{"hijacked", func(w *response) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n")
			w.Header().Write(rw)
			io.WriteString(rw, "\r\n")
			rw.Flush()
			conn.Close()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			noted := make(chan int, 1)
			resp, _ := wrapped(t, true, func(w *response, r *http.Request) { test.answer(w); noted <- w.status })
			if status := <-noted; resp.StatusCode != http.StatusSwitchingProtocols || status != http.StatusSwitchingProtocols || handsOut(resp) {
				t.Errorf("status %d (noted %d), handed out %v", resp.StatusCode, status, handsOut(resp))
			}
		})
	}
}

func TestResponseServesFiles(t *testing.T) {
	name := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(name, []byte(strings.Repeat("0123456789", 1<<16)), 0o600); err != nil {
		t.Fatal(err)
	}
	noted := make(chan int64, 1)
	resp, body := wrapped(t, true, func(w *response, r *http.Request) {
		f, err := os.Open(name)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		http.ServeContent(w, r, "big", time.Time{}, f)
		noted <- w.bytes
	})
	if n := <-noted; len(body) != 10<<16 || n != 10<<16 || !handsOut(resp) {
		t.Errorf("%d bytes, noted %d, handed out %v", len(body), n, handsOut(resp))
	}
	if _, ok := http.ResponseWriter(&response{}).(io.ReaderFrom); !ok {
		t.Error("a file can't go from the kernel to the kernel")
	}
}

// An error after the header has begun can't be answered: the answer is cut off,
// so that nobody takes it for a whole one.
func TestResponseCutOff(t *testing.T) {
	g := New(&session.Keeper{}, Options{})
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w := &response{ResponseWriter: rw, g: g, received: time.Now()}
		defer g.finish(w, r)
		io.WriteString(w, "half of it")
		w.Flush()
		g.fail(w, r, io.ErrUnexpectedEOF)
	}))
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(bufio.NewReader(resp.Body)); err == nil {
		t.Errorf("read %q without an error", body)
	}
}
