package test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// aSecond is design.md's bound: within it an ended session is refused by every
// replica that hears its beat, and no replica trusts its cache for longer without
// one. The rest is for the machine.
const aSecond = time.Second + 300*time.Millisecond

// The channel of events to one replica is cut again and again, half-open, or
// slow. What is ended at the other replica is served no longer than a second, and
// with a channel that brings no beat in time nothing is served from the cache.
func TestNothingEndedIsServedByADeafReplica(t *testing.T) {
	for _, row := range []struct {
		name  string
		spoil func(t *testing.T, w *rig.World, line *rig.Line)
		deaf  bool
	}{
		{"as it should be", func(*testing.T, *rig.World, *rig.Line) {}, false},
		{"cut", func(t *testing.T, w *rig.World, _ *rig.Line) { killSubscriptions(t, w) }, true},
		{"half-open", func(_ *testing.T, _ *rig.World, line *rig.Line) { line.Mute(true) }, true},
		{"late by 600 ms", func(_ *testing.T, _ *rig.World, line *rig.Line) { line.Delay(600 * time.Millisecond) }, false},
		{"late by 3 s", func(_ *testing.T, _ *rig.World, line *rig.Line) { line.Delay(3 * time.Second) }, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
			w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
				mints(t, c)
				live(t, c)
				// Far above the bound: it isn't age that ends what is cached.
				c.Set("apps.0.session.cache_ttl", "30s")
			}})
			line := rig.NewLine(t, w.Redis.Addr())
			w.Config.Set("redis.addresses", []any{line.Addr()})
			there := w.Start()
			there.WaitReady()
			here := w.Gateways[0]

			b, stays := w.NewBrowser(), w.NewBrowser()
			b.Login("alice")
			stays.Login("bob")
			bearer := accessToken(t, token(b))
			nobody := w.NewBrowser()
			asks := map[string]func() (bool, error){
				"cookie": func() (bool, error) { return isOut(b, rig.Request{Path: "/live/", On: there}, "login_required") },
				"bearer": func() (bool, error) {
					return isOut(nobody, rig.Request{Path: "/bearer/", On: there, Header: http.Header{"Authorization": {"Bearer " + bearer}}}, "token_invalid")
				},
			}
			warm := func() {
				t.Helper()
				for what, ask := range asks {
					for range 3 {
						if out, err := ask(); out || err != nil {
							t.Fatalf("%s, before its end: %v %v", what, out, err)
						}
					}
				}
			}
			warm()
			socket, err := b.Socket(there, "/live/socket", nil)
			if err != nil {
				t.Fatal(err)
			}
			events, err := b.Events(there, "/live/events", nil)
			if err != nil {
				t.Fatal(err)
			}

			row.spoil(t, w, line)
			if row.deaf {
				rig.Eventually(t, "the replica notices", func() bool { return readsRedis(t, w, stays, there) })
			} else {
				rig.Eventually(t, "the replica hears", func() bool { return !readsRedis(t, w, stays, there) })
			}
			warm()

			here.End(map[string]any{"sid": about(t, b).SID})
			ended := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
			defer cancel()
			var wg sync.WaitGroup
			for what, ask := range asks {
				wg.Go(func() {
					served, refused, err := poll(ctx, ask)
					switch {
					case err != nil:
						t.Errorf("%s: %v", what, err)
					case !served.IsZero() && served.Sub(ended) > aSecond:
						t.Errorf("%s: served %v after the end", what, served.Sub(ended))
					default:
						t.Logf("%s: refused %v after the end", what, refused.Sub(ended).Round(100*time.Microsecond))
					}
				})
			}
			wg.Wait()
			for what, s := range map[string]*rig.Stream{"WebSocket": socket, "event stream": events} {
				select {
				case <-s.Done():
				case <-time.After(rig.Patience):
					t.Fatalf("the %s is still open", what)
				}
				t.Logf("%s: over %v after the end, code %d", what, s.At.Sub(ended).Round(100*time.Microsecond), s.Code)
				if late := s.At.Sub(ended); late > 2*aSecond { // it is looked at each half second
					t.Errorf("the %s was open for %v after the end", what, late)
				}
			}
			if socket.Code != 4401 {
				t.Errorf("the WebSocket was closed with %d", socket.Code)
			}
			if out, err := isOut(stays, rig.Request{Path: "/live/", On: there}, "login_required"); out || err != nil {
				t.Errorf("somebody else: %v %v", out, err)
			}
		})
	}
}

