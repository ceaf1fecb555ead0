package idp_test

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
)

func s256(s string) string {
	sum := sha256.Sum256([]byte(s))
	return b64(sum[:])
}

func TestExchangeRequest_O09(t *testing.T) {
	// One style, one attempt. RFC 6749 section 2.3.1 has id and secret
	// form-encoded before they go into the header.
	const oddID, oddSecret = "shop:1 &é", "s:e c%r+t=&"
	for _, style := range []string{idp.ClientSecretBasic, idp.ClientSecretPost} {
		for _, status := range []int{200, 400, 401, 500} {
			f := newFake(t)
			p := f.provider(func(c *idp.Config) { c.ClientAuth, c.ClientID, c.ClientSecret = style, oddID, oddSecret })
			f.claims["aud"] = oddID
			tx := idp.NewTransaction()
			if status == 200 {
				f.grants(map[string]any{"id_token": f.good(tx.Nonce)})
			} else {
				f.on("/token", answer(status, `{"error":"invalid_client"}`))
			}
			_, err := p.Exchange(context.Background(), "CODE-canary", tx)
			if (err == nil) != (status == 200) {
				t.Errorf("%s, %d: %v", style, status, err)
			}
			reqs := f.requests("/token")
			if len(reqs) != 1 {
				t.Fatalf("%s, %d: %d requests", style, status, len(reqs))
			}
			want := url.Values{"grant_type": {"authorization_code"}, "code": {"CODE-canary"},
				"redirect_uri": {"https://shop.example/bff/callback"}, "code_verifier": {string(tx.Verifier)}}
			r := http.Request{Header: reqs[0].header}
			id, secret, basic := r.BasicAuth()
			if style == idp.ClientSecretPost {
				want["client_id"], want["client_secret"] = []string{oddID}, []string{oddSecret}
				if basic {
					t.Error("credentials in both places")
				}
			} else if must(url.QueryUnescape(id)) != oddID || must(url.QueryUnescape(secret)) != oddSecret || strings.ContainsAny(id, ": &") {
				t.Errorf("credentials %q %q", id, secret)
			}
			if reqs[0].form.Encode() != want.Encode() {
				t.Errorf("form %v, want %v", reqs[0].form, want)
			}
			if ct := reqs[0].header.Get("Content-Type"); ct != "application/x-www-form-urlencoded" {
				t.Errorf("content type %q", ct)
			}
		}
	}
}

