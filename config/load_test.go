package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/config"
)

// key1 and key2 were drawn by session.NewServerKey for these tests.
const (
	key1 = "q0Zr1uE8n3yXcVbT5wJm2hLsKfGd9aPoIiUyRtReWqA"
	key2 = "Zb7Qx2LmN8vRtYp4KsHd6GfJw1Ec3UiOaTe5BnMz0XQ"
)

// minimal is the shortest file that loads; its lines are counted on below.
const minimal = `version: 1
redis:
  addresses: ["127.0.0.1:6379"]
keys:
  - ` + key1 + `
apps:
  - name: shop
    origin: https://shop.example.com
    provider:
      issuer: https://id.example.com
      client_id: shop-gateway
      client_secret: dGhpcyBpcyByYW5kb20h
    token:
      mode: relay
    routes:
      - {path: /api/, upstream: "http://api.internal:8080"}
`

// load writes text to a directory of its own and loads it. vars are pairs of
// environment variables and values.
func load(t testing.TB, text string, vars ...string) (*config.Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cloakroom.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Load(path, environ(vars...))
}

func environ(vars ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(vars); i += 2 {
			if vars[i] == name {
				return vars[i+1], true
			}
		}
		return "", false
	}
}

// problems are err's problems without the file: "line: key: message".
func problems(t testing.TB, err error) []string {
	t.Helper()
	ce, ok := errors.AsType[*config.Error](err)
	if err != nil && !ok {
		t.Fatalf("error is a %T, want *config.Error: %v", err, err)
	}
	var out []string
	if ce != nil {
		for _, p := range ce.Problems {
			s := fmt.Sprintf("%d: %s", p.Line, p.Message)
			if p.Key != "" {
				s = fmt.Sprintf("%d: %s: %s", p.Line, p.Key, p.Message)
			}
			out = append(out, s)
		}
	}
	return out
}

func TestDefaults(t *testing.T) {
	c, err := load(t, minimal)
	if err != nil {
		t.Fatal(err)
	}
	a := c.Apps[0]
	for _, row := range []struct {
		key       string
		got, want any
	}{
		{"listen", c.Listen, ":8080"},
		{"tls", c.Certificate == nil, true},
		{"trusted_proxies", len(c.TrustedProxies), 0},
		{"drain", c.Drain, config.Drain{Delay: 0, Timeout: 30 * time.Second}},
		{"limits", c.Limits, config.Limits{HeaderBytes: 32768}},
		{"redis", fmt.Sprint(c.Redis), "{single [127.0.0.1:6379]  [redacted] <nil> {  [redacted]} cloakroom: 2s 0}"},
		{"admin", c.Admin, config.Admin{Network: "tcp", Address: "127.0.0.1:9090"}},
		{"log", fmt.Sprint(c.Log), "{INFO json false}"},
		{"origin", a.Origin.String(), "https://shop.example.com"},
		{"provider", fmt.Sprint(a.Provider), "{https://id.example.com shop-gateway client_secret_basic [redacted] [openid profile offline_access] map[] [prompt login_hint ui_locales] false 0s 0 retry  false}"},
		{"session", a.Session, config.Session{IdleTimeout: 30 * time.Minute, AbsoluteTimeout: 12 * time.Hour, SameSite: "strict", RotationGrace: time.Minute, CacheTTL: 5 * time.Second, AfterLogout: "/", Binding: "none"}},
		{"token", a.Token, config.Token{Mode: "relay"}},
		{"user_claims", fmt.Sprint(a.UserClaims), "[sub name email picture]"},
		{"warnings", len(c.Warnings()), 0},
	} {
		if !reflect.DeepEqual(row.got, row.want) {
			t.Errorf("%s: got %v, want %v", row.key, row.got, row.want)
		}
	}
}

