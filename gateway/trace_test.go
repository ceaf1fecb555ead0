package gateway_test

import (
	"fmt"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

// wishless keeps everything, and panics where a client's wish to be sampled came
// through.
type wishless struct{}

func (wishless) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	parent := trace.SpanContextFromContext(p.ParentContext)
	if parent.IsRemote() && parent.IsSampled() {
		panic("a client's wish came through")
	}
	return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample}
}

func (wishless) Description() string { return "" }

// traced is a world whose gateway records the spans of all requests.
func traced(t *testing.T) (*world, *tracetest.SpanRecorder) {
	w, spans := newWorld(t), tracetest.NewSpanRecorder()
	p := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(wishless{}))
	w.served = func(s *gateway.Served) { s.Tracer, s.TraceRatio = p.Tracer("test"), 1 }
	return w, spans
}

const theirs = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"

func TestTrace(t *testing.T) {
	w, spans := traced(t)
	b := w.browser(w.replica())
	b.login()
	spans.Reset()
	want(t, b.fetch("GET", "/api/secret-path?q=secret-query", "Traceparent: "+theirs, "Tracestate: a=b"), 200)
	eventually(t, "the request is over", func() bool { return len(spans.Ended()) == 3 })

	byName := map[string]sdktrace.ReadOnlySpan{}
	for _, s := range spans.Ended() {
		byName[s.Name()] = s
		if s.SpanContext().TraceID().String() != theirs[3:35] {
			t.Errorf("%s is in another trace, %s", s.Name(), s.SpanContext().TraceID())
		}
	}
	request, ok := byName["GET route"]
	if !ok || request.Parent().SpanID().String() != theirs[36:52] || request.SpanKind() != trace.SpanKindServer {
		t.Fatalf("spans: %v", byName)
	}
	for _, name := range []string{"session", "upstream"} {
		if s := byName[name]; s == nil || s.Parent().SpanID() != request.SpanContext().SpanID() {
			t.Errorf("%s: %v", name, s)
		}
	}
	got := w.upstream.last(t).Header
	if want := "00-" + theirs[3:35] + "-" + byName["upstream"].SpanContext().SpanID().String() + "-01"; got.Get("Traceparent") != want || got.Get("Tracestate") != "" {
		t.Errorf("upstream got %q, %q, want %q", got.Get("Traceparent"), got.Get("Tracestate"), want)
	}

	// S-04: of the login too.
	b.login()
	want(t, b.fetch("POST", "/bff/token"), 200)
	a := b.fetch("GET", "/nowhere/secret-path")
	eventually(t, "all is over", func() bool {
		n := 0
		for _, s := range spans.Ended() {
			if s.SpanContext().TraceID().String() == a.field("trace_id") {
				n++
			}
		}
		return n > 0
	})
	for _, s := range spans.Ended() {
		text := fmt.Sprint(s.Name(), s.Attributes(), s.Events(), s.Status())
		for _, secret := range append(gatewaytest.Canaries(), "secret-", "code=", "alice", "127.0.0.1", "__Host-") {
			if strings.Contains(text, secret) {
				t.Errorf("%q is in a span: %s", secret, text)
			}
		}
	}
}

// S-04: a request that isn't sampled is none, whatever the client wishes, and nor is
// one that comes after the tracer's end; its trace is told all the same.
func TestS04NotSampled(t *testing.T) {
	for name, ended := range map[string]bool{"not drawn": false, "after the tracer's end": true} {
		t.Run(name, func(t *testing.T) {
			w, spans := newWorld(t), tracetest.NewSpanRecorder()
			p := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(wishless{}))
			w.served = func(s *gateway.Served) { s.Tracer = p.Tracer("test") }
			if ended {
				w.served = func(s *gateway.Served) { s.Tracer, s.TraceRatio = p.Tracer("test"), 1 }
				if err := p.Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			b := w.browser(w.replica())
			want(t, b.fetch("GET", "/public/x", "Traceparent: "+theirs), 200)
			got := w.upstream.last(t).Header.Get("Traceparent")
			if len(got) != 55 || got[3:35] != theirs[3:35] || got[36:52] == theirs[36:52] || !strings.HasSuffix(got, "-00") {
				t.Errorf("upstream got %q", got)
			}
			if a := b.fetch("GET", "/else", "Traceparent: "+theirs); a.field("trace_id") != theirs[3:35] {
				t.Errorf("trace_id %q", a.field("trace_id"))
			}
			if n := len(spans.Ended()); n != 0 {
				t.Errorf("%d spans", n)
			}
		})
	}
}

// Without tracing the caller's context passes, within bounds.
func TestS04Tracestate(t *testing.T) {
	w := newWorld(t)
	b := w.browser(w.replica())
	for _, test := range []struct {
		n    int
		pass bool
	}{{510, true}, {511, false}, {5000, false}} {
		state := "a=" + strings.Repeat("b", test.n)
		want(t, b.fetch("GET", "/public/x", "Traceparent: "+theirs, "Tracestate: "+state), 200)
		got := w.upstream.last(t).Header
		if (got.Get("Tracestate") == state) != test.pass || got.Get("Traceparent") != theirs {
			t.Errorf("%d bytes: upstream got %q, %d bytes of state", test.n, got.Get("Traceparent"), len(got.Get("Tracestate")))
		}
	}
}
