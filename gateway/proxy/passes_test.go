package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/upstream"
)

// Everything that HTTP has passes, whatever is spoken on either side.

// passes runs test for every pair of protocols: client's (0 is HTTP/1.1 without
// TLS), upstream's.
func passes(t *testing.T, h http.HandlerFunc, test func(t *testing.T, client *http.Client, base string, ours, theirs int)) {
	for _, up := range []struct {
		name, protocol string
		tls            bool
		major          int
	}{{"http", "", false, 1}, {"https", "http1", true, 1}, {"h2c", "h2c", false, 2}, {"h2", "", true, 2}} {
		for ours, client := range []string{"http", "https", "h2"} {
			t.Run(client+" to "+up.name, func(t *testing.T) {
				srv := httptest.NewUnstartedServer(h)
				srv.Config.Protocols = new(http.Protocols)
				srv.Config.Protocols.SetHTTP1(true)
				srv.Config.Protocols.SetHTTP2(up.tls)
				srv.Config.Protocols.SetUnencryptedHTTP2(!up.tls)
				srv.EnableHTTP2 = true
				if up.tls {
					srv.StartTLS()
				} else {
					srv.Start()
				}
				defer srv.Close()
				o := upstream.Options{Targets: []*url.URL{target(srv.URL)}, Protocol: up.protocol}
				if up.tls {
					o.TLS = srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
					o.TLS.NextProtos = nil
				}
				pool, err := upstream.New(o)
				if err != nil {
					t.Fatal(err)
				}
				defer pool.Close()
				p, err := New(Config{Target: target(srv.URL), Transport: pool, OwnCookies: owned})
				if err != nil {
					t.Fatal(err)
				}
				front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					path, _ := CanonicalPath(r.RequestURI)
					switch err := p.Forward(copying{w}, r, Call{Path: path, Ended: make(chan struct{})}); {
					case errors.Is(err, ErrRequestBody):
						w.WriteHeader(http.StatusBadRequest)
					case err != nil:
						w.WriteHeader(http.StatusBadGateway)
					}
				}))
				front.EnableHTTP2 = ours == 2
				if ours == 0 {
					front.Start()
				} else {
					front.StartTLS()
				}
				defer front.Close()
				client := front.Client()
				client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				client.Transport.(*http.Transport).DisableCompression = true
				client.Transport.(*http.Transport).ExpectContinueTimeout = patience
				client.Timeout = patience
				test(t, client, front.URL, ours, up.major)
			})
		}
	}
}

// copying wraps a ResponseWriter as a gateway does: it can always be read into,
// whatever the connection can.
type copying struct{ http.ResponseWriter }

func (w copying) ReadFrom(src io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, src) }
func (w copying) Unwrap() http.ResponseWriter           { return w.ResponseWriter }

func do(t *testing.T, c *http.Client, method, url string, body io.Reader, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	res, err := c.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: body: %v", method, url, err)
	}
	return res, string(b)
}

