package attacks

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// misbehaviours are what a provider may do in place of an answer, at any of its
// endpoints.
var misbehaviours = map[string]http.HandlerFunc{
	"O-01 no byte":         func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	"O-01 a byte a second": drip,
	"O-02 reset":           func(w http.ResponseWriter, _ *http.Request) { raw(w, "") },
	"O-02 cut off": func(w http.ResponseWriter, _ *http.Request) {
		raw(w, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{\"a\":")
	},
	"O-02 not HTTP": func(w http.ResponseWriter, _ *http.Request) { raw(w, "SSH-2.0-OpenSSH_9.6\r\n\r\n") },
	"O-02 HTTP/2":   func(w http.ResponseWriter, _ *http.Request) { raw(w, "\x00\x00\x00\x04\x00\x00\x00\x00\x00") },
	"O-02 a huge header": func(w http.ResponseWriter, _ *http.Request) {
		raw(w, "HTTP/1.1 200 OK\r\nX-Large: "+strings.Repeat("x", 1<<20)+"\r\n\r\n{}")
	},
	"O-02 100 for ever": func(w http.ResponseWriter, _ *http.Request) {
		raw(w, strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 100_000))
	},
	"O-02 bad chunks": func(w http.ResponseWriter, _ *http.Request) {
		raw(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n")
	},
	"O-02 two lengths": func(w http.ResponseWriter, _ *http.Request) {
		raw(w, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ")
	},
	"O-03 empty":             says(200, "application/json", ""),
	"O-03 half an object":    says(200, "application/json", "{"),
	"O-03 HTML":              says(200, "text/html", "<html>not here</html>"),
	"O-03 HTML as JSON":      says(200, "application/json", "<html>"),
	"O-03 array":             says(200, "application/json", "[]"),
	"O-03 null":              says(200, "application/json", "null"),
	"O-03 NUL":               says(200, "application/json", "\x00"),
	"O-03 an empty object":   says(200, "application/json", "{}"),
	"O-03 numbers":           says(200, "application/json", `{"issuer":1,"access_token":1,"id_token":1,"keys":1,"sub":1}`),
	"O-03 names twice":       says(200, "application/json", `{"issuer":"a","issuer":"b","access_token":"a","access_token":"b","keys":[],"keys":[],"sub":"a","sub":"b"}`),
	"O-03 deep":              says(200, "application/json", strings.Repeat(`{"a":`, 50_000)),
	"O-03 100 MiB":           func(w http.ResponseWriter, _ *http.Request) { pour(w, 100<<20) },
	"O-03 endless":           func(w http.ResponseWriter, _ *http.Request) { pour(w, 1<<40) },
	"O-03 a gzip bomb":       bomb,
	"O-03 204":               says(204, "", ""),
	"O-03 206":               says(206, "application/json", "{}"),
	"O-03 500":               says(500, "text/html", "<html>RTcanary-echoed</html>"),
	"O-03 502":               says(502, "", ""),
	"O-03 an error as a 200": says(200, "application/json", `{"error":"server_error","error_description":"RTcanary-echoed"}`),
	"O-04 302":               sends(302), "O-04 303": sends(303), "O-04 307": sends(307), "O-04 308": sends(308),
}

func says(status int, kind, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// sends sends the client to a place of the provider's own that nobody has any
// business at.
func sends(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://"+r.Host+"/elsewhere")
		w.WriteHeader(status)
	}
}

// raw answers with a text, and resets the connection if there is none.
func raw(w http.ResponseWriter, text string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	_, _ = io.WriteString(conn, text)
	conn.Close()
}

func drip(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	for {
		_, _ = io.WriteString(w, " ")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-time.After(time.Second):
		}
	}
}

func pour(w http.ResponseWriter, n int64) {
	w.Header().Set("Content-Type", "application/json")
	chunk := []byte(strings.Repeat(" ", 64<<10))
	for ; n > 0; n -= int64(len(chunk)) {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func bomb(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	_, _ = z.Write([]byte(strings.Repeat(" ", 64<<20)))
	_ = z.Close()
}

// theatre is a provider of which any endpoint can be made to misbehave.
type theatre struct {
	*gatewaytest.Provider
	w         *rig.World
	mu        sync.Mutex
	at        map[gatewaytest.Endpoint]http.HandlerFunc // guarded by mu
	only      string                                    // of /token, a grant_type; guarded by mu
	elsewhere atomic.Int64
	seen      atomic.Int64 // requests that were misbehaved to
}

func newTheatre(t *testing.T, opts gatewaytest.Options, change func(rig.Config)) *theatre {
	t.Helper()
	th := &theatre{at: map[gatewaytest.Endpoint]http.HandlerFunc{}}
	front := httptest.NewUnstartedServer(th)
	opts.Issuer = "http://" + front.Listener.Addr().String()
	if opts.AutoLogin == nil {
		opts.AutoLogin = gatewaytest.As("alice")
	}
	th.Provider = gatewaytest.NewProvider(opts)
	front.Start()
	t.Cleanup(func() { front.CloseClientConnections(); front.Close() })
	c := th.Register(gatewaytest.Client{RedirectURIs: []string{rig.Origin + "/bff/callback"}, PostLogoutRedirectURIs: []string{rig.Origin + "/bff/logged-out"}})
	th.w = rig.New(t, rig.Setup{
		Provider: rig.Registration{Issuer: opts.Issuer, ClientID: c.ID, ClientSecret: c.Secret, ClientAuth: c.Auth, Scopes: []string{"openid", "offline_access"}},
		Change: func(c rig.Config) {
			c.Set("apps.0.provider.userinfo", true)
			if change != nil {
				change(c)
			}
		},
	})
	return th
}

func (th *theatre) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/elsewhere" {
		th.elsewhere.Add(1)
		return
	}
	th.mu.Lock()
	h, only := th.at[gatewaytest.Endpoint(r.URL.Path)], th.only
	th.mu.Unlock()
	if h != nil && r.URL.Path == "/token" && only != "" {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		if form, _ := url.ParseQuery(string(body)); form.Get("grant_type") != only {
			h = nil
		}
	}
	if h == nil {
		th.Provider.ServeHTTP(w, r)
		return
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 1<<20))
	th.seen.Add(1)
	h(w, r)
}

