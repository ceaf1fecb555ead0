package idp

import (
	"context"
	"errors"
)

// maxUndo is how many failed logins are undone at once. Where a provider answers
// logins and then fails, each is one; they must not take the connections that
// refreshes need.
const maxUndo = 8

// undo hands back the tokens of a login that failed after they were issued, or
// they would live on with nobody who knows them. It is tried once, in the
// background: the answer to the browser doesn't wait for it.
func (p *Provider) undo(ctx context.Context, op operation, g Grant) {
	if g.Refresh == "" && g.Access == "" {
		return
	}
	select {
	case p.undoing <- struct{}{}:
	default:
		p.cfg.Log.Warn("identity provider: too many failed logins to hand back all their tokens", "issuer", p.cfg.Issuer, "operation", string(op))
		return
	}
	// The browser may have left; its tokens are there all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.Timeout)
	go func() {
		defer func() { <-p.undoing }()
		defer cancel()
		// The refresh token first: it lives longer, and mostly takes the other
		// with it (RFC 7009 section 2.1).
		var err error
		if g.Refresh != "" {
			err = p.revoke(ctx, string(g.Refresh), "refresh_token")
		}
		if g.Access != "" && !errors.Is(err, errors.ErrUnsupported) {
			err = errors.Join(err, p.revoke(ctx, string(g.Access), "access_token"))
		}
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			p.cfg.Log.Warn("identity provider: a failed login's tokens were not all handed back", "issuer", p.cfg.Issuer, "operation", string(op), "err", err)
		}
	}()
}
