package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// A subject and a browser that would like to be more than text. What they would
// do is seen in the page's title.
const (
	hostileSubject = `<img src=x onerror="document.title='hit'">`
	hostileBrowser = `<script>document.title='hit'</script>"'><svg onload=document.title='hit'> {{7*7}}`
)

// desk is an operator in Chromium, in front of the console.
type desk struct {
	*rig.Chrome
	t *testing.T
}

func (d *desk) click(selector string) {
	d.t.Helper()
	d.Do("click "+selector, chromedp.Click(selector))
}

// fill types a text into a field, as a person does.
func (d *desk) fill(id, text string) {
	d.t.Helper()
	d.Do("empty #"+id, chromedp.Evaluate[chromedp.Void](`document.getElementById("`+id+`").value = ""`))
	if text != "" {
		d.Do("fill in #"+id, chromedp.SendKeys("#"+id, text))
	}
}

// says waits until the element with that id says so.
func (d *desk) says(id string, want ...string) {
	d.t.Helper()
	var got string
	defer func() {
		if d.t.Failed() {
			d.t.Logf("#%s says %q", id, got)
		}
	}()
	rig.Eventually(d.t, "#"+id+" says "+strings.Join(want, ", "), func() bool {
		got = d.Text(id)
		for _, part := range want {
			if !strings.Contains(got, part) {
				return false
			}
		}
		return true
	})
}

// order gives the order in the open dialog, with a reason, and waits until the
// console says what came of it.
func (d *desk) order(reason, done string) {
	d.t.Helper()
	d.fill("reason", reason)
	d.click("#go")
	d.says("done", done)
	if d.asks() {
		d.t.Error("the dialog is still open")
	}
}

// asks reports whether the dialog is open.
func (d *desk) asks() bool {
	d.t.Helper()
	return d.Eval(`String(document.getElementById("order").open)`) == "true"
}

