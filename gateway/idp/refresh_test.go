package idp_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/golang-jwt/jwt/v5"
)

// refreshError returns err as a *RefreshError, which every error has to be.
func refreshError(t *testing.T, err error) *idp.RefreshError {
	t.Helper()
	e, ok := errors.AsType[*idp.RefreshError](err)
	if !ok {
		t.Fatalf("got %v, want a *RefreshError", err)
	}
	checkNoSecret(t, e.Error())
	return e
}

func TestRefreshOutcomes(t *testing.T) {
	type want struct {
		kind       idp.RefreshKind
		code       string
		mis        bool
		retryAfter time.Duration
	}
	with := func(status int, body string, headers ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	for _, row := range []struct {
		name string
		h    http.HandlerFunc
		want want
	}{
		{"429", with(429, ""), want{kind: idp.Unspent}},
		{"429 invalid_grant", with(429, `{"error":"invalid_grant"}`), want{kind: idp.Unspent, code: "invalid_grant"}},
		{"429 with Retry-After", with(429, "", "Retry-After", "7"), want{kind: idp.Unspent, retryAfter: 7 * time.Second}},
		{"429 with a date", with(429, "", "Retry-After", start.Add(20*time.Second).Format(http.TimeFormat)), want{kind: idp.Unspent, retryAfter: 20 * time.Second}},
		{"429 with a date long ago", with(429, "", "Retry-After", start.Add(-time.Hour).Format(http.TimeFormat)), want{kind: idp.Unspent}},
		{"429 for a year", with(429, "", "Retry-After", "31536000"), want{kind: idp.Unspent, retryAfter: 5 * time.Minute}},
		{"429 for ever", with(429, "", "Retry-After", "99999999999999999999"), want{kind: idp.Unspent}},
		{"429 negative", with(429, "", "Retry-After", "-5"), want{kind: idp.Unspent}},
		{"429 word", with(429, "", "Retry-After", "canary"), want{kind: idp.Unspent}},
		{"503", with(503, "<html>", "Retry-After", "3"), want{kind: idp.Unspent, retryAfter: 3 * time.Second}},
		{"invalid_client", with(401, `{"error":"invalid_client"}`), want{kind: idp.Unspent, code: "invalid_client", mis: true}},
		{"unauthorized_client", with(400, `{"error":"unauthorized_client"}`), want{kind: idp.Unspent, code: "unauthorized_client", mis: true}},
		{"invalid_scope", with(400, `{"error":"invalid_scope"}`), want{kind: idp.Unspent, code: "invalid_scope", mis: true}},
		{"unsupported_grant_type", with(400, `{"error":"unsupported_grant_type"}`), want{kind: idp.Unspent, code: "unsupported_grant_type", mis: true}},
		{"invalid_request", with(400, `{"error":"invalid_request"}`), want{kind: idp.Unspent, code: "invalid_request"}},
		{"interaction_required", with(403, `{"error":"interaction_required"}`), want{kind: idp.Unspent, code: "interaction_required"}},
		{"error of our provider's own", with(418, `{"error":"<b>canary"}`), want{kind: idp.Unspent, code: "unprintable"}},
		{"S-01 the token as the error", with(400, `{"error":"RT-canary-1"}`), want{kind: idp.Unspent, code: "unprintable"}},
		{"invalid_grant 400", with(400, `{"error":"invalid_grant","error_description":"RT-canary-1"}`), want{kind: idp.Rejected, code: "invalid_grant"}},
		{"invalid_grant 401", with(401, `{"error":"invalid_grant"}`), want{kind: idp.Rejected, code: "invalid_grant"}},
		{"invalid_grant 403", with(403, `{"error":"invalid_grant"}`), want{kind: idp.Rejected, code: "invalid_grant"}},
		{"invalid_grant 400, not said to be JSON", with(400, `{"error":"invalid_grant"}`, "Content-Type", "text/plain"), want{kind: idp.Rejected, code: "invalid_grant"}},
		{"invalid_grant 500", with(500, `{"error":"invalid_grant"}`), want{code: "invalid_grant"}},
		{"invalid_grant 200", with(200, `{"error":"invalid_grant"}`), want{}},
		{"error twice", with(400, `{"error":"x","error":"invalid_grant"}`), want{}},
		{"error a number", with(400, `{"error":1}`), want{}},
		{"400 without error", with(400, `{}`), want{}},
		{"400 HTML", with(400, `<html>invalid_grant`), want{}},
		{"403 of a firewall", with(403, `<html>`), want{}},
		{"404", with(404, ``), want{}},
		{"500", with(500, ``), want{}},
		{"502", with(502, ``, "Retry-After", "9"), want{}},
		{"504", with(504, ``), want{}},
		{"201", with(201, `{"access_token":"x","token_type":"Bearer"}`), want{}},
		{"204", with(204, ``), want{}},
		{"O-04 301", with(301, ``, "Location", "/evil"), want{}},
		{"O-04 307", with(307, ``, "Location", "/evil"), want{}},
		{"O-04 308 to loopback", with(308, ``, "Location", "http://127.0.0.1:1/"), want{}},
		{"O-03 empty", with(200, ``), want{}},
		{"O-03 cut off", with(200, `{"access_token":"x"`), want{}},
		{"O-03 HTML", with(200, `<html>`), want{}},
		{"O-03 array", with(200, `[{"access_token":"x","token_type":"Bearer"}]`), want{}},
		{"O-03 trailing", with(200, `{"access_token":"x","token_type":"Bearer"}x`), want{}},
		{"O-03 access_token a number", with(200, `{"access_token":1,"token_type":"Bearer"}`), want{}},
		{"O-03 no token_type", with(200, `{"access_token":"x"}`), want{}},
		{"O-03 too large", with(200, `{"access_token":"x","token_type":"Bearer","y":"`+strings.Repeat("y", 1<<20)+`"}`), want{}},
		{"O-03 503 too large", with(503, strings.Repeat("y", 2<<20)), want{}},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			f.on("/token", row.h)
			sent := 0
			g, err := f.provider().Refresh(context.Background(), refreshToken, subject, func() error { sent++; return nil })
			e := refreshError(t, err)
			if got := (want{e.Kind, e.OAuthError, e.Misconfigured, e.RetryAfter}); got != row.want {
				t.Errorf("got %+v (%v), want %+v", got, e, row.want)
			}
			if n := len(f.requests("/token")); n != 1 || sent != 1 || len(f.requests("/evil")) > 0 {
				t.Errorf("%d requests, sending called %d times", n, sent)
			}
			if g.Access != "" || g.Refresh != "" {
				t.Error("a grant came with the error")
			}
		})
	}
}