func TestPassesPlainThings(t *testing.T) {
	passes(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Proto", r.Proto)
		w.Header().Set("X-Seen", r.Method+" "+r.RequestURI+" "+r.Header.Get("Accept-Encoding")+" "+r.Header.Get("User-Agent"))
		switch r.URL.Path {
		case "/range":
			http.ServeContent(w, r, "x.txt", time.Unix(1e9, 0), strings.NewReader("0123456789"))
		case "/gzip":
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, "\x1f\x8b not really")
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/304":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(http.StatusNotModified)
		case "/302":
			w.Header().Set("Location", "//evil.test/x")
			w.WriteHeader(http.StatusFound)
		case "/head":
			w.Header().Set("Content-Length", "1234567")
		case "/large":
			w.Header().Set("Content-Length", "3000000")
			for range 30 {
				w.Write(bytes.Repeat([]byte("x"), 100_000))
			}
		default:
			b, _ := io.ReadAll(r.Body)
			w.Write(b)
		}
	}, func(t *testing.T, c *http.Client, base string, ours, theirs int) {
		res, _ := do(t, c, "GET", base+"/q%2b?a=%zz&b;c&&=%61+%2B/../", nil, "User-Agent", "ua/1")
		if got := res.Header.Get("X-Seen"); got != "GET /q%2B?a=%zz&b;c&&=%61+%2B/../  ua/1" || res.ProtoMajor != max(1, ours) || res.Header.Get("X-Proto") != fmt.Sprintf("HTTP/%d.%d", theirs, theirs%2) {
			t.Errorf("query: %q over %s and %s", got, res.Proto, res.Header.Get("X-Proto"))
		}
		if res, body := do(t, c, "GET", base+"/range", nil, "Range", "bytes=2-4"); res.StatusCode != 206 || body != "234" || res.Header.Get("Content-Range") != "bytes 2-4/10" {
			t.Errorf("range: %v %q", res, body)
		}
		if res, body := do(t, c, "GET", base+"/range", nil, "Range", "bytes=20-"); res.StatusCode != 416 {
			t.Errorf("bad range: %v %q", res, body)
		}
		if res, body := do(t, c, "GET", base+"/gzip", nil, "Accept-Encoding", "br;q=1, gzip"); res.Header.Get("Content-Encoding") != "gzip" || body != "\x1f\x8b not really" || !strings.Contains(res.Header.Get("X-Seen"), "br;q=1, gzip") {
			t.Errorf("compression: %v %q", res, body)
		}
		if res, body := do(t, c, "GET", base+"/204", nil); res.StatusCode != 204 || body != "" {
			t.Errorf("204: %v %q", res, body)
		}
		if res, body := do(t, c, "GET", base+"/304", nil, "If-None-Match", `"x"`); res.StatusCode != 304 || body != "" || res.Header.Get("Etag") != `"x"` {
			t.Errorf("304: %v %q", res, body)
		}
		if res, _ := do(t, c, "GET", base+"/302", nil); res.StatusCode != 302 || res.Header.Get("Location") != "//evil.test/x" {
			t.Errorf("redirect: %v", res)
		}
		if res, body := do(t, c, "HEAD", base+"/head", nil); res.StatusCode != 200 || body != "" || res.ContentLength != 1234567 {
			t.Errorf("HEAD: %v %q", res, body)
		}
		if res, body := do(t, c, "GET", base+"/large", nil); res.ContentLength != 3_000_000 || len(body) != 3_000_000 {
			t.Errorf("download: %d of %d bytes", len(body), res.ContentLength)
		}
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "PROPFIND"} {
			if _, body := do(t, c, method, base+"/echo", strings.NewReader("body")); body != "body" {
				t.Errorf("%s: echo %q", method, body)
			}
			if res, body := do(t, c, method, base+"/echo", nil); body != "" || res.StatusCode != 200 {
				t.Errorf("%s without a body: %v %q", method, res, body)
			}
		}
		big := strings.Repeat("0123456789abcdef", 1<<17) // 2 MiB, and of unknown length
		if _, body := do(t, c, "POST", base+"/echo", io.MultiReader(strings.NewReader(big))); body != big {
			t.Errorf("upload: %d bytes of %d", len(body), len(big))
		}
	})
}

func TestPassesTrailers(t *testing.T) {
	passes(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Announced, Set-Cookie")
		io.Copy(w, r.Body)
		w.Header().Set("X-Announced", r.Trailer.Get("X-Sum"))
		w.Header().Set("Set-Cookie", "cloakroom=EVIL")
		w.Header().Set(http.TrailerPrefix+"X-Late", "late")
		w.Header().Set(http.TrailerPrefix+"Alt-Svc", "EVIL")
	}, func(t *testing.T, c *http.Client, base string, _, _ int) {
		r, _ := http.NewRequest("POST", base+"/", io.MultiReader(strings.NewReader("body")))
		r.Trailer = http.Header{"X-Sum": {"42"}, "Cookie": {"EVIL"}}
		res, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if string(body) != "body" || err != nil || res.Trailer.Get("X-Announced") != "42" || res.Trailer.Get("X-Late") != "late" || len(res.Trailer) != 2 {
			t.Errorf("body %q, %v, trailers %v", body, err, res.Trailer)
		}
	})
}

