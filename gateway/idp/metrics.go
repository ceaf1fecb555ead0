package idp

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// operation names a kind of request, for metrics and errors.
type operation string

const (
	opDiscovery operation = "discovery"
	opKeys      operation = "keys"
	opExchange  operation = "exchange"
	opUserInfo  operation = "userinfo"
	opPassword  operation = "password"
	opRefresh   operation = "refresh"
	opRevoke    operation = "revoke"
)

// Metrics measures the requests of all providers that it is given to. A nil
// *Metrics measures nothing.
type Metrics struct {
	latency *prometheus.HistogramVec
}

// NewMetrics registers
//
//	cloakroom_provider_request_duration_seconds{operation, outcome}
//
// and returns nil for a nil reg. operation is discovery, keys, exchange,
// password, userinfo, refresh or revoke; outcome is ok, redirect, client_error,
// throttled (429), server_error, oversize, timeout, canceled, unreachable (no
// connection) or broken.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	if reg == nil {
		return nil
	}
	m := &Metrics{latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "cloakroom_provider_request_duration_seconds",
		Help:    "Time taken by requests to identity providers.",
		Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	}, []string{"operation", "outcome"})}
	reg.MustRegister(m.latency)
	return m
}

func (m *Metrics) observe(op operation, outcome string, took time.Duration) {
	if m != nil {
		m.latency.WithLabelValues(string(op), outcome).Observe(took.Seconds())
	}
}