func (th *theatre) misbehave(at gatewaytest.Endpoint, how http.HandlerFunc) {
	th.mu.Lock()
	defer th.mu.Unlock()
	th.at = map[gatewaytest.Endpoint]http.HandlerFunc{at: how}
}

func (th *theatre) behave() { th.misbehave("", nil) }

// said is an answer of the gateway's.
type said struct {
	*http.Response
	body string
	took time.Duration
}

func (s said) String() string { return fmt.Sprintf("%s after %v: %.300q", s.Status, s.took, s.body) }

var plain = &http.Transport{DisableKeepAlives: true}

// ask sends a navigation to a replica.
func (th *theatre) ask(t *testing.T, g *rig.Gateway, target, cookie string) said {
	t.Helper()
	req := must(http.NewRequest("GET", "http://"+g.Public+target, nil))
	req.Host = "app.test"
	for name, v := range map[string]string{"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Accept": "text/html", "Cookie": cookie} {
		if v != "" {
			req.Header.Set(name, v)
		}
	}
	began := time.Now()
	resp, err := plain.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	return said{resp, string(b), time.Since(began)}
}

// begin goes as far as the provider's answer to a login; a refused one is the
// second result.
func (th *theatre) begin(t *testing.T, g *rig.Gateway) (back, cookie string, refused *said) {
	t.Helper()
	started := th.ask(t, g, "/bff/login?return_to=%2Flanding", "")
	if started.StatusCode != http.StatusSeeOther {
		return "", "", &started
	}
	cookie, _, _ = strings.Cut(started.Header.Get("Set-Cookie"), ";")
	th.w.Secret("a cookie", cookie[strings.Index(cookie, "=")+1:])
	resp, err := http.DefaultTransport.RoundTrip(must(http.NewRequest("GET", started.Header.Get("Location"), nil)))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	u, err := url.Parse(resp.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	th.w.Secret("code", u.Query().Get("code"))
	return u.RequestURI(), cookie, nil
}

// failsClean demands that a login came to nothing: a page that says so, within the
// deadline, no session, nothing of what the provider said, and nothing asked
// elsewhere.
func (th *theatre) failsClean(t *testing.T, name string, s said) {
	t.Helper()
	code := (&answer{Header: s.Header, Body: []byte(s.body)}).code()
	if !(s.StatusCode == 503 && code == "provider_unavailable" && s.Header.Get("Retry-After") != "") && !(s.StatusCode == 502 && code == "login_failed") {
		t.Errorf("%s: %v", name, s)
	}
	for _, line := range s.Header.Values("Set-Cookie") {
		if s.StatusCode == 503 || strings.HasPrefix(line, rig.SessionCookie) {
			t.Errorf("%s: it sets %.60s", name, line)
		}
	}
	if s.took > 12*time.Second {
		t.Errorf("%s: it took %v", name, s.took)
	}
	if strings.Contains(s.body, "canary") || strings.Contains(s.body, "not here") {
		t.Errorf("%s: %s", name, s.body)
	}
	if th.elsewhere.Load() > 0 {
		t.Errorf("%s: a redirect was followed", name)
	}
}

// O: whatever a provider answers, at each of its endpoints.
func TestO(t *testing.T) {
	t.Parallel()
	// served demands that somebody who is logged in notices nothing.
	served := func(t *testing.T, th *theatre, name string, b *rig.Browser, on *rig.Gateway) {
		t.Helper()
		for _, path := range []string{"/bff/token", "/api/orders", "/bff/user"} {
			began := time.Now()
			if r := b.Send(rig.Request{Method: "GET", Path: path, On: on}); r.Status != 200 || time.Since(began) > 2*time.Second {
				t.Errorf("%s: meanwhile %s: %s after %v", name, path, r, time.Since(began))
			}
		}
	}
	for _, e := range []gatewaytest.Endpoint{gatewaytest.EndpointDiscovery, gatewaytest.EndpointJWKS} {
		t.Run(strings.Trim(strings.ReplaceAll(string(e), "/", "_"), "_."), func(t *testing.T) {
			t.Parallel()
			th := newTheatre(t, gatewaytest.Options{AccessLife: time.Hour}, nil)
			b := th.w.NewBrowser()
			b.Login("bob")
			for name, how := range misbehaviours {
				if e == gatewaytest.EndpointJWKS && name == "O-03 HTML" {
					continue
				}
				th.misbehave(e, how)
				g := th.w.Start() // it knows nothing of the provider yet
				th.w.Gateways = th.w.Gateways[:1]
				g.WaitReady()
				back, cookie, refused := th.begin(t, g)
				if refused != nil {
					th.failsClean(t, name, *refused)
				} else {
					served(t, th, name, b, g)
					th.failsClean(t, name, th.ask(t, g, back, cookie))
				}
				served(t, th, name, b, g)
				g.Signal(9)
				<-g.Done()
			}
			if th.seen.Load() < int64(len(misbehaviours))-1 {
				t.Errorf("%d requests came to it", th.seen.Load())
			}
		})
	}
	for _, e := range []gatewaytest.Endpoint{gatewaytest.EndpointToken, gatewaytest.EndpointUserInfo} {
		t.Run(strings.Trim(string(e), "/"), func(t *testing.T) {
			t.Parallel()
			th := newTheatre(t, gatewaytest.Options{AccessLife: time.Hour}, nil)
			b := th.w.NewBrowser()
			b.Login("bob")
			g := th.w.Gateways[0]
			for name, how := range misbehaviours {
				back, cookie, refused := th.begin(t, g)
				if refused != nil {
					t.Fatalf("%s: %v", name, refused)
				}
				before := th.seen.Load()
				th.misbehave(e, how)
				done := make(chan said, 1)
				go func() { done <- th.ask(t, g, back, cookie) }()
				served(t, th, name, b, g)
				th.failsClean(t, name, <-done)
				th.behave()
				// net/http repeats a GET by itself where a connection that was kept has ended.
				if n := th.seen.Load() - before; n != 1 && !(e == gatewaytest.EndpointUserInfo && strings.HasPrefix(name, "O-02") && n == 2) {
					t.Errorf("%s: %d requests", name, n)
				}
				// Nothing is parked.
				if s := th.ask(t, g, "/bff/callback", cookie); s.StatusCode != http.StatusBadRequest {
					t.Errorf("%s: %v", name, s)
				}
			}
			th.w.NewBrowser().Login("carol")
		})
	}
	t.Run("revoke", func(t *testing.T) {
		t.Parallel()
		th := newTheatre(t, gatewaytest.Options{AccessLife: time.Hour}, nil)
		for name, how := range misbehaviours {
			if name == "O-03 204" || strings.HasPrefix(name, "O-03") && !strings.Contains(name, "50") && name != "O-03 endless" {
				continue // a success says nothing (RFC 7009 section 2.2)
			}
			b := th.w.NewBrowser()
			b.Login("bob")
			old := b.Clone()
			th.misbehave(gatewaytest.EndpointRevoke, how)
			began := time.Now()
			r := b.Fetch("POST", "/bff/logout")
			if r.Status != 200 || time.Since(began) > 2*time.Second {
				t.Errorf("%s: %s after %v", name, r, time.Since(began))
			}
			if r := old.Fetch("GET", "/bff/user"); r.Status != 401 {
				t.Errorf("%s: %s", name, r)
			}
		}
		if th.elsewhere.Load() > 0 {
			t.Error("a redirect was followed")
		}
	})
	// Of a refresh, one of each class: what the others say is read by the same eyes
	// (gateway/idp's tables), and each opens the breaker.
	for _, name := range []string{"O-01 no byte", "O-01 a byte a second", "O-02 cut off", "O-03 HTML", "O-03 endless", "O-03 a gzip bomb", "O-04 307"} {
		how := misbehaviours[name]
		t.Run("refresh "+name, func(t *testing.T) {
			t.Parallel()
			th := newTheatre(t, gatewaytest.Options{AccessLife: time.Second}, nil)
			th.only = "refresh_token"
			alice, bob := th.w.NewBrowser(), th.w.NewBrowser()
			alice.Login("alice")
			th.Change(func(o *gatewaytest.Options) { o.AccessLife = time.Hour })
			bob.Login("bob")
			cookie := alice.Cookie()
			g := th.w.Gateways[0]
			rig.Eventually(t, "alice's token has run out", func() bool {
				r := alice.Fetch("GET", "/bff/session")
				var s struct {
					Access time.Time `json:"access_token_expires_at"`
					Now    time.Time `json:"server_time"`
				}
				r.JSON(t, &s)
				return s.Now.After(s.Access)
			})
			th.misbehave(gatewaytest.EndpointToken, how)
			done := make(chan *rig.Response, 1)
			go func() { done <- alice.Send(rig.Request{Method: "POST", Path: "/bff/token"}) }()
			served(t, th, name, bob, g)
			for i, r := range []*rig.Response{<-done, alice.Fetch("GET", "/api/orders"), alice.Fetch("POST", "/bff/token")} {
				if code, _ := r.Problem(); r.Status != 503 || code != "provider_unavailable" || r.Header.Get("Retry-After") == "" || len(r.SetCookies) > 0 {
					t.Errorf("%d: %s", i, r)
				}
			}
			if r := alice.Fetch("GET", "/bff/session"); r.Status != 200 || alice.Cookie() != cookie {
				t.Errorf("the session: %s", r)
			}
			if n := th.seen.Load(); n != 1 || th.elsewhere.Load() > 0 {
				t.Errorf("it was presented %d times, and %d elsewhere", n, th.elsewhere.Load())
			}
		})
	}
}
