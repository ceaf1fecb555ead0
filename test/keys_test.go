package test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// D-06: a server key is replaced as design.md says: append, roll out, move to
// the front, roll out, remove. Nobody is logged out on the way; a session that
// never rotated meanwhile is, at the end, and logs in again. "Roll out" may be new
// processes, or new files for the running one.
func TestServerKeyIsReplaced(t *testing.T) {
	for name, rollOut := range map[string]func(*testing.T, *rig.World){
		"new processes": func(t *testing.T, w *rig.World) {
			leaving := w.Gateways[0]
			w.Start().WaitReady()
			w.Gateways = w.Gateways[1:]
			if code := leaving.Terminate(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		},
		"reload": func(_ *testing.T, w *rig.World) { w.Gateways[0].Reload() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			replaceServerKey(t, rollOut)
		})
	}
}

// freshKey is one more server key, as the configuration names it.
func freshKey(t *testing.T, w *rig.World) string {
	t.Helper()
	text, _, _ := rig.Run(t, "keys", "new")
	w.Secret("server key", strings.TrimSpace(text))
	return "${file:" + rig.WriteFile(t, "key", text) + "}"
}

func replaceServerKey(t *testing.T, rolledOut func(*testing.T, *rig.World)) {
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: time.Second})
	w := rig.New(t, rig.Setup{Provider: reg, Change: quick})
	old := w.Config["keys"].([]any)[0]
	fresh := freshKey(t, w)
	rollOut := func(keys ...any) {
		t.Helper()
		w.Config.Set("keys", keys)
		rolledOut(t, w)
	}

	active, idle := w.NewBrowser(), w.NewBrowser()
	active.Login("alice")
	idle.Login("bob")
	tokenRunsOut(t, active)
	p.Change(func(o *gatewaytest.Options) { o.AccessLife = time.Minute })
	rollOut(old, fresh)
	if got := subject(t, token(active)); got != "sub-alice" { // the ticket rotates, under the old key
		t.Fatalf("the token is %q's", got)
	}
	p.Change(func(o *gatewaytest.Options) { o.AccessLife = 2 * time.Second })
	rollOut(fresh, old)
	late := w.NewBrowser()
	late.Login("carol")
	if r := active.Fetch(http.MethodGet, "/bff/user"); r.Status != http.StatusOK {
		t.Fatalf("after the new key came first: %s", r)
	}
	if r := idle.Fetch(http.MethodGet, "/bff/session"); r.Status != http.StatusOK {
		t.Fatalf("a session under the old key: %s", r)
	}

	rollOut(fresh)
	if got := subject(t, token(late)); got != "sub-carol" {
		t.Errorf("a session under the new key: the token is %q's", got)
	}
	wantProblem(t, token(idle), 401, "login_required", "no_session")
	idle.Login("bob")
	if got := subject(t, token(idle)); got != "sub-bob" {
		t.Errorf("the token is %q's", got)
	}
}

