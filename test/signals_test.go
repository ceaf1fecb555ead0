package test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// Who asks to be remembered gets a cookie that outlives the browser, and a
// session as long; nobody else does.
func TestRememberMe(t *testing.T) {
	t.Parallel()
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AutoLogin: gatewaytest.As("alice")})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		c.Set("apps.0.session.remember", "720h")
		c.Set("apps.0.provider.login_params", []any{"prompt", "login_hint", "remember"})
	}})
	for _, row := range []struct {
		name, path string
		remembered bool
	}{
		{"asked for", "/bff/login?return_to=%2Flanding&remember=1", true},
		{"not asked for", "/bff/login?return_to=%2Flanding", false},
	} {
		b := w.NewBrowser()
		// The last step of a login sets the cookie.
		step := b.NavigateUntil(row.path, "", func(u *url.URL) bool { return u.Path == "/bff/callback" && u.RawQuery == "" })
		r := b.Send(rig.Request{Path: step.RequestURI(), Header: http.Header{
			"X-Bff": {}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}, "Accept": {"text/html"},
		}})
		var cookie *http.Cookie
		for _, c := range r.SetCookies {
			if c.Name == rig.SessionCookie {
				cookie = c
			}
		}
		if cookie == nil {
			t.Fatalf("%s: no session cookie: %s", row.name, r)
		}
		const month = 720 * 60 * 60
		s := about(t, b)
		if row.remembered {
			if cookie.MaxAge < month-60 || cookie.MaxAge > month {
				t.Errorf("%s: Max-Age is %d", row.name, cookie.MaxAge)
			}
			if left := s.ExpiresAt.Sub(s.ServerTime); left < 719*time.Hour || s.IdleExpiresAt.Before(s.ExpiresAt.Add(-time.Minute)) {
				t.Errorf("%s: the session ends in %v, idle at %v", row.name, left, s.IdleExpiresAt)
			}
		} else if cookie.MaxAge != 0 || s.ExpiresAt.Sub(s.ServerTime) > 13*time.Hour {
			t.Errorf("%s: Max-Age is %d, the session ends at %v", row.name, cookie.MaxAge, s.ExpiresAt)
		}
	}
}

// With a limit on sessions, the oldest makes room.
func TestMaxPerUser(t *testing.T) {
	t.Parallel()
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: func(c rig.Config) { c.Set("apps.0.session.max_per_user", 2) }})
	var mine []*rig.Browser
	for range 3 {
		b := w.NewBrowser()
		b.Login("alice")
		mine = append(mine, b)
	}
	bob := w.NewBrowser()
	bob.Login("bob")
	wantEnded(t, w, mine[0], "session_limit")
	for _, b := range append(mine[1:], bob) {
		if r := token(b); r.Status != http.StatusOK {
			t.Errorf("a session within the limit: %s", r)
		}
	}
	var list struct {
		Sessions []struct {
			SID     string `json:"sid"`
			Current bool   `json:"current"`
		} `json:"sessions"`
	}
	mine[2].Fetch(http.MethodGet, "/bff/sessions").JSON(t, &list)
	if len(list.Sessions) != 2 || !list.Sessions[0].Current {
		t.Errorf("the list is %+v", list)
	}
	// Somebody else's session, one that ended, one that never was, and no sid at
	// all are not to be told apart.
	var answers []string
	for _, sid := range []string{about(t, bob).SID, "AAAAAAAAAAAAAAAAAAAAAA", "no-sid"} {
		r := mine[2].Fetch(http.MethodDelete, "/bff/sessions/"+sid)
		var p map[string]any
		r.JSON(t, &p)
		delete(p, "trace_id")
		text, _ := json.Marshal(p)
		answers = append(answers, string(text))
		if r.Status != http.StatusNotFound || answers[0] != string(text) {
			t.Errorf("DELETE of %q: %s", sid, text)
		}
	}
	if r := token(bob); r.Status != http.StatusOK {
		t.Errorf("bob: %s", r)
	}
}