func TestExchangeAnswers(t *testing.T) {
	members := func(over map[string]any) func(*fake, string) http.HandlerFunc {
		return func(f *fake, nonce string) http.HandlerFunc {
			all := map[string]any{"access_token": accessToken, "token_type": "Bearer", "id_token": f.good(nonce)}
			for k, v := range over {
				all[k] = v
				if v == nil {
					delete(all, k)
				}
			}
			return answer(200, string(must(json.Marshal(all))))
		}
	}
	raw := func(status int, body string) func(*fake, string) http.HandlerFunc {
		return func(*fake, string) http.HandlerFunc { return answer(status, body) }
	}
	for _, row := range []struct {
		name string
		make func(f *fake, nonce string) http.HandlerFunc
		want error
	}{
		{"fine", members(nil), nil},
		{"bearer in lower case", members(map[string]any{"token_type": "bearer"}), nil},
		{"null members", members(map[string]any{"refresh_token": json.RawMessage("null"), "scope": json.RawMessage("null")}), nil},
		{"invalid_grant", raw(400, `{"error":"invalid_grant","error_description":"RT-canary-1"}`), idp.ErrRejected},
		{"invalid_client", raw(401, `{"error":"invalid_client"}`), idp.ErrRejected},
		{"S-01 the code as the error", raw(400, `{"error":"CODE-canary"}`), idp.ErrRejected},
		{"error with markup", raw(400, `{"error":"<script>canary</script>"}`), idp.ErrRejected},
		{"error of 100 KiB", raw(400, `{"error":"`+strings.Repeat("canary", 20000)+`"}`), idp.ErrRejected},
		{"bad request without a body", raw(400, ``), idp.ErrRejected},
		{"429", raw(429, ``), idp.ErrUnavailable},
		{"500", raw(500, ``), idp.ErrUnavailable},
		{"503 with error", raw(503, `{"error":"temporarily_unavailable"}`), idp.ErrUnavailable},
		{"O-03 empty", raw(200, ``), idp.ErrUnavailable},
		{"O-03 cut off", raw(200, `{`), idp.ErrUnavailable},
		{"O-03 HTML", raw(200, `<html>canary</html>`), idp.ErrUnavailable},
		{"O-03 array", raw(200, `[]`), idp.ErrUnavailable},
		{"O-03 NUL", raw(200, "\x00"), idp.ErrUnavailable},
		{"O-03 members twice", raw(200, `{"access_token":"a","access_token":"b"}`), idp.ErrUnavailable},
		{"O-03 100 MiB", func(*fake, string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				chunk := []byte(strings.Repeat("x", 1<<20))
				for range 100 {
					if _, err := w.Write(chunk); err != nil {
						return
					}
				}
			}
		}, idp.ErrUnavailable},
		{"O-03 gzip bomb", func(f *fake, nonce string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				z := must(gzip.NewWriterLevel(w, gzip.BestSpeed))
				z.Write([]byte(strings.Repeat(" ", 20<<20)))
				z.Close()
			}
		}, idp.ErrUnavailable},
		{"O-03 access_token a number", members(map[string]any{"access_token": 1}), idp.ErrRejected},
		{"O-03 access_token empty", members(map[string]any{"access_token": ""}), idp.ErrRejected},
		{"O-03 access_token missing", members(map[string]any{"access_token": nil}), idp.ErrRejected},
		{"O-03 access_token with a newline", members(map[string]any{"access_token": "a\r\nX: y"}), idp.ErrRejected},
		{"O-03 access_token with a space", members(map[string]any{"access_token": "a b"}), idp.ErrRejected},
		{"O-03 access_token with a control", members(map[string]any{"access_token": "a\x7fb"}), idp.ErrRejected},
		{"O-03 access_token of 100 KiB", members(map[string]any{"access_token": strings.Repeat("a", 100<<10)}), idp.ErrRejected},
		{"O-03 names in another case", members(map[string]any{"access_token": nil, "Access_Token": "x"}), idp.ErrRejected},
		{"token_type missing", members(map[string]any{"token_type": nil}), idp.ErrRejected},
		{"token_type DPoP", members(map[string]any{"token_type": "DPoP"}), idp.ErrRejected},
		{"refresh_token an object", members(map[string]any{"refresh_token": map[string]any{}}), idp.ErrRejected},
		{"id_token missing", members(map[string]any{"id_token": nil}), idp.ErrRejected},
		{"id_token a number", members(map[string]any{"id_token": 1}), idp.ErrRejected},
		{"O-04 redirect within", func(f *fake, _ string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/evil", 307) }
		}, idp.ErrRejected},
		{"O-04 redirect away", func(f *fake, _ string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "http://evil.test/", 302) }
		}, idp.ErrRejected},
		{"O-04 redirect to a file", func(f *fake, _ string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", "file:///etc/passwd")
				w.WriteHeader(303)
			}
		}, idp.ErrRejected},
		{"created", raw(201, `{}`), idp.ErrRejected},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			p := f.provider()
			tx := idp.NewTransaction()
			f.on("/token", row.make(f, tx.Nonce))
			_, err := p.Exchange(context.Background(), "CODE-canary", tx)
			wantKind(t, err, row.want)
			if len(f.requests("/token")) != 1 || len(f.requests("/evil")) != 0 {
				t.Errorf("requests: %v", f.seen)
			}
			checkNoSecret(t, f.log.String())
		})
	}
}

func TestExpiresIn(t *testing.T) {
	jwtExp := func(at time.Time) string {
		return b64([]byte(`{"alg":"x"}`)) + "." + b64(must(json.Marshal(map[string]any{"exp": at.Unix()}))) + ".AA"
	}
	const thirtyDays = 30 * 24 * time.Hour
	for _, row := range []struct {
		name   string
		value  any
		access string
		want   time.Duration
	}{
		{"N-13 number", 300, accessToken, 300 * time.Second},
		{"N-13 numeric string", "3600", accessToken, time.Hour},
		{"N-13 fraction", 1.5, accessToken, 1500 * time.Millisecond},
		{"N-13 zero", 0, accessToken, 5 * time.Minute},
		{"N-13 negative", -1, accessToken, 5 * time.Minute},
		{"N-13 negative string", "-1", accessToken, 5 * time.Minute},
		{"N-13 absent", nil, accessToken, 5 * time.Minute},
		{"N-13 1e12", 1e12, accessToken, thirtyDays},
		{"N-13 1e300", 1e300, accessToken, thirtyDays},
		{"N-13 beyond floats", json.RawMessage("1e999"), accessToken, 5 * time.Minute},
		{"N-13 NaN", "NaN", accessToken, 5 * time.Minute},
		{"N-13 word", "soon", accessToken, 5 * time.Minute},
		{"N-13 boolean", true, accessToken, 5 * time.Minute},
		{"N-13 array", []int{1}, accessToken, 5 * time.Minute},
		{"absent, from a JWT", nil, jwtExp(start.Add(7 * time.Minute)), 7 * time.Minute},
		{"told, beside a JWT", 60, jwtExp(start.Add(7 * time.Minute)), time.Minute},
		{"absent, from a JWT for ever", nil, jwtExp(start.Add(1000 * 24 * time.Hour)), thirtyDays},
		{"absent, from a JWT that is over", nil, jwtExp(start.Add(-time.Minute)), 5 * time.Minute},
		{"absent, from a broken JWT", nil, "a.b.c", 5 * time.Minute},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			f.grants(map[string]any{"expires_in": row.value, "access_token": row.access})
			g, err := f.provider().Refresh(context.Background(), refreshToken, subject, nil)
			if err != nil || g.ExpiresIn != row.want {
				t.Errorf("ExpiresIn = %v, %v, want %v", g.ExpiresIn, err, row.want)
			}
		})
	}
}

