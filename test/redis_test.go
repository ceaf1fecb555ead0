package test

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/session/storetest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// Redis hangs for five seconds: 503, and no cookie is touched. Afterwards the
// same cookies work.
func TestRedisStoppedForFiveSeconds(t *testing.T) {
	t.Parallel()
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2})
	b := w.NewBrowser()
	b.Login("alice")
	subject(t, token(b))
	cookie := b.Cookie()

	w.Redis.Stop()
	stopped := time.Now()
	refused := 0
	for time.Since(stopped) < 5*time.Second {
		for _, g := range w.Gateways {
			r := b.Send(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: g})
			if r.Status == http.StatusOK && time.Since(stopped) < 2*time.Second {
				continue // from its cache, which it may trust for a second after the last beat
			}
			wantProblem(t, r, 503, "store_unavailable", "")
			if r.Header.Get("Retry-After") == "" {
				t.Error("store_unavailable without Retry-After")
			}
			refused++
		}
		// A logout claims nothing that it can't do.
		out := b.Fetch(http.MethodPost, "/bff/logout")
		wantProblem(t, out, 503, "store_unavailable", "")
	}
	if refused == 0 {
		t.Error("nothing was refused while Redis was stopped")
	}
	for _, g := range w.Gateways {
		if g.Ready() {
			t.Error("a gateway without its Redis says it is ready")
		}
	}
	w.Redis.Cont()
	for _, g := range w.Gateways {
		g.WaitReady()
		rig.Within(t, 10*time.Second, "the same cookie works", func() bool {
			r := b.Send(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: g})
			if r.Status != http.StatusOK {
				wantProblem(t, r, 503, "store_unavailable", "")
				return false
			}
			return subject(t, r) == "sub-alice"
		})
	}
	if b.Cookie() != cookie {
		t.Error("the cookie has changed")
	}
}

// Redis dies and comes back with what it had on disk: 503, then the same cookies.
func TestRedisRestarted(t *testing.T) {
	t.Parallel()
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: time.Second})
	w := rig.New(t, rig.Setup{
		Provider: reg, Replicas: 2,
		Redis: storetest.Redis(t, "--appendonly", "yes", "--appendfsync", "always"),
	})
	b := w.NewBrowser()
	b.Login("alice")
	tokenRunsOut(t, b)
	cookie := b.Cookie()
	w.Redis.Kill()
	for range 4 {
		wantProblem(t, token(b), 503, "store_unavailable", "")
	}
	if n := len(p.Redemptions("")); n != 0 {
		t.Errorf("%d refreshes without a store to keep them in", n)
	}
	w.Redis.Restart()
	if b.Cookie() != cookie {
		t.Error("the cookie has changed")
	}
	rig.Within(t, 10*time.Second, "the same cookie works", func() bool {
		r := token(b)
		if r.Status != http.StatusOK {
			wantProblem(t, r, 503, "store_unavailable", "")
			return false
		}
		return subject(t, r) == "sub-alice"
	})
}

// A Redis that is down when the gateway starts is waited for: not ready, and
// logged.
func TestRedisDownAtStart(t *testing.T) {
	t.Parallel()
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	redis := storetest.Redis(t)
	redis.Kill()
	w := rig.New(t, rig.Setup{Provider: reg, Redis: redis, Replicas: -1})
	g := w.Start()
	rig.Eventually(t, "it is logged", func() bool {
		out := strings.ToLower(g.Output())
		return strings.Contains(out, `"level":"warn"`) && strings.Contains(out, "redis") || strings.Contains(out, `"level":"error"`) && strings.Contains(out, "redis")
	})
	if g.Ready() {
		t.Error("ready without a Redis")
	}
	redis.Restart()
	g.WaitReady()
	b := w.NewBrowser()
	b.Login("alice")
	if got := subject(t, token(b)); got != "sub-alice" {
		t.Errorf("the token is %q's", got)
	}
}

