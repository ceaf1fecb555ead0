package test

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// asking is a world whose app is reached through another proxy, which serves /wiki/
// by itself. front starts it, and returns its address.
func asking(t *testing.T, opts gatewaytest.Options, front func(t *testing.T, w *rig.World, secret string) string) (*gatewaytest.Provider, *rig.World) {
	t.Helper()
	secret := rig.Random()
	p, reg := rig.Strict(t, rig.Origin, opts)
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		c.Set("trusted_proxies", []any{"127.0.0.0/8"})
		c.Set("apps.0.forward_auth.secret", "${file:"+rig.WriteFile(t, "secret", secret)+"}")
		c.Set("apps.0.session.cache_ttl", "0s") // an end is felt at once
		c.Set("apps.0.session.rotation_grace", "3s")
		routes := c["apps"].([]any)[0].(map[string]any)["routes"].([]any)
		c.Set("apps.0.routes", append(routes,
			map[string]any{"path": "/wiki/", "forward_auth": true, "kind": "page", "headers": map[string]any{"X-User": "sub"}},
			map[string]any{"path": "/wiki/staff", "forward_auth": true, "require": map[string]any{"groups": []any{"staff"}}},
			map[string]any{"path": "/wiki/open", "forward_auth": true, "auth": "none"},
		))
	}})
	w.Secret("the secret that a proxy asks with", secret)
	to := *w.Gateways[0]
	to.Public = front(t, w, secret)
	w.Gateways[0] = &to // to browsers
	return p, w
}

// edited is a configuration of deploy/, with each text replaced that it has to have
// once.
func edited(t *testing.T, name string, edits ...string) string {
	t.Helper()
	conf := deployed(t, name)
	for ; len(edits) > 1; edits = edits[2:] {
		if strings.Count(conf, edits[0]) != 1 {
			t.Fatalf("%q is not in %s once", edits[0], name)
		}
		conf = strings.Replace(conf, edits[0], edits[1], 1)
	}
	return conf
}

