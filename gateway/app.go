package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/cloakroom/cloakroom/gateway/mint"
	"github.com/cloakroom/cloakroom/gateway/proxy"
	"github.com/cloakroom/cloakroom/gateway/web"
	"github.com/cloakroom/cloakroom/session"
)

// App is one single-page app: one origin, one registration at a provider, its
// session policy and its routes.
type App struct {
	// Name keeps this app's cookies and sessions apart from other apps'. It must
	// not change while there are sessions.
	Name string
	// Origin is scheme and host, as browsers send it. Requests are told apart by
	// this host alone.
	Origin *url.URL
	// Provider is where people log in.
	Provider *idp.Provider
	// Session is the policy. Its Name, SplitKey, Refresh and Revoke are filled in
	// by [Gateway.Swap].
	Session session.App
	// SameSite is the session cookie's. Anything but http.SameSiteLaxMode means
	// Strict.
	SameSite http.SameSite
	// LoginParams are the query parameters of /bff/login that are passed on to
	// the provider; of them, "remember" is the gateway's own.
	LoginParams []string
	// PasswordLogin lets POST /bff/login present a name and a password at the
	// provider, which has to be run by whoever runs the app.
	PasswordLogin bool
	// SplitKey asks the page for a local key beside the cookie: see
	// [session.LocalKey].
	SplitKey bool
	// UserClaims are the claims that /bff/user shows.
	UserClaims []string
	// Token says what /bff/token hands out.
	Token TokenMode
	// Mint makes the tokens of TokenMint, whose Session.Revalidate must be set.
	Mint *mint.Issuer
	// ForwardAuth lets another proxy ask, at /bff/auth, about requests on routes
	// with ForwardAuth.
	ForwardAuth AuthSecret
	// Audience are the resource servers whose tokens of the provider's this app's
	// routes accept as bearers.
	Audience []string
	// AfterLogout is a path of the app, or a URL, where a finished logout lands;
	// empty: a page that says so.
	AfterLogout string
	// ClearSiteData is what browsers are told to forget at logout ("storage", …;
	// Clear Site Data, W3C). They listen to it over https alone.
	ClearSiteData []string
	// HSTS is the Strict-Transport-Security of every answer (RFC 6797), over
	// whatever an upstream says: it speaks for the whole host. Empty: none of
	// ours. It needs an https Origin.
	HSTS string
	// Pages has templates of the app's own for the gateway's pages. Nil: none.
	Pages  *web.Pages
	Routes []Route
}

// TokenMode says how an app's page gets access tokens.
type TokenMode string

const (
	// TokenOff: not at all. Also the zero value's meaning.
	TokenOff TokenMode = "off"
	// TokenRelay: the provider's, as it is.
	TokenRelay TokenMode = "relay"
	// TokenMint: tokens of our own.
	TokenMint TokenMode = "mint"
)

// Kind says who calls a route.
type Kind uint8

const (
	KindAPI  Kind = iota // scripts: they get 401, never a redirect
	KindPage             // people: a navigation is sent to the login
)

// Auth says what a route asks of its caller.
type Auth uint8

const (
	AuthRequired Auth = iota
	AuthOptional      // without a session, or when a guard fails, the caller is anonymous
	AuthNone          // the cookie is not looked at
)

