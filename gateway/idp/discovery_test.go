package idp_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
)

const wellKnown = "/.well-known/openid-configuration"

func TestDiscovery(t *testing.T) {
	set := func(name string, v any) func(*fake) {
		return func(f *fake) { f.metadata[name] = v }
	}
	raw := func(status int, body string) func(*fake) {
		return func(f *fake) { f.on(wellKnown, answer(status, body)) }
	}
	for _, row := range []struct {
		name  string
		spoil func(*fake)
		want  error
	}{
		{"fine", func(*fake) {}, nil},
		{"endpoints on another host", set("token_endpoint", "https://tokens.example/t"), nil},
		{"no algorithms named", set("id_token_signing_alg_values_supported", nil), nil},
		{"B-08 no S256 named", set("code_challenge_methods_supported", []string{"plain"}), nil},
		{"L-16 issuer of another", set("issuer", "https://evil.example"), idp.ErrRejected},
		{"L-16 issuer with slash", func(f *fake) { f.metadata["issuer"] = f.srv.URL + "/" }, idp.ErrRejected},
		{"L-16 no issuer", set("issuer", nil), idp.ErrRejected},
		{"L-16 issuer an array", func(f *fake) { f.metadata["issuer"] = []string{f.srv.URL} }, idp.ErrRejected},
		{"L-16 http token endpoint", set("token_endpoint", "http://tokens.example/t"), idp.ErrRejected},
		{"L-16 metadata service", set("jwks_uri", "http://169.254.169.254/keys"), idp.ErrRejected},
		{"L-16 http logout", set("end_session_endpoint", "http://id.example/"), idp.ErrRejected},
		{"L-16 file", set("userinfo_endpoint", "file:///etc/passwd"), idp.ErrRejected},
		{"L-16 javascript", set("authorization_endpoint", "javascript:alert(1)"), idp.ErrRejected},
		{"L-16 credentials in an endpoint", set("token_endpoint", "https://a:b@id.example/"), idp.ErrRejected},
		{"L-16 endpoint with fragment", set("authorization_endpoint", "https://id.example/#x"), idp.ErrRejected},
		{"L-16 endpoint a number", set("token_endpoint", 1), idp.ErrRejected},
		{"L-16 no token endpoint", set("token_endpoint", nil), idp.ErrRejected},
		{"L-16 iss support a string", set("authorization_response_iss_parameter_supported", "true"), idp.ErrRejected},
		{"L-16 symmetric algorithms only", set("id_token_signing_alg_values_supported", []string{"HS256", "none"}), idp.ErrRejected},
		{"L-16 algorithms not strings", set("id_token_signing_alg_values_supported", []any{nil}), idp.ErrRejected},
		{"L-16 wrong content type", func(f *fake) {
			f.on(wellKnown, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				w.Write([]byte(`{"issuer":"` + f.srv.URL + `"}`))
			})
		}, idp.ErrRejected},
		{"O-04 redirect", func(f *fake) {
			f.on(wellKnown, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/evil", http.StatusFound) })
		}, idp.ErrRejected},
		{"not found", raw(404, ""), idp.ErrRejected},
		{"O-03 empty", raw(200, ""), idp.ErrUnavailable},
		{"O-03 cut off", raw(200, "{"), idp.ErrUnavailable},
		{"O-03 array", raw(200, "[]"), idp.ErrUnavailable},
		{"O-03 NUL", raw(200, "\x00"), idp.ErrUnavailable},
		{"O-03 issuer twice", raw(200, `{"issuer":"a","issuer":"b"}`), idp.ErrUnavailable},
		{"O-03 too large", raw(200, `{"a":"`+strings.Repeat("x", 2<<20)+`"}`), idp.ErrUnavailable},
		{"500", raw(500, ""), idp.ErrUnavailable},
		{"429", raw(429, ""), idp.ErrUnavailable},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			row.spoil(f)
			p := f.provider()
			wantKind(t, p.Discover(context.Background()), row.want)
			if p.Ready() != (row.want == nil) {
				t.Errorf("Ready() = %v", p.Ready())
			}
			if len(f.requests("/evil")) > 0 {
				t.Error("a redirect was followed")
			}
		})
	}
}

