package admin

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// probeEvery is how often Redis is asked. A load balancer asks about as
	// often, so that nothing is gained by more.
	probeEvery = time.Second
	// probeTimeout bounds one probe.
	probeTimeout = 2 * time.Second
	// unreadyAfter is how long Redis may be silent before this replica says so:
	// long enough for a failover of a good Redis to go unnoticed, since every
	// replica would leave the load balancer at once.
	unreadyAfter = 3 * time.Second
	// readyAgain is how many probes in a row must succeed after an outage, so
	// that a Redis that comes and goes doesn't make readiness do the same.
	readyAgain = 2
	// remindEvery is how often an outage that lasts is logged again.
	remindEvery = 30 * time.Second
)

// Health knows whether this replica should be sent requests. Its methods may be
// called from several goroutines at once. The zero value is not usable.
type Health struct {
	ping func(context.Context) error
	log  *slog.Logger

	mu       sync.Mutex // guards all below
	draining bool
	ready    bool      // as of the last probe
	answered time.Time // when Redis last did
	streak   int       // of answers since the last failure
	started  bool      // Redis has answered once
	logged   time.Time // when the outage was last logged; zero: none is on
}

// NewHealth returns a Health that is not ready until [Health.Run] has heard from
// Redis, which is what ping asks. log may be nil: nothing is logged.
func NewHealth(ping func(context.Context) error, log *slog.Logger) *Health {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Health{ping: ping, log: log}
}

// Run asks Redis every second until ctx is done.
func (h *Health) Run(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		h.probe(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (h *Health) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := h.ping(ctx)
	if err != nil && context.Cause(ctx) == context.Canceled {
		return // we are stopping: that says nothing about Redis
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if err == nil {
		h.answered = now
		h.streak++
		if !h.ready && (h.streak >= readyAgain || !h.started) {
			h.ready, h.started = true, true
			h.log.Info("redis answers: ready")
			h.logged = time.Time{}
		}
		return
	}
	h.streak = 0
	h.lapse(now)
	if !h.ready && now.Sub(h.logged) >= remindEvery {
		h.logged = now
		h.log.Warn("redis does not answer: not ready, waiting for it", slog.Any("err", err))
	}
}

// lapse takes readiness back once Redis has been silent for too long. h.mu is
// held.
func (h *Health) lapse(now time.Time) {
	if h.ready && now.Sub(h.answered) > unreadyAfter {
		h.ready, h.streak = false, 0
	}
}

// Drain takes readiness back for good.
func (h *Health) Drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
}

// State is "ready", "draining", or "store_unavailable". It asks nobody, so that
// it is as fast as ever while Redis hangs.
func (h *Health) State() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lapse(time.Now())
	switch {
	case h.draining:
		return "draining"
	case h.ready:
		return "ready"
	}
	return "store_unavailable"
}