func TestRefreshExpiresIn(t *testing.T) {
	for _, row := range []struct {
		name string
		over map[string]any
		want time.Duration
	}{
		{"untold", nil, 0},
		{"keycloak", map[string]any{"refresh_expires_in": 1800}, 30 * time.Minute},
		{"keycloak, offline", map[string]any{"refresh_expires_in": 0}, 0},
		{"others", map[string]any{"refresh_token_expires_in": "86400"}, 24 * time.Hour},
		{"huge", map[string]any{"refresh_expires_in": 1e18}, 10 * 365 * 24 * time.Hour},
	} {
		f := newFake(t)
		f.grants(row.over)
		g, err := f.provider().Refresh(context.Background(), refreshToken, subject, nil)
		if err != nil || g.RefreshExpiresIn != row.want {
			t.Errorf("%s: %v, %v, want %v", row.name, g.RefreshExpiresIn, err, row.want)
		}
	}
}

func TestUserInfo(t *testing.T) {
	for _, row := range []struct {
		name string
		h    http.HandlerFunc
		want error
	}{
		{"fine", answer(200, `{"sub":"alice","name":"Other","email":"a@example.com","iss":"x"}`), nil},
		{"L-07 another sub", answer(200, `{"sub":"bob"}`), idp.ErrRejected},
		{"L-07 no sub", answer(200, `{"email":"a@example.com"}`), idp.ErrRejected},
		{"L-07 sub a number", answer(200, `{"sub":1}`), idp.ErrRejected},
		{"L-10 two subs", answer(200, `{"sub":"bob","sub":"alice"}`), idp.ErrUnavailable},
		{"O-03 not JSON", answer(200, `<html>`), idp.ErrUnavailable},
		{"O-03 large", answer(200, `{"sub":"alice","x":"`+strings.Repeat("x", 100<<10)+`"}`), idp.ErrUnavailable},
		{"signed", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/jwt")
			io.WriteString(w, "a.b.c")
		}, idp.ErrRejected},
		{"O-04 redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/evil", 302) }, idp.ErrRejected},
		{"refused", answer(401, ``), idp.ErrRejected},
		{"down", answer(503, ``), idp.ErrUnavailable},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			f.on("/userinfo", row.h)
			g, err := f.login(f.provider(func(c *idp.Config) { c.UserInfo = true }), f.good)
			wantKind(t, err, row.want)
			if err != nil {
				if g.Access != "" {
					t.Error("a grant came with the error")
				}
				return
			}
			var claims map[string]any
			json.Unmarshal(g.Claims, &claims)
			// The ID token is signed; what it says wins.
			if claims["email"] != "a@example.com" || claims["name"] != "Alice" || claims["iss"] != f.srv.URL {
				t.Errorf("claims: %s", g.Claims)
			}
			if h := f.requests("/userinfo")[0].header.Get("Authorization"); h != "Bearer "+accessToken {
				t.Errorf("Authorization: %q", h)
			}
		})
	}
	t.Run("no endpoint", func(t *testing.T) {
		f := newFake(t)
		delete(f.metadata, "userinfo_endpoint")
		wantKind(t, f.provider(func(c *idp.Config) { c.UserInfo = true }).Discover(context.Background()), idp.ErrRejected)
	})
}

// hang is a handler that says nothing, or too little, until the client leaves.
func hang(first string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if first != "" {
			io.WriteString(w, first)
			http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
	}
}

