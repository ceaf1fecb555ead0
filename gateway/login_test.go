package gateway_test

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

const loginPrefix = "__Host-cloakroom-login-"

// logins are the login cookies in the jar.
func (b *browser) logins() (names []string) {
	for name := range b.jar {
		if strings.HasPrefix(name, loginPrefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// atProvider begins a login and returns the provider's page's URL, unvisited.
func (b *browser) atProvider(login string) *url.URL {
	b.t.Helper()
	a, err := b.follow(login, "none", func(a answer) bool { return a.header.Get("Location") != "" })
	if err != nil {
		b.t.Fatal(err)
	}
	u, err := url.Parse(a.header.Get("Location"))
	if err != nil || a.status != http.StatusSeeOther {
		b.t.Fatalf("login: %v, %v", a, err)
	}
	return u
}

// callback has the provider log the browser in and returns the callback's URL,
// unvisited.
func (b *browser) callback(login string) *url.URL {
	b.t.Helper()
	a, err := b.send(request{method: "GET", url: b.atProvider(login).String()})
	if err != nil {
		b.t.Fatal(err)
	}
	u, err := url.Parse(a.header.Get("Location"))
	if err != nil || u.Path != "/bff/callback" {
		b.t.Fatalf("the provider sent the browser to %q, %v: %v", a.header.Get("Location"), err, a)
	}
	return u
}

// exchanges says how many codes were shown to the provider.
func (w *world) exchanges() int {
	n := 0
	for _, e := range w.provider.Ledger() {
		if e.Kind == gatewaytest.KindCode && e.Outcome != gatewaytest.Issued {
			n++
		}
	}
	return n
}

// as makes the provider sign in another user from now on.
func (w *world) as(user string) {
	w.provider.Change(func(o *gatewaytest.Options) { o.AutoLogin = gatewaytest.As(user) })
}

func with(u *url.URL, edit func(url.Values)) string {
	c, q := *u, u.Query()
	edit(q)
	c.RawQuery = q.Encode()
	return c.String()
}

func TestLogin(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "no_session")

	b.login()
	if left := b.logins(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	user := b.fetch("GET", "/bff/user")
	want(t, user, 200)
	if user.field("sub") != gatewaytest.SubjectOf("alice") || user.field("name") == "" || strings.Contains(user.body, "absent") {
		t.Error(user.body)
	}
	want(t, b.fetch("GET", "/api/x"), 200)
	if got := w.upstream.last(t); got.User != gatewaytest.SubjectOf("alice") || got.Path != "/x" || got.Header.Get("Cookie") != "" {
		t.Errorf("upstream saw %+v", got)
	}
	if w.log.find("session begun") == "" {
		t.Error("no audit line")
	}
}

// Both of the callback's answers, on the wire.
func TestCallbackAnswers(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	back := b.callback("/bff/login?return_to=/orders%3Fx%3D1%23top")
	first, err := b.follow(back.String(), "cross-site", func(answer) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	want(t, first, 200)
	if first.handsOut() || !strings.Contains(first.body, `content="0; url=/bff/callback"`) || strings.Contains(first.body, "<script") {
		t.Errorf("first step: %v %s", first, first.body)
	}
	second, err := b.follow("/bff/callback", "same-origin", func(answer) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	if second.status != http.StatusSeeOther || second.header.Get("Location") != origin+"/orders?x=1#top" || !second.handsOut() {
		t.Errorf("second step: %v", second)
	}
	for _, a := range []answer{first, second} { // S-06
		if a.header.Get("Referrer-Policy") != "no-referrer" || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("headers %v", a.header)
		}
	}
	// A reload of the second step finds nothing to set; the session is untouched.
	want(t, b.visit("/bff/callback", "none"), 400)
	want(t, b.fetch("GET", "/bff/user"), 200)
}

// a rejected target is a login to "/", and nothing else. A-16: of two
// targets, none counts.
func TestLoginTargets(t *testing.T) {
	w := newWorld(t, func(a *gateway.App) {
		a.Routes = append(a.Routes, gateway.Route{Path: "/", Upstream: a.Routes[0].Upstream, Auth: gateway.AuthNone, Kind: gateway.KindPage})
	})
	b := w.browser(w.replica())
	for _, test := range []struct{ name, query, lands string }{
		{"none", "", "/"},
		{"good", "?return_to=/public/x%3Fy%3Dz", "/public/x?y=z"},
		{"A-02 backslash", `?return_to=/%5cevil.test`, "/"},
		{"A-03 tab", "?return_to=/%09/evil.test", "/"},
		{"A-04 dots", "?return_to=/./%5cevil.test", "/"},
		{"A-09 scheme", "?return_to=https://evil.test/", "/"},
		{"A-09 two slashes", "?return_to=//evil.test/", "/"},
		{"A-10 script", "?return_to=javascript:alert(1)", "/"},
		{"A-11 unicode", "?return_to=/%EF%BC%8Fevil.test", "/"},
		{"A-12 NUL", "?return_to=/%00//evil.test", "/"},
		{"A-16 good first", "?return_to=/public/x&return_to=//evil.test", "/"},
		{"A-16 bad first", "?return_to=//evil.test&return_to=/public/x", "/"},
		{"A-16 brackets", "?return_to[]=/public/x", "/"},
		{"bad escape", "?return_to=%zz", "/"},
		{"semicolon", "?return_to=/public/x;y", "/"},
		{"login again", "?return_to=/bff/login", "/"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := b.visit("/bff/login"+test.query, "none")
			if got := a.url.RequestURI(); a.url.Host != host || got != test.lands || a.status != 200 {
				t.Errorf("landed on %v with %d", a.url, a.status)
			}
		})
	}
}

// B-02: somebody else's callback is refused before its code is spent, and the
// session that the browser has is not touched.
func TestB02ForeignState(t *testing.T) {
	w := newWorld(t)
	r := w.replica()
	victim, attacker := w.browser(r), w.browser(r)
	victim.login()
	before := w.exchanges()
	w.as("mallory")
	stolen := attacker.callback("/bff/login")
	a := victim.visit(stolen.String(), "cross-site")
	want(t, a, 400)
	if !strings.Contains(a.body, "login_expired") || len(a.header.Values("Set-Cookie")) != 0 {
		t.Errorf("%v: %s", a, a.body)
	}
	if w.exchanges() != before {
		t.Error("the code was spent")
	}
	if user := victim.fetch("GET", "/bff/user"); user.field("sub") != gatewaytest.SubjectOf("alice") {
		t.Error(user.body)
	}
}

// B-04: five tabs log in at once and finish in reverse order.
func TestB04ParallelTabs(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	var tabs []*url.URL
	for _, target := range []string{"a", "b", "c", "d", "e"} {
		tabs = append(tabs, b.callback("/bff/login?return_to=/public/"+target))
	}
	slices.Reverse(tabs)
	for i, tab := range tabs {
		a := b.visit(tab.String(), "cross-site")
		want(t, a, 200)
		if target := "/public/" + string("edcba"[i]); a.url.Path != target {
			t.Errorf("tab landed on %s, not on %s", a.url.Path, target)
		}
		want(t, b.fetch("GET", "/bff/user"), 200)
	}
	if live := w.provider.Live(""); len(live) > 1 {
		eventually(t, "the replaced sessions' refresh tokens are revoked", func() bool { return len(w.provider.Live("")) == 1 })
	}
}

// Of nine tabs the seven newest can finish.
func TestB04MostTabs(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	var tabs []*url.URL
	for range 9 {
		tabs = append(tabs, b.callback("/bff/login"))
		w.pass(time.Second)
		if n := len(b.logins()); n > 7 {
			t.Fatalf("%d login cookies", n)
		}
	}
	for i, tab := range tabs {
		a, err := b.follow(tab.String(), "cross-site", func(answer) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		if ok := a.status == 200; ok != (i >= 2) {
			t.Errorf("tab %d: %d", i, a.status)
		}
	}
}

// Several parked tickets: the newest is set, the others' sessions end.
func TestSeveralParked(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	first, second := b.callback("/bff/login?return_to=/public/1"), b.callback("/bff/login?return_to=/public/2")
	for _, tab := range []*url.URL{first, second} {
		if a, err := b.follow(tab.String(), "cross-site", func(answer) bool { return true }); err != nil || a.status != 200 {
			t.Fatal(a, err)
		}
		w.pass(time.Millisecond)
	}
	a := b.visit("/bff/callback", "same-origin")
	want(t, a, 200)
	if a.url.Path != "/public/2" || len(b.logins()) != 0 {
		t.Errorf("landed on %s with %v", a.url.Path, b.logins())
	}
	want(t, b.fetch("GET", "/bff/user"), 200)
	if line := w.log.find("replaced"); line == "" {
		t.Error("the other session was not ended")
	}
	eventually(t, "its refresh token is revoked", func() bool { return len(w.provider.Live("")) == 1 })
}

// A second step that runs twice, as when the deletion of the login's cookie is
// lost, doesn't end the session that it has set.
func TestLandTwice(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	tab := b.callback("/bff/login?return_to=/public/x")
	if _, err := b.follow(tab.String(), "cross-site", func(answer) bool { return true }); err != nil {
		t.Fatal(err)
	}
	before := b.copy()
	want(t, b.visit("/bff/callback", "same-origin"), 200)
	maps.Copy(b.jar, before.jar)
	want(t, b.visit("/bff/callback", "same-origin"), 200)
	want(t, b.fetch("GET", "/bff/user"), 200)
}

// B-05: a login lives for ten minutes, whatever the session's times.
func TestB05Expiry(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	tab := b.callback("/bff/login")
	jar := maps.Clone(b.jar)
	w.pass(10 * time.Minute)
	b.jar, b.ages = jar, map[string]time.Time{} // a browser that keeps cookies too long
	a := b.visit(tab.String(), "cross-site")
	want(t, a, 400)
	if !strings.Contains(a.body, "login_expired") || !strings.Contains(a.body, "/bff/login") || w.exchanges() != 0 {
		t.Error(a.body)
	}
}

// B-09: a transaction under another's name is none.
func TestB09Swap(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	one, two := b.callback("/bff/login"), b.callback("/bff/login")
	names := b.logins()
	b.jar[names[0]].Value, b.jar[names[1]].Value = b.jar[names[1]].Value, b.jar[names[0]].Value
	for _, tab := range []*url.URL{one, two} {
		want(t, b.visit(tab.String(), "cross-site"), 400)
	}
	if w.exchanges() != 0 {
		t.Error("a code was spent")
	}
}

// B-10, B-13, B-14: what the provider's answer may not be. Nothing is spent, and
// the session that is there stays.
func TestCallbackRefuses(t *testing.T) {
	w := newWorld(t)
	r := w.replica()
	for _, test := range []struct {
		name   string
		edit   func(url.Values)
		status int
		code   string
	}{
		{"B-10 another issuer", func(q url.Values) { q.Set("iss", "https://evil.test") }, 502, "login_failed"},
		{"B-10 issuer with a slash", func(q url.Values) { q.Set("iss", q.Get("iss")+"/") }, 502, "login_failed"},
		{"issuer twice", func(q url.Values) { q.Add("iss", "https://evil.test") }, 400, "invalid_request"},
		{"B-10 an empty issuer", func(q url.Values) { q.Set("iss", "") }, 400, "invalid_request"},
		{"state of nobody", func(q url.Values) { q.Set("state", strings.Repeat("A", 44)) }, 400, "login_expired"},
		{"state cut short", func(q url.Values) { q.Set("state", q.Get("state")[:30]) }, 400, "login_expired"},
		{"state with the id alone", func(q url.Values) { q.Set("state", q.Get("state")[:22]) }, 400, "login_expired"},
		{"no state", func(q url.Values) { q.Del("state") }, 400, "login_expired"},
		{"state twice", func(q url.Values) { q.Add("state", q.Get("state")) }, 400, "invalid_request"},
		{"code twice", func(q url.Values) { q.Add("code", "x") }, 400, "invalid_request"},
		{"no code", func(q url.Values) { q.Del("code") }, 400, "invalid_request"},
		{"B-13 denied", func(q url.Values) { q.Del("code"); q.Set("error", "access_denied") }, 400, "login_cancelled"},
		{"prompt=none", func(q url.Values) { q.Del("code"); q.Set("error", "login_required") }, 400, "login_cancelled"},
		{"provider's trouble", func(q url.Values) { q.Del("code"); q.Set("error", "temporarily_unavailable") }, 503, "provider_unavailable"},
		{"B-13 script", func(q url.Values) {
			q.Del("code")
			q.Set("error", "<script>x</script>")
			q.Set("error_description", strings.Repeat("<script>x</script>", 500))
		}, 502, "login_failed"},
		{"B-13 error and code", func(q url.Values) { q.Set("error", "access_denied") }, 400, "invalid_request"},
		{"B-13 error without a state", func(q url.Values) { q.Del("code"); q.Del("state"); q.Set("error", "access_denied") }, 400, "login_expired"},
		{"B-14 implicit", func(q url.Values) { q.Del("code"); q.Set("id_token", "x.y.z"); q.Set("access_token", "x") }, 400, "invalid_request"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := w.browser(r)
			b.login()
			before := w.exchanges()
			a := b.visit(with(b.callback("/bff/login"), test.edit), "cross-site")
			if a.status != test.status || !strings.Contains(a.body, test.code) || strings.Contains(a.body, "<script") {
				t.Errorf("%v: %s", a, a.body)
			}
			if _, touched := a.set(ticketCookie); touched {
				t.Error("the session cookie was touched")
			}
			if a.status == 503 && len(a.header.Values("Set-Cookie")) > 0 {
				t.Errorf("trouble drops a cookie: %q", a.header.Values("Set-Cookie"))
			}
			if w.exchanges() != before {
				t.Error("a code was spent")
			}
			want(t, b.fetch("GET", "/bff/user"), 200)
		})
	}
	b := w.browser(r)
	form, err := b.send(request{method: "POST", url: origin + "/bff/callback", body: "code=x&state=y", header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}})
	if err != nil {
		t.Fatal(err)
	}
	want(t, form, 405, "method_not_allowed") // B-14: form_post
}

// B-15, B-16: what is sent to the provider is ours, but for the listed
// parameters.
func TestB16AuthorizationRequest(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	u := b.atProvider("/bff/login?scope=admin&prompt=login&redirect_uri=https://evil.test&client_id=x&resource=y&state=z&login_hint=" + url.QueryEscape("x&scope=admin"))
	q := u.Query()
	for name, want := range map[string]string{
		"scope": "openid profile offline_access", "prompt": "login", "redirect_uri": origin + "/bff/callback",
		"client_id": w.client.ID, "resource": "", "login_hint": "x&scope=admin", "code_challenge_method": "S256",
	} {
		if v := q[name]; q.Get(name) != want || len(v) > 1 {
			t.Errorf("%s = %q, want %q", name, v, want)
		}
	}
	if len(q.Get("state")) < 43 || q.Get("state") == "z" {
		t.Errorf("state %q", q.Get("state"))
	}
	if q := b.atProvider("/bff/login?prompt=login&prompt=none").Query(); q.Has("prompt") {
		t.Errorf("prompt came twice and went as %q", q["prompt"])
	}
	a, err := b.send(request{method: "GET", url: origin + "/bff/login", header: map[string]string{"X-Forwarded-Host": "evil.test", "Forwarded": "host=evil.test"}})
	if err != nil {
		t.Fatal(err)
	}
	if to, _ := url.Parse(a.header.Get("Location")); to.Query().Get("redirect_uri") != origin+"/bff/callback" {
		t.Errorf("B-15: redirect_uri %q", to.Query().Get("redirect_uri"))
	}
}

// B-17: logging in as somebody else ends the old session, and mixes nothing.
func TestB17AnotherUser(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	old := b.copy()
	sid := b.fetch("GET", "/bff/session").field("sid")

	w.as("bob")
	b.login()
	if user := b.fetch("GET", "/bff/user"); user.field("sub") != gatewaytest.SubjectOf("bob") {
		t.Error(user.body)
	}
	if again := b.fetch("GET", "/bff/session").field("sid"); again == sid || again == "" {
		t.Errorf("sid %q, then %q", sid, again)
	}
	a := old.fetch("POST", "/bff/token")
	want(t, a, 401, "login_required", "replaced")
	if len(a.header.Values("Set-Cookie")) != 0 {
		t.Error("the refusal touches cookies")
	}
	eventually(t, "alice's refresh token is revoked", func() bool { return len(w.provider.Live(gatewaytest.SubjectOf("alice"))) == 0 })
	want(t, b.fetch("GET", "/api/x"), 200)
	if got := w.upstream.last(t); got.User != gatewaytest.SubjectOf("bob") {
		t.Errorf("upstream saw %s", got.User)
	}
}

// The session noted when the login began is ended too, when the browser has lost
// its cookie on the way.
func TestNotedSessionIsReplaced(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	old := b.copy()
	tab := b.callback("/bff/login?return_to=/public/x")
	delete(b.jar, ticketCookie)
	want(t, b.visit(tab.String(), "cross-site"), 200)
	want(t, old.fetch("GET", "/bff/user"), 401, "login_required", "replaced")
	want(t, b.fetch("GET", "/bff/user"), 200)
}

// C-01: what a browser presents before the login is not what it has afterwards.
func TestC01Fixation(t *testing.T) {
	w := newWorld(t)
	r := w.replica()
	attacker, b := w.browser(r), w.browser(r)
	attacker.login()
	for _, preset := range []string{"chosen", attacker.jar[ticketCookie].Value} {
		b.jar[ticketCookie] = &http.Cookie{Name: ticketCookie, Value: preset, SameSite: http.SameSiteStrictMode}
		w.as("bob")
		b.login()
		if b.jar[ticketCookie].Value == preset {
			t.Error("the ticket was adopted")
		}
		if user := b.fetch("GET", "/bff/user"); user.field("sub") != gatewaytest.SubjectOf("bob") {
			t.Error(user.body)
		}
	}
	// The fixed session is the attacker's own, and over.
	want(t, attacker.fetch("GET", "/bff/user"), 401, "login_required", "replaced")
}

// A link from another site to the login comes without the Strict cookie: the
// session it leaves behind must be known all the same.
func TestLoginFromAnotherSite(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	first, err := b.follow("/bff/login?return_to=/public/x", "cross-site", func(answer) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	if first.status != 200 || !strings.Contains(first.body, `url=/bff/login?return_to=/public/x"`) || len(first.header.Values("Set-Cookie")) != 0 {
		t.Errorf("%v: %s", first, first.body)
	}
	if a := b.visit("/bff/login?return_to=/public/x", "cross-site"); a.status != 200 || a.url.Path != "/public/x" {
		t.Error(a)
	}
	if w.log.find("replaced") == "" {
		t.Error("the previous session was left alive")
	}
}

// The second step only ends and sets within the site.
func TestLandCrossSite(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	tab := b.callback("/bff/login?return_to=/public/x")
	if _, err := b.follow(tab.String(), "cross-site", func(answer) bool { return true }); err != nil {
		t.Fatal(err)
	}
	a, err := b.follow("/bff/callback", "cross-site", func(answer) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	if a.status != 200 || a.handsOut() || !strings.Contains(a.body, "url=/bff/callback") {
		t.Errorf("%v", a)
	}
	if a := b.visit("/bff/callback", "cross-site"); a.url.Path != "/public/x" {
		t.Error(a)
	}
}

// A reload of the first step's page brings its code once more: it is spent, and
// not shown again.
func TestCallbackReload(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	tab := b.callback("/bff/login?return_to=/public/x")
	if _, err := b.follow(tab.String(), "cross-site", func(answer) bool { return true }); err != nil {
		t.Fatal(err)
	}
	a := b.visit(tab.String(), "cross-site")
	if a.status != 200 || a.url.Path != "/public/x" || w.exchanges() != 1 || len(w.provider.Reuses()) != 0 {
		t.Errorf("%v, %d exchanges", a, w.exchanges())
	}
	// And after the login it is nobody's any more.
	want(t, b.visit(tab.String(), "cross-site"), 400)
	want(t, b.fetch("GET", "/bff/user"), 200)
}

// Old browsers send no fetch metadata.
func TestLoginOldBrowser(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.old = true
	b.login()
	want(t, b.fetch("POST", "/bff/token"), 200)
	want(t, b.fetch("GET", "/bff/user"), 200)
}

func TestLoginProviderTrouble(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	w.provider.Refuse()
	a := b.visit("/bff/login", "none")
	want(t, a, 503)
	if !strings.Contains(a.body, "provider_unavailable") || a.header.Get("Retry-After") == "" || len(b.logins()) != 0 {
		t.Errorf("%v: %s", a, a.body)
	}
	if err := w.provider.Accept(); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Minute) // discovery is not asked again at once
	b.login()

	b = w.browser(b.at)
	tab := b.callback("/bff/login?return_to=/public/x")
	failing := w.provider.Fail(gatewaytest.FailWith{Status: 503})
	a = b.visit(tab.String(), "cross-site")
	want(t, a, 503)
	failing.Clear()
	// The code was not spent, and the login is still there.
	if a := b.visit(tab.String(), "cross-site"); a.status != 200 || a.url.Path != "/public/x" {
		t.Error(a)
	}

	b = w.browser(b.at)
	tab = b.callback("/bff/login")
	failing = w.provider.Fail(gatewaytest.FailWith{Error: "invalid_grant"})
	a = b.visit(tab.String(), "cross-site")
	failing.Clear()
	want(t, a, 502)
	if !strings.Contains(a.body, "login_failed") || len(b.logins()) != 0 || b.jar[ticketCookie] != nil {
		t.Errorf("%v, %v", a, b.logins())
	}
}

// No store: the login is not begun, or not finished; nothing is half done.
// AZ-8: one answer of the provider's, which comes several times at once, at
// several replicas: its code is presented once.
func TestLoginAnswerSeveralTimesAtOnce(t *testing.T) {
	w := newWorld(t)
	one, two := w.replica(), w.replica()
	b := w.browser(one)
	tab := b.callback("/bff/login?return_to=/public/x")
	hold := w.provider.Gate(gatewaytest.GateBeforeCommit)
	first := make(chan answer, 1)
	go func() { first <- b.visit(tab.String(), "cross-site") }()
	<-hold.Arrived()
	for _, r := range []*replica{one, two} {
		other := b.copy()
		other.at = r
		a := other.visit(tab.String(), "cross-site")
		want(t, a, 503)
		if len(a.header.Values("Set-Cookie")) > 0 || a.header.Get("Retry-After") == "" {
			t.Errorf("%v, %v", a, a.header)
		}
	}
	hold.Release()
	if a := <-first; a.status != 200 || a.url.Path != "/public/x" {
		t.Error(a)
	}
	if spent := w.provider.Reuses(); len(spent) > 0 {
		t.Errorf("%v", spent)
	}
}

func TestLoginStoreTrouble(t *testing.T) {
	t.Parallel() // it waits for the store's deadline
	w := newWorld(t)
	b := w.browser(w.replica())
	tab := b.callback("/bff/login?return_to=/public/x")
	w.redis.Kill()
	refused := func(a answer) {
		t.Helper()
		want(t, a, 503)
		if !strings.Contains(a.body, "store_unavailable") || len(a.header.Values("Set-Cookie")) != 0 {
			t.Errorf("%v, %q", a, a.header.Values("Set-Cookie"))
		}
	}
	// A code is not spent for nothing: a reload finishes the login.
	before := len(w.provider.Ledger())
	refused(b.visit(tab.String(), "cross-site"))
	if spent := w.provider.Ledger()[before:]; len(spent) > 0 {
		t.Errorf("without a store: %v", spent)
	}
	w.redis.Restart()
	if a := b.visit(tab.String(), "cross-site"); a.status != 200 || a.url.Path != "/public/x" {
		t.Error(a)
	}

	// The store leaves while the provider answers: the code is spent.
	b = w.browser(w.replica())
	tab = b.callback("/bff/login")
	live := len(w.provider.Live(""))
	hold := w.provider.Gate(gatewaytest.GateAfterCommit)
	visited := make(chan answer, 1)
	go func() { visited <- b.visit(tab.String(), "cross-site") }()
	<-hold.Arrived()
	w.redis.Kill()
	hold.Release()
	refused(<-visited)
	eventually(t, "the refresh token that nobody holds is revoked", func() bool { return len(w.provider.Live("")) == live })
	w.redis.Restart()

	// Step two ends the previous session first: without a store it sets nothing,
	// and a reload finishes it.
	b.login()
	old := b.copy()
	tab = b.callback("/bff/login?return_to=/public/x")
	if _, err := b.follow(tab.String(), "cross-site", func(answer) bool { return true }); err != nil {
		t.Fatal(err)
	}
	w.redis.Stop()
	refused(b.visit("/bff/callback", "same-origin"))
	w.redis.Cont()
	a := b.visit("/bff/callback", "same-origin")
	if a.status != 200 || a.url.Path != "/public/x" {
		t.Error(a)
	}
	want(t, old.fetch("GET", "/bff/user"), 401, "login_required", "replaced")
}

// ID-4: a login that asked how long ago somebody may have logged in at the provider
// is held to the answer, whatever the provider made of the question.
func TestLoginMaxAge(t *testing.T) {
	w := newWorld(t, func(a *gateway.App) { a.LoginParams = []string{"max_age"} })
	r := w.replica()
	for name, c := range map[string]struct {
		query string
		told  any // auth_time
		in    bool
	}{
		"not asked":       {"", w.now().Add(-time.Hour).Unix(), true},
		"recent enough":   {"?max_age=7200", w.now().Add(-time.Hour).Unix(), true},
		"too long ago":    {"?max_age=600", w.now().Add(-time.Hour).Unix(), false},
		"not told":        {"?max_age=600", nil, false},
		"twice: not sent": {"?max_age=600&max_age=600", w.now().Add(-time.Hour).Unix(), true},
		"no number":       {"?max_age=x", w.now().Add(-time.Hour).Unix(), true},
	} {
		t.Run(name, func(t *testing.T) {
			w.provider.Change(func(o *gatewaytest.Options) {
				o.EditIDToken = func(_ gatewaytest.Request, claims map[string]any) {
					if claims["auth_time"] = c.told; c.told == nil {
						delete(claims, "auth_time")
					}
				}
			})
			b := w.browser(r)
			back := b.callback("/bff/login" + c.query)
			if a := b.visit(back.String(), "cross-site"); !c.in {
				want(t, a, 502)
				want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "no_session")
				return
			}
			want(t, b.fetch("GET", "/bff/user"), 200)
		})
	}
}
