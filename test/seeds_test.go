package test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// Each of the five designs that were the starting point (docs/requirements.md)
// says what must work. Here every row of them is shown from outside: the built
// binary, a Redis, a provider, browsers. Rows are short; the tests that
// docs/requirements.md names go further.
func TestSeeds(t *testing.T) {
	for _, row := range []struct {
		name  string
		shown func(*testing.T)
	}{
		{"A/the refresh token is usable only through the session's own cookie", refreshTokenNeedsItsCookie},
		{"A/cut-off time is a setting, and known", cutOffTimeIsASetting},
		{"A/rotation, the old one dead, tombstones until expiry, reuse seen", oldOnesAreDeadAndRemembered},
		{"A/remember me", rememberedSessionsRotate},
		{"A/resource servers need no call per request", resourceServersAskNobody},
		{"B/distinct, documented signals", signalsAreDistinct},
		{"B/an outside system ends sessions, at once, on every replica", outsideSystemsEndSessions},
		{"B/a live token of an ended session is refused", liveTokenOfAnEndedSession},
		{"B/403 for a locked account, not 401", lockedIs403},
		{"C/one use per refresh token; the pair rotates together", pairRotatesTogether},
		{"C/theft shows itself; a new login makes the stolen one worthless", theftShowsItself},
		{"C/asymmetric signatures", signaturesAreAsymmetric},
		{"D/refresh token on the server, cookie in the browser, access token in memory", tokensBehindTheCounter},
		{"D/reissuing the refresh token kills the old session id", reissueKillsTheOldID},
		{"D/password login", passwordLoginAnswers},
		{"D/a changed password ends sessions", changedPasswordEnds},
		{"D/public keys for resource servers", publicKeysAreServed},
		{"E/both halves after the tab was closed; only a salted hash is stored", bothHalvesAreNeeded},
		{"E/a pseudonymous subject in tokens", subjectIsAPseudonym},
		{"E/rotation at an interval", bothHalvesRotate},
		{"E/any mismatch leads to login", mismatchLeadsToLogin},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			row.shown(t)
		})
	}
}

// A. Refresh tokens, and what they prove.

func refreshTokenNeedsItsCookie(t *testing.T) {
	p, _, alice := quickWorld(t) // her access token has run out: any answer needs the refresh token
	sid := about(t, alice).SID
	forged := []byte(alice.Cookie())
	forged[len(forged)/2] ^= 1
	for what, cookie := range map[string]string{"none": "", "the sid": sid, "an altered one": string(forged), "half of it": alice.Cookie()[:len(forged)/2]} {
		thief := alice.Clone()
		thief.SetCookie(cookie)
		r := token(thief)
		if r.Status != http.StatusUnauthorized {
			t.Errorf("cookie: %s: %s", what, r)
		}
	}
	redeemed(t, p, 0)
	if got := subject(t, token(alice)); got != "sub-alice" {
		t.Errorf("the token is %q's", got)
	}
	redeemed(t, p, 1)
}

// Two settings bound it: how long a token lives that nobody asks about, and how
// often the provider is asked.
func cutOffTimeIsASetting(t *testing.T) {
	const lifetime, revalidate = 7 * time.Second, 5 * time.Second
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		mints(t, c)
		c.Set("apps.0.token.lifetime", lifetime.String())
		c.Set("apps.0.session.revalidate", revalidate.String())
	}})
	b := w.NewBrowser()
	b.Login("alice")
	c := claims(t, accessToken(t, token(b)))
	if life := c["exp"].(float64) - c["iat"].(float64); life != lifetime.Seconds() {
		t.Errorf("a token lives for %v s, want %v", life, lifetime)
	}
	p.RevokeSubject("sub-alice") // a password was changed, and nobody tells us
	out := time.Now()
	var last float64
	rig.Eventually(t, "the next check ends the session", func() bool {
		r := token(b)
		if r.Status == http.StatusOK {
			last = claims(t, accessToken(t, r))["exp"].(float64)
			return false
		}
		wantProblem(t, r, 401, "login_required", "refresh_rejected")
		return true
	})
	if took := time.Since(out); took > revalidate*6/5+2*time.Second {
		t.Errorf("the session ended after %v, revalidate is %v", took, revalidate)
	}
	if bound := out.Add(revalidate*6/5 + lifetime + time.Second); time.Unix(int64(last), 0).After(bound) {
		t.Errorf("the last token lives until %v, want until %v at most", time.Unix(int64(last), 0), bound)
	}
}

