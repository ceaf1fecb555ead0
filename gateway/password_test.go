package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/session"
)

const carolsPassword = "PWcanary correct horse"

// passwordWorld is a world where carol can log in by password.
func passwordWorld(t *testing.T, edit ...func(*gateway.App)) *world {
	t.Helper()
	w := newWorld(t, append([]func(*gateway.App){func(a *gateway.App) { a.PasswordLogin = true }}, edit...)...)
	w.client.PasswordGrant = true
	w.provider.Register(w.client)
	w.provider.Enrol(gatewaytest.User{Username: "carol", Password: carolsPassword})
	t.Cleanup(func() {
		if line := w.log.find("PWcanary"); line != "" {
			t.Errorf("S-01: a password is in the log: %s", line)
		}
	})
	return w
}

// post sends a JSON body as the app's page does.
func (b *browser) post(path, body string, header ...string) answer {
	b.t.Helper()
	h := map[string]string{"X-Bff": "1", "Accept": "*/*", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors",
		"Sec-Fetch-Dest": "empty", "Origin": origin, "Content-Type": "application/json"}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ":")
		h[name] = strings.TrimSpace(value)
		if h[name] == "" {
			delete(h, name)
		}
	}
	a, err := b.send(request{method: "POST", url: origin + path, header: h, body: body})
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

func credentials(name, password string) string {
	b, _ := json.Marshal(map[string]string{"username": name, "password": password})
	return string(b)
}

// seeds D: id and password bring an access token in the body and the session in
// the cookie.
func TestPasswordLogin(t *testing.T) {
	w := passwordWorld(t)
	b := w.browser(w.replica())
	b.login() // as alice
	alices := b.copy()
	a := b.post("/bff/login", credentials("carol", carolsPassword))
	want(t, a, 200)
	if a.field("token_type") != "Bearer" || a.field("expires_in") != "300" && a.field("expires_in") != "299" ||
		subject("Bearer "+a.field("access_token")) != gatewaytest.SubjectOf("carol") || a.field("local_key") != "" {
		t.Errorf("%s", a.body)
	}
	if len(a.header.Values("Set-Cookie")) != 1 || !a.handsOut() {
		t.Errorf("%q", a.header.Values("Set-Cookie"))
	}
	user := b.fetch("GET", "/bff/user")
	want(t, user, 200)
	if user.field("sub") != gatewaytest.SubjectOf("carol") {
		t.Error(user.body)
	}
	// A login replaces what the browser had, and hands its refresh token back.
	want(t, alices.fetch("GET", "/bff/user"), 401, "login_required", "replaced")
	eventually(t, "alice's refresh token is revoked", func() bool { return len(w.provider.Live(alice)) == 0 })
	// And it is a session like any other.
	w.pass(tokenLife)
	next := b.fetch("POST", "/bff/token")
	want(t, next, 200)
	if !next.handsOut() {
		t.Error("no successor")
	}
	want(t, b.fetch("POST", "/bff/logout"), 200)
	eventually(t, "carol's refresh token is revoked", func() bool { return len(w.provider.Live("")) == 0 })
}

// Who can't log in learns nothing about who could.
func TestWrongPassword(t *testing.T) {
	w := passwordWorld(t)
	b := w.browser(w.replica())
	b.login()
	same := ""
	for name, c := range map[string][2]string{
		"wrong password": {"carol", "x"}, "unknown user": {"nobody", "x"}, "no password": {"carol", ""}, "no name": {"", "x"},
		"long name": {strings.Repeat("n", 2000), "x"}, "control character": {"carol\x00", carolsPassword},
	} {
		a := b.post("/bff/login", credentials(c[0], c[1]))
		want(t, a, 401, "invalid_credentials")
		if len(a.header.Values("Set-Cookie")) != 0 || a.field("login_url") != "" {
			t.Errorf("%s: %v", name, a)
		}
		if got := anonymous(t, a); same == "" {
			same = got
		} else if got != same {
			t.Errorf("%s: %s\nothers: %s", name, got, same)
		}
	}
	user := b.fetch("GET", "/bff/user") // whoever was logged in still is
	want(t, user, 200)
	if user.field("sub") != alice {
		t.Error(user.body)
	}
}