// D-11: whoever can write to Redis gets nobody's session: a box that was moved,
// mixed or altered opens nothing, and is never overwritten.
func TestTamperedRecordsOpenNothing(t *testing.T) {
	alarms := regexp.MustCompile(`(?m)^cloakroom_session_alarms_total\{app="shop",kind="[a-z_]+"\} [1-9]`)
	reads := regexp.MustCompile(`(?m)^cloakroom_openings_total\{source="read"\} [1-9]`)
	for _, row := range []struct {
		name string
		lua  string // KEYS: bob's record, alice's
	}{
		{"another's record", `redis.call('COPY', KEYS[2], KEYS[1], 'REPLACE')`},
		{"another's box under one's own header", `
			local mine, theirs = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
			redis.call('SET', KEYS[1], string.sub(mine, 1, 172) .. string.sub(theirs, 173), 'KEEPTTL')`},
		{"another's header above one's own box", `
			local mine, theirs = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
			redis.call('SET', KEYS[1], string.sub(theirs, 1, 172) .. string.sub(mine, 173), 'KEEPTTL')`},
		{"one byte altered", `
			local mine = redis.call('GET', KEYS[1])
			local at = 172 + 100
			local byte = string.char((string.byte(mine, at) + 1) % 256)
			redis.call('SET', KEYS[1], string.sub(mine, 1, at - 1) .. byte .. string.sub(mine, at + 1), 'KEEPTTL')`},
		{"cut short", `redis.call('SET', KEYS[1], string.sub(redis.call('GET', KEYS[1]), 1, 172), 'KEEPTTL')`},
		{"a format from the future", `redis.call('SETRANGE', KEYS[1], 0, string.char(99))`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
			w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
				c.Set("apps.0.session.cache_ttl", "0s") // every request asks Redis
			}})
			alice, bob := w.NewBrowser(), w.NewBrowser()
			alice.Login("alice")
			bob.Login("bob")
			key := func(b *rig.Browser) string {
				sid := about(t, b).SID
				for _, k := range keys(w.Redis) {
					if strings.Contains(k, sid) && boxSize(t, w.Redis.CLI("GET", k)) > 0 {
						return k
					}
				}
				t.Fatalf("no record of %s", sid)
				return ""
			}
			bobs := key(bob)
			rig.Within(t, 20*time.Second, "bob's ticket is judged by a plain read", func() bool {
				bob.Fetch(http.MethodGet, "/bff/user")
				return reads.MatchString(w.Gateways[0].Metrics())
			})
			w.Redis.CLI("EVAL", row.lua, "2", bobs, key(alice))
			before := w.Redis.CLI("DUMP", bobs)
			for _, req := range []rig.Request{
				{Method: http.MethodPost, Path: "/bff/token"},
				{Method: http.MethodGet, Path: "/bff/user"},
				{Method: http.MethodGet, Path: "/api/orders"},
			} {
				r := bob.Send(req)
				if r.Status != http.StatusUnauthorized && r.Status != http.StatusServiceUnavailable {
					t.Errorf("%s: %s", req.Path, r)
				}
				if len(r.SetCookies) > 0 || strings.Contains(string(r.Body), "alice") {
					t.Errorf("%s: %s", req.Path, r.Body)
				}
				if !alarms.MatchString(w.Gateways[0].Metrics()) {
					t.Errorf("%s: no alarm", req.Path)
				}
			}
			if w.Redis.CLI("DUMP", bobs) != before {
				t.Error("the gateway wrote over what it can't read")
			}
			if got := subject(t, token(alice)); got != "sub-alice" {
				t.Errorf("alice's cookie opens %q's session", got)
			}
		})
	}
}

// M-11, as design.md has it: Redis comes back with an older version. The ticket
// that is newer than the record is no reuse: 503 first, then store_lost.
func TestOlderRecordIsStoreLost(t *testing.T) {
	t.Parallel()
	p, w, b := quickWorld(t)
	sid := about(t, b).SID
	for _, k := range keys(w.Redis) {
		if strings.Contains(k, sid) {
			w.Redis.CLI("COPY", k, "older:"+k)
		}
	}
	if r := token(b); r.Successor() == "" {
		t.Fatalf("the refresh handed out no successor: %s", r)
	}
	if got := subject(t, token(b)); got != "sub-alice" {
		t.Fatalf("the token is %q's", got)
	}
	for _, k := range keys(w.Redis) {
		if strings.Contains(k, sid) && !strings.HasPrefix(k, "older:") {
			w.Redis.CLI("DEL", k)
		}
	}
	for _, k := range keys(w.Redis) {
		if was, ok := strings.CutPrefix(k, "older:"); ok {
			w.Redis.CLI("RENAME", k, was)
		}
	}
	since, refused := time.Now(), 0
	rig.Within(t, 20*time.Second, "the session is given up", func() bool {
		r := token(b)
		switch {
		case r.Status == http.StatusOK && time.Since(since) < 2*time.Second:
			return false // from a replica's cache
		case r.Status == http.StatusServiceUnavailable:
			wantProblem(t, r, 503, "store_unavailable", "")
			refused++
			return false
		}
		wantProblem(t, r, 401, "login_required", "store_lost")
		return true
	})
	if refused == 0 || time.Since(since) < 9*time.Second {
		t.Errorf("given up after %v and %d answers of 503, want ten seconds of them", time.Since(since), refused)
	}
	if reuses := p.Reuses(); len(reuses) > 0 {
		t.Errorf("reuse at the provider: %v", reuses)
	}
}