func oldOnesAreDeadAndRemembered(t *testing.T) {
	p, w, b := quickWorld(t)
	s, old := about(t, b), b.Clone()
	if token(b).Successor() == "" {
		t.Fatal("the refresh didn't rotate the ticket")
	}
	if live := p.Live("sub-alice"); len(live) != 1 {
		t.Errorf("%d refresh tokens work after a rotation", len(live))
	}
	token(b) // shows the successor: the grace begins
	rig.Eventually(t, "the old ticket is found out", func() bool {
		r := token(old)
		if r.Status == http.StatusOK {
			return false
		}
		wantProblem(t, r, 401, "login_required", "reuse_detected")
		return true
	})
	wantEnded(t, w, b, "reuse_detected")
	// What is left remembers that, for as long as a ticket might have been good.
	for _, key := range keys(w.Redis) {
		if strings.Contains(key, s.SID) {
			ttl, err := strconv.Atoi(w.Redis.CLI("TTL", key))
			if left := time.Until(s.ExpiresAt); err != nil || time.Duration(ttl)*time.Second < left {
				t.Errorf("the tombstone is kept for %d s, the session would have had %v", ttl, left)
			}
			return
		}
	}
	t.Error("there is no tombstone")
}

func rememberedSessionsRotate(t *testing.T) {
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: time.Second, AutoLogin: gatewaytest.As("alice")})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		quick(c)
		c.Set("apps.0.session.remember", "120h")
		c.Set("apps.0.provider.login_params", []any{"remember"})
	}})
	for login, want := range map[string]time.Duration{
		"/bff/login?return_to=%2Flanding&remember=1": 120 * time.Hour,
		"/bff/login?return_to=%2Flanding":            12 * time.Hour,
	} {
		b := w.NewBrowser()
		b.Navigate(login, "")
		s := about(t, b)
		if left := s.ExpiresAt.Sub(s.ServerTime); left < want-time.Minute || left > want {
			t.Errorf("%s: the session has %v left, want %v", login, left, want)
		}
		tokenRunsOut(t, b)
		r := token(b)
		if r.Successor() == "" {
			t.Fatalf("%s: the refresh didn't rotate the ticket: %s", login, r)
		}
		if persistent := r.SetCookies[0].MaxAge > 0; persistent != (want > 12*time.Hour) {
			t.Errorf("%s: the next cookie's Max-Age is %d", login, r.SetCookies[0].MaxAge)
		}
	}
	if reuses := p.Reuses(); len(reuses) > 0 {
		t.Errorf("reuse at the provider: %v", reuses)
	}
}

func resourceServersAskNobody(t *testing.T) {
	const audience = "https://api.test"
	front := rig.NewFront(t)
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) { mints(t, c) }})
	front.Serve(w)
	api := resourceServer(t, front, audience) // fetches the keys, once
	b := w.NewBrowser()
	b.Login("alice")
	held := accessToken(t, token(b))
	w.Gateways[0].Terminate()
	w.Redis.Kill()
	if v := byKeyfunc(t, api, held); v.Error != "" {
		t.Errorf("with nobody to be asked: %s", v.Error)
	}
}

// B. Telling "renew" from "you are out".

func signalsAreDistinct(t *testing.T) {
	const audience = "https://api.example.com" // the strict provider's
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: time.Second})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		live(t, c)
		c.Set("apps.0.token.audience", []any{audience})
	}})
	alice, bob, carol := w.NewBrowser(), w.NewBrowser(), w.NewBrowser()
	for name, b := range map[string]*rig.Browser{"alice": alice, "bob": bob, "carol": carol} {
		b.Login(name)
	}
	byBearer := func(held string) *rig.Response {
		t.Helper()
		return alice.Send(rig.Request{Path: "/bearer/", Header: http.Header{"Authorization": {"Bearer " + held}}})
	}
	var short string
	rig.Eventually(t, "a token of a second's life", func() bool {
		short = accessToken(t, token(alice))
		return byBearer(short).Status != 0
	})
	rig.Eventually(t, "renew", func() bool {
		r := byBearer(short)
		if r.Status == http.StatusOK {
			return false
		}
		wantProblem(t, r, 401, "token_expired", "")
		return true
	})
	p.Change(func(o *gatewaytest.Options) { o.AccessLife = 5 * time.Minute })
	rig.Eventually(t, "the renewing call helps", func() bool { return byBearer(accessToken(t, token(alice))).Status == http.StatusOK })

	wantProblem(t, token(w.NewBrowser()), 401, "login_required", "no_session")
	w.Gateways[0].End(map[string]any{"sid": about(t, bob).SID})
	wantEnded(t, w, bob, "revoked")
	w.Gateways[0].End(map[string]any{"app": "shop", "sub": "sub-carol", "locked": true})
	rig.Eventually(t, "locked", func() bool { return token(carol).Status == http.StatusForbidden })
	wantProblem(t, token(carol), 403, "account_locked", "")

	w.Redis.Stop()
	rig.Eventually(t, "try later", func() bool { return token(alice).Status == http.StatusServiceUnavailable })
	r := token(alice)
	wantProblem(t, r, 503, "store_unavailable", "")
	if r.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	w.Redis.Cont()
	rig.Eventually(t, "nothing was lost by waiting", func() bool { return token(alice).Status == http.StatusOK })
}

