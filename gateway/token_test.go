package gateway_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

func TestToken(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	for _, method := range []string{"POST", "GET"} {
		a := b.fetch(method, "/bff/token")
		want(t, a, 200)
		var doc map[string]any
		if err := json.Unmarshal([]byte(a.body), &doc); err != nil {
			t.Fatal(err)
		}
		life, _ := doc["expires_in"].(float64)
		if subject("Bearer "+doc["access_token"].(string)) != gatewaytest.SubjectOf("alice") || doc["token_type"] != "Bearer" ||
			life < 290 || life > 300 || !strings.Contains(doc["scope"].(string), "openid") || len(doc) != 4 {
			t.Errorf("%s: %v", method, doc)
		}
		// K-01
		h := a.header
		if h.Get("Cache-Control") != "no-store" || h.Get("Pragma") != "no-cache" || h.Get("Vary") != "Cookie" ||
			h.Get("Etag") != "" || h.Get("Last-Modified") != "" || h.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %v", method, h)
		}
		want(t, b.fetch(method, "/bff/token", `If-None-Match: *`), 200)
	}
	for _, query := range []string{"min_ttl=x", "min_ttl=-1", "min_ttl=1&min_ttl=2", "min_ttl=99999999999", "min_ttl=%zz"} {
		want(t, b.fetch("POST", "/bff/token?"+query), 400, "invalid_request")
	}
	want(t, b.fetch("POST", "/bff/token?min_ttl=60"), 200)
	want(t, b.fetch("PUT", "/bff/token"), 405, "method_not_allowed")
	if n := len(w.provider.Redemptions("")); n != 0 {
		t.Errorf("%d refreshes of a fresh token", n)
	}
}

func TestTokenOff(t *testing.T) {
	w := newWorld(t, func(a *gateway.App) { a.Token = gateway.TokenOff })
	b := w.browser(w.replica())
	b.login()
	want(t, b.fetch("POST", "/bff/token"), 404, "no_route")
	want(t, b.fetch("GET", "/api/x"), 200)
}

// S-07: no endpoint that tells about the session tells a token.
func TestS07NoTokens(t *testing.T) {
	w := newWorld(t, func(a *gateway.App) { a.UserClaims = append(a.UserClaims, "iss", "aud", "nonce") })
	b := w.browser(w.replica())
	b.login()
	for _, path := range []string{"/bff/user", "/bff/session"} {
		a := b.fetch("GET", path)
		want(t, a, 200)
		for _, secret := range gatewaytest.Canaries() {
			if strings.Contains(a.body, secret) {
				t.Errorf("%s shows %s: %s", path, secret, a.body)
			}
		}
		if cc := a.header.Get("Cache-Control"); cc != "no-store" {
			t.Errorf("%s: Cache-Control %q", path, cc)
		}
	}
}

func TestSession(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	when := func(a answer, field string) time.Time {
		t.Helper()
		at, err := time.Parse(time.RFC3339, a.field(field))
		if err != nil {
			t.Fatalf("%s: %v in %s", field, err, a.body)
		}
		return at
	}
	first := b.fetch("GET", "/bff/session")
	want(t, first, 200)
	now := when(first, "server_time")
	for field, after := range map[string]time.Duration{
		"created_at": 0, "idle_expires_at": 30 * time.Minute, "expires_at": 12 * time.Hour, "access_token_expires_at": tokenLife,
	} {
		if d := when(first, field).Sub(now) - after; d < -5*time.Second || d > 5*time.Second {
			t.Errorf("%s is %v off", field, d)
		}
	}
	// Polling neither keeps the session alive nor refreshes.
	for range 4 {
		w.pass(7 * time.Minute)
		if a := b.fetch("GET", "/bff/session"); !when(a, "idle_expires_at").Equal(when(first, "idle_expires_at")) {
			t.Errorf("polling moved the idle end: %s", a.body)
		}
	}
	want(t, b.fetch("GET", "/bff/user", "X-BFF-Background: 1"), 200)
	if n := len(w.provider.Redemptions("")); n != 0 {
		t.Errorf("%d refreshes", n)
	}
	w.pass(2*time.Minute + time.Second)
	a := b.fetch("GET", "/bff/user")
	want(t, a, 401, "login_required", "idle_timeout")
	if len(a.header.Values("Set-Cookie")) != 0 {
		t.Error("a dead ticket's cookie was touched")
	}
}

