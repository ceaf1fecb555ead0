package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/cloakroom/cloakroom/gateway/proxy"
)

// busyRetry is what a caller is asked to wait for a place on a route that is
// full: requests end all the time.
const busyRetry = time.Second

// headerFits judges the size of a request's header as it came: the request line
// and a line for each field (RFC 9112 section 2.1). No limit is 0. The server's own
// is looser, so that the refusal can be a problem like any other.
func headerFits(r *http.Request, limit int) error {
	if limit <= 0 {
		return nil
	}
	n := len(r.Method) + len(r.RequestURI) + len(" ") + len(" HTTP/1.1\r\n") + len("Host: \r\n") + len(r.Host)
	for name, lines := range r.Header {
		for _, v := range lines {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	if n > limit {
		return &problem{code: codeHeadersTooLarge, err: fmt.Errorf("a header of %d bytes", n)}
	}
	return nil
}

// limitBody holds a request to the route's MaxBody: at once where its length is
// told, else as it streams.
func (rt *Route) limitBody(r *http.Request) error {
	switch {
	case rt.MaxBody <= 0 || r.ContentLength == 0:
	case r.ContentLength > rt.MaxBody:
		return &problem{code: codeTooLarge, err: fmt.Errorf("a body of %d bytes", r.ContentLength)}
	case r.ContentLength < 0 && r.Body != nil && r.Body != http.NoBody:
		// Without the ResponseWriter: the body is read by another goroutine than
		// the one that writes the answer.
		r.Body = http.MaxBytesReader(nil, r.Body, rt.MaxBody)
	}
	return nil
}

// occupy takes one of the route's places; leave gives it back.
func (rt *Route) occupy() (leave func(), err error) {
	if rt.busy.Add(1) > int64(rt.MaxConcurrent) {
		rt.busy.Add(-1)
		return nil, &problem{code: codeUpstreamBusy, retryAfter: busyRetry, err: errors.New("max_concurrent is reached")}
	}
	return func() { rt.busy.Add(-1) }, nil
}

// within runs a forwarding that must be over, its answer included, by the
// route's Deadline. An answer that has begun is cut.
func (rt *Route) within(w *response, r *http.Request, forward func(*http.Request) error) error {
	ctx, cancel := context.WithTimeout(r.Context(), rt.Deadline)
	defer cancel()
	// A client that doesn't read is not told by a context.
	c := http.NewResponseController(w)
	_ = c.SetWriteDeadline(time.Now().Add(rt.Deadline))
	defer func() { _ = c.SetWriteDeadline(time.Time{}) }()
	err := forward(r.WithContext(ctx))
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil && r.Context().Err() == nil {
		return fmt.Errorf("%w: the route's deadline", proxy.ErrTimeout)
	}
	return err
}
