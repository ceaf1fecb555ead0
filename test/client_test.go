package test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// In Chromium: a page with the gateway's own client logs in, holds a token that
// is renewed under it, calls an API by bearer and by cookie, waits out a Redis
// that is away, and logs out. With a whole cookie and with two halves.
func TestClient(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(rig.Config)
		stored string // the names of what the page stores
	}{
		{"a cookie", func(rig.Config) {}, ""},
		{"two halves", splitKey, "cloakroom-local-key"},
	} {
		t.Run(row.name, func(t *testing.T) { useClient(t, row.change, row.stored) })
	}
}

func useClient(t *testing.T, change func(rig.Config), stored string) {
	site := filepath.Dir(rig.WriteFile(t, "index.html", `<!doctype html><title>App</title><script type="module">
import * as client from '/bff/client.js';
window.client = client;
window.ask = (promise) => promise.then((v) => String(v?.status ?? v), (e) => [e.name, e.status, e.code, e.reason, e.loginURL, e.loggedOut].join(' '));
</script>`))
	_, w := inReach(t, gatewaytest.Options{AccessLife: 3 * time.Second, AutoLogin: gatewaytest.As("alice")}, func(c rig.Config) {
		change(c)
		quick(c)
		c.Set("apps.0.token.audience", []any{"https://api.example.com"})
		c.Set("apps.0.session.cache_ttl", "0s")
		live(t, c)
		c.Set("apps.0.routes", append(c["apps"].([]any)[0].(map[string]any)["routes"].([]any),
			map[string]any{"path": "/", "files": site}))
	})
	c := rig.NewChrome(t)
	ready := func(at string) {
		t.Helper()
		rig.Eventually(t, "the page is there, at "+at, func() bool {
			return c.Eval(`typeof ask + location.pathname + location.search + location.hash`) == "function"+at
		})
	}
	says := func(call, want string) {
		t.Helper()
		if got := c.Eval(`ask(` + call + `)`); got != want {
			t.Fatalf("%s: %s, want %s", call, got, want)
		}
	}
	c.Do("open the app", chromedp.Navigate(w.Origin+"/orders?page=2#top"))
	ready("/orders?page=2#top")
	says(`client.accessToken()`, "BFFError 401 login_required no_session /bff/login true")
	says(`client.routeFetch('/api/orders')`, "BFFError 401 login_required no_session /bff/login true")

	c.Do("log in", chromedp.Evaluate[chromedp.Void](`client.login()`))
	rig.Eventually(t, "the login lands", func() bool { return c.SessionCookie() != nil })
	ready("/orders?page=2#top")
	asked := `performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/bff/token')).length`
	if got := c.Eval(`Promise.all([1, 2, 3, 4, 5].map(() => client.accessToken())).then((all) => new Set(all).size + ' token by ' + ` + asked + ` + ' request')`); got != "1 token by 1 request" {
		t.Errorf("five callers: %s", got)
	}
	if got := c.Eval(`Object.keys(localStorage).join() + Object.keys(sessionStorage).join()`); got != stored {
		t.Errorf("the page stores %q, want %q", got, stored)
	}

	// The token runs out under it, more than once.
	tickets := map[string]bool{}
	rig.Eventually(t, "the ticket rotates twice", func() bool {
		says(`client.apiFetch('/bearer/')`, "200")
		says(`client.routeFetch('/api/orders')`, "200")
		tickets[c.SessionCookie().Value] = true
		return len(tickets) > 2
	})
	// With two halves a route doesn't renew: the client does.
	token := c.Eval(`client.accessToken()`)
	rig.Eventually(t, "the token has run out", func() bool {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.Origin+"/bearer/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusUnauthorized
	})
	says(`client.routeFetch('/api/orders')`, "200")
	says(`client.apiFetch('/bearer/')`, "200")

	w.Redis.Stop()
	rig.Eventually(t, "Redis is missed", func() bool {
		return c.Eval(`fetch('/bff/user', {headers: {'X-BFF': '1'}}).then((r) => String(r.status))`) == "503"
	})
	c.Do("ask meanwhile", chromedp.Evaluate[chromedp.Void](`window.waiting = client.bff('/user').then((u) => u.name)`))
	w.Redis.Cont()
	says(`window.waiting`, "Alice")

	c.Do("log out", chromedp.Evaluate[chromedp.Void](`client.logout()`))
	rig.Eventually(t, "the logout lands", func() bool { return c.SessionCookie() == nil })
	ready("/")
	says(`client.accessToken()`, "BFFError 401 login_required no_session /bff/login true")
	if got := c.Eval(`Object.keys(localStorage).join()`); got != "" {
		t.Errorf("the logout leaves %q", got)
	}
}

// The client is public, never stale, and of a kind that browsers run.
func TestClientIsServed(t *testing.T) {
	t.Parallel()
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg})
	get := func(method string, h http.Header) *rig.Response {
		t.Helper()
		h.Set("X-Bff", "")
		h["X-Bff"] = nil
		return w.NewBrowser().Send(rig.Request{Method: method, Path: "/bff/client.js", Header: h})
	}
	r := get(http.MethodGet, http.Header{"Sec-Fetch-Dest": {"script"}})
	tag := r.Header.Get("ETag")
	if r.Status != http.StatusOK || r.Header.Get("Content-Type") != "text/javascript; charset=utf-8" || tag == "" ||
		r.Header.Get("Cache-Control") != "no-cache" || r.Header.Get("X-Content-Type-Options") != "nosniff" || len(r.SetCookies) > 0 {
		t.Errorf("%d %v", r.Status, r.Header)
	}
	if !strings.Contains(string(r.Body), "export async function apiFetch") {
		t.Error("it is no client")
	}
	if again := get(http.MethodGet, http.Header{"If-None-Match": {tag}}); again.Status != http.StatusNotModified || len(again.Body) > 0 {
		t.Errorf("who has it already: %d", again.Status)
	}
	wantProblem(t, get(http.MethodPost, http.Header{}), 405, "method_not_allowed", "")
}
