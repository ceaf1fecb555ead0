package idp

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"
)

// maxHint is how long an ID token may be to go into a URL: beyond some 8 KiB
// servers refuse the request, and a logout that asks the person is better than
// none.
const maxHint = 6 << 10

// Revoke hands a refresh token back (RFC 7009), in one attempt. A token that
// the provider doesn't know counts as revoked. The error is
// errors.ErrUnsupported where the provider revokes nothing, else ErrRejected or
// ErrUnavailable; a [BusyError] is one of these, too.
func (p *Provider) Revoke(ctx context.Context, rt RefreshToken) error {
	if rt == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	return p.revoke(ctx, string(rt), "refresh_token")
}

func (p *Provider) revoke(ctx context.Context, token, hint string) error {
	m, err := p.metadata.get(ctx)
	if err != nil {
		return err
	}
	if m.revocation == "" {
		return fmt.Errorf("%s: %w: the provider has no revocation_endpoint", opRevoke, errors.ErrUnsupported)
	}
	a, _, _, err := p.postForm(ctx, opRevoke, m.revocation, url.Values{
		"token":           {token},
		"token_type_hint": {hint},
	}, nil)
	if err != nil {
		return unavailable(ctx, opRevoke, err)
	}
	if a.status < 200 || a.status > 299 {
		err := statusError(opRevoke, a)
		if after := p.retryAfter(a.header); after > 0 && errors.Is(err, ErrUnavailable) {
			return &BusyError{RetryAfter: after, err: err}
		}
		return err
	}
	return nil
}

// BusyError is ErrUnavailable with the provider's word on when to come back (RFC 7009
// section 2.2.1).
type BusyError struct {
	RetryAfter time.Duration // at most 5 minutes
	err        error
}

func (e *BusyError) Error() string { return e.err.Error() }
func (e *BusyError) Unwrap() error { return e.err }

// LogoutURL returns where to send a browser whose session has ended, so that the
// provider's ends too (OpenID Connect RP-Initiated Logout 1.0 section 2); "" if
// the provider has no such place. idToken and postLogoutRedirectURI may be empty;
// state goes with the latter.
//
// The error is ErrUnavailable or ErrRejected: the metadata can't be had.
func (p *Provider) LogoutURL(ctx context.Context, idToken IDToken, postLogoutRedirectURI, state string) (string, error) {
	target := p.cfg.EndSessionEndpoint
	if target == "" {
		m, err := p.metadata.get(ctx)
		if err != nil || m.endSession == "" {
			return "", err
		}
		target = m.endSession
	}
	q := url.Values{"client_id": {p.cfg.ClientID}}
	if idToken != "" && len(idToken) <= maxHint {
		q.Set("id_token_hint", string(idToken))
	}
	if postLogoutRedirectURI != "" {
		q.Set("post_logout_redirect_uri", postLogoutRedirectURI)
		if state != "" {
			q.Set("state", state)
		}
	}
	return addQuery(target, q)
}
