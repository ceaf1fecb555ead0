package gateway

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/cloakroom/cloakroom/session"
)

// refreshAt lets the keeper refresh at a provider: it turns what the provider
// answered into what became of the refresh token.
func (g *Gateway) refreshAt(app string, p *idp.Provider) session.RefreshFunc {
	return func(ctx context.Context, s *session.Session, sending func() error) session.Refreshed {
		asked := g.now()
		grant, err := p.Refresh(ctx, idp.RefreshToken(s.Tokens.Refresh), s.Subject, sending)
		if err == nil {
			return session.Refreshed{Outcome: session.OutcomeSpent, Tokens: tokens(grant, asked), Claims: grant.Claims}
		}
		out := session.Refreshed{Outcome: session.OutcomeUnknown, Err: err}
		e, ok := errors.AsType[*idp.RefreshError](err)
		if !ok {
			return out
		}
		out.RetryAfter, out.Misconfigured = e.RetryAfter, e.Misconfigured
		switch e.Kind {
		case idp.NotSent:
			out.Outcome = session.OutcomeNotSent
		case idp.Unspent:
			out.Outcome = session.OutcomeUnspent
		case idp.Rejected:
			out.Outcome = session.OutcomeRejected
		case idp.Foreign:
			out.Outcome, out.Tokens = session.OutcomeForeign, tokens(grant, asked)
		case idp.Unknown:
		}
		if out.Misconfigured {
			// No session is lost, but none gets a new token until somebody acts.
			g.log.LogAttrs(ctx, slog.LevelError, "the provider refuses this gateway's own registration",
				slog.Bool("alarm", true), slog.String("app", app), slog.String("err", err.Error()))
		}
		return out
	}
}

// revokeAt lets the keeper hand tokens back that nobody will use.
func (g *Gateway) revokeAt(app string, p *idp.Provider) func(context.Context, session.RefreshToken) {
	return func(ctx context.Context, rt session.RefreshToken) {
		outcome := "ok"
		if err := p.Revoke(ctx, idp.RefreshToken(rt)); errors.Is(err, errors.ErrUnsupported) {
			outcome = "unsupported"
		} else if err != nil {
			outcome = "failed"
			g.log.LogAttrs(ctx, slog.LevelWarn, "refresh token not revoked at the provider",
				slog.String("app", app), slog.String("err", err.Error()))
		}
		g.metrics.revoked.WithLabelValues(outcome).Inc()
	}
}

// revokeLater hands a refresh token back on the gateway's own time. It is one
// attempt: whoever ends a session has made sure of the session, not of this.
func (g *Gateway) revokeLater(ctx context.Context, a *app, rt session.RefreshToken) {
	if rt == "" {
		return
	}
	if !g.jobs.run(ctx, func(ctx context.Context) { a.policy.Revoke(ctx, rt) }) {
		g.metrics.revoked.WithLabelValues("dropped").Inc()
		g.log.LogAttrs(ctx, slog.LevelWarn, "refresh token not revoked at the provider: too many revocations under way",
			slog.String("app", a.Name))
	}
}

// tokens are a grant's tokens. Their life counts from when they were asked for:
// the provider's began later.
func tokens(g idp.Grant, asked time.Time) session.Tokens {
	t := session.Tokens{
		Access: session.AccessToken(g.Access), TokenType: g.TokenType, Scope: g.Scope,
		IssuedAt: asked, ExpiresAt: asked.Add(g.ExpiresIn),
		Refresh: session.RefreshToken(g.Refresh), ID: session.IDToken(g.ID),
	}
	if g.RefreshExpiresIn > 0 {
		t.RefreshExpiresAt = asked.Add(g.RefreshExpiresIn)
	}
	return t
}