// E-01, E-02 at the door: what the guard refuses reaches neither Redis nor the
// provider, and rotates nothing.
func TestE02TokenGuards(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	w.pass(tokenLife) // a request that got in would refresh
	before := w.redisCommands()
	for _, test := range []struct {
		name, method string
		header       []string
	}{
		{"no X-BFF", "GET", []string{"X-Bff:"}},
		{"no X-BFF, POST", "POST", []string{"X-Bff:"}},
		{"wrong X-BFF", "GET", []string{"X-Bff: true"}},
		{"image", "GET", []string{"X-Bff:", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"}},
		{"navigation", "GET", []string{"X-Bff:", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}},
		{"prefetch", "GET", []string{"X-Bff:", "Sec-Purpose: prefetch"}},
		{"sibling", "POST", []string{"Sec-Fetch-Site: same-site", "Origin: https://evil.app.test"}},
		{"foreign origin", "POST", []string{"Origin: https://evil.test"}},
		{"form", "POST", []string{"X-Bff:", "Content-Type: application/x-www-form-urlencoded"}},
	} {
		a := b.fetch(test.method, "/bff/token", test.header...)
		if a.status != 403 || !strings.Contains(a.body, "cross_origin_blocked") || len(a.header.Values("Set-Cookie")) != 0 {
			t.Errorf("%s: %v", test.name, a)
		}
	}
	if n := w.redisCommands() - before; n != 0 {
		t.Errorf("%d Redis commands", n)
	}
	if n := len(w.provider.Redemptions("")); n != 0 {
		t.Errorf("%d refreshes", n)
	}
}

// redisCommands counts what clients have sent so far, without this question.
func (w *world) redisCommands() int {
	w.t.Helper()
	n := 0
	for line := range strings.Lines(w.redis.CLI("INFO", "commandstats")) {
		name, rest, _ := strings.Cut(line, ":calls=")
		if name == "cmdstat_info" || !strings.HasPrefix(name, "cmdstat_") {
			continue
		}
		digits, _, _ := strings.Cut(rest, ",")
		calls, err := strconv.Atoi(digits)
		if err != nil {
			w.t.Fatal(err)
		}
		n += calls
	}
	return n
}

// together runs n calls at once and returns their answers.
func together(t *testing.T, n int, call func(i int) (answer, error)) []answer {
	t.Helper()
	answers := make([]answer, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { answers[i], errs[i] = call(i) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	return answers
}

// N-03, N-04: fifty requests with one ticket whose token has run out, at one
// replica and at two.
func TestN03BenignRace(t *testing.T) {
	for _, replicas := range []int{1, 2} {
		w := newWorld(t)
		at := []*replica{w.replica()}
		if replicas == 2 {
			at = append(at, w.replica())
		}
		b := w.browser(at[0])
		b.login()
		w.pass(tokenLife)
		const n = 50
		tabs := make([]*browser, n)
		for i := range tabs {
			tabs[i] = b.copy()
			tabs[i].at = at[i%replicas]
		}
		successors := 0
		for i, a := range together(t, n, func(i int) (answer, error) { return tabs[i].try("POST", "/bff/token") }) {
			if a.status != 200 || subject("Bearer "+a.field("access_token")) != gatewaytest.SubjectOf("alice") {
				t.Errorf("%v: %s", a, a.body)
			}
			if a.handsOut() {
				successors++
				b.jar = tabs[i].jar
			}
		}
		if successors != 1 || len(w.provider.Redemptions("")) != 1 || len(w.provider.Reuses()) != 0 {
			t.Errorf("%d replicas: %d successors, %d refreshes, %d reuses", replicas, successors, len(w.provider.Redemptions("")), len(w.provider.Reuses()))
		}
		// The predecessor works beside its successor for the grace.
		late := tabs[0].copy()
		want(t, b.fetch("GET", "/bff/user"), 200)
		want(t, late.fetch("GET", "/bff/user"), 200)
	}
}

// N-05: the answer with the successor is lost. The old ticket is served without
// another refresh, and after settle it is given another successor.
func TestN05LostResponse(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	w.pass(tokenLife)
	if a := b.copy().fetch("POST", "/bff/token"); !a.handsOut() { // into a jar that is lost
		t.Fatal(a)
	}
	a := b.fetch("POST", "/bff/token")
	want(t, a, 200)
	if a.handsOut() {
		t.Error("a successor was handed out twice")
	}
	if n := len(w.provider.Redemptions("")); n != 1 {
		t.Errorf("%d refreshes", n)
	}
	w.pass(3*grace + time.Second)
	if a = b.fetch("POST", "/bff/token"); a.status != 200 || !a.handsOut() {
		t.Errorf("after settle: %v", a)
	}
	want(t, b.fetch("GET", "/bff/user"), 200)
	if n := len(w.provider.Reuses()); n != 0 {
		t.Errorf("%d reuses", n)
	}
}

// N-01: a superseded ticket after its grace is a thief's, or the owner's whom a
// thief has overtaken: the session ends, successor and all.
func TestN01Reuse(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	thief := b.copy()
	w.pass(tokenLife)
	want(t, b.fetch("POST", "/bff/token"), 200)
	want(t, b.fetch("GET", "/bff/user"), 200)
	w.pass(grace + time.Second)
	a := thief.fetch("GET", "/bff/user")
	want(t, a, 401, "login_required", "reuse_detected")
	if len(a.header.Values("Set-Cookie")) != 0 {
		t.Error("the thief's cookie was touched")
	}
	want(t, b.fetch("GET", "/bff/user"), 401, "login_required", "reuse_detected")
}

// N-06: a successor that waited for a slow upstream until its time was over does
// not leave.
func TestN06LateSuccessor(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	w.pass(tokenLife)
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) bool {
		w.pass(grace/3 + time.Second)
		return false
	})
	a := b.fetch("POST", "/api/upload")
	w.upstream.answers(nil)
	want(t, a, 200)
	if a.handsOut() {
		t.Error("it left after its hold")
	}
	// Nothing is lost by it.
	want(t, b.fetch("GET", "/bff/user"), 200)
	w.pass(3 * grace)
	if a := b.fetch("GET", "/bff/user"); a.status != 200 || !a.handsOut() {
		t.Errorf("%v", a)
	}
}

// N-09: the client leaves in the middle of a refresh, which goes on without it.
func TestN09ClientAborts(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	w.pass(tokenLife)
	hold := w.provider.Gate(gatewaytest.GateAfterCommit, gatewaytest.Refreshing)

	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "POST", "http://"+host+"/bff/token", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"X-Bff": {"1"}, "Sec-Fetch-Site": {"same-origin"}, "Cookie": {b.cookies(request{})}}
	done := make(chan error, 1)
	go func() {
		resp, err := b.plain.Do(r)
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	<-hold.Arrived()
	leave()
	if err := <-done; err == nil {
		t.Error("the client got an answer")
	}
	hold.Release()
	eventually(t, "the refresh is stored", func() bool {
		a, err := b.try("POST", "/bff/token")
		return err == nil && a.status == 200
	})
	if n := len(w.provider.Redemptions("")); n != 1 || len(w.provider.Reuses()) != 0 {
		t.Errorf("%d refreshes, %d reuses", n, len(w.provider.Reuses()))
	}
	if line := w.log.find(`"status":499`); line == "" {
		t.Error("no 499")
	}
}

// The provider's trouble is 503 and costs nobody a session; invalid_grant ends
// this one.
func TestRefreshTrouble(t *testing.T) {
	for _, test := range []struct {
		name string
		fail func(w *world) (mend func())
	}{
		{"503", func(w *world) func() {
			return w.provider.Fail(gatewaytest.FailWith{Status: 503, RetryAfter: "7"}).Clear
		}},
		{"invalid_client", func(w *world) func() {
			return w.provider.Fail(gatewaytest.FailWith{Error: "invalid_client"}).Clear
		}},
		{"refused connections", func(w *world) func() {
			w.provider.Refuse()
			return func() { w.provider.Accept() }
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			b := w.browser(w.replica())
			b.login()
			w.pass(tokenLife)
			mend := test.fail(w)
			a := b.fetch("POST", "/bff/token")
			want(t, a, 503, "provider_unavailable")
			if a.header.Get("Retry-After") == "" || len(a.header.Values("Set-Cookie")) != 0 {
				t.Errorf("%v", a)
			}
			want(t, b.fetch("GET", "/bff/session"), 200) // the session itself is well
			mend()
			w.pass(time.Minute)
			eventually(t, "the token is there again", func() bool { return b.fetch("POST", "/bff/token").status == 200 })
			if len(w.provider.Redemptions("")) != 1 || len(w.provider.Reuses()) != 0 {
				t.Errorf("%v", w.provider.Ledger())
			}
			if alarm := w.log.find(`"alarm":true`) != ""; alarm != (test.name == "invalid_client") {
				t.Errorf("the operator's alarm: %v", alarm)
			}
		})
	}
	w := newWorld(t)
	b := w.browser(w.replica())
	b.login()
	w.provider.RevokeSubject(gatewaytest.SubjectOf("alice"))
	w.pass(tokenLife)
	a := b.fetch("POST", "/bff/token")
	want(t, a, 401, "login_required", "refresh_rejected")
	if a.field("login_url") != "/bff/login" || len(a.header.Values("Set-Cookie")) != 0 {
		t.Errorf("%v %s", a, a.body)
	}
}
