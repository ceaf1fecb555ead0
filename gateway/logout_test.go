package gateway_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

// deleted fails the test unless the answer deletes the session cookie, with every
// attribute that it was set with.
func deleted(t *testing.T, a answer) {
	t.Helper()
	for _, line := range a.header.Values("Set-Cookie") {
		if line == ticketCookie+"=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Strict" {
			return
		}
	}
	t.Errorf("the cookie is not deleted: %q", a.header.Values("Set-Cookie"))
}

func TestLogout(t *testing.T) {
	w := newWorld(t, func(a *gateway.App) { a.AfterLogout = "/public/bye" })
	b := w.browser(w.replica())
	b.login()
	thief := b.copy()
	a := b.fetch("POST", "/bff/logout")
	want(t, a, 200)
	deleted(t, a)
	to, err := url.Parse(a.field("logout_url"))
	if err != nil {
		t.Fatal(err)
	}
	q := to.Query()
	if !strings.HasPrefix(to.String(), w.provider.Issuer()+string(gatewaytest.EndpointEndSession)) || q.Get("id_token_hint") == "" ||
		q.Get("post_logout_redirect_uri") != origin+"/bff/logged-out" || q.Get("state") == "" {
		t.Errorf("logout_url %s", to)
	}
	if b.jar[ticketCookie] != nil {
		t.Error("the browser keeps the cookie")
	}
	// C-03: the ticket is dead, not just forgotten.
	dead := thief.fetch("POST", "/bff/token")
	want(t, dead, 401, "login_required", "logged_out")
	if len(dead.header.Values("Set-Cookie")) != 0 {
		t.Error("a refusal touches cookies")
	}
	eventually(t, "the refresh token is revoked", func() bool { return len(w.provider.Live("")) == 0 })

	// The way back from the provider.
	back := b.visit(to.String(), "same-origin")
	if back.status != 200 || back.url.Path != "/public/bye" {
		t.Errorf("%v", back)
	}
	if len(b.jar) != 0 {
		t.Errorf("left in the jar: %v", b.jar)
	}
}

// Logging out is idempotent: with no cookie, a dead one, or one that can't be
// read.
func TestLogoutIdempotent(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	again := b.copy()
	want(t, b.fetch("POST", "/bff/logout"), 200)
	none, junk := w.browser(b.at), b.copy()
	c := *again.jar[ticketCookie]
	c.Value = "junk"
	junk.jar[ticketCookie] = &c
	for name, b := range map[string]*browser{"dead": again, "none": none, "junk": junk} {
		a := b.fetch("POST", "/bff/logout")
		want(t, a, 200)
		deleted(t, a)
		if u := a.field("logout_url"); !strings.HasPrefix(u, origin+"/bff/logged-out?state=") {
			t.Errorf("%s: logout_url %q", name, u)
		}
	}
}

// A form gets a page that navigates on: a redirect would die on the app's
// form-action.
func TestLogoutByForm(t *testing.T) {
	w := newWorld(t, func(a *gateway.App) { a.AfterLogout = "" })
	b := w.browser(w.replica())
	b.login()
	form := request{method: "POST", url: origin + "/bff/logout", navigation: true, header: map[string]string{
		"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate",
		"Sec-Fetch-Dest": "document", "Origin": "https://evil.test",
	}}
	// E-07: not another site's form, nor a link.
	a, err := b.send(form)
	if err != nil {
		t.Fatal(err)
	}
	want(t, a, 403)
	want(t, b.visit("/bff/logout", "cross-site"), 405)
	want(t, b.fetch("GET", "/bff/user"), 200)

	form.header["Sec-Fetch-Site"], form.header["Origin"] = "same-origin", "null"
	if a, err = b.send(form); err != nil {
		t.Fatal(err)
	}
	want(t, a, 200)
	deleted(t, a)
	m := refresh.FindStringSubmatch(a.body)
	if m == nil || !strings.HasPrefix(m[1], w.provider.Issuer()) {
		t.Fatalf("%s", a.body)
	}
	last := b.visit(strings.ReplaceAll(m[1], "&amp;", "&"), "same-origin")
	if last.status != 200 || last.url.Path != "/bff/logged-out" || !strings.Contains(last.body, "logged out") {
		t.Errorf("%v: %s", last, last.body)
	}
}

// M-13, A-19: only a logout that began here goes on to where the app wants it,
// and nothing in the URL says where that is.
func TestLoggedOut(t *testing.T) {
	w := newWorld(t, func(a *gateway.App) { a.AfterLogout = "/public/bye" })
	b := w.browser(w.replica())
	b.login()
	a := b.fetch("POST", "/bff/logout")
	u, _ := url.Parse(a.field("logout_url"))
	state := u.Query().Get("state")
	for _, query := range []string{"", "?state=", "?state=x", "?state=" + state + "&state=x", "?return_to=//evil.test", "?state=" + state[1:]} {
		a := b.visit("/bff/logged-out"+query, "cross-site")
		if a.status != 200 || a.url.Path != "/bff/logged-out" || strings.Contains(a.body, "evil") || strings.Contains(a.body, "You are logged out") {
			t.Errorf("%q: %v", query, a)
		}
	}
	if a := b.visit("/bff/logged-out?state="+state, "cross-site"); a.url.Path != "/public/bye" {
		t.Errorf("%v", a)
	}
}

// A store that is down: nothing is claimed, and the cookie stays until it works.
func TestLogoutStoreDown(t *testing.T) {
	t.Parallel() // it waits for the store's deadline
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	w.redis.Stop()
	a := b.fetch("POST", "/bff/logout")
	w.redis.Cont()
	want(t, a, 503, "store_unavailable")
	if a.header.Get("Retry-After") == "" || len(a.header.Values("Set-Cookie")) != 0 {
		t.Errorf("%v", a)
	}
	want(t, b.fetch("GET", "/bff/user"), 200)
	deleted(t, b.fetch("POST", "/bff/logout"))
}

// A provider that is down doesn't keep anybody logged in.
func TestLogoutProviderDown(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	old := b.copy()
	w.provider.Refuse()
	a := b.fetch("POST", "/bff/logout")
	want(t, a, 200)
	deleted(t, a)
	want(t, old.fetch("GET", "/bff/user"), 401, "login_required", "logged_out")
	eventually(t, "the failed revocation is logged", func() bool { return w.log.find("not revoked") != "" })
}

// A predecessor proves possession too.
func TestLogoutByPredecessor(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	old := b.copy()
	w.pass(tokenLife)
	if a := b.fetch("POST", "/bff/token"); !a.handsOut() {
		t.Fatal(a)
	}
	deleted(t, old.fetch("POST", "/bff/logout"))
	want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "logged_out")
}
