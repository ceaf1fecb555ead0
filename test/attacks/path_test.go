package attacks

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// H: a path that two parties could read in two ways is 400 with a problem, before
// Redis and the upstream are asked; whatever else is forwarded means to every
// decoder what it meant to the gateway (GO4).
func TestH(t *testing.T) {
	t.Parallel()
	a := newArena(t, setup{secure: true, routes: filesRoutes(t)})
	fileRows(a)

	// 400, for anybody, with or without a cookie.
	for _, section := range []struct {
		id      string
		targets []string
	}{
		{"H-01_encoded_slash", []string{
			"/app%2fadmin/x", "/app%2Fadmin%2Fx", "/public/..%2fapp/admin/x", "/public%2f..%2fapp/admin/x", "/app/admin%2Fx",
			"/%2fapp/admin/x", "/%2Fapp/admin", "/public/%2f../app/admin", "/public/x%2F%2E%2E%2F%2E%2E%2Fapp/admin", "%2fapp/admin", "/public/a%2fb",
		}},
		{"H-02_dot_segments", []string{
			"/public/../app/admin/x", "/public/./../app/admin", "/public/%2e%2e/app/admin/x", "/public/.%2e/app/admin", "/public/%2E./app/admin",
			"/public/%2e%2e%2fapp", "/app/./admin", "/..", "/public/..;/app/admin", "/.", "/public/..", "/public/.", "/public/%2e", "/public/x/../../app/admin/x",
			"/public/.../app", "/public/..%20/app/admin", "/public/.%20./app/admin", "/public/ ./app", "/app/admin/.", "/public/%2e%2e/", "/public/..%c2%a0/app",
		}},
		{"H-03_strip_prefix_then_normalise", []string{
			"/svc-a/../svc-b/secret", "/svc-a/%2e%2e/svc-b/secret", "/svc-a//../svc-b/secret", "/svc-a..%2fsvc-b/secret", "/svc-a/..%2f..%2fu2/secret",
			"/svc-a/../u2/secret", "/svc-a/%2e%2e/u2/secret", "/svc-a//u2/secret", "/svc-a/./../u2", "/svc-a/..\\u2", "/svc-a/..;/u2/secret",
		}},
		{"H-04_double_encoding", []string{
			"/app/%2561dmin", "/public/%252e%252e/app", "/app%252fadmin", "/public/%25%32%65%25%32%65/app", "/public/%252e%252e%252fapp%252fadmin",
			"/public/%255c..%255capp", "/%2561pp/admin", "/public/%25252e%25252e/app/admin", "/public/x%2500", "/public/%u002e%u002e/app", "/public/%25u002e",
		}},
		{"H-05_doubled_slash", []string{
			"//app/admin/x", "/app//admin/x", "/public//../app/admin", "///app", "//", "/public//", "//evil.test/app", "/app///admin", "/public/x//y", "////public/x",
		}},
		{"H-06_backslash", []string{
			`/app\admin\x`, "/app%5cadmin%5cx", `/public/..\app\admin`, "/app/%5c../", `/\app/admin`, `\app\admin`, "/public/%5C..%5Capp", `/public\..\app`,
			"/public/..%5capp/admin", `/public/.\../app`,
		}},
		{"H-07_path_params", []string{
			"/app;x=1/admin/x", "/app/admin;/x", "/public/;/../app/admin", "/app/admin/x;.js", "/app/admin%3b", "/public;/app/admin", "/public/..;x=1/app",
			"/;/app/admin", "/public/x%3B.css", "/app;jsessionid=1", "/public/%3b/../app", "/;x=/../app/admin", "/public/;",
		}},
		{"H-08_fragment", []string{
			"/public/x#/../app/admin", "/app/admin%23/public", "/app/admin#public", "/public#", "#/app/admin", "/public?x#y", "/app#/public/x", "/public/%23/../app",
		}},
		{"H-09_query_as_path", []string{
			"/app/admin%3f/public/", "/app%3F/public", "/public/x%3f/../app/admin", "/public%3f", "?/app/admin", "/public/%3F.css",
		}},
		{"H-10_controls_and_bad_escapes", []string{
			"/app/admin%00", "/public/%00/../app/admin", "/public/%01", "/public/%7f", "/public/%", "/public/%zz", "/public/%u0061", "/public/%0d%0aX:y", "/public/%0a",
			"/public/%09", "/public/%1f", "/public/%8", "/public/%g0", "/public/x%", "/public/%c2%80", "/app/admin%00.css", "/public/%2", "/%00", "/public%00/",
			"/public/%c2%85", "/public/x%0d", "/public/%%32%65",
		}},
		{"H-12_unicode", []string{
			"/public/%c0%af..%c0%afapp", "/app%ef%bc%8fadmin", "/public/%ef%bc%8e%ef%bc%8e/app", "/public/%c0%ae%c0%ae/app", "/public/%e0%80%af", "/public/%f0%80%80%af",
			"/public/%ef%bc%bcapp", "/app%e2%88%95admin", "/public/%e2%80%a5/app", "/public/%ff", "/public/%ed%a0%80", "/public/%80", "/public/\xc0\xaf", "/public/\xff",
			"/app／admin", "/public/．．/app", "/public/%f8%80%80%80%af", "/public/%fe", "/public/%ef%bc%85%32%65",
		}},
	} {
		a.row(section.id, func(c *row) {
			for _, target := range section.targets {
				for _, cookie := range []string{"", a.cookie("alice") + fetched} {
					x := c.send(get(target, cookie))
					if _, err := url.ParseRequestURI(target); err != nil || strings.ContainsAny(target, " \t") {
						// No request to the HTTP server, which says so itself.
						c.want(x, http.StatusBadRequest, "")
					} else {
						c.want(x, http.StatusBadRequest, "invalid_request")
					}
				}
				if r := c.http2(fields("GET", target)); r != nil && r.Status != http.StatusBadRequest {
					c.Errorf("HTTP/2 %q: %d", target, r.Status)
				}
			}
			c.untouched()
		})
	}

	// One reading each: GO4 holds them against all decoders. The status is that of
	// somebody without a session.
	for _, section := range []struct {
		id      string
		targets map[string]int
	}{
		{"H-01_one_reading", map[string]int{"/%61pp/admin/x": 401, "/app/%61dmin/x": 401, "/%70ublic/x": 200, "/publi%63": 200}},
		{"H-03_segment_edge", map[string]int{
			"/svc-ax": 200, "/svc-ax/u2/secret": 200, "/svc-a": 200, "/svc-a/": 200, "/svc-a/u2/secret": 200, "/svc-b": 401, "/svc-b/": 401, "/svc-b/x": 401,
			"/svc%2da/x": 200, "/svc-%62/secret": 401, "/appx": 200, "/app.": 200, "/app-admin": 200, "/u1/x": 200, "/svc-a/app/admin": 200,
		}},
		{"H-04_single_decode", map[string]int{"/%61%70%70/%61%64%6d%69%6e": 401, "/public/100%25": 200, "/public/%25": 200, "/public/a%20b": 200}},
		{"H-09_query", map[string]int{
			"/app/admin?x=/public/y": 401, "/public/y?x=/app/admin": 200, "/app?/public/": 401, "/public?/../app/admin": 200, "/public?%2e%2e%2fapp": 200, "/app/admin?": 401,
			"/public?x=a;b&c=%zz&d=%": 200, "/public/?a?b?c": 200,
		}},
		{"H-12_opaque", map[string]int{"/public/%c4%b1%e2%84%aa": 200, "/public/e%cc%81": 200, "/public/%c3%a9": 200, "/%ef%bd%81pp/admin": 200, "/a%cc%88pp/admin": 200, "/public/%f0%9f%98%80": 200}},
		{"H-13_suffix", map[string]int{
			"/app/admin/x.css": 401, "/app/admin/x/": 401, "/app/admin/x%20": 401, "/app/admin/x~": 401, "/app/admin/x.json": 401, "/app/admin.css": 401, "/app/favicon.ico": 401,
			"/app/admin/x,y": 401, "/app/admin/x:y": 401, "/app/admin/x@public": 401, "/app/admin%20": 401, "/app/admin/%5F": 401, "/app/robots.txt": 401, "/app/.well-known/x": 401,
			"/app/admin/x.js.map": 401, "/app/static/x.png": 401,
		}},
	} {
		a.row(section.id, func(c *row) {
			for target, status := range section.targets {
				c.want(c.send(get(target, fetched)), status, "")
				if r := c.http2(fields("GET", target, fetchedFields...)); r.status() != status {
					c.Errorf("HTTP/2 %q: %d, want %d", target, r.status(), status)
				}
			}
		})
	}

	// The same spellings with a session that lacks the role: 403, never 200.
	a.row("H-13_role", func(c *row) {
		for _, target := range []string{"/app/admin", "/app/admin/", "/app/%61dmin", "/app/admin/x.css", "/app/admin?x=/app/", "/app/admi%6E/x", "/%61pp/%61dmin/x"} {
			c.want(c.send(get(target, fetched, a.cookie("bob"))), http.StatusForbidden, "access_denied")
			c.want(c.send(get(target, fetched, a.cookie("alice"))), http.StatusOK, "")
		}
		for _, target := range []string{"/app/Admin", "/app/ADMIN/x"} {
			// Another path to a server that minds case. Those that don't (Windows) need a
			// route of that spelling, too: see docs/attacks.md.
			c.want(c.send(get(target, fetched)), http.StatusUnauthorized, "login_required")
		}
	})

	// Paths of the gateway's own, in every spelling, are its own and no route's.
	a.row("H-02_own_paths", func(c *row) {
		for target, status := range map[string]int{
			"/bff": 404, "/bff/": 404, "/%62ff/token": 403, "/bff/%74oken": 403, "/bff/token/": 404, "/bff/nothing": 404, "/bff/login/x": 404, "/bff/auth": 404, "/bff/dbsc/x": 404,
			"/bff%2ftoken": 400, "/bff/../public": 400, "/bff//token": 400, "/bff;/token": 400, `/bff\token`: 400, "/public/%2e%2e/bff/token": 400, "/bff/./token": 400, "/bff/token%00": 400,
			"/bffx": 200, "/BFF/token": 200, // a route's, since paths mind case
		} {
			c.want(c.send(get(target)), status, "")
		}
		for _, r := range c.arrived() {
			for decoder, got := range c.decoders.read(r) {
				if decoder != "windows" && within(got.Path, []string{"/bff"}) {
					c.Errorf("%s reads %q as %q", decoder, r.target, got.Path)
				}
			}
		}
	})

	// A generated table: every way to write one character of a protected path.
	a.row("H-04_generated", func(c *row) {
		for _, path := range []string{"/app/admin/x", "/svc-b/secret", "/page/x"} {
			for i := 1; i < len(path); i++ {
				for _, spelling := range []string{"%%%02x", "%%%02X", "%%25%02x", "%%u00%02x", "%%%%%02x"} {
					target := path[:i] + fmt.Sprintf(spelling, path[i]) + path[i+1:]
					x := c.send(get(target, fetched))
					if s := x.status(); s != http.StatusBadRequest && s != http.StatusUnauthorized {
						c.Errorf("%q: %v", target, x)
					}
				}
			}
			for i := 1; i <= len(path); i++ {
				for _, junk := range []string{"/", "//", "/.", "/..", ";", "%2f", "%5c", "\\", "%00", "%0a", "#", "?", "%23", "%3f", "%2e", "%", ".", "%20", "/./", "/../", ";/", "%3b/", "\x80", "／", "%ef%bc%8f"} {
					// GO4 judges: some are another, unprotected path to everybody.
					c.send(get(path[:i]+junk+path[i:], fetched))
				}
			}
		}
	})
}