// An operator looks sessions up and ends them in Chromium: the built binary, a
// real Redis, a token. What strangers chose is text, and nothing of it all
// outlives the page.
func TestConsole(t *testing.T) {
	t.Parallel()
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{Users: []gatewaytest.User{
		{Username: "alice", Password: aPassword}, {Username: "mallory", Password: aPassword, Subject: hostileSubject},
	}})
	adminToken := rig.Random()
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		passwords(c, p, reg)
		c.Set("admin.token", "${file:"+rig.WriteFile(t, "admin-token", adminToken)+"}")
	}})
	w.Secret("the admin token", adminToken)
	g := w.Gateways[0]
	alice, mallory := w.NewBrowser(), w.NewBrowser()
	alice.Login("alice")
	sid := about(t, alice).SID
	if r := byPassword(mallory, "mallory", hostileBrowser); r.Status != http.StatusOK {
		t.Fatalf("mallory's login: %s", r)
	}

	d := &desk{rig.NewChrome(t), t}
	complaints := listen(d.Chrome)
	d.Do("open the console", chromedp.Navigate("http://"+g.Admin+"/"))
	d.says("health", "This replica is ready")
	d.Eval(`document.addEventListener("securitypolicyviolation", (e) => console.error("refused", e.violatedDirective, e.blockedURI)), "listens"`)

	// The token: none, a wrong one, the right one. The lookup waits for it.
	d.fill("user-sub", "sub-alice")
	d.click("#user button[value=list]")
	d.says("token-trouble", "asks for its admin token", "unauthorized")
	d.fill("token", "x"+adminToken+"\r")
	d.says("token-trouble", "doesn’t know this token", "unauthorized")
	if focus := d.Eval(`document.activeElement.id`); focus != "token" {
		t.Errorf("the focus is on #%s", focus)
	}
	d.fill("token", adminToken+"\r")
	d.says("caption", "1 live session of sub-alice")
	d.says("sessions", sid, "shop", "127.0.0.1", "live")
	if d.Text("token-trouble") != "" || d.Text("token-held") == "" {
		t.Error("the page doesn't say that it holds the token")
	}

	// Strangers' text stays text.
	d.fill("user-sub", hostileSubject+"\r")
	d.says("caption", "1 live session of "+hostileSubject)
	d.says("sessions", hostileSubject, hostileBrowser)
	d.click("#sessions button.danger")
	d.says("order-facts", hostileSubject, hostileBrowser)
	if got := d.Eval(`String(document.querySelectorAll("main :is(img, script, svg), dialog :is(img, script, svg)").length) + document.title`); got != "0Cloakroom console" {
		t.Errorf("text became markup: %s", got)
	}

	// A dialog that is left does nothing.
	d.Do("press Escape", chromedp.KeyEvent("\x1b"))
	rig.Eventually(t, "the dialog closes", func() bool { return !d.asks() })

	// One session.
	d.fill("session-sid", sid+"\r")
	d.says("caption", "One session")
	d.click("#sessions button.danger")
	d.says("order", "End one session?", "This session ends", sid, "sub-alice", "shop")
	if focus := d.Eval(`document.activeElement.id`); focus != "reason" {
		t.Errorf("the focus is on #%s", focus)
	}
	d.click("#go") // without a reason
	if !d.asks() {
		t.Error("an order without a reason is given")
	}
	if subject(t, token(alice)) != "sub-alice" {
		t.Error("alice is out before anybody said so")
	}
	d.order("ticket 4711", "One session has ended: session "+sid)
	d.says("sessions", sid, "ended: revoked")
	wantEnded(t, w, alice, "revoked")
	if lines := orders(g); len(lines) != 1 || lines[0]["reason"] != "ticket 4711" || lines[0]["sid"] != sid || lines[0]["locked"] != false {
		t.Errorf("audited as %v", lines)
	}

	// All of a user's, and the user is locked out for a day.
	alice = w.NewBrowser()
	alice.Login("alice")
	d.fill("user-sub", "sub-alice")
	d.click("#user button[value=end]")
	if d.asks() {
		t.Error("all of a user's could be ended without an app")
	}
	d.fill("user-app", "shop")
	d.click("#user button[value=end]")
	d.says("order-facts", "sub-alice", "shop")
	d.click("#locked")
	d.Eval(`(() => { const day = new Date(Date.now() + 86400000), pad = (n) => String(n).padStart(2, "0");
		document.getElementById("until").value = day.getFullYear() + "-" + pad(day.getMonth() + 1) + "-" + pad(day.getDate()) + "T" + pad(day.getHours()) + ":" + pad(day.getMinutes());
		return "set"; })()`)
	d.order("password leaked", "One session has ended: sub-alice at shop. Locked until")
	if lines := orders(g); len(lines) != 2 || lines[1]["reason"] != "password leaked" || lines[1]["locked"] != true {
		t.Errorf("audited as %v", lines)
	} else if until, err := time.Parse(time.RFC3339, fmt.Sprint(lines[1]["until"])); err != nil || (24*time.Hour-time.Until(until)).Abs() > 5*time.Minute {
		t.Errorf("locked until %v", lines[1]["until"])
	}
	if code, _ := token(alice).Problem(); code != "account_locked" {
		t.Errorf("alice's session: %s", code)
	}
	if code, _ := byPassword(w.NewBrowser(), "alice", "").Problem(); code != "account_locked" {
		t.Errorf("alice's login: %s", code)
	}
	d.click("#user button[value=unlock]")
	d.says("order", "may log in again")
	d.order("it was her", "Unlocked: sub-alice at shop.")
	// To the provider's clock, which has no more than seconds, a login is from after
	// the end in another second.
	unlocked := time.Now().Unix()
	rig.Eventually(t, "another second begins", func() bool { return time.Now().Unix() > unlocked })
	if r := byPassword(w.NewBrowser(), "alice", ""); r.Status != http.StatusOK {
		t.Errorf("alice's login after the unlock: %s", r)
	}

	// Refusals are told in their own words.
	d.fill("session-sid", "nonsense\r")
	d.says("trouble", "sid must be 22 characters of base64url", "invalid_request")
	d.fill("session-sid", "AAAAAAAAAAAAAAAAAAAAAA\r")
	d.says("trouble", "There is no such session.", "no_session")
	d.fill("app-name", "shoe\r")
	d.fill("reason", "incident 12")
	d.fill("typed", "shoe")
	d.click("#go")
	d.says("order-trouble", "There is no such app.", "no_app")
	d.click("#cancel")

	// All of an app's: its name is asked for twice.
	d.fill("app-name", "shop\r")
	d.says("order", "Everybody at this app")
	d.fill("reason", "incident 12")
	d.fill("typed", "shoe")
	d.click("#go")
	if !d.asks() || token(mallory).Status != http.StatusOK {
		t.Error("an app was ended with another name typed in")
	}
	d.fill("typed", "shop")
	d.order("incident 12", "All sessions have ended: shop.")
	wantEnded(t, w, mallory, "revoked")

	// Redis is away: the order is not taken, and can be given again.
	d.click("#user button[value=end]")
	w.Redis.Stop()
	d.fill("reason", "once more")
	d.click("#go")
	d.says("order-trouble", "The store can't be reached.", "store_unavailable")
	d.says("health", "Redis does not answer")
	w.Redis.Cont()
	d.says("health", "This replica is ready")
	d.order("once more", "sub-alice at shop.")

	// Nothing is kept.
	if got := d.Eval(`JSON.stringify([location.pathname + location.search + location.hash, document.cookie, Object.entries(localStorage), Object.entries(sessionStorage), history.length, document.title])`); got != `["/","",[],[],2,"Cloakroom console"]` {
		t.Errorf("the page keeps %s", got)
	}
	if found := d.Cookies(); len(found) > 0 {
		t.Errorf("Chromium has the cookie %s", found[0].Name)
	}
	empty := func(after string) {
		t.Helper()
		rig.Eventually(t, "nothing is left after "+after, func() bool {
			return d.Eval(`JSON.stringify([[...document.querySelectorAll("input:not([type=checkbox])")].map((i) => i.value).join(""), document.getElementById("found").hidden, document.getElementById("token-form").hidden])`) == `["",true,false]` &&
				d.Text("done")+d.Text("trouble") == ""
		})
		d.fill("user-sub", "sub-alice\r")
		d.says("token-trouble", "asks for its admin token")
	}
	d.click("#forget")
	empty("forgetting")
	d.fill("token", adminToken+"\r")
	d.says("caption", "No live sessions of sub-alice")
	d.Do("reload", chromedp.Reload())
	empty("reloading")

	for _, line := range complaints() {
		t.Errorf("Chromium complains: %s", line)
	}
}