// Route maps a path prefix to what is behind it. Its zero value asks for most
// and gives least.
type Route struct {
	// Path is a prefix of whole segments: "/api" and "/api/" both match /api and
	// /api/x, not /apix. The longest prefix wins.
	Path string
	// Methods narrow the route; nil: all. Among routes of one path, at most one
	// may match a method.
	Methods []string
	Kind    Kind
	Auth    Auth
	// Token attaches the session's access token. It needs Auth required or
	// optional, and no Files.
	Token bool
	// Accept says by what callers are known; bearers need Auth required or
	// optional.
	Accept Accept
	// Require are claims that a caller must have: each claim's value is one of the
	// texts, or an array with one of them. It needs Auth required. A bearer's are
	// those in the token.
	Require map[string][]string
	// Exactly one of Upstream, Files and ForwardAuth is set.
	Upstream *proxy.Proxy
	Files    *web.Files
	// ForwardAuth: another proxy serves the route, and asks at /bff/auth about each
	// request. It needs the app's.
	ForwardAuth bool
	// DevServer is the origin of the front end's development server, where Upstream
	// leads to one; empty where it doesn't. It needs no Token and no Headers.
	DevServer string
	// StripPrefix is taken off the path before it names a file. An upstream's
	// is set in its Proxy.
	StripPrefix string
	// Headers tell the upstream of the caller's claims. They need Auth required
	// or optional; an anonymous caller has none.
	Headers []ClaimHeader
	// MaxHeader is how many bytes a request's header may have, and MaxBody its
	// body; 0: any number, within what [Served.HeaderBytes] allows.
	MaxHeader int
	MaxBody   int64
	// MaxConcurrent is how many requests may be at the upstream at once,
	// WebSockets and streams included; 0: any number. More are 503.
	MaxConcurrent int
	// Deadline is for a request and all of its answer, WebSockets and streams
	// included; 0: any time. See proxy.Config's Timeout for how long the upstream
	// may take to begin.
	Deadline time.Duration

	busy *atomic.Int64 // requests at the upstream; nil without MaxConcurrent
}

// app is an App ready to serve. It is immutable.
type app struct {
	App
	origin   string // as the Origin header has it
	host     string
	sameSite http.SameSite
	policy   *session.App
	tickets  codec
	known    knownTickets
	logins   codec
	routes   *proxy.Table[[]Route]
	identity []string // the names of all routes' Headers, of all apps: they may share upstreams
	hsts     []string // the header's lines; nil: none
	lines    *accessLines
	// takesRelayed: a route accepts the provider's own tokens.
	takesRelayed bool
}

// prepare checks an App and derives what serving needs.
func (g *Gateway) prepare(def App, keys *session.Keyring) (*app, error) {
	if def.Name == "" {
		return nil, errors.New("an app without a name")
	}
	fail := func(format string, args ...any) (*app, error) {
		return nil, fmt.Errorf("app %s: "+format, append([]any{def.Name}, args...)...)
	}
	o := def.Origin
	if o == nil || (o.Scheme != "https" && o.Scheme != "http") || o.Host == "" || strings.Trim(o.Path, "/") != "" || o.RawQuery != "" || o.User != nil {
		return fail("the origin is not scheme://host")
	}
	if def.Provider == nil {
		return fail("no provider")
	}
	switch def.Token {
	case TokenOff, TokenRelay, "":
	case TokenMint:
		if def.Mint == nil || def.Session.Revalidate <= 0 {
			return fail("minted tokens need an issuer, and how often sessions are revalidated")
		}
	default:
		return fail("unknown token mode %q", def.Token)
	}

	a := &app{App: def, host: strings.ToLower(o.Host), sameSite: http.SameSiteStrictMode, lines: g.lines.of(def.Name)}
	// Browsers leave the scheme's own port out, of Host and of Origin.
	a.host = strings.TrimSuffix(a.host, map[string]string{"https": ":443", "http": ":80"}[o.Scheme])
	a.origin = o.Scheme + "://" + a.host
	if def.SameSite == http.SameSiteLaxMode {
		a.sameSite = http.SameSiteLaxMode
	}
	a.tickets = newCodec(keys.Derive("cloakroom/1 cookie", def.Name, 64), maxTicketText)
	a.logins = newCodec(keys.Derive("cloakroom/1 login", def.Name, 64), maxLoginText)

	if def.HSTS != "" {
		if o.Scheme != "https" {
			return fail("HSTS is for an https origin")
		}
		a.hsts = []string{def.HSTS}
	}

	policy := def.Session
	policy.Name = def.Name
	if def.Token != TokenMint {
		policy.Revalidate = 0 // the life of the provider's tokens decides
	}
	policy.SplitKey = def.SplitKey
	policy.Refresh = g.refreshAt(def.Name, def.Provider)
	policy.Revoke = g.revokeAt(def.Name, def.Provider)
	a.policy = &policy

	bearers := slices.ContainsFunc(def.Routes, func(rt Route) bool { return rt.Accept.Bearer })
	a.takesRelayed = bearers && def.Token == TokenRelay
	switch {
	case bearers && def.Token != TokenMint && def.Token != TokenRelay:
		return fail("routes accept bearers, and there are no tokens")
	case a.takesRelayed && len(def.Audience) == 0:
		return fail("routes accept the provider's tokens, and no audience is named")
	}
	for _, rt := range def.Routes {
		if rt.ForwardAuth && def.ForwardAuth == "" {
			return fail("route %s: another proxy serves it, and none may ask", rt.Path)
		}
		for _, h := range rt.Headers {
			a.identity = append(a.identity, h.Name)
		}
	}
	table, err := newTable(def.Routes)
	if err != nil {
		return fail("%w", err)
	}
	a.routes = table
	return a, nil
}