// What is in Redis, and what is sent there, holds no token, no cookie and no
// subject in clear; every key has a TTL; a session takes at most two keys and
// 800 bytes beside its box. What finds it, by subject and by the provider's
// session, is in indexes: one key each.
func TestRedisHoldsNothingInClear(t *testing.T) {
	t.Parallel()
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: time.Second})
	w := rig.New(t, rig.Setup{
		Provider: reg, Replicas: 2, Change: quick,
		Redis: storetest.Redis(t, "--rdbcompression", "no"),
	})
	constant := len(keys(w.Redis))
	sent := monitor(t, w.Redis)

	var browsers []*rig.Browser
	for _, user := range []string{"alice", "bob", "carol", "dave", "erin"} {
		b := w.NewBrowser()
		b.Login(user)
		browsers = append(browsers, b)
	}
	measure := func(when string) {
		t.Helper()
		all := keys(w.Redis)
		for _, key := range all {
			if ttl, _ := strconv.Atoi(w.Redis.CLI("PTTL", key)); ttl <= 0 && w.Redis.CLI("EXISTS", key) == "1" {
				t.Errorf("%s: %s has no TTL", when, key)
			}
		}
		others := len(all)
		for _, b := range browsers {
			sid, usage, box, own := about(t, b).SID, 0, 0, 0
			for _, key := range all {
				if !strings.Contains(key, "{"+sid+"}") {
					continue
				}
				own++
				n, err := strconv.Atoi(w.Redis.CLI("MEMORY", "USAGE", key, "SAMPLES", "0"))
				if err != nil {
					t.Fatal(err)
				}
				usage += n
				box += boxSize(t, w.Redis.CLI("GET", key))
			}
			t.Logf("%s: %d keys, %d bytes, the box is %d of them", when, own, usage, box)
			if own < 1 || own > 2 {
				t.Errorf("%s: a session has %d keys, want one or two", when, own)
			}
			others -= own
			if box < 500 {
				t.Errorf("%s: a box of %d bytes can't hold the tokens", when, box)
			}
			if usage-box > 800 {
				t.Errorf("%s: a session takes %d bytes beside its box, want at most 800", when, usage-box)
			}
		}
		// Beside the sessions there are their indexes: by user, and by the
		// provider's session.
		if most := constant + 2*len(browsers); others > most {
			t.Errorf("%s: %d keys beside the sessions' own, want at most %d: %q", when, others, most, all)
		}
	}
	measure("after the logins")

	for _, b := range browsers {
		tokenRunsOut(t, b)
		if r := token(b); r.Status != http.StatusOK || r.Successor() == "" {
			t.Fatalf("a refresh: %s", r)
		}
	}
	measure("with an unconfirmed successor")
	p.Change(func(o *gatewaytest.Options) { o.AccessLife = time.Minute })

	dump := filepath.Join(t.TempDir(), "dump.rdb")
	w.Redis.CLI("--rdb", dump)
	kept, err := os.ReadFile(dump)
	if err != nil {
		t.Fatal(err)
	}
	if len(kept) < 5*500 || len(sent()) < 5*500 {
		t.Fatalf("the sweep is blind: %d bytes kept, %d bytes sent", len(kept), len(sent()))
	}
	secrets := w.Secrets()
	for _, c := range gatewaytest.Canaries() {
		secrets[c] = "a canary"
	}
	for _, user := range []string{"alice", "bob", "carol", "dave", "erin"} {
		secrets[gatewaytest.SubjectOf(user)] = "a subject"
		secrets[user+"@example.com"] = "an address"
	}
	secrets[reg.Issuer] = "the issuer"
	for _, place := range []struct{ name, text string }{{"kept in", string(kept)}, {"sent to", sent()}} {
		for value, what := range secrets {
			for _, form := range forms(value) {
				if strings.Contains(place.text, form) {
					t.Errorf("%s is %s Redis in clear", what, place.name)
				}
			}
		}
	}
}

// forms are the ways in which a text might be kept without being protected.
func forms(text string) []string {
	found := []string{text, hex.EncodeToString([]byte(text)), base64.StdEncoding.EncodeToString([]byte(text)), base64.RawURLEncoding.EncodeToString([]byte(text))}
	// A cookie's or token's own bytes, decoded.
	if raw, err := base64.RawURLEncoding.DecodeString(text); err == nil && len(raw) >= 16 {
		found = append(found, string(raw))
	}
	return found
}

