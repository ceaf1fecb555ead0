package gateway

import (
	"net/http"
	"net/url"
	"slices"

	"github.com/cloakroom/cloakroom/gateway/idp"
)

// login answers GET /bff/login: it sends the browser to the provider and keeps
// the transaction in the browser, so that a flood of logins costs no memory.
//
// A parameter that comes twice counts as not sent, for the gateway and the
// provider alike.
func (g *Gateway) login(w *response, r *http.Request) error {
	if g.bounceOnce(w, r) {
		return nil
	}
	// What can't be parsed is left out; nothing here is refused for its query.
	query, _ := url.ParseQuery(r.URL.RawQuery)

	p := &pending{id: newLoginID(), created: g.now(), returnTo: "/", tx: idp.NewTransaction()}
	if v := query["return_to"]; len(v) == 1 {
		p.returnTo = returnPath(v[0])
	}
	// The state leads back to its cookie: of seven tabs, each finds its own.
	p.tx.State = p.id + p.tx.State
	p.state = p.tx.State
	if t, err := w.app.ticket(r.Header); err == nil {
		p.previous, w.sid = t.SID, t.SID
	}
	extra := make(url.Values)
	for _, name := range w.app.LoginParams {
		switch v := query[name]; {
		case len(v) != 1 || name == paramRemember:
		case name == "max_age":
			p.tx.SetMaxAge(v[0]) // the answer is held to it
		default:
			extra[name] = v
		}
	}
	p.remember = w.app.remember(query)
	to, err := w.app.Provider.LoginURL(r.Context(), p.tx, extra)
	if err != nil {
		return err
	}
	line, err := w.app.loginLine(p)
	if err != nil {
		return err
	}
	g.dropLogins(w, r, maxLogins-1)
	w.setCookie(line)
	redirect(w, to)
	return nil
}

// paramRemember asks for a session that outlives the browser's own. It is one of
// the login_params, and the only one that is not the provider's.
const paramRemember = "remember"

// remember reports whether a login's query asks to be remembered, and may.
func (a *app) remember(query url.Values) bool {
	v := query[paramRemember]
	return len(v) == 1 && v[0] == "1" && slices.Contains(a.LoginParams, paramRemember)
}

// dropLogins drops logins that are over, and of the others the oldest, until at
// most keep are left. A parked ticket stays: it is a live session, which the
// callback's second step has to set or end.
func (g *Gateway) dropLogins(w *response, r *http.Request, keep int) {
	have := w.app.pendings(r.Header, g.now())
	for _, id := range have.dead {
		w.setCookie(noLoginLine(id))
	}
	over := len(have.live) - keep
	for _, p := range have.live {
		if over > 0 && !p.parked {
			w.setCookie(noLoginLine(p.id))
			over--
		}
	}
}

// bounceOnce answers a link from another site with a small page that navigates
// to the same URL within the site, because the browser leaves a Strict cookie
// out of the first navigation: without the second, a person with a session looks
// logged out. The second is no cross-site navigation, so there is no third.
func (g *Gateway) bounceOnce(w *response, r *http.Request) bool {
	if r.Method != http.MethodGet || !crossSite(r) || w.app.sameSite != http.SameSiteStrictMode {
		return false
	}
	if _, err := w.app.ticket(r.Header); err != errNoTicket {
		return false
	}
	w.app.Pages.Bounce(w, r.RequestURI) // a canonical path and its query
	return true
}

// redirect sends a navigation on by GET. The URL is not repeated in a body: it
// may hold a state.
func redirect(w *response, to string) {
	h := w.Header()
	hardenOwn(h)
	h.Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}
