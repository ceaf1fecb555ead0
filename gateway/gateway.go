// Package gateway is the HTTP surface of Cloakroom: everything between a browser
// and the session that its cookie opens.
//
// # Flows
//
// Each flow is a file, and each enters a room once:
//
//   - login, callback: provider, session begun, its ticket parked, cookie set
//   - token, user, session: guard, door, session opened, JSON
//   - proxied: guard, door, session opened, upstream; the wrapper adds the cookie.
//     Or, where a route accepts bearers, bearer in place of guard and door
//   - password: guard, limits, provider, session begun, cookie set, token
//   - sessions: guard, door, sessions listed or ended
//   - auth: another proxy known, its request judged as proxied would, and no more
//   - logout: guard, session ended, cookie deleted
//   - backchannel: the provider's logout token checked, sessions ended
//
// The guard comes first and is a pure function: it decides whether the request
// comes from the app's own origin. The door reads the cookie, which costs no
// Redis command if it is forged, and asks [session.Keeper] for the session. What
// then goes to the browser passes the one wrapper (response), which decides when
// the final header is written whether the ticket's successor may leave with it.
//
// A route's answer lasts no longer than its session: it registers before the
// session is opened, and is cut, or a WebSocket closed with 4401, when that ends on
// any replica (streams.go). Bytes on it are no activity.
//
// # Rules
//
// A flow returns an error, and one function (fail) turns it into an answer. Its
// text never goes to a client. Trouble in the infrastructure never deletes a
// cookie, never redirects to the login, and is never a 401. The session cookie is
// deleted by the answer to a logout and by nothing else.
//
// # What it logs
//
// Each refusal is a line with audit=true, its code and, where a ticket was read,
// the session's sid; each request is a line at level debug, or, where
// that is asked for, info. No line has a token,
// a cookie's text, a path or a query.
package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/cloakroom/cloakroom/gateway/proxy"
	"github.com/cloakroom/cloakroom/gateway/web"
	"github.com/cloakroom/cloakroom/session"
)

// Gateway serves the apps it was given. It is an http.Handler, safe for
// concurrent use.
type Gateway struct {
	keeper  *session.Keeper
	log     *slog.Logger
	metrics *metrics
	lines   *accessLines
	now     func() time.Time

	served atomic.Pointer[served] // replaced as a whole by Swap
	jobs   jobs                   // what goes on after its answer

	minted   *mintedCache
	verified *verifiedCache

	verifying chan struct{} // one per logout token that is being verified

	mayHandOut func(*session.Handout) bool // keeper.MayHandOut
}

// Options are a Gateway's optional parts.
type Options struct {
	Log     *slog.Logger          // nil: nothing is logged
	Metrics prometheus.Registerer // nil: nothing is measured
	// Access has a line a request at level info. Nil: Log has it at level debug.
	Access *slog.Logger
	Now    func() time.Time // nil: time.Now
}

// Served is what a Gateway serves, and all of it that may change while it does.
type Served struct {
	Apps []App
	// Keys are what cookies are read and written with: the Keeper's own.
	Keys *session.Keyring
	// TrustedProxies are the peers whose X-Forwarded-For counts. Nil: none.
	TrustedProxies []netip.Prefix
	// HeaderBytes is how large a request's header may be; 0: as large as the
	// server lets it. A server whose limit is looser gives more of the refused
	// ones a problem for an answer instead of its own.
	HeaderBytes int
	// Tracer makes spans of a share of the requests, TraceRatio from 0 to 1, and of
	// what these wait for. Chance draws them: nothing that a client has sent, be it a
	// wish to be sampled or a trace id. Tracer has to keep all that it is asked for.
	// Nil: nothing is traced.
	Tracer     trace.Tracer
	TraceRatio float64
}

// served is a [Served] made ready.
type served struct {
	apps        map[string]*app // by host
	trusted     []netip.Prefix
	headerBytes int
	tracer      trace.Tracer
	traceRatio  float64
}

