package gateway

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/cloakroom/cloakroom/session"
)

// logoutLife is how long the way through the provider's logout may take.
const logoutLife = 10 * time.Minute

// logout answers POST /bff/logout. It is idempotent: afterwards the session of
// the ticket shown, if it shows one, has ended, and the cookie is deleted. If the
// store can't be asked, neither is claimed.
func (g *Gateway) logout(w *response, r *http.Request) error {
	rule := guardJSON
	if isForm(r) {
		rule = guardAPI // a form can't send X-BFF
	}
	if err := guard(rule, r.Method, r.Header, w.app.origin); err != nil {
		return err
	}
	// A tab that closes now must not stop half-way.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), endTimeout)
	defer cancel()
	var hint idp.IDToken
	if t, err := w.app.ticket(r.Header); err == nil {
		w.sid = t.SID
		if hint, err = g.logOut(ctx, w.app, t, localKey(r.Header), w.received); err != nil {
			return err
		}
	}

	to, state := g.afterLogout(ctx, w.app, hint)
	w.setCookie(w.app.noTicketCookie())
	w.setCookie(cookieLine(landedCookie, "", http.SameSiteLaxMode, -1))
	w.setCookie(cookieLine(logoutCookie, state, http.SameSiteLaxMode, int(logoutLife/time.Second)))
	if clear := w.app.clearSiteData(); clear != "" {
		w.Header().Set("Clear-Site-Data", clear)
	}
	if rule == guardAPI {
		// A page that navigates, since the app's form-action would stop a redirect.
		u, err := url.Parse(to)
		if err != nil {
			return err
		}
		w.app.Pages.Leave(w, u)
		return nil
	}
	return writeJSON(w, struct {
		URL string `json:"logout_url"`
	}{to})
}

// clearSiteData is what browsers are told to forget, as the header has it; "" for
// nothing.
func (a *app) clearSiteData() string {
	if len(a.ClearSiteData) == 0 || a.Origin.Scheme != "https" {
		return ""
	}
	return `"` + strings.Join(a.ClearSiteData, `", "`) + `"`
}

// isForm reports whether a page's form posts, rather than a script.
func isForm(r *http.Request) bool {
	if len(r.Header["X-Bff"]) > 0 {
		return false
	}
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && (t == "application/x-www-form-urlencoded" || t == "multipart/form-data")
}

// logOut ends the ticket's session and returns its ID token, if it could be
// opened. A predecessor ends it too: it proves possession as well. Of a split
// session the refresh token is revoked if the local key opens it, and is lost
// with the session if not.
func (g *Gateway) logOut(ctx context.Context, a *app, t session.Ticket, local *session.LocalKey, received time.Time) (idp.IDToken, error) {
	o, err := g.keeper.Open(ctx, a.policy, t, session.Need{Local: local != nil, LocalKey: local, Received: received})
	if errors.Is(err, session.ErrLocalKey) {
		o, err = g.keeper.Open(ctx, a.policy, t, session.Need{Received: received})
	}
	if err != nil {
		_, over := errors.AsType[*session.EndedError](err)
		if over || errors.Is(err, session.ErrNoSession) {
			return "", nil
		}
		return "", err
	}
	if err := g.keeper.End(ctx, a.policy, t.SID, session.ReasonLoggedOut); err != nil {
		return "", err
	}
	a.policy.Revoke(ctx, o.Tokens.Refresh)
	return idp.IDToken(o.Tokens.ID), nil
}

// afterLogout is where the browser goes: through the provider's logout if there
// was a session and the provider has one, and back to /bff/logged-out. The state
// tells that page that the way began here.
func (g *Gateway) afterLogout(ctx context.Context, a *app, hint idp.IDToken) (to, state string) {
	var b [16]byte
	rand.Read(b[:])
	state = base64.RawURLEncoding.EncodeToString(b[:])
	back := a.origin + loggedOutPath
	if hint != "" {
		// The local logout is done: a provider that can't be asked now doesn't
		// undo it.
		to, err := a.Provider.LogoutURL(ctx, hint, back, state)
		if err == nil && to != "" {
			return to, state
		}
		if err != nil {
			g.log.LogAttrs(ctx, slog.LevelWarn, "logged out here, not at the provider",
				slog.String("app", a.Name), slog.String("err", err.Error()))
		}
	}
	return back + "?state=" + url.QueryEscape(state), state
}

// loggedOut answers GET /bff/logged-out, where a logout comes back to. Only one
// that began in this browser goes on to where the app wants it; anybody can link
// here, and sees a page that says what was done, if anything was.
func (g *Gateway) loggedOut(w *response, r *http.Request) error {
	known, n, done := "", 0, false
	for name, value := range cookies(r.Header) {
		if name == logoutCookie {
			known = value
			n++
		}
	}
	query, _ := url.ParseQuery(r.URL.RawQuery)
	state := query["state"]
	if n == 1 && len(state) == 1 && known != "" && subtle.ConstantTimeCompare([]byte(known), []byte(state[0])) == 1 {
		done = true
		w.setCookie(cookieLine(logoutCookie, "", http.SameSiteLaxMode, -1))
		if to := w.app.AfterLogout; to != "" {
			if strings.HasPrefix(to, "/") {
				to = w.app.origin + to
			}
			redirect(w, to)
			return nil
		}
	}
	w.app.Pages.LoggedOut(w, done, "/")
	return nil
}
