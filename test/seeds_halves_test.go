package test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

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
	for what, ticket := range map[string]string{"missing": "", "altered": altered(good), "ended": ended.Cookie(), "another form": "x"} {
		page := w.NewBrowser() // no login lately, so no loop to be broken
		page.SetCookie(ticket)
		wantsLogin(t, "cookie "+what, token(page))
		at := page.NavigateUntil("/app/orders?page=2", "", func(u *url.URL) bool { return u.Path == "/bff/login" })
		if at.Query().Get("return_to") != "/app/orders?page=2" {
			t.Errorf("cookie %s: a page's login is %s", what, at)
		}
	}
	for what, half := range map[string]string{"missing": "", "altered": altered(key), "another form": "x"} {
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