func outsideSystemsEndSessions(t *testing.T) {
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2})
	bySession, byUser, atProvider, bystander := w.NewBrowser(), w.NewBrowser(), w.NewBrowser(), w.NewBrowser()
	for name, b := range map[string]*rig.Browser{"alice": bySession, "bob": byUser, "carol": atProvider, "dave": bystander} {
		b.Login(name)
		for range w.Gateways { // in both caches
			subject(t, token(b))
		}
	}
	w.Gateways[0].End(map[string]any{"sid": about(t, bySession).SID, "reason": "a rule of the business"})
	wantEnded(t, w, bySession, "revoked")
	w.Gateways[1].End(map[string]any{"app": "shop", "sub": "sub-bob", "reason": "a rule of the business"})
	wantEnded(t, w, byUser, "revoked")
	backChannel(t, w, w.Gateways[0], p.LogoutToken(gatewaytest.Logout{Subject: "sub-carol"}), http.StatusOK)
	wantEnded(t, w, atProvider, "provider_logout")
	for range w.Gateways {
		if got := subject(t, token(bystander)); got != "sub-dave" {
			t.Errorf("the token is %q's", got)
		}
	}
}

func liveTokenOfAnEndedSession(t *testing.T) {
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: func(c rig.Config) {
		mints(t, c)
		live(t, c)
	}})
	alice, bob := w.NewBrowser(), w.NewBrowser()
	alice.Login("alice")
	bob.Login("bob")
	hers, his := accessToken(t, token(alice)), accessToken(t, token(bob))
	ask := func(held string, on *rig.Gateway) *rig.Response {
		t.Helper()
		return alice.Send(rig.Request{Path: "/bearer/", On: on, Header: http.Header{"Authorization": {"Bearer " + held}}})
	}
	for _, g := range w.Gateways {
		if r := ask(hers, g); r.Status != http.StatusOK {
			t.Fatalf("before: %s", r)
		}
	}
	s := about(t, alice)
	w.Gateways[0].End(map[string]any{"sid": s.SID})
	for _, g := range w.Gateways {
		rig.Within(t, 2*time.Second, "her token is refused", func() bool {
			r := ask(hers, g)
			if r.Status == http.StatusOK {
				return false
			}
			wantProblem(t, r, 401, "token_invalid", "")
			return true
		})
		if r := ask(his, g); r.Status != http.StatusOK {
			t.Errorf("somebody else's token: %s", r)
		}
	}
	// The list cleans itself: all that is kept of an end goes by itself.
	for _, key := range keys(w.Redis) {
		if ttl, _ := strconv.Atoi(w.Redis.CLI("PTTL", key)); ttl <= 0 && w.Redis.CLI("EXISTS", key) == "1" {
			t.Errorf("%s is kept for ever", key)
		}
	}
}

func lockedIs403(t *testing.T) {
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg})
	b := w.NewBrowser()
	b.Login("alice")
	w.Gateways[0].End(map[string]any{"app": "shop", "sub": "sub-alice", "locked": true})
	for what, req := range map[string]rig.Request{
		"token": {Method: http.MethodPost, Path: "/bff/token"}, "user": {Path: "/bff/user"}, "route": {Path: "/api/orders"},
	} {
		rig.Within(t, 2*time.Second, what, func() bool { return b.Send(req).Status != http.StatusOK })
		wantProblem(t, b.Send(req), 403, "account_locked", "")
	}
	// Another login doesn't help.
	if page := w.NewBrowser().Navigate("/bff/login?return_to=%2Flanding", "alice"); page.Status != http.StatusForbidden {
		t.Errorf("a login landed on %s with %s", page.URL, page)
	}
}