func TestPassesEarlyHints(t *testing.T) {
	passes(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.Header().Set("Set-Cookie", "cloakroom=EVIL")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		io.WriteString(w, "ok")
	}, func(t *testing.T, c *http.Client, base string, _, _ int) {
		var early []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			early = append(early, fmt.Sprint(code, h))
			return nil
		}})
		r, _ := http.NewRequestWithContext(ctx, "GET", base+"/", nil)
		res, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		if len(early) != 1 || !strings.Contains(early[0], "103") || !strings.Contains(early[0], "</a.css>") || strings.Contains(early[0], "EVIL") || string(body) != "ok" || len(res.Header["Set-Cookie"]) > 0 || len(res.Header["Link"]) > 0 {
			t.Errorf("early %q, then %v %q", early, res.Header, body)
		}
	})
}

// unread is a body that nobody should ask for.
type unread struct{ read chan struct{} }

func (u unread) Read([]byte) (int, error) {
	close(u.read)
	return 0, io.EOF
}

func TestPassesExpectContinue(t *testing.T) {
	passes(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		io.Copy(w, r.Body)
	}, func(t *testing.T, c *http.Client, base string, ours, theirs int) {
		if _, body := do(t, c, "POST", base+"/yes", strings.NewReader("body"), "Expect", "100-continue"); body != "body" {
			t.Errorf("echo %q", body)
		}
		if ours == 2 || theirs == 2 {
			return // Go's HTTP/2 servers don't wait with what they say
		}
		body := unread{make(chan struct{})}
		r, _ := http.NewRequest("POST", base+"/no", body)
		r.Header.Set("Expect", "100-continue")
		r.ContentLength = 5
		res, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 417 {
			t.Errorf("status %d", res.StatusCode)
		}
		select {
		case <-body.read:
			t.Error("the client was told to go on")
		default:
		}
	})
}

// Both ways at once: each line is answered before the next is sent. Server-Sent
// Events, and gRPC's and gRPC-Web's streams, are this.
func TestPassesStreams(t *testing.T) {
	passes(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.Header().Set("Trailer", "Grpc-Status")
		_ = rc.Flush()
		for br := bufio.NewReader(r.Body); ; {
			line, err := br.ReadString('\n')
			if err != nil {
				break
			}
			io.WriteString(w, line)
			_ = rc.Flush()
		}
		w.Header().Set("Grpc-Status", "0")
	}, func(t *testing.T, c *http.Client, base string, _, _ int) {
		for _, kind := range []string{"text/event-stream", "application/grpc", "application/grpc-web+proto"} {
			pr, pw := io.Pipe()
			r, _ := http.NewRequest("POST", base+"/svc.Echo/Say", pr)
			r.Header.Set("Content-Type", kind)
			r.Header.Set("Te", "trailers")
			res, err := c.Do(r) // its header is there before anything is said
			if err != nil {
				t.Fatal(err)
			}
			br := bufio.NewReader(res.Body)
			for i := range 5 {
				line := fmt.Sprintf("line %d\n", i)
				io.WriteString(pw, line)
				if got, err := br.ReadString('\n'); got != line {
					t.Fatalf("%s: got %q, %v", kind, got, err)
				}
			}
			pw.Close()
			rest, err := io.ReadAll(br)
			res.Body.Close()
			if len(rest) > 0 || err != nil || res.Trailer.Get("Grpc-Status") != "0" || res.Header.Get("Content-Type") != kind {
				t.Errorf("%s: rest %q, %v, trailers %v", kind, rest, err, res.Trailer)
			}
		}
	})
}

func TestPassesTheClientsGoing(t *testing.T) {
	gone := make(chan struct{}, 1)
	passes(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/begun" {
			io.WriteString(w, "begun")
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		gone <- struct{}{}
	}, func(t *testing.T, c *http.Client, base string, _, _ int) {
		ctx, cancel := context.WithCancel(t.Context())
		r, _ := http.NewRequestWithContext(ctx, "GET", base+"/begun", nil)
		res, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		io.ReadFull(res.Body, make([]byte, 5))
		cancel()
		res.Body.Close()
		select {
		case <-gone:
		case <-time.After(patience):
			t.Fatal("the upstream is still being asked")
		}
	})
}

