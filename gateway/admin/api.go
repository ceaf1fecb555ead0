package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

const (
	// maxBody is far above what a call needs: ids, a reason and a date.
	maxBody = 8 << 10
	// callTimeout bounds a call's work, below the server's own write timeout.
	callTimeout = 25 * time.Second
)

// Token is the operators' bearer token. It prints as "[redacted]".
type Token string

func (Token) String() string       { return "[redacted]" }
func (Token) GoString() string     { return "[redacted]" }
func (Token) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// App is an app whose sessions are looked after.
type App struct {
	Name   string
	Issuer string // its provider's: subjects are this one's
	// Policy is what the keeper is told of the app: Name and the timeouts. Its
	// functions are not called.
	Policy *session.App
}

// API serves /admin/: sessions are listed, ended and unlocked.
type API struct {
	Keeper *session.Keeper
	// Apps returns the apps as they are now.
	Apps func() []App
	// Token returns what is asked for first, as it is now. Empty: nothing is,
	// which is for a listener that nobody but this machine can reach.
	Token func() Token
	// Host is the listener's host:port as it is configured.
	Host string
	Log  *slog.Logger // nil: discard
}

// call is one call as it is audited.
type call struct {
	action string
	attrs  []slog.Attr
}

func (c *call) note(attrs ...slog.Attr) { c.attrs = append(c.attrs, attrs...) }

// noteSubject notes whom a call was about without writing the name down: who
// knows the name finds the line, who reads the log doesn't find the name.
func (c *call) noteSubject(subject string) {
	sum := sha256.Sum256([]byte(subject))
	c.note(slog.String("sub_sha256", hex.EncodeToString(sum[:8])))
}

// action is one thing that can be asked of the API.
type action struct {
	name   string
	method string
	do     func(*API, context.Context, *http.Request, *call) (any, error)
}

var actions = map[string]action{
	"/admin/sessions":        {"sessions.list", http.MethodGet, (*API).list},
	"/admin/sessions/end":    {"sessions.end", http.MethodPost, (*API).end},
	"/admin/sessions/unlock": {"sessions.unlock", http.MethodPost, (*API).unlock},
}

// ServeHTTP answers a call, and audits it, whatever becomes of it.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{action: "unknown"}
	status := http.StatusOK
	answer, err := a.handle(w, r, c)
	if err != nil {
		p := explain(err)
		status = p.status()
		c.note(slog.String("code", string(p.code)))
		if p.err != nil {
			c.note(slog.Any("err", p.err))
		}
		p.write(w)
	} else {
		writeJSON(w, status, "application/json", answer)
	}
	level := slog.LevelInfo
	if status >= 400 {
		level = slog.LevelWarn
	}
	if a.Log != nil {
		a.Log.LogAttrs(r.Context(), level, "admin call", append([]slog.Attr{
			slog.Bool("audit", true), slog.String("who", "admin"), slog.String("action", c.action),
			slog.String("peer", r.RemoteAddr), slog.Int("status", status),
		}, c.attrs...)...)
	}
}

// handle goes through the checks in an order that tells a stranger nothing: who
// has no token learns neither what there is nor what else would be wrong.
func (a *API) handle(w http.ResponseWriter, r *http.Request, c *call) (any, error) {
	do, known := actions[r.URL.Path]
	if known {
		c.action = do.name
	}
	if !a.authorized(r) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="cloakroom"`)
		return nil, &problem{code: codeUnauthorized, detail: "send the token as Authorization: Bearer"}
	}
	if !a.ownHost(r) {
		return nil, unknownHost
	}
	if what := foreign(r); what != "" {
		return nil, &problem{code: codeCrossOriginBlocked, detail: what}
	}
	if !known {
		return nil, &problem{code: codeNotFound}
	}
	if r.Method != do.method {
		w.Header().Set("Allow", do.method)
		return nil, &problem{code: codeMethodNotAllowed}
	}
	if r.Method == http.MethodPost {
		if kind, _, err := mime.ParseMediaType(single(r, "Content-Type")); err != nil || kind != "application/json" {
			return nil, &problem{code: codeMediaType, detail: "Content-Type must be application/json"}
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	}
	// A caller that hangs up doesn't leave half of somebody's sessions alive.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), callTimeout)
	defer cancel()
	return do.do(a, ctx, r, c)
}

// single is a header that is there once; empty: it isn't.
func single(r *http.Request, name string) string {
	if values := r.Header.Values(name); len(values) == 1 {
		return values[0]
	}
	return ""
}

// authorized compares hashes, so that neither the time taken nor its length
// tells anything of the token.
func (a *API) authorized(r *http.Request) bool {
	token := a.Token()
	if token == "" {
		return true
	}
	scheme, shown, _ := strings.Cut(single(r, "Authorization"), " ")
	want, got := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(shown))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1 && strings.EqualFold(scheme, "Bearer")
}

// ownHost keeps pages out whose own name has been pointed at this listener (DNS
// rebinding): their requests are of one origin for the browser, but name it. A
// page can't do that with an address, or with localhost.
func (a *API) ownHost(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local != nil && local.Network() == "unix" {
		return true // no browser gets here
	}
	if r.Host == a.Host || local != nil && r.Host == local.String() {
		return true
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(r.Host, "["), "]")
	}
	addr, err := netip.ParseAddr(host)
	// Any port: a forwarded one (ssh, kubectl) is seldom the listener's own.
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// foreign says which signal tells that another site's page has made the
// request; empty: none does.
func foreign(r *http.Request) string {
	if sites, there := r.Header["Sec-Fetch-Site"]; there && (len(sites) != 1 || sites[0] != "same-origin" && sites[0] != "none") {
		return "Sec-Fetch-Site is foreign"
	}
	if origins, there := r.Header["Origin"]; there && (len(origins) != 1 || origins[0] != "http://"+r.Host && origins[0] != "https://"+r.Host) {
		return "Origin is foreign"
	}
	return ""
}
