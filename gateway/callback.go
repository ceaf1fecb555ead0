package gateway

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/cloakroom/cloakroom/session"
)

// The callback has two steps. The provider's page navigates to the first, so the
// browser leaves the old session's Strict cookie out of it: the new ticket is
// parked in the login's own Lax cookie. The second is navigated to within the
// site, and there the old cookie does arrive: the session it opens is ended, so
// that a login replaces the previous one and never leaves it alive.

const (
	// exchangeTimeout bounds the first step: provider and store.
	exchangeTimeout = 30 * time.Second
	// endTimeout bounds the ending of sessions, which no closed tab stops.
	endTimeout = 10 * time.Second
)

// callback answers GET /bff/callback: with a query the first step, without one
// the second.
func (g *Gateway) callback(w *response, r *http.Request) error {
	if r.URL.RawQuery != "" {
		return g.exchange(w, r)
	}
	return g.land(w, r)
}

// authResponse is the provider's answer (RFC 6749 §4.1.2, RFC 9207).
type authResponse struct{ code, state, iss, err string }

// parseAuthResponse takes each parameter once: of two, the one that is checked
// might not be the one that is used.
func parseAuthResponse(query string) (a authResponse, err error) {
	q, err := url.ParseQuery(query)
	if err != nil {
		return a, invalid("the query can't be parsed")
	}
	for name, into := range map[string]*string{"code": &a.code, "state": &a.state, "iss": &a.iss, "error": &a.err} {
		switch v := q[name]; len(v) {
		case 0:
		case 1:
			*into = v[0]
			// Without a value it counts as not sent (RFC 6749 §3.1); but an issuer
			// that is there has to be the right one (RFC 9207 §2.4).
			if name == "iss" && v[0] == "" {
				return a, invalid("iss is empty")
			}
		default:
			return a, invalid("a parameter of the login's answer came twice")
		}
	}
	if (a.code == "") == (a.err == "") {
		return a, invalid("the login's answer has neither or both of code and error")
	}
	return a, nil
}

// exchange is the first step. The order matters: nothing is spent before it is
// certain that this browser asked, and asked this provider.
func (g *Gateway) exchange(w *response, r *http.Request) error {
	a, err := parseAuthResponse(r.URL.RawQuery)
	if err != nil {
		return err
	}
	// 1. The state finds the cookie of the browser that began, and has to be the
	// one inside it (RFC 6749 §10.12).
	p := w.app.findPending(r.Header, a.state, g.now())
	if p == nil {
		return &problem{code: codeLoginExpired}
	}
	// 2. The answer is from the provider that was asked (RFC 9207 §2.4).
	if err := w.app.Provider.CheckIssuer(r.Context(), a.iss); err != nil {
		return err
	}
	if p.parked {
		// The same answer once more, by a reload: its code is spent, the ticket is
		// here.
		w.app.Pages.Bounce(w, callbackPath)
		return nil
	}
	if a.err != "" {
		refusal := declined(a.err)
		if refusal.code != codeProviderUnavailable { // trouble drops no cookie
			w.setCookie(noLoginLine(p.id))
		}
		return refusal
	}

	// 3. The code is spent. A browser that leaves now must not leave tokens behind
	// that nobody holds.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), exchangeTimeout)
	defer cancel()
	// It is presented by one request at a time, since a second presentation takes
	// back what the first brought (RFC 6749 §4.1.2). And while there is no store, by
	// none: a reload then finishes the login.
	release, err := g.keeper.Alone(ctx, w.app.policy, "login "+p.id, exchangeTimeout)
	if err != nil {
		return err
	}
	defer release()
	asked := g.now()
	grant, err := w.app.Provider.Exchange(ctx, a.code, p.tx)
	if err != nil {
		if !errors.Is(err, idp.ErrUnavailable) {
			w.setCookie(noLoginLine(p.id)) // the code is spent: a reload can't help
		}
		return err
	}
	// 4. A new session, whatever the browser holds so far.
	login := g.newLogin(r, grant, asked)
	login.Remember = p.remember
	t, err := g.keeper.Begin(ctx, w.app.policy, login)
	if err != nil {
		if _, trouble := errors.AsType[*session.UnavailableError](err); !trouble {
			w.setCookie(noLoginLine(p.id))
		}
		w.app.policy.Revoke(ctx, session.RefreshToken(grant.Refresh))
		return err
	}
	w.sid = t.SID
	p.parked, p.ticket, p.created, p.tx = true, t, g.now(), idp.Transaction{}
	line, err := w.app.loginLine(p)
	if err != nil {
		return err
	}
	w.setCookie(line)
	w.app.Pages.Bounce(w, callbackPath)
	return nil
}

// findPending returns the live login that a state belongs to, if this browser
// began it.
func (a *app) findPending(h http.Header, state string, now time.Time) *pending {
	if len(state) < loginIDLength {
		return nil
	}
	for _, p := range a.pendings(h, now).live {
		if p.id == state[:loginIDLength] && subtle.ConstantTimeCompare([]byte(p.state), []byte(state)) == 1 {
			return p
		}
	}
	return nil
}

