package config_test

import (
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/config"
)

const askSecret = "kT9vXw2LqZ7rB4nM6yHd"

func TestForwardAuth(t *testing.T) {
	const proxies = "trusted_proxies: [10.0.0.0/8]\n"
	const secret = "    forward_auth: {secret: " + askSecret + "}\n"
	for _, row := range []struct{ name, route, app, top, want string }{
		{"as it should be", `{path: /wiki, forward_auth: true, kind: page, token: none, headers: {X-User: sub}}`, secret, proxies, ""},
		{"open to all", `{path: /wiki, forward_auth: true, auth: none}`, secret, proxies, ""},
		{"by methods and claims", `{path: /wiki, forward_auth: true, methods: [GET], require: {roles: [admin]}}`, secret, proxies, ""},
		{"no secret", `{path: /wiki, forward_auth: true}`, "", proxies, "has one with forward_auth: that needs forward_auth.secret beside the routes"},
		{"nobody is trusted", `{path: /wiki, forward_auth: true}`, secret, "", "has no effect without trusted_proxies, which alone may show it"},
		{"nothing to ask about", aRoute, secret, proxies, "has no effect without a route with forward_auth"},
		{"V-03 short", `{path: /wiki, forward_auth: true}`, "    forward_auth: {secret: kT9vXw2L}\n", proxies, "is too short: at least 16 characters"},
		{"V-03 a sample", `{path: /wiki, forward_auth: true}`, "    forward_auth: {secret: change-me-change-me}\n", proxies, "is a sample value: use a random one"},
		{"V-03 the client's", `{path: /wiki, forward_auth: true}`, "    forward_auth: {secret: " + aSecret + "}\n", proxies, "is the same secret as apps[0].forward_auth.secret: every purpose needs its own"},
		{"a space in it", `{path: /wiki, forward_auth: true}`, "    forward_auth: {secret: 'kT9vXw2L qZ7rB4nM6yHd'}\n", proxies, "must be visible ASCII without spaces: it stands in a header"},
		{"false", `{path: /wiki, forward_auth: false}`, "", proxies, "must be true, or left out"},
		{"beside an upstream", `{path: /wiki, forward_auth: true, upstream: "http://a"}`, secret, proxies, "can't stand beside upstream: a route leads to one of them"},
		{"a timeout", `{path: /wiki, forward_auth: true, timeout: 5s}`, secret, proxies, "is for requests that pass through here"},
		{"a size", `{path: /wiki, forward_auth: true, max_body: 1MiB}`, secret, proxies, "is for requests that pass through here"},
		{"a prefix", `{path: /wiki, forward_auth: true, strip_prefix: /wiki}`, secret, proxies, "is for requests that pass through here"},
		{"a token of nobody's", `{path: /wiki, forward_auth: true, auth: none, token: session}`, secret, proxies, "must be none where auth is none"},
	} {
		t.Run(row.name, func(t *testing.T) {
			text := strings.Replace(with(t, aRoute, row.route), aToken, row.app+aToken, 1) + row.top
			c, err := load(t, text)
			var got []string
			for _, p := range problems(t, err) {
				got = append(got, p[strings.Index(p, ": ")+2:])
			}
			switch {
			case row.want == "" && err != nil:
				t.Fatalf("got %q, want no problem", got)
			case row.want != "":
				if len(got) != 1 || !strings.HasSuffix(got[0], ": "+row.want) {
					t.Errorf("got %q, want %q alone", got, row.want)
				}
				return
			}
			r := c.Apps[0].Routes[0]
			if !r.ForwardAuth || r.Upstream != nil || r.Timeout != 0 || c.Apps[0].ForwardAuth != config.Secret(askSecret) {
				t.Errorf("%+v", r)
			}
			if strings.Contains(c.Apps[0].ForwardAuth.String(), askSecret) {
				t.Error("the secret prints")
			}
		})
	}
	c, err := load(t, strings.Replace(with(t, aRoute, `{path: /wiki, forward_auth: true}`), aToken, secret+aToken, 1)+proxies)
	if err != nil {
		t.Fatal(err)
	}
	if r := c.Apps[0].Routes[0]; r.Kind != "api" || r.Auth != "required" || r.Token != "session" || len(r.Accept) != 1 || r.Accept[0] != "cookie" {
		t.Errorf("defaults: %+v", r)
	}
}
