package config_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/config"
)

// with is the minimal file with one line replaced by others, or, if old is
// empty, with new at its end.
func with(t testing.TB, old, new string) string {
	t.Helper()
	if old == "" {
		return minimal + new
	}
	if strings.Count(minimal, old) != 1 {
		t.Fatalf("%q is not in the file once", old)
	}
	return strings.Replace(minimal, old, new, 1)
}

const (
	anOrigin = "https://shop.example.com"
	anIssuer = "https://id.example.com"
	aSecret  = "dGhpcyBpcyByYW5kb20h"
	aRoute   = `{path: /api/, upstream: "http://api.internal:8080"}`
	aToken   = "    token:\n"
	inRelay  = "      mode: relay\n"
	inMint   = `      mode: mint
      audience: [https://api.example.com]
      signing_keys: ["-----BEGIN PRIVATE KEY-----"]
      pairwise_key: ` + key2 + "\n"
)

// less is lines without the one that begins with key.
func less(lines, key string) string {
	var out strings.Builder
	for line := range strings.Lines(lines) {
		if !strings.HasPrefix(strings.TrimSpace(line), key) {
			out.WriteString(line)
		}
	}
	return out.String()
}

// Weak, wrong and contradictory settings (attacks V-01 to V-06). A row's want is
// the one problem expected; empty: the setting is fine.
func TestSettings(t *testing.T) {
	provider := func(lines string) string { return "client_id: shop-gateway\n      " + lines }
	session := func(lines string) string { return "    session: {" + lines + "}\n" + aToken }
	for _, row := range []struct{ name, old, new, want string }{
		// V-01: plain http, and what would widen the cookie.
		{"V-01 origin http", anOrigin, "http://shop.example.com", "must be https: only localhost and 127.0.0.1 may be http"},
		{"V-01 origin http localhost", anOrigin, "http://localhost:8080", ""},
		{"V-01 origin http 127.0.0.1", anOrigin, "http://127.0.0.1:8080", ""},
		{"V-01 origin http subdomain of localhost.example", anOrigin, "http://localhost.example.com", "must be https: only localhost and 127.0.0.1 may be http"},
		{"V-01 origin with a path", anOrigin, anOrigin + "/", "must be scheme://host or scheme://host:port, with nothing behind it"},
		{"V-01 origin with a user", anOrigin, "https://u@shop.example.com", "must be scheme://host or scheme://host:port, with nothing behind it"},
		{"V-01 origin with upper case", anOrigin, "https://Shop.example.com", "must name one host, in lower case and without wildcards"},
		{"V-01 origin with its own port", anOrigin, anOrigin + ":443", "must leave its scheme's own port out, as browsers do"},
		{"V-01 origin with an empty port", anOrigin, `"` + anOrigin + `:"`, "must name one host, in lower case and without wildcards"},
		{"V-01 origin with port 0", anOrigin, anOrigin + ":0", "must name one host, in lower case and without wildcards"},
		{"V-01 origin with a port too large", anOrigin, anOrigin + ":65536", "must name one host, in lower case and without wildcards"},
		{"V-01 origin ftp", anOrigin, "ftp://shop.example.com", "must be scheme://host or scheme://host:port, with nothing behind it"},
		{"V-01 origin null", anOrigin, `"null"`, "must be scheme://host or scheme://host:port, with nothing behind it"},
		{"V-01 issuer http", anIssuer, "http://id.example.com", "must be https: http is for a provider on this machine"},
		{"V-01 issuer http loopback", anIssuer, "http://127.0.0.1:9000/realms/x", ""},
		{"V-01 issuer http [::1]", anIssuer, `"http://[::1]:9000"`, ""},
		{"V-01 issuer with a query", anIssuer, anIssuer + "?x=1", "must have no query and no fragment"},
		{"V-01 issuer with an empty fragment", anIssuer, `"` + anIssuer + `#"`, "must have no query and no fragment"},
		{"V-01 issuer with a password", anIssuer, "https://u:p@id.example.com", "must hold no user and no password"},
		{"V-01 issuer is the discovery document", anIssuer, anIssuer + "/.well-known/openid-configuration", "must be the issuer; leave /.well-known/openid-configuration out"},
		{"V-01 same_site none", aToken, session("same_site: none"), "must be strict or lax"},
		{"V-01 same_site lax", aToken, session("same_site: lax"), ""},
		{"V-01 cookie domain", aToken, session("cookie_domain: example.com"), "is unknown"},
		{"V-01 end_session_endpoint http", "client_id: shop-gateway", provider("end_session_endpoint: http://id.example.com/end"), "must be https: http is for a provider on this machine"},
		{"V-01 end_session_endpoint http on this machine", "client_id: shop-gateway", provider("end_session_endpoint: http://127.0.0.1/end"), "must be https, as the issuer is"},
		{"V-01 end_session_endpoint with a fragment", "client_id: shop-gateway", provider("end_session_endpoint: https://id.example.com/end#x"), "must have no fragment"},
		{"V-05 max_age", "client_id: shop-gateway", provider("authorization_params: {max_age: 5m}"), "must be a number of seconds"},
		{"V-01 end_session_endpoint", "client_id: shop-gateway", provider("end_session_endpoint: https://id.example.com/end?x=1"), ""},

		// V-02: wildcards and empty-means-all.
		{"V-02 origin wildcard", anOrigin, "https://*.example.com", "must name one host, in lower case and without wildcards"},
		{"V-02 trusted_proxies all", "", "trusted_proxies: [0.0.0.0/0]\n", "trusts too much of the Internet: at least /8"},
		{"V-02 trusted_proxies half", "", "trusted_proxies: [128.0.0.0/1]\n", "trusts too much of the Internet: at least /8"},
		{"V-02 trusted_proxies all of IPv6", "", "trusted_proxies: [\"::/0\"]\n", "trusts too much of the Internet: at least /7"},
		{"V-02 trusted_proxies all, mapped", "", "trusted_proxies: [\"::ffff:0.0.0.0/96\"]\n", "must be an address or a prefix such as 10.0.0.0/8"},
		{"V-02 trusted_proxies private", "", "trusted_proxies: [10.0.0.0/8, 192.0.2.1, \"fc00::/7\"]\n", ""},
		{"V-02 scopes", "client_id: shop-gateway", provider("scopes: [openid, 'a b']"), "must hold one scope an element, without spaces"},
		{"V-02 authorization_params override", "client_id: shop-gateway", provider("authorization_params: {redirect_uri: https://evil.example}"), "is the gateway's own parameter"},
		{"V-02 authorization_params override in upper case", "client_id: shop-gateway", provider("authorization_params: {State: x}"), "is the gateway's own parameter"},
		{"V-02 authorization_params", "client_id: shop-gateway", provider("authorization_params: {audience: 'https://api.example.com', max_age: 300}"), ""},
		{"V-02 login_params override", "client_id: shop-gateway", provider("login_params: [code_challenge]"), "is the gateway's own parameter"},
		{"V-02 login_params ours", "client_id: shop-gateway", provider("login_params: [return_to]"), "is the gateway's own parameter"},
		{"V-06 login_params remember", "client_id: shop-gateway", provider("login_params: [remember]"), "has no effect without session.remember"},
		{"login_params remember", aSecret + "\n", aSecret + "\n      login_params: [remember]\n    session: {remember: 720h}\n", ""},
		{"V-02 login_params fixed", "client_id: shop-gateway", provider("authorization_params: {acr_values: mfa}\n      login_params: [acr_values]"), "is fixed in authorization_params"},
		{"V-02 after_logout elsewhere", aToken, session("after_logout: https://evil.example"), "must be a path of the app's, such as /"},
		{"V-02 after_logout scheme-relative", aToken, session("after_logout: //evil.example"), "must be a path of the app's, such as /"},
		{"V-02 after_logout backslash", aToken, session(`after_logout: '/\evil.example'`), "must be a path of the app's, such as /"},
		{"V-02 after_logout a page of ours", aToken, session(`after_logout: ""`), ""},

		// V-03: secrets.
		{"V-03 key too short", key1, "c2hvcnQ", "must be 43 characters of base64url, as `cloakroom keys new` prints them"},
		{"V-03 key padded", key1, key1 + "=", "must be 43 characters of base64url, as `cloakroom keys new` prints them"},
		{"V-03 key of standard base64", key1, strings.Replace(key1, "q0", "q+", 1), "must be 43 characters of base64url, as `cloakroom keys new` prints them"},
		{"V-03 key with loose last bits", key1, key1[:42] + "B", "must be 43 characters of base64url, as `cloakroom keys new` prints them"},
		{"V-03 key of zeros", key1, strings.Repeat("A", 43), "is not random: make one with `cloakroom keys new`"},
		{"V-03 key of one byte", key1, "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s", "is not random: make one with `cloakroom keys new`"},
		{"V-03 key counted", key1, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "is not random: make one with `cloakroom keys new`"},
		{"V-03 key counted down in threes", key1, "_Pn28_Dt6ufk4d7b2NXSz8zJxsPAvbq3tLGuq6ilop8", "is not random: make one with `cloakroom keys new`"},
		{"V-03 key from a text", key1, "c2FtcGxlLWtleS1kby1ub3QtdXNlLTAxMjM0NTY3ODk", "is not random: make one with `cloakroom keys new`"},
		{"V-03 key is a passphrase", key1, "correct-horse-battery-staple-cloakroom-key0", "is not random: make one with `cloakroom keys new`"},
		{"V-03 key is hexadecimal", key1, "0123456789abcdef00112233445566778899aabbcc0", "is not random: make one with `cloakroom keys new`"},
		{"V-03 key twice", "  - " + key1 + "\n", "  - " + key1 + "\n  - " + key1 + "\n", "is the same key as keys[0]"},
		{"V-03 second key", "  - " + key1 + "\n", "  - " + key1 + "\n  - " + key2 + "\n", ""},
		{"V-03 no key", "  - " + key1 + "\n", "  []\n", "is empty: make a key with `cloakroom keys new`"},
		{"V-03 client secret well known", aSecret, "changeme", "is too short: at least 16 characters"},
		{"V-03 client secret well known and long", aSecret, "Change-Me-Please-2024", "is a sample value: use a random one"},
		{"V-03 client secret with a space behind it", aSecret, `"` + aSecret + ` "`, "begins or ends with white space: whoever compares it will find another"},
		{"V-03 admin token with a space before it", "", "admin: {token: ' b3BlcmF0b3JzIG9ubHkh'}\n", "begins or ends with white space: whoever compares it will find another"},
		{"V-03 client secret repeated", aSecret, "abababababababababab", "is not random: too few different characters"},
		{"V-03 client secret is the key", aSecret, key1, "is the same secret as keys[0]: every purpose needs its own"},
		{"V-03 client secret empty", aSecret, `""`, "is too short: at least 16 characters"},
		{"V-03 admin token weak", "", "admin: {token: secret}\n", "is too short: at least 16 characters"},
		{"V-03 admin open without a token", "", "admin: {listen: \":9090\"}\n", "is open to other machines, so admin.token is required"},
		{"V-03 admin open with an empty token", "", "admin: {listen: \":9090\", token: \"\"}\n", "is open to other machines, so admin.token can't be empty"},
		{"V-03 admin open, its token missing", "", "admin: {listen: \":9090\", token: \"${env:MISSING}\"}\n", "the environment variable MISSING is not set"},
		{"V-03 admin open with a token", "", "admin: {listen: \":9090\", token: b3BlcmF0b3JzIG9ubHkh}\n", ""},
		{"V-03 admin on a socket", "", "admin: {listen: \"unix:/run/cloakroom.sock\"}\n", ""},
		{"V-03 admin on a relative socket", "", "admin: {listen: \"unix:cloakroom.sock\"}\n", "must name the socket by an absolute path of at most 107 bytes"},
		{"V-03 admin on the public listener", "", "listen: 127.0.0.1:80\nadmin: {listen: 127.0.0.1:80}\n", "must differ from the public listener's"},

		// V-04: routes that overlap or escape.
		{"V-04 same path", aRoute, aRoute + "\n      - " + aRoute, "leads to the same requests as apps[0].routes[0]"},
		{"V-04 same path but for the slash", aRoute, aRoute + `
      - {path: /api, upstream: "http://other"}`, "leads to the same requests as apps[0].routes[0]"},
		{"V-04 one method in common", aRoute, `{path: /api/, upstream: "http://a", methods: [GET, POST]}
      - {path: /api, upstream: "http://b", methods: [POST]}`, "leads to the same requests as apps[0].routes[0]"},
		{"V-04 different methods", aRoute, `{path: /api/, upstream: "http://a", methods: [GET]}
      - {path: /api, upstream: "http://b", methods: [POST]}`, ""},
		{"V-04 longer path", aRoute, aRoute + `
      - {path: /api/v2, upstream: "http://b"}`, ""},
		{"V-04 relative path", "path: /api/", "path: api/", "must start with /"},
		{"V-04 wildcard", "path: /api/", "path: '/api/*'", "must be a plain path: no empty or dot segments, no wildcards, no escapes, no query"},
		{"V-04 regular expression", "path: /api/", "path: '/api/[a-z]'", "must be a plain path: no empty or dot segments, no wildcards, no escapes, no query"},
		{"V-04 dot segments", "path: /api/", "path: /x/../api", "must be a plain path: no empty or dot segments, no wildcards, no escapes, no query"},
		{"V-04 dot segment at the end", "path: /api/", "path: /api/..", "must be a plain path: no empty or dot segments, no wildcards, no escapes, no query"},
		{"V-04 escape", "path: /api/", "path: /%61pi", "must be a plain path: no empty or dot segments, no wildcards, no escapes, no query"},
		{"V-04 empty segment", "path: /api/", "path: //api", "must be a plain path: no empty or dot segments, no wildcards, no escapes, no query"},
		{"V-04 ours", "path: /api/", "path: /bff/x", "is the gateway's own: /bff can't be a route"},
		{"V-04 ours exactly", "path: /api/", "path: /bff", "is the gateway's own: /bff can't be a route"},
		{"V-04 ours in another case", "path: /api/", "path: /BFF/x", "is the gateway's own: /bff can't be a route"},
		{"V-04 like ours", "path: /api/", "path: /bffx", ""},
		{"V-04 upstream with dot segments", "http://api.internal:8080", "http://api.internal:8080/a/../b", "must have a plain path: no empty or dot segments, no escapes"},
		{"V-04 upstream with escaped dot segments", "http://api.internal:8080", "http://api.internal:8080/%2e%2e/b", "must have a plain path: no empty or dot segments, no escapes"},
		{"V-04 upstream with a query", "http://api.internal:8080", "http://api.internal:8080/?a=b", "must have no query and no fragment"},
		{"V-04 upstream with a user", "http://api.internal:8080", "http://u:p@api.internal:8080", "must hold no user and no password"},
		{"V-04 upstream without a host", "http://api.internal:8080", "http://:8080", "must be an http or https URL"},
		{"V-04 upstream file", "http://api.internal:8080", "file:///etc/passwd", "must be an http or https URL"},
		{"V-04 upstream with an underscore", "http://api.internal:8080", "http://my_api:8080/base", ""},
		{"V-04 upstream and files", aRoute, `{path: /, upstream: "http://a", files: /}`, "can't stand beside upstream: a route leads to one of them"},
		{"V-04 neither", aRoute, `{path: /}`, "needs an upstream, files, a dev_server or forward_auth"},
		{"V-04 strip_prefix is no prefix", aRoute, `{path: /api/, upstream: "http://a", strip_prefix: /ap}`, "must be the route's path or whole segments at its start"},
		{"V-04 strip_prefix", aRoute, `{path: /api/v1/, upstream: "http://a", strip_prefix: /api}`, ""},
		{"V-04 strip_prefix all", aRoute, `{path: /api, upstream: "http://a", strip_prefix: /api}`, ""},
		{"V-04 token without a session", aRoute, `{path: /, upstream: "http://a", auth: none, token: session}`, "must be none where auth is none"},
		{"V-04 token for files", aRoute, `{path: /, files: /, auth: required, token: session}`, "must be none: files take no token"},
		{"V-04 timeout for files", aRoute, `{path: /, files: /, timeout: 3s}`, "is for an upstream; files have none"},
		{"V-04 methods in lower case", aRoute, `{path: /, upstream: "http://a", methods: [get]}`, "is no method that can be routed; did you mean GET?"},
		{"V-04 TRACE", aRoute, `{path: /, upstream: "http://a", methods: [TRACE]}`, "is no method that can be routed"},
		{"V-04 no methods", aRoute, `{path: /, upstream: "http://a", methods: []}`, "is empty: leave the key out for all methods"},

		// V-05: YAML's surprises and durations.
		{"V-05 typo", "", "trusted_proxy: []\n", "is unknown; did you mean trusted_proxies?"},
		{"V-05 key twice", "", "version: 1\n", "is given twice, first on line 1"},
		{"V-05 version as text", "version: 1", "version: '1'", ""},
		{"V-05 version 1.0", "version: 1", "version: 1.0", "must be 1, the only version of this file"},
		{"V-05 no version", "version: 1\n", "", "is required: version: 1"},
		{"V-05 no for false", "client_id: shop-gateway", provider("userinfo: no"), "must be true or false"},
		{"V-05 octal", "", "limits: {header_bytes: 010000}\n", "must be a whole number in decimal digits"},
		{"V-05 hexadecimal", "", "limits: {header_bytes: 0x8000}\n", "must be a whole number in decimal digits"},
		{"V-05 underscore", "", "limits: {header_bytes: 32_768}\n", "must be a whole number in decimal digits"},
		{"V-05 too large a number", "", "limits: {header_bytes: 99999999999999999999}\n", "must be a whole number in decimal digits"},
		{"V-05 number out of range", "", "limits: {header_bytes: 0}\n", "must be from 4096 to 1048576"},
		{"V-05 duration with a wrong unit", aToken, session("idle_timeout: 300x"), "must be a duration such as 500ms, 30s, 5m or 12h"},
		{"V-05 duration without a unit", aToken, session("idle_timeout: 300"), "must be a duration such as 500ms, 30s, 5m or 12h"},
		{"V-05 duration without a unit, zero", aToken, session("idle_timeout: 0"), "must be a duration such as 500ms, 30s, 5m or 12h"},
		{"V-05 negative duration", aToken, session("idle_timeout: -5m"), "must be a duration such as 500ms, 30s, 5m or 12h"},
		{"V-05 duration in days", aToken, session("absolute_timeout: 1d"), "must be a duration such as 500ms, 30s, 5m or 12h"},
		{"V-05 duration that overflows", aToken, session("absolute_timeout: 9999999999h"), "must be at most 8784h"},
		{"V-05 zero is not for ever", aToken, session("idle_timeout: 0s"), "must be at least 1m"},
		{"V-05 zero is not for ever, absolute", aToken, session("absolute_timeout: 0s, idle_timeout: 1m"), "must be at least 1m"},
		{"V-05 zero route timeout", aRoute, `{path: /, upstream: "http://a", timeout: 0s}`, "must be at least 100ms"},

		// V-06: settings that contradict one another.
		{"V-06 idle above absolute", aToken, session("idle_timeout: 2h, absolute_timeout: 1h"), "idle_timeout (2h) must not be longer than absolute_timeout (1h)"},
		{"V-06 idle's default above absolute", aToken, session("absolute_timeout: 10m"), "idle_timeout (30m) must not be longer than absolute_timeout (10m)"},
		{"V-06 grace too short", aToken, session("rotation_grace: 500ms"), "must be at least 1s"},
		{"V-06 grace short", aToken, session("rotation_grace: 1s"), ""},
		{"V-06 grace too long", aToken, session("rotation_grace: 1h"), "must be at most 10m"},
		{"V-06 cache above half of the grace", aToken, session("rotation_grace: 8s, cache_ttl: 5s"), "must be at most half of rotation_grace, 4s"},
		{"V-06 no cache", aToken, session("cache_ttl: 0s"), ""},

		{"V-06 remembered for less than the others", aToken, session("remember: 8h"), "must be longer than absolute_timeout, 12h, or 0s: nobody is remembered"},
		{"V-06 remembered for ever", aToken, session("remember: 9601h"), "must be at most 9600h"},
		{"V-06 remembered", aToken, session("remember: 720h"), ""},
		{"V-06 nobody remembered", aToken, session("remember: 0s"), ""},
		{"V-06 two halves", aToken, session("binding: split_key"), ""},
		{"V-06 two halves without /bff/token", "    token:\n      mode: relay\n", session("binding: split_key") + "      mode: off\n", "can't be split_key where token.mode is off: the local key goes to /bff/token alone"},
		{"V-06 revalidate in relay", aToken, session("revalidate: 5m"), "is for token.mode mint: the provider's own token is checked whenever it is renewed"},
		{"V-06 sessions per user", aToken, session("max_per_user: 3"), ""},
		{"V-06 sessions per user, many", aToken, session("max_per_user: 10001"), "must be from 0 to 10000"},
		{"V-06 clear_site_data", aToken, session("clear_site_data: [cache, storage, executionContexts]"), ""},
		{"V-06 clear_site_data cookies", aToken, session("clear_site_data: [storage, cookies]"), "would clear the cookies of the whole site, the provider's too; ours is deleted anyway"},
		{"V-06 clear_site_data wildcard", aToken, session("clear_site_data: ['*']"), "would clear the cookies of the whole site, the provider's too; ours is deleted anyway"},
		{"password_login", "client_id: shop-gateway", provider("password_login: true"), ""},

		// Tokens of our own.
		{"mint", inRelay, inMint, ""},
		{"mint without keys", inRelay, less(inMint, "signing_keys"), "is required: make one with `cloakroom keys new --signing ES256`"},
		{"mint without an audience", inRelay, less(inMint, "audience"), "is required: the resource servers that the tokens are for"},
		{"mint without a pairwise_key", inRelay, less(inMint, "pairwise_key"), "is required: make one with `cloakroom keys new`, and never replace it: a new one makes every user somebody else"},
		{"mint with the provider's subjects", inRelay, less(inMint, "pairwise_key") + "      subject: provider\n", ""},
		{"mint with the provider's subjects and a pairwise_key", inRelay, inMint + "      subject: provider\n", "is for subject pairwise"},
		{"mint with settings", inRelay, inMint + "      lifetime: 1m\n      subject: pairwise\n      claims: [roles, 'https://example.com/team']\n", ""},
		{"mint with an empty audience", inRelay, less(inMint, "audience") + "      audience: ['']\n", "is empty"},
		{"mint with a long audience", inRelay, less(inMint, "audience") + "      audience: [" + strings.Repeat("a", 257) + "]\n", "holds a text of more than 256 bytes"},
		{"V-03 pairwise_key too short", inRelay, less(inMint, "pairwise_key") + "      pairwise_key: c2hvcnQ\n", "must be 43 characters of base64url, as `cloakroom keys new` prints them"},
		{"V-03 pairwise_key counted", inRelay, less(inMint, "pairwise_key") + "      pairwise_key: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n", "is not random: make one with `cloakroom keys new`"},
		{"V-03 pairwise_key is the server key", inRelay, less(inMint, "pairwise_key") + "      pairwise_key: " + key1 + "\n", "is the same secret as keys[0]: every purpose needs its own"},
		{"V-03 admin token is the server key", "version: 1\n", "version: 1\nadmin: {token: " + key1 + "}\n", "is the same secret as keys[0]: every purpose needs its own"},
		{"V-06 no lifetime", inRelay, inMint + "      lifetime: 0s\n", "must be at least 5s"},
		{"V-06 long lifetime", inRelay, inMint + "      lifetime: 2h\n", "must be at most 1h"},
		{"V-06 lifetime in relay", inRelay, inRelay + "      lifetime: 5m\n", "is for mode mint"},
		{"V-06 signing_keys in relay", inRelay, inRelay + "      signing_keys: [x]\n", "is for mode mint"},
		{"V-06 subject off", inRelay, "      mode: off\n      subject: provider\n", "is for mode mint"},
		{"V-06 pairwise_key off", inRelay, "      mode: off\n      pairwise_key: " + key2 + "\n", "is for mode mint"},
		{"V-06 claims in relay", inRelay, inRelay + "      claims: [roles]\n", "is for mode mint"},
		{"V-06 audience in relay", inRelay, inRelay + "      audience: [api]\n", "has no effect in mode relay unless a route accepts bearer"},
		{"V-06 audience off", inRelay, "      mode: off\n      audience: [api]\n", "has no effect in mode off"},

		// Bearers, and claims that are asked for.
		{"bearer without an audience", aRoute, `{path: /, upstream: "http://a", accept: [bearer]}`, "is required: routes accept bearers, and must know which are meant for them"},
		{"bearer in relay", inRelay + "    routes:\n      - " + aRoute, inRelay + `      audience: [api]
    routes:
      - {path: /, upstream: "http://a", accept: [cookie, bearer]}`, ""},
		{"bearer in mint", inRelay + "    routes:\n      - " + aRoute, inMint + `    routes:
      - {path: /, upstream: "http://a", accept: [bearer], auth: optional}`, ""},
		{"V-04 ours in mint", inRelay + "    routes:\n      - " + aRoute, inMint + `    routes:
      - {path: /.well-known/jwks.json, upstream: "http://a"}`, "can't lead anywhere from /.well-known/jwks.json: in mode mint it is the gateway's own"},
		{"V-04 a neighbour of ours in mint", inRelay + "    routes:\n      - " + aRoute, inMint + `    routes:
      - {path: /.well-known/, upstream: "http://a", auth: none}`, ""},
		{"V-06 bearer off", inRelay + "    routes:\n      - " + aRoute, `      mode: off
    routes:
      - {path: /, upstream: "http://a", accept: [cookie, bearer]}`, "can't accept bearer where token.mode is off: / does"},
		{"V-06 accept without auth", aRoute, `{path: /, upstream: "http://a", auth: none, accept: [cookie]}`, "has no effect where auth is none"},
		{"accept nothing", aRoute, `{path: /, upstream: "http://a", accept: []}`, "is empty: cookie, bearer or both"},
		{"accept twice", aRoute, `{path: /, upstream: "http://a", accept: [cookie, cookie]}`, "is in the list twice"},
		{"accept basic", aRoute, `{path: /, upstream: "http://a", accept: [basic]}`, "must be cookie or bearer"},
		{"V-04 require, open to all", aRoute, `{path: /, upstream: "http://a", auth: none, require: {roles: [admin]}}`, "needs auth: required"},
		{"V-04 require, open to anonymous", aRoute, `{path: /, upstream: "http://a", auth: optional, require: {roles: [admin]}}`, "needs auth: required"},
		{"V-04 require nothing", aRoute, `{path: /, upstream: "http://a", require: {}}`, "is empty: leave the key out to require nothing"},
		{"V-04 require no value", aRoute, `{path: /, upstream: "http://a", require: {roles: []}}`, "is empty"},
		{"V-04 require one value", aRoute, `{path: /, upstream: "http://a", require: {roles: admin}}`, "must be a list"},
		{"require", aRoute, `{path: /, upstream: "http://a", require: {roles: [admin, owner], 'https://example.com/level': [3]}}`, ""},

		// Apps beside one another, and places.
		{"apps none", minimal[strings.Index(minimal, "apps:"):], "apps: []\n", "is empty"},
		{"name with a slash", "name: shop", "name: a/b", "must be at most 32 lower-case letters, digits and hyphens"},
		{"mode missing", "      mode: relay\n", "      {}\n", "is required: relay, mint or off"},
		{"mode off", "mode: relay", "mode: off", ""},
		{"mode unknown", "mode: relay", "mode: opaque", "must be relay or mint or off"},
		{"listen URL", "", "listen: http://localhost:80\n", "must be host:port; leave the scheme out"},
		{"listen port", "", "listen: ':99999'\n", "must end in a port number, at most 65535"},
		{"listen any port", "", "listen: 127.0.0.1:0\n", ""},
		{"redis URL", `"127.0.0.1:6379"`, `"redis://localhost:6379"`, "must be host:port; leave the scheme out"},
		{"redis of two servers", `["127.0.0.1:6379"]`, `["127.0.0.1:6379", "127.0.0.1:6380"]`, "must hold exactly one host:port"},
		{"redis of none", `addresses: ["127.0.0.1:6379"]`, "mode: cluster\n  addresses: []", "is empty"},
		{"redis cluster", `addresses: ["127.0.0.1:6379"]`, "mode: cluster\n  addresses: [\"127.0.0.1:6379\", \"127.0.0.1:6380\"]\n  wait_replicas: 1", ""},
		{"redis cluster with sentinels", `addresses: ["127.0.0.1:6379"]`, "mode: cluster\n  addresses: [\"127.0.0.1:6379\"]\n  sentinel: {}", "has no effect without mode: sentinel"},
		{"redis sentinel", `addresses: ["127.0.0.1:6379"]`, "mode: sentinel\n  addresses: [\"127.0.0.1:26379\"]\n  sentinel: {master: mymaster, username: u, password: p}", ""},
		{"redis sentinel of what", `addresses: ["127.0.0.1:6379"]`, "mode: sentinel\n  addresses: [\"127.0.0.1:26379\"]", "is required: what the sentinels call the primary"},
		{"redis prefix with a hash tag", `addresses: ["127.0.0.1:6379"]`, "addresses: [\"127.0.0.1:6379\"]\n  key_prefix: '{x}'", "must be at most 64 letters, digits and : . _ / -"},
		{"redis certificate without tls", `addresses: ["127.0.0.1:6379"]`, "addresses: [\"127.0.0.1:6379\"]\n  tls: {ca_file: ca.pem}", "has no effect without enabled: true"},
		{"redis certificate missing", `addresses: ["127.0.0.1:6379"]`, "addresses: [\"127.0.0.1:6379\"]\n  tls: {enabled: true, ca_file: ca.pem}", "can't be read: no such file or directory"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := load(t, with(t, row.old, row.new))
			var got []string
			for _, p := range problems(t, err) {
				got = append(got, p[strings.Index(p, ": ")+2:])
			}
			switch {
			case row.want == "" && err != nil:
				t.Errorf("got %q, want no problem", got)
			case row.want != "" && (len(got) != 1 || !strings.HasSuffix(got[0], ": "+row.want)):
				t.Errorf("got %q, want %q alone", got, row.want)
			}
		})
	}
}

