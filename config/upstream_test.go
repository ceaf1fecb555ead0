package config_test

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"encoding/pem"

	"github.com/cloakroom/cloakroom/config"
)

// routes loads minimal with these routes in place of its own.
func routes(t *testing.T, lines ...string) []config.Route {
	t.Helper()
	c, err := load(t, strings.Replace(minimal, "- "+aRoute, "- "+strings.Join(lines, "\n      - "), 1))
	if err != nil {
		t.Fatal(err)
	}
	return c.Apps[0].Routes
}

func TestUpstream(t *testing.T) {
	r := routes(t,
		`{path: /, upstream: "http://a:1/base"}`,
		`{path: /b, upstream: ["http://A:1/", "http://b:2"], max_header: 8KiB, max_body: 10MiB, max_concurrent: 64, deadline: 10s, headers: {X-User: sub, X-Roles: "https://x/roles"}, connection: {protocol: h2c, max: 7, max_idle: 8, dial_timeout: 1s, idle_timeout: 4s}}`,
		`{path: /c, upstream: ["http://b:2/x", "http://a:1/x"], deadline: 1h, timeout: 2m, connection: {protocol: h2c, max: 7, max_idle: 8, dial_timeout: 1s, idle_timeout: 4s}}`,
		`{path: /d, upstream: "http://a:1/other"}`,
		`{path: /e, upstream: "https://a:1", connection: {tls: {server_name: inside.test}}}`,
		`{path: /f, upstream: "https://a:1", connection: {protocol: http1}}`,
	)
	one := r[0].Upstream
	if fmt.Sprint(one.Targets) != "[http://a:1/base]" || one.Protocol != "auto" || one.MaxConns != 0 || one.MaxIdleConns != 256 ||
		one.DialTimeout != 5*time.Second || one.IdleTimeout != time.Minute || one.TLS != nil {
		t.Errorf("defaults: %+v", *one)
	}
	if r[0].MaxHeader != 0 || r[0].MaxBody != 0 || r[0].MaxConcurrent != 0 || r[0].Deadline != 0 || r[0].Headers != nil {
		t.Errorf("defaults: %+v", r[0])
	}
	many := r[1]
	if fmt.Sprint(many.Upstream.Targets) != "[http://A:1/ http://b:2]" || many.Upstream.Protocol != "h2c" || many.Upstream.MaxConns != 7 ||
		many.Upstream.MaxIdleConns != 8 || many.Upstream.DialTimeout != time.Second || many.Upstream.IdleTimeout != 4*time.Second {
		t.Errorf("all: %+v", *many.Upstream)
	}
	if many.MaxHeader != 8<<10 || many.MaxBody != 10<<20 || many.MaxConcurrent != 64 || many.Deadline != 10*time.Second || many.Timeout != 10*time.Second ||
		!reflect.DeepEqual(many.Headers, []config.Header{{Name: "X-User", Claim: "sub"}, {Name: "X-Roles", Claim: "https://x/roles"}}) {
		t.Errorf("all: %+v", many)
	}
	if r[2].Deadline != time.Hour || r[2].Timeout != 2*time.Minute {
		t.Errorf("deadline and timeout: %+v", r[2])
	}
	for i, row := range []struct {
		a, b int
		same bool
	}{{0, 3, true}, {1, 2, true}, {0, 1, false}, {4, 5, false}, {0, 4, false}} {
		if (r[row.a].Upstream.Pool() == r[row.b].Upstream.Pool()) != row.same {
			t.Errorf("row %d: sharing connections is %v", i, !row.same)
		}
	}
	if got := r[4].Upstream.TLS; got == nil || got.ServerName != "inside.test" || got.RootCAs != nil || got.InsecureSkipVerify {
		t.Errorf("tls: %+v", got)
	}
}