// C. Access and refresh token as a pair.

func pairRotatesTogether(t *testing.T) {
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: time.Second})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: quick})
	b := w.NewBrowser()
	b.Login("alice")
	held, used := "", map[string]bool{}
	for generation := range 3 {
		tokenRunsOut(t, b)
		before, cookie := held, b.Cookie()
		r := token(b)
		if held = accessToken(t, r); held == before || b.Cookie() == cookie || r.Successor() == "" {
			t.Fatalf("generation %d: the access token and the ticket didn't change together: %s", generation, r)
		}
		redeemed(t, p, generation+1)
	}
	for _, e := range p.Redemptions("sub-alice") {
		if used[e.Token] {
			t.Errorf("%s was used twice", e.Token)
		}
		used[e.Token] = true
	}
	if live := p.Live("sub-alice"); len(live) != 1 {
		t.Errorf("%d refresh tokens work, want the last one", len(live))
	}
}

func theftShowsItself(t *testing.T) {
	_, w, owner := quickWorld(t)
	thief := owner.Clone()
	if token(thief).Successor() == "" { // the thief is first
		t.Fatal("the refresh didn't rotate the ticket")
	}
	rig.Eventually(t, "the owner's next uses push both out", func() bool {
		if r := token(thief); r.Status != http.StatusOK {
			wantProblem(t, r, 401, "login_required", "reuse_detected")
			return true
		}
		return token(owner).Status != http.StatusOK
	})
	wantEnded(t, w, owner, "reuse_detected")
	wantEnded(t, w, thief, "reuse_detected")

	// A copy that nothing has betrayed yet: the owner's next login ends it.
	owner.Login("alice")
	thief = owner.Clone()
	owner.Login("alice")
	wantEnded(t, w, thief, "replaced")
	if got := subject(t, token(owner)); got != "sub-alice" {
		t.Errorf("the token is %q's", got)
	}
}

// A verifier has the public key alone: what it could make of that is refused.
func signaturesAreAsymmetric(t *testing.T) {
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		front := rig.NewFront(t)
		_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
		w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
			mints(t, c, alg)
			live(t, c)
		}})
		front.Serve(w)
		b := w.NewBrowser()
		b.Login("alice")
		held := accessToken(t, token(b))
		v := byKeyfunc(t, resourceServer(t, front, "https://api.test"), held)
		if v.Error != "" || v.Header["alg"] != alg {
			t.Fatalf("%s: %s, the header is %v", alg, v.Error, v.Header)
		}
		var set struct{ Keys []map[string]any }
		b.Fetch(http.MethodGet, "/.well-known/jwks.json").JSON(t, &set)
		public, err := json.Marshal(set.Keys[0])
		if err != nil {
			t.Fatal(err)
		}
		forgery := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(v.Claims))
		forgery.Header["kid"], forgery.Header["typ"] = v.Header["kid"], v.Header["typ"]
		signed, err := forgery.SignedString(public)
		if err != nil {
			t.Fatal(err)
		}
		for what, bearer := range map[string]string{
			"signed with the public key": signed,
			"not signed":                 base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + strings.Split(held, ".")[1] + ".",
		} {
			r := b.Send(rig.Request{Path: "/bearer/", Header: http.Header{"Authorization": {"Bearer " + bearer}}})
			if code, _ := r.Problem(); code != "token_invalid" {
				t.Errorf("%s, %s: %s", alg, what, r)
			}
		}
	}
}

// D. Tokens behind the counter.

func tokensBehindTheCounter(t *testing.T) {
	_, _, b := quickWorld(t)
	r := token(b) // a refresh: every token there is has passed
	var cookie *http.Cookie
	for _, c := range r.SetCookies {
		if c.Name == rig.SessionCookie {
			cookie = c
		}
	}
	if cookie == nil || !cookie.HttpOnly || !cookie.Secure || cookie.SameSite != http.SameSiteStrictMode || cookie.Domain != "" {
		t.Fatalf("the cookie is %v", cookie)
	}
	if !strings.Contains(r.Header.Get("Cache-Control"), "no-store") {
		t.Error("the answer with the token may be stored")
	}
	held := accessToken(t, r)
	var members map[string]any
	r.JSON(t, &members)
	for name := range members {
		if !slices.Contains([]string{"access_token", "token_type", "expires_in", "scope"}, name) {
			t.Errorf("the answer has %q", name)
		}
	}
	canaries := gatewaytest.Canaries() // refresh tokens carry one, access and ID tokens another
	for _, path := range []string{"/bff/user", "/bff/session", "/bff/sessions", "/bff/token"} {
		answer := string(b.Fetch(http.MethodGet, path).Body)
		if path == "/bff/token" {
			answer = strings.ReplaceAll(answer, held, "")
		}
		for _, canary := range canaries {
			if strings.Contains(answer, canary) {
				t.Errorf("%s shows a token", path)
			}
		}
	}
}