func TestRefreshRequest(t *testing.T) {
	f := newFake(t)
	f.grants(map[string]any{"refresh_token": nil})
	g, err := f.provider().Refresh(context.Background(), "RT &=+canary", subject, nil)
	if err != nil {
		t.Fatal(err)
	}
	// N-13: no new refresh token.
	if g.Refresh != "" || g.Access != accessToken || g.Subject != subject || g.Issuer != f.srv.URL || g.Claims != nil || g.ID != "" {
		t.Errorf("grant %+v", g)
	}
	r := f.requests("/token")[0]
	if got := r.form.Encode(); got != "grant_type=refresh_token&refresh_token=RT+%26%3D%2Bcanary" {
		t.Errorf("form %s", got)
	}
	if cl := r.header.Get("Content-Length"); cl == "" {
		t.Error("no Content-Length: the body was chunked")
	}
	for name, v := range r.header {
		if strings.Contains(strings.Join(v, " "), "RT") {
			t.Errorf("the token is in header %s", name)
		}
	}
}

func TestRefreshedIDToken(t *testing.T) {
	type claims = map[string]any
	rs := func(over claims) func(*fake) string {
		return func(f *fake) string {
			return sign(jwt.SigningMethodRS256, rsaKey(), claims{"kid": "rsa"}, f.with(over))
		}
	}
	for _, row := range []struct {
		name string
		make func(*fake) string
		kept bool
		bad  string // another's subject, for Foreign
	}{
		{"same subject", rs(nil), true, ""},
		{"nonce doesn't matter", rs(claims{"nonce": "any"}), true, ""},
		{"issued long ago, not expired", rs(claims{"iat": start.Add(-24 * time.Hour).Unix()}), true, ""},
		{"expired", rs(claims{"exp": start.Add(-time.Hour).Unix()}), false, ""},
		{"another aud", rs(claims{"aud": "other"}), false, ""},
		{"another iss", rs(claims{"iss": "https://evil.example"}), false, ""},
		{"another key", func(f *fake) string {
			return sign(jwt.SigningMethodRS256, otherRSA(), claims{"kid": "rsa"}, f.with(nil))
		}, false, ""},
		{"L-01 alg none", func(f *fake) string {
			return b64([]byte(`{"alg":"none"}`)) + "." + b64(must(json.Marshal(f.with(nil)))) + "."
		}, false, ""},
		{"L-17 access token", func(f *fake) string {
			return sign(jwt.SigningMethodRS256, rsaKey(), claims{"kid": "rsa", "typ": "at+jwt"}, f.with(nil))
		}, false, ""},
		{"L-17 logout token", rs(claims{"events": claims{}}), false, ""},
		{"L-08 at_hash wrong", rs(claims{"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}), false, ""},
		{"L-07 no sub", rs(claims{"sub": nil}), false, ""},
		{"L-07 sub a number", rs(claims{"sub": 1}), false, ""},
		{"garbage", func(*fake) string { return "garbage" }, false, ""},
		{"L-07 sub differs", rs(claims{"sub": "bob"}), false, "bob"},
		{"L-07 sub differs, and expired", rs(claims{"sub": "bob", "exp": start.Add(-time.Hour).Unix()}), false, "bob"},
		{"L-07 sub differs, and not verifiable", func(f *fake) string {
			return sign(jwt.SigningMethodRS256, otherRSA(), claims{"kid": "rsa"}, f.with(claims{"sub": "bob"}))
		}, false, "bob"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			f.grants(claims{"id_token": row.make(f), "refresh_token": "RT-canary-2"})
			g, err := f.provider().Refresh(context.Background(), refreshToken, subject, nil)
			if g.Access != accessToken || g.Refresh != "RT-canary-2" {
				t.Errorf("the new tokens are lost: %v", err)
			}
			if row.bad != "" {
				if e := refreshError(t, err); e.Kind != idp.Foreign || g.Subject != row.bad {
					t.Errorf("got %v for %s", e, g.Subject)
				}
				return
			}
			if err != nil || g.Subject != subject {
				t.Fatalf("got %v for %s", err, g.Subject)
			}
			if (g.ID != "") != row.kept || (g.Claims != nil) != row.kept {
				t.Errorf("ID token kept: %v, claims %s", g.ID != "", g.Claims)
			}
			if alarm := strings.Contains(f.log.String(), "refreshed_id_token"); alarm == row.kept {
				t.Errorf("log: %s", f.log)
			}
			checkNoSecret(t, f.log.String())
		})
	}
	t.Run("keys can't be had", func(t *testing.T) {
		f := newFake(t)
		f.on("/jwks", answer(503, ""))
		f.grants(claims{"id_token": rs(nil)(f)})
		g, err := f.provider().Refresh(context.Background(), refreshToken, subject, nil)
		if err != nil || g.ID != "" || g.Access == "" || strings.Contains(f.log.String(), "refreshed_id_token") {
			t.Errorf("%v, %+v, %s", err, g, f.log)
		}
	})
	t.Run("userinfo is not asked, and its claims are not lost", func(t *testing.T) {
		f := newFake(t)
		f.grants(claims{"id_token": rs(nil)(f)})
		g, err := f.provider(func(c *idp.Config) { c.UserInfo = true }).Refresh(context.Background(), refreshToken, subject, nil)
		if err != nil || g.ID == "" || g.Claims != nil || len(f.requests("/userinfo")) > 0 {
			t.Errorf("%v, %+v", err, g)
		}
	})
}

func TestRefreshWithoutNeed(t *testing.T) {
	f := newFake(t)
	p := f.provider()
	for _, args := range [][2]string{{"", subject}, {refreshToken, ""}} {
		_, err := p.Refresh(context.Background(), idp.RefreshToken(args[0]), args[1], nil)
		if e := refreshError(t, err); e.Kind != idp.NotSent || len(f.seen) > 0 {
			t.Errorf("got %v", e)
		}
	}
}
