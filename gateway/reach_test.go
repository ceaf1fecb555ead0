package gateway_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/session"
)

// How long an end takes to reach the other replica, which has the session in its
// cache, its bearer verified, and its streams open.
func TestEndReachesTheOtherReplica(t *testing.T) { endsReach(t, 32, 32) }

func BenchmarkEndReachesTheOtherReplica(b *testing.B) {
	for b.Loop() {
		endsReach(b, 1000, 200)
	}
}

func endsReach(t testing.TB, live, ended int) {
	w := newMintWorld(t, func(a *gateway.App) { a.Session.CacheTTL = 5 * time.Second })
	w.upstream.streams(t)
	here, there := w.listening(), w.listening()
	type user struct {
		b          *browser
		sid        session.SID
		token      string
		ws, events *stream
	}
	users := make([]user, live)
	var logins sync.WaitGroup
	for i := range 8 {
		logins.Go(func() {
			for n := i; n < live; n += 8 {
				b := w.browser(here)
				b.login()
				b.at = there
				sid, _ := session.ParseSID(b.fetch("GET", "/bff/session").field("sid"))
				users[n] = user{b: b, sid: sid, token: b.fetch("POST", "/bff/token").field("access_token")}
			}
		})
	}
	logins.Wait()
	keepAlive := &http.Client{Transport: &http.Transport{}}
	defer keepAlive.CloseIdleConnections()
	status := func(u user, path string, byCookie bool) int {
		r, _ := http.NewRequest("GET", "http://"+there.addr+path, nil)
		r.Host = host
		if byCookie {
			r.Header = http.Header{"Cookie": {u.b.cookies(request{})}, "X-Bff": {"1"}}
		} else {
			r.Header = http.Header{"Authorization": {"Bearer " + u.token}}
		}
		resp, err := keepAlive.Do(r)
		if err != nil {
			t.Error(err)
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}

	took := map[string][]time.Duration{}
	for n := range ended {
		u := users[n]
		u.ws, u.events = u.b.stream("/api/ws", ""), u.b.stream("/api/events", "")
		for range 2 {
			if status(u, "/api/x", true) != 200 || status(u, "/both/x", false) != 200 {
				t.Fatal("not served before its end")
			}
		}
		var mu sync.Mutex
		var kinds sync.WaitGroup
		var start time.Time
		ready := make(chan struct{})
		measure := func(kind string, over func() bool) {
			kinds.Go(func() {
				<-ready
				for !over() {
					if time.Since(start) > 10*time.Second {
						t.Error(kind + " is never over")
						return
					}
				}
				mu.Lock()
				defer mu.Unlock()
				took[kind] = append(took[kind], time.Since(start))
			})
		}
		measure("cookie", func() bool { return status(u, "/api/x", true) == 401 })
		measure("bearer", func() bool { return status(u, "/both/x", false) == 401 })
		measure("WebSocket", func() bool {
			if code, err := u.ws.over(); code != 4401 || err != nil {
				t.Error(code, err)
			}
			return true
		})
		measure("event stream", func() bool {
			if _, err := u.events.over(); err != nil {
				t.Error(err)
			}
			return true
		})
		start = time.Now()
		close(ready)
		if err := here.keeper.End(t.Context(), &session.App{Name: "shop"}, u.sid, session.ReasonRevoked); err != nil {
			t.Fatal(err)
		}
		kinds.Wait()
	}
	for kind, all := range took {
		slices.Sort(all)
		p50, p99, worst := all[len(all)/2], all[len(all)*99/100], all[len(all)-1]
		t.Log(fmt.Sprintf("%-12s %d live, %d ended: p50 %v, p99 %v, worst %v", kind, live, len(all), p50, p99, worst))
		if worst > 5*time.Second || p99 > time.Second {
			t.Errorf("%s: p99 %v, worst %v", kind, p99, worst)
		}
	}
}
