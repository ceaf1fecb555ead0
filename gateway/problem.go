package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/cloakroom/cloakroom/gateway/proxy"
	"github.com/cloakroom/cloakroom/gateway/web"
	"github.com/cloakroom/cloakroom/session"
)

// code names a refusal. Codes are part of the public interface (docs: errors).
type code string

const (
	codeLoginRequired       code = "login_required"
	codeTokenExpired        code = "token_expired"
	codeTokenInvalid        code = "token_invalid"
	codeLocalKeyRequired    code = "local_key_required"
	codeInvalidCredentials  code = "invalid_credentials"
	codeAccountLocked       code = "account_locked"
	codeAccessDenied        code = "access_denied"
	codeCrossOriginBlocked  code = "cross_origin_blocked"
	codeInvalidRequest      code = "invalid_request"
	codeLoginExpired        code = "login_expired"
	codeLoginCancelled      code = "login_cancelled"
	codeCookieRefused       code = "cookie_refused"
	codeNoRoute             code = "no_route"
	codeMethodNotAllowed    code = "method_not_allowed"
	codeTooLarge            code = "too_large"
	codeUnknownHost         code = "unknown_host"
	codeHeadersTooLarge     code = "headers_too_large"
	codeRateLimited         code = "rate_limited"
	codeLoginFailed         code = "login_failed"
	codeUpstreamUnreachable code = "upstream_unreachable"
	codeUpstreamTimeout     code = "upstream_timeout"
	codeUpstreamBusy        code = "upstream_busy"
	codeProviderUnavailable code = "provider_unavailable"
	codeStoreUnavailable    code = "store_unavailable"
	codeInternal            code = "internal"

	// codeClientClosed is for logs and metrics alone: nobody is there to read it.
	codeClientClosed code = "client_closed"
)

// statusClientClosed is nginx's word for a client that left before the answer.
const statusClientClosed = 499

// codes gives each code its status and its title: all of the answer that a
// person sees.
var codes = map[code]struct {
	status int
	title  string
}{
	codeLoginRequired:       {http.StatusUnauthorized, "You need to log in."},
	codeTokenExpired:        {http.StatusUnauthorized, "The access token has expired."},
	codeTokenInvalid:        {http.StatusUnauthorized, "The access token is not accepted."},
	codeLocalKeyRequired:    {http.StatusUnauthorized, "You need to log in."},
	codeInvalidCredentials:  {http.StatusUnauthorized, "The user name or the password is wrong."},
	codeAccountLocked:       {http.StatusForbidden, "This account is locked."},
	codeAccessDenied:        {http.StatusForbidden, "You may not do this."},
	codeCrossOriginBlocked:  {http.StatusForbidden, "The request did not come from this site."},
	codeInvalidRequest:      {http.StatusBadRequest, "The request could not be understood."},
	codeLoginExpired:        {http.StatusBadRequest, "This login has expired or was finished elsewhere."},
	codeLoginCancelled:      {http.StatusBadRequest, "The login was not completed."},
	codeCookieRefused:       {http.StatusBadRequest, "The browser did not keep the session cookie."},
	codeNoRoute:             {http.StatusNotFound, "There is nothing here."},
	codeMethodNotAllowed:    {http.StatusMethodNotAllowed, "This can't be done here."},
	codeTooLarge:            {http.StatusRequestEntityTooLarge, "The request is too large."},
	codeUnknownHost:         {http.StatusMisdirectedRequest, "This host is not served here."},
	codeHeadersTooLarge:     {http.StatusRequestHeaderFieldsTooLarge, "The request's header is too large."},
	codeRateLimited:         {http.StatusTooManyRequests, "Too many attempts. Wait a moment."},
	codeLoginFailed:         {http.StatusBadGateway, "The login failed."},
	codeUpstreamUnreachable: {http.StatusBadGateway, "The service behind this page can't be reached."},
	codeUpstreamTimeout:     {http.StatusGatewayTimeout, "The service behind this page took too long."},
	codeUpstreamBusy:        {http.StatusServiceUnavailable, "The service behind this page is busy."},
	codeProviderUnavailable: {http.StatusServiceUnavailable, "The login service can't be reached at the moment."},
	codeStoreUnavailable:    {http.StatusServiceUnavailable, "The service is busy. You are still logged in."},
	codeInternal:            {http.StatusInternalServerError, "Something went wrong."},
	codeClientClosed:        {statusClientClosed, "The client closed the request."},
}