// The pair: were the session's id tied to the user alone, the one from before a
// refresh would still be good.
func reissueKillsTheOldID(t *testing.T) {
	p, _, b := quickWorld(t)
	old := b.Clone()
	if token(b).Successor() == "" {
		t.Fatal("the refresh didn't rotate the ticket")
	}
	redeemed(t, p, 1)
	token(b)
	rig.Eventually(t, "the old id is dead", func() bool { return token(old).Status == http.StatusUnauthorized })
	redeemed(t, p, 1)
}

func passwordLoginAnswers(t *testing.T) {
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) { passwords(c, p, reg) }})
	p.Enrol(gatewaytest.User{Username: "alice", Password: aPassword})
	b := w.NewBrowser()
	r, err := logInFast(b, "alice", 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := subject(t, r); got != "sub-alice" || r.Successor() == "" || strings.Contains(string(r.Body), "refresh") {
		t.Errorf("the token is %q's, and the cookie has %d bytes", got, len(r.Successor()))
	}
	if got := subject(t, token(b)); got != "sub-alice" {
		t.Errorf("the next token is %q's", got)
	}
}

// Three ways in which a provider tells: it refuses the refresh, it refuses the
// check between refreshes, or it says so.
func changedPasswordEnds(t *testing.T) {
	p, w, b := quickWorld(t) // the next token needs a refresh
	p.RevokeSubject("sub-alice")
	wantProblem(t, token(b), 401, "login_required", "refresh_rejected")
	wantEnded(t, w, b, "refresh_rejected")

	b.Login("bob")
	backChannel(t, w, w.Gateways[0], p.LogoutToken(gatewaytest.Logout{Subject: "sub-bob"}), http.StatusOK)
	wantEnded(t, w, b, "provider_logout")

	cutOffTimeIsASetting(t)
}

func publicKeysAreServed(t *testing.T) {
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) { mints(t, c) }})
	anybody := w.NewBrowser()
	var doc struct {
		Keys string `json:"jwks_uri"`
	}
	anybody.Fetch(http.MethodGet, "/.well-known/openid-configuration").JSON(t, &doc)
	u, err := url.Parse(doc.Keys)
	if err != nil {
		t.Fatal(err)
	}
	r := anybody.Fetch(http.MethodGet, u.Path)
	var set struct {
		Keys []struct{ Kty, D string }
	}
	r.JSON(t, &set)
	if r.Status != http.StatusOK || len(set.Keys) != 1 || set.Keys[0].Kty != "EC" || set.Keys[0].D != "" {
		t.Errorf("%d %s", r.Status, r.Body)
	}
}

// E. Two keys.

// local asks for a token with a local key, and returns the key to keep.
func local(t *testing.T, w *rig.World, b *rig.Browser, key string) (*rig.Response, string) {
	t.Helper()
	req := rig.Request{Method: http.MethodPost, Path: "/bff/token"}
	if key != "" {
		req.Header = http.Header{"X-BFF-Local-Key": {key}}
	}
	r := b.Send(req)
	var answer struct {
		LocalKey string `json:"local_key"`
	}
	r.JSON(t, &answer)
	if w.Secret("a local key", answer.LocalKey); answer.LocalKey == "" {
		return r, key
	}
	return r, answer.LocalKey
}

func bothHalvesAreNeeded(t *testing.T) {
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Change: splitKey})
	sent := monitor(t, w.Redis)
	b := w.NewBrowser()
	b.Login("alice")
	_, key := local(t, w, b, "")
	local(t, w, b, key) // shown: from now on it is needed
	// The tab is closed: the access token is gone.
	r, _ := local(t, w, b, "")
	wantProblem(t, r, 401, "local_key_required", "")
	r, _ = local(t, w, w.NewBrowser(), key)
	wantProblem(t, r, 401, "login_required", "no_session")
	r, _ = local(t, w, b, key)
	if got := subject(t, r); got != "sub-alice" {
		t.Errorf("the token is %q's", got)
	}
	// Neither half was ever told to Redis.
	raw, err := base64.RawURLEncoding.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	for what, half := range map[string]string{"the local key": key, "its bytes": string(raw), "the cookie": b.Cookie()} {
		if strings.Contains(sent(), half) || strings.Contains(sent(), strings.Trim(fmt.Sprintf("%q", half), `"`)) {
			t.Errorf("%s was sent to Redis", what)
		}
	}
}

