package test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// Chromium keeps its cookie jar in memory and writes it to disk at most every 30
// seconds. Killed in between, it comes back with the jar of before: with the
// ticket from before a rotation. What becomes of the session?
//
// Where the new ticket had not been used yet, it must live on: the old ticket is
// handed another successor. Where it had, the old one is a superseded ticket, and
// showing it after the grace ends the session: docs/sessions.md lists that among
// what can't be saved.
//
// One run of the first kind, or RUNS of each kind (make chrome-crash).
func TestChromiumIsKilledAfterARotation(t *testing.T) {
	kinds := []crash{{name: "remembered, the new ticket not used yet", remembered: true}}
	runs := 1
	if s := os.Getenv("RUNS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("RUNS=%q is no number of runs", s)
		}
		runs = n
		kinds = append(kinds,
			crash{name: "remembered, at once", remembered: true, used: true},
			crash{name: "remembered, after 35 s", remembered: true, used: true, after: 35 * time.Second},
			crash{name: "until the browser closes, tabs restored, not used yet"},
			crash{name: "until the browser closes, tabs restored, at once", used: true},
			crash{name: "until the browser closes, tabs restored, after 35 s", used: true, after: 35 * time.Second},
		)
	}
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			w := crashWorld(t)
			found := map[string]int{}
			var mu sync.Mutex
			// Those that wait cost nothing meanwhile.
			at := make(chan struct{}, 1)
			if kind.after > 0 {
				at = make(chan struct{}, 5)
			}
			var all sync.WaitGroup
			for n := range runs {
				at <- struct{}{}
				all.Go(func() {
					defer func() { <-at }()
					t.Run(fmt.Sprint("run ", n+1), func(t *testing.T) {
						jar, session := kind.run(t, w, fmt.Sprintf("%s%c%c", "user", 'a'+n/26, 'a'+n%26))
						mu.Lock()
						found[jar+": "+session]++
						mu.Unlock()
					})
				})
			}
			all.Wait()
			for what, n := range found {
				t.Logf("%d of %d: %s", n, runs, what)
			}
		})
	}
}

// crash is a way to be killed.
type crash struct {
	name       string
	remembered bool          // else the cookie has no Max-Age
	used       bool          // the new ticket has been shown
	after      time.Duration // how long after the rotation it is killed
}

// crashWorld is reached by Chromium itself: on a port of its own.
func crashWorld(t *testing.T) *world {
	t.Helper()
	p, w := inReach(t, gatewaytest.Options{
		AutoLogin: gatewaytest.As("nobody"),
		EditAnswer: func(r gatewaytest.Request, answer map[string]any) {
			if r.Grant == "authorization_code" {
				answer["expires_in"] = 1 // so there is one rotation, at once
			}
		},
	}, func(c rig.Config) {
		c.Set("apps.0.session.rotation_grace", "2s") // settle: 6 s
		c.Set("apps.0.session.cache_ttl", "500ms")
		c.Set("apps.0.session.remember", "720h")
		c.Set("apps.0.provider.login_params", []any{"login_hint", "remember"})
	})
	return &world{p, w}
}

type world struct {
	*gatewaytest.Provider
	*rig.World
}

// run logs in, rotates, kills and looks at what is left: of the jar, and of the
// session after the grace.
func (k crash) run(t *testing.T, w *world, user string) (jar, session string) {
	t.Helper()
	profile := t.TempDir()
	flags := []string{}
	if !k.remembered {
		// A crashed Chromium offers to bring its tabs back; session cookies come
		// with them.
		flags = append(flags, "restore-last-session")
	}
	c := rig.ChromeIn(t, profile, flags...)
	path := "/bff/login?return_to=%2Flanding&login_hint=" + user
	if k.remembered {
		path += "&remember=1"
	}
	c.Do("log in", chromedp.Navigate(w.Origin+path))
	rig.Eventually(t, "the login lands", func() bool { return c.Eval(`location.pathname`) == "/landing" })
	c.Quit() // what it has so far is on disk
	c = rig.ChromeIn(t, profile, flags...)
	c.Do("open the app", chromedp.Navigate(w.Origin+"/landing"))
	first := c.SessionCookie()
	if first == nil {
		t.Fatal("an orderly end lost the cookie")
	}
	ask := func(path string) (status, reason string) {
		text := c.Eval(`fetch("` + path + `", {method: "` + map[bool]string{true: "POST", false: "GET"}[path == "/bff/token"] + `", headers: {"X-BFF": "1"}})
			.then(async r => r.status + " " + ((await r.json()).reason ?? ""))`)
		status, reason, _ = strings.Cut(text, " ")
		return status, reason
	}
	rig.Eventually(t, "the ticket rotates", func() bool {
		if status, reason := ask("/bff/token"); status != "200" {
			t.Fatalf("a token: %s %s", status, reason)
		}
		return c.SessionCookie().Value != first.Value
	})
	second := c.SessionCookie()
	if k.used {
		if status, _ := ask("/bff/session"); status != "200" {
			t.Fatalf("the new ticket: %s", status)
		}
	}
	time.Sleep(k.after) // for Chromium, which has its own clock
	c.Kill()

	c = rig.ChromeIn(t, profile, flags...)
	c.Do("open the app again", chromedp.Navigate(w.Origin+"/landing"))
	switch left := c.SessionCookie(); {
	case left == nil:
		return "no cookie", "lost"
	case left.Value == second.Value:
		jar = "the new ticket"
	case left.Value == first.Value:
		jar = "the old ticket"
	default:
		t.Fatal("the jar has a third ticket")
	}
	// Until the grace is over, and long enough for another successor.
	over := time.Now().Add(9 * time.Second)
	rig.Eventually(t, "it is known what becomes of the session", func() bool {
		status, reason := ask("/bff/token")
		session = "alive"
		if status != "200" {
			session = status + " " + reason
		}
		return status == "401" || time.Now().After(over)
	})
	switch {
	case session == "alive" && (!k.used || jar == "the new ticket"):
		if now := c.SessionCookie(); jar == "the old ticket" && now.Value == first.Value {
			t.Error("no other successor was handed out")
		}
	case session == "401 reuse_detected" && k.used && jar == "the old ticket":
	default:
		t.Errorf("with %s the session is %s", jar, session)
	}
	return jar, session
}
