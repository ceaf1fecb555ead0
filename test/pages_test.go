package test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// An app's own templates: a login goes by them, Chromium shows them with their
// style and without anything else, a change is taken over without a restart, and
// one that can't serve is refused.
func TestOwnPages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	save := func(name, text string) {
		t.Helper()
		next := filepath.Join(dir, "next")
		if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	save("error.html", `<!doctype html><title>Oje</title>
<style>h1 { color: rgb(1, 2, 3) }</style>
<h1 style="color: red">Oje: {{.Code}}</h1>
<svg width="8" height="8"><rect width="8" height="8"/></svg><img id="logo" src="/landing" onerror="document.title = 'script'">`)
	save("onward.html", `<!doctype html><title>{{.Title}}</title><meta http-equiv="refresh" content="0; url={{.Link}}"><p>weiter …`)
	_, w := inReach(t, gatewaytest.Options{AutoLogin: gatewaytest.As("alice")}, func(c rig.Config) {
		c.Set("apps.0.pages", dir)
	})

	c := rig.NewChrome(t)
	c.Do("log in", chromedp.Navigate(w.Origin+"/bff/login?return_to=/landing"))
	rig.Eventually(t, "the login lands", func() bool { return c.Eval(`location.pathname`) == "/landing" })
	if c.SessionCookie() == nil {
		t.Error("the login left no session")
	}
	c.Do("open what isn't there", chromedp.Navigate(w.Origin+"/nothing"))
	if got, want := c.Eval(`document.title + ' ' + document.querySelector('h1').innerText + ' ' + getComputedStyle(document.querySelector('h1')).color + ' ' + document.getElementById('logo').naturalWidth`),
		"Oje Oje: no_route rgb(1, 2, 3) 0"; got != want {
		t.Errorf("the page is %q, want %q", got, want)
	}

	b := w.NewBrowser()
	page := func(path, want string) {
		t.Helper()
		rig.Eventually(t, path+" shows "+want, func() bool {
			r := b.Navigate(path, "")
			return strings.Contains(string(r.Body), want) && strings.HasPrefix(r.Header.Get("Content-Security-Policy"), "default-src 'none'; style-src '")
		})
	}
	page("/nothing", "Oje: no_route")
	page("/bff/logged-out", "This page comes after a logout") // ours

	// What is there from now on is seen, and what is broken is told and left alone.
	save("logged-out.html", "<!doctype html><h1>Tschüs</h1>")
	page("/bff/logged-out", "Tschüs")
	save("logged-out.html", "{{.Token}}")
	const refused = "the configuration is refused, the old one stays: logged-out.html: line 1: at <.Token>: can't evaluate field Token in type web.loggedOut"
	rig.Eventually(t, "the broken one is told", func() bool {
		lines := w.Gateways[0].Log(refused)
		return len(lines) > 0 && lines[0]["key"] == "apps[0].pages" && lines[0]["level"] == "ERROR"
	})
	page("/bff/logged-out", "Tschüs")

	// check says all of it.
	save("onward.html", "<p>weiter …")
	save("fault.html", "")
	_, told, code := rig.Run(t, "check", "--config", w.Config.Write(t))
	if code != 1 || strings.Count(told, "apps[0].pages: ") != 3 {
		t.Errorf("check: %d %s", code, told)
	}
	for _, want := range []string{"logged-out.html: line 1: ", `onward.html: holds no <meta http-equiv="refresh"`, `"fault.html" is no page of the gateway's`} {
		if !strings.Contains(told, want) {
			t.Errorf("check doesn't say %q: %s", want, told)
		}
	}
	if err := os.Remove(filepath.Join(dir, "fault.html")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "onward.html")); err != nil {
		t.Fatal(err)
	}
	save("logged-out.html", "<!doctype html><h1>Ade</h1>")
	page("/bff/logged-out", "Ade")
	if r := w.NewBrowser().Login("alice"); r.Status != http.StatusOK { // by ours again
		t.Errorf("%v", r)
	}
}