func TestPasswordLoginRequests(t *testing.T) {
	w := passwordWorld(t)
	b := w.browser(w.replica())
	good := credentials("carol", carolsPassword)
	for name, body := range map[string]string{
		"nothing": "", "no JSON": "username=carol", "array": "[" + good + "]", "null": "null", "two": good + good, "text after": good + "x",
		"no name": `{"password":"x"}`, "no password": `{"username":"x"}`, "null name": `{"username":null,"password":"x"}`,
		"another member": `{"username":"x","password":"x","scope":"admin"}`, "number": `{"username":1,"password":"x"}`,
		"twice": `{"username":"x","username":"x"}`, "another case": `{"Username":"x","password":"x"}`, "three": `{"username":"x","password":"x","username":"y"}`,
		"not UTF-8": "{\"username\":\"x\xff\",\"password\":\"x\"}", "open": `{"username":"x","password":"x"`,
	} {
		a := b.post("/bff/login", body)
		want(t, a, 400, "invalid_request")
		if strings.Contains(a.body, "canary") {
			t.Errorf("%s: the body comes back: %s", name, a.body)
		}
	}
	want(t, b.post("/bff/login", good, "Content-Type: application/x-www-form-urlencoded"), 400, "invalid_request")
	want(t, b.post("/bff/login", good, "Content-Type: text/plain"), 400, "invalid_request")
	want(t, b.post("/bff/login", `{"username":"`+strings.Repeat("x", 40<<10)+`","password":"x"}`), 413, "too_large")
	for _, header := range []string{"X-Bff:", "Sec-Fetch-Site: cross-site", "Origin: https://evil.test"} { // B-01: nobody else's page logs this browser in
		want(t, b.post("/bff/login", good, header), 403, "cross_origin_blocked")
	}
	if n := w.provider.Requests(gatewaytest.EndpointToken); n != 0 {
		t.Errorf("%d requests reached the provider", n)
	}

	off := newWorld(t)
	a := off.browser(off.replica()).post("/bff/login", good)
	want(t, a, 405, "method_not_allowed")
	if a.header.Get("Allow") != "GET" {
		t.Errorf("Allow %q", a.header.Get("Allow"))
	}
}

// Attempts are limited for each account, however it is spelled and wherever they
// come from, and for each address; the right password is refused as well.
func TestPasswordAttempts(t *testing.T) {
	w := passwordWorld(t)
	one, two := w.browser(w.replica()), w.browser(w.replica())
	for i := range 10 {
		b, name := []*browser{one, two}[i%2], []string{"carol", "CAROL", " carol ", "ca\u200brol", "cárol", "ｃａｒｏｌ", "carol\u00ad"}[i%7]
		want(t, b.post("/bff/login", credentials(name, "x")), 401, "invalid_credentials")
	}
	asked := w.provider.Requests(gatewaytest.EndpointToken)
	for _, b := range []*browser{one, two} {
		a := b.post("/bff/login", credentials("carol", carolsPassword))
		want(t, a, 429, "rate_limited")
		if s := a.header.Get("Retry-After"); s == "" || s != a.field("retry_after") || s == "0" || len(s) > 1 {
			t.Errorf("Retry-After %q, retry_after %q", s, a.field("retry_after"))
		}
	}
	if n := w.provider.Requests(gatewaytest.EndpointToken); n != asked {
		t.Error("a refused attempt reached the provider")
	}
	want(t, one.post("/bff/login", credentials("dave", "x")), 401, "invalid_credentials")
	w.pass(6 * time.Second)
	want(t, two.post("/bff/login", credentials("carol", carolsPassword)), 200)

	// The address: 60, of which 14 are gone; 6 have come back.
	refused := 0
	for i := range 60 {
		a := one.post("/bff/login", credentials(fmt.Sprintf("user%d", i), "x"))
		if a.status == 429 {
			refused++
		} else {
			want(t, a, 401)
		}
	}
	if refused < 6 || refused > 10 {
		t.Errorf("%d refused", refused)
	}
	w.pass(time.Minute)
	want(t, one.post("/bff/login", credentials("carol", carolsPassword)), 200)
}

