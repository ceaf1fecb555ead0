package idp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// maxRetryAfter bounds what a provider can ask us to wait.
	maxRetryAfter = 5 * time.Minute
	// checkTime is how long a refreshed ID token may wait for the provider's
	// keys. The new refresh token waits with it, in this process alone.
	checkTime = 3 * time.Second
)

// RefreshKind says what became of a refresh token that was presented in vain.
type RefreshKind uint8

const (
	// Unknown: a reset, a timeout, an unreadable or unexpected answer. The zero
	// value, since it is the one that presumes nothing.
	Unknown RefreshKind = iota
	// NotSent: nothing of the token has left this process.
	NotSent
	// Unspent: the provider said, in a complete answer, that it didn't use
	// the token now: 429, 503, or 4xx with an OAuth error other than
	// invalid_grant.
	Unspent
	// Rejected: invalid_grant. The token is dead.
	Rejected
	// Foreign: the token was spent, and what came back is another subject's.
	Foreign
)

var kindNames = [...]string{"unknown", "not_sent", "unspent", "rejected", "foreign"}

func (k RefreshKind) String() string { return kindNames[k] }

// RefreshError is the error of each Refresh that brought nothing to use. It
// wraps the error of sending, if that is the cause.
type RefreshError struct {
	Kind RefreshKind
	// OAuthError is the code of the provider's answer, if it has one. It is fit
	// for a log line.
	OAuthError string
	// RetryAfter is what the provider asked for, at most 5 minutes; 0 if
	// nothing. With NotSent and Unspent only.
	RetryAfter time.Duration
	// Misconfigured marks an Unspent that only the operator can mend:
	// invalid_client, unauthorized_client, invalid_scope or
	// unsupported_grant_type.
	Misconfigured bool

	err error
}

func (e *RefreshError) Error() string {
	s := "refresh: " + e.Kind.String()
	if e.OAuthError != "" {
		s += ": error " + e.OAuthError
	}
	if e.err != nil {
		s += ": " + e.err.Error()
	}
	return s
}

func (e *RefreshError) Unwrap() error { return e.err }

// Refresh presents a refresh token (RFC 6749 section 6), once. subject is whose
// it is.
//
// sending is called when the connection is open and before the token's first
// byte leaves, at most once, and never after Refresh has returned, but not
// always on the caller's goroutine. If it returns an error, nothing of the token
// is sent. It may be nil.
//
// Every error is a *RefreshError. With Foreign the Grant is filled in too, so
// that its tokens can be revoked. A refreshed ID token that doesn't hold in
// another way is left out of the Grant, with an alarm in the log: the refresh
// token is spent then, and its successor must not be lost for it. Grant.Refresh
// is empty where the provider sent no new refresh token: the old one stays.
func (p *Provider) Refresh(ctx context.Context, rt RefreshToken, subject string, sending func() error) (Grant, error) {
	if rt == "" || subject == "" {
		return Grant{}, &RefreshError{Kind: NotSent, err: errors.New("no refresh token, or no subject")}
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	m, err := p.metadata.get(ctx)
	if err != nil {
		return Grant{}, &RefreshError{Kind: NotSent, err: err}
	}
	a, left, refused, err := p.postForm(ctx, opRefresh, m.token, url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {string(rt)},
	}, sending)
	switch {
	case refused != nil:
		return Grant{}, &RefreshError{Kind: NotSent, err: refused}
	case err != nil && !left:
		return Grant{}, &RefreshError{Kind: NotSent, err: unavailable(ctx, opRefresh, err)}
	case err != nil:
		return Grant{}, &RefreshError{Kind: Unknown, err: unavailable(ctx, opRefresh, err)}
	}
	g, failure := p.judge(a, left)
	if failure != nil {
		return Grant{}, failure
	}
	return p.checkRefreshed(ctx, g, subject)
}

// judge reads a complete answer to a refresh.
func (p *Provider) judge(a answer, left bool) (Grant, *RefreshError) {
	if a.status == http.StatusOK && left {
		g, err := p.parseGrant(a.body)
		if err != nil {
			return Grant{}, &RefreshError{Kind: Unknown, err: fmt.Errorf("%w: %v", ErrUnavailable, err)}
		}
		return g, nil
	}
	fail := &RefreshError{OAuthError: oauthError(a.body), err: fmt.Errorf("%w: status %d", ErrUnavailable, a.status)}
	switch {
	case a.status == http.StatusTooManyRequests, a.status == http.StatusServiceUnavailable:
		fail.Kind = Unspent
	// Whatever the status is beyond that: there are providers that say 403.
	case a.status >= 400 && a.status < 500 && fail.OAuthError == "invalid_grant":
		fail.Kind = Rejected
		fail.err = fmt.Errorf("%w: status %d", ErrRejected, a.status)
	case a.status >= 400 && a.status < 500 && fail.OAuthError != "":
		fail.Kind = Unspent
		switch fail.OAuthError {
		case "invalid_client", "unauthorized_client", "invalid_scope", "unsupported_grant_type":
			fail.Misconfigured = true
		}
	}
	// An answer to the header alone says nothing about the token.
	if !left && fail.Kind != Unspent {
		fail.Kind = NotSent
	}
	if fail.Kind == Unspent || fail.Kind == NotSent {
		fail.RetryAfter = p.retryAfter(a.header)
	}
	return Grant{}, fail
}

// checkRefreshed judges the ID token of a refresh (OpenID Connect Core 1.0
// section 12.2), if there is one.
func (p *Provider) checkRefreshed(ctx context.Context, g Grant, subject string) (Grant, error) {
	g.Issuer, g.Subject = p.cfg.Issuer, subject
	if g.ID == "" {
		return g, nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	id, err := p.verifyIDToken(ctx, g.ID, idTokenWant{access: g.Access, subject: subject})
	if err == nil {
		err = p.fillIn(&g, id, nil)
		if p.cfg.UserInfo {
			g.Claims = nil // they would lack userinfo's
		}
	}
	if err == nil {
		return g, nil
	}
	// Another person's tokens must not get into this session, however bad the
	// ID token is that tells.
	if other := unverifiedSubject(g.ID); errors.Is(err, errForeign) || other != "" && other != subject {
		g.Subject = other
		return g, &RefreshError{Kind: Foreign, err: err}
	}
	if errors.Is(err, ErrUnavailable) {
		p.cfg.Log.Warn("identity provider: no keys to check a refreshed ID token with; going on without it", "issuer", p.cfg.Issuer, "err", err)
	} else {
		p.cfg.Log.Error("provider alarm", "audit", true, "alarm", "refreshed_id_token", "issuer", p.cfg.Issuer, "err", err)
	}
	g.ID = ""
	return g, nil
}

// retryAfter reads the header (RFC 9110 section 10.2.3), in either form.
func (p *Provider) retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 63); err == nil {
		return time.Duration(min(n, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return min(max(t.Sub(p.cfg.Now()), 0), maxRetryAfter)
	}
	return 0
}
