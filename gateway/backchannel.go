package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/cloakroom/cloakroom/session"
)

// The provider's two ways to say that somebody has logged out there. Neither has
// a cookie or a guard: what speaks for the first is a signature, for the second
// a name that only the provider and the session know.

const (
	// maxLogoutBody is above any logout token that is looked at, escaped.
	maxLogoutBody = 32 << 10
	// maxVerifying bounds how many logout tokens are verified at a time: anybody
	// may send some, and signatures are work.
	maxVerifying = 8
	// verifyWait is how long a logout token waits for its turn.
	verifyWait = 5 * time.Second
)

// backChannelLogout answers POST /bff/backchannel-logout (OpenID Connect
// Back-Channel Logout 1.0 section 2.5).
//
// A token serves once, or one that was kept back could end a session that its
// owner has begun since. It is used up by the ends it caused and not before: if
// they fail the answer is 503, and the provider may send it again.
func (g *Gateway) backChannelLogout(w *response, r *http.Request) error {
	body, err := readBody(w, r, "application/x-www-form-urlencoded", maxLogoutBody)
	if err != nil {
		return err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil || len(form["logout_token"]) != 1 {
		return invalid("logout_token must be sent once, in a form")
	}
	// A provider that doesn't wait for the answer wants it done all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), exchangeTimeout)
	defer cancel()
	t, err := g.verifyLogoutToken(ctx, w.app, form.Get("logout_token"))
	if err != nil {
		return err
	}
	remembered := max(t.ExpiresAt.Sub(g.now()), time.Minute)
	first, err := g.keeper.DoOnce(ctx, w.app.policy, "logout "+t.Issuer+" "+t.JTI, remembered, func(ctx context.Context) error {
		whose := session.Whose{Issuer: t.Issuer, Subject: t.Subject, ProviderSession: t.SessionID}
		how := session.Ending{Reason: session.ReasonProviderLogout, Notice: t.IssuedAt}
		if t.SessionID == "" {
			how.UpTo = t.IssuedAt // one by sid is about that session, whenever it came here
		}
		ended, err := g.keeper.EndBy(ctx, w.app.policy, whose, how)
		g.log.LogAttrs(ctx, slog.LevelInfo, "logged out by the provider", append(g.about(w, r),
			slog.Bool("audit", true), slog.Bool("by_sid", t.SessionID != ""), slog.Int("ended", ended), slog.Bool("complete", err == nil))...)
		return err
	})
	switch {
	case err != nil:
		return err
	case !first:
		return invalid("the logout token was used before")
	}
	hardenOwn(w.Header())
	w.WriteHeader(http.StatusOK)
	return nil
}

// verifyLogoutToken has a logout token checked, when it is its turn.
func (g *Gateway) verifyLogoutToken(ctx context.Context, a *app, token string) (idp.LogoutToken, error) {
	wait := time.NewTimer(verifyWait)
	defer wait.Stop()
	select {
	case g.verifying <- struct{}{}:
		defer func() { <-g.verifying }()
	case <-wait.C:
		return idp.LogoutToken{}, &problem{code: codeRateLimited, retryAfter: verifyWait}
	}
	t, err := a.Provider.VerifyLogoutToken(ctx, token)
	if errors.Is(err, idp.ErrRejected) {
		return idp.LogoutToken{}, &problem{code: codeInvalidRequest, detail: "the logout token is not acceptable", err: err}
	}
	return t, err
}

// backChannelError is fail for the provider: the code where problem+json has its
// own, and fixed text.
func (w *response) backChannelError(status int, p *problem) {
	text := p.detail
	if text == "" {
		text = codes[p.code].title
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Error       code   `json:"error"`
		Description string `json:"error_description"`
	}{p.code, text}) // the provider may be gone
}

// frontChannelLogout answers GET /bff/frontchannel-logout?iss&sid, an iframe of
// the provider's (OpenID Connect Front-Channel Logout 1.0 section 3). The session
// is found by the sid alone, since browsers leave cookies out of other sites'
// iframes.
//
// Anybody can send this. So it says nothing about what it found, and it leaves
// nothing behind in the store: unlike the back channel it doesn't hold against a
// login that is under way.
func (g *Gateway) frontChannelLogout(w *response, r *http.Request) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	iss, sid := query["iss"], query["sid"]
	if err == nil && len(iss) == 1 && len(sid) == 1 && w.app.Provider.CheckFrontChannel(iss[0], sid[0]) == nil {
		// The page may be gone before its iframes are.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), endTimeout)
		defer cancel()
		whose := session.Whose{Issuer: iss[0], ProviderSession: sid[0]}
		if _, err := g.keeper.EndBy(ctx, w.app.policy, whose, session.Ending{Reason: session.ReasonProviderLogout}); err != nil {
			return err
		}
	}
	h := w.Header()
	hardenOwn(h)
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin") // a page that isolates itself embeds nothing else
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors "+w.app.Provider.Origin())
	w.WriteHeader(http.StatusOK)
	return nil
}