// A login by password answers like /bff/token, with the cookie; a wrong password
// and an unknown user look alike; an account has so many attempts, and others
// have theirs.
func TestPasswordLogin(t *testing.T) {
	t.Parallel()
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: func(c rig.Config) { passwords(c, p, reg) }})
	for _, user := range []string{"alice", "bob"} {
		p.Enrol(gatewaytest.User{Username: user, Password: aPassword})
	}
	b := w.NewBrowser()
	r, err := logInFast(b, "alice", 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := subject(t, r); got != "sub-alice" || b.Cookie() == "" {
		t.Errorf("the token is %q's, the cookie has %d bytes", got, len(b.Cookie()))
	}
	for range w.Gateways {
		if got := subject(t, token(b)); got != "sub-alice" {
			t.Errorf("the token is %q's", got)
		}
	}
	try := func(user, password, from string) *rig.Response {
		t.Helper()
		body, _ := json.Marshal(map[string]string{"username": user, "password": password})
		return w.NewBrowser().Send(rig.Request{Method: http.MethodPost, Path: "/bff/login", Body: string(body), Header: http.Header{
			"Content-Type": {"application/json"}, "X-Forwarded-For": {from},
		}})
	}
	wantProblem(t, try("alice", "wrong password", "10.1.0.1"), 401, "invalid_credentials", "")
	wantProblem(t, try("nobody", "wrong password", "10.1.0.1"), 401, "invalid_credentials", "")
	limited := 0
	for n := range 20 {
		r := try("alice", "guess", "10.2.0."+string(rune('1'+n%9)))
		if r.Status == http.StatusTooManyRequests {
			wantProblem(t, r, 429, "rate_limited", "")
			if r.Header.Get("Retry-After") == "" {
				t.Error("rate_limited without Retry-After")
			}
			limited++
		} else {
			wantProblem(t, r, 401, "invalid_credentials", "")
		}
	}
	if limited < 8 {
		t.Errorf("of 20 guesses %d were limited", limited)
	}
	// Not even the right one, until the minute is over; and somebody else at once.
	wantProblem(t, try("alice", aPassword, "10.3.0.1"), 429, "rate_limited", "")
	if r := try("bob", aPassword, "10.2.0.1"); r.Status != http.StatusOK {
		t.Errorf("bob: %s", r)
	}
	if got := subject(t, token(b)); got != "sub-alice" {
		t.Errorf("alice, who is in: %q", got)
	}
}

// A locked account: what is open is 403, a login is 403 too, and not 401, until
// the lock is lifted. What has ended stays dead.
func TestLockedAccount(t *testing.T) {
	t.Parallel()
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: func(c rig.Config) { passwords(c, p, reg) }})
	p.Enrol(gatewaytest.User{Username: "alice", Password: aPassword})
	b, bob := w.NewBrowser(), w.NewBrowser()
	b.Login("alice")
	bob.Login("bob")
	for range w.Gateways {
		subject(t, token(b))
	}
	w.Gateways[0].End(map[string]any{"app": "shop", "sub": "sub-alice", "locked": true, "reason": "fraud"})
	for _, g := range w.Gateways {
		rig.Within(t, 2*time.Second, "a replica knows of the lock", func() bool {
			r := b.Send(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: g})
			code, _ := r.Problem()
			return r.Status == http.StatusForbidden && code == "account_locked"
		})
	}
	page := w.NewBrowser().Navigate("/bff/login?return_to=%2Flanding&prompt=login", "alice")
	if page.Status != http.StatusForbidden || !strings.Contains(string(page.Body), "account_locked") {
		t.Errorf("a login landed on %s with %d: %.200s", page.URL, page.Status, page.Body)
	}
	fresh := w.NewBrowser()
	body, _ := json.Marshal(map[string]string{"username": "alice", "password": aPassword})
	r := fresh.Send(rig.Request{Method: http.MethodPost, Path: "/bff/login", Body: string(body), Header: http.Header{"Content-Type": {"application/json"}}})
	if code, _ := r.Problem(); r.Status != http.StatusForbidden || code != "account_locked" || fresh.Cookie() != "" {
		t.Errorf("a login by password: %s", r)
	}
	rig.Eventually(t, "the refused logins' tokens are handed back", func() bool { return len(p.Live("sub-alice")) <= 1 }) // the ended one's can't be
	if r := token(bob); r.Status != http.StatusOK {
		t.Errorf("bob: %s", r)
	}

	if status, text, err := w.Gateways[1].Order("/admin/sessions/unlock", map[string]any{"app": "shop", "sub": "sub-alice"}); err != nil || status != http.StatusOK {
		t.Fatalf("unlock: %d %s %v", status, text, err)
	}
	rig.Eventually(t, "a login holds again", func() bool { // not one of the second in which the lock was put on
		again := w.NewBrowser()
		page := again.Navigate("/bff/login?return_to=%2Flanding&prompt=login", "alice")
		return page.Status == http.StatusOK && subject(t, token(again)) == "sub-alice"
	})
	wantEnded(t, w, b, "revoked")
}