// AZ-2, AZ-9: what a provider says that doesn't go with what is sent here is told.
func TestDoubts(t *testing.T) {
	for _, row := range []struct {
		name  string
		more  map[string]any
		wants []string
	}{
		{"none", nil, nil},
		{"PKCE not named", map[string]any{"code_challenge_methods_supported": nil}, []string{"S256"}},
		{"PKCE plain", map[string]any{"code_challenge_methods_supported": []string{"plain"}}, []string{"S256"}},
		{"PKCE a text", map[string]any{"code_challenge_methods_supported": "S256"}, []string{"S256"}},
		{"pushed requests allowed", map[string]any{"require_pushed_authorization_requests": false}, nil},
		{"pushed requests only", map[string]any{"require_pushed_authorization_requests": true}, []string{"RFC 9126"}},
		{"client authentication not named", map[string]any{"token_endpoint_auth_methods_supported": nil}, nil},
		{"another client authentication", map[string]any{"token_endpoint_auth_methods_supported": []string{"private_key_jwt"}}, []string{"client_secret_basic"}},
		{"all", map[string]any{"code_challenge_methods_supported": []string{}, "require_pushed_authorization_requests": true,
			"token_endpoint_auth_methods_supported": []string{}}, []string{"S256", "client_secret_basic", "RFC 9126"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			f.metadata["code_challenge_methods_supported"] = []string{"plain", "S256"}
			f.metadata["token_endpoint_auth_methods_supported"] = []string{"client_secret_post", "client_secret_basic"}
			for name, v := range row.more {
				f.metadata[name] = v
			}
			p := f.provider()
			if got := p.Doubts(); got != nil {
				t.Errorf("before anything is known: %q", got)
			}
			wantKind(t, p.Discover(context.Background()), nil)
			got := p.Doubts()
			if len(got) != len(row.wants) {
				t.Fatalf("%q, want %q", got, row.wants)
			}
			for i, want := range row.wants {
				if !strings.Contains(got[i], want) || !strings.Contains(f.log.String(), want) {
					t.Errorf("%q, want %q; log %s", got[i], want, f.log)
				}
			}
			if len(row.wants) == 0 && f.log.String() != "" {
				t.Errorf("log %s", f.log)
			}
		})
	}
}

func TestDiscoveryOfHTTPSIssuerRefusesLoopbackHTTP(t *testing.T) {
	// L-16: a provider on the network that points at our own loopback.
	f := newFake(t)
	var tr roundTripper = func(r *http.Request) (*http.Response, error) {
		return nil, errors.New("not reached")
	}
	p := f.provider(func(c *idp.Config) { c.Issuer, c.Transport = "https://id.example", tr })
	err := idp.ParseMetadata(p, `{"issuer":"https://id.example","authorization_endpoint":"https://id.example/a",
		"token_endpoint":"http://127.0.0.1:6379/","jwks_uri":"https://id.example/k"}`)
	wantKind(t, err, idp.ErrRejected)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestDiscoveryIsCoalescedAndRateLimited(t *testing.T) {
	f := newFake(t)
	gate := make(chan struct{})
	f.on(wellKnown, func(w http.ResponseWriter, r *http.Request) {
		<-gate
		w.WriteHeader(503)
	})
	p := f.provider()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { wantKind(t, p.Discover(context.Background()), idp.ErrUnavailable) })
	}
	close(gate)
	wg.Wait()
	for range 50 {
		wantKind(t, p.Discover(context.Background()), idp.ErrUnavailable)
	}
	if n := len(f.requests(wellKnown)); n != 1 {
		t.Errorf("%d fetches within the interval, want 1", n)
	}
	// The provider is back: the next fetch after the interval serves.
	f.on(wellKnown, nil)
	f.advance(5 * time.Second)
	wantKind(t, p.Discover(context.Background()), nil)
	if n := len(f.requests(wellKnown)); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
}

func TestDiscoveryOutlivesItsFirstCaller(t *testing.T) {
	f := newFake(t)
	gate, arrived := make(chan struct{}), make(chan struct{})
	f.on(wellKnown, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-gate
		f.mu.Lock()
		delete(f.handle, wellKnown)
		f.mu.Unlock()
		f.ServeHTTP(w, r)
	})
	p := f.provider()
	ctx, cancel := context.WithCancel(context.Background())
	first := make(chan error)
	go func() { first <- p.Discover(ctx) }()
	<-arrived
	cancel()
	if err := <-first; !errors.Is(err, idp.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("the one who left got %v", err)
	}
	close(gate)
	wantKind(t, p.Discover(context.Background()), nil)
}

func TestDiscoveryKeepsTheLastGood(t *testing.T) {
	for _, row := range []struct {
		name  string
		spoil func(*fake)
	}{
		{"L-16 lies", func(f *fake) { f.metadata["issuer"] = "https://evil.example" }},
		{"down", func(f *fake) { f.on(wellKnown, answer(500, "")) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			fetched := make(chan struct{}, 10)
			p := f.provider(func(c *idp.Config) {
				inner := c.Transport
				c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
					defer func() { fetched <- struct{}{} }()
					return inner.RoundTrip(r)
				})
			})
			wantKind(t, p.Discover(context.Background()), nil)
			<-fetched
			f.mu.Lock()
			f.now = f.now.Add(2 * time.Hour)
			f.mu.Unlock()
			row.spoil(f)
			for range 3 {
				if _, err := p.LoginURL(context.Background(), idp.NewTransaction(), nil); err != nil {
					t.Fatalf("the last good metadata are gone: %v", err)
				}
			}
			<-fetched // in the background
			if n := len(f.requests(wellKnown)); n != 2 {
				t.Errorf("%d fetches, want 2", n)
			}
			if !p.Ready() {
				t.Error("not ready any more")
			}
		})
	}
}

