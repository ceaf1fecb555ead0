package gateway

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/cloakroom/cloakroom/gateway/proxy"
	"github.com/cloakroom/cloakroom/session"
)

// landedLife is how long after a login another one is not begun by itself.
const landedLife = 30 * time.Second

// proxied serves what is not the gateway's own: route, then who asks, and then
// upstream or files.
func (g *Gateway) proxied(w *response, r *http.Request, path string) error {
	rt, err := w.app.route(path, r.Method)
	if err != nil {
		return err
	}
	if w.span != nil {
		w.span.SetAttributes(attribute.String("http.route", rt.Path))
	}
	if err := headerFits(r, rt.MaxHeader); err != nil {
		return err
	}
	if err := rt.limitBody(r); err != nil {
		return err
	}
	var from caller
	switch {
	case rt.Auth == AuthNone:
	case rt.Accept.Bearer && len(r.Header["Authorization"]) > 0:
		if from, err = g.byBearer(w, r, rt); err != nil {
			return err
		}
	case !rt.Accept.cookie():
		if rt.Auth == AuthRequired {
			return errNoBearer
		}
	default:
		if rt.Kind == KindPage && g.bounceOnce(w, r) {
			return nil
		}
		from, err = g.byCookie(w, r, rt)
		switch {
		case err == nil:
		case rt.Auth == AuthOptional && isAnonymous(err):
		case rt.Kind == KindPage && r.Method == http.MethodGet && isNavigation(r) && (needsLogin(err) || rt.ForwardAuth && errors.Is(err, session.ErrTokenExpired)):
			return g.loginFirst(w, r, path, err)
		default:
			return err
		}
	}
	if err := rt.judge(&from); err != nil {
		return err
	}
	if rt.ForwardAuth {
		return g.pass(w, r, from)
	}
	if rt.Files != nil {
		return rt.Files.Serve(w, r, proxy.StripPrefix(path, rt.StripPrefix))
	}
	if rt.DevServer != "" {
		return g.develop(w, r, rt, path, from)
	}
	return g.forward(w, r, rt, path, from)
}

// byCookie finds the caller by the session cookie: guard, then door.
func (g *Gateway) byCookie(w *response, r *http.Request, rt *Route) (caller, error) {
	need := session.Need{Activity: !background(r.Header), Token: rt.Token, Cookie: !proxy.IsWebSocket(r)}
	if rt.ForwardAuth {
		need = session.Need{Token: rt.Token, NoRefresh: true} // what comes of it may not reach the browser
	}
	o, err := g.enter(w, r, rt.guard(r), need)
	if err != nil {
		return caller{}, err
	}
	w.watch.Until(o.ExpiresAt)
	c := caller{claims: o.Claims, watch: w.watch}
	if rt.Token {
		token, _, err := g.accessToken(w.app, o)
		if _, overdue := errors.AsType[*session.UnavailableError](err); overdue && rt.ForwardAuth {
			return caller{}, session.ErrTokenExpired // the provider's word is old: others may ask it
		}
		if err != nil {
			return caller{}, err
		}
		c.token = proxy.Bearer(token)
	}
	return c, nil
}

// guard is the rule for one request to the route.
func (rt *Route) guard(r *http.Request) guardRule {
	switch {
	case proxy.IsWebSocket(r):
		return guardUpgrade
	case rt.Kind == KindPage:
		return guardPage
	}
	return guardAPI
}

// isAnonymous reports whether the caller of an optional route goes on without a
// session. Trouble with the store is not that: it would show a person a page as if
// logged out.
func isAnonymous(err error) bool {
	if p, ok := errors.AsType[*problem](err); ok {
		return p.code == codeCrossOriginBlocked
	}
	_, ended := errors.AsType[*session.EndedError](err)
	return ended || needsLogin(err)
}

// needsLogin reports whether a login would help.
func needsLogin(err error) bool {
	if e, ok := errors.AsType[*session.EndedError](err); ok {
		return !e.Locked
	}
	return errors.Is(err, errNoTicket) || errors.Is(err, errBadTicket) || errors.Is(err, session.ErrNoSession)
}

// loginFirst sends a navigation to the login and back here. If a login has only
// just ended, another one would end the same way, maybe without a page in
// between: then the person is told instead.
func (g *Gateway) loginFirst(w *response, r *http.Request, path string, cause error) error {
	for name := range cookies(r.Header) {
		if name == landedCookie {
			if errors.Is(cause, errNoTicket) {
				return &problem{code: codeCookieRefused, err: cause}
			}
			return cause
		}
	}
	to := path
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	target := loginPath
	if to = returnPath(to); to != "/" {
		target += "?return_to=" + strings.ReplaceAll(url.QueryEscape(to), "%2F", "/")
	}
	if w.check {
		w.app.Pages.Bounce(w, target) // a proxy may pass a page on, and take a redirect for trouble
		return nil
	}
	redirect(w, w.app.origin+target)
	return nil
}
