package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cloakroom/cloakroom/session"
	"github.com/cloakroom/cloakroom/session/store"
	"github.com/cloakroom/cloakroom/session/storetest"
)

const operators = "b3BlcmF0b3JzIG9ubHkh"

// attended is a running gateway with sessions of alice's and bob's at shop.
type attended struct {
	*running
	text                string // its configuration
	alice1, alice2, bob session.Ticket
	keeper              *session.Keeper // of another replica
	shop                *session.App
}

func startAttended(t *testing.T, adminListen string) *attended {
	t.Helper()
	redis := storetest.Redis(t)
	key := session.NewServerKey()
	a := &attended{shop: &session.App{Name: "shop", IdleTimeout: time.Hour, AbsoluteTimeout: 12 * time.Hour, Grace: time.Minute}}
	a.text = fmt.Sprintf(`version: 1
listen: "127.0.0.1:0"
admin: {listen: %q, token: %s}
redis: {addresses: [%q]}
keys: [%s]
apps:
  - name: shop
    origin: https://shop.test
    provider:
      issuer: http://127.0.0.1:1
      client_id: shop
      client_secret: dGhpcyBpcyByYW5kb20h
    token: {mode: relay}
`, adminListen, operators, redis.Addr(), key.Encode())
	a.running = startConfig(t, a.text)
	ring, err := session.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	st := store.New(store.Options{Address: redis.Addr(), KeyPrefix: "cloakroom:", Timeout: 2 * time.Second})
	a.keeper = session.New(st, ring, session.Options{})
	t.Cleanup(func() {
		a.keeper.Wait(context.Background())
		st.Close()
	})
	a.alice1, a.alice2, a.bob = a.begin(t, "alice"), a.begin(t, "alice"), a.begin(t, "bob")
	return a
}

func (a *attended) begin(t *testing.T, subject string) session.Ticket {
	t.Helper()
	ticket, err := a.keeper.Begin(t.Context(), a.shop, session.Login{
		Tokens:   session.Tokens{Access: "AT", TokenType: "Bearer", IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)},
		Issuer:   "http://127.0.0.1:1",
		Subject:  subject,
		IssuedAt: time.Now(),
		Claims:   []byte(`{}`),
		Address:  "192.0.2.7",
		Browser:  "Fire\x1b[31mfox", // a terminal must not turn red
	})
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

func TestSessionsVerbs(t *testing.T) {
	a := startAttended(t, "127.0.0.1:0")
	file := filepath.Join(t.TempDir(), "cloakroom.yaml")
	if err := os.WriteFile(file, []byte(strings.Replace(a.text, `admin: {listen: "127.0.0.1:0"`, fmt.Sprintf("admin: {listen: %q", a.admin), 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/live",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		Setup: func(env *testscript.Env) error {
			env.Vars = append(env.Vars, "ADMIN="+a.admin, "TOKEN="+operators, "CONFIG="+file,
				"ALICE1="+a.alice1.SID.String(), "ALICE2="+a.alice2.SID.String(), "BOB="+a.bob.SID.String())
			return nil
		},
	})
}

func TestSessionsOverSocket(t *testing.T) {
	// A socket's path is short; a test's directory may not be.
	dir, err := os.MkdirTemp("", "cloakroom")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "admin.sock")
	a := startAttended(t, "unix:"+path)
	t.Setenv(tokenVariable, operators)
	var answer struct {
		Ended *int `json:"ended"`
	}
	flags := adminFlags{Admin: "unix:" + path}
	if err := flags.post("/admin/sessions/end", order{SID: a.alice1.SID.String()}, &answer); err != nil || answer.Ended == nil || *answer.Ended != 1 {
		t.Errorf("got %v, %v", answer.Ended, err)
	}
	_, err = a.keeper.Open(t.Context(), a.shop, a.alice1, session.Need{})
	if e, ok := errors.AsType[*session.EndedError](err); !ok || e.Reason != session.ReasonRevoked {
		t.Errorf("on another replica: %v", err)
	}
	t.Setenv(tokenVariable, "")
	if err := flags.get("/admin/sessions?sub=alice", &answer); err == nil || !strings.Contains(err.Error(), "token is missing") {
		t.Errorf("without the token: %v", err)
	}
}

// U-01: nothing of the operators' listener is on the public one, however it is
// spelled and whoever asks.
func TestAdminIsNotPublic(t *testing.T) {
	a := startAttended(t, "127.0.0.1:0")
	c := client(t)
	for _, path := range []string{
		"/metrics", "/healthz", "/readyz", "/debug/pprof/", "/debug/vars", "/admin", "/admin/", "/admin/sessions?sub=alice", "/admin/sessions/end",
		"//admin/sessions", "/./admin/sessions", "/x/../admin/sessions", "/%61dmin/sessions", "/admin%2fsessions", "/Admin/sessions", "/admin;/sessions", "/bff/admin/sessions", "/bff/../admin/sessions",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			for _, host := range []string{"shop.test", a.admin, "localhost"} {
				req, err := http.NewRequestWithContext(t.Context(), method, "http://"+a.public, strings.NewReader(fmt.Sprintf(`{"sid":%q}`, a.bob.SID)))
				if err != nil {
					t.Fatal(err)
				}
				req.URL.Opaque = path // as it is
				req.Host = host
				req.Header.Set("Authorization", "Bearer "+operators)
				req.Header.Set("Content-Type", "application/json")
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode < 400 || strings.Contains(string(body), "alice") || strings.Contains(string(body), "cloakroom_") {
					t.Errorf("%s %s at %s: %d %s", method, path, host, resp.StatusCode, body)
				}
			}
		}
	}
	if _, err := a.keeper.Open(t.Context(), a.shop, a.bob, session.Need{}); err != nil {
		t.Errorf("bob is out: %v", err)
	}
}
