package idp_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/golang-jwt/jwt/v5"
)

const password = "PW-canary &=+é"

func TestPasswordGrantRequest(t *testing.T) {
	for _, style := range []string{idp.ClientSecretBasic, idp.ClientSecretPost} {
		f := newFake(t)
		p := f.provider(func(c *idp.Config) {
			c.ClientAuth, c.AuthorizationParams = style, map[string]string{"audience": api, "prompt": "login", "max_age": "1"}
		})
		f.grants(map[string]any{"id_token": f.good("")})
		_, err := p.PasswordGrant(context.Background(), "alice@example.com", password)
		// The nonce is empty but there, and nobody asked for one.
		wantKind(t, err, idp.ErrRejected)
		f.grants(map[string]any{"id_token": sign(jwt.SigningMethodRS256, rsaKey(), map[string]any{"kid": "rsa"}, f.claims)})
		g, err := p.PasswordGrant(context.Background(), "alice@example.com", password)
		if err != nil || g.Subject != subject || g.SessionID != "provider-session" || g.Issuer != f.srv.URL || g.Access != accessToken ||
			g.Refresh != refreshToken || g.ID == "" || g.ExpiresIn != 5*time.Minute || !json.Valid(g.Claims) {
			t.Errorf("%s: %+v, %v", style, g, err)
		}
		reqs := f.requests("/token")
		if len(reqs) != 2 {
			t.Fatalf("%d requests", len(reqs))
		}
		want := url.Values{"grant_type": {"password"}, "username": {"alice@example.com"}, "password": {password}, "scope": {"openid offline_access"}, "audience": {api}}
		r := http.Request{Header: reqs[1].header}
		if _, _, basic := r.BasicAuth(); basic != (style == idp.ClientSecretBasic) {
			t.Errorf("%s: credentials in the header: %v", style, basic)
		}
		if style == idp.ClientSecretPost {
			want["client_id"], want["client_secret"] = []string{clientID}, []string{clientSecret}
		}
		if reqs[1].form.Encode() != want.Encode() {
			t.Errorf("form %v, want %v", reqs[1].form, want)
		}
	}
}

func TestPasswordGrantAnswers(t *testing.T) {
	for _, row := range []struct {
		name string
		h    http.HandlerFunc
		want error
	}{
		{"wrong password", answer(400, `{"error":"invalid_grant","error_description":"wrong password canary"}`), idp.ErrCredentials},
		{"unknown user", answer(400, `{"error":"invalid_grant","error_description":"no such user"}`), idp.ErrCredentials},
		{"wrong password, 401", answer(401, `{"error":"invalid_grant"}`), idp.ErrCredentials},
		{"wrong password, 403", answer(403, `{"error":"invalid_grant"}`), idp.ErrCredentials},
		{"invalid_client", answer(401, `{"error":"invalid_client"}`), idp.ErrRejected},
		{"unsupported_grant_type", answer(400, `{"error":"unsupported_grant_type"}`), idp.ErrRejected},
		{"unauthorized_client", answer(400, `{"error":"unauthorized_client"}`), idp.ErrRejected},
		{"401 without a word", answer(401, ``), idp.ErrRejected},
		{"throttled", answer(429, `{"error":"invalid_grant"}`), idp.ErrUnavailable},
		{"500 with a word", answer(500, `{"error":"invalid_grant"}`), idp.ErrUnavailable},
		{"200 with an error", answer(200, `{"error":"invalid_grant"}`), idp.ErrRejected},
		{"503", answer(503, ``), idp.ErrUnavailable},
		{"not JSON", answer(200, `<html>`), idp.ErrUnavailable},
		{"redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/evil", 307) }, idp.ErrRejected},
		{"hangs", hang(""), idp.ErrUnavailable},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			f.on("/token", row.h)
			p := f.provider(func(c *idp.Config) {
				if row.name == "hangs" {
					c.Timeout = 100 * time.Millisecond
				}
			})
			g, err := p.PasswordGrant(context.Background(), "alice", password)
			wantKind(t, err, row.want)
			if row.want != idp.ErrCredentials && errors.Is(err, idp.ErrCredentials) {
				t.Errorf("%v tells the person that the password is wrong", err)
			}
			if len(f.requests("/token")) != 1 || len(f.requests("/evil")) > 0 || g.Access != "" {
				t.Errorf("requests: %v", f.seen)
			}
			checkNoSecret(t, f.log.String())
		})
	}
}

// Nothing in the error tells an unknown user from a wrong password.
func TestPasswordGrantOneError(t *testing.T) {
	texts := map[string]bool{}
	for _, body := range []string{`{"error":"invalid_grant","error_description":"no such user"}`, `{"error":"invalid_grant"}`} {
		f := newFake(t)
		f.on("/token", answer(400, body))
		_, err := f.provider().PasswordGrant(context.Background(), "alice", password)
		texts[err.Error()] = true
	}
	f := newFake(t)
	_, err := f.provider().PasswordGrant(context.Background(), "", "")
	texts[err.Error()] = true
	if len(texts) != 1 {
		t.Errorf("the errors differ: %v", texts)
	}
}

