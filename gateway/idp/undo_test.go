package idp_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
)

// revoked has the revocation endpoint say which tokens came, and with what hint.
func (f *fake) revoked(status int) chan string {
	got := make(chan string, 100)
	f.on("/revoke", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		last := f.seen[len(f.seen)-1].form
		f.mu.Unlock()
		w.WriteHeader(status)
		got <- last.Get("token_type_hint") + " " + last.Get("token")
	})
	return got
}

func TestFailedLoginIsUndone(t *testing.T) {
	type claims = map[string]any
	bad := func(f *fake) string { return f.good("another nonce") }
	byCode := func(f *fake, p *idp.Provider, make func(*fake) string) error {
		_, err := f.login(p, func(string) string { return make(f) })
		return err
	}
	const refresh, access = "refresh_token " + refreshToken, "access_token " + accessToken
	for _, row := range []struct {
		name  string
		login func(*fake, *idp.Provider) error
		want  []string
	}{
		{"bad ID token", func(f *fake, p *idp.Provider) error { return byCode(f, p, bad) }, []string{refresh, access}},
		{"no ID token", func(f *fake, p *idp.Provider) error {
			f.grants(nil)
			return byCode(f, p, func(*fake) string { return "" })
		}, []string{refresh, access}},
		{"no refresh token", func(f *fake, p *idp.Provider) error {
			f.grants(claims{"refresh_token": nil})
			return byCode(f, p, func(*fake) string { return "" })
		}, []string{access}},
		{"no Bearer", func(f *fake, p *idp.Provider) error {
			f.grants(claims{"token_type": "DPoP"})
			return byCode(f, p, func(*fake) string { return "" })
		}, []string{refresh, access}},
		{"userinfo is down", func(f *fake, p *idp.Provider) error {
			f.on("/userinfo", answer(503, ""))
			tx := idp.NewTransaction()
			f.grants(claims{"id_token": f.good(tx.Nonce)})
			_, err := p.Exchange(context.Background(), "CODE-canary", tx)
			return err
		}, []string{refresh, access}},
		{"keys are down", func(f *fake, p *idp.Provider) error {
			f.on("/jwks", answer(503, ""))
			return byCode(f, p, bad)
		}, []string{refresh, access}},
		{"by password", func(f *fake, p *idp.Provider) error {
			f.grants(claims{"id_token": "a.b.c"})
			_, err := p.PasswordGrant(context.Background(), "alice", password)
			return err
		}, []string{refresh, access}},
		{"the browser leaves", func(f *fake, p *idp.Provider) error {
			ctx, cancel := context.WithCancel(context.Background())
			tx := idp.NewTransaction()
			f.grants(claims{"id_token": f.good(tx.Nonce)})
			f.on("/userinfo", func(w http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
			_, err := p.Exchange(ctx, "CODE-canary", tx)
			return err
		}, []string{refresh, access}},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			got := f.revoked(200)
			if err := row.login(f, f.provider(func(c *idp.Config) { c.UserInfo = true })); err == nil {
				t.Fatal("the login succeeded")
			}
			for _, want := range row.want {
				if s := <-got; s != want {
					t.Errorf("revoked %q, want %q", s, want)
				}
			}
		})
	}
	t.Run("not where it succeeds", func(t *testing.T) {
		f := newFake(t)
		got := f.revoked(200)
		if _, err := f.login(f.provider(), f.good); err != nil {
			t.Fatal(err)
		}
		if len(got) > 0 {
			t.Error("a good login was undone")
		}
	})
	t.Run("not where nothing was issued", func(t *testing.T) {
		f := newFake(t)
		f.on("/token", answer(400, `{"error":"invalid_grant"}`))
		f.login(f.provider(), func(string) string { return "" })
		if n := len(f.requests("/revoke")); n > 0 {
			t.Errorf("%d revocations", n)
		}
	})
	t.Run("where the provider revokes nothing", func(t *testing.T) {
		f := newFake(t)
		delete(f.metadata, "revocation_endpoint")
		wantKind(t, byCode(f, f.provider(), bad), idp.ErrRejected)
	})
}

// The answer doesn't wait for a revocation that hangs, and no more than 8 hang.
func TestUndoIsBounded(t *testing.T) {
	f := newFake(t)
	release := make(chan struct{})
	arrived := make(chan struct{}, 100)
	f.on("/revoke", func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-release
		io.WriteString(w, "{}")
	})
	p := f.provider(func(c *idp.Config) { c.Timeout = time.Minute })
	for range 20 {
		_, err := f.login(p, func(string) string { return f.good("another nonce") })
		wantKind(t, err, idp.ErrRejected)
	}
	for range 8 {
		<-arrived
	}
	if n := len(f.requests("/revoke")); n != 8 {
		t.Errorf("%d revocations at once", n)
	}
	if !strings.Contains(f.log.String(), "too many") {
		t.Error("nobody is told")
	}
	checkNoSecret(t, f.log.String())
	close(release)
	for range 8 { // the access tokens
		<-arrived
	}
}
