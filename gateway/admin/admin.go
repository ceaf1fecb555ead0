// Package admin is the operators' listener: whether the process lives, whether it
// should be sent requests, what it measures, and whose sessions there are.
// Nothing of it is on the public listener.
//
//	GET /healthz   200 while the process can answer at all, whatever Redis does:
//	               restarting the gateway mends no Redis
//	GET /readyz    200 if this replica should be sent requests; 503 while it
//	               drains or Redis is silent
//	GET /metrics   Prometheus's text format
//
// They need no token. Their bodies are one word each and hold no address, no
// error and no secret; what is wrong is in the log.
//
//	GET /          the console: what follows, for people
//
// It is a page without data, so it needs no token either: the token is typed in,
// kept in a variable of the page, and sent with each call. It asks for the Host
// as the calls do.
//
//	GET  /admin/sessions?sub=…&app=…   a subject's live sessions, of one app or of all
//	GET  /admin/sessions?sid=…         one session, live or ended
//	POST /admin/sessions/end           {"sid"}, {"sub","app"} or {"app"}; "reason" for
//	                                   the audit; "locked" and "until" with sid or sub
//	POST /admin/sessions/unlock        {"sid"} or {"sub","app"}, and "reason"
//
// Below /admin/ the token comes first where one is set (Authorization: Bearer),
// then the Host, which must be the listener's own, and the signs of another
// site's page; a body is one JSON object with known keys. Every call is audited:
// the lines have audit=true, and name a subject by the first 8 bytes of its
// SHA-256. Refusals are application/problem+json (RFC 9457).
//
// Both orders are idempotent: after a 503, or no answer at all, give them again.
// Ending never lifts a lock. Whoever is locked can't log in until the lock is
// lifted, or until its time is over; with a sid, that one session says so and
// nothing else changes.
package admin

import (
	"io"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// New returns the handler of the operators' listener.
func New(h *Health, metrics prometheus.Gatherer, api *API) http.Handler {
	pages := consolePages(api)
	pages["/healthz"] = func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") }
	pages["/readyz"] = func(w http.ResponseWriter, _ *http.Request) {
		state := h.State()
		if state == "ready" {
			say(w, http.StatusOK, state)
		} else {
			say(w, http.StatusServiceUnavailable, state)
		}
	}
	pages["/metrics"] = promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		// A scrape takes memory and time; two monitoring systems are plenty.
		MaxRequestsInFlight: 4,
		// One broken collector must not blind an operator to all others.
		ErrorHandling: promhttp.ContinueOnError,
	}).ServeHTTP
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		if r.URL.Path == "/admin" || strings.HasPrefix(r.URL.Path, "/admin/") {
			api.ServeHTTP(w, r)
			return
		}
		page, known := pages[r.URL.Path]
		switch {
		case !known:
			(&problem{code: codeNotFound}).write(w)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			header.Set("Allow", "GET, HEAD")
			(&problem{code: codeMethodNotAllowed}).write(w)
		default:
			page(w, r)
		}
	})
}

func say(w http.ResponseWriter, status int, word string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, word+"\n") // the prober may be gone
}
