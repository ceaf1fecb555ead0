package attacks

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/test/rig"
)

// C: a cookie that somebody else has planted makes nobody somebody else.
func TestC(t *testing.T) {
	t.Parallel()
	a := newArena(t, setup{secure: true})
	value := func(name string) string { return a.user(name).Cookie() }
	set := func(pairs ...string) string { return "Cookie: " + strings.Join(pairs, "; ") + "\r\n" }
	ours := func(v string) string { return rig.SessionCookie + "=" + v }

	a.row("C-01_fixation", func(c *row) {
		planted := value("bob")
		b := c.w.NewBrowser()
		b.SetCookie(planted)
		b.Login("carol")
		if b.Cookie() == planted {
			c.Error("the login kept the cookie that was there")
		}
		// The planted session was the one that the login replaced: dead by now.
		c.users["bob"] = nil
		x := c.send(get("/app/x", fetched, set(ours(planted))))
		c.want(x, http.StatusUnauthorized, "login_required")
		c.user("bob")
		for _, junk := range []string{"fixed", "AAAA", strings.Repeat("A", 192), value("alice")[:100]} {
			b := c.w.NewBrowser()
			b.SetCookie(junk)
			b.Login("carol")
			if b.Cookie() == junk || strings.HasPrefix(b.Cookie(), junk) {
				c.Errorf("%q was adopted", junk)
			}
		}
	})
	a.row("C-02_login_over_a_session", func(c *row) {
		b := c.w.NewBrowser()
		b.Login("carol")
		old := b.Clone()
		b.Login("carol")
		if r := old.Fetch("POST", "/bff/token"); r.Status != http.StatusUnauthorized {
			c.Errorf("the old session: %s", r)
		}
		if r := b.Fetch("POST", "/bff/token"); r.Status != http.StatusOK {
			c.Errorf("the new session: %s", r)
		}
	})
	a.row("C-03_kept_after_logout", func(c *row) {
		b := c.w.NewBrowser()
		b.Login("carol")
		kept := b.Clone()
		if r := b.Fetch("POST", "/bff/logout"); r.Status != http.StatusOK {
			c.Fatalf("logout: %s", r)
		}
		for _, path := range []string{"/bff/token", "/bff/user", "/bff/session", "/app/x"} {
			r := kept.Fetch("GET", path)
			if code, reason := r.Problem(); r.Status != 401 || code != "login_required" || reason != "logged_out" {
				c.Errorf("%s: %s", path, r)
			}
		}
	})
	a.row("C-04_two_cookies", func(c *row) {
		x, y := ours(value("alice")), ours(value("bob"))
		for _, lines := range []string{
			set(x, y), set(y, x), set(x) + set(y), set(y) + set(x), set(x, x), set(x, "a=b", y), set(x) + set("a=b") + set(y), set(x, rig.SessionCookie+"="), set(rig.SessionCookie+"=", x), set(ours("junk"), x), set(x, ours("junk")),
			"Cookie: " + x + ";" + y + "\r\n", "Cookie:" + x + " ;\t" + y + "\r\n",
		} {
			for _, path := range []string{"/app/x", "/bff/token", "/bff/user", "/bff/sessions"} {
				c.want(c.send(get(path, fetched, lines)), http.StatusUnauthorized, "login_required")
			}
			if got := c.send(get("/maybe/x", fetched, lines)); got.status() != http.StatusOK || got.final().Header.Get("X-Upstream-Sub") != "" {
				c.Errorf("%.80q: %v", lines, got)
			}
			c.want(c.send(post("/bff/logout", "", fetched, lines)), http.StatusOK, "")
		}
		// Nobody was logged out by it.
		for _, name := range []string{"alice", "bob"} {
			c.want(c.send(get("/app/x", fetched, a.cookie(name))), http.StatusOK, "")
		}
		alice, bob := a.cookieField("alice"), a.cookieField("bob")
		for _, crumbs := range [][]field{{alice, bob}, {bob, alice}, {alice, alice}} {
			if got := c.http2(append(fields("GET", "/app/x", fetchedFields...), crumbs...)); got.status() != 401 {
				c.Errorf("HTTP/2: %d", got.status())
			}
		}
	})
	a.row("C-05_names", func(c *row) {
		// What a server could take for our name, and isn't.
		for _, name := range []string{
			strings.ToLower(rig.SessionCookie), strings.ToUpper(rig.SessionCookie), "__Host-cloakroom", "__Http-cloakroom", "cloakroom", "__Secure-Http-cloakroom", rig.SessionCookie + " ", "$" + rig.SessionCookie, "\"" + rig.SessionCookie + "\"",
			"__Host-Http-cloakroom\x00", "__Host%2dHttp-cloakroom", "__Host-Http-Cloakroom", "=" + rig.SessionCookie, rig.SessionCookie + "=" + rig.SessionCookie,
		} {
			x := c.send(get("/app/x", fetched, "Cookie: "+name+"="+value("alice")+"\r\n"))
			if s := x.status(); s != 401 && s != 400 {
				c.Errorf("%q: %v", name, x)
			}
		}
		// Nor does an upstream that reads cookies in another way find one: GO2 looks.
		ticket := ours(value("alice"))
		for _, line := range []string{
			"a=b, " + ticket, "a=b," + ticket + "; c=d", "\"" + ticket + "\"", "a=\"b\" " + ticket + ", c=\"d\"", "\xa0" + ticket, "\xc2\xa0" + ticket, "\xe2\x80\x83" + ticket, "$Version=1; " + ticket + "; $Path=/", "$Version=\"1\", " + ticket + ", $Path=\"/\"", ticket + "\xa0", "a=\"; " + ticket + "\"", ";;;" + ticket, ticket + ", " + ticket,
		} {
			if x := c.send(get("/maybe/x", fetched, "Cookie: "+line+"\r\n")); x.status() != http.StatusOK && x.status() != http.StatusBadRequest {
				c.Errorf("%.40q: %v", line, x)
			}
		}
		for _, v := range []string{"\"" + value("alice") + "\"", " " + value("alice") + "x", value("alice") + ",", value("alice") + "=", "=" + value("alice"), url.QueryEscape(value("alice") + "%")} {
			x := c.send(get("/app/x", fetched, "Cookie: "+rig.SessionCookie+"="+v+"\r\n"))
			if s := x.status(); s != 401 && s != 400 {
				c.Errorf("%.20q: %v", v, x)
			}
		}
	})
	a.row("C-07_blackout", func(c *row) {
		for _, filler := range []string{strings.Repeat("a=b; ", 3001), strings.Repeat("a; ", 3001), strings.Repeat("; ", 5000)} {
			x := c.send(get("/app/x", fetched, "Cookie: "+filler+ours(value("alice"))+"\r\n"))
			if s := x.status(); s != http.StatusOK && s != http.StatusRequestHeaderFieldsTooLarge {
				c.Errorf("%v", x)
			}
			x = c.send(get("/public/x", fetched, "Cookie: "+filler+ours(value("alice"))+"\r\n"))
			if s := x.status(); s != http.StatusOK && s != http.StatusRequestHeaderFieldsTooLarge {
				c.Errorf("%v", x)
			}
		}
		x := c.send(get("/app/x", fetched, strings.Repeat("Cookie: a=b\r\n", 3001)+a.cookie("alice")))
		c.want(x, http.StatusRequestHeaderFieldsTooLarge, "")
		for _, r := range c.arrived() { // GO2 searches them for the value
			if strings.Contains(r.head, "__Host-Http") {
				c.Errorf("the upstream got our cookie")
			}
		}
	})
	a.row("C-10_login_cookies", func(c *row) {
		// A login that another browser began, and names that nobody was given.
		started := c.send(get("/bff/login", "Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\n")).final()
		at, _ := url.Parse(started.Header.Get("Location"))
		state := at.Query().Get("state")
		name, v, _ := strings.Cut(strings.SplitN(started.Header.Get("Set-Cookie"), ";", 2)[0], "=")
		a.w.Secret("a cookie", v)
		if len(name) < len("__Host-cloakroom-login-")+22 || len(state) < 43 {
			c.Errorf("guessable: %s, %d characters of state", name, len(state))
		}
		before := c.provider.Ledger()
		callback := "/bff/callback?code=x&iss=" + url.QueryEscape(c.provider.Issuer()) + "&state="
		for _, test := range []struct{ cookie, state string }{
			{"", state}, {name + "=" + v + "x", state}, {name + "=", state}, {"__Host-cloakroom-login-" + strings.Repeat("A", 22) + "=" + v, state}, {name + "=" + v, state[:len(state)-1]}, {name + "=" + v, state + "A"}, {name + "=" + v, ""},
			{strings.ToLower(name) + "=" + v, strings.ToLower(state)}, {name + "=" + v[:len(v)-1], state}, {rig.SessionCookie + "=" + v, state}, {name + "=" + value("alice"), state}, {name + "=" + v, strings.Repeat("A", 5000)},
			{name + "=junk; " + name + "=" + v + "y", state},
		} {
			x := c.send(get(callback+test.state, "Cookie: "+test.cookie+"\r\n", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n"))
			c.want(x, http.StatusBadRequest, "login_expired")
		}
		if after := c.provider.Ledger(); len(after) != len(before) {
			c.Errorf("a code was presented: %v", after[len(before):])
		}
	})
}

// D: what is no cookie of ours costs nothing and opens nothing.
func TestD(t *testing.T) {
	t.Parallel()
	a := newArena(t, setup{})
	good := a.user("alice").Cookie()
	try := func(c *row, name, v string) {
		c.Helper()
		for _, path := range []string{"/bff/token", "/app/x"} {
			x := c.send(get(path, fetched, "Cookie: "+rig.SessionCookie+"="+v+"\r\n"))
			c.want(x, http.StatusUnauthorized, "login_required")
			if x.final() != nil && !strings.Contains(string(x.final().Body), `"no_session"`) {
				c.Errorf("%s: %s", name, x.final().Body)
			}
		}
	}
	a.row("D-01_tampered", func(c *row) {
		for i := range len(good) - 1 { // the last character has bits that base64 ignores
			b := []byte(good)
			if b[i] == 'A' {
				b[i] = 'B'
			} else {
				b[i] = 'A'
			}
			if i%7 == 0 {
				try(c, fmt.Sprint("byte ", i), string(b))
			}
		}
		for i := 0; i < len(good); i += 9 {
			try(c, fmt.Sprint("cut at ", i), good[:i])
		}
		try(c, "doubled", good+good)
		try(c, "from its middle", good[10:])
		c.untouched()
	})
	a.row("D-04_oversize", func(c *row) {
		for _, n := range []int{300, 4 << 10, 16 << 10} { // not even looked at
			try(c, fmt.Sprint(n), strings.Repeat("A", n))
			try(c, fmt.Sprint(n), good+strings.Repeat("A", n))
		}
		for _, n := range []int{64 << 10, 1 << 20} {
			x := c.send(get("/app/x", fetched, "Cookie: "+rig.SessionCookie+"="+strings.Repeat("A", n)+"\r\n"))
			if s := x.status(); s != http.StatusRequestHeaderFieldsTooLarge && !(s == 0 && x.reset) {
				c.Errorf("%d bytes: %v", n, x)
			}
		}
		c.untouched()
	})
	a.row("D-07_other_purposes", func(c *row) {
		// D-08 too: whatever else was sealed or signed here or at the provider.
		started := c.send(get("/bff/login", "Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\n")).final()
		name, login, _ := strings.Cut(strings.SplitN(started.Header.Get("Set-Cookie"), ";", 2)[0], "=")
		a.w.Secret("a cookie", login)
		at, _ := url.Parse(started.Header.Get("Location"))
		token := c.send(post("/bff/token", "", fetched, a.cookie("alice"))).final()
		for what, v := range map[string]string{
			"a login's cookie": login, "a state": at.Query().Get("state"), "a nonce": at.Query().Get("nonce"), "a token's answer": base64.RawURLEncoding.EncodeToString(token.Body), "an id": strings.TrimPrefix(name, "__Host-cloakroom-login-"),
			"X-BFF": "1", "a sid": base64.RawURLEncoding.EncodeToString(make([]byte, 16)), "JSON": `{"sid":"x"}`, "an empty value": "", "a JWT": "eyJhbGciOiJub25lIn0.e30.", "zeros": strings.Repeat("A", 192), "securecookie's own": base64.URLEncoding.EncodeToString([]byte("1795314654|AAAA|" + strings.Repeat("x", 32))),
		} {
			try(c, what, v)
		}
		mark := c.redis.mark()
		// … and a ticket is no login.
		x := c.send(get("/bff/callback", "Cookie: "+name+"="+good+"\r\n", "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\n"))
		c.want(x, http.StatusBadRequest, "login_expired")
		if cost := c.redis.since(mark); len(cost) > 0 {
			c.Errorf("it cost Redis %q", cost)
		}
	})
	a.row("D-10_redis_keys", func(c *row) {
		for _, v := range []string{"*", "{}", "a\tb", "a:b", "{other-slot}", "cloakroom:{x}", strings.Repeat("x", 10<<10), "%s%s%n", "\\r\\nFLUSHALL\\r\\n", "*3", "$-1", "' or 1=1", "../../x", "%0d%0aFLUSHALL", "\x7f", "{" + good + "}"} {
			x := c.send(get("/app/x", fetched, "Cookie: "+rig.SessionCookie+"="+v+"\r\n"))
			if s := x.status(); s != 401 && s != 400 {
				c.Errorf("%.30q: %v", v, x)
			}
			// Where a sid may be named.
			for _, method := range []string{"DELETE"} {
				x := c.send(request(method, "/bff/sessions/"+url.PathEscape(v), fetched, a.cookie("alice")))
				if s := x.status(); s != 404 && s != 400 {
					c.Errorf("%.30q: %v", v, x)
				}
			}
			c.send(get("/bff/frontchannel-logout?iss="+url.QueryEscape(c.provider.Issuer())+"&sid="+url.QueryEscape(v), "Sec-Fetch-Dest: iframe\r\n"))
		}
		for _, text := range c.redis.since(c.redisMark) {
			for _, bad := range []string{"FLUSHALL", "other-slot", "or 1=1", "..", "{}"} {
				if strings.Contains(text, bad) {
					c.Errorf("Redis got %q", text)
				}
			}
		}
		c.want(c.send(get("/app/x", fetched, a.cookie("alice"))), http.StatusOK, "")
	})
}