// listens starts a proxy, and returns when it takes connections.
func listens(t *testing.T, at string, cmd *exec.Cmd) {
	t.Helper()
	process := rig.Start(t, cmd)
	rig.Eventually(t, cmd.Path+" listens", func() bool {
		select {
		case <-process.Done():
			t.Fatalf("%s ended:\n%s", cmd.Path, process.Output())
		default:
		}
		conn, err := net.Dial("tcp", at)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

// nginx is as deploy/nginx/forward-auth.conf has it.
func nginx(t *testing.T, w *rig.World, secret string) string {
	t.Helper()
	at, dir := free(t), t.TempDir()
	conf := edited(t, "nginx/forward-auth.conf",
		"127.0.0.1:8080", w.Gateways[0].Public,
		"127.0.0.1:9000", strings.TrimPrefix(w.Upstream.URL, "http://"),
		"443 ssl", at,
		"shop.example.com;", "app.test;",
		"    ssl_certificate     shop.example.com.crt;\n", "",
		"    ssl_certificate_key shop.example.com.key;\n", "")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("cloakroom-secret.conf", fmt.Sprintf("proxy_set_header X-BFF-Forward-Auth %q;\n", secret))
	main := write("nginx.conf", fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr error; worker_rlimit_nofile 1024;
events { worker_connections 256; }
http { access_log off;
client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
%[2]s
}
`, dir, conf))
	name, err := exec.LookPath("nginx")
	if err != nil {
		name = "/usr/sbin/nginx"
	}
	listens(t, at, exec.Command(name, "-c", main, "-p", dir))
	return at
}

// passesOn asks as Traefik does: what refuses a request goes to the browser as it is.
func passesOn(t *testing.T, w *rig.World, secret string) string {
	t.Helper()
	rest, wiki := proxyTo(t, "http://"+w.Gateways[0].Public), proxyTo(t, w.Upstream.URL)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(client.CloseIdleConnections)
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/wiki/") {
			rest.ServeHTTP(rw, r)
			return
		}
		check, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://"+direct(w).Public+"/bff/auth", nil)
		if err != nil {
			t.Error(err)
			return
		}
		check.Header = r.Header.Clone()
		for name, value := range map[string]string{"X-BFF-Forward-Auth": secret, "X-Forwarded-Method": r.Method, "X-Forwarded-Host": r.Host, "X-Forwarded-Uri": r.URL.RequestURI()} {
			check.Header.Set(name, value)
		}
		answer, err := client.Do(check)
		if err != nil {
			t.Error(err)
			return
		}
		defer answer.Body.Close()
		if answer.StatusCode/100 != 2 {
			maps.Copy(rw.Header(), answer.Header)
			rw.WriteHeader(answer.StatusCode)
			_, _ = io.Copy(rw, answer.Body)
			return
		}
		for _, name := range []string{"Authorization", "Cookie", "X-User"} {
			r.Header.Del(name)
			if v := answer.Header[name]; len(v) > 0 {
				r.Header[name] = v
			}
		}
		wiki.ServeHTTP(rw, r)
	}))
	t.Cleanup(front.Close)
	return front.Listener.Addr().String()
}

func proxyTo(t *testing.T, to string) *httputil.ReverseProxy {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(u)
		r.Out.Host = r.In.Host
	}}
}

// wiki is what the upstream saw last, which must be a request for that target.
func wiki(t *testing.T, w *rig.World, target string) rig.Received {
	t.Helper()
	seen := w.Upstream.Seen()
	if len(seen) == 0 || seen[len(seen)-1].Target != target {
		t.Fatalf("%s has not come to the upstream", target)
	}
	return seen[len(seen)-1]
}

// wantUser fails unless the upstream was told of that user, and of nothing else of
// ours.
func wantUser(t *testing.T, r rig.Received, user string) {
	t.Helper()
	sub, auth := "", ""
	if user != "" {
		sub, auth = gatewaytest.SubjectOf(user), subjectOf(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	}
	if got := r.Header.Get("X-User"); got != sub || auth != sub || sub == "" && r.Header.Get("Authorization") != "" {
		t.Errorf("%s: the upstream was told of %q and got the token of %q, want %q", r.Target, got, auth, sub)
	}
	for name, lines := range r.Header {
		if strings.HasPrefix(name, "X-Bff-Forward") || strings.Contains(strings.ToLower(strings.Join(lines, ";")), "cloakroom") {
			t.Errorf("%s: the upstream got %s", r.Target, name)
		}
	}
}

// passes walks people through a proxy that asks: who has no session, who has one,
// and who may not.
func passes(t *testing.T, p *gatewaytest.Provider, w *rig.World) (alice, bob *rig.Browser) {
	t.Helper()
	alice, bob = w.NewBrowser(), w.NewBrowser()
	// No session: a script is told so, a person goes to the login and comes back.
	wantProblem(t, alice.Fetch(http.MethodGet, "/wiki/x?y"), 401, "login_required", "no_session")
	if len(w.Upstream.Seen()) != 0 {
		t.Fatal("the upstream was asked")
	}
	page := alice.Navigate("/wiki/x?y=z%20a", "alice")
	if page.Status != http.StatusOK || page.URL.RequestURI() != "/wiki/x?y=z%20a" {
		t.Fatalf("alice ended on %s with %s", page.URL, page)
	}
	wantUser(t, wiki(t, w, "/wiki/x?y=z%20a"), "alice")
	bob.Login("bob")
	for _, step := range []struct {
		b    *rig.Browser
		user string
	}{{alice, "alice"}, {bob, "bob"}, {alice, "alice"}} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			target := "/wiki/of/" + step.user + "?" + method
			r := step.b.Send(rig.Request{Method: method, Path: target, Body: strings.Repeat("b", len(method)-3), Header: http.Header{"Cookie": {"theme=dark; " + rig.SessionCookie + "=" + step.b.Cookie()}}})
			if r.Status != http.StatusOK {
				t.Fatalf("%s: %s", step.user, r)
			}
			got := wiki(t, w, target)
			wantUser(t, got, step.user)
			if got.Method != method || got.Header.Get("Cookie") != "theme=dark" || len(got.Body) != len(method)-3 {
				t.Errorf("%s %s with the cookies %q and a body of %d", got.Method, got.Target, got.Header.Get("Cookie"), len(got.Body))
			}
		}
	}
	// A link from elsewhere, which comes without the Strict cookie at first.
	logins := p.Requests(gatewaytest.EndpointAuthorize)
	if page := alice.Arrive(w.Origin+"/wiki/linked?a=b", ""); page.Status != http.StatusOK || page.URL.RequestURI() != "/wiki/linked?a=b" {
		t.Errorf("alice ended on %s with %s", page.URL, page)
	}
	wantUser(t, wiki(t, w, "/wiki/linked?a=b"), "alice")
	if p.Requests(gatewaytest.EndpointAuthorize) != logins {
		t.Error("by way of another login")
	}
	wantProblem(t, alice.Fetch(http.MethodGet, "/wiki/staff/x"), 403, "access_denied", "")
	wantProblem(t, alice.Send(rig.Request{Path: "/wiki/x", Header: http.Header{"Sec-Fetch-Site": {"cross-site"}}}), 403, "cross_origin_blocked", "")
	return alice, bob
}

func TestForwardAuthThroughNginx(t *testing.T) {
	t.Parallel()
	p, w := asking(t, gatewaytest.Options{}, nginx)
	alice, bob := passes(t, p, w)
	if r := w.NewBrowser().Fetch(http.MethodGet, "/wiki/open/x"); r.Status != http.StatusOK {
		t.Errorf("the open part: %s", r)
	}
	wantUser(t, wiki(t, w, "/wiki/open/x"), "")

	// Nothing that a browser says of itself or of its request reaches the upstream or
	// the judgement, and a check of its own tells it nothing.
	before := len(w.Upstream.Seen())
	for _, row := range []struct {
		name, path string
		header     http.Header
		status     int
	}{
		{"another path, claimed", "/wiki/x", http.Header{"X-Forwarded-Uri": {"/wiki/open/x"}, "X-Original-Url": {"/wiki/open/x"}, "X-Forwarded-Method": {"OPTIONS"}}, 401},
		{"dots", "/wiki/open/../x", nil, 400},
		{"dots, encoded", "/wiki/open/%2e%2e/x", nil, 400},
		{"an encoded slash", "/wiki/open%2f..%2fx", nil, 400},
		{"two slashes", "//wiki/open/x", nil, 400},
		{"a check by a browser", "/bff/auth", http.Header{"X-Bff-Forward-Auth": {"x"}, "X-Forwarded-Uri": {"/wiki/open/x"}, "X-Forwarded-Method": {"GET"}, "X-Forwarded-Host": {"app.test"}}, 404},
		{"a check by a browser, inside", "/_ask", nil, 404},
		{"who the user is", "/wiki/open/x", http.Header{"X-User": {"root"}}, 404},
		{"a token", "/wiki/open/x", http.Header{"Authorization": {"Bearer x"}}, 404},
	} {
		r := w.NewBrowser().Send(rig.Request{Path: row.path, Header: row.header})
		if r.Status != row.status || r.Header.Get("Authorization") != "" || r.Header.Get("X-User") != "" {
			t.Errorf("%s: %s", row.name, r)
		}
	}
	for _, r := range []*rig.Response{alice.Fetch(http.MethodGet, "/bff/auth"), alice.Send(rig.Request{Path: "/bff/auth", On: direct(w)})} {
		if r.Status != 404 || r.Header.Get("Authorization") != "" || r.Header.Get("X-User") != "" || r.Header.Get("Cookie") != "" {
			t.Errorf("alice's own check: %s, %v", r, r.Header)
		}
	}
	if n := len(w.Upstream.Seen()) - before; n != 0 {
		t.Errorf("%d of them came to the upstream", n)
	}

	copied := alice.Clone()
	alice.Fetch(http.MethodPost, "/bff/logout")
	wantProblem(t, copied.Fetch(http.MethodGet, "/wiki/x"), 401, "login_required", "logged_out")
	if r := bob.Fetch(http.MethodGet, "/wiki/x"); r.Status != http.StatusOK {
		t.Errorf("bob: %s", r)
	}
	wantUser(t, wiki(t, w, "/wiki/x"), "bob")

	w.Redis.Stop()
	wantProblem(t, bob.Fetch(http.MethodGet, "/wiki/x"), 503, "store_unavailable", "")
}

// direct is the gateway itself, without nginx.
func direct(w *rig.World) *rig.Gateway {
	g := *w.Gateways[0]
	for _, line := range g.Log("listening") {
		if line["listener"] == "public" {
			g.Public, _ = line["address"].(string)
		}
	}
	return &g
}

// A proxy that passes refusals on needs nothing else for the login, the way back, and
// a link from another site.
func TestForwardAuthPassedOn(t *testing.T) {
	t.Parallel()
	p, w := asking(t, gatewaytest.Options{}, passesOn)
	b := w.NewBrowser()
	wantProblem(t, b.Fetch(http.MethodGet, "/wiki/x"), 401, "login_required", "no_session")
	if page := b.Navigate("/wiki/x?y=z%20a", "alice"); page.Status != http.StatusOK || page.URL.RequestURI() != "/wiki/x?y=z%20a" {
		t.Fatalf("ended on %s with %s", page.URL, page)
	}
	wantUser(t, wiki(t, w, "/wiki/x?y=z%20a"), "alice")
	logins := p.Requests(gatewaytest.EndpointAuthorize)
	if page := b.Arrive(w.Origin+"/wiki/linked", ""); page.Status != http.StatusOK || page.URL.Path != "/wiki/linked" {
		t.Errorf("ended on %s with %s", page.URL, page)
	}
	wantUser(t, wiki(t, w, "/wiki/linked"), "alice")
	if p.Requests(gatewaytest.EndpointAuthorize) != logins {
		t.Error("by way of another login")
	}
	if r := b.Send(rig.Request{Path: "/bff/auth"}); r.Status != 404 || r.Header.Get("Authorization") != "" {
		t.Errorf("a check of its own: %s", r)
	}
	copied := b.Clone()
	b.Fetch(http.MethodPost, "/bff/logout")
	wantProblem(t, copied.Fetch(http.MethodGet, "/wiki/x"), 401, "login_required", "logged_out")
}

// A token that has run out is not refreshed for a check: the page does it, and no
// ticket is lost on the way.
func TestForwardAuthAndRotation(t *testing.T) {
	t.Parallel()
	p, w := asking(t, gatewaytest.Options{AccessLife: 4 * time.Second}, nginx)
	b := w.NewBrowser()
	b.Login("alice")
	for range 2 {
		before := p.Requests(gatewaytest.EndpointToken)
		tokenRunsOut(t, b)
		wantProblem(t, b.Fetch(http.MethodGet, "/wiki/x"), 401, "token_expired", "")
		if n := p.Requests(gatewaytest.EndpointToken) - before; n != 0 {
			t.Fatalf("%d refreshes", n)
		}
		r := token(b)
		if subject(t, r) != gatewaytest.SubjectOf("alice") || r.Successor() == "" {
			t.Fatalf("no successor: %s", r)
		}
		for range 3 {
			if r := b.Fetch(http.MethodGet, "/wiki/x"); r.Status != http.StatusOK || len(r.SetCookies) > 0 {
				t.Fatalf("%s, %v", r, r.SetCookies)
			}
			wantUser(t, wiki(t, w, "/wiki/x"), "alice")
		}
	}
	if again := p.Reuses(); len(again) > 0 {
		t.Errorf("spent tokens were presented again: %v", again)
	}
}
