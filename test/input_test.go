package test

import (
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// A cookie that is none of ours is login_required, without a Redis command and
// without Set-Cookie (D-*).
func TestBadCookieCostsNothing(t *testing.T) {
	t.Parallel()
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg})
	b := w.NewBrowser()
	b.Login("alice")
	subject(t, token(b))
	good := b.Cookie()
	flipped := []byte(good)
	flipped[len(flipped)/2] ^= 1

	sent := monitor(t, w.Redis)
	for _, row := range []struct{ name, header string }{
		{"none", ""},
		{"empty", rig.SessionCookie + "="},
		{"garbage", rig.SessionCookie + "=garbage"},
		{"one bit flipped", rig.SessionCookie + "=" + string(flipped)},
		{"cut short", rig.SessionCookie + "=" + good[:len(good)-4]},
		{"too long", rig.SessionCookie + "=" + strings.Repeat("A", 4000)},
		{"twice", rig.SessionCookie + "=" + good + "; " + rig.SessionCookie + "=" + good},
		{"twice, one of them bad", rig.SessionCookie + "=x; " + rig.SessionCookie + "=" + good},
		{"under another name", "__Host-cloakroom=" + good},
		{"in another case", strings.ToLower(rig.SessionCookie) + "=" + good},
	} {
		t.Run(row.name, func(t *testing.T) {
			header := http.Header{"Cookie": {row.header}}
			if row.header == "" {
				header = http.Header{"Cookie": nil}
			}
			for _, req := range []rig.Request{
				{Method: http.MethodPost, Path: "/bff/token", Header: header},
				{Method: http.MethodGet, Path: "/bff/user", Header: header},
				{Method: http.MethodGet, Path: "/bff/session", Header: header},
				{Method: http.MethodGet, Path: "/api/orders", Header: header},
			} {
				r := w.NewBrowser().Send(req)
				wantProblem(t, r, 401, "login_required", "no_session")
			}
		})
	}
	sid := about(t, b).SID
	w.Redis.CLI("ECHO", "the end of it")
	rig.Eventually(t, "the monitor has it all", func() bool { return strings.Contains(sent(), "the end of it") })
	before, _, _ := strings.Cut(sent(), sid)
	before = before[:strings.LastIndex(before, "\n")+1] // without about's own opening, if it took one
	for line := range strings.Lines(before) {
		if low := strings.ToLower(line); strings.Contains(low, "get") && strings.Contains(low, "{") {
			t.Errorf("a bad cookie cost a Redis command: %.200s", line)
		}
	}
}

// A bad file stops the start: exit code, every problem named, with key and line,
// and no secret quoted.
func TestBadConfigNamesEveryProblem(t *testing.T) {
	t.Parallel()
	key, _, _ := rig.Run(t, "keys", "new")
	file := rig.WriteFile(t, "cloakroom.yaml", `version: 1
listen: ":8080"
colour: red
redis:
  addresses: ["127.0.0.1:6379"]
  timeout: soon
keys:
  - `+strings.TrimSpace(key)+`
  - tooshort
admin: {listen: "127.0.0.1:0"}
apps:
  - name: shop
    origin: http://shop.example.com
    provider:
      issuer: https://id.example.com
      client_id: shop
      client_secret: ${file:/nonexistent/secret}
      scopes: [openid]
      end_sesion_endpoint: https://id.example.com/out
    session: {rotation_grace: 100ms}
    token: {mode: lend}
    routes:
      - {path: api, upstream: "ftp://api.internal"}
`)
	for _, args := range [][]string{{"serve", "--config", file}, {"check", "--config", file}} {
		stdout, stderr, code := rig.Run(t, args...)
		out := stdout + stderr
		if code != 1 && code != 2 {
			t.Errorf("%s: exit code %d", args[0], code)
		}
		for _, want := range []string{
			`colour`, `redis\.timeout`, `keys`, `apps(\[0\]|\.0)\.origin`, `client_secret`, `end_sesion_endpoint`,
			`rotation_grace`, `token\.mode`, `routes(\[0\]|\.0)\.path`, `routes(\[0\]|\.0)\.upstream`,
			`\b3\b`, `\b6\b`, `\b9\b`, `\b13\b`, `\b17\b`, `\b19\b`, `\b20\b`, `\b21\b`, `\b23\b`,
		} {
			if !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("%s does not name %s:\n%s", args[0], want, out)
			}
		}
		if strings.Contains(out, strings.TrimSpace(key)) {
			t.Errorf("%s prints the server key", args[0])
		}
	}
}

// A sample key, as it stands in documentation, is refused.
func TestWeakKeysAreRefused(t *testing.T) {
	t.Parallel()
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: -1})
	for _, row := range []struct{ name, key string }{
		{"empty", ""},
		{"short", "c2hvcnQ"},
		{"zeros", strings.Repeat("A", 43)},
		{"not base64url", strings.Repeat("+", 43)},
	} {
		t.Run(row.name, func(t *testing.T) {
			w.Config.Set("keys", []any{row.key})
			stdout, stderr, code := rig.Run(t, "check", "--config", w.Config.Write(t))
			if code == 0 {
				t.Errorf("accepted: %s%s", stdout, stderr)
			}
		})
	}
}