func subjectIsAPseudonym(t *testing.T) {
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) { mints(t, c) }}) // pairwise is the default
	names := map[string][]string{}
	for range 2 {
		for _, user := range []string{"alice", "bob"} {
			b := w.NewBrowser()
			b.Login(user)
			held := accessToken(t, token(b))
			names[user] = append(names[user], subjectOf(held))
			payload, err := base64.RawURLEncoding.DecodeString(strings.Split(held, ".")[1])
			if err != nil || strings.Contains(string(payload), user) {
				t.Errorf("%s's token tells whose it is: %s", user, payload)
			}
		}
	}
	if a, b := names["alice"], names["bob"]; a[0] != a[1] || b[0] != b[1] || a[0] == b[0] || a[0] == "" {
		t.Errorf("the names are %v", names)
	}
}

func bothHalvesRotate(t *testing.T) {
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		mints(t, c)
		splitKey(c)
		c.Set("apps.0.session.revalidate", "5s")
		c.Set("apps.0.token.lifetime", "5s")
	}})
	b := w.NewBrowser()
	b.Login("alice")
	_, first := local(t, w, b, "")
	key, cookie := first, b.Cookie()
	rig.Eventually(t, "both halves are replaced", func() bool {
		var r *rig.Response
		if r, key = local(t, w, b, key); r.Status != http.StatusOK {
			t.Fatalf("meanwhile: %s", r)
		}
		return key != first && b.Cookie() != cookie
	})
	redeemed(t, p, 1)
}

func mismatchLeadsToLogin(t *testing.T) {
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AutoLogin: gatewaytest.As("alice")})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		splitKey(c)
		routes := c["apps"].([]any)[0].(map[string]any)["routes"].([]any)
		c.Set("apps.0.routes", append(routes, map[string]any{
			"path": "/app", "upstream": routes[0].(map[string]any)["upstream"], "kind": "page",
		}))
	}})
	b := w.NewBrowser()
	b.Login("alice")
	good := b.Cookie()
	_, key := local(t, w, b, "")
	local(t, w, b, key)
	ended := w.NewBrowser()
	ended.Login("bob")
	w.Gateways[0].End(map[string]any{"sid": about(t, ended).SID})
	wantEnded(t, w, ended, "revoked")
	altered := strings.Map(func(r rune) rune {
		if r == 'A' {
			return 'B'
		}
		return r
	}, key[:len(key)-1]) + key[len(key)-1:]
	if altered == key {
		altered = strings.Repeat("A", 43)
	}
	for what, ticket := range map[string]string{"missing": "", "altered": good[:20] + "x" + good[21:], "ended": ended.Cookie(), "another form": "x"} {
		page := w.NewBrowser() // no login lately, so no loop to be broken
		page.SetCookie(ticket)
		wantsLogin(t, "cookie "+what, token(page))
		at := page.NavigateUntil("/app/orders?page=2", "", func(u *url.URL) bool { return u.Path == "/bff/login" })
		if at.Query().Get("return_to") != "/app/orders?page=2" {
			t.Errorf("cookie %s: a page's login is %s", what, at)
		}
	}
	for what, half := range map[string]string{"missing": "", "altered": altered, "another form": "x"} {
		r, _ := local(t, w, b, half)
		wantsLogin(t, "local key "+what, r)
	}
	if r, _ := local(t, w, b, key); r.Status != http.StatusOK {
		t.Errorf("both halves, afterwards: %s", r)
	}
}

// wantsLogin holds a refusal to sending the page to the login.
func wantsLogin(t *testing.T, what string, r *rig.Response) {
	t.Helper()
	var p struct {
		LoginURL string `json:"login_url"`
	}
	r.JSON(t, &p)
	if code, _ := r.Problem(); r.Status != http.StatusUnauthorized || !strings.HasSuffix(code, "_required") || !strings.HasPrefix(p.LoginURL, "/bff/login") {
		t.Errorf("%s: %s, login_url %q", what, r, p.LoginURL)
	}
}
