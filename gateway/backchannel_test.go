package gateway_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

// tell sends a body to the back channel, as a provider does: with no cookie and
// no fetch metadata.
func (r *replica) tell(w *world, contentType, body string) answer {
	w.t.Helper()
	a, err := w.browser(r).send(request{method: "POST", url: origin + "/bff/backchannel-logout", body: body,
		header: map[string]string{"Content-Type": contentType}})
	if err != nil {
		w.t.Fatal(err)
	}
	if a.header.Get("Cache-Control") != "no-store" || len(a.header.Values("Set-Cookie")) != 0 {
		w.t.Errorf("%v", a)
	}
	return a
}

const formType = "application/x-www-form-urlencoded"

// logsOut sends a logout token.
func (r *replica) logsOut(w *world, token string) answer {
	w.t.Helper()
	return r.tell(w, formType, url.Values{"logout_token": {token}}.Encode())
}

// refused fails the test unless the back channel said so in its own manner.
func refused(t testing.TB, a answer, status int, code string) {
	t.Helper()
	if a.status != status || a.field("error") != code || a.field("error_description") == "" || a.field("type") != "" ||
		a.header.Get("Content-Type") != "application/json" {
		t.Errorf("%v: %s, want %d %s", a, a.body, status, code)
	}
}

// providerSID is the browser's session at the provider.
func (b *browser) providerSID() string {
	b.t.Helper()
	a := b.fetch("POST", "/bff/token")
	want(b.t, a, 200)
	parts := strings.Split(a.field("access_token"), ".")
	raw, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct{ Sid string }
	if json.Unmarshal(raw, &claims); claims.Sid == "" {
		b.t.Fatal("no sid")
	}
	return claims.Sid
}

var alice = gatewaytest.SubjectOf("alice")

// LO-4, LO-6, M-01: a token that isn't the provider's word about a logout here
// ends nothing.
func TestForgedLogoutTokens(t *testing.T) {
	w := newWorld(t)
	r := w.replica()
	b := w.browser(r)
	b.login()
	sid := b.providerSID()
	stranger := gatewaytest.Start(t, gatewaytest.Options{Now: w.now})
	good := gatewaytest.Logout{Client: w.client.ID, Subject: alice, SessionID: sid}
	edit := func(f func(h, c map[string]any)) string {
		l := good
		l.Edit = f
		return w.provider.LogoutToken(l)
	}
	part := func(v map[string]any) string {
		j, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(j)
	}
	unsigned := func(alg string) string {
		p := strings.Split(w.provider.LogoutToken(good), ".")
		return part(map[string]any{"alg": alg, "typ": "logout+jwt"}) + "." + p[1] + "."
	}
	whole := w.provider.LogoutToken(good)
	access := b.fetch("POST", "/bff/token").field("access_token")
	for name, token := range map[string]string{
		"alg none":       unsigned("none"),
		"alg HS256":      unsigned("HS256") + part(map[string]any{}),
		"no signature":   whole[:strings.LastIndexByte(whole, '.')+1],
		"cut":            whole[:len(whole)-3],
		"another's key":  stranger.LogoutToken(gatewaytest.Logout{Client: w.client.ID, SessionID: sid, Edit: func(_, c map[string]any) { c["iss"] = w.provider.Issuer() }}),
		"another issuer": stranger.LogoutToken(good),
		"iss":            edit(func(_, c map[string]any) { c["iss"] = "https://evil.test" }),
		"aud":            edit(func(_, c map[string]any) { c["aud"] = "other" }),
		"no events":      edit(func(_, c map[string]any) { delete(c, "events") }),
		"another event":  edit(func(_, c map[string]any) { c["events"] = map[string]any{"urn:x": map[string]any{}} }),
		"event no object": edit(func(_, c map[string]any) {
			c["events"] = map[string]any{"http://schemas.openid.net/event/backchannel-logout": true}
		}),
		"nonce":           edit(func(_, c map[string]any) { c["nonce"] = "n" }),
		"about nobody":    edit(func(_, c map[string]any) { delete(c, "sub"); delete(c, "sid") }),
		"expired":         edit(func(_, c map[string]any) { c["exp"] = w.now().Add(-5 * time.Minute).Unix() }),
		"from the future": edit(func(_, c map[string]any) { c["iat"] = w.now().Add(time.Hour).Unix() }),
		"long ago":        edit(func(_, c map[string]any) { c["iat"] = w.now().Add(-time.Hour).Unix() }),
		"no iat":          edit(func(_, c map[string]any) { delete(c, "iat") }),
		"no exp":          edit(func(_, c map[string]any) { delete(c, "exp") }),
		"no jti":          edit(func(_, c map[string]any) { delete(c, "jti") }),
		"typ at+jwt":      edit(func(h, _ map[string]any) { h["typ"] = "at+jwt" }),
		"an access token": access,
		"nonsense":        "a.b.c",
		"empty":           "",
	} {
		t.Run(name, func(t *testing.T) { refused(t, r.logsOut(w, token), 400, "invalid_request") })
	}
	want(t, b.fetch("GET", "/bff/user"), 200)
	a := r.logsOut(w, whole)
	want(t, a, 200)
	if a.body != "" {
		t.Errorf("%q", a.body)
	}
	want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "provider_logout")
}

