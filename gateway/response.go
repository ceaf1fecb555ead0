package gateway

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/cloakroom/cloakroom/gateway/proxy"
	"github.com/cloakroom/cloakroom/session"
)

// response is the one wrapper around every answer. It decides what cookies of
// ours leave, at the moment the final header is written and not before: a
// successor that waited for a slow upstream may be an old ticket by then, and
// would take the browser back to it.
//
// It is used by one request's goroutine, like the ResponseWriter it wraps.
type response struct {
	http.ResponseWriter
	g        *Gateway
	app      *app // nil until the host is known
	received time.Time
	trace    string       // the trace's id
	parent   string       // the whole traceparent
	span     trace.Span   // the request's; nil unless it is recorded
	tracer   trace.Tracer // span's
	endpoint endpoint
	sid      session.SID // of the ticket shown, if one was read
	// watch is the session's, while a route's answer is under way.
	watch *session.Watch

	// successor leaves with the final header if it still may, or never.
	successor *session.Handout
	// cookieLife is the successor's: how long the browser shall keep it; 0: until
	// it closes.
	cookieLife time.Duration
	// cookies are other Set-Cookie lines of ours.
	cookies []string
	// refusal marks an answer of fail: it hands out no ticket.
	refusal bool
	// check marks an answer to another proxy (auth.go), and passes its yes; unasked
	// is why who came to ask may not.
	check, passes bool
	unasked       error
	// upload is the request's body, if it went to an upstream.
	upload *upload

	http2  bool
	unread bool // over HTTP/1.1: the request has a body
	last   bool // over HTTP/1: the connection carries no other request
	stall  stall

	status int // of the final header; 0 while none is written
	bytes  int64
}

// setCookie adds a Set-Cookie line to the final header.
func (w *response) setCookie(line string) { w.cookies = append(w.cookies, line) }

// WriteHeader writes an informational header as it is. With the first final one
// it decides about cookies.
func (w *response) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	if w.check && !w.passes && status < http.StatusBadRequest {
		status = http.StatusUnauthorized // of what is for the browser, too, any 2xx would be a yes
	}
	w.status = status
	w.g.metrics.firstByte[w.endpoint].Observe(w.g.now().Sub(w.received).Seconds())
	if w.app != nil && w.app.hsts != nil {
		w.Header()["Strict-Transport-Security"] = w.app.hsts
	}
	if status != http.StatusSwitchingProtocols {
		w.addCookies()
	}
	switch {
	case w.upload == nil && w.unread:
		w.dropBody(unreadTimeout)
	case w.upload != nil && !w.upload.whole.Load():
		w.Header()["Connection"] = []string{"close"}
	}
	if w.last {
		w.Header()["Connection"] = []string{"close"}
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) addCookies() {
	lines := w.cookies
	if s := w.successor; s != nil && !w.refusal && !w.check && w.g.mayHandOut(s) {
		if line, err := w.app.ticketCookie(s.Ticket, w.cookieLife); err == nil {
			lines = append(lines, line)
			w.g.metrics.handedOut.Inc()
		}
	}
	if len(lines) == 0 {
		return
	}
	h := w.Header()
	for _, line := range lines {
		h.Add("Set-Cookie", line)
	}
	proxy.NoStore(h) // over whatever an upstream said to any cache
}

func (w *response) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.http2 {
		w.expect()
		defer w.taken()
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// ReadFrom lets a file's bytes go from the kernel to the kernel: io.Copy finds
// the same method on the connection's own writer.
func (w *response) ReadFrom(src io.Reader) (int64, error) {
	w.WriteHeader(http.StatusOK)
	return w.copyFrom(src)
}

// Flush and FlushError are here, and not left to Unwrap, because a flush writes
// the header.
func (w *response) Flush() { _ = w.FlushError() }

func (w *response) FlushError() error {
	w.WriteHeader(http.StatusOK)
	if w.http2 {
		w.expect()
		defer w.taken()
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack hands the connection over: no header of ours will be written, so no
// cookie leaves.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.status == 0 {
		w.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

// Unwrap lets http.ResponseController reach deadlines and full duplex.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// hardenOwn sets what every answer of the gateway's own has: it is kept by no
// cache, is not a script to guess, not another origin's to read, and tells nobody
// its URL.
func hardenOwn(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
}
