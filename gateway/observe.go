package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/cloakroom/cloakroom/gateway/proxy"
	"github.com/cloakroom/cloakroom/session"
)

// endpoint is a class of requests, for metrics and logs.
type endpoint uint8

const (
	endpointNone endpoint = iota // unknown host, bad path, no such endpoint
	endpointLogin
	endpointCallback
	endpointToken
	endpointUser
	endpointSession
	endpointLogout
	endpointLoggedOut
	endpointSessions
	endpointBackChannel
	endpointFrontChannel
	endpointKeys
	endpointClient
	endpointAuth
	endpointRoute
	endpoints
)

var endpointNames = [endpoints]string{
	"none", "login", "callback", "token", "user", "session", "logout", "logged_out",
	"sessions", "backchannel_logout", "frontchannel_logout", "keys", "client", "auth", "route",
}

func (e endpoint) String() string { return endpointNames[e] }

// metrics are the gateway's own. Labels come from fixed lists.
type metrics struct {
	requests  [endpoints][5]prometheus.Counter // by status class
	firstByte [endpoints]prometheus.Observer
	refusals  *prometheus.CounterVec
	handedOut prometheus.Counter
	revoked   *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	requests := f.NewCounterVec(prometheus.CounterOpts{
		Name: "cloakroom_requests_total", Help: "Requests answered, by class of endpoint and of status.",
	}, []string{"endpoint", "status"})
	firstByte := f.NewHistogramVec(prometheus.HistogramOpts{
		Name: "cloakroom_time_to_first_byte_seconds", Help: "From a request's header to its answer's, by class of endpoint.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"endpoint"})
	m := &metrics{
		refusals: f.NewCounterVec(prometheus.CounterOpts{
			Name: "cloakroom_refusals_total", Help: "Requests that the gateway itself refused, by code.",
		}, []string{"code"}),
		handedOut: f.NewCounter(prometheus.CounterOpts{
			Name: "cloakroom_successors_sent_total", Help: "Successor tickets that left in a Set-Cookie.",
		}),
		revoked: f.NewCounterVec(prometheus.CounterOpts{
			Name: "cloakroom_revocations_total", Help: "Refresh tokens handed back to the provider, by outcome.",
		}, []string{"outcome"}),
	}
	for e := range endpoints {
		m.firstByte[e] = firstByte.WithLabelValues(e.String())
		for i, class := range [...]string{"1xx", "2xx", "3xx", "4xx", "5xx"} {
			m.requests[e][i] = requests.WithLabelValues(e.String(), class)
		}
	}
	return m
}

// access counts the request and writes a line about it, if somebody reads that.
func (g *Gateway) access(w *response, r *http.Request) {
	if class := w.status/100 - 1; class >= 0 && class < 5 {
		g.metrics.requests[w.endpoint][class].Inc()
	}
	lines := g.lines
	if w.app != nil {
		lines = w.app.lines
	}
	lines.write(g, w, r)
}

// about is what every line about a request says. The path of a route is the
// upstream's affair and may name things; the query is never logged, for it holds
// codes and states.
func (g *Gateway) about(w *response, r *http.Request) []slog.Attr {
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs,
		slog.String("trace_id", w.trace),
		slog.String("endpoint", w.endpoint.String()),
		slog.String("method", clip(r.Method, 16)),
		slog.String("address", g.address(r)))
	if w.app != nil {
		attrs = append(attrs, slog.String("app", w.app.Name))
	}
	if w.sid != (session.SID{}) {
		attrs = append(attrs, slog.String("sid", w.sid.String()))
	}
	return attrs
}

// address is the browser's, as far as the trusted proxies can tell.
func (g *Gateway) address(r *http.Request) string {
	if a := proxy.ClientAddr(r, g.served.Load().trusted); a.IsValid() {
		return a.String()
	}
	return "" // the peer of a Unix socket
}

// clip bounds what a caller can make us keep.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}

// maxJobs bounds the work that waits for a provider which doesn't answer.
const maxJobs = 1024

// jobTimeout ends a job.
const jobTimeout = time.Minute

// jobs is work that goes on after its answer: as well as it can, never for long.
type jobs struct {
	mu      sync.Mutex // guards the rest
	running int
	idle    chan struct{} // closed when running returns to 0; nil while it is 0
	leaving chan struct{} // closed when somebody waits for all jobs
	left    bool          // it is closed
}

// run starts f, or reports that too much is going on already. f's context has
// the values of ctx and a deadline of its own.
func (j *jobs) run(ctx context.Context, f func(context.Context)) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.running == maxJobs {
		return false
	}
	if j.running == 0 {
		j.idle = make(chan struct{})
	}
	j.running++
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), jobTimeout)
		defer cancel()
		defer j.done()
		f(ctx)
	}()
	return true
}

// pause lets a job wait before it tries again. It reports false, at once, when
// the process is about to end, or the job's time is over.
func (j *jobs) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-j.leave(false):
		return false
	case <-ctx.Done():
		return false
	}
}

// leave returns the channel that pauses end by, closed if now says so.
func (j *jobs) leave(now bool) <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.leaving == nil {
		j.leaving = make(chan struct{})
	}
	if now && !j.left {
		j.left = true
		close(j.leaving)
	}
	return j.leaving
}

func (j *jobs) done() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.running--; j.running == 0 {
		close(j.idle)
		j.idle = nil
	}
}

// wait returns when all jobs are over, or with ctx's error. It ends their pauses,
// for good.
func (j *jobs) wait(ctx context.Context) error {
	j.leave(true)
	j.mu.Lock()
	idle := j.idle
	j.mu.Unlock()
	if idle == nil {
		return nil
	}
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