// LO-3: a form with the token, and nothing else.
func TestBackChannelRequests(t *testing.T) {
	w := newWorld(t)
	r := w.replica()
	b := w.browser(r)
	b.login()
	token := w.provider.LogoutToken(gatewaytest.Logout{Client: w.client.ID, SessionID: b.providerSID()})
	form := url.Values{"logout_token": {token}}.Encode()
	for name, c := range map[string]struct{ contentType, body string }{
		"JSON":          {"application/json", `{"logout_token":"` + token + `"}`},
		"no type":       {"", form},
		"plain":         {"text/plain", form},
		"no token":      {formType, "x=y"},
		"nothing":       {formType, ""},
		"two":           {formType, form + "&" + form},
		"broken escape": {formType, form + "&x=%zz"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, r.tell(w, c.contentType, c.body), 400, "invalid_request") })
	}
	refused(t, r.tell(w, formType, form+"&x="+strings.Repeat("x", 40<<10)), 413, "too_large")
	get := b.fetch("GET", "/bff/backchannel-logout?"+form)
	refused(t, get, 405, "method_not_allowed")
	if get.header.Get("Allow") != "POST" {
		t.Errorf("Allow %q", get.header.Get("Allow"))
	}
	a, err := w.browser(r).send(request{method: "POST", url: origin + "/bff/backchannel-logout?" + form, header: map[string]string{"Content-Type": formType}})
	if err != nil {
		t.Fatal(err)
	}
	refused(t, a, 400, "invalid_request")
	want(t, b.fetch("GET", "/bff/user"), 200)
	// What else is in the form is somebody's extension.
	want(t, r.tell(w, formType+"; charset=utf-8", form+"&x=y"), 200)
	want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "provider_logout")
}

// M-03: a token serves once, on all replicas together, and can't be kept for a
// later session.
func TestReplayedLogoutToken(t *testing.T) {
	w := newWorld(t)
	one, two := w.replica(), w.replica()
	b := w.browser(one)
	b.login()
	token := w.provider.LogoutToken(gatewaytest.Logout{Client: w.client.ID, Subject: alice})
	want(t, one.logsOut(w, token), 200)
	want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "provider_logout")
	w.pass(2 * time.Second)
	b.login()
	for _, r := range []*replica{one, two} {
		refused(t, r.logsOut(w, token), 400, "invalid_request")
	}
	want(t, b.fetch("GET", "/bff/user"), 200)
	w.pass(20 * time.Minute) // and not when it has been forgotten, either
	refused(t, two.logsOut(w, token), 400, "invalid_request")
	want(t, b.fetch("GET", "/bff/user"), 200)
}

// The same token to two replicas at a time serves once.
func TestLogoutTokenTwiceAtOnce(t *testing.T) {
	w := newWorld(t)
	replicas := []*replica{w.replica(), w.replica()}
	b := w.browser(replicas[0])
	b.login()
	token := w.provider.LogoutToken(gatewaytest.Logout{Client: w.client.ID, Subject: alice})
	answers := make([]answer, 8)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = replicas[i%2].logsOut(w, token) })
	}
	wg.Wait()
	served := 0
	for _, a := range answers {
		switch a.status {
		case 200:
			served++
		case 400:
			refused(t, a, 400, "invalid_request")
		default:
			refused(t, a, 503, "store_unavailable")
		}
	}
	if served != 1 {
		t.Errorf("served %d times", served)
	}
	want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "provider_logout")
}