func keys(r *storetest.Server) []string {
	return strings.Fields(r.CLI("--scan"))
}

// The layout of a record, by docs/sessions.md: a header of fixed size, then
// sections of kind, length (uvarint) and data. The box is one of them.
const (
	recordHeader = 172
	sectionBox   = 1
)

// boxSize is how many bytes of a key's value are box; none of the
// predecessors' are.
func boxSize(t testing.TB, value string) int {
	t.Helper()
	if len(value) < recordHeader || value[0] != 1 {
		return 0
	}
	for rest := []byte(value[recordHeader:]); len(rest) > 0; {
		kind := rest[0]
		n, size := binary.Uvarint(rest[1:])
		if size <= 0 || uint64(len(rest)-1-size) < n {
			return 0
		}
		if kind == sectionBox {
			return int(n)
		}
		rest = rest[1+size+int(n):]
	}
	return 0
}

// monitor writes down everything that is sent to Redis from now on.
func monitor(t testing.TB, r *storetest.Server) (sent func() string) {
	t.Helper()
	c, err := net.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	in := bufio.NewReader(c)
	fmt.Fprint(c, "MONITOR\r\n")
	if line, err := in.ReadString('\n'); err != nil || line != "+OK\r\n" {
		t.Fatalf("MONITOR: %q, %v", line, err)
	}
	var mu sync.Mutex
	var text strings.Builder
	go func() {
		for {
			line, err := in.ReadString('\n')
			mu.Lock()
			text.WriteString(line)
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return text.String()
	}
}

// A proxied request costs Redis nothing while the cache has the session, and
// one command otherwise. The beat and health checks are not the request's.
func TestRedisCommandsPerProxiedRequest(t *testing.T) {
	for _, row := range []struct {
		name, cacheTTL string
		each           int
	}{{"from the cache", "5s", 0}, {"without a cache", "0s", 1}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
			w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
				c.Set("apps.0.session.cache_ttl", row.cacheTTL)
			}})
			b := w.NewBrowser()
			b.Login("alice")
			about(t, b)

			sent := monitor(t, w.Redis)
			request := func(marker string) int {
				before := len(sent())
				if r := b.Fetch(http.MethodGet, "/api/orders"); r.Status != http.StatusOK {
					t.Fatalf("/api/orders: %s", r)
				}
				// MONITOR's lines come in order: when the marker is there, all before it are.
				w.Redis.CLI("ECHO", marker)
				var text string
				rig.Eventually(t, "the monitor has it all", func() bool {
					text = sent()[before:]
					return strings.Contains(text, marker)
				})
				n := 0
				for line := range strings.Lines(text) {
					if !strings.Contains(line, " lua] ") && !background(line) {
						n++
					}
				}
				return n
			}
			const requests = 50
			total, warm := 0, false
			for i := range requests {
				n := request(fmt.Sprint("marker-", i))
				// Confirming the ticket and noting the activity come before the cache.
				if !warm && n > 0 && row.each == 0 {
					continue
				}
				warm = true
				total += n
				if n > row.each+1 {
					t.Errorf("request %d took %d commands", i, n)
				}
			}
			if !warm {
				t.Fatal("the cache never served a request")
			}
			t.Logf("%d commands for %d requests", total, requests)
			// An entry's life may end on the way, once or twice.
			if slack := 2; total < row.each*requests || total > row.each*requests+slack {
				t.Errorf("%d commands for %d requests, want %d each", total, requests, row.each)
			}
		})
	}
}

// background tells the commands that belong to no request: the beat, the look at
// what has ended as a whole, connections being made, and the test's own.
func background(line string) bool {
	for _, part := range []string{`cloakroom:beat:`, `cloakroom:not_before`, `"subscribe"`, `"hello"`, `"ping"`, `"client"`, `"ECHO"`} {
		if strings.Contains(strings.ToLower(line), strings.ToLower(part)) {
			return true
		}
	}
	return false
}
