package test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/session/storetest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// V-09: all that the process as a whole is told changes under load, Redis's password
// and account among it, and nobody is refused.
func TestReloadOfTheProcessUnderLoad(t *testing.T) {
	t.Parallel()
	redis := storetest.Redis(t)
	account := func(name string, rules ...string) {
		redis.CLI(append([]string{"acl", "setuser", name, "on", "~cloakroom:*", "&cloakroom:*", "+@all"}, rules...)...)
	}
	first, second, third := rig.Random(), rig.Random(), rig.Random()
	account("gateway", ">"+first)
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: 2 * time.Second})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Redis: redis, Change: func(c rig.Config) {
		c.Set("apps.0.session.rotation_grace", "5s")
		c.Set("apps.0.session.cache_ttl", "1s")
		c.Set("redis.username", "gateway")
		c.Set("redis.password", first)
	}})
	for _, password := range []string{first, second, third} {
		w.Secret("a password of Redis's", password)
	}
	var spans [2]atomic.Int64
	var collectors [2]string
	for i := range spans {
		s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { spans[i].Add(1) }))
		t.Cleanup(s.Close)
		collectors[i] = s.URL
	}
	left := func(who string) func() {
		return func() {
			rig.Eventually(t, who+" has no connection left", func() bool { return !strings.Contains(redis.CLI("client", "list"), who) })
		}
	}

	c := busy(t, w, "alice", "bob", "carol")
	dave := w.NewBrowser()
	dave.Login("dave")
	held := make(chan *rig.Response, 1)
	go func() { held <- dave.Fetch(http.MethodGet, "/api/held") }()
	<-w.Upstream.Held()
	sent := func(to int) func() {
		return func() { rig.Eventually(t, "spans are sent", func() bool { return spans[to].Load() > 0 }) }
	}
	for _, step := range []struct {
		before func()
		set    map[string]any
		after  func()
	}{
		{set: map[string]any{"limits.header_bytes": 8192}},
		{set: map[string]any{"log.format": "text", "log.access": true}},
		{set: map[string]any{"log.format": "json"}},
		{set: map[string]any{"log.access": false, "limits.header_bytes": 16384}},
		{set: map[string]any{"tracing.otlp_endpoint": collectors[0], "tracing.sample_ratio": 1}, after: sent(0)},
		{set: map[string]any{"tracing.otlp_endpoint": collectors[1]}, after: sent(1)},
		{set: map[string]any{"tracing": map[string]any{}, "redis.timeout": "3s"}},
		{ // both passwords hold until all have the new one
			before: func() { account("gateway", ">"+second) },
			set:    map[string]any{"redis.password": second},
			after:  func() { account("gateway", "<"+first) },
		},
		{
			before: func() { account("other", ">"+third) },
			set:    map[string]any{"redis.username": "other", "redis.password": third},
			after:  left(" user=gateway "),
		},
		{before: func() { redis.CLI("acl", "deluser", "gateway") }, set: map[string]any{"limits.header_bytes": 32768, "redis.wait_replicas": 1}},
		{set: map[string]any{"redis.wait_replicas": 0}},
	} {
		if step.before != nil {
			step.before()
		}
		for key, value := range step.set {
			w.Config.Set(key, value)
		}
		for _, g := range w.Gateways {
			g.Reload()
		}
		c.goOn()
		if step.after != nil {
			step.after()
		}
	}
	w.Upstream.Release()
	if r := <-held; r.Status != http.StatusOK {
		t.Errorf("what was under way: %s", r)
	}
	c.content()
	if reuses := p.Reuses(); len(reuses) > 0 {
		t.Errorf("reuse at the provider: %v", reuses)
	}
	// Ends are heard over the connections of now.
	w.Gateways[0].End(map[string]any{"app": "shop", "sub": gatewaytest.SubjectOf("alice")})
	wantEnded(t, w, c.people["alice"], "revoked")
	for _, g := range w.Gateways {
		if code := g.Terminate(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		wholeLines(t, g.Output())
	}
}

// wholeLines fails the test unless each line is one of JSON or one of text, with the
// requests' lines at info while that was asked for.
func wholeLines(t *testing.T, output string) {
	t.Helper()
	accesses := map[string]int{}
	for line := range strings.Lines(output) {
		var fields struct{ Level, Msg string }
		switch err := json.Unmarshal([]byte(line), &fields); {
		case err == nil && fields.Msg == "request":
			accesses["json "+fields.Level]++
		case err == nil:
		case !strings.HasPrefix(line, "time=") || strings.Count(line, " msg=") != 1 || !strings.HasSuffix(line, "\n"):
			t.Errorf("no line of a log: %.200q", line)
		case strings.Contains(line, " msg=request "):
			_, level, _ := strings.Cut(line, " level=")
			level, _, _ = strings.Cut(level, " ")
			accesses["text "+level]++
		}
	}
	for _, kind := range []string{"json DEBUG", "text INFO", "json INFO"} {
		if accesses[kind] == 0 {
			t.Errorf("no request's line in %s", kind)
		}
	}
	if len(accesses) != 3 {
		t.Errorf("requests' lines: %v", accesses)
	}
}
