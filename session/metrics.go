package session

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	begun     *prometheus.CounterVec
	ended     *prometheus.CounterVec
	refreshes *prometheus.CounterVec
	alarms    *prometheus.CounterVec
	again     prometheus.Counter

	fromCache, fromRead, fromScript prometheus.Counter // openings
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		if reg != nil {
			reg.MustRegister(c)
		}
		return c
	}
	openings := counter("cloakroom_openings_total", "Tickets judged, by what answered: cache, read or script.", "source")
	m := &metrics{
		begun:     counter("cloakroom_sessions_begun_total", "Sessions begun.", "app"),
		ended:     counter("cloakroom_sessions_ended_total", "Sessions ended, by reason.", "app", "reason"),
		refreshes: counter("cloakroom_refreshes_total", "Refresh tokens presented, by outcome.", "app", "outcome"),
		alarms:    counter("cloakroom_session_alarms_total", "What should not be and needs an operator.", "app", "kind"),
		fromCache: openings.WithLabelValues("cache"), fromRead: openings.WithLabelValues("read"), fromScript: openings.WithLabelValues("script"),
		again: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "cloakroom_writes_run_again_total",
			Help: "Acknowledged logins, changes and ends that were run again since Redis was another than before.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.again)
	}
	return m
}
