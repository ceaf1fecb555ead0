package test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	sess "github.com/cloakroom/cloakroom/session"
	"github.com/cloakroom/cloakroom/session/store"
	"github.com/cloakroom/cloakroom/test/rig"
)

// populate begins sessions as a gateway of w would, without one: owner tells
// whose the nth is.
func populate(t *testing.T, w *rig.World, issuer string, sessions int, owner func(n int) string) {
	t.Helper()
	path := strings.TrimSuffix(strings.TrimPrefix(w.Config["keys"].([]any)[0].(string), "${file:"), "}")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != len(sess.ServerKey{}) {
		t.Fatalf("a server key of %d bytes: %v", len(key), err)
	}
	ring, err := sess.NewKeyring(sess.ServerKey(key))
	if err != nil {
		t.Fatal(err)
	}
	st := store.New(store.Options{Address: w.Redis.Addr(), KeyPrefix: "cloakroom:"})
	defer st.Close()
	keeper := sess.New(st, ring, sess.Options{})
	app := &sess.App{Name: "shop", IdleTimeout: 30 * time.Minute, AbsoluteTimeout: 12 * time.Hour, Grace: time.Minute, CacheTTL: 5 * time.Second}
	var work sync.WaitGroup
	next := make(chan int)
	for range 16 {
		work.Go(func() {
			for n := range next {
				now := time.Now()
				_, err := keeper.Begin(t.Context(), app, sess.Login{
					Tokens: sess.Tokens{
						Access: sess.AccessToken(strings.Repeat("a", 700)), TokenType: "Bearer", IssuedAt: now,
						ExpiresAt: now.Add(5 * time.Minute), Refresh: sess.RefreshToken(strings.Repeat("r", 60)),
					},
					Issuer: issuer, Subject: owner(n), ProviderSession: fmt.Sprint("op-", n), IssuedAt: now,
					Claims: []byte(`{"name":"Somebody"}`), Address: "10.0.0.1", Browser: "Mozilla/5.0",
				})
				if err != nil {
					t.Errorf("begin: %v", err)
					return
				}
			}
		})
	}
	for n := range sessions {
		next <- n
	}
	close(next)
	work.Wait()
}

var calls = regexp.MustCompile(`cmdstat_([a-z_|]+):calls=(\d+)`)

// commands counts what Redis is asked while f runs, by command. The replicas'
// beats are among it. ZSCAN is for the index of one user.
func commands(t *testing.T, w *rig.World, f func()) (by map[string]int, total int) {
	t.Helper()
	w.Redis.CLI("CONFIG", "RESETSTAT")
	f()
	by = map[string]int{}
	for _, m := range calls.FindAllStringSubmatch(w.Redis.CLI("INFO", "commandstats"), -1) {
		n, _ := strconv.Atoi(m[2])
		by[m[1]] = n
		if m[1] != "info" && m[1] != "config|resetstat" {
			total += n
		}
	}
	for name := range by {
		if slices.Contains([]string{"keys", "scan", "sscan", "hscan", "randomkey", "flushall", "flushdb"}, name) {
			t.Errorf("Redis was asked for %s", name)
		}
	}
	return by, total
}

// A user has many sessions in a store of many more. To list them, and to end all
// the others, takes as many commands as the user has sessions, whatever else is
// there: nothing goes through the keyspace.
//
// 100 of 2,000; or CROWD_USER of CROWD, as 1000 of 100000.
func TestManySessionsOfOneUser(t *testing.T) {
	t.Parallel()
	crowd, own := number(t, "CROWD", 2000), number(t, "CROWD_USER", 100)
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2})
	alices := gatewaytest.SubjectOf("alice")
	began := time.Now()
	populate(t, w, reg.Issuer, crowd, func(n int) string {
		if n < own {
			return alices
		}
		return fmt.Sprint("sub-user", n)
	})
	t.Logf("%d sessions begun in %v; Redis has %s keys in %s", crowd, time.Since(began).Round(time.Millisecond),
		w.Redis.CLI("DBSIZE"), strings.TrimSpace(between(w.Redis.CLI("INFO", "memory"), "used_memory_human:", "\n")))

	b, other := w.NewBrowser(), w.NewBrowser()
	b.Login("alice")
	other.Login("bob")
	var list struct {
		Sessions []struct {
			SID string `json:"sid"`
		} `json:"sessions"`
	}
	measure := func(what string, atMost int, f func()) {
		t.Helper()
		var took time.Duration
		by, total := commands(t, w, func() {
			from := time.Now()
			f()
			took = time.Since(from)
		})
		t.Logf("%-22s %8v  %6d commands  %v", what, took.Round(10*time.Microsecond), total, by)
		// Beats go on meanwhile: some commands each, twice a second and replica.
		if beats := 40 + 40*int(took.Seconds()); total > atMost+beats {
			t.Errorf("%s: %d commands, want at most %d", what, total, atMost)
		}
	}
	measure("GET /bff/sessions", own+10, func() {
		r := b.Fetch(http.MethodGet, "/bff/sessions")
		r.JSON(t, &list)
	})
	if len(list.Sessions) != own+1 {
		t.Fatalf("the list has %d sessions, want %d", len(list.Sessions), own+1)
	}
	measure("admin list by sub", own+10, func() {
		if err := w.Gateways[0].Listed("app=shop&sub="+alices, &list); err != nil {
			t.Fatal(err)
		}
	})
	if len(list.Sessions) != own+1 {
		t.Errorf("the operator's list has %d sessions, want %d", len(list.Sessions), own+1)
	}
	var ended struct {
		Ended int `json:"ended"`
	}
	// Of an end: the script, and what it does.
	measure("DELETE /bff/sessions", 12*own+20, func() {
		b.Fetch(http.MethodDelete, "/bff/sessions").JSON(t, &ended)
	})
	if ended.Ended != own {
		t.Errorf("%d sessions ended, want %d", ended.Ended, own)
	}
	b.Fetch(http.MethodGet, "/bff/sessions").JSON(t, &list)
	if len(list.Sessions) != 1 {
		t.Errorf("the list has %d sessions left", len(list.Sessions))
	}
	measure("end all by sub", 40, func() { w.Gateways[0].End(map[string]any{"app": "shop", "sub": alices}) })
	wantEnded(t, w, b, "revoked")
	measure("end the app", 20, func() { w.Gateways[0].End(map[string]any{"app": "shop"}) })
	wantEnded(t, w, other, "revoked")
}

// between is what stands in a text between two others.
func between(text, before, after string) string {
	_, rest, _ := strings.Cut(text, before)
	found, _, _ := strings.Cut(rest, after)
	return found
}
