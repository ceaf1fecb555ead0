package gateway

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cloakroom/cloakroom/session"
)

func TestJobs(t *testing.T) {
	var j jobs
	if err := j.wait(t.Context()); err != nil {
		t.Error(err)
	}
	release := make(chan struct{})
	gone, leave := context.WithCancel(t.Context())
	alive := make(chan bool, maxJobs)
	for range maxJobs {
		if !j.run(gone, func(ctx context.Context) { <-release; alive <- ctx.Err() == nil }) {
			t.Fatal("refused too early")
		}
	}
	leave()
	if j.run(t.Context(), func(context.Context) {}) {
		t.Error("no bound")
	}
	if err := j.wait(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("wait: %v", err)
	}
	close(release)
	if err := j.wait(t.Context()); err != nil {
		t.Error(err)
	}
	for range maxJobs {
		if !<-alive {
			t.Fatal("a job ended with the request that began it")
		}
	}
}

func TestClip(t *testing.T) {
	if got := clip(strings.Repeat("ä", 200), 255); len(got) != 254 {
		t.Errorf("%d bytes", len(got))
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	g := New(&session.Keeper{}, Options{Metrics: reg})
	rec := serveOne(g, "GET", "http://nobody.test/")
	if rec.Code != http.StatusMisdirectedRequest {
		t.Error(rec.Code)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if v := m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount()); v > 0 {
				name := f.GetName()
				for _, l := range m.GetLabel() {
					name += " " + l.GetName() + "=" + l.GetValue()
				}
				seen[name] = v
			}
		}
	}
	want := map[string]float64{
		"cloakroom_time_to_first_byte_seconds endpoint=none": 1,
		"cloakroom_refusals_total code=unknown_host":         1,
		"cloakroom_requests_total endpoint=none status=4xx":  1,
	}
	if !maps.Equal(seen, want) {
		t.Errorf("%v, want %v", seen, want)
	}
}

// Without an access log, its lines are for whoever debugs.
func TestAccessLinesAreForDebugging(t *testing.T) {
	for level, want := range map[slog.Level]int{slog.LevelDebug: 1, slog.LevelInfo: 0} {
		var out bytes.Buffer
		g := New(&session.Keeper{}, Options{Log: slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: level}))})
		serveOne(g, "GET", "http://nobody.test/")
		if got := strings.Count(out.String(), `"level":"DEBUG","msg":"request"`); got != want || strings.Count(out.String(), `"msg":"request"`) != want {
			t.Errorf("at level %v: %s", level, out.String())
		}
	}
}

func BenchmarkTicket(b *testing.B) {
	a := testApp(b, "shop")
	h := cookieHeader("theme=dark; " + sessionCookie + "=" + sealed(b, a, newTicket()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.ticket(h); err != nil {
			b.Fatal(err)
		}
	}
}
