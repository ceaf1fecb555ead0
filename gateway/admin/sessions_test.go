package admin

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// sidOf spells 16 bytes as a sid.
func sidOf(b []byte) string { return session.SID(b).String() }

func sids(answer map[string]any) (out []string) {
	for _, s := range answer["sessions"].([]any) {
		out = append(out, s.(map[string]any)["sid"].(string))
	}
	return out
}

func TestList(t *testing.T) {
	w := newWorld(t)
	first, second := w.begin(w.shop, "alice"), w.begin(w.desk, "alice")
	w.begin(w.shop, "bob")

	t.Run("by sid", func(t *testing.T) {
		status, answer := w.get("sid=" + first.SID.String())
		if status != 200 || len(answer["sessions"].([]any)) != 1 {
			t.Fatalf("got %d %v", status, answer)
		}
		s := answer["sessions"].([]any)[0].(map[string]any)
		if s["sid"] != first.SID.String() || s["app"] != "shop" || s["sub"] != "alice" || s["address"] != "192.0.2.7" || s["browser"] != "Firefox" || s["ended"] != false {
			t.Errorf("got %v", s)
		}
		for _, key := range []string{"created_at", "seen_at", "expires_at"} {
			if at, err := time.Parse(time.RFC3339, s[key].(string)); err != nil || time.Until(at).Abs() > 13*time.Hour {
				t.Errorf("%s is %v", key, s[key])
			}
		}
	})
	t.Run("by sub, in all apps", func(t *testing.T) {
		if status, answer := w.get("sub=alice"); status != 200 || fmt.Sprint(sids(answer)) != fmt.Sprint([]string{second.SID.String(), first.SID.String()}) {
			t.Errorf("got %d %v", status, answer)
		}
	})
	t.Run("by sub, in one", func(t *testing.T) {
		if status, answer := w.get("sub=alice&app=desk"); status != 200 || fmt.Sprint(sids(answer)) != fmt.Sprint([]string{second.SID.String()}) {
			t.Errorf("got %d %v", status, answer)
		}
		line := w.log.last(t)
		if line["action"] != "sessions.list" || line["app"] != "desk" || line["sub_sha256"] != "2bd806c97f0e00af" || line["found"] != float64(1) {
			t.Errorf("audited as %v", line)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		if status, answer := w.get("sub=carol"); status != 200 || len(sids(answer)) != 0 {
			t.Errorf("got %d %v", status, answer)
		}
	})
	for _, row := range []struct {
		name, query string
		status      int
		code        string
	}{
		{"nothing named", "", 400, "invalid_request"},
		{"a whole app", "app=shop", 400, "invalid_request"},
		{"both", "sub=alice&sid=" + first.SID.String(), 400, "invalid_request"},
		{"twice", "sub=alice&sub=bob", 400, "invalid_request"},
		{"unknown parameter", "sub=alice&user=bob", 400, "invalid_request"},
		{"bad escape", "sub=%zz", 400, "invalid_request"},
		{"malformed sid", "sid=..%2Fx", 400, "invalid_request"},
		{"unknown sid", "sid=AAAAAAAAAAAAAAAAAAAAAA", 404, "no_session"},
		{"another app's sid", "app=desk&sid=" + first.SID.String(), 404, "no_session"},
		{"unknown app", "app=x&sub=alice", 404, "no_app"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if status, answer := w.get(row.query); status != row.status || answer["code"] != row.code {
				t.Errorf("got %d %v, want %d %s", status, answer, row.status, row.code)
			}
		})
	}
	if log := w.log.text(); strings.Contains(log, "alice") {
		t.Error("the log names a subject")
	}
}

// U-04: a kill is authorized, audited and idempotent, and ends exactly what it
// names.
func TestEnd(t *testing.T) {
	t.Run("one session", func(t *testing.T) {
		w := newWorld(t)
		one, other := w.begin(w.shop, "alice"), w.begin(w.shop, "alice")
		w.wantAlive(w.shop, one)
		body := fmt.Sprintf(`{"sid":%q,"reason":"ticket 4711"}`, one.SID)
		if status, answer := w.post("end", body); status != 200 || answer["ended"] != float64(1) {
			t.Errorf("got %d %v", status, answer)
		}
		w.wantEnded(w.shop, one, false)
		w.wantAlive(w.shop, other)
		line := w.log.last(t)
		if line["audit"] != true || line["action"] != "sessions.end" || line["sid"] != one.SID.String() || line["app"] != "shop" || line["reason"] != "ticket 4711" || line["ended"] != float64(1) || line["level"] != "INFO" {
			t.Errorf("audited as %v", line)
		}
		if status, answer := w.post("end", body); status != 200 || answer["ended"] != float64(0) {
			t.Errorf("again: got %d %v", status, answer)
		}
		// A dead one can be looked at, and tells why it died and nothing of whose
		// it was.
		_, answer := w.get("sid=" + one.SID.String())
		if s := answer["sessions"].([]any)[0].(map[string]any); s["ended"] != true || s["reason"] != "revoked" || s["sub"] != nil {
			t.Errorf("shown as %v", s)
		}
	})
	t.Run("a subject's", func(t *testing.T) {
		w := newWorld(t)
		one, two := w.begin(w.shop, "alice"), w.begin(w.shop, "alice")
		bob, elsewhere := w.begin(w.shop, "bob"), w.begin(w.desk, "alice")
		if status, answer := w.post("end", `{"sub":"alice","app":"shop"}`); status != 200 || answer["ended"] != float64(2) {
			t.Errorf("got %d %v", status, answer)
		}
		w.wantEnded(w.shop, one, false)
		w.wantEnded(w.shop, two, false)
		w.wantAlive(w.shop, bob)
		w.wantAlive(w.desk, elsewhere)
		if status, answer := w.post("end", `{"sub":"alice","app":"shop"}`); status != 200 || answer["ended"] != float64(0) {
			t.Errorf("again: got %d %v", status, answer)
		}
		if status, answer := w.post("end", `{"sub":"carol","app":"shop"}`); status != 200 || answer["ended"] != float64(0) {
			t.Errorf("nobody: got %d %v", status, answer)
		}
		w.wantAlive(w.shop, w.begin(w.shop, "alice"))
	})
	t.Run("an app's", func(t *testing.T) {
		w := newWorld(t)
		one, two, elsewhere := w.begin(w.shop, "alice"), w.begin(w.shop, "bob"), w.begin(w.desk, "alice")
		if status, answer := w.post("end", `{"app":"shop","reason":"keys lost"}`); status != 200 || answer["all"] != true {
			t.Errorf("got %d %v", status, answer)
		}
		w.wantEnded(w.shop, one, false)
		w.wantEnded(w.shop, two, false)
		w.wantAlive(w.desk, elsewhere)
	})
	t.Run("a login on its way", func(t *testing.T) {
		w := newWorld(t)
		issued := time.Now().Add(-time.Second)
		w.post("end", `{"sub":"alice","app":"shop"}`)
		_, err := w.keeper.Begin(t.Context(), w.shop, session.Login{Issuer: issuer, Subject: "alice", IssuedAt: issued, Claims: []byte(`{}`)})
		if _, ok := errors.AsType[*session.EndedError](err); !ok {
			t.Errorf("began: %v", err)
		}
	})
}