func TestUpstreamCertificates(t *testing.T) {
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	r := routes(t, fmt.Sprintf(`{path: /, upstream: "https://a:1", connection: {tls: {ca_file: %q}}}`, ca), `{path: /b, upstream: "https://a:1"}`)
	if r[0].Upstream.TLS.RootCAs == nil {
		t.Error("the CA was not read")
	}
	if r[0].Upstream.Pool() == r[1].Upstream.Pool() {
		t.Error("connections made by one CA are used where another is asked for")
	}
}

// One problem each, or none.
func TestRouteSettings(t *testing.T) {
	const a = `path: /, upstream: "http://a"`
	for _, row := range []struct{ name, route, want string }{
		{"no address", `path: /, upstream: []`, "upstream: is empty"},
		{"an address twice", `path: /, upstream: ["http://a", "http://A:80"]`, "upstream[1]: is in the list twice"},
		{"two schemes", `path: /, upstream: ["http://a", "https://b"]`, "upstream[1]: must have the scheme and the path of the first"},
		{"two paths", `path: /, upstream: ["http://a/x", "http://b/y"]`, "upstream[1]: must have the scheme and the path of the first"},
		{"a slash more", `path: /, upstream: ["http://a/", "http://b"]`, ""},
		{"an address that is none", `path: /, upstream: ["http://a", "b:80"]`, "upstream[1]: must be an http or https URL"},
		{"a mapping", `path: /, upstream: {url: "http://a"}`, "upstream: must be a single value"},
		{"protocol", a + `, connection: {protocol: http3}`, "connection.protocol: must be auto or http1 or h2c"},
		{"h2c over TLS", `path: /, upstream: "https://a", connection: {protocol: h2c}`, "connection.protocol: can't be h2c over https: auto agrees on HTTP/2 there"},
		{"TLS without https", a + `, connection: {tls: {server_name: b}}`, "connection.tls: is for an https upstream"},
		{"verification can't be skipped", `path: /, upstream: "https://a", connection: {tls: {insecure_skip_verify: true}}`, "connection.tls.insecure_skip_verify: is unknown"},
		{"a key without its certificate", `path: /, upstream: "https://a", connection: {tls: {key_file: k.pem}}`, "connection.tls.key_file: needs a cert_file beside it"},
		{"a CA that isn't there", `path: /, upstream: "https://a", connection: {tls: {ca_file: /nowhere/ca.pem}}`, "connection.tls.ca_file: can't be read: no such file or directory"},
		{"a name that is none", `path: /, upstream: "https://a", connection: {tls: {server_name: "*.a"}}`, "connection.tls.server_name: must be a host name in lower case, or an address"},
		{"connections", a + `, connection: {max: -1}`, "connection.max: must be a whole number in decimal digits"},
		{"no time to dial", a + `, connection: {dial_timeout: 0s}`, "connection.dial_timeout: must be at least 10ms"},
		{"connection of files", `path: /, files: /, connection: {max: 1}`, "connection: is for an upstream"},
		{"deadline of files", `path: /, files: /, deadline: 1m`, "deadline: is for an upstream; files have none"},
		{"deadline before the timeout", a + `, timeout: 1m, deadline: 30s`, "deadline: must not be shorter than timeout"},
		{"nobody at once", a + `, max_concurrent: 0`, "max_concurrent: must be from 1 to 1000000"},
		{"body in words", a + `, max_body: 10MB`, "max_body: must be a number of bytes such as 65536, 512KiB, 10MiB or 1GiB"},
		{"a header of no use", a + `, max_header: 512`, "max_header: must be from 1024 to 1048576 bytes"},
		{"no body", a + `, max_body: 0`, "max_body: must be from 1 to 1099511627776 bytes"},
		{"V-05 a body that overflows", a + `, max_body: 9999999999999GiB`, "max_body: must be from 1 to 1099511627776 bytes"},
		{"body to files", `path: /, files: /, max_body: 1KiB`, ""},
		{"headers", a + `, headers: {X-User: sub}`, ""},
		{"no headers", a + `, headers: {}`, "headers: is empty: leave the key out to add none"},
		{"headers of nobody", a + `, auth: none, headers: {X-User: sub}`, "headers: needs auth: required or optional"},
		{"headers of files", `path: /, files: /, headers: {X-User: sub}`, "headers: is for an upstream"},
		{"a claim that is none", a + `, headers: {X-User: ""}`, "headers.X-User: is empty"},
		{"G-02 alias", a + `, headers: {X_User: sub}`, "headers.X_User: is no name of a header here: at most 40 letters, digits and hyphens"},
		{"twice, in another case", a + `, headers: {X-User: sub, x-user: name}`, "headers.x-user: is given twice: the case of a header's name makes no difference"},
		{"Authorization", a + `, headers: {Authorization: sub}`, "headers.Authorization: is a header that can't be made from a claim"},
		{"cookies", a + `, headers: {cookie: sub}`, "headers.cookie: is a header that can't be made from a claim"},
		{"Content-Length", a + `, headers: {Content-Length: sub}`, "headers.Content-Length: is a header that can't be made from a claim"},
		{"X-Forwarded-For", a + `, headers: {X-Forwarded-For: sub}`, "headers.X-Forwarded-For: is a header that can't be made from a claim"},
		{"X-Forwarded-User", a + `, headers: {X-Forwarded-User: sub}`, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := load(t, strings.Replace(minimal, aRoute, "{"+row.route+"}", 1))
			got, want := strings.Join(problems(t, err), "\n"), ""
			if row.want != "" {
				want = "16: apps[0].routes[0]." + row.want
			}
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestTracingAndHSTS(t *testing.T) {
	c, err := load(t, minimal+"tracing: {otlp_endpoint: \"http://otel:4318\", sample_ratio: 0.25}\nlog: {access: true}\n")
	if err != nil {
		t.Fatal(err)
	}
	if c.Tracing.Endpoint.String() != "http://otel:4318/v1/traces" || c.Tracing.SampleRatio != 0.25 || !c.Log.Access {
		t.Errorf("%+v %+v", c.Tracing, c.Log)
	}
	if got := c.Apps[0].HSTS; got != (config.HSTS{MaxAge: 365 * 24 * time.Hour}) {
		t.Errorf("HSTS: %+v", got)
	}
	for _, row := range []struct{ name, old, new, want string }{
		{"elsewhere", "", "tracing: {otlp_endpoint: \"https://otel/x/v1/traces\"}\n", ""},
		{"off", "", "tracing: {otlp_endpoint: \"\"}\n", ""},
		{"a ratio of nothing", "", "tracing: {sample_ratio: 1}\n", "17: tracing.sample_ratio: has no effect without otlp_endpoint"},
		{"a ratio above all", "", "tracing: {otlp_endpoint: \"http://o\", sample_ratio: 1.5}\n", "17: tracing.sample_ratio: must be a number from 0 to 1 such as 0.05"},
		{"gRPC's spelling", "", "tracing: {otlp_endpoint: \"otel:4317\"}\n", "17: tracing.otlp_endpoint: must be an http or https URL"},
		{"a password", "", "tracing: {otlp_endpoint: \"http://u:p@o\"}\n", "17: tracing.otlp_endpoint: must hold no user and no password"},
		{"HSTS off", anOrigin, anOrigin + "\n    hsts: {max_age: 0s}", ""},
		{"HSTS for all below", anOrigin, anOrigin + "\n    hsts: {include_subdomains: true}", ""},
		{"HSTS for ever", anOrigin, anOrigin + "\n    hsts: {max_age: 20000h}", "9: apps[0].hsts.max_age: must be at most 17568h"},
		{"HSTS over http", anOrigin, "http://localhost:8080\n    hsts: {max_age: 1h}", "9: apps[0].hsts: is for an https origin: browsers ignore it over http"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := load(t, with(t, row.old, row.new))
			if got := strings.Join(problems(t, err), "\n"); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}
