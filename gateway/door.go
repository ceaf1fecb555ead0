package gateway

import (
	"net/http"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// enter is the door: guard, then cookie, then session. Nothing that a cookie
// authenticates goes in by another way.
func (g *Gateway) enter(w *response, r *http.Request, rule guardRule, need session.Need) (session.Opened, error) {
	if err := guard(rule, r.Method, r.Header, w.app.origin); err != nil {
		return session.Opened{}, err
	}
	return g.admit(w, r, need)
}

// admit is enter's second half, for a request that the guard let through: it
// opens the session and leaves its successor, if there is one to hand out, to
// the wrapper.
func (g *Gateway) admit(w *response, r *http.Request, need session.Need) (session.Opened, error) {
	t, err := w.app.ticket(r.Header)
	if err != nil {
		return session.Opened{}, err
	}
	w.sid = t.SID
	if w.endpoint == endpointRoute && w.watch == nil {
		// Before the session is opened, so that no end falls in between.
		w.watch = g.keeper.Watch(w.app.policy, t.SID)
	}
	need.Received = w.received
	ctx, end := w.step(r, "session")
	o, err := g.keeper.Open(ctx, w.app.policy, t, need) // it bounds its own waits
	end(err)
	if err != nil {
		return session.Opened{}, err
	}
	w.successor, w.cookieLife = o.Successor, cookieLife(o)
	return o, nil
}

// cookieLife is how long the browser shall keep the session's cookie: of a
// remembered session, to its absolute end. 0: until the browser closes.
func cookieLife(o session.Opened) time.Duration {
	if !o.Remembered {
		return 0
	}
	return max(time.Second, o.ExpiresAt.Sub(o.Now))
}