// check checks a route by itself.
func (rt *Route) check() error {
	switch {
	case ownPath(rt.Path):
		return errors.New("the path belongs to the gateway")
	case rt.ForwardAuth && (rt.Upstream != nil || rt.Files != nil || rt.StripPrefix != "" || rt.MaxHeader > 0 || rt.MaxBody > 0):
		return errors.New("requests that another proxy serves don't pass here")
	case !rt.ForwardAuth && (rt.Upstream == nil) == (rt.Files == nil):
		return errors.New("neither or both of upstream and files")
	case rt.Token && (rt.Auth == AuthNone || rt.Files != nil):
		return errors.New("a token needs a session and an upstream")
	case rt.Accept.Bearer && rt.Auth == AuthNone:
		return errors.New("bearers are not looked at where nobody is asked for")
	case len(rt.Require) > 0 && rt.Auth != AuthRequired:
		return errors.New("claims are required of nobody")
	case len(rt.Headers) > 0 && (rt.Auth == AuthNone || rt.Files != nil):
		return errors.New("headers from claims need a session and an upstream")
	case rt.DevServer != "" && (rt.Upstream == nil || rt.Token || len(rt.Headers) > 0):
		return errors.New("a development server is an upstream, and is told nothing of the user")
	case (rt.MaxConcurrent > 0 || rt.Deadline > 0) && rt.Upstream == nil:
		return errors.New("without an upstream there is no deadline and no place to wait for")
	}
	return nil
}

// newTable groups the routes by path.
func newTable(routes []Route) (*proxy.Table[[]Route], error) {
	var entries []proxy.Entry[[]Route]
	for _, rt := range routes {
		if err := rt.check(); err != nil {
			return nil, fmt.Errorf("route %s: %w", rt.Path, err)
		}
		if rt.MaxConcurrent > 0 {
			rt.busy = new(atomic.Int64)
		}
		i := slices.IndexFunc(entries, func(e proxy.Entry[[]Route]) bool { return e.Prefix == rt.Path })
		if i < 0 {
			entries = append(entries, proxy.Entry[[]Route]{Prefix: rt.Path, Value: []Route{rt}})
			continue
		}
		for _, other := range entries[i].Value {
			if rt.Methods == nil || other.Methods == nil || slices.ContainsFunc(rt.Methods, func(m string) bool { return slices.Contains(other.Methods, m) }) {
				return nil, fmt.Errorf("route %s: another route has the same path and method", rt.Path)
			}
		}
		entries[i].Value = append(entries[i].Value, rt)
	}
	return proxy.NewTable(entries...)
}

// route finds the route of a canonical path. A method that the longest prefix
// doesn't serve falls through to no shorter one: what a broader route allows must
// not open what a narrower one closed.
func (a *app) route(path, method string) (*Route, error) {
	routes, ok := a.routes.Match(path)
	if !ok {
		return nil, &problem{code: codeNoRoute}
	}
	var allow []string
	for i := range routes {
		if routes[i].Methods == nil || slices.Contains(routes[i].Methods, method) {
			return &routes[i], nil
		}
		allow = append(allow, routes[i].Methods...)
	}
	return nil, &problem{code: codeMethodNotAllowed, allow: strings.Join(allow, ", ")}
}
