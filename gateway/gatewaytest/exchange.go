package gatewaytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
)

// Endpoint is one of the provider's own paths.
type Endpoint string

const (
	EndpointDiscovery  Endpoint = "/.well-known/openid-configuration"
	EndpointJWKS       Endpoint = "/jwks"
	EndpointAuthorize  Endpoint = "/authorize"
	EndpointToken      Endpoint = "/token"
	EndpointUserInfo   Endpoint = "/userinfo"
	EndpointRevoke     Endpoint = "/revoke"
	EndpointEndSession Endpoint = "/end_session"
	endpointPicture    Endpoint = "/picture"
)

// maxBody is far above any real request to a provider.
const maxBody = 64 << 10

// Request describes a request to gates, failures and hooks.
type Request struct {
	N        int // from 1, counted over all endpoints
	Endpoint Endpoint
	Grant    string // grant_type, at the token endpoint
	Client   string // the client's ID, once authenticated
	Token    string // the ledger's name of the code or refresh token that was presented, if it is known
	Subject  string // whose token that is
}

// exchange is one request and its answer. The answer is kept back until the
// handler is done, so that gates and failures can stand between the two.
type exchange struct {
	Request
	p         *Provider
	opts      Options
	r         *http.Request
	w         http.ResponseWriter
	kind      Kind // of the presented token
	committed bool
	answered  bool     // by a failure
	failing   *Failing // chosen before the commit, to be carried out after it

	status int
	header http.Header
	body   bytes.Buffer
}

// oauthError is an answer of RFC 6749 §5.2.
type oauthError struct {
	status int
	code   string
	detail string
}

func (e *oauthError) Error() string { return e.code + ": " + e.detail }

func (p *Provider) routes() {
	p.mux = http.NewServeMux()
	for pattern, h := range map[string]struct {
		e Endpoint
		f func(*exchange)
		// own: the handler itself says when it commits
		own bool
	}{
		"GET " + string(EndpointDiscovery):           {EndpointDiscovery, (*exchange).discovery, false},
		"GET " + string(EndpointJWKS):                {EndpointJWKS, (*exchange).jwks, false},
		string(EndpointAuthorize):                    {EndpointAuthorize, (*exchange).authorize, false},
		string(EndpointToken):                        {EndpointToken, (*exchange).token, true},
		string(EndpointUserInfo):                     {EndpointUserInfo, (*exchange).userInfo, false},
		string(EndpointRevoke):                       {EndpointRevoke, (*exchange).revoke, true},
		string(EndpointEndSession):                   {EndpointEndSession, (*exchange).endSession, false},
		"GET " + string(endpointPicture) + "/{file}": {endpointPicture, (*exchange).picture, false},
	} {
		p.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { p.handle(w, r, h.e, h.f, h.own) })
	}
}

// ServeHTTP serves the provider at the root of its issuer.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.handling.RLock()
	defer p.handling.RUnlock()
	p.mux.ServeHTTP(w, r)
}

func (p *Provider) handle(w http.ResponseWriter, r *http.Request, e Endpoint, f func(*exchange), own bool) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	x := &exchange{p: p, opts: p.options(), r: r, w: w, status: http.StatusOK, header: http.Header{}}
	x.N, x.Endpoint = int(p.requests.Add(1)), e
	p.mu.Lock()
	p.counts[e]++
	p.mu.Unlock()
	defer func() {
		x.opts.Log.Info("provider", slog.Int("n", x.N), slog.String("endpoint", string(e)), slog.String("grant", x.Grant),
			slog.String("token", x.Token), slog.String("subject", x.Subject), slog.Int("status", x.status))
	}()
	if !own && !x.commit() {
		return
	}
	f(x)
	x.answer()
}

// commit passes the gate before the commit. It reports false where a failure
// has answered instead: the caller then changes nothing and returns.
func (x *exchange) commit() bool {
	x.p.wait(GateBeforeCommit, x.Request)
	x.failing = x.p.failure(x.Request)
	if x.failing == nil || x.failing.after() {
		x.committed = true
		return true
	}
	x.note(Unspent)
	x.fail(x.failing.with)
	return false
}

// answer sends what the handler left, unless a failure replaces it.
func (x *exchange) answer() {
	if x.answered {
		return
	}
	if x.committed {
		x.p.wait(GateAfterCommit, x.Request)
		if x.failing != nil && !x.failing.with.Truncate {
			x.note(Dropped)
			x.fail(x.failing.with)
			return
		}
	}
	for k, v := range x.header {
		x.w.Header()[k] = v
	}
	body := x.body.Bytes()
	x.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	x.w.WriteHeader(x.status)
	half := len(body) / 2
	if x.committed && x.failing != nil {
		x.note(Dropped)
		_, _ = x.w.Write(body[:half])
		_ = http.NewResponseController(x.w).Flush()
		panic(http.ErrAbortHandler) // closes the connection
	}
	_, _ = x.w.Write(body[:half])
	if x.committed {
		if x.p.gated(GateMidBody, x.Request) {
			_ = http.NewResponseController(x.w).Flush()
			x.p.wait(GateMidBody, x.Request)
		}
	}
	_, _ = x.w.Write(body[half:])
}

// fail answers as a failure says.
func (x *exchange) fail(f FailWith) {
	x.answered, x.status = true, f.status()
	if f.Drop {
		reset(x.w)
		return
	}
	h := x.w.Header()
	if f.RetryAfter != "" {
		h.Set("Retry-After", f.RetryAfter)
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "text/plain")
	body := f.Body
	if f.Error != "" {
		h.Set("Content-Type", "application/json")
		body = fmt.Sprintf(`{"error":%q}`, f.Error)
	}
	if f.ContentType != "" {
		h.Set("Content-Type", f.ContentType)
	}
	x.w.WriteHeader(x.status)
	_, _ = x.w.Write([]byte(body))
}

// reset closes the connection so that the client sees a TCP reset, not an end.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func (x *exchange) json(status int, v any) {
	x.header.Set("Content-Type", "application/json")
	x.header.Set("Cache-Control", "no-store")
	x.status = status
	if err := json.NewEncoder(&x.body).Encode(v); err != nil {
		panic(err) // a hook put something into the answer that has no JSON
	}
}

func (x *exchange) refuse(e *oauthError) {
	if e.status == http.StatusUnauthorized {
		x.header.Set("WWW-Authenticate", `Basic realm="gatewaytest"`)
	}
	x.json(e.status, map[string]string{"error": e.code, "error_description": e.detail})
}