// ErrorPages are all errors that a person may be shown: what an app's own
// templates are to be tried with.
func ErrorPages() []web.ErrorPage {
	all := make([]web.ErrorPage, 0, len(codes))
	for _, c := range slices.Sorted(maps.Keys(codes)) {
		all = append(all, web.ErrorPage{Code: string(c), Status: codes[c].status, Title: codes[c].title})
	}
	return all
}

// problem is an error together with its answer. What it says to the client is
// fixed text of ours; err is for the log alone.
type problem struct {
	code       code
	reason     session.Reason // with codeLoginRequired
	detail     string         // for the developer who calls us
	retryAfter time.Duration  // with 429 and 503
	allow      string         // with 405
	challenge  string         // WWW-Authenticate, where a bearer was to be shown
	err        error
}

func (p *problem) Error() string {
	s := string(p.code)
	if p.reason != "" {
		s += " (" + string(p.reason) + ")"
	}
	if p.detail != "" {
		s += ": " + p.detail
	}
	if p.err != nil {
		s += ": " + p.err.Error()
	}
	return s
}

func (p *problem) Unwrap() error { return p.err }

func blocked(detail string) error { return &problem{code: codeCrossOriginBlocked, detail: detail} }

func invalid(detail string) error { return &problem{code: codeInvalidRequest, detail: detail} }

// reasonNoSession is login_required's reason where there is nothing to tell, or
// nobody to tell it to.
const reasonNoSession session.Reason = "no_session"

// retryAfterDefault is what a 503 asks for when nobody knows better.
const retryAfterDefault = 2 * time.Second

// explain finds the problem in an error: the one place where errors become
// answers. Trouble in the infrastructure is never a 401.
func explain(ctx context.Context, err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return &problem{code: codeClientClosed, err: err}
	}
	if e, ok := errors.AsType[*session.EndedError](err); ok {
		if e.Locked {
			return &problem{code: codeAccountLocked, err: err}
		}
		return &problem{code: codeLoginRequired, reason: e.Reason, err: err}
	}
	if e, ok := errors.AsType[*session.UnavailableError](err); ok {
		c := codeStoreUnavailable
		if e.Provider {
			c = codeProviderUnavailable
		}
		return &problem{code: c, retryAfter: e.RetryAfter, err: err}
	}
	switch {
	case errors.Is(err, errNoTicket), errors.Is(err, errBadTicket), errors.Is(err, session.ErrNoSession):
		return &problem{code: codeLoginRequired, reason: reasonNoSession, err: err}
	case errors.Is(err, session.ErrLocalKey):
		return &problem{code: codeLocalKeyRequired, err: err}
	case errors.Is(err, session.ErrTokenExpired):
		return &problem{code: codeTokenExpired, err: err}
	case errors.Is(err, idp.ErrCredentials):
		return &problem{code: codeInvalidCredentials, err: err}
	case errors.Is(err, idp.ErrUnavailable):
		return &problem{code: codeProviderUnavailable, err: err}
	case errors.Is(err, idp.ErrRejected), errors.Is(err, session.ErrTooLarge):
		return &problem{code: codeLoginFailed, err: err}
	case errors.Is(err, proxy.ErrAmbiguous):
		return &problem{code: codeInvalidRequest, detail: "the path has more than one reading", err: err}
	case errors.Is(err, proxy.ErrMethod):
		return &problem{code: codeMethodNotAllowed, err: err}
	case errors.Is(err, web.ErrMethod):
		return &problem{code: codeMethodNotAllowed, allow: "GET, HEAD", err: err}
	case errors.Is(err, web.ErrNotFound):
		return &problem{code: codeNoRoute, err: err}
	case errors.Is(err, proxy.ErrRequestBody):
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return &problem{code: codeTooLarge, err: err}
		}
		return &problem{code: codeInvalidRequest, detail: "the body broke off", err: err}
	case errors.Is(err, proxy.ErrUnreachable):
		return &problem{code: codeUpstreamUnreachable, err: err}
	case errors.Is(err, proxy.ErrTimeout):
		return &problem{code: codeUpstreamTimeout, err: err}
	case errors.Is(err, context.DeadlineExceeded):
		// A deadline of our own, around the store.
		return &problem{code: codeStoreUnavailable, err: err}
	}
	return &problem{code: codeInternal, err: err}
}