func TestLock(t *testing.T) {
	locked := func(w *world) bool {
		_, err := w.login(w.shop, "alice")
		e, ok := errors.AsType[*session.EndedError](err)
		return ok && e.Locked
	}
	t.Run("a subject, until lifted", func(t *testing.T) {
		w := newWorld(t)
		one := w.begin(w.shop, "alice")
		if status, answer := w.post("end", `{"sub":"alice","app":"shop","locked":true,"reason":"fraud"}`); status != 200 || answer["ended"] != float64(1) {
			t.Errorf("got %d %v", status, answer)
		}
		w.wantEnded(w.shop, one, true)
		if !locked(w) {
			t.Error("can log in")
		}
		w.wantAlive(w.shop, w.begin(w.shop, "bob"))
		w.wantAlive(w.desk, w.begin(w.desk, "alice"))
		if status, answer := w.post("unlock", `{"sub":"alice","app":"shop","reason":"mended"}`); status != 200 || answer["unlocked"] != true {
			t.Errorf("unlock: got %d %v", status, answer)
		}
		if line := w.log.last(t); line["action"] != "sessions.unlock" || line["app"] != "shop" || line["sub_sha256"] == nil || line["reason"] != "mended" {
			t.Errorf("audited as %v", line)
		}
		w.wantEnded(w.shop, one, false)
		w.wantAlive(w.shop, w.begin(w.shop, "alice"))
		if status, _ := w.post("unlock", `{"sub":"alice","app":"shop"}`); status != 200 {
			t.Errorf("again: got %d", status)
		}
	})
	t.Run("ending can't lift it", func(t *testing.T) {
		w := newWorld(t)
		w.post("end", `{"sub":"alice","app":"shop","locked":true}`)
		w.post("end", `{"sub":"alice","app":"shop","locked":false}`)
		if !locked(w) {
			t.Error("can log in")
		}
	})
	t.Run("a subject, until a time", func(t *testing.T) {
		w := newWorld(t)
		until := time.Now().Add(1500 * time.Millisecond)
		body := fmt.Sprintf(`{"sub":"alice","app":"shop","locked":true,"until":%q}`, until.Format(time.RFC3339Nano))
		if status, answer := w.post("end", body); status != 200 {
			t.Fatalf("got %d %v", status, answer)
		}
		if !locked(w) {
			t.Error("can log in")
		}
		for locked(w) {
			if time.Since(until) > 5*time.Second {
				t.Fatal("is locked for ever")
			}
		}
	})
	t.Run("one session", func(t *testing.T) {
		w := newWorld(t)
		one := w.begin(w.shop, "alice")
		w.post("end", fmt.Sprintf(`{"sid":%q,"locked":true}`, one.SID))
		w.wantEnded(w.shop, one, true)
		if locked(w) {
			t.Error("can't log in")
		}
		_, answer := w.get("sid=" + one.SID.String())
		if s := answer["sessions"].([]any)[0].(map[string]any); s["locked"] != true {
			t.Errorf("shown as %v", s)
		}
		w.post("unlock", fmt.Sprintf(`{"sid":%q}`, one.SID))
		w.wantEnded(w.shop, one, false)
	})
}

func TestStoreDown(t *testing.T) {
	w := newWorld(t)
	ticket := w.begin(w.shop, "alice")
	w.redis.Kill()
	for _, body := range []string{fmt.Sprintf(`{"sid":%q}`, ticket.SID), `{"sub":"alice","app":"shop"}`, `{"app":"shop"}`} {
		status, answer := w.post("end", body)
		if status != 503 || answer["code"] != "store_unavailable" || answer["retry_after"].(float64) < 1 {
			t.Errorf("%s: got %d %v", body, status, answer)
		}
		for _, v := range answer {
			if s, ok := v.(string); ok && strings.Contains(s, w.redis.Addr()) {
				t.Errorf("shows the address: %s", s)
			}
		}
	}
}