func TestSlowProvider(t *testing.T) {
	// O-01: each kind of request has a deadline of its own.
	quick := func(c *idp.Config) { c.Timeout, c.UserInfo = 100*time.Millisecond, true }
	for _, slow := range []struct {
		name string
		h    http.HandlerFunc
	}{{"no byte", hang("")}, {"part of a body", hang(`{"acc`)}} {
		t.Run("O-01 "+slow.name+" refresh", func(t *testing.T) {
			f := newFake(t)
			f.on("/token", slow.h)
			_, err := f.provider(quick).Refresh(context.Background(), refreshToken, subject, nil)
			if e := refreshError(t, err); e.Kind != idp.Unknown || len(f.requests("/token")) != 1 {
				t.Errorf("%v", e)
			}
		})
		for _, path := range []string{wellKnown, "/jwks", "/token", "/userinfo"} {
			t.Run("O-01 "+slow.name+" "+path, func(t *testing.T) {
				f := newFake(t)
				f.on("/userinfo", answer(200, `{"sub":"alice"}`))
				p := f.provider(quick)
				tx := idp.NewTransaction()
				f.grants(map[string]any{"id_token": f.good(tx.Nonce)})
				f.on(path, slow.h)
				_, err := p.Exchange(context.Background(), "code", tx)
				wantKind(t, err, idp.ErrUnavailable)
			})
		}
		t.Run("O-01 "+slow.name+" revocation", func(t *testing.T) {
			f := newFake(t)
			f.on("/revoke", slow.h)
			wantKind(t, f.provider(quick).Revoke(context.Background(), refreshToken), idp.ErrUnavailable)
		})
	}
	t.Run("O-01 the caller leaves", func(t *testing.T) {
		f := newFake(t)
		ctx, cancel := context.WithCancel(context.Background())
		f.on("/token", func(w http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
		_, err := f.provider().Exchange(ctx, "code", idp.NewTransaction())
		if !errors.Is(err, idp.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("O-01 TLS handshake stalls", func(t *testing.T) {
		ln := must(net.Listen("tcp", "127.0.0.1:0"))
		accepted := make(chan net.Conn, 1)
		go func() {
			if c, err := ln.Accept(); err == nil {
				accepted <- c
			}
		}()
		f := newFake(t)
		p := f.provider(quick, func(c *idp.Config) { c.Issuer = "https://" + ln.Addr().String() })
		wantKind(t, p.Discover(context.Background()), idp.ErrUnavailable)
		(<-accepted).Close()
		ln.Close()
	})
}

func TestUnreachable(t *testing.T) {
	f := newFake(t)
	p := f.provider()
	if err := p.Discover(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.srv.Close()
	_, err := p.Exchange(context.Background(), "code", idp.NewTransaction())
	wantKind(t, err, idp.ErrUnavailable)
	wantKind(t, p.Revoke(context.Background(), refreshToken), idp.ErrUnavailable)
}

func TestUntrustedCertificate(t *testing.T) {
	f := newFake(t)
	srv := newTLSServer(t)
	p := f.provider(func(c *idp.Config) { c.Issuer = srv })
	err := p.Discover(context.Background())
	wantKind(t, err, idp.ErrUnavailable)
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("the error doesn't tell the operator why: %v", err)
	}
}

// logins with made-up codes, at a provider that takes its time, leave
// connections to refreshes.
func TestLoginsLeaveRoomForRefreshes(t *testing.T) {
	f := newFake(t)
	var logins atomic.Int64
	over := make(chan struct{})
	f.on("/token", func(w http.ResponseWriter, r *http.Request) {
		seen := f.requests("/token")
		if seen[len(seen)-1].form.Get("grant_type") == "refresh_token" {
			answer(200, `{"access_token":"`+accessToken+`","token_type":"Bearer"}`)(w, r)
			return
		}
		logins.Add(1)
		<-over
		w.WriteHeader(400)
	})
	p := f.provider()
	if err := p.Discover(context.Background()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := p.Exchange(context.Background(), "CODE-canary", idp.NewTransaction()); err == nil {
				t.Error("a login with a made-up code")
			}
		})
	}
	for end := time.Now().Add(5 * time.Second); logins.Load() < 32 && time.Now().Before(end); {
		runtime.Gosched()
	}
	began := time.Now()
	_, err := p.Refresh(context.Background(), refreshToken, subject, nil)
	if err != nil || time.Since(began) > 2*time.Second {
		t.Errorf("a refresh meanwhile: %v after %v", err, time.Since(began))
	}
	if n := logins.Load(); n > 32 {
		t.Errorf("%d logins at once", n)
	}
	close(over)
	wg.Wait()
}