// fail answers err: as problem+json (RFC 9457), or to a person as a small page
// with the same code. It is the only way out for a refusal.
func (g *Gateway) fail(w *response, r *http.Request, err error) {
	p := explain(r.Context(), err)
	status, title := codes[p.code].status, codes[p.code].title
	g.auditRefusal(w, r, p, status)
	if w.status != 0 {
		// Half an answer is on its way: cut it off, so that it can't be taken for
		// a whole one.
		panic(http.ErrAbortHandler)
	}
	w.refusal = true
	if p.code == codeClientClosed {
		w.WriteHeader(status)
		return
	}

	h := w.Header()
	last := h.Get("Connection") == "close"
	clear(h) // whatever the answer was going to be, this isn't it
	if last {
		h.Set("Connection", "close") // of whoever serves us: the client is to come back on another
	}
	hardenOwn(h)
	if p.allow != "" {
		h.Set("Allow", p.allow)
	}
	if p.challenge != "" {
		h.Set("WWW-Authenticate", p.challenge)
	}
	doc := problemDocument{
		Type: "urn:cloakroom:" + string(p.code), Title: title, Status: status,
		Detail: p.detail, Code: p.code, TraceID: w.trace, Reason: p.reason,
	}
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		wait := max(p.retryAfter, 0)
		if wait == 0 {
			wait = retryAfterDefault
		}
		doc.RetryAfter = int((wait + time.Second - 1) / time.Second)
		h.Set("Retry-After", strconv.Itoa(doc.RetryAfter))
	}
	if w.app != nil && offersLogin(p.code) {
		doc.LoginURL = loginPath
	}

	if w.endpoint == endpointBackChannel {
		// The provider's kind of answer (Back-Channel Logout 1.0 section 2.8).
		w.backChannelError(status, p)
		return
	}
	if isNavigation(r) {
		page := web.ErrorPage{Code: string(p.code), Title: title, Detail: p.detail, TraceID: w.trace, LoginURL: doc.LoginURL}
		if mayPass(p.code) {
			// A callback's code may be spent by now: what can be had again is a login.
			if w.endpoint == endpointCallback {
				page.LoginURL = loginPath
			} else {
				page.Again = r.Method == http.MethodGet
			}
		}
		var pages *web.Pages
		if w.app != nil {
			pages = w.app.Pages
		}
		pages.Error(w, status, page)
		return
	}
	h.Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(doc) // the client may be gone
}

// offersLogin reports whether beginning a login is what mends it.
func offersLogin(c code) bool {
	switch c {
	case codeLoginRequired, codeLocalKeyRequired, codeLoginExpired, codeLoginCancelled, codeLoginFailed, codeCookieRefused:
		return true
	}
	return false
}

// mayPass reports whether the same request may well succeed in a while.
func mayPass(c code) bool {
	switch c {
	case codeProviderUnavailable, codeStoreUnavailable, codeUpstreamBusy, codeUpstreamUnreachable, codeUpstreamTimeout, codeRateLimited:
		return true
	}
	return false
}

// problemDocument is RFC 9457's object with our extensions.
type problemDocument struct {
	Type       string         `json:"type"`
	Title      string         `json:"title"`
	Status     int            `json:"status"`
	Detail     string         `json:"detail,omitempty"`
	Code       code           `json:"code"`
	TraceID    string         `json:"trace_id"`
	Reason     session.Reason `json:"reason,omitempty"`
	LoginURL   string         `json:"login_url,omitempty"`
	RetryAfter int            `json:"retry_after,omitempty"`
}

// auditRefusal writes the line that says who was refused what, and counts it. A
// client that left is no refusal.
func (g *Gateway) auditRefusal(w *response, r *http.Request, p *problem, status int) {
	if p.code == codeClientClosed {
		g.log.LogAttrs(r.Context(), slog.LevelDebug, "client closed the request", g.about(w, r)...)
		return
	}
	g.metrics.refusals.WithLabelValues(string(p.code)).Inc()
	level := slog.LevelInfo
	if status >= 500 {
		level = slog.LevelWarn
	}
	if p.code == codeInternal {
		level = slog.LevelError
	}
	attrs := append(g.about(w, r),
		slog.Bool("audit", true),
		slog.Int("status", status),
		slog.String("code", string(p.code)))
	if p.reason != "" {
		attrs = append(attrs, slog.String("reason", string(p.reason)))
	}
	if p.detail != "" {
		attrs = append(attrs, slog.String("detail", p.detail))
	}
	if p.err != nil {
		attrs = append(attrs, slog.String("err", p.err.Error()))
	}
	g.log.LogAttrs(r.Context(), level, "refused", attrs...)
}
