package gateway

import (
	"errors"
	"maps"
	"net/http"

	"github.com/cloakroom/cloakroom/gateway/proxy"
)

// develop forwards to a front end's development server (Vite, webpack and the
// like). Two things differ from other upstreams.
//
// Such a server shows its sources, and its WebSocket tells of them, to whoever may
// connect. So a WebSocket has to come from the app's own origin, whether or not
// the route asks for a session, as if a cookie were at stake. And since these
// servers compare its Origin with their own address, to keep other sites out, and
// know nothing of ours, the Origin that has just been found to be the app's goes on
// as the server's own. Host is that already; of no other request the Origin is
// touched.
//
// And when it doesn't answer, that is said.
func (g *Gateway) develop(w *response, r *http.Request, rt *Route, path string, from caller) error {
	if proxy.IsWebSocket(r) {
		if err := guard(guardUpgrade, r.Method, r.Header, w.app.origin); err != nil {
			return err
		}
		r = r.WithContext(r.Context()) // a copy
		r.Header = maps.Clone(r.Header)
		r.Header["Origin"] = []string{rt.DevServer}
	}
	err := g.forward(w, r, rt, path, from)
	if errors.Is(err, proxy.ErrUnreachable) {
		return &problem{code: codeUpstreamUnreachable, detail: "the development server does not answer; is it running?", err: err}
	}
	return err
}
