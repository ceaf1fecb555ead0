package gateway

import (
	"context"
	"errors"
	"net/http"

	"go.opentelemetry.io/otel/trace"

	"github.com/cloakroom/cloakroom/gateway/proxy"
	"github.com/cloakroom/cloakroom/session"
)

// forward sends a request to its route's upstream, for as long as the caller's
// session lives: when it ends, on whatever replica, a WebSocket is closed with
// 4401, and any other answer under way is cut. If the store can't say for seconds
// whether it lives, the answer is cut too; a WebSocket then closes with 1001,
// which doesn't say that somebody is out.
func (g *Gateway) forward(w *response, r *http.Request, rt *Route, path string, from caller) error {
	if rt.MaxConcurrent > 0 {
		leave, err := rt.occupy()
		if err != nil {
			return err
		}
		defer leave()
	}
	if rt.Deadline > 0 {
		return rt.within(w, r, func(r *http.Request) error { return g.send(w, r, rt, path, from) })
	}
	return g.send(w, r, rt, path, from)
}

// send is forward, within the route's limits.
func (g *Gateway) send(w *response, r *http.Request, rt *Route, path string, from caller) (err error) {
	call := proxy.Call{
		Path: path, Bearer: from.token, Headers: from.headers, Traceparent: w.parent, Ended: from.watch.Done(),
		Private: from.watch != nil && !from.bearer, FixedMethod: rt.Methods != nil,
	}
	if from.watch != nil && proxy.IsWebSocket(r) {
		ended := make(chan struct{})
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer from.watch.AfterFunc(func() {
			if isOver(from.watch.Err()) {
				close(ended)
			} else {
				cancel()
			}
		})()
		call.Ended, r = ended, r.WithContext(ctx)
	}
	if w.span != nil {
		ctx, end := w.step(r, "upstream")
		r, call.Traceparent = r.WithContext(ctx), traceparent(trace.SpanContextFromContext(ctx))
		defer func() { end(err) }()
	}
	if r.ProtoMajor == 1 && r.Body != http.NoBody {
		w.upload = &upload{ReadCloser: r.Body}
		r.Body = w.upload
	}
	err = rt.Upstream.Forward(w, r, call)
	if w.upload != nil && !w.upload.whole.Load() {
		w.dropBody(answeredTimeout)
	}
	if over := from.watch.Err(); over != nil && (errors.Is(err, proxy.ErrEnded) || errors.Is(err, context.Canceled)) {
		return g.overtaken(w, r, from, over)
	}
	return err
}

// overtaken says why a request was stopped before it was answered.
func (g *Gateway) overtaken(w *response, r *http.Request, from caller, over error) error {
	switch {
	case !isOver(over):
		return over
	case from.bearer:
		return tokenRefused(codeTokenInvalid, over)
	}
	// The event that told of the end didn't tell the reason. The record does.
	if _, err := g.admit(w, r, session.Need{}); err != nil {
		return err
	}
	w.successor = nil
	return &session.UnavailableError{Err: errors.New("told that a session had ended that lives")}
}