// readsRedis reports whether a replica asks Redis about each of many requests of
// one session.
func readsRedis(t *testing.T, w *rig.World, b *rig.Browser, g *rig.Gateway) bool {
	t.Helper()
	const requests = 40
	opened := func() (n int) {
		for _, how := range []string{"read", "script"} {
			n += counter(g.Metrics(), `cloakroom_[a-z_]*openings_total\{[^}]*"`+how+`"[^}]*\}`)
		}
		return n
	}
	before := opened()
	for range requests {
		if out, err := isOut(b, rig.Request{Path: "/live/", On: g}, "login_required"); out || err != nil {
			t.Fatalf("out %v, %v", out, err)
		}
	}
	return opened()-before >= requests
}

// counter is the sum of the metrics that a pattern finds.
func counter(metrics, pattern string) (sum int) {
	for _, m := range regexp.MustCompile(`(?m)^`+pattern+` (\d+)$`).FindAllStringSubmatch(metrics, -1) {
		n, _ := strconv.Atoi(m[1])
		sum += n
	}
	return sum
}

// killSubscriptions cuts every subscription, over and over, until the test ends.
func killSubscriptions(t *testing.T, w *rig.World) {
	t.Helper()
	c, err := net.Dial("tcp", w.Redis.Addr())
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	kill := func() error {
		if _, err := fmt.Fprint(c, "CLIENT KILL TYPE pubsub\r\n"); err != nil {
			return err
		}
		_, err := in.ReadString('\n')
		return err
	}
	if err := kill(); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if kill() != nil {
					return // Redis is gone
				}
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		c.Close()
	})
}

// Redis freezes. Nobody can end a session then, and nobody says so; a replica
// serves from its cache for a second, and then nothing. When Redis goes on, the
// end works, at once and everywhere.
func TestEndsAroundAFrozenRedis(t *testing.T) {
	t.Parallel()
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: func(c rig.Config) {
		mints(t, c)
		live(t, c)
		c.Set("apps.0.session.cache_ttl", "30s")
		c.Set("redis.timeout", "1s")
	}})
	here, there := w.Gateways[0], w.Gateways[1]
	b := w.NewBrowser()
	b.Login("alice")
	sid := about(t, b).SID
	rig.Eventually(t, "the cache is warm", func() bool { return !readsRedis(t, w, b, there) })

	w.Redis.Stop()
	frozen := time.Now()
	ended := make(chan string, 1)
	go func() {
		status, body, err := here.Order("/admin/sessions/end", map[string]any{"sid": sid})
		ended <- fmt.Sprint(status, body, err)
		if status != http.StatusServiceUnavailable {
			t.Errorf("an end without a store: %d %s %v", status, body, err)
		}
	}()
	var last time.Time
	for time.Since(frozen) < 3*time.Second {
		asked := time.Now()
		r, err := b.Try(rig.Request{Path: "/live/", On: there})
		switch {
		case err != nil:
			t.Fatal(err)
		case r.Status == http.StatusOK:
			last = asked
		default:
			wantProblem(t, r, 503, "store_unavailable", "")
		}
	}
	if last.Sub(frozen) > aSecond {
		t.Errorf("served from the cache %v after Redis froze", last.Sub(frozen))
	}
	<-ended
	w.Redis.Cont()
	here.WaitReady()
	there.WaitReady()
	here.End(map[string]any{"sid": sid})
	done := time.Now()
	for {
		asked := time.Now()
		r := b.Send(rig.Request{Path: "/live/", On: there})
		if r.Status == http.StatusUnauthorized {
			break
		}
		if asked.Sub(done) > aSecond {
			t.Fatalf("%v after the end: %s", asked.Sub(done), r)
		}
	}
	wantEnded(t, w, b, "revoked")
}