func TestCheckAcceptsAGoodConfig(t *testing.T) {
	t.Parallel()
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: -1})
	stdout, stderr, code := rig.Run(t, "check", "--config", w.Config.Write(t))
	if code != 0 {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
}

func TestMisuseIsExitCodeTwo(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"srve"}, {"serve", "--colour"}, {}} {
		if _, _, code := rig.Run(t, args...); code != 2 {
			t.Errorf("cloakroom %q: exit code %d, want 2", args, code)
		}
	}
	if stdout, _, code := rig.Run(t, "version"); code != 0 || strings.TrimSpace(stdout) == "" {
		t.Errorf("cloakroom version: exit code %d, %q", code, stdout)
	}
	missing := filepath.Join(t.TempDir(), "none.yaml")
	if _, stderr, code := rig.Run(t, "serve", "--config", missing); code == 0 || !strings.Contains(stderr, missing) {
		t.Errorf("serve without its file: exit code %d, %q", code, stderr)
	}
}

// keys new prints one line, another one each time, and nothing else.
func TestKeysNew(t *testing.T) {
	t.Parallel()
	first, _, _ := rig.Run(t, "keys", "new")
	second, _, _ := rig.Run(t, "keys", "new")
	if line := regexp.MustCompile(`^[A-Za-z0-9_-]{43}\n$`); !line.MatchString(first) || !line.MatchString(second) || first == second {
		t.Errorf("keys new printed %d and %d bytes", len(first), len(second))
	}
}

// E-*: what a cookie authenticates asks for same-origin first.
func TestCrossOriginIsBlocked(t *testing.T) {
	t.Parallel()
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg})
	b := w.NewBrowser()
	b.Login("alice")
	for _, row := range []struct {
		name   string
		header http.Header
		want   int
	}{
		{"as a browser sends it", nil, 200},
		{"another site", http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403},
		{"a sibling", http.Header{"Sec-Fetch-Site": {"same-site"}}, 403},
		{"typed in", http.Header{"Sec-Fetch-Site": {"none"}}, 403},
		{"another origin", http.Header{"Origin": {"https://evil.test"}}, 403},
		{"origin null", http.Header{"Origin": {"null"}}, 403},
		{"our origin as a prefix", http.Header{"Origin": {"https://app.test.evil.test"}}, 403},
		{"two origins", http.Header{"Origin": {"https://app.test", "https://evil.test"}}, 403},
		{"without X-BFF", http.Header{"X-Bff": nil}, 403},
		{"no signal but X-BFF", http.Header{"Sec-Fetch-Site": nil, "Origin": nil}, 200},
		{"no signal at all", http.Header{"Sec-Fetch-Site": nil, "Origin": nil, "X-Bff": nil}, 403},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, method := range []string{http.MethodPost, http.MethodGet} {
				r := b.Send(rig.Request{Method: method, Path: "/bff/token", Header: row.header})
				if r.Status != row.want {
					t.Errorf("%s /bff/token: %s, want %d", method, r, row.want)
				}
				if row.want == 403 {
					wantProblem(t, r, 403, "cross_origin_blocked", "")
				}
			}
			if r := b.Send(rig.Request{Method: http.MethodGet, Path: "/api/orders", Header: row.header}); r.Status != row.want &&
				// Beside a browser's own signals a route does not ask for X-BFF.
				!(row.name == "without X-BFF" && r.Status == 200) {
				t.Errorf("/api/orders: %s, want %d", r, row.want)
			}
		})
	}
	// The guard comes before the cookie: nobody learns whether it is good.
	r := w.NewBrowser().Send(rig.Request{Method: http.MethodPost, Path: "/bff/token", Header: http.Header{"Origin": {"https://evil.test"}}})
	wantProblem(t, r, 403, "cross_origin_blocked", "")
}

// S-07: what a page may read of its session and user holds no token.
func TestSessionAndUserShowNoToken(t *testing.T) {
	t.Parallel()
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg})
	b := w.NewBrowser()
	b.Login("alice")
	for _, path := range []string{"/bff/session", "/bff/user"} {
		r := b.Fetch(http.MethodGet, path)
		if r.Status != http.StatusOK {
			t.Fatalf("%s: %s", path, r)
		}
		for _, c := range gatewaytest.Canaries() {
			if strings.Contains(string(r.Body), c) {
				t.Errorf("%s shows a canary", path)
			}
		}
		if regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.`).Match(r.Body) {
			t.Errorf("%s shows a JWT", path)
		}
	}
	for _, g := range w.Gateways {
		text := g.Metrics()
		for value, what := range w.Secrets() {
			if strings.Contains(text, value) {
				t.Errorf("/metrics shows %s", what)
			}
		}
		if strings.Contains(text, "sub-alice") {
			t.Error("/metrics shows a subject")
		}
	}
}
