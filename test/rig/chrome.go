package rig

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/storage"
	"github.com/chromedp/chromedp"
)

// Chrome is a headless Chromium with a fresh profile and one tab.
type Chrome struct {
	t    testing.TB
	ctx  context.Context
	gone bool
}

// NewChrome starts Chromium for the length of the test. It accepts any
// certificate, as a person may for a self-signed one.
func NewChrome(t testing.TB) *Chrome { return ChromeIn(t, t.TempDir()) }

// ChromeIn is NewChrome with a profile that may have been used before, and with
// further flags. A profile is one browser's at a time.
func ChromeIn(t testing.TB, profile string, flags ...string) *Chrome {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Fatal("rig: this test needs Chromium: run test/setup.sh, or apt-get install chromium")
	}
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.UserDataDir(profile),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		// Containers have a small /dev/shm.
		chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("ignore-certificate-errors", true),
	}
	for _, name := range flags {
		options = append(options, chromedp.Flag(name, true))
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	tab, cancel := chromedp.NewContext(ctx)
	c := &Chrome{t: t, ctx: tab}
	t.Cleanup(func() {
		if !c.gone {
			// Waits for the browser's end, so that its profile can be removed.
			if err := chromedp.Cancel(tab); err != nil {
				t.Logf("rig: chromium: %v", err)
			}
		}
		cancel()
	})
	// The first call starts the browser, which lives as long as the context it is
	// given: not the shorter one of Do.
	if err := chromedp.Do(tab); err != nil {
		t.Fatalf("rig: start chromium: %v", err)
	}
	return c
}

// Do runs actions in the tab and fails the test if they don't succeed within
// [Patience]. What says what they are for.
func (c *Chrome) Do(what string, actions ...chromedp.Action[chromedp.Void]) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, Patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		look, cancel := context.WithTimeout(c.ctx, 5*time.Second)
		defer cancel()
		url, _ := chromedp.Run(look, chromedp.Location())
		text, _ := chromedp.Run(look, chromedp.Evaluate[string](`document.documentElement.innerText.slice(0, 2000)`))
		c.t.Fatalf("chromium: %s: %v\nat %s:\n%s", what, err, url, text)
	}
}

// Eval evaluates an expression in the page, awaiting promises, to a text.
func (c *Chrome) Eval(expression string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, Patience)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		c.t.Fatalf("chromium: %s: %v", expression, err)
	}
	return text
}

// Text is what the element with that id shows, "" if there is none or none to
// be seen.
func (c *Chrome) Text(id string) string {
	c.t.Helper()
	return c.Eval(`document.getElementById("` + id + `")?.innerText ?? ""`)
}

// Cookies are all cookies of the profile, HttpOnly ones too.
func (c *Chrome) Cookies() []*network.Cookie {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, Patience)
	defer cancel()
	found, err := chromedp.Call(ctx, storage.GetCookies, storage.GetCookiesParams{})
	if err != nil {
		c.t.Fatalf("chromium: cookies: %v", err)
	}
	return found.Cookies
}

// SessionCookie is the session's, nil if there is none.
func (c *Chrome) SessionCookie() *network.Cookie {
	c.t.Helper()
	for _, k := range c.Cookies() {
		if k.Name == SessionCookie {
			return k
		}
	}
	return nil
}

// Kill ends Chromium as a crash does (SIGKILL), and returns when it is gone.
func (c *Chrome) Kill() {
	c.t.Helper()
	browser := chromedp.FromContext(c.ctx).Browser
	c.gone = true
	if err := browser.Process().Kill(); err != nil {
		c.t.Fatalf("rig: kill chromium: %v", err)
	}
	<-browser.LostConnection
	_ = chromedp.Cancel(c.ctx) // its other processes, too
}

// Quit ends Chromium as a person does, and returns when it is gone.
func (c *Chrome) Quit() {
	c.t.Helper()
	c.gone = true
	if err := chromedp.Cancel(c.ctx); err != nil {
		c.t.Fatalf("rig: quit chromium: %v", err)
	}
}
