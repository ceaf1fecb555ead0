package session

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	begun     *prometheus.CounterVec
	ended     *prometheus.CounterVec
	refreshes *prometheus.CounterVec
	openings  *prometheus.CounterVec
	alarms    *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		if reg != nil {
			reg.MustRegister(c)
		}
		return c
	}
	return &metrics{
		begun:     counter("cloakroom_sessions_begun_total", "Sessions begun.", "app"),
		ended:     counter("cloakroom_sessions_ended_total", "Sessions ended, by reason.", "app", "reason"),
		refreshes: counter("cloakroom_refreshes_total", "Refresh tokens presented, by outcome.", "app", "outcome"),
		openings:  counter("cloakroom_openings_total", "Tickets judged, by what answered: cache, read or script.", "source"),
		alarms:    counter("cloakroom_session_alarms_total", "What should not be and needs an operator.", "app", "kind"),
	}
}
