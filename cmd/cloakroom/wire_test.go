package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/config"
	"github.com/cloakroom/cloakroom/gateway/mint"
	"github.com/cloakroom/cloakroom/session"
)

// What the config package lets through, however odd, can be served: problems
// are told with their key and line, or not at all.
func TestWhatLoadsCanBeServed(t *testing.T) {
	const fine = `version: 1
redis: {addresses: ["127.0.0.1:1"]}
keys: [KEY]
apps:
  - name: shop
    origin: ORIGIN
    provider:
      issuer: ISSUER
      client_id: shop
      client_secret: dGhpcyBpcyByYW5kb20h
    token: {mode: relay}
    routes: [ROUTES]
`
	for _, row := range []struct{ name, old, new string }{
		{"plain", "", ""},
		{"origin with a port", "ORIGIN", "https://shop.test:8443"},
		{"origin with an address", "ORIGIN", `"https://[2001:db8::1]:8443"`},
		{"origin on this machine", "ORIGIN", "http://127.0.0.1:8080"},
		{"issuer with a path and a slash", "ISSUER", "https://id.test/realms/x/"},
		{"issuer on this machine", "ISSUER", "http://127.9.9.9:1/x"},
		{"issuer on this machine, IPv6", "ISSUER", `"http://[::1]:1"`},
		{"issuer on this machine, mapped", "ISSUER", `"http://[::ffff:127.0.0.1]:1"`},
		{"end_session_endpoint on this machine", "ISSUER", "http://127.0.0.1:1\n      end_session_endpoint: http://localhost:2/end?x=y"},
		{"authorization_params", "ISSUER", "https://id.test\n      authorization_params: {max_age: 300, audience: x, 'a.b-c:d': ''}"},
		{"max_age, as large as it gets", "ISSUER", "https://id.test\n      authorization_params: {max_age: 999999999}"},
		{"post", "ISSUER", "https://id.test\n      client_auth: client_secret_post"},
		{"routes of one path", "ROUTES", `{path: /api/, upstream: "http://a", methods: [GET]}, {path: /api, upstream: "http://b", methods: [POST]}`},
		{"routes of odd characters", "ROUTES", `{path: "/a~b!$&'()+,=:@-._/", upstream: "http://a/~b!$&'()+,=:@/"}`},
		{"routes below one another", "ROUTES", `{path: /, upstream: "http://a"}, {path: /a, upstream: "http://a"}, {path: /a/b/, upstream: "http://a", strip_prefix: /a/b}`},
		{"upstreams", "ROUTES", `{path: /, upstream: "http://my_api:80/"}, {path: /a, upstream: "https://[::1]"}, {path: /b, upstream: "HTTPS://API.test/b"}`},
		{"files", "ROUTES", `{path: /x, files: ".", strip_prefix: /x}, {path: /, files: "/", auth: required, kind: api}`},
		{"development servers", "ROUTES", `{path: /, dev_server: "http://LOCALHOST:80/"}, {path: /a, dev_server: "http://[::1]", auth: optional, strip_prefix: /a}, {path: /b, dev_server: "http://web_1:5173", auth: required, require: {roles: [dev]}}`},
		{"bearers", "token: {mode: relay}\n    routes: [ROUTES]", `token: {mode: relay, audience: [api]}
    routes: [{path: /, upstream: "http://a", accept: [bearer], auth: optional, token: none}, {path: /b, upstream: "http://a", accept: [cookie, bearer], require: {roles: [a, b]}}]`},
		{"minted, all of it", "token: {mode: relay}\n    routes: [ROUTES]", `token: {mode: mint, audience: [a, "b c"], lifetime: 5s, signing_keys: ["ES256", "EdDSA", "RS256"], pairwise_key: KEY, claims: [roles, acr, https://x.test/y]}
    session: {remember: 9600h, absolute_timeout: 8784h, idle_timeout: 8784h, binding: split_key, max_per_user: 1, revalidate: 5s, clear_site_data: [cache]}
    routes: [{path: /, upstream: "http://a", accept: [bearer]}]`},
		{"minted, as little as possible", "token: {mode: relay}", `token: {mode: mint, audience: [a], signing_keys: ["ES256"], subject: provider, lifetime: 1h}`},
		{"passwords, without tokens", "issuer: ISSUER", "issuer: ISSUER\n      password_login: true"},
		{"relative end", "ROUTES", `{path: /a.b/..c/d.., upstream: "http://a/.x/..y"}`},
	} {
		t.Run(row.name, func(t *testing.T) {
			text := fine
			if row.old != "" {
				text = strings.Replace(text, row.old, row.new, 1)
			}
			text = strings.Replace(text, "pairwise_key: KEY", "pairwise_key: "+session.NewServerKey().Encode(), 1)
			text = strings.NewReplacer("KEY", session.NewServerKey().Encode(), "ORIGIN", "https://shop.test", "ISSUER", "https://id.test", "ROUTES", "").Replace(text)
			for _, alg := range []string{mint.ES256, mint.EdDSA, mint.RS256} {
				for strings.Contains(text, `"`+alg+`"`) {
					pem, err := mint.NewSigningKeyPEM(alg)
					if err != nil {
						t.Fatal(err)
					}
					text = strings.Replace(text, `"`+alg+`"`, strconv.Quote(string(pem)), 1)
				}
			}
			file := filepath.Join(t.TempDir(), "cloakroom.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, err := config.Load(file, os.LookupEnv)
			if err != nil {
				t.Fatal(err)
			}
			s, err := wire(cfg, slog.New(slog.DiscardHandler), nil)
			if err != nil {
				t.Fatal(err)
			}
			s.close()
		})
	}
}