// M-04: without the store a replay can't be told, so the token is refused; when
// it is back the provider's repetition works.
func TestLogoutTokenStoreDown(t *testing.T) {
	t.Parallel() // it waits for the store's deadline
	w := newWorld(t)
	r := w.replica()
	b := w.browser(r)
	b.login()
	token := w.provider.LogoutToken(gatewaytest.Logout{Client: w.client.ID, Subject: alice})
	w.redis.Stop()
	a := r.logsOut(w, token)
	w.redis.Cont()
	refused(t, a, 503, "store_unavailable")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	// Redis may have run what nobody waited for any more: then the first attempt's
	// time has to pass, which Redis alone measures.
	eventually(t, "the repetition is served", func() bool {
		a := r.logsOut(w, token)
		if a.status == 503 {
			w.redis.CLI("eval", "for _, k in ipairs(redis.call('keys', 'cloakroom:j:*')) do redis.call('del', k) end", "0")
		}
		return a.status == 200
	})
	want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "provider_logout")
	refused(t, r.logsOut(w, token), 400, "invalid_request")
}

// Without the provider's keys nobody knows who speaks.
func TestLogoutTokenKeysUnavailable(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	fresh := w.replica()
	token := w.provider.LogoutToken(gatewaytest.Logout{Client: w.client.ID, Subject: alice})
	w.provider.Refuse()
	refused(t, fresh.logsOut(w, token), 503, "provider_unavailable")
	want(t, b.fetch("GET", "/bff/user"), 200)
}

// LO-5, M-06: a sid ends one session, a subject all of a person's, whichever
// session at the provider they came from, and nobody else's.
func TestScopeOfLogout(t *testing.T) {
	w := newWorld(t)
	r := w.replica()
	var mine [3]*browser
	for i := range mine {
		mine[i] = w.browser(r)
		mine[i].login()
	}
	bob := w.browser(r)
	bob.as("bob")
	logout := func(sub, sid string) {
		t.Helper()
		want(t, w.replica().logsOut(w, w.provider.LogoutToken(gatewaytest.Logout{Client: w.client.ID, Subject: sub, SessionID: sid})), 200)
	}
	alive := func(what string, browsers ...*browser) {
		t.Helper()
		for _, b := range append(browsers, bob) {
			if a := b.fetch("GET", "/bff/user"); a.status != 200 {
				t.Errorf("%s: %v", what, a)
			}
		}
	}
	logout("", "op-unknown")
	logout("sub-unknown", "")
	alive("a stranger's logout", mine[:]...)
	logout("", mine[0].providerSID())
	want(t, mine[0].fetch("GET", "/bff/user"), 401, "login_required", "provider_logout")
	alive("by sid", mine[1], mine[2])
	// With both, the sid says which.
	logout(alice, mine[1].providerSID())
	want(t, mine[1].fetch("GET", "/bff/user"), 401, "login_required", "provider_logout")
	alive("by sub and sid", mine[2])
	// After older ones have ended, the subject's index still leads to the others.
	w.pass(2 * time.Second)
	mine[0].login()
	logout(alice, "")
	for _, b := range []*browser{mine[0], mine[2]} {
		want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "provider_logout")
	}
	alive("by sub")
}

// M-08: a logout beats the refresh that is under way, and what that brings is
// revoked.
func TestLogoutBeatsRefresh(t *testing.T) {
	for name, at := range map[string]gatewaytest.Point{"before": gatewaytest.GateBeforeCommit, "after": gatewaytest.GateAfterCommit} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			b := w.browser(w.replica())
			b.login()
			sid := b.providerSID()
			w.pass(tokenLife)
			gate := w.provider.Gate(at, gatewaytest.Refreshing)
			defer gate.Release()
			done := make(chan answer)
			go func() {
				a, _ := b.try("POST", "/bff/token")
				done <- a
			}()
			<-gate.Arrived()
			want(t, w.replica().logsOut(w, w.provider.LogoutToken(gatewaytest.Logout{Client: w.client.ID, SessionID: sid})), 200)
			gate.Release()
			a := <-done
			want(t, a, 401, "login_required", "provider_logout")
			if a.handsOut() {
				t.Error("it hands a ticket out")
			}
			want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "provider_logout")
			eventually(t, "the new refresh token is revoked", func() bool { return len(w.provider.Live("")) == 0 })
		})
	}
}

