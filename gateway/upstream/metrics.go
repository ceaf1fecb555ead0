package upstream

import "github.com/prometheus/client_golang/prometheus"

// Metrics are those of all pools of a process. Labels are the configuration's
// addresses.
type Metrics struct {
	failures  *prometheus.CounterVec
	ejections *prometheus.CounterVec
	opened    *prometheus.CounterVec
	retries   *prometheus.CounterVec
}

// NewMetrics registers the metrics of this package.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"address"}, labels...))
		reg.MustRegister(c)
		return c
	}
	return &Metrics{
		failures:  counter("cloakroom_upstream_failures_total", "Requests that an upstream's address gave no answer to.", "kind"),
		ejections: counter("cloakroom_upstream_ejections_total", "How often an upstream's address was left out for a while."),
		opened:    counter("cloakroom_upstream_connections_opened_total", "Connections opened to an upstream's address over plain HTTP/1.1."),
		retries:   counter("cloakroom_upstream_retries_total", "Requests sent again because a kept connection was closed."),
	}
}

func (m *Metrics) failed(address string, unopened bool) {
	if m != nil {
		kind := "no_answer"
		if unopened {
			kind = "connect"
		}
		m.failures.WithLabelValues(address, kind).Inc()
	}
}

func (m *Metrics) ejected(address string) {
	if m != nil {
		m.ejections.WithLabelValues(address).Inc()
	}
}

func (m *Metrics) dialed(address string) {
	if m != nil {
		m.opened.WithLabelValues(address).Inc()
	}
}

func (m *Metrics) retried(address string) {
	if m != nil {
		m.retries.WithLabelValues(address).Inc()
	}
}
