package gateway_test

import (
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/session"
)

func splitKey(a *gateway.App) { a.SplitKey = true }

// localKey takes the local key that an answer tells.
func localKey(t testing.TB, a answer) string {
	t.Helper()
	want(t, a, 200)
	k := a.field("local_key")
	if _, err := session.ParseLocalKey(k); err != nil {
		t.Fatalf("local_key: %v: %v", err, a)
	}
	return "X-Bff-Local-Key: " + k
}

// seeds E, §4.5: a token comes only for both halves, and a new pair with each
// refresh.
func TestSplitKey(t *testing.T) {
	w := newWorld(t, splitKey)
	b := w.browser(w.replica())
	b.login()
	// The first waits until it has been shown once.
	first := localKey(t, b.fetch("POST", "/bff/token"))
	if again := localKey(t, b.fetch("POST", "/bff/token")); again != first {
		t.Error("a lost answer's local key is not told again")
	}
	a := b.fetch("POST", "/bff/token", first)
	want(t, a, 200)
	if a.field("local_key") != "" {
		t.Error("told although it was shown")
	}
	// A route takes the cookie alone while the token lives, and gets no local key.
	want(t, b.fetch("GET", "/api/x", first), 200)
	if h := w.upstream.last(t).Header; h.Get("X-Bff-Local-Key") != "" {
		t.Errorf("%v", h)
	}

	w.pass(tokenLife)
	want(t, b.fetch("GET", "/api/x"), 401, "token_expired")
	want(t, b.fetch("GET", "/api/x", first), 401, "token_expired") // only /bff/token refreshes
	for name, header := range map[string]string{
		"none": "X-Bff-Local-Key:", "malformed": "X-Bff-Local-Key: x", "another": "X-Bff-Local-Key: " + session.LocalKey{1}.Encode(),
		"cut": first[:len(first)-1],
	} {
		a := b.fetch("POST", "/bff/token", header)
		want(t, a, 401, "local_key_required")
		if a.field("login_url") != "/bff/login" || len(a.header.Values("Set-Cookie")) != 0 {
			t.Errorf("%s: %v", name, a)
		}
	}
	want(t, b.fetch("GET", "/bff/user"), 200) // nothing has ended
	if n := len(w.provider.Redemptions("")); n != 0 {
		t.Errorf("%d refreshes", n)
	}

	a = b.fetch("POST", "/bff/token", first)
	second := localKey(t, a)
	if second == first || !a.handsOut() {
		t.Errorf("no new pair: %v", a)
	}
	want(t, b.fetch("GET", "/api/x"), 200)
	want(t, b.fetch("POST", "/bff/token", second), 200)
	w.pass(tokenLife)
	want(t, b.fetch("POST", "/bff/token", first), 401, "local_key_required")
	third := localKey(t, b.fetch("POST", "/bff/token", second))

	// A logout with both halves can hand the refresh token back.
	a = b.fetch("POST", "/bff/logout", third)
	want(t, a, 200)
	if !strings.HasPrefix(a.field("logout_url"), w.provider.Issuer()) {
		t.Error(a.body)
	}
	eventually(t, "the refresh token is revoked", func() bool { return len(w.provider.Live("")) == 0 })
	for _, key := range []string{first, second, third} {
		if w.log.find(strings.TrimPrefix(key, "X-Bff-Local-Key: ")) != "" {
			t.Error("S-01: a local key is in the log")
		}
	}
}

// Without the local key a logout is one all the same.
func TestSplitKeyLogout(t *testing.T) {
	for name, header := range map[string]string{"none": "X-Bff-Local-Key:", "another": "X-Bff-Local-Key: " + session.LocalKey{1}.Encode()} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, splitKey)
			b := w.browser(w.replica())
			b.login()
			key := localKey(t, b.fetch("POST", "/bff/token"))
			want(t, b.fetch("POST", "/bff/token", key), 200)
			w.pass(tokenLife)
			old := b.copy()
			a := b.fetch("POST", "/bff/logout", header)
			want(t, a, 200)
			deleted(t, a)
			if !strings.HasPrefix(a.field("logout_url"), w.provider.Issuer()) {
				t.Error(a.body)
			}
			want(t, old.fetch("POST", "/bff/token", key), 401, "login_required", "logged_out")
		})
	}
}

// A login by password answers with the local key at once.
func TestSplitKeyByPassword(t *testing.T) {
	w := passwordWorld(t, splitKey)
	b := w.browser(w.replica())
	key := localKey(t, b.post("/bff/login", credentials("carol", carolsPassword)))
	want(t, b.fetch("POST", "/bff/token", key), 200) // shown, so that the ticket alone is not enough any more
	w.pass(tokenLife)
	want(t, b.fetch("POST", "/bff/token"), 401, "local_key_required")
	localKey(t, b.fetch("POST", "/bff/token", key))
}

// What a login replaces is ended, split or not.
func TestSplitKeyReplaced(t *testing.T) {
	w := newWorld(t, splitKey)
	b := w.browser(w.replica())
	b.login()
	localKey(t, b.fetch("POST", "/bff/token"))
	old := b.copy()
	w.pass(tokenLife)
	b.login()
	want(t, old.fetch("GET", "/bff/user"), 401, "login_required", "replaced")
}
