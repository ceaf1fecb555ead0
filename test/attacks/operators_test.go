package attacks

import (
	"net/http"
	"strings"
	"testing"
)

// U: the operators' listener, and that there is nothing of it on the public one.
func TestU(t *testing.T) {
	t.Parallel()
	a := newArena(t, setup{})
	admin := func(c *row, text string) *exchanged { return c.sendTo(c.g.Admin, nil, text) }
	ask := func(method, target, host string, lines ...string) string {
		return method + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n" + strings.Join(lines, "") + "\r\n"
	}
	const bearer = "Authorization: Bearer " + adminToken + "\r\n"
	shows := func(x *exchanged) bool {
		return strings.Contains(string(x.got), `"sessions"`) || strings.Contains(string(x.got), `"ended"`)
	}

	a.row("U-20_no_token", func(c *row) {
		for _, target := range []string{
			"/admin/sessions?sub=sub-alice", "//admin/sessions?sub=sub-alice", "/admin//sessions?sub=sub-alice", "/admin/./sessions?sub=sub-alice", "/x/../admin/sessions?sub=sub-alice", "/admin%2fsessions?sub=sub-alice", "/%61dmin/sessions?sub=sub-alice",
			"/ADMIN/sessions?sub=sub-alice", "/admin/sessions/?sub=sub-alice", "/admin/sessions;x?sub=sub-alice", "/metrics/../admin/sessions?sub=sub-alice", "/healthz/..%2fadmin/sessions?sub=sub-alice", "http://" + c.g.Admin + "/admin/sessions?sub=sub-alice", "/admin/sessions%00?sub=sub-alice",
		} {
			for _, lines := range []string{
				"", "Authorization: Bearer\r\n", "Authorization: Bearer x\r\n", "Authorization: Basic " + adminToken + "\r\n", "Authorization: " + adminToken + "\r\n", bearer + bearer, "Authorization: Bearer " + adminToken + "x\r\n", "Authorization: Bearer " + adminToken[:len(adminToken)-1] + "\r\n",
				"Authorization: Bearer  " + adminToken + "\r\n", "X-Authorization: Bearer " + adminToken + "\r\n", "Cookie: token=" + adminToken + "\r\n", "X-Forwarded-For: 127.0.0.1\r\n", "X-Original-URL: /healthz\r\n", "Authorization: Bearer " + adminToken + ", Bearer " + adminToken + "\r\n",
			} {
				if x := admin(c, ask("GET", target, c.g.Admin, lines)); shows(x) || x.finals() > 1 {
					c.Errorf("%s with %.40q: %v", target, lines, x)
				}
			}
		}
		if x := admin(c, ask("GET", "/admin/sessions?sub=sub-alice", c.g.Admin, bearer)); x.status() != http.StatusOK || !shows(x) {
			c.Errorf("with the token: %v", x)
		}
	})
	a.row("U-21_foreign_pages", func(c *row) {
		body := `{"sub":"sub-nobody","app":"shop"}`
		end := func(host string, lines ...string) *exchanged {
			return admin(c, ask("POST", "/admin/sessions/end", host, append(lines, bearer, "Content-Length: 33\r\n")...)+body)
		}
		const json = "Content-Type: application/json\r\n"
		for _, host := range []string{"evil.test", "localhost.evil.test", "127.0.0.1.evil.test", "evil.test:9090", "127.0.0.1@evil.test", "localhost.", "LOCALHOST.evil.test", "[::1].evil.test", "0.0.0.0", "2130706433", "0x7f.1", ""} {
			if x := end(host, json); shows(x) {
				c.Errorf("Host %q: %v", host, x)
			}
		}
		for _, lines := range []string{
			json + "Origin: https://evil.test\r\n", json + "Origin: null\r\n", json + "Sec-Fetch-Site: cross-site\r\n", json + "Sec-Fetch-Site: same-site\r\n", json + "Origin:\r\n", json + "Origin: http://" + c.g.Admin + "\r\nOrigin: https://evil.test\r\n", json + "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site\r\n",
			"", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n", "Content-Type: text/plain; application/json\r\n", json + json, json + "Origin: http://localhost:1\r\n",
		} {
			if x := end(c.g.Admin, lines); shows(x) {
				c.Errorf("%q: %v", lines, x)
			}
		}
		for _, method := range []string{"GET", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "post"} {
			x := admin(c, ask(method, "/admin/sessions/end", c.g.Admin, bearer, json, "Content-Length: 33\r\n")+body)
			if shows(x) || x.final() != nil && x.final().Header.Get("Access-Control-Allow-Origin") != "" {
				c.Errorf("%s: %v", method, x)
			}
		}
		if x := end(c.g.Admin, json); x.status() != http.StatusOK {
			c.Errorf("from nobody's page: %v", x)
		}
	})
	a.row("U-22_not_public", func(c *row) {
		for _, target := range []string{"/admin/sessions?sub=sub-alice", "/admin", "/metrics", "/healthz", "/readyz", "/debug/pprof/", "/debug/vars", "/%61dmin/sessions", "/admin/sessions/end", "/bff/metrics", "/bff/healthz", "/bff/admin/sessions", "/bff/debug/pprof", "/bff/status/"} {
			for _, host := range []string{"app.test", c.g.Admin, "localhost"} {
				x := c.send(ask("GET", target, host, bearer))
				if shows(x) || strings.Contains(string(x.got), "go_goroutines") || strings.Contains(string(x.got), "ready\n") {
					c.Errorf("%s: %v", target, x)
				}
			}
		}
		for _, r := range c.arrived() { // the app's own paths of these names are the upstream's
			if len(r.values("Authorization")) > 0 {
				c.Errorf("the upstream got the operators' token: %q", r.head)
			}
		}
	})
}
