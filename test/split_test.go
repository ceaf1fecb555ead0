package test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

func splitKey(c rig.Config) { c.Set("apps.0.session.binding", "split_key") }

// A split session needs both halves: the cookie alone gets no token, the local
// key alone gets none, and nothing ends of it.
func TestSplitKeyNeedsBothHalves(t *testing.T) {
	t.Parallel()
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: splitKey})
	b := w.NewBrowser()
	b.Login("alice")
	ask := func(b *rig.Browser, key string) *rig.Response {
		t.Helper()
		return b.Send(rig.Request{Method: http.MethodPost, Path: "/bff/token", Header: http.Header{"X-BFF-Local-Key": {key}}})
	}
	key := func(r *rig.Response) string {
		t.Helper()
		if r.Status != http.StatusOK {
			t.Fatalf("no token: %s", r)
		}
		var answer struct {
			LocalKey string `json:"local_key"`
		}
		r.JSON(t, &answer)
		w.Secret("a local key", answer.LocalKey)
		return answer.LocalKey
	}
	local := key(token(b)) // the first waits for whoever shows the cookie
	if local == "" {
		t.Fatal("the first answer has no local key")
	}
	if again := key(token(b)); again != local { // its answer may have been lost
		t.Fatal("asked again before it was shown, the first local key is another")
	}
	if key(ask(b, local)) != "" {
		t.Error("a local key that was shown is handed out again")
	}
	for range w.Gateways {
		wantProblem(t, token(b), 401, "local_key_required", "")
		wantProblem(t, ask(b, strings.Repeat("A", 43)), 401, "local_key_required", "")
		wantProblem(t, ask(b, "x"), 401, "local_key_required", "")
		wantProblem(t, ask(w.NewBrowser(), local), 401, "login_required", "no_session")
	}
	// Somebody else's halves don't go together.
	other := w.NewBrowser()
	other.Login("bob")
	theirs := key(token(other))
	key(ask(other, theirs))
	wantProblem(t, ask(b, theirs), 401, "local_key_required", "")
	wantProblem(t, ask(other, local), 401, "local_key_required", "")
	// The cookie alone uses routes while the token lives, and nothing has ended.
	if r := b.Fetch(http.MethodGet, "/api/orders"); r.Status != http.StatusOK {
		t.Errorf("a route, by the cookie: %s", r)
	}
	if got := subject(t, ask(b, local)); got != "sub-alice" {
		t.Errorf("the token is %q's", got)
	}
}

// In Chromium: a tab with a split session is closed and another one opened; the
// person is still in, through rotations too. A profile that has lost either half
// is out.
func TestSplitKeyOutlivesItsTab(t *testing.T) {
	site := filepath.Dir(rig.WriteFile(t, "index.html", `<!doctype html><title>App</title><script>
async function token() {
  const key = localStorage.getItem('key');
  const headers = { 'X-BFF': '1', ...(key && { 'X-BFF-Local-Key': key }) };
  const answer = await (await fetch('/bff/token', { method: 'POST', headers })).json();
  if (answer.local_key) localStorage.setItem('key', answer.local_key);
  return answer.access_token ? 'in' : answer.code;
}
</script>`))
	_, w := inReach(t, gatewaytest.Options{AccessLife: 2 * time.Second, AutoLogin: gatewaytest.As("alice")}, func(c rig.Config) {
		splitKey(c)
		quick(c)
		c.Set("apps.0.routes", append(c["apps"].([]any)[0].(map[string]any)["routes"].([]any),
			map[string]any{"path": "/", "files": site}))
	})

	window := rig.NewChrome(t) // stays open, so that the browser does
	first := window.NewTab()
	ask := func(tab *rig.Chrome, want, when string) {
		t.Helper()
		if got := tab.Eval(`token()`); got != want {
			t.Fatalf("%s: %s, want %s", when, got, want)
		}
	}
	open := func(tab *rig.Chrome) {
		t.Helper()
		tab.Do("open the app", chromedp.Navigate(w.Origin+"/"), chromedp.WaitReady("body"))
	}
	open(first)
	ask(first, "login_required", "before the login")
	first.Do("log in", chromedp.Navigate(w.Origin+"/bff/login"))
	rig.Eventually(t, "the login lands", func() bool { return first.Eval(`location.pathname`) == "/" && first.SessionCookie() != nil })
	rig.Eventually(t, "the page is there", func() bool { return first.Eval(`typeof token`) == "function" })
	ask(first, "in", "after the login")
	ask(first, "in", "with both halves")
	was := first.SessionCookie()
	if !was.Session {
		t.Error("the cookie is more than the browser's session's")
	}
	first.Close()

	second := window.NewTab()
	open(second)
	ask(second, "in", "in a new tab")
	local := second.Eval(`localStorage.getItem('key')`)
	rig.Eventually(t, "both halves are replaced", func() bool {
		ask(second, "in", "through rotations")
		return second.SessionCookie().Value != was.Value && second.Eval(`localStorage.getItem('key')`) != local
	})
	third := window.NewTab()
	open(third)
	ask(third, "in", "in a tab beside it")
	second.Close()

	third.Do("lose the local key", chromedp.Evaluate[chromedp.Void](`window.kept = localStorage.getItem('key'); localStorage.clear()`))
	ask(third, "local_key_required", "with the cookie alone")
	third.Do("find it again", chromedp.Evaluate[chromedp.Void](`localStorage.setItem('key', window.kept)`))
	ask(third, "in", "with both again")
	third.Close()

	// The local key alone: another browser, into which somebody has copied it.
	thief := rig.NewChrome(t)
	open(thief)
	thief.Do("have the local key", chromedp.Evaluate[chromedp.Void](`localStorage.setItem('key', '`+strings.Repeat("A", 43)+`')`))
	ask(thief, "login_required", "with a local key alone")
}