// A route that requires a claim answers 403 to a known user without it; one that
// knows its callers by cookie alone never sees what else they bring.
func TestRoutesRequireAndStrip(t *testing.T) {
	t.Parallel()
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{Users: []gatewaytest.User{
		{Username: "carol", Claims: map[string]any{"roles": []string{"admin", "staff"}}},
	}})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: func(c rig.Config) {
		mints(t, c)
		live(t, c)
		c.Set("apps.0.token.claims", []any{"roles"})
		routes := c["apps"].([]any)[0].(map[string]any)["routes"].([]any)
		c.Set("apps.0.routes", append(routes, map[string]any{
			"path": "/admin/", "upstream": routes[0].(map[string]any)["upstream"],
			"accept": []any{"cookie", "bearer"}, "require": map[string]any{"roles": []any{"admin"}},
		}))
	}})
	alice, carol, nobody := w.NewBrowser(), w.NewBrowser(), w.NewBrowser()
	alice.Login("alice")
	carol.Login("carol")
	bearer := func(b *rig.Browser) http.Header {
		return http.Header{"Authorization": {"Bearer " + accessToken(t, token(b))}}
	}
	if r := carol.Fetch(http.MethodGet, "/admin/users"); r.Status != http.StatusOK {
		t.Errorf("carol: %s", r)
	}
	wantProblem(t, alice.Fetch(http.MethodGet, "/admin/users"), 403, "access_denied", "")
	wantProblem(t, nobody.Fetch(http.MethodGet, "/admin/users"), 401, "login_required", "no_session")
	if r := nobody.Send(rig.Request{Path: "/admin/users", Header: bearer(carol)}); r.Status != http.StatusOK {
		t.Errorf("carol's bearer: %s", r)
	}
	wantProblem(t, nobody.Send(rig.Request{Path: "/admin/users", Header: bearer(alice)}), 403, "access_denied", "")
	// The header decides alone, whoever's cookie is beside it.
	wantProblem(t, carol.Send(rig.Request{Path: "/admin/users", Header: bearer(alice)}), 403, "access_denied", "")

	// By cookie alone.
	wantProblem(t, nobody.Send(rig.Request{Path: "/api/orders", Header: bearer(alice)}), 401, "login_required", "no_session")
	foreign := http.Header{"Authorization": {"Bearer somebody-elses-token"}}
	r := alice.Send(rig.Request{Path: "/api/orders", Header: foreign})
	var seen rig.Received
	r.JSON(t, &seen)
	if got := seen.Header.Get("Authorization"); !strings.HasPrefix(got, "Bearer ") || strings.Contains(got, "somebody") ||
		claims(t, strings.TrimPrefix(got, "Bearer "))["iss"] != rig.Origin {
		t.Errorf("the upstream saw another Authorization than the session's")
	}
	// By bearer alone.
	r = alice.Fetch(http.MethodGet, "/bearer/")
	wantProblem(t, r, 401, "token_invalid", "")
	if !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "Bearer") {
		t.Errorf("WWW-Authenticate is %q", r.Header.Get("WWW-Authenticate"))
	}
}
