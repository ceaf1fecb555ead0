package test

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/cloakroom/cloakroom/test/rig"
)

// A person walks the demo in Chromium: logs in, holds a token, calls the API
// both ways, reloads, sees the ticket rotate, logs in as somebody else, logs
// out. Over http://localhost and over https.
func TestChromiumWalksTheDemo(t *testing.T) {
	for _, row := range []struct{ name, tls, scheme string }{
		{"http", "TLS=0", "http://"},
		{"https", "TLS=1", "https://"},
	} {
		t.Run(row.name, func(t *testing.T) {
			demo := rig.StartDemo(t, row.tls, "ACCESS_TTL=6s", "GRACE=3s")
			if !strings.HasPrefix(demo.URL, row.scheme+"localhost:") {
				t.Fatalf("the demo is at %s", demo.URL)
			}
			c := rig.NewChrome(t)
			walk(t, demo, c)
		})
	}
}

func walk(t *testing.T, demo *rig.Demo, c *rig.Chrome) {
	c.Do("open the app", chromedp.Navigate(demo.URL), chromedp.WaitVisible("#login"))

	c.Do("log in as alice", chromedp.Click("#login"))
	logIn(c, "alice")
	shows(t, c, "user", "Alice")
	if c.Text("token-tail") == "" {
		t.Error("the page shows no end of its token")
	}
	if url := c.Eval(`location.href`); url != demo.URL+"/" {
		t.Errorf("the login landed on %s", url)
	}
	ticket := sessionCookie(t, c)

	// Nothing of the session is in the reach of a script.
	if got := c.Eval(`document.cookie`); strings.Contains(got, "cloakroom") {
		t.Error("a script can read the cookie")
	}
	if got := c.Eval(`JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage)])`); got != "[[],[]]" {
		t.Error("the page stores something")
	}

	for _, call := range []string{"call-bearer", "call-proxy"} {
		c.Do(call, chromedp.Click("#"+call))
		rig.Eventually(t, call+" shows a result", func() bool { return strings.HasPrefix(c.Text("result-title"), "200") })
		if got := c.Text("result"); !strings.Contains(got, "alice") {
			t.Errorf("%s: the API did not see alice: %s", call, got)
		}
		c.Do("forget the result", chromedp.Evaluate[chromedp.Void](`document.getElementById("result-title").textContent = ""`))
	}

	c.Do("reload", chromedp.Reload())
	shows(t, c, "user", "Alice")

	// The token runs out; the page goes on, with another ticket.
	rig.Eventually(t, "the ticket rotates", func() bool { return sessionCookie(t, c).Value != ticket.Value })
	old := sessionCookie(t, c)
	c.Do("call through the gateway", chromedp.Click("#call-proxy"))
	rig.Eventually(t, "the rotated ticket works", func() bool { return strings.HasPrefix(c.Text("result-title"), "200") })
	shows(t, c, "user", "Alice")

	c.Do("log in as somebody else", chromedp.Click("#login-other"))
	logIn(c, "bob")
	shows(t, c, "user", "Bob")
	if status, reason := replay(t, demo.URL, old); status != 401 || reason != "replaced" && reason != "reuse_detected" {
		t.Errorf("alice's ticket after bob's login: %d %s", status, reason)
	}
	c.Do("call the API", chromedp.Click("#call-proxy"))
	rig.Eventually(t, "the API sees bob", func() bool { return strings.Contains(c.Text("result"), "bob") })

	old = sessionCookie(t, c)
	c.Do("log out", chromedp.Click("#logout"))
	rig.Eventually(t, "the browser comes back logged out", func() bool {
		here := c.Eval(`location.origin`)
		if here == demo.URL {
			return c.Eval(`String(document.querySelector("#login")?.checkVisibility() ?? false)`) == "true"
		}
		// The provider may ask whether it shall log out, too.
		c.Do("confirm", chromedp.Evaluate[chromedp.Void](`document.getElementById("submit")?.click()`))
		return false
	})
	for _, k := range c.Cookies() {
		if k.Name == rig.SessionCookie {
			t.Error("logging out left the session cookie")
		}
	}
	if status, reason := replay(t, demo.URL, old); status != 401 || reason != "logged_out" && reason != "reuse_detected" {
		t.Errorf("bob's ticket after the logout: %d %s", status, reason)
	}
}

// logIn fills in the strict provider's page.
func logIn(c *rig.Chrome, user string) {
	c.Do("fill in the login page",
		chromedp.WaitVisible("#username"),
		chromedp.Evaluate[chromedp.Void](`document.getElementById("username").value = ""`),
		chromedp.SendKeys("#username", user),
		chromedp.SendKeys("#password", "any password"),
		chromedp.Click("#submit"),
	)
}

func shows(t *testing.T, c *rig.Chrome, id, want string) {
	t.Helper()
	rig.Eventually(t, "#"+id+" shows "+want, func() bool { return c.Text(id) == want })
}

// sessionCookie is the cookie as Chromium took it.
func sessionCookie(t *testing.T, c *rig.Chrome) *network.Cookie {
	t.Helper()
	k := c.SessionCookie()
	if k == nil {
		t.Fatal("Chromium has no session cookie")
	}
	if !k.HTTPOnly || !k.Secure || k.SameSite != network.CookieSameSiteStrict || k.Path != "/" || !k.Session ||
		strings.HasPrefix(k.Domain, ".") || len(k.Name)+1+len(k.Value) > 300 {
		t.Fatalf("Chromium took the session cookie with HttpOnly %v, Secure %v, SameSite %s, Path %s, Domain %s, session %v, %d bytes",
			k.HTTPOnly, k.Secure, k.SameSite, k.Path, k.Domain, k.Session, len(k.Name)+1+len(k.Value))
	}
	return k
}

// replay shows a copied cookie at /bff/token.
func replay(t *testing.T, origin string, k *network.Cookie) (status int, reason string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, origin+"/bff/token", bytes.NewReader(nil))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-BFF", "1")
	req.Header.Set("Origin", origin)
	req.Header.Set("Cookie", k.Name+"="+k.Value)
	// The demo's certificate is made for this run.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var problem struct{ Reason string }
	decode(t, resp.Body, &problem)
	return resp.StatusCode, problem.Reason
}