func TestLoginURL_B16(t *testing.T) {
	f := newFake(t)
	p := f.provider(func(c *idp.Config) { c.AuthorizationParams = map[string]string{"audience": "api", "prompt": "consent"} })
	tx := idp.NewTransaction()
	// The request's parameters can't replace, double or smuggle ours.
	raw, err := p.LoginURL(context.Background(), tx, url.Values{
		"scope": {"admin"}, "client_id": {"evil"}, "redirect_uri": {"https://evil.example"}, "state": {"s"}, "nonce": {"n"},
		"response_type": {"token"}, "response_mode": {"fragment"}, "code_challenge": {"c"}, "code_challenge_method": {"plain"},
		"request": {"r"}, "request_uri": {"urn:x"}, "client_secret": {"x"}, "audience": {"other"}, "prompt": {"none"},
		"login_hint": {"x&scope=admin", "second"}, "ui_locales": {}, "tenant": {"1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	u := must(url.Parse(raw))
	got := u.Query()
	want := map[string]string{
		"tenant": "1", "scope": "openid offline_access", "client_id": clientID, "redirect_uri": "https://shop.example/bff/callback",
		"state": tx.State, "nonce": tx.Nonce, "response_type": "code", "code_challenge_method": "S256",
		"code_challenge": got.Get("code_challenge"), "audience": "api", "prompt": "consent", "login_hint": "x&scope=admin",
	}
	for name, values := range got {
		if len(values) != 1 || values[0] != want[name] {
			t.Errorf("%s = %q, want %q", name, values, want[name])
		}
	}
	if len(got) != len(want) || u.Host != must(url.Parse(f.srv.URL)).Host || u.Path != "/authorize" {
		t.Errorf("URL %s", raw)
	}
	if strings.Contains(raw, string(tx.Verifier)) {
		t.Error("the verifier is in the URL")
	}
}

func TestPKCEAlways_B08(t *testing.T) {
	// S256 always, a verifier of 43 characters, another one each time.
	f := newFake(t)
	f.metadata["code_challenge_methods_supported"] = []string{"plain"}
	p := f.provider()
	verifiers := map[string]bool{}
	for range 3 {
		tx := idp.NewTransaction()
		raw, err := p.LoginURL(context.Background(), tx, nil)
		if err != nil {
			t.Fatal(err)
		}
		q := must(url.Parse(raw)).Query()
		p.Exchange(context.Background(), "code", tx)
		reqs := f.requests("/token")
		verifier := reqs[len(reqs)-1].form.Get("code_verifier")
		if q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") != s256(verifier) || len(verifier) < 43 || verifiers[verifier] {
			t.Errorf("challenge %v for verifier of %d", q, len(verifier))
		}
		verifiers[verifier] = true
	}
}

func TestZeroTransactionIsRefused(t *testing.T) {
	f := newFake(t)
	p := f.provider()
	if _, err := p.LoginURL(context.Background(), idp.Transaction{}, nil); err == nil {
		t.Error("LoginURL took a zero Transaction")
	}
	if _, err := p.Exchange(context.Background(), "code", idp.Transaction{}); err == nil || len(f.seen) > 0 {
		t.Error("Exchange took a zero Transaction")
	}
}

func TestCheckIssuer(t *testing.T) {
	for _, row := range []struct {
		name      string
		supported any
		iss       string // $ is the issuer
		want      error
	}{
		{"B-10 not supported, absent", nil, "", nil},
		{"B-10 not supported, present and right", nil, "$", nil},
		{"B-10 not supported, present and wrong", nil, "https://other.example", idp.ErrRejected},
		{"B-10 supported, right", true, "$", nil},
		{"B-10 supported, absent", true, "", idp.ErrRejected},
		{"B-10 supported, the other provider's", true, "https://other.example", idp.ErrRejected},
		{"B-10 trailing slash", true, "$/", idp.ErrRejected},
		{"B-10 other case", true, "HTTP://127.0.0.1", idp.ErrRejected},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			f.metadata["authorization_response_iss_parameter_supported"] = row.supported
			err := f.provider().CheckIssuer(context.Background(), strings.ReplaceAll(row.iss, "$", f.srv.URL))
			wantKind(t, err, row.want)
			if len(f.requests("/token")) > 0 {
				t.Error("a token request was made")
			}
		})
	}
	t.Run("provider down", func(t *testing.T) {
		f := newFake(t)
		f.on(wellKnown, answer(503, ""))
		wantKind(t, f.provider().CheckIssuer(context.Background(), ""), idp.ErrUnavailable)
	})
}