// New returns a Gateway that serves no app until [Gateway.Swap].
func New(keeper *session.Keeper, opts Options) *Gateway {
	g := &Gateway{
		keeper: keeper, log: opts.Log, now: opts.Now,
		metrics: newMetrics(opts.Metrics), mayHandOut: keeper.MayHandOut,
		verifying: make(chan struct{}, maxVerifying),
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if g.now == nil {
		g.now = time.Now
	}
	g.lines = newAccessLines(g.log, opts.Access)
	g.minted, g.verified = newMinted(g.now), newVerified()
	g.served.Store(&served{})
	return g
}

// Swap replaces what is served, all at once: a request sees the old set or the
// new one. If one of the apps can't be served, the old set stays.
func (g *Gateway) Swap(s Served) error {
	apps := make(map[string]*app, len(s.Apps))
	names := make(map[string]bool, len(s.Apps))
	var identity []string
	for _, def := range s.Apps {
		a, err := g.prepare(def, s.Keys)
		if err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
		if apps[a.host] != nil {
			return fmt.Errorf("gateway: app %s: another app has the host %s", def.Name, a.host)
		}
		if names[def.Name] {
			return fmt.Errorf("gateway: two apps are called %s", def.Name)
		}
		apps[a.host], names[def.Name] = a, true
		identity = append(identity, a.identity...)
	}
	for _, a := range apps {
		a.identity = identity
	}
	g.served.Store(&served{apps, s.TrustedProxies, s.HeaderBytes, s.Tracer, s.TraceRatio})
	return nil
}

// Wait returns when all that goes on after its answer (revocations at the
// provider) is over, or with ctx's error. Call it when no request is served any
// more.
func (g *Gateway) Wait(ctx context.Context) error { return g.jobs.wait(ctx) }

// ServeHTTP answers one request.
func (g *Gateway) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w := &response{
		ResponseWriter: rw, g: g, received: g.now(),
		http2: r.ProtoMajor == 2, unread: r.ProtoMajor == 1 && r.Body != http.NoBody, last: twoEnds(r),
	}
	boundTracestate(r.Header)
	served := g.served.Load()
	switch {
	case served.tracer == nil:
		w.parent = proxy.Traceparent(r.Header)
	case rand.Float64() < served.traceRatio:
		r = startTrace(served.tracer, w, r)
	default:
		w.parent = proxy.Unrecorded(r.Header)
	}
	w.trace = w.parent[len("00-"):][:32]
	defer g.finish(w, r)
	if err := g.serve(served, w, r); err != nil {
		g.fail(w, r, err)
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
}

// serve is the order of things: host, method, path, and then either an endpoint
// of the gateway's own or a route.
func (g *Gateway) serve(s *served, w *response, r *http.Request) error {
	w.app = s.apps[r.Host]
	if r.RequestURI == authPath {
		var a *app
		if a, w.unasked = s.asked(r); w.unasked == nil {
			w.app, w.check = a, true
		}
	}
	if w.app == nil {
		return &problem{code: codeUnknownHost, err: w.unasked}
	}
	if err := headerFits(r, s.headerBytes); err != nil {
		return err
	}
	if !wellFramed(r) {
		return invalid("the request has more than one reading")
	}
	switch strings.ToUpper(r.Method) { // for upstreams that mind no case
	case http.MethodTrace, "TRACK", http.MethodConnect:
		return &problem{code: codeMethodNotAllowed} // echoes and tunnels, for nobody
	}
	if w.check {
		return g.auth(w, r)
	}
	path, err := proxy.CanonicalPath(r.RequestURI)
	if err != nil {
		return err
	}
	if ownPath(path) {
		return g.own(w, r, path)
	}
	if doc := w.app.published(path); doc != nil {
		return publish(w, r, doc)
	}
	w.endpoint = endpointRoute
	return g.proxied(w, r, path)
}

// The gateway's own paths.
const (
	basePath      = "/bff"
	loginPath     = basePath + "/login"
	callbackPath  = basePath + "/callback"
	loggedOutPath = basePath + "/logged-out"
	sessionsPath  = basePath + "/sessions"
)

// ownPath reports whether a canonical path belongs to the gateway itself.
func ownPath(path string) bool {
	rest, ok := strings.CutPrefix(path, basePath)
	return ok && (rest == "" || rest[0] == '/')
}

// handler serves one method of one endpoint.
type handler func(*Gateway, *response, *http.Request) error

// own serves the endpoints below /bff.
func (g *Gateway) own(w *response, r *http.Request, path string) error {
	var get, post, del handler
	switch path {
	case loginPath:
		w.endpoint, get = endpointLogin, (*Gateway).login
		if w.app.PasswordLogin {
			post = (*Gateway).passwordLogin
		}
	case callbackPath:
		w.endpoint, get = endpointCallback, (*Gateway).callback
	case basePath + "/token":
		w.endpoint, get, post = endpointToken, (*Gateway).token, (*Gateway).token
	case basePath + "/user":
		w.endpoint, get = endpointUser, (*Gateway).user
	case basePath + "/session":
		w.endpoint, get = endpointSession, (*Gateway).session
	case basePath + "/logout":
		w.endpoint, post = endpointLogout, (*Gateway).logout
	case loggedOutPath:
		w.endpoint, get = endpointLoggedOut, (*Gateway).loggedOut
	case sessionsPath:
		w.endpoint, get, del = endpointSessions, (*Gateway).sessions, (*Gateway).endOthers
	case basePath + "/backchannel-logout":
		w.endpoint, post = endpointBackChannel, (*Gateway).backChannelLogout
	case basePath + "/frontchannel-logout":
		w.endpoint, get = endpointFrontChannel, (*Gateway).frontChannelLogout
	case authPath: // a check doesn't come here
		w.endpoint = endpointAuth
		return &problem{code: codeNoRoute, err: w.unasked}
	case basePath + "/client.js":
		w.endpoint = endpointClient
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			return &problem{code: codeMethodNotAllowed, allow: "GET, HEAD"}
		}
		web.Client(w, r) // no guard: it is public
		return nil
	default:
		sid, ok := strings.CutPrefix(path, sessionsPath+"/")
		if !ok {
			return &problem{code: codeNoRoute}
		}
		w.endpoint = endpointSessions
		del = func(g *Gateway, w *response, r *http.Request) error { return g.endSession(w, r, sid) }
	}
	switch {
	case r.Method == http.MethodGet && get != nil:
		return get(g, w, r)
	case r.Method == http.MethodPost && post != nil:
		return post(g, w, r)
	case r.Method == http.MethodDelete && del != nil:
		return del(g, w, r)
	}
	var allow []string
	if get != nil {
		allow = append(allow, http.MethodGet)
	}
	if post != nil {
		allow = append(allow, http.MethodPost)
	}
	if del != nil {
		allow = append(allow, http.MethodDelete)
	}
	return &problem{code: codeMethodNotAllowed, allow: strings.Join(allow, ", ")}
}

// finish ends a request: it turns a panic into a 500, counts, and writes the
// access line.
func (g *Gateway) finish(w *response, r *http.Request) {
	v := recover()
	w.watch.Stop()
	defer w.leave()
	defer w.endTrace(r)
	if v == http.ErrAbortHandler {
		g.access(w, r)
		panic(v) // net/http's way to cut an answer off
	}
	if v != nil {
		// The value may hold what a caller sent: its type and the stack must do.
		attrs := append(g.about(w, r), slog.String("panic", fmt.Sprintf("%T", v)), slog.String("stack", string(debug.Stack())))
		if e, ok := v.(interface {
			error
			RuntimeError()
		}); ok {
			attrs = append(attrs, slog.String("err", e.Error()))
		}
		g.log.LogAttrs(r.Context(), slog.LevelError, "panic", attrs...)
		if w.status != 0 {
			g.access(w, r)
			panic(http.ErrAbortHandler)
		}
		g.fail(w, r, &problem{code: codeInternal})
	}
	g.access(w, r)
}
