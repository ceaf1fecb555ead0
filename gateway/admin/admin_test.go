package admin

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// otter's timer lives as long as its cache, which lives as long as the process.
		goleak.IgnoreTopFunction("github.com/maypok86/otter/v2.periodicCleanUp[...]"))
}

// redis is one that can be stopped: refusing, or hanging until the caller gives up.
type redis struct{ down, hangs atomic.Bool }

func (r *redis) ping(ctx context.Context) error {
	if r.hangs.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	if r.down.Load() {
		return errors.New("dial tcp 10.1.2.3:6379: connection refused")
	}
	return nil
}

func get(h http.Handler, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

// sleep lets time pass, and everything that is due in it.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// healthFor runs a Health over r within a bubble, whose clock stands still
// while anything works.
func healthFor(t *testing.T, r *redis, log *slog.Logger) *Health {
	h := NewHealth(r.ping, log)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	synctest.Wait()
	return h
}

func TestReadiness(t *testing.T) {
	t.Run("redis down at start is waited for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			r := new(redis)
			r.down.Store(true)
			h := healthFor(t, r, slog.New(slog.NewJSONHandler(&out, nil)))
			sleep(45 * time.Second)
			if got := h.State(); got != "store_unavailable" {
				t.Errorf("state %s", got)
			}
			if n := strings.Count(out.String(), "redis does not answer"); n != 2 {
				t.Errorf("logged %d times in 45 s, want at once and after 30 s", n)
			}
			r.down.Store(false)
			sleep(time.Second)
			if got := h.State(); got != "ready" {
				t.Errorf("state %s one second after Redis came", got)
			}
		})
	})
	t.Run("a blip goes unnoticed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := &redis{}
			h := healthFor(t, r, nil)
			for range 5 {
				r.down.Store(true)
				sleep(2 * time.Second)
				if got := h.State(); got != "ready" {
					t.Fatalf("state %s after 2 s without Redis", got)
				}
				r.down.Store(false)
				sleep(time.Second)
			}
		})
	})
	for _, row := range []struct {
		name string
		stop func(*redis)
	}{
		{"refuses", func(r *redis) { r.down.Store(true) }},
		{"hangs", func(r *redis) { r.hangs.Store(true) }},
	} {
		t.Run("an outage: redis "+row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &redis{}
				h := healthFor(t, r, nil)
				sleep(10 * time.Second)
				row.stop(r)
				sleep(4500 * time.Millisecond)
				if got := h.State(); got != "store_unavailable" {
					t.Errorf("state %s after 4.5 s", got)
				}
				sleep(10 * time.Second)
				r.down.Store(false)
				r.hangs.Store(false)
				sleep(4 * time.Second)
				if got := h.State(); got != "ready" {
					t.Errorf("state %s 4 s after Redis came back", got)
				}
			})
		})
	}
	t.Run("one answer in a row of failures is no recovery", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := &redis{}
			h := healthFor(t, r, nil)
			r.down.Store(true)
			sleep(10 * time.Second)
			for range 5 {
				r.down.Store(false)
				sleep(time.Second) // one probe
				r.down.Store(true)
				sleep(time.Second)
				if got := h.State(); got != "store_unavailable" {
					t.Fatalf("state %s", got)
				}
			}
		})
	})
	t.Run("draining is for good", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := healthFor(t, &redis{}, nil)
			h.Drain()
			sleep(10 * time.Second)
			if got := h.State(); got != "draining" {
				t.Errorf("state %s", got)
			}
		})
	})
}

func TestEndpoints(t *testing.T) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Name: "cloakroom_test"}, func() float64 { return 7 }))
	r := new(redis)
	r.down.Store(true)
	health := NewHealth(r.ping, nil)
	health.probe(t.Context())
	h := New(health, reg, &API{Token: func() Token { return testToken }, Host: "example.com"})
	for _, row := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/healthz", 200, "ok\n"},
		{"HEAD", "/healthz", 200, "ok\n"},
		{"GET", "/readyz", 503, "store_unavailable\n"},
	} {
		w := get(h, row.method, row.path)
		if w.Code != row.status || w.Body.String() != row.body {
			t.Errorf("%s %s: %d %q, want %d %q", row.method, row.path, w.Code, w.Body, row.status, row.body)
		}
		if w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s: may be stored", row.method, row.path)
		}
	}
	r.down.Store(false)
	health.probe(t.Context())
	if w := get(h, "GET", "/readyz"); w.Code != 200 || w.Body.String() != "ready\n" {
		t.Errorf("/readyz with Redis: %d %q", w.Code, w.Body)
	}
	health.Drain()
	if w := get(h, "GET", "/readyz"); w.Code != 503 || w.Body.String() != "draining\n" {
		t.Errorf("/readyz while draining: %d %q", w.Code, w.Body)
	}
	if w := get(h, "GET", "/metrics"); w.Code != 200 || !strings.Contains(w.Body.String(), "cloakroom_test 7") {
		t.Errorf("/metrics: %d %q", w.Code, w.Body)
	}
}