func TestTwoApps(t *testing.T) {
	second := func(name, origin string) string {
		app := minimal[strings.Index(minimal, "  - name"):]
		return minimal + strings.NewReplacer("name: shop", "name: "+name, anOrigin, origin).Replace(app)
	}
	for _, row := range []struct{ name, text, want string }{
		{"apart", second("desk", "https://desk.example.com"), ""},
		{"same name", second("shop", "https://desk.example.com"), "17: apps[1].name: is the name of apps[0] too"},
		{"same host", second("desk", anOrigin), "18: apps[1].origin: has the host of apps[0]: apps are told apart by host, and ports share cookies"},
		{"same host, other port", second("desk", anOrigin+":8443"), "18: apps[1].origin: has the host of apps[0]: apps are told apart by host, and ports share cookies"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := load(t, row.text)
			if got := strings.Join(problems(t, err), "\n"); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}

	t.Run("same signing key", func(t *testing.T) {
		text := strings.Replace(second("desk", "https://desk.example.com"), inRelay, inMint, 2)
		_, err := load(t, text)
		if got := strings.Join(problems(t, err), "\n"); !strings.HasSuffix(got, "apps[1].token.signing_keys[0]: is the same secret as apps[0].token.signing_keys[0]: every purpose needs its own") {
			t.Errorf("got %q", got)
		}
	})
}

func TestWarnings(t *testing.T) {
	c, err := load(t, strings.NewReplacer(`"127.0.0.1:6379"`, `"redis:6379"`, "client_id: shop-gateway", "client_id: shop-gateway\n      scopes: [openid]").Replace(minimal))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range c.Warnings() {
		got = append(got, fmt.Sprintf("%d %s", w.Line, w.Key))
	}
	if want := "[3 redis.addresses 3 redis.addresses 12 apps[0].provider.scopes]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// Warnings that depend on where access tokens come from.
func TestTokenWarnings(t *testing.T) {
	for _, row := range []struct{ name, old, new, want string }{
		{"mint", inRelay, inMint, ""},
		{"mint without offline_access", "client_id: shop-gateway", "client_id: shop-gateway\n      scopes: [openid]", "apps[0].provider.scopes: has no offline_access: where the provider then gives no refresh token, nothing is revalidated: whoever is out at the provider stays in here until the session's own end"},
		{"long tokens", "pairwise_key:", "lifetime: 11m\n      pairwise_key:", "apps[0].token.lifetime: is long: a minted token that has leaked, or whose session has ended, is good for all of it wherever it isn't verified here"},
		{"pairwise and the address", "pairwise_key:", "claims: [roles, Email]\n      pairwise_key:", "apps[0].token.claims: holds what names the user: audiences that compare notes see through pairwise subjects"},
		{"passwords", "client_id: shop-gateway", "client_id: shop-gateway\n      password_login: true", "apps[0].provider.password_login: hands people's passwords to this gateway (RFC 9700 §2.4): for your own authorization server, and where nothing else will do"},
		{"remember unasked for", aSecret + "\n", aSecret + "\n      login_params: [prompt]\n    session: {remember: 720h}\n", "apps[0].provider.login_params: has no remember: then no link to /bff/login can ask for what session.remember offers"},
		{"bearers of the provider's", inMint + "    routes:\n      - {path: /api/,", inRelay + "      audience: [api]\n    routes:\n      - {path: /api/, accept: [bearer],", "apps[0].routes: accept the provider's own tokens as bearers: ending a session refuses those that were handed out here, and no others"},
	} {
		t.Run(row.name, func(t *testing.T) {
			text := strings.Replace(minimal, inRelay, inMint, 1)
			if row.name == "mint" {
				row.old, row.new = "version: 1", "version: 1"
			}
			if strings.Count(text, row.old) != 1 {
				t.Fatalf("%q is not in the file once", row.old)
			}
			c, err := load(t, strings.Replace(text, row.old, row.new, 1))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range c.Warnings() {
				got = append(got, w.Key+": "+w.Message)
			}
			if strings.Join(got, "\n") != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

func TestTokenAndRouteValues(t *testing.T) {
	pem := "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----"
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, []byte(pem+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	block := "\n        - |\n          " + strings.ReplaceAll(pem+"2", "\n", "\n          ")
	text := strings.Replace(minimal, inRelay+"    routes:\n      - "+aRoute+"\n", less(inMint, "signing_keys")+"      signing_keys:\n        - ${file:"+file+"}"+block+`
      claims: [roles]
    session: {remember: 720h, binding: split_key, max_per_user: 2, revalidate: 1m, clear_site_data: [storage]}
    routes:
      - {path: /a, upstream: "http://a", accept: [bearer, cookie], require: {roles: [admin, owner], level: [3]}}
      - {path: /b, upstream: "http://a"}
      - {path: /c, upstream: "http://a", auth: none}
`, 1)
	c, err := load(t, text)
	if err != nil {
		t.Fatal(err)
	}
	a := c.Apps[0]
	for _, row := range []struct {
		key       string
		got, want any
	}{
		{"session", a.Session, config.Session{
			IdleTimeout: 30 * time.Minute, AbsoluteTimeout: 12 * time.Hour, SameSite: "strict", RotationGrace: time.Minute, CacheTTL: 5 * time.Second, AfterLogout: "/",
			Remember: 720 * time.Hour, Binding: "split_key", MaxPerUser: 2, ClearSiteData: []string{"storage"}, Revalidate: time.Minute,
		}},
		{"token", a.Token, config.Token{
			Mode: "mint", Audience: []string{"https://api.example.com"}, Lifetime: 5 * time.Minute,
			SigningKeys: []config.Secret{config.Secret(pem), config.Secret(pem + "2")}, Subject: "pairwise", PairwiseKey: key2, Claims: []string{"roles"},
		}},
		{"accept", [][]string{a.Routes[0].Accept, a.Routes[1].Accept, a.Routes[2].Accept}, [][]string{{"bearer", "cookie"}, {"cookie"}, nil}},
		{"require", a.Routes[0].Require, map[string][]string{"roles": {"admin", "owner"}, "level": {"3"}}},
		{"login_params", a.Provider.LoginParams, []string{"prompt", "login_hint", "ui_locales", "remember"}},
		{"no require", a.Routes[1].Require == nil, true},
	} {
		if !reflect.DeepEqual(row.got, row.want) {
			t.Errorf("%s: got %#v, want %#v", row.key, row.got, row.want)
		}
	}
	p := c.Problem("apps[0].token.signing_keys[1]", "is no key")
	if got, want := p.String(), fmt.Sprintf(":%d: apps[0].token.signing_keys[1]: is no key", 1+strings.Count(text[:strings.Index(text, "- |")], "\n")); !strings.HasSuffix(got, "cloakroom.yaml"+want) {
		t.Errorf("got %s, want %s", got, want)
	}
	if s := fmt.Sprintf("%+v %#v", c, c.Apps[0].Token); strings.Contains(s, "MC4CAQ") || strings.Contains(s, key2) {
		t.Errorf("shows a secret: %s", s)
	}
}

func TestExpand(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"plain": key2, "newline": key2 + "\n", "crlf": key2 + "\r\n", "two": key2 + "\n\n", "empty": "", "nested": "${env:K}"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct{ name, id, want, problem string }{
		{"environment", "${env:K}", "value", ""},
		{"in the middle", "a-${env:K}-b-${env:K}", "a-value-b-value", ""},
		{"file", "${file:" + dir + "/plain}", key2, ""},
		{"file with a newline", "${file:" + dir + "/newline}", key2, ""},
		{"file with CRLF", "${file:" + dir + "/crlf}", key2, ""},
		{"file with two newlines", "${file:" + dir + "/two}", "", "must be one line of text without control characters"},
		{"file without anything", "${file:" + dir + "/empty}", "", "is empty"},
		{"not expanded again", "${file:" + dir + "/nested}", "${env:K}", ""},
		{"no file", "${file:" + dir + "/missing}", "", "file " + dir + "/missing can't be read: no such file or directory"},
		{"directory", "${file:" + dir + "}", "", "file " + dir + " is not a regular file"},
		{"relative file", "${file:nowhere/x}", "", "file nowhere/x can't be read: no such file or directory"},
		{"no variable", "${env:MISSING}", "", "the environment variable MISSING is not set"},
		{"empty variable", "${env:EMPTY}", "", "is empty"},
		{"bad name", "${env:a b}", "", "has a ${env:…} without the name of an environment variable"},
		{"shell's way", "${HOME}", "", "writes ${env:NAME} as ${NAME}; a literal ${ is written $${"},
		{"unknown source", "${vault:x}", "", "knows ${env:NAME} and ${file:PATH} only; a literal ${ is written $${"},
		{"unclosed", "${env:K", "", "has a ${ without its }; a literal ${ is written $${"},
		{"literal", "$${env:K}", "${env:K}", ""},
		{"literal after a dollar", "$$${env:K}", "$${env:K}", ""},
		{"dollars", "$ $$ $x", "$ $$ $x", ""},
		{"dollar at the end", "x$", "x$", ""},
		{"structure is safe", "${env:YAML}", "", "must be one line of text without control characters"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c, err := load(t, with(t, "client_id: shop-gateway", "client_id: '"+row.id+"'"), "K", "value", "EMPTY", "", "YAML", "x\nadmin:\n  listen: ':1'")
			want := ""
			if row.problem != "" {
				want = "11: apps[0].provider.client_id: " + row.problem
			}
			if got := strings.Join(problems(t, err), "\n"); got != want {
				t.Fatalf("got %s, want %s", got, want)
			}
			if row.problem == "" && c.Apps[0].Provider.ClientID != row.want {
				t.Errorf("got %q, want %q", c.Apps[0].Provider.ClientID, row.want)
			}
		})
	}
	t.Run("every kind of scalar", func(t *testing.T) {
		c, err := load(t, with(t, "", "drain: {timeout: '${env:T}'}\nlimits: {header_bytes: '${env:N}'}\n"), "T", "7s", "N", "8192")
		if err != nil || c.Drain.Timeout.String() != "7s" || c.Limits.HeaderBytes != 8192 {
			t.Errorf("got %v, %v", c, err)
		}
	})
	t.Run("secret that expands to nothing", func(t *testing.T) {
		_, err := load(t, with(t, "", "admin: {token: '${env:EMPTY}'}\n"), "EMPTY", "")
		if got := strings.Join(problems(t, err), "\n"); got != "17: admin.token: is empty once expanded" {
			t.Errorf("got %s", got)
		}
	})
}

// V-03: secrets that everybody on the machine can read.
func TestExposedSecrets(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask is
			t.Fatal(err)
		}
		return path
	}
	secret := write("secret", aSecret, 0o644)
	write("key", key1, 0o440)
	text := strings.NewReplacer(aSecret, "${file:"+secret+"}", key1, "${file:key}").Replace(minimal)
	for _, row := range []struct {
		name, text string
		mode       os.FileMode
		want       []string
	}{
		{"secret.yaml", text, 0o644, []string{"apps[0].provider.client_secret: is in a file that everybody on this machine can read: chmod o-r " + secret}},
		{"own.yaml", minimal, 0o600, nil},
		{"open.yaml", strings.Replace(minimal, aSecret, "${env:SECRET}", 1), 0o604, []string{"keys[0]: is in a file that everybody on this machine can read: chmod o-r " + filepath.Join(dir, "open.yaml")}},
	} {
		c, err := config.Load(write(row.name, row.text, row.mode), environ("SECRET", aSecret))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, w := range c.Warnings() {
			got = append(got, w.Key+": "+w.Message)
		}
		if !reflect.DeepEqual(got, row.want) {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}

// Neither a Config nor a problem shows what is secret (V-03).
func TestSecretsStayInside(t *testing.T) {
	const secret = "hunter2-hunter2-hunter2"
	c, err := load(t, with(t, aSecret, secret)+"admin: {token: '"+secret+"-admin'}\n")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		fmt.Fprintf(&out, verb+"\n", *c)
		fmt.Fprintf(&out, verb+"\n", c.Apps[0].Provider)
		fmt.Fprintf(&out, verb+"\n", c.Keys)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(b)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "config", c, "secret", c.Admin.Token, "key", c.Keys[0])
	for _, leak := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), key1, fmt.Sprintf("%x", c.Keys[0][:4]), fmt.Sprint(c.Keys[0][:4])} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("shows %q", leak)
		}
	}

	// Each of these puts a secret where something else belongs.
	for _, text := range []string{
		with(t, "", "listen: hunter2\n"),
		with(t, "", "log: {level: hunter2}\n"),
		with(t, "", "drain: {delay: hunter2}\n"),
		with(t, "", "limits: {header_bytes: hunter2}\n"),
		with(t, "", "trusted_proxies: [hunter2]\n"),
		with(t, "", "tls: hunter2\n"),
		with(t, "", "tls: {cert_file: \"hunter2\n"),
		with(t, "", "admin: {token: hunter2, listen: hunter2}\n"),
		with(t, "", "admin: {token: 'x${hunter2'}\n"),
		with(t, "", "admin: {token: 'x${hunter2}'}\n"),
		with(t, aSecret, "*hunter2"),
		with(t, aSecret, "|hunter2"),
		with(t, aSecret, "!!hunter2 x"),
		with(t, aSecret, "'hunter2"),
		with(t, aSecret, "hunter2: x"),
		with(t, aSecret, "${env:SECRET}"),
		with(t, anOrigin, "https://u:hunter2@x"),
		with(t, anIssuer, "https://u:hunter2@x"),
		with(t, "http://api.internal:8080", "http://u:hunter2@x"),
		with(t, key1, "hunter2"),
		with(t, "name: shop", "name: hunter2/"),
		with(t, "mode: relay", "mode: hunter2"),
	} {
		_, err := load(t, text, "SECRET", "hunter2")
		if err == nil {
			t.Errorf("no problem in\n%s", text)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("shows the secret: %v", err)
		}
	}
}

// FuzzLoad: whatever the file holds, Load returns, with a Config or with
// problems that each name the file and say something, on one line.
func FuzzLoad(f *testing.F) {
	f.Add(minimal)
	f.Add("version: 1\napps: [{name: a, routes: [{path: /, files: .}]}]\n")
	f.Add("a: &x [*x]\n? {b: c}\n: - - d\n<<: *x\n")
	f.Add("keys: |\n  ${env:K}\nlisten: \"$${\\x00\"\n---\n!!tag {}\n")
	path := filepath.Join(f.TempDir(), "cloakroom.yaml")
	f.Fuzz(func(t *testing.T, text string) {
		// What a file names could be anything on this machine, such as a device.
		text = strings.ReplaceAll(text, "${file:", "${env:")
		// The fuzzer would only wait for what doesn't return.
		late := time.AfterFunc(5*time.Second, func() { panic(fmt.Sprintf("hangs on %q", text)) })
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(path, environ("K", "v"))
		late.Stop()
		if (c == nil) == (err == nil) {
			t.Fatalf("got %v and %v", c, err)
		}
		if err == nil {
			if len(c.Apps) == 0 || len(c.Keys) == 0 || len(c.Redis.Addresses) == 0 {
				t.Errorf("loaded without what is required: %+v", c)
			}
			return
		}
		if len(problems(t, err)) == 0 {
			t.Error("an error without a problem")
		}
		for line := range strings.Lines(err.Error()) {
			if !strings.Contains(line, "cloakroom.yaml:") {
				t.Errorf("a line without the file: %q", line)
			}
		}
	})
}