func TestRouteDefaults(t *testing.T) {
	dir := t.TempDir()
	c, err := load(t, strings.Replace(minimal, "      - {path: /api/, upstream: \"http://api.internal:8080\"}\n", fmt.Sprintf(`
      - {path: /api/, upstream: "http://api.internal:8080"}
      - {path: /public/, upstream: "http://api.internal:8080", auth: none}
      - {path: /maybe/, upstream: "http://api.internal:8080", auth: optional, kind: page, timeout: 90s, strip_prefix: /maybe, methods: [GET, HEAD]}
      - {path: /, files: %q}
      - {path: /in/, files: %q, auth: required}
`, dir, dir), 1))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range c.Apps[0].Routes {
		got = append(got, fmt.Sprint(r.Path, r.Upstream != nil, r.Files != "", " ", r.Kind, " ", r.Auth, " ", r.Token, " ", r.Timeout, r.StripPrefix, r.Methods))
	}
	want := []string{
		"/api/true false api required session 30s[]",
		"/public/true false api none none 30s[]",
		"/maybe/true false page optional session 1m30s/maybe[GET HEAD]",
		"/false true page none none 0s[]",
		"/in/false true page required none 0s[]",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Every problem is reported at once, in the order of lines, each with its key.
func TestAllAtOnce(t *testing.T) {
	_, err := load(t, `version: 2
lisen: ":80"
listen: 8080
tls: {cert_file: /nowhere/cert.pem}
trusted_proxies: [0.0.0.0/0, 10.0.0.1/8, nonsense]
drain: {timeout: 0s, delay: 300x}
redis:
  mode: replicated
  addresses: ["a:1", "a:1", "redis"]
  sentinel: {master: x}
  wait_replicas: -1
keys: [short]
admin: {listen: "0.0.0.0:9090"}
log: {level: loud, format: json}
log: {level: info}
tracing: {otlp_endpoint: ""}
apps:
  - name: Shop
    origin: https://shop.example.com/
    provider:
      issuer: http://id.example.com
      client_secret: ${env:NOWHERE}
      scopes: [profile]
      pasword_login: true
    session:
      idle_timeout: 1s
      same_site: none
      revalidate: 2s
      binding: all
      remember: 12h
      max_per_user: -1
      clear_site_data: [cookies, everything, cache, cache]
    token: {mode: mint, lifetime: 2h, audience: [], subject: mine, pairwise_key: tiny, signing_keys: [], claim: [x]}
    page: ""
    routes:
      - {path: api, upstream: "http://u:p@api/../x"}
      - {path: /x, files: /nowhere, dev_server: "http://localhost", require: {roles: [admin]}, accept: [bearer]}
      - {path: /y, upstream: "http://api", require: {roles: []}, headers: {X-User: sub}, accept: [cookie, basic]}
`)
	got := problems(t, err)
	want := []string{
		"1: version: must be 1, the only version of this file",
		"2: lisen: is unknown; did you mean listen?",
		"3: listen: must be host:port",
		"4: tls.cert_file: needs a key_file beside it",
		"5: trusted_proxies[0]: trusts too much of the Internet: at least /8",
		"5: trusted_proxies[1]: has bits set beyond its length; did you mean 10.0.0.0/8?",
		"5: trusted_proxies[2]: must be an address or a prefix such as 10.0.0.0/8",
		"6: drain.delay: must be a duration such as 500ms, 30s, 5m or 12h",
		"6: drain.timeout: must be at least 1s",
		"8: redis.mode: must be single or sentinel or cluster",
		"9: redis.addresses: must hold exactly one host:port",
		"9: redis.addresses[1]: is given twice",
		"9: redis.addresses[2]: must be host:port",
		"10: redis.sentinel: has no effect without mode: sentinel",
		"11: redis.wait_replicas: must be a whole number in decimal digits",
		"12: keys[0]: must be 43 characters of base64url, as `cloakroom keys new` prints them",
		"13: admin.listen: is open to other machines, so admin.token is required",
		"14: log.level: must be debug or info or warn or error",
		"15: log: is given twice, first on line 14",
		"18: apps[0].name: must be at most 32 lower-case letters, digits and hyphens",
		"19: apps[0].origin: must be scheme://host or scheme://host:port, with nothing behind it",
		"20: apps[0].provider.client_id: is required",
		"21: apps[0].provider.issuer: must be https: http is for a provider on this machine",
		"22: apps[0].provider.client_secret: the environment variable NOWHERE is not set",
		"23: apps[0].provider.scopes: must hold openid",
		"24: apps[0].provider.pasword_login: is unknown; did you mean password_login?",
		"26: apps[0].session.idle_timeout: must be at least 1m",
		"27: apps[0].session.same_site: must be strict or lax",
		"28: apps[0].session.revalidate: must be at least 5s",
		"29: apps[0].session.binding: must be none or split_key",
		"30: apps[0].session.remember: must be longer than absolute_timeout, 12h, or 0s: nobody is remembered",
		"31: apps[0].session.max_per_user: must be a whole number in decimal digits",
		"32: apps[0].session.clear_site_data[0]: would clear the cookies of the whole site, the provider's too; ours is deleted anyway",
		"32: apps[0].session.clear_site_data[1]: must be one of cache, storage, executionContexts, clientHints, prefetchCache, prerenderCache",
		"32: apps[0].session.clear_site_data[3]: is in the list twice",
		"33: apps[0].token.lifetime: must be at most 1h",
		"33: apps[0].token.audience: is empty",
		"33: apps[0].token.signing_keys: is empty: make a key with `cloakroom keys new --signing ES256`",
		"33: apps[0].token.subject: must be pairwise or provider",
		"33: apps[0].token.pairwise_key: must be 43 characters of base64url, as `cloakroom keys new` prints them",
		"33: apps[0].token.claim: is unknown; did you mean claims?",
		"34: apps[0].page: is unknown; did you mean pages?",
		"36: apps[0].routes[0].path: must start with /",
		"36: apps[0].routes[0].upstream: must hold no user and no password",
		"37: apps[0].routes[1].dev_server: can't stand beside files: a route leads to one of them",
		"37: apps[0].routes[1].files: can't be read: no such file or directory",
		"37: apps[0].routes[1].accept: has no effect where auth is none",
		"37: apps[0].routes[1].require: needs auth: required",
		"38: apps[0].routes[2].accept[1]: must be cookie or bearer",
		"38: apps[0].routes[2].require.roles: is empty",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\n\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if first, _, _ := strings.Cut(err.Error(), "\n"); !strings.HasSuffix(first, "cloakroom.yaml:1: version: must be 1, the only version of this file") {
		t.Errorf("first line %q", first)
	}
}

// A file that isn't there, is no YAML, or uses of YAML what this file doesn't.
func TestSyntax(t *testing.T) {
	for _, row := range []struct{ name, text, want string }{
		{"empty", "", "0: is empty"},
		{"only comments", "# nothing\n", "0: is empty"},
		{"scalar", "cloakroom\n", "1: must be a mapping of keys to values"},
		{"list", "- a\n", "1: must be a mapping of keys to values"},
		{"unclosed", minimal + "log: {level: info\n", "17: is no valid YAML: could not find flow mapping end token '}'"},
		{"a tab", strings.Replace(minimal, "\n    origin", "\n\torigin", 1), "8: is no valid YAML: found a tab, which cannot start any token"},
		{"bad escape shows nothing", minimal + "listen: \"\\qhunter2\"\n", "17: is no valid YAML: found unknown escape character"},
		{"bad block header shows nothing", minimal + "listen: |hunter2\n  x\n", "17: is no valid YAML: invalid header option"},
		{"unquoted expansion in braces", minimal + "admin: {token: ${file:/x}}\n", "17: is no valid YAML: ',' or '}' must be specified; inside […] and {…} write \"${…}\" with quotes"},
		{"deep", minimal + "log: " + strings.Repeat("[", 1000) + "\n", "17: is no valid YAML: nested too deep"},
		{"second document", minimal + "---\nversion: 1\n", "18: holds a second document; one file is one document"},
		{"merge key", minimal + "log:\n  <<: {level: info}\n", "18: log: has a key that is no plain text; anchors, aliases, tags and << are not used here"},
		{"anchor", minimal + "log: &x {level: info}\n", "17: log: is an anchor, an alias or a tag; write a mapping out"},
		{"tag", minimal + "listen: !!str ':80'\n", "17: listen: is an anchor, an alias or a tag; write a single value out"},
		{"null", minimal + "log:\n", "17: log: has no value: give it a mapping or leave the key out"},
		{"null in a list", minimal + "trusted_proxies: [~]\n", "17: trusted_proxies[0]: has no value: give it a single value or leave the key out"},
		{"mapping for a list", minimal + "trusted_proxies: {a: b}\n", "17: trusted_proxies: must be a list"},
		{"list for a scalar", minimal + "listen: [a]\n", "17: listen: must be a single value"},
		{"control character", minimal + "listen: \"a\\tb:1\"\n", "17: listen: must be one line of text without control characters"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := load(t, row.text)
			if got := strings.Join(problems(t, err), "\n"); got != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
		})
	}
	t.Run("byte order mark and CRLF", func(t *testing.T) {
		if _, err := load(t, "\ufeff"+strings.ReplaceAll(minimal, "\n", "\r\n")); err != nil {
			t.Error(err)
		}
	})
	t.Run("no file", func(t *testing.T) {
		_, err := config.Load("/nowhere/cloakroom.yaml", environ())
		if got, want := fmt.Sprint(err), "/nowhere/cloakroom.yaml: can't be read: no such file or directory"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	t.Run("directory", func(t *testing.T) {
		if _, err := config.Load(t.TempDir(), environ()); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("huge", func(t *testing.T) {
		_, err := load(t, minimal+"#"+strings.Repeat("x", 300<<10))
		if err == nil || !strings.Contains(err.Error(), "is larger than 256 KiB") {
			t.Errorf("got %v", err)
		}
	})
}