// byPassword logs a browser in by one request, as a browser that calls itself so.
func byPassword(b *rig.Browser, user, agent string) *rig.Response {
	return b.Send(rig.Request{
		Method: http.MethodPost, Path: "/bff/login", Body: `{"username":"` + user + `","password":"` + aPassword + `"}`,
		Header: http.Header{"Content-Type": {"application/json"}, "User-Agent": {agent}},
	})
}

// orders are the audited orders to end that were obeyed.
func orders(g *rig.Gateway) (found []map[string]any) {
	for _, line := range g.Log("admin call") {
		if line["action"] == "sessions.end" && line["status"] == float64(200) {
			found = append(found, line)
		}
	}
	return found
}

// listen collects what Chromium and the page write to the console from now on,
// but for the refusals of the API and of /readyz, which are asked for.
func listen(c *rig.Chrome) (complaints func() []string) {
	var mu sync.Mutex
	var lines []string
	add := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, line)
	}
	c.Do("listen to the console", chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		return chromedp.Listen(context.WithoutCancel(ctx), func(ev any) {
			switch e := ev.(type) {
			case *log.EventEntryAdded:
				if e.Entry.Source != "network" || !strings.Contains(e.Entry.URL, "/admin/") && !strings.HasSuffix(e.Entry.URL, "/readyz") {
					add(e.Entry.Text + " " + e.Entry.URL)
				}
			case *runtime.EventExceptionThrown:
				add(e.ExceptionDetails.Text)
			case *runtime.EventConsoleAPICalled:
				args, _ := json.Marshal(e.Args)
				add(string(args))
			}
		})
	}))
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return lines
	}
}