func TestPasswordLoginTrouble(t *testing.T) {
	t.Run("provider", func(t *testing.T) {
		w := passwordWorld(t)
		b := w.browser(w.replica())
		b.login()
		w.provider.Refuse()
		want(t, b.post("/bff/login", credentials("carol", carolsPassword)), 503, "provider_unavailable")
		want(t, b.fetch("GET", "/bff/user"), 200)
	})
	t.Run("store", func(t *testing.T) {
		t.Parallel() // it waits for the store's deadline
		w := passwordWorld(t)
		b := w.browser(w.replica())
		b.login()
		asked := w.provider.Requests(gatewaytest.EndpointToken)
		w.redis.Stop()
		a := b.post("/bff/login", credentials("carol", carolsPassword))
		w.redis.Cont()
		want(t, a, 503, "store_unavailable")
		if n := w.provider.Requests(gatewaytest.EndpointToken); n != asked {
			t.Error("attempts that can't be counted reach the provider")
		}
		want(t, b.fetch("GET", "/bff/user"), 200)
	})
	t.Run("locked", func(t *testing.T) {
		w := passwordWorld(t)
		r := w.replica()
		b := w.browser(r)
		b.login()
		carol := session.Whose{Issuer: w.provider.Issuer(), Subject: gatewaytest.SubjectOf("carol")}
		if _, err := r.keeper.EndBy(t.Context(), &session.App{Name: "shop"}, carol, session.Ending{Reason: session.ReasonRevoked, Lock: true}); err != nil {
			t.Fatal(err)
		}
		a := b.post("/bff/login", credentials("carol", carolsPassword))
		want(t, a, 403, "account_locked")
		if len(a.header.Values("Set-Cookie")) != 0 || a.field("login_url") != "" {
			t.Errorf("%v", a)
		}
		eventually(t, "the tokens are revoked", func() bool { return len(w.provider.Live(carol.Subject)) == 0 })
		want(t, b.fetch("GET", "/bff/user"), 200)
	})
}

// Where there is no /bff/token, the cookie is all there is.
func TestPasswordLoginWithoutToken(t *testing.T) {
	w := passwordWorld(t, func(a *gateway.App) { a.Token = gateway.TokenOff })
	b := w.browser(w.replica())
	a := b.post("/bff/login", credentials("carol", carolsPassword))
	want(t, a, 204)
	if a.body != "" || !a.handsOut() {
		t.Errorf("%v", a)
	}
	want(t, b.fetch("GET", "/bff/user"), 200)
}

// maxAge is the session cookie's in an answer; 0: it has none.
func maxAge(t testing.TB, a answer) time.Duration {
	t.Helper()
	for _, line := range a.header.Values("Set-Cookie") {
		if c, err := http.ParseSetCookie(line); err == nil && c.Name == ticketCookie {
			return time.Duration(c.MaxAge) * time.Second
		}
	}
	t.Fatalf("no session cookie: %v", a)
	return 0
}

func near(d, target time.Duration) bool { return d <= target && d > target-time.Minute }

const month = 30 * 24 * time.Hour

func remembering(a *gateway.App) {
	a.LoginParams = append(a.LoginParams, "remember")
	a.Session.Remember = month
}

// seeds A: who asks to be remembered has a session that outlives the browser's
// own, for as long as it lasts, through every successor.
func TestRemember(t *testing.T) {
	w := newWorld(t, remembering)
	b := w.browser(w.replica())
	if a, err := b.follow("/bff/login?remember=1&login_hint=alice", "none", func(a answer) bool { return a.status == 303 }); err != nil ||
		strings.Contains(a.header.Get("Location"), "remember") || !strings.Contains(a.header.Get("Location"), "login_hint=alice") {
		t.Errorf("%v, %v", a, err) // it is ours, not the provider's
	}
	landed, err := b.follow("/bff/login?remember=1", "none", answer.handsOut)
	if err != nil || !near(maxAge(t, landed), month) {
		t.Fatalf("%v, %v", landed, err)
	}
	w.pass(2 * 24 * time.Hour) // beyond both of the other timeouts
	a := b.fetch("POST", "/bff/token")
	want(t, a, 200)
	if !near(maxAge(t, a), month-2*24*time.Hour) {
		t.Errorf("the successor's: %s", maxAge(t, a))
	}
	w.pass(28*24*time.Hour - 2*time.Minute)
	a = b.fetch("POST", "/bff/token")
	want(t, a, 200)
	if age := maxAge(t, a); age > 2*time.Minute || age <= 0 {
		t.Errorf("the last successor's: %s", age)
	}
	kept := b.copy()
	kept.ages = map[string]time.Time{}
	w.pass(2 * time.Minute)
	want(t, b.fetch("POST", "/bff/token"), 401, "login_required", "no_session") // the browser has dropped it
	want(t, kept.fetch("POST", "/bff/token"), 401, "login_required", "absolute_timeout")
}

