package test

import (
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// caddy is as deploy/caddy/Caddyfile has it. test/setup.sh has built it.
func caddy(t *testing.T, w *rig.World, secret string) string {
	t.Helper()
	at, dir := free(t), t.TempDir()
	_, port, _ := net.SplitHostPort(at)
	conf := edited(t, "caddy/Caddyfile",
		"forward_auth 127.0.0.1:8080", "forward_auth "+w.Gateways[0].Public,
		"reverse_proxy 127.0.0.1:8080", "reverse_proxy "+w.Gateways[0].Public,
		"127.0.0.1:9000", strings.TrimPrefix(w.Upstream.URL, "http://"),
		"shop.example.com {", "http://app.test:"+port+" {\n\tbind 127.0.0.1")
	cmd := exec.Command(filepath.Join(rig.Root(), "test", "bin", "caddy"), "run",
		"--adapter", "caddyfile", "--config", rig.WriteFile(t, "Caddyfile", "{\n\tadmin off\n}\n"+conf))
	cmd.Env = append(cmd.Environ(), "FORWARD_AUTH_SECRET="+secret, "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	listens(t, at, cmd)
	return at
}

func TestForwardAuthThroughCaddy(t *testing.T) {
	t.Parallel()
	p, w := asking(t, gatewaytest.Options{}, caddy)
	alice, bob := passes(t, p, w)

	// Nothing that a browser says of itself or of its request reaches the upstream or
	// the judgement. Caddy takes names with "_" out.
	if r := w.NewBrowser().Send(rig.Request{Path: "/wiki/open/x", Header: http.Header{"X_User": {"root"}}}); r.Status != http.StatusOK {
		t.Errorf("the open part: %s", r)
	}
	open := wiki(t, w, "/wiki/open/x")
	wantUser(t, open, "")
	if open.Header["X_user"] != nil || open.Header["X_User"] != nil {
		t.Errorf("the upstream got %v", open.Header)
	}
	before := len(w.Upstream.Seen())
	for _, row := range []struct {
		name, path string
		header     http.Header
		status     int
	}{
		{"another path, claimed", "/wiki/x", http.Header{"X-Forwarded-Uri": {"/wiki/open/x"}, "X-Original-Url": {"/wiki/open/x"}, "X-Forwarded-Method": {"OPTIONS"}}, 401},
		{"another path, with _", "/wiki/x", http.Header{"X_Forwarded_Uri": {"/wiki/open/x"}}, 401},
		{"another host", "/wiki/x", http.Header{"X-Forwarded-Host": {"evil.test"}}, 401},
		{"a secret", "/wiki/x", http.Header{"X-Bff-Forward-Auth": {"x"}}, 401},
		{"dots", "/wiki/open/../x", nil, 400},
		{"dots, encoded", "/wiki/open/%2e%2e/x", nil, 400},
		{"an encoded slash", "/wiki/open%2f..%2fx", nil, 400},
		{"two slashes", "//wiki/open/x", nil, 400},
		{"a check by a browser", "/bff/auth", http.Header{"X-Bff-Forward-Auth": {"x"}, "X-Forwarded-Uri": {"/wiki/open/x"}, "X-Forwarded-Method": {"GET"}, "X-Forwarded-Host": {"app.test"}}, 404},
		{"who the user is", "/wiki/open/x", http.Header{"X-User": {"root"}}, 400},
		{"a token", "/wiki/open/x", http.Header{"Authorization": {"Bearer x"}}, 400},
	} {
		r := w.NewBrowser().Send(rig.Request{Path: row.path, Header: row.header})
		if r.Status != row.status || r.Header.Get("Authorization") != "" || r.Header.Get("X-User") != "" {
			t.Errorf("%s: %s", row.name, r)
		}
	}
	if r := alice.Fetch(http.MethodGet, "/bff/auth"); r.Status != 404 || r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" {
		t.Errorf("alice's own check: %s, %v", r, r.Header)
	}
	if n := len(w.Upstream.Seen()) - before; n != 0 {
		t.Errorf("%d of them came to the upstream", n)
	}

	copied := alice.Clone()
	alice.Fetch(http.MethodPost, "/bff/logout")
	wantProblem(t, copied.Fetch(http.MethodGet, "/wiki/x"), 401, "login_required", "logged_out")
	w.Redis.Stop()
	wantProblem(t, bob.Fetch(http.MethodGet, "/wiki/x"), 503, "store_unavailable", "")
}