func TestPasswordGrantUnsent(t *testing.T) {
	for _, row := range []struct{ name, username, password string }{
		{"no user", "", "x"},
		{"no password", "alice", ""},
		{"long user", strings.Repeat("a", 1025), "x"},
		{"long password", "alice", strings.Repeat("x", 4097)},
		{"newline", "alice\nbob", "x"},
		{"NUL", "alice", "x\x00"},
		{"not UTF-8", "alice\xff", "x"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			_, err := f.provider().PasswordGrant(context.Background(), row.username, row.password)
			wantKind(t, err, idp.ErrCredentials)
			if len(f.seen) > 0 {
				t.Errorf("sent: %v", f.seen)
			}
		})
	}
}

func TestPasswordGrantSubject(t *testing.T) {
	type claims = map[string]any
	id := func(over claims) func(*fake) claims {
		return func(f *fake) claims {
			return claims{"id_token": sign(jwt.SigningMethodRS256, rsaKey(), claims{"kid": "rsa"}, f.with(over))}
		}
	}
	token := func(header, over claims) func(*fake) claims {
		return func(f *fake) claims { return claims{"access_token": f.at(header, over)} }
	}
	none := func(*fake) claims { return nil }
	at := func(d time.Duration) int64 { return start.Add(d).Unix() }
	for _, row := range []struct {
		name     string
		grant    func(*fake) claims
		userInfo string // "" not offered
		subject  string
		sid      string
		want     error
	}{
		{"ID token", id(nil), `{"sub":"bob"}`, subject, "provider-session", nil},
		{"ID token with a nonce", id(claims{"nonce": "n"}), "", "", "", idp.ErrRejected},
		{"ID token of another client", id(claims{"aud": "other"}), `{"sub":"alice"}`, "", "", idp.ErrRejected},
		{"old ID token", id(claims{"iat": at(-2 * time.Hour)}), "", "", "", idp.ErrRejected},
		{"ID token without sub", id(claims{"sub": nil}), `{"sub":"alice"}`, "", "", idp.ErrRejected},
		{"logout token as ID token", id(claims{"events": claims{}}), "", "", "", idp.ErrRejected},
		{"userinfo", none, `{"sub":"bob","email":"b@example.com"}`, "bob", "", nil},
		{"userinfo without sub", none, `{}`, "", "", idp.ErrRejected},
		{"userinfo with an empty sub", none, `{"sub":""}`, "", "", idp.ErrRejected},
		{"userinfo with a long sub", none, `{"sub":"` + strings.Repeat("s", 300) + `"}`, "", "", idp.ErrRejected},
		{"userinfo is broken", none, `<html>`, "", "", idp.ErrUnavailable},
		{"access token", token(nil, nil), "", subject, "provider-session", nil},
		{"access token that doesn't hold", token(claims{"kid": "rsa"}, nil), "", "", "", idp.ErrRejected},
		{"access token of another issuer", token(nil, claims{"iss": "https://evil.example"}), "", "", "", idp.ErrRejected},
		{"access token that has expired", token(nil, claims{"exp": at(-time.Minute)}), "", "", "", idp.ErrRejected},
		{"access token without sub", token(nil, claims{"sub": nil}), "", "", "", idp.ErrRejected},
		{"opaque access token", none, "", "", "", idp.ErrRejected},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			f.grants(row.grant(f))
			if row.userInfo == "" {
				delete(f.metadata, "userinfo_endpoint")
			} else {
				f.on("/userinfo", answer(200, row.userInfo))
			}
			g, err := f.provider().PasswordGrant(context.Background(), "alice", password)
			wantKind(t, err, row.want)
			if g.Subject != row.subject || g.SessionID != row.sid || (g.Access != "") != (err == nil) {
				t.Errorf("got %+v", g)
			}
			var c struct{ Sub string }
			if err == nil && (json.Unmarshal(g.Claims, &c) != nil || c.Sub != row.subject || g.Issuer != f.srv.URL) {
				t.Errorf("claims %s of %s", g.Claims, g.Issuer)
			}
			if err != nil && errors.Is(err, idp.ErrCredentials) {
				t.Errorf("%v: the password was right", err)
			}
		})
	}
	t.Run("userinfo is asked beside an ID token, and names another", func(t *testing.T) {
		f := newFake(t)
		f.grants(id(nil)(f))
		f.on("/userinfo", answer(200, `{"sub":"bob"}`))
		_, err := f.provider(func(c *idp.Config) { c.UserInfo = true }).PasswordGrant(context.Background(), "alice", password)
		wantKind(t, err, idp.ErrRejected)
	})
}
