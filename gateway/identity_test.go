package gateway_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

// known adds routes whose upstream is told of the caller.
func known(w **world) func(*gateway.App) {
	return func(a *gateway.App) {
		names := []string{"X-User", "X-Groups", "X-Absent"}
		up := (*w).upstream.proxy((*w).t, "", names...)
		tell := []gateway.ClaimHeader{{Name: "X-User", Claim: "sub"}, {Name: "X-Groups", Claim: "groups"}, {Name: "X-Absent", Claim: "absent"}}
		a.Routes = append(a.Routes,
			gateway.Route{Path: "/known", Upstream: up, Headers: tell},
			gateway.Route{Path: "/perhaps", Upstream: up, Auth: gateway.AuthOptional, Headers: tell},
			gateway.Route{Path: "/unknown", Upstream: up, Auth: gateway.AuthNone},
		)
	}
}

// The upstream is told what the session says and nothing that the client does,
// in no spelling, on no route of the app.
func TestG01IdentityHeaders(t *testing.T) {
	var w *world
	w = newWorld(t, func(a *gateway.App) { known(&w)(a) })
	alice := gatewaytest.SubjectOf("alice")
	w.provider.Enrol(gatewaytest.User{Username: "alice", Claims: map[string]any{"groups": []string{"CN=a,OU=b", "c"}}})
	b := w.browser(w.replica())
	b.login()
	anonymous := w.browser(b.at)
	forged := []string{
		"X-User: root", "x-user: root", "X_User: root", "x.USER: root", "X-Groups: wheel", "X_Groups: wheel", "X-Absent: yes", "X_Absent: yes",
	}
	for _, test := range []struct {
		name, path    string
		who           *browser
		status        int
		user, grouped string
	}{
		{"session", "/known/x", b, 200, alice, "CN=a%2COU=b,c"},
		{"optional, with a session", "/perhaps/x", b, 200, alice, "CN=a%2COU=b,c"},
		{"optional, anonymous", "/perhaps/x", anonymous, 200, "", ""},
		{"none", "/unknown/x", b, 200, "", ""},
		{"none, anonymous", "/unknown/x", anonymous, 200, "", ""},
		{"required, anonymous", "/known/x", anonymous, 401, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := len(w.upstream.requests())
			lines := "Host: " + host + "\r\nX-BFF: 1\r\nSec-Fetch-Site: same-origin\r\nConnection: close\r\n"
			if c := test.who.cookies(request{}); c != "" {
				lines += "Cookie: " + c + "\r\n"
			}
			a := w.raw(b.at, "GET "+test.path+" HTTP/1.1\r\n"+lines+strings.Join(forged, "\r\n")+"\r\n\r\n")
			if a.status != test.status {
				t.Fatalf("%v: %s", a, a.body)
			}
			if test.status != 200 {
				if len(w.upstream.requests()) != n {
					t.Error("it reached the upstream")
				}
				return
			}
			got := w.upstream.last(t).Header
			var names []string
			for name, lines := range got {
				folded := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name))
				if slices.Contains([]string{"x-user", "x-groups", "x-absent"}, folded) {
					names = append(names, name)
				}
				for _, v := range lines {
					if v == "root" || v == "wheel" || v == "yes" {
						t.Errorf("%s: %s came through", name, v)
					}
				}
			}
			if got.Get("X-User") != test.user || got.Get("X-Groups") != test.grouped || test.user == "" && len(names) > 0 || len(names) > 2 {
				t.Errorf("upstream saw %v: %q %q", names, got.Get("X-User"), got.Get("X-Groups"))
			}
		})
	}
}

// an identity that is too large for a header reaches nobody, in no part.
func TestQ08LargeIdentity(t *testing.T) {
	var w *world
	w = newWorld(t, func(a *gateway.App) { known(&w)(a) })
	groups := make([]string, 2000)
	for i := range groups {
		groups[i] = "group" + strings.Repeat("x", i%7)
	}
	w.provider.Enrol(gatewaytest.User{Username: "alice", Claims: map[string]any{"groups": groups}})
	b := w.browser(w.replica())
	b.login()
	n := len(w.upstream.requests())
	want(t, b.fetch("GET", "/known/x"), 431, "headers_too_large")
	if len(w.upstream.requests()) != n {
		t.Error("it reached the upstream")
	}
	want(t, b.fetch("GET", "/api/x"), 200) // whoever doesn't ask isn't bothered
}
