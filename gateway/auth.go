package gateway

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/cloakroom/cloakroom/gateway/proxy"
)

// Forward-auth: another proxy serves a route by itself, and asks here about each of
// its requests (nginx's auth_request, Traefik's ForwardAuth, Caddy's forward_auth).
// The check is judged as the request itself would be, with three differences:
//
//   - What the request was is the other proxy's word, so it has to prove who it is:
//     by its address and by a secret. The browser comes by the same address, and
//     would read the token out of the answer.
//   - Its answer never reaches the browser if it is a yes, and maybe not if it is a
//     no. So nothing is refreshed or handed out, and what isn't a yes is no 2xx and
//     no redirect.
//   - What can't be stripped, since the request doesn't pass here, is refused.

const (
	authPath   = basePath + "/auth"
	authHeader = "X-Bff-Forward-Auth"
	methodOf   = "X-Forwarded-Method"
	hostOf     = "X-Forwarded-Host"
	uriOf      = "X-Forwarded-Uri"
)

// AuthSecret is what a proxy shows that asks about an app's requests. It prints as
// "[redacted]". Empty: nobody may ask.
type AuthSecret string

func (AuthSecret) String() string       { return "[redacted]" }
func (AuthSecret) GoString() string     { return "[redacted]" }
func (AuthSecret) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// shown reports whether a header's lines show the secret, once.
func (s AuthSecret) shown(lines []string) bool {
	if s == "" || len(lines) != 1 {
		return false
	}
	a, b := sha256.Sum256([]byte(s)), sha256.Sum256([]byte(lines[0]))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// asked finds the app whose request a proxy asks about at /bff/auth. The error
// says, to the log, why the caller is no such proxy.
func (s *served) asked(r *http.Request) (*app, error) {
	if !proxy.FromTrusted(r, s.trusted) {
		return nil, errors.New("a check from a peer that is none of trusted_proxies")
	}
	hosts := r.Header[hostOf]
	if len(hosts) != 1 || s.apps[hosts[0]] == nil {
		return nil, errors.New("a check whose X-Forwarded-Host is not one app's host")
	}
	a := s.apps[hosts[0]]
	if !a.ForwardAuth.shown(r.Header[authHeader]) {
		return nil, errors.New("a check without the app's forward_auth.secret")
	}
	if b := s.apps[r.Host]; b != nil && b != a {
		return nil, errors.New("a check whose Host is another app's than X-Forwarded-Host")
	}
	return a, nil
}

// auth answers GET /bff/auth to a proxy that may ask: 204 with what the upstream is
// to be told, or the refusal that the request itself would get, never a 2xx or 3xx.
func (g *Gateway) auth(w *response, r *http.Request) error {
	w.endpoint = endpointAuth
	if r.Method != http.MethodGet {
		return &problem{code: codeMethodNotAllowed, allow: http.MethodGet}
	}
	o, path, err := original(r)
	if err != nil {
		return err
	}
	rt, err := w.app.route(path, o.Method)
	switch {
	case err != nil:
	case !rt.ForwardAuth:
		err = &problem{code: codeNoRoute, err: errors.New("a check of a route without forward_auth")}
	default:
		if err = w.app.unclaimed(o.Header, rt); err == nil {
			err = g.proxied(w, o, path)
		}
	}
	if err != nil {
		g.fail(w, o, err) // to whoever sent the request, if the proxy passes it on
	}
	return nil
}

// original is the request that a check is about, as far as anything here asks, and
// its canonical path.
func original(r *http.Request) (o *http.Request, path string, err error) {
	for name := range r.Header {
		for _, known := range [...]string{methodOf, hostOf, uriOf, authHeader} {
			if name != known && proxy.SameHeader(name, known) {
				return nil, "", invalid(known + " comes in another spelling, too")
			}
		}
	}
	methods, uris := r.Header[methodOf], r.Header[uriOf]
	if len(methods) != 1 || len(uris) != 1 {
		return nil, "", invalid(methodOf + " and " + uriOf + " must come once each")
	}
	method, uri := methods[0], uris[0]
	switch method {
	case http.MethodTrace, "TRACK", http.MethodConnect:
		return nil, "", &problem{code: codeMethodNotAllowed}
	}
	if method == "" || strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "" {
		return nil, "", invalid(methodOf + " is no method in upper case")
	}
	if path, err = proxy.CanonicalPath(uri); err != nil {
		return nil, "", err
	}
	if ownPath(path) {
		return nil, "", &problem{code: codeNoRoute, err: errors.New("a check of one of the gateway's own paths")}
	}
	_, query, _ := strings.Cut(uri, "?")
	o = r.WithContext(r.Context()) // a copy
	o.Method, o.RequestURI, o.URL = method, uri, &url.URL{Path: path, RawQuery: query}
	if len(r.Header["Sec-Websocket-Key"]) > 0 {
		// A WebSocket's handshake, whose hop-by-hop half most proxies leave out.
		o.ProtoMajor, o.ProtoMinor = 1, 1
		o.Header = maps.Clone(r.Header)
		o.Header["Connection"], o.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	}
	return o, path, nil
}

// unclaimed refuses a request that itself has what only the answer to its check may
// say. Some proxies would pass it on where the answer has no such header, and all of
// them in another spelling, which some upstreams take for the same.
func (a *app) unclaimed(h http.Header, rt *Route) error {
	for name := range h {
		switch {
		case name == "Authorization" && (!rt.Accept.Bearer || rt.Auth == AuthNone):
			return invalid("Authorization is not accepted here")
		case slices.ContainsFunc(a.identity, func(own string) bool { return proxy.SameHeader(name, own) }):
			return invalid("a header that tells the upstream who the user is")
		case rt.Methods != nil && proxy.RenamesMethod(name):
			return invalid("a header that asks for another method")
		}
	}
	return nil
}

// pass lets a request go on to its upstream, which another proxy serves: if that one
// has asked, by saying yes and what the upstream is to be told. Whoever comes here
// with the request itself has lost the way.
func (g *Gateway) pass(w *response, r *http.Request, from caller) error {
	if !w.check {
		return &problem{code: codeNoRoute, err: errors.New("another proxy serves this route")}
	}
	h := w.Header()
	hardenOwn(h)
	if t := string(from.token); t != "" {
		h.Set("Authorization", "Bearer "+t)
	}
	for _, f := range from.headers {
		h.Set(f.Name, f.Value)
	}
	// The browser's, without ours: they open sessions, and are for no upstream.
	if rest := proxy.OtherCookies(r.Header, OwnCookie); rest != "" {
		h.Set("Cookie", rest)
	}
	w.passes = true
	w.WriteHeader(http.StatusNoContent)
	return nil
}