// Nobody else is remembered.
func TestNotRemembered(t *testing.T) {
	for name, c := range map[string]struct {
		query string
		edit  func(*gateway.App)
	}{
		"not asked":   {"", remembering},
		"0":           {"?remember=0", remembering},
		"twice":       {"?remember=1&remember=1", remembering},
		"not allowed": {"?remember=1", func(a *gateway.App) { a.Session.Remember = month }},
		"nobody is":   {"?remember=1", func(a *gateway.App) { a.LoginParams = append(a.LoginParams, "remember") }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.edit)
			b := w.browser(w.replica())
			a, err := b.follow("/bff/login"+c.query, "none", answer.handsOut)
			if err != nil || maxAge(t, a) != 0 {
				t.Errorf("%v, %v", a, err)
			}
			w.pass(tokenLife)
			if a := b.fetch("POST", "/bff/token"); maxAge(t, a) != 0 {
				t.Errorf("the successor: %v", a)
			}
			w.pass(31 * time.Minute)
			want(t, b.fetch("POST", "/bff/token"), 401, "login_required", "idle_timeout")
		})
	}
}

func TestRememberByPassword(t *testing.T) {
	w := passwordWorld(t, remembering)
	b := w.browser(w.replica())
	if a := b.post("/bff/login?remember=1", credentials("carol", carolsPassword)); !near(maxAge(t, a), month) {
		t.Errorf("%v", a)
	}
	if a := b.post("/bff/login", credentials("carol", carolsPassword)); maxAge(t, a) != 0 {
		t.Errorf("%v", a)
	}
}

// Without an ID token nobody has said when the person logged in but the clock: an
// iat in userinfo, or of an access token that the provider keeps, is about something
// else. Whoever logs in by password after a logout by sub is in, and the next one
// ends that session, too.
func TestPasswordLoginIsNow(t *testing.T) {
	for name, iat := range map[string]time.Duration{"long ago": -24 * time.Hour, "to come": 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := passwordWorld(t)
			r := w.replica()
			w.provider.Change(func(o *gatewaytest.Options) {
				o.EditAnswer = func(_ gatewaytest.Request, a map[string]any) { delete(a, "id_token") }
				o.EditUserInfo = func(c map[string]any) { c["iat"] = w.now().Add(iat).Unix() }
			})
			carol := gatewaytest.SubjectOf("carol")
			logout := func() {
				want(t, r.logsOut(w, w.provider.LogoutToken(gatewaytest.Logout{Client: w.client.ID, Subject: carol})), 200)
			}
			logout()
			w.pass(2 * time.Second)
			b := w.browser(r)
			want(t, b.post("/bff/login", credentials("carol", carolsPassword)), 200)
			want(t, b.fetch("GET", "/bff/user"), 200)
			w.pass(2 * time.Second)
			logout()
			want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "provider_logout")
		})
	}
}

// A login whose token can't be had is none: the refusal sets no cookie, and nothing
// lives on that nobody holds.
func TestPasswordLoginTokenFails(t *testing.T) {
	var w *world
	w = passwordWorld(t, minting(t, &w))
	w.provider.Change(func(o *gatewaytest.Options) {
		o.EditIDToken = func(_ gatewaytest.Request, c map[string]any) { c["roles"] = []string{strings.Repeat("r", 20<<10)} }
	})
	b := w.browser(w.replica())
	a := b.post("/bff/login", credentials("carol", carolsPassword))
	want(t, a, 500, "internal")
	if lines := a.header.Values("Set-Cookie"); len(lines) != 0 {
		t.Errorf("%q", lines)
	}
	eventually(t, "carol's refresh token is revoked", func() bool { return len(w.provider.Live("")) == 0 })
}
