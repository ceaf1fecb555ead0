package idp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/cloakroom/cloakroom/gateway/strictjson"
)

const (
	// Bounds of our own. Longer ones are nobody's, and hashing them is work
	// that the provider would do for anybody.
	maxUsername = 1 << 10
	maxPassword = 4 << 10
)

// ErrCredentials means that the provider knows no such user, or that the
// password is another, or that this user may not log in: it doesn't tell, and
// neither do we.
var ErrCredentials = errors.New("wrong user name or password")

// PasswordGrant presents a person's name and password (RFC 6749 section 4.3),
// once, to a provider that the operator runs too. It is never a fallback for
// another login. The caller limits the attempts.
//
// The subject is the ID token's, where one comes, which is then checked as at a
// login, without a nonce; else userinfo's, where the provider has it; else the
// access token's, if that is a JWT that VerifyAccessToken would take for another
// audience. With none of them the login fails.
//
// The error is ErrCredentials, ErrRejected or ErrUnavailable.
func (p *Provider) PasswordGrant(ctx context.Context, username, password string) (Grant, error) {
	// Such ones are refused unsent; the answer is the same as for others.
	if !goodCredential(username, maxUsername) || !goodCredential(password, maxPassword) {
		return Grant{}, fmt.Errorf("%s: %w", opPassword, ErrCredentials)
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	m, err := p.metadata.get(ctx)
	if err != nil {
		return Grant{}, err
	}
	form := url.Values{
		"grant_type": {"password"},
		"username":   {username},
		"password":   {password},
		"scope":      {strings.Join(p.cfg.Scopes, " ")},
	}
	// Whom the token is for is told in the authorization request elsewhere.
	for _, name := range []string{"audience", "resource"} {
		if v, ok := p.cfg.AuthorizationParams[name]; ok {
			form.Set(name, v)
		}
	}
	leave, err := p.enter(ctx, opPassword)
	if err != nil {
		return Grant{}, err
	}
	defer leave()
	a, _, _, err := p.postForm(ctx, opPassword, m.token, form, nil)
	if err != nil {
		return Grant{}, unavailable(ctx, opPassword, err)
	}
	// Section 5.2 has 400 for it; there are providers that say 401 or 403.
	if a.status >= 400 && a.status < 500 && a.status != http.StatusTooManyRequests && oauthError(a.body) == "invalid_grant" {
		return Grant{}, fmt.Errorf("%s: %w", opPassword, ErrCredentials)
	}
	return p.complete(ctx, opPassword, a, func(g *Grant) error { return p.identifyByPassword(ctx, m, g) })
}

// identifyByPassword finds out whose tokens a password brought.
func (p *Provider) identifyByPassword(ctx context.Context, m *metadata, g *Grant) error {
	if g.ID != "" {
		return p.identify(ctx, opPassword, m, g, idTokenWant{access: g.Access, login: true, password: true})
	}
	if m.userInfo != "" {
		info, err := p.userInfo(ctx, m.userInfo, g.Access, "")
		if err != nil {
			return err
		}
		subject, _ := info.String("sub")
		return p.fillIn(g, idToken{subject: subject}, info)
	}
	c, err := p.verifyAccessToken(ctx, g.Access, func([]string) bool { return true })
	switch {
	case errors.Is(err, ErrExpired):
		return fmt.Errorf("%s: %w: %v", opPassword, ErrRejected, err)
	case err != nil:
		return fmt.Errorf("%s: no ID token, no userinfo endpoint: %w", opPassword, err)
	}
	claims, err := strictjson.Parse(c.Claims)
	if err != nil {
		return fmt.Errorf("%s: %w: %v", opPassword, ErrRejected, err) // unreachable
	}
	return p.fillIn(g, idToken{subject: c.Subject, sessionID: c.SessionID, claims: claims}, nil)
}

// goodCredential is what RFC 6749 appendix A.15 and A.16 allow, within limit.
func goodCredential(s string, limit int) bool {
	return s != "" && len(s) <= limit && utf8.ValidString(s) &&
		!strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}