func TestPassesTheUpstreamsCut(t *testing.T) {
	passes(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", "10")
		}
		io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}, func(t *testing.T, c *http.Client, base string, _, _ int) {
		for _, path := range []string{"/length", "/chunks"} {
			res, err := c.Get(base + path)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err == nil || string(b) != "half" {
				t.Errorf("%s: %q, %v; want a cut", path, b, err)
			}
		}
	})
}

// An upload that is refused is answered, though the client isn't done.
func TestPassesAnEarlyRefusal(t *testing.T) {
	passes(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		io.WriteString(w, "too large")
	}, func(t *testing.T, c *http.Client, base string, _, _ int) {
		pr, pw := io.Pipe()
		defer pw.Close()
		go io.WriteString(pw, "a beginning")
		r, _ := http.NewRequest("POST", base+"/", pr)
		r.ContentLength = 1 << 20
		res, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != 413 || string(b) != "too large" || err != nil {
			t.Errorf("%d %q, %v", res.StatusCode, b, err)
		}
	})
}

// What the upstream has sent is with the client before the upstream goes on,
// however long or short it is.
func TestPassesWhatHasCome(t *testing.T) {
	parts := []int{1, 600, 5000, 40000, 600, 1, 200 << 10, 3, 700}
	size := 0
	for _, n := range parts {
		size += n
	}
	next := make(chan struct{})
	passes(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", strconv.Itoa(size))
		}
		for _, n := range append([]int{0}, parts...) {
			w.Write(bytes.Repeat([]byte("x"), n))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	}, func(t *testing.T, c *http.Client, base string, _, _ int) {
		for _, path := range []string{"/length", "/chunks"} {
			res, err := c.Get(base + path)
			if err != nil {
				t.Fatalf("%s: no header: %v", path, err)
			}
			goOn := func(after string) {
				select {
				case next <- struct{}{}:
				case <-time.After(patience):
					t.Fatalf("%s: the upstream's handler is over after %s", path, after)
				}
			}
			goOn("the header")
			for i, n := range parts {
				if got, err := io.ReadFull(res.Body, make([]byte, n)); err != nil {
					t.Fatalf("%s: part %d: %d bytes of %d, %v", path, i, got, n, err)
				}
				goOn(fmt.Sprint("part ", i))
			}
			if n, err := res.Body.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%s: %d more, %v", path, n, err)
			}
			res.Body.Close()
		}
	})
}

// A request without a body has none, whatever it comes over: it is the same on the
// wire, and is sent again where it may be.
func TestNoBodyOverHTTP2(t *testing.T) {
	u := serveRaw(t, func(u *rawUpstream, head string, c net.Conn, _ *bufio.Reader) bool {
		if strings.HasPrefix(head, "GET /second") && len(u.received()) == 2 {
			return false
		}
		io.WriteString(c, okAnswer)
		return true
	})
	for name, transport := range map[string]http.RoundTripper{"direct": nil, "relayed": newTransport(t, nil)} {
		t.Run(name, func(t *testing.T) {
			u.mu.Lock()
			u.heads = nil
			u.mu.Unlock()
			cfg := u.to()
			cfg.Transport = transport
			p, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if p.pool != nil {
				defer p.pool.Close()
			}
			front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if err := p.Forward(w, r, Call{Path: r.URL.Path}); err != nil {
					w.WriteHeader(http.StatusBadGateway)
				}
			}))
			front.EnableHTTP2 = true
			front.StartTLS()
			defer front.Close()
			client := front.Client()
			client.Timeout = patience
			for _, path := range []string{"/first", "/second"} {
				if res, body := do(t, client, "GET", front.URL+path, nil); res.StatusCode != 200 || body != "ok" || res.ProtoMajor != 2 {
					t.Errorf("%s: %d %q over HTTP/%d", path, res.StatusCode, body, res.ProtoMajor)
				}
			}
			if _, body := do(t, client, "POST", front.URL+"/third", http.NoBody); body != "ok" {
				t.Errorf("POST: %q", body)
			}
			heads := u.received()
			if len(heads) != 4 {
				t.Fatalf("%d requests; want 4: one was sent again", len(heads))
			}
			for i, head := range heads {
				if want := i == 3; len(values(head, "Content-Length")) > 0 != want || len(values(head, "Transfer-Encoding")) > 0 {
					t.Errorf("head %q", head)
				}
			}
		})
	}
}