// LO-8: a logout that arrives before its session exists still wins, and what the
// login brought is revoked. The next login is another matter.
func TestLogoutBeforeSession(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	gate := w.provider.Gate(gatewaytest.GateAfterCommit)
	defer gate.Release()
	done := make(chan answer)
	go func() {
		a, _ := b.follow("/bff/login", "none", nil)
		done <- a
	}()
	<-gate.Arrived()
	want(t, w.replica().logsOut(w, w.provider.LogoutToken(gatewaytest.Logout{Client: w.client.ID, Subject: alice})), 200)
	gate.Release()
	a := <-done
	if a.status != 401 || !strings.Contains(a.body, "login_required") || a.header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("%v: %s", a, a.body)
	}
	if b.jar[ticketCookie] != nil {
		t.Error("a session cookie")
	}
	eventually(t, "the tokens are revoked", func() bool { return len(w.provider.Live("")) == 0 })
	w.pass(2 * time.Second)
	b.login()
	want(t, b.fetch("GET", "/bff/user"), 200)
}

// The whole way: a person signs out at the provider, which tells the gateway.
func TestSignedOutAtProvider(t *testing.T) {
	w := newWorld(t)
	r := w.replica()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, r.addr)
	}}
	w.provider.Change(func(o *gatewaytest.Options) { o.Notify = &http.Client{Transport: tr} })
	w.client.BackChannelLogoutURI = "http://" + host + "/bff/backchannel-logout"
	w.provider.Register(w.client)
	b, bob := w.browser(r), w.browser(r)
	b.login()
	bob.as("bob")
	w.provider.SignOut(alice)
	if n := w.provider.Notifications(); len(n) != 1 || n[0].Status != 200 {
		t.Errorf("%v", n)
	}
	want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "provider_logout")
	// A logout that began here comes back as a logout of what has ended.
	bob.visit(bob.fetch("POST", "/bff/logout").field("logout_url"), "same-origin")
	if n := w.provider.Notifications(); len(n) != 2 || n[1].Status != 200 {
		t.Errorf("%v", n)
	}
}

// LO-9: the front channel needs no cookie, is for the provider's frames alone,
// and tells nothing.
func TestFrontChannel(t *testing.T) {
	w := newWorld(t)
	r := w.replica()
	b := w.browser(r)
	b.login()
	sid, iss := b.providerSID(), w.provider.Issuer()
	frame := func(q url.Values) answer {
		t.Helper()
		a, err := w.browser(r).send(request{method: "GET", url: origin + "/bff/frontchannel-logout?" + q.Encode(), crossSite: true,
			header: map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}})
		if err != nil {
			t.Fatal(err)
		}
		h := a.header
		if a.status != 200 || a.body != "" || h.Get("Cache-Control") != "no-store" || h.Get("X-Frame-Options") != "" ||
			h.Get("Content-Security-Policy") != "default-src 'none'; frame-ancestors "+iss || len(h.Values("Set-Cookie")) != 0 {
			t.Errorf("%v: %s", a, a.body)
		}
		return a
	}
	for name, q := range map[string]url.Values{
		"nothing":       {},
		"no sid":        {"iss": {iss}},
		"no iss":        {"sid": {sid}},
		"another iss":   {"iss": {"https://evil.test"}, "sid": {sid}},
		"unknown sid":   {"iss": {iss}, "sid": {"op-unknown"}},
		"two sids":      {"iss": {iss}, "sid": {sid, "x"}},
		"two issuers":   {"iss": {iss, "x"}, "sid": {sid}},
		"a sub is none": {"iss": {iss}, "sub": {alice}},
	} {
		t.Run(name, func(t *testing.T) { frame(q) })
	}
	want(t, b.fetch("GET", "/bff/user"), 200)
	want(t, b.fetch("POST", "/bff/frontchannel-logout"), 405)
	frame(url.Values{"iss": {iss}, "sid": {sid}})
	want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "provider_logout")
}

// RFC 7519 section 2: dates may have fractions. Of two within a second nobody asks
// which was the later: a logout by subject ends what began in its second.
func TestLogoutWithinTheSecond(t *testing.T) {
	w := newWorld(t)
	r := w.replica()
	second := float64(w.now().Unix())
	w.provider.Change(func(o *gatewaytest.Options) {
		o.EditIDToken = func(_ gatewaytest.Request, c map[string]any) { c["iat"] = second + .25 }
	})
	b := w.browser(r)
	b.login()
	want(t, r.logsOut(w, w.provider.LogoutToken(gatewaytest.Logout{Client: w.client.ID, Subject: alice,
		Edit: func(_, c map[string]any) { c["iat"] = second + .75 }})), 200)
	want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "provider_logout")
}
