package gateway

import (
	"context"
	"encoding/hex"
	"net/http"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/cloakroom/cloakroom/gateway/proxy"
)

// maxTracestate bounds the tracestate that is forwarded, in bytes: what
// everybody has to pass on (Trace Context section 3.3.1.5), and no more.
const maxTracestate = 512

// boundTracestate drops a tracestate that is larger, and so whole: entries of
// half a list say nothing.
func boundTracestate(h http.Header) {
	lines := h["Tracestate"]
	n := 0
	for _, v := range lines {
		n += len(v)
	}
	if n > maxTracestate {
		delete(h, "Tracestate")
	}
}

// startTrace begins the request's span. It belongs to the trace that the caller
// names, if it names one.
func startTrace(tracer trace.Tracer, w *response, r *http.Request) *http.Request {
	ctx := r.Context()
	if v := r.Header["Traceparent"]; len(v) == 1 {
		if sc := remote(v[0]); sc.IsValid() {
			ctx = trace.ContextWithRemoteSpanContext(ctx, sc)
		}
	}
	ctx, span := tracer.Start(ctx, "request", asServer...)
	if !span.IsRecording() { // the tracer has been shut down
		w.parent = proxy.Unrecorded(r.Header)
		return r
	}
	w.parent, w.span, w.tracer = traceparent(span.SpanContext()), span, tracer
	return r.WithContext(ctx)
}

// Options are made once.
var (
	asServer = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer)}
	asClient = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient)}
)

// remote is the caller's span, without its flags.
func remote(parent string) trace.SpanContext {
	id := proxy.TraceID(parent)
	if id == "" {
		return trace.SpanContext{}
	}
	var c trace.SpanContextConfig
	c.Remote = true
	_, _ = hex.Decode(c.TraceID[:], []byte(id)) // proxy has judged it
	_, _ = hex.Decode(c.SpanID[:], []byte(parent[36:52]))
	return trace.NewSpanContext(c)
}

// traceparent is a span's context as a header's value (Trace Context section
// 3.2), without a tracestate.
func traceparent(sc trace.SpanContext) string {
	id, span := sc.TraceID(), sc.SpanID()
	b := make([]byte, 0, 55)
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, id[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, span[:])
	b = append(b, '-')
	return string(hex.AppendEncode(b, []byte{byte(sc.TraceFlags() & trace.FlagsSampled)}))
}

// untraced is the end of a step of a request that isn't recorded.
func untraced(error) {}

// step begins a span of what a recorded request waits for; end ends it.
func (w *response) step(r *http.Request, name string) (ctx context.Context, end func(error)) {
	if w.span == nil {
		return r.Context(), untraced
	}
	ctx, span := w.tracer.Start(r.Context(), name, asClient...)
	return ctx, func(err error) {
		if err != nil {
			// The code alone: the text may say what a span must not.
			c := string(explain(r.Context(), err).code)
			span.SetStatus(otelcodes.Error, c)
			span.SetAttributes(attribute.String("error.type", c))
		}
		span.End()
	}
}

// endTrace ends the request's span, with what a metric may say too: no path, no
// query, no address, nobody's name.
func (w *response) endTrace(r *http.Request) {
	if w.span == nil {
		return
	}
	method := r.Method
	if !slices.Contains(tracedMethods, method) {
		method = "_OTHER"
	}
	w.span.SetName(method + " " + w.endpoint.String())
	attrs := make([]attribute.KeyValue, 0, 5)
	attrs = append(attrs,
		attribute.String("http.request.method", method),
		attribute.Int("http.response.status_code", w.status),
		attribute.String("cloakroom.endpoint", w.endpoint.String()))
	if w.app != nil {
		attrs = append(attrs, attribute.String("cloakroom.app", w.app.Name), attribute.String("url.scheme", w.app.Origin.Scheme))
	}
	w.span.SetAttributes(attrs...)
	if w.status >= http.StatusInternalServerError {
		w.span.SetStatus(otelcodes.Error, "")
	}
	w.span.End()
}

// tracedMethods are told as they are (OpenTelemetry's HTTP conventions).
var tracedMethods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
	http.MethodOptions, http.MethodTrace, http.MethodConnect,
}
