package main

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/cloakroom/cloakroom/config"
)

const (
	// flushTimeout is for a tracing's last spans.
	flushTimeout = 3 * time.Second
	// lastSpans is how long one that has been replaced still takes spans.
	lastSpans = 5 * time.Second
)

// tracing sends spans to a collector, in the background and in batches. What it
// can't send it drops.
type tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// newTracing connects to nothing. Nil: nothing is traced.
func newTracing(cfg config.Tracing, log *slog.Logger) (*tracing, error) {
	if cfg.Endpoint == nil {
		return nil, nil
	}
	exporter, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(cfg.Endpoint.String()))
	if err != nil {
		return nil, err
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		log.Warn("spans are not sent", slog.String("err", err.Error()))
	}))
	p := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.AlwaysSample()), // the gateway asks for a share alone
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "cloakroom"), attribute.String("service.version", buildVersion()))),
	)
	return &tracing{p, p.Tracer("github.com/cloakroom/cloakroom")}, nil
}

// close sends what is left. A nil one has nothing.
func (t *tracing) close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // it has told the error handler
}

// tracedTransport makes a span of each call to a provider, within a request that
// is recorded. The provider is not told.
type tracedTransport struct {
	http.RoundTripper
	tracer trace.Tracer
}

func (t tracedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !trace.SpanFromContext(r.Context()).IsRecording() {
		return t.RoundTripper.RoundTrip(r)
	}
	ctx, span := t.tracer.Start(r.Context(), "provider", trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	res, err := t.RoundTripper.RoundTrip(r.WithContext(ctx))
	if err != nil {
		span.SetStatus(codes.Error, "no answer") // the error's text may hold a URL
		return nil, err
	}
	span.SetAttributes(attribute.Int("http.response.status_code", res.StatusCode))
	return res, nil
}
