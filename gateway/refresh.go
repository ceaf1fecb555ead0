package gateway

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"syscall"
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
			out.Local = errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
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

// revokePauses are the pauses between attempts to revoke a refresh token: a
// provider that restarts is back within them.
var revokePauses = [...]time.Duration{200 * time.Millisecond, time.Second, 5 * time.Second, 25 * time.Second}

// maxRevokePause leaves time for an attempt after it.
const maxRevokePause = jobTimeout - 15*time.Second

// revokeAt lets tokens be handed back that nobody will use. It returns at once:
// whoever ends a session has made sure of the session, and nobody waits for this.
func (g *Gateway) revokeAt(app string, p *idp.Provider) func(context.Context, session.RefreshToken) {
	return func(ctx context.Context, rt session.RefreshToken) {
		if rt == "" || g.jobs.run(ctx, func(ctx context.Context) { g.revoke(ctx, app, p, idp.RefreshToken(rt)) }) {
			return
		}
		g.metrics.revoked.WithLabelValues("dropped").Inc()
		g.log.LogAttrs(ctx, slog.LevelWarn, "refresh token not revoked at the provider: too many revocations under way",
			slog.String("app", app))
	}
}

// revoke revokes a refresh token, in a few attempts where the provider can't be
// reached: none sooner than it has asked for, but one before the job's time is over.
func (g *Gateway) revoke(ctx context.Context, app string, p *idp.Provider, rt idp.RefreshToken) {
	for attempt := 0; ; attempt++ {
		err := p.Revoke(ctx, rt)
		outcome, again := "ok", false
		switch {
		case err == nil:
		case errors.Is(err, errors.ErrUnsupported):
			outcome = "unsupported"
		default:
			outcome = "failed"
			again = errors.Is(err, idp.ErrUnavailable) && attempt < len(revokePauses) && ctx.Err() == nil
			g.log.LogAttrs(ctx, slog.LevelWarn, "refresh token not revoked at the provider",
				slog.String("app", app), slog.Int("attempt", attempt+1), slog.Bool("again", again), slog.String("err", err.Error()))
		}
		if !again {
			g.metrics.revoked.WithLabelValues(outcome).Inc()
			return
		}
		pause := revokePauses[attempt]
		pause = pause/2 + rand.N(pause)
		if busy, ok := errors.AsType[*idp.BusyError](err); ok {
			pause = max(pause, min(busy.RetryAfter, maxRevokePause))
		}
		if !g.jobs.pause(ctx, pause) {
			attempt = len(revokePauses) - 1 // the process ends: once more, now
		}
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