// declined turns the provider's error code into one of ours. Its description is
// for nobody: it is text from outside.
func declined(oauthError string) *problem {
	switch oauthError {
	case "access_denied",
		// the answers to prompt=none (OpenID Connect Core §3.1.2.6)
		"login_required", "interaction_required", "consent_required", "account_selection_required":
		return &problem{code: codeLoginCancelled}
	case "temporarily_unavailable", "server_error":
		return &problem{code: codeProviderUnavailable}
	}
	return &problem{code: codeLoginFailed, err: errors.New("the provider answered with an error")}
}

// newLogin is what a grant makes of a new session.
func (g *Gateway) newLogin(r *http.Request, grant idp.Grant, asked time.Time) session.Login {
	return session.Login{
		Tokens: tokens(grant, asked), Issuer: grant.Issuer, Subject: grant.Subject,
		ProviderSession: grant.SessionID, AuthTime: grant.AuthTime, Claims: grant.Claims,
		IssuedAt: issuedAt(grant, asked), Address: g.address(r), Browser: clip(r.UserAgent(), 256),
	}
}

// issuedAt is the ID token's iat, which the idp has checked. Where a password
// brought no ID token, the person logged in when asked: another iat is about something
// else. Whole seconds, cut as a logout token's are: of two within one, the logout
// counts as the later.
func issuedAt(grant idp.Grant, asked time.Time) time.Time {
	var c struct {
		IssuedAt float64 `json:"iat"`
	}
	if grant.ID == "" || json.Unmarshal(grant.Claims, &c) != nil || c.IssuedAt <= 0 {
		return asked.Truncate(time.Second)
	}
	return time.Unix(int64(c.IssuedAt), 0)
}

// land is the second step. Its first half ends sessions, and only if that worked
// its second half sets the cookie: what fails can be tried again by a reload.
func (g *Gateway) land(w *response, r *http.Request) error {
	if only(r.Header, "Sec-Fetch-Site", "cross-site") {
		w.app.Pages.Bounce(w, callbackPath)
		return nil
	}
	have := w.app.pendings(r.Header, g.now())
	var parked []*pending
	for _, p := range have.live {
		if p.parked {
			parked = append(parked, p)
		}
	}
	if len(parked) == 0 {
		return &problem{code: codeLoginExpired}
	}
	newest, others := parked[len(parked)-1], parked[:len(parked)-1]
	w.sid = newest.ticket.SID

	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), endTimeout)
	defer cancel()
	// What the login replaces: tickets, whose refresh token can be handed back,
	// and sessions of which only the name is known.
	replaced := make(map[session.SID]*session.Ticket)
	for _, p := range parked {
		if p.previous != (session.SID{}) {
			replaced[p.previous] = nil
		}
	}
	for _, p := range others {
		replaced[p.ticket.SID] = &p.ticket
	}
	if t, err := w.app.ticket(r.Header); err == nil {
		replaced[t.SID] = &t
	}
	delete(replaced, newest.ticket.SID)
	for sid, t := range replaced {
		if err := g.end(ctx, w.app, sid, t, session.ReasonReplaced, w.received); err != nil {
			return err
		}
	}

	var life time.Duration
	if newest.remember {
		// The session began when its ticket was parked.
		life = w.app.policy.Remember - g.now().Sub(newest.created)
	}
	line, err := w.app.ticketCookie(newest.ticket, life)
	if err != nil {
		return err
	}
	w.setCookie(line)
	w.setCookie(cookieLine(landedCookie, "1", http.SameSiteLaxMode, int(landedLife/time.Second)))
	for _, p := range parked {
		w.setCookie(noLoginLine(p.id))
	}
	for _, id := range have.dead {
		w.setCookie(noLoginLine(id))
	}
	redirect(w, w.app.origin+newest.returnTo)
	return nil
}

// end ends a session and, if its ticket is at hand and still opens it, hands its
// refresh token back to the provider, later. Its error says that the session may
// live on.
func (g *Gateway) end(ctx context.Context, a *app, sid session.SID, t *session.Ticket, reason session.Reason, received time.Time) error {
	var refresh session.RefreshToken
	if t != nil {
		switch o, err := g.keeper.Open(ctx, a.policy, *t, session.Need{Received: received}); {
		case err == nil:
			refresh = o.Tokens.Refresh
		case errors.Is(err, session.ErrNoSession):
			return nil // a record that this ticket doesn't open isn't the browser's to end
		default:
			if _, over := errors.AsType[*session.EndedError](err); over {
				return nil
			}
			// Not to be opened now, but to be ended, if the store can.
			g.log.LogAttrs(ctx, slog.LevelWarn, "ending a session without its refresh token",
				slog.String("app", a.Name), slog.Any("sid", sid), slog.String("err", err.Error()))
		}
	}
	if err := g.keeper.End(ctx, a.policy, sid, reason); err != nil {
		return err
	}
	a.policy.Revoke(ctx, refresh)
	return nil
}
