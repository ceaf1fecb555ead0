package gateway_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// as logs in as somebody else than alice.
func (b *browser) as(name string) {
	b.t.Helper()
	if a := b.visit("/bff/login?login_hint="+name, "none"); b.jar[ticketCookie] == nil {
		b.t.Fatalf("login ended at %v", a)
	}
}

// sid is that of the browser's session.
func (b *browser) sid() string {
	b.t.Helper()
	a := b.fetch("GET", "/bff/session")
	want(b.t, a, 200)
	return a.field("sid")
}

type listed struct {
	SID      string    `json:"sid"`
	Created  time.Time `json:"created_at"`
	LastSeen time.Time `json:"last_seen_at"`
	Browser  string    `json:"browser"`
	Address  string    `json:"address"`
	Current  bool      `json:"current"`
}

func (b *browser) list() []listed {
	b.t.Helper()
	a := b.fetch("GET", "/bff/sessions")
	want(b.t, a, 200)
	var doc struct{ Sessions []listed }
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil {
		b.t.Fatal(err)
	}
	return doc.Sessions
}

// anonymous is an answer without what differs from one request to the next.
func anonymous(t testing.TB, a answer) string {
	t.Helper()
	h := maps.Clone(a.header)
	delete(h, "Date")
	var doc map[string]any
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	delete(doc, "trace_id")
	h["Content-Length"] = nil
	b, _ := json.Marshal([]any{a.status, h, doc})
	return string(b)
}

func TestSessions(t *testing.T) {
	w := newWorld(t)
	r := w.replica()
	a, b, bob := w.browser(r), w.browser(r), w.browser(w.replica())
	a.login()
	w.pass(2 * time.Second)
	b.login()
	bob.as("bob")

	list := a.list()
	if len(list) != 2 || list[0].SID != b.sid() || list[1].SID != a.sid() {
		t.Fatalf("%+v", list)
	}
	for i, s := range list {
		if s.Current != (i == 1) || s.Address != "127.0.0.1" || !strings.HasPrefix(s.Browser, "Go-http-client") ||
			s.Created.IsZero() || s.LastSeen.Before(s.Created) {
			t.Errorf("%+v", s)
		}
	}

	// One of them, from the other browser.
	gone := a.fetch("DELETE", "/bff/sessions/"+b.sid())
	want(t, gone, 204)
	if gone.body != "" || gone.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", gone)
	}
	want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "revoked")
	if list := a.list(); len(list) != 1 || !list[0].Current {
		t.Errorf("%+v", list)
	}

	// Neither what is somebody else's nor what isn't there tells which it is.
	bobs := bob.sid()
	same := anonymous(t, a.fetch("DELETE", "/bff/sessions/"+session.NewSID().String()))
	for name, sid := range map[string]string{
		"foreign": bobs, "ended": list[0].SID, "malformed": "x", "empty": "", "long": strings.Repeat("A", 500), "another spelling": bobs[:21] + "_",
	} {
		got := a.fetch("DELETE", "/bff/sessions/"+sid)
		want(t, got, 404, "no_route")
		if anonymous(t, got) != same {
			t.Errorf("%s: %s\nwant %s", name, anonymous(t, got), same)
		}
	}
	want(t, bob.fetch("GET", "/bff/user"), 200)
}

// The current session ends like any other. Only a logout deletes the cookie.
func TestEndOwnSession(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	a := b.fetch("DELETE", "/bff/sessions/"+b.sid())
	want(t, a, 204)
	if len(a.header.Values("Set-Cookie")) != 0 {
		t.Errorf("%q", a.header.Values("Set-Cookie"))
	}
	want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "revoked")
	eventually(t, "the refresh token is revoked", func() bool { return len(w.provider.Live("")) == 0 })
}

func TestEndOtherSessions(t *testing.T) {
	w := newWorld(t)
	r := w.replica()
	var all [4]*browser
	for i := range all {
		all[i] = w.browser(r)
		all[i].login()
	}
	bob := w.browser(r)
	bob.as("bob")
	a := all[1].fetch("DELETE", "/bff/sessions")
	want(t, a, 200)
	if a.body != `{"ended":3}`+"\n" {
		t.Error(a.body)
	}
	for i, b := range all {
		if i == 1 {
			want(t, b.fetch("GET", "/bff/user"), 200)
		} else {
			want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "revoked")
		}
	}
	want(t, bob.fetch("GET", "/bff/user"), 200)
	if a := all[1].fetch("DELETE", "/bff/sessions"); a.body != `{"ended":0}`+"\n" {
		t.Error(a.body)
	}
}

// E-01: nobody else's page lists or ends sessions, nor does who has none.
func TestSessionsGuarded(t *testing.T) {
	w := newWorld(t)
	b, nobody := w.browser(w.replica()), w.browser(w.replica())
	b.login()
	sid := b.sid()
	for _, c := range []struct{ method, path string }{
		{"GET", "/bff/sessions"}, {"DELETE", "/bff/sessions"}, {"DELETE", "/bff/sessions/" + sid}, {"DELETE", "/bff/sessions/x"},
	} {
		want(t, b.fetch(c.method, c.path, "X-Bff:"), 403, "cross_origin_blocked")
		want(t, b.fetch(c.method, c.path, "Sec-Fetch-Site: cross-site"), 403, "cross_origin_blocked")
		want(t, b.fetch(c.method, c.path, "Origin: https://evil.test"), 403, "cross_origin_blocked")
		want(t, nobody.fetch(c.method, c.path), 401, "login_required", "no_session")
	}
	for path, allow := range map[string]string{"/bff/sessions": "GET, DELETE", "/bff/sessions/" + sid: "DELETE"} {
		a := b.fetch("POST", path)
		want(t, a, 405, "method_not_allowed")
		if a.header.Get("Allow") != allow {
			t.Errorf("%s: Allow %q", path, a.header.Get("Allow"))
		}
	}
	want(t, b.fetch("GET", "/bff/user"), 200)
}

// To look at the list keeps no session alive.
func TestSessionsIsNoActivity(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	for range 3 {
		w.pass(9 * time.Minute)
		b.list()
		want(t, b.fetch("DELETE", "/bff/sessions"), 200)
	}
	w.pass(4 * time.Minute)
	want(t, b.fetch("GET", "/bff/sessions"), 401, "login_required", "idle_timeout")
}

func TestSessionsStoreDown(t *testing.T) {
	t.Parallel() // it waits for the store's deadline
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	sid := b.sid()
	w.redis.Stop()
	for _, c := range []struct{ method, path string }{
		{"GET", "/bff/sessions"}, {"DELETE", "/bff/sessions"}, {"DELETE", "/bff/sessions/" + sid},
	} {
		want(t, b.fetch(c.method, c.path), 503, "store_unavailable")
	}
	w.redis.Cont()
	want(t, b.fetch("GET", "/bff/user"), 200)
}
