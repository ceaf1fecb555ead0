package attacks

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// What only a browser can tell: whether other sites' pages, a sibling host, and
// scripts in the page can plant the cookie, use it, or learn from it.
func TestChromium(t *testing.T) {
	t.Parallel()
	a := newArena(t, setup{secure: true, provider: gatewaytest.Options{AutoLogin: gatewaytest.As("alice")}})
	page := `<!doctype html><title>app</title><p id="here">here</p>`
	a.up.teach("page", wire(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s", len(page), page), true))

	evil := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, cookie := range []string{
			rig.SessionCookie + "=tossed; Domain=app.test; Path=/; Secure; HttpOnly", rig.SessionCookie + "=tossed; Domain=app.test; Path=/bff; Secure", "__Host-cloakroom-login-AAAAAAAAAAAAAAAAAAAAAA=tossed; Domain=app.test; Path=/; Secure",
			"=" + rig.SessionCookie + "=tossed; Domain=app.test; Path=/; Secure", "__host-http-cloakroom=tossed; Domain=app.test; Path=/; Secure",
		} {
			w.Header().Add("Set-Cookie", cookie)
		}
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, `<!doctype html><title>evil</title><a id="link" href="https://app.test/page/x?do=page">x</a>`+
			`<form id="out" method="post" action="https://app.test/bff/logout" target="frame"><input name="x" value="y"></form><iframe name="frame" id="frame"></iframe>`)
	}))
	t.Cleanup(evil.Close)
	port := func(addr string) string { _, p, _ := net.SplitHostPort(addr); return p }
	c := rig.ChromeIn(t, t.TempDir(), "host-resolver-rules=MAP app.test:443 127.0.0.1:"+port(a.secure.Public)+",MAP evil.test:443 "+evil.Listener.Addr().String()+",MAP evil.app.test:443 "+evil.Listener.Addr().String())
	open := func(url string) {
		t.Helper()
		c.Do("open "+url, chromedp.Navigate(url))
	}
	fetch := func(path string) string {
		t.Helper()
		return c.Eval(`fetch("` + path + `", {headers: {"X-BFF": "1"}}).then(r => String(r.status))`)
	}
	cookie := func() string {
		t.Helper()
		if k := c.SessionCookie(); k != nil {
			return k.Value
		}
		return ""
	}
	open("https://app.test/bff/login?return_to=%2Fpublic%2Fpage%3Fdo%3Dpage")
	rig.Eventually(t, "the login lands", func() bool { return c.Text("here") == "here" })
	mine := cookie()
	a.w.Secret("a cookie", mine)
	if mine == "" || fetch("/bff/session") != "200" {
		t.Fatalf("no session: %q", mine)
	}
	safe := func(t *testing.T) {
		t.Helper()
		open("https://app.test/public/page?do=page")
		n := 0
		for _, k := range c.Cookies() {
			if k.Name == rig.SessionCookie && strings.HasSuffix(k.Domain, "app.test") {
				n++
			}
		}
		if n != 1 || cookie() != mine {
			t.Errorf("%d session cookies", n)
		}
		if s := fetch("/bff/session"); s != "200" {
			t.Errorf("/bff/session: %s", s)
		}
		if s := fetch("/app/x"); s != "200" {
			t.Errorf("/app/x: %s", s)
		}
	}

	t.Run("C-06_tossing", func(t *testing.T) {
		for _, site := range []string{"https://evil.app.test/", "https://evil.test/"} {
			open(site)
			c.Eval(`document.cookie = "` + rig.SessionCookie + `=tossed; Domain=app.test; Path=/; Secure", document.cookie = "__Host-Http-cloakroom=x; Path=/bff; Domain=app.test; Secure", "done"`)
			safe(t)
		}
	})
	t.Run("C-08_script_in_the_page", func(t *testing.T) {
		open("https://app.test/public/page?do=page")
		if got := c.Eval(`document.cookie`); strings.Contains(got, "cloakroom") {
			t.Error("a script can read a cookie of ours")
		}
		c.Eval(`document.cookie = "` + rig.SessionCookie + `=x; Path=/; Secure", document.cookie = "` + rig.SessionCookie + `=; Path=/; Secure; Max-Age=0", document.cookie = "` + rig.SessionCookie + `=x; Path=/bff; Secure", "done"`)
		safe(t)
	})
	t.Run("E-02_reads_from_elsewhere", func(t *testing.T) {
		for _, site := range []string{"https://evil.app.test/", "https://evil.test/"} {
			open(site)
			for _, call := range []string{
				`fetch("https://app.test/bff/token", {credentials: "include"})`, `fetch("https://app.test/bff/token", {credentials: "include", method: "POST", headers: {"X-BFF": "1"}})`,
				`fetch("https://app.test/app/x", {credentials: "include"})`, `fetch("https://app.test/bff/user", {credentials: "include", headers: {"X-BFF": "1"}})`,
			} {
				if got := c.Eval(call + `.then(r => r.text()).catch(e => "refused")`); got != "refused" {
					t.Errorf("%s: %s reads %.100q", site, call, got)
				}
			}
			mark := a.up.mark()
			for _, call := range []string{
				`fetch("https://app.test/app/x", {credentials: "include", mode: "no-cors"}).then(r => r.type)`, `fetch("https://app.test/app/x", {credentials: "include", mode: "no-cors", method: "POST", body: "x"}).then(r => r.type)`,
				`new Promise(done => { const s = document.createElement("script"); s.src = "https://app.test/app/x"; s.onload = s.onerror = () => done("over"); document.body.append(s) })`,
				`new Promise(done => { const s = new Image(); s.src = "https://app.test/app/x"; s.onload = s.onerror = () => done("over") })`,
				`new Promise(done => { const s = new WebSocket("wss://app.test/app/x?do=ws"); s.onopen = () => done("open"); s.onerror = () => done("over") })`,
			} {
				if got := c.Eval(call + `.catch(e => "refused")`); got == "open" {
					t.Errorf("%s: %s: %s", site, call, got)
				}
			}
			for _, r := range a.up.since(mark) {
				t.Errorf("%s: the upstream got %q", site, r.head)
			}
		}
		safe(t)
	})
	t.Run("E-07_logout_from_elsewhere", func(t *testing.T) {
		for _, site := range []string{"https://evil.app.test/", "https://evil.test/"} {
			open(site)
			c.Eval(`new Promise(done => { document.getElementById("frame").onload = () => done("over"); document.getElementById("out").submit() })`)
			c.Eval(`new Promise(done => { const s = new Image(); s.src = "https://app.test/bff/logout"; s.onload = s.onerror = () => done("over") })`)
			c.Eval(`String(navigator.sendBeacon("https://app.test/bff/logout", new URLSearchParams({x: "y"})))`)
			safe(t)
		}
	})
	t.Run("T-06_liveness", func(t *testing.T) {
		// What another site's page can see of a request is the same with a session and
		// without: each element fails, each opaque answer is opaque.
		see := func() string {
			open("https://evil.test/")
			return c.Eval(`(async () => {
				const seen = [];
				for (const path of ["/bff/session", "/bff/token", "/bff/user", "/app/x", "/page/x"]) {
					for (const tag of ["img", "script", "link"]) {
						seen.push(await new Promise(done => { const s = document.createElement(tag); s.onload = () => done("load"); s.onerror = () => done("error"); if (tag == "link") { s.rel = "stylesheet"; s.href = "https://app.test" + path } else s.src = "https://app.test" + path; document.body.append(s) }));
					}
					seen.push(await fetch("https://app.test" + path, {credentials: "include", mode: "no-cors"}).then(r => r.type).catch(() => "blocked"));
					seen.push(await fetch("https://app.test" + path, {credentials: "include", mode: "no-cors", redirect: "error"}).then(r => r.type).catch(() => "blocked"));
				}
				return seen.join(" ");
			})()`)
		}
		with := see()
		other := rig.ChromeIn(t, t.TempDir(), "host-resolver-rules=MAP app.test:443 127.0.0.1:"+port(a.secure.Public)+",MAP evil.test:443 "+evil.Listener.Addr().String())
		first := c
		c = other
		without := see()
		c = first
		if with != without {
			t.Errorf("with a session:    %s\nwithout a session: %s", with, without)
		}
	})
	t.Run("C-09_link_from_elsewhere", func(t *testing.T) {
		// The Strict cookie isn't there at first; the page within the site brings it.
		open("https://evil.test/")
		c.Do("follow the link", chromedp.Click("#link"))
		rig.Eventually(t, "the page is there, without a login", func() bool { return c.Text("here") == "here" })
		if got := c.Eval(`location.href`); got != "https://app.test/page/x?do=page" {
			t.Errorf("at %s", got)
		}
		safe(t)
	})
	t.Run("K-06_back_after_logout", func(t *testing.T) {
		open("https://app.test/page/x?do=page")
		if s := c.Eval(`fetch("/bff/logout", {method: "POST", headers: {"X-BFF": "1"}}).then(r => String(r.status))`); s != "200" {
			t.Fatalf("logout: %s", s)
		}
		if cookie() != "" {
			t.Error("the cookie is there still")
		}
		if s := fetch("/bff/session"); s != "401" {
			t.Errorf("/bff/session: %s", s)
		}
	})
}
