// Package test runs the built cloakroom binary against real parts and holds it
// to what design.md and the issues promise. See package rig for the parts.
package test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// free is an address that nobody listens on just now.
func free(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// inReach is a world that a browser of this machine can open by itself, at
// http://localhost on a port of its own.
func inReach(t testing.TB, opts gatewaytest.Options, change func(rig.Config)) (*gatewaytest.Provider, *rig.World) {
	t.Helper()
	at := free(t)
	_, port, _ := net.SplitHostPort(at)
	p, reg := rig.Strict(t, "http://localhost:"+port, opts)
	return p, rig.New(t, rig.Setup{Provider: reg, Origin: "http://localhost:" + port, Change: func(c rig.Config) {
		c.Set("listen", at)
		change(c)
	}})
}

// token asks for the access token and returns the answer.
func token(b *rig.Browser) *rig.Response { return b.Fetch(http.MethodPost, "/bff/token") }

// subject is the sub of the access token in an answer of /bff/token.
func subject(t testing.TB, r *rig.Response) string {
	t.Helper()
	if r.Status != http.StatusOK {
		t.Fatalf("no token: %s", r)
	}
	var answer struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int    `json:"expires_in"`
	}
	r.JSON(t, &answer)
	if answer.TokenType != "Bearer" || answer.ExpiresIn < 0 {
		t.Fatalf("token_type %q, expires_in %d", answer.TokenType, answer.ExpiresIn)
	}
	return claims(t, answer.AccessToken)["sub"].(string)
}

// claims reads a JWT without checking it.
func claims(t testing.TB, jwt string) map[string]any {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("not a JWT: it has %d parts", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(payload, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// subjectOf is the sub of a JWT, unchecked; "" if it is none.
func subjectOf(jwt string) string {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var c struct{ Sub string }
	_ = json.Unmarshal(payload, &c)
	return c.Sub
}

// session is the answer of /bff/session.
type session struct {
	SID                  string    `json:"sid"`
	CreatedAt            time.Time `json:"created_at"`
	IdleExpiresAt        time.Time `json:"idle_expires_at"`
	ExpiresAt            time.Time `json:"expires_at"`
	AccessTokenExpiresAt time.Time `json:"access_token_expires_at"`
	ServerTime           time.Time `json:"server_time"`
}

func about(t testing.TB, b *rig.Browser) session {
	t.Helper()
	r := b.Fetch(http.MethodGet, "/bff/session")
	if r.Status != http.StatusOK {
		t.Fatalf("/bff/session: %s", r)
	}
	var s session
	r.JSON(t, &s)
	return s
}

// tokenRunsOut waits until the session's access token has. It asks
// /bff/session, which never refreshes.
func tokenRunsOut(t testing.TB, b *rig.Browser) {
	t.Helper()
	rig.Eventually(t, "the access token runs out", func() bool {
		s := about(t, b)
		return s.ServerTime.After(s.AccessTokenExpiresAt) // both are cut to the second
	})
}

func wantProblem(t testing.TB, r *rig.Response, status int, code, reason string) {
	t.Helper()
	gotCode, gotReason := r.Problem()
	if r.Status != status || gotCode != code || gotReason != reason {
		t.Fatalf("got %s, want %d %s %s", r, status, code, reason)
	}
	if len(r.SetCookies) > 0 {
		t.Fatalf("%s sets a cookie: %s", r, r.SetCookies[0].Name)
	}
}

// wantEnded waits until a session's end is known at every replica: within a
// second, says design.md, and a slow machine gets another.
func wantEnded(t testing.TB, w *rig.World, b *rig.Browser, reason string) {
	t.Helper()
	for _, g := range w.Gateways {
		rig.Within(t, 2*time.Second, "a replica knows of the end: "+reason, func() bool {
			r := b.Send(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: g})
			if r.Status == http.StatusOK {
				return false
			}
			wantProblem(t, r, 401, "login_required", reason)
			return true
		})
	}
}

func decode(t testing.TB, r io.Reader, v any) {
	t.Helper()
	if err := json.NewDecoder(io.LimitReader(r, 1<<20)).Decode(v); err != nil {
		t.Fatal(err)
	}
}
