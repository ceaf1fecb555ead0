package idp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cloakroom/cloakroom/gateway/strictjson"
)

// typAccess is the header's typ of an access token (RFC 9068 section 2.1).
const typAccess = "at+jwt"

// ErrExpired means that an access token was good, and its time is over.
var ErrExpired = errors.New("access token: it has expired")

// AccessTokenClaims is what a provider's access token says.
type AccessTokenClaims struct {
	Issuer  string
	Subject string
	// SessionID is the provider's sid; empty where the token names none.
	SessionID string
	// ClientID is who the token was issued to: client_id, or else azp; empty
	// where the token doesn't say. With no user behind it, it is Subject too
	// (RFC 9068 section 5).
	ClientID string
	// Scope is separated by spaces: scope, or else scp.
	Scope    string
	IssuedAt time.Time // zero where the token doesn't say
	// ExpiresAt is when VerifyAccessToken begins to refuse the token.
	ExpiresAt time.Time
	// Claims is the JSON object that was signed.
	Claims []byte
}

// VerifyAccessToken checks a provider's access token that came as a bearer (RFC
// 9068 section 4, RFC 8725): a signed JWT of this issuer for one of audience.
// Its exp is taken exactly, since it lives for minutes and its holder knows when
// it ends; iat and nbf may be a minute ahead.
//
// A token whose typ is at+jwt says what it is. Many providers don't say, so
// that one whose typ is JWT or missing is taken for an access token if it
// carries scope, scp or client_id, and nothing that makes it another: nonce,
// at_hash, c_hash, s_hash or events; a typ claim other than Bearer, a token_use
// other than access; or this client's own id in aud, which is what an ID token
// has there. An opaque token can't be checked here and is refused, as is one
// bound to a key (cnf): that the sender holds the key isn't checked here either.
//
// The error is ErrExpired where all else holds, ErrRejected, or ErrUnavailable
// where the provider's keys can't be had. It says nothing about whether the
// token's session has ended.
func (p *Provider) VerifyAccessToken(ctx context.Context, token string, audience []string) (AccessTokenClaims, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	return p.verifyAccessToken(ctx, AccessToken(token), func(aud []string) bool {
		return slices.ContainsFunc(aud, func(a string) bool { return a != "" && slices.Contains(audience, a) })
	})
}

// verifyAccessToken is VerifyAccessToken with another judge of the audience.
func (p *Provider) verifyAccessToken(ctx context.Context, raw AccessToken, forUs func(aud []string) bool) (AccessTokenClaims, error) {
	reject := func(reason string) (AccessTokenClaims, error) {
		return AccessTokenClaims{}, fmt.Errorf("%w: %s: %s", ErrRejected, anAccessToken.name, reason)
	}
	t, err := p.verifySignature(ctx, string(raw), anAccessToken)
	if err != nil {
		return AccessTokenClaims{}, err
	}
	o := t.claims
	if iss, ok := o.String("iss"); !ok || iss != p.cfg.Issuer {
		return reject("iss is another")
	}
	aud, ok := audience(o)
	if !ok || !forUs(aud) {
		return reject("aud is another")
	}
	if reason := p.checkIsAccess(t, aud); reason != "" {
		return reject(reason)
	}
	c := AccessTokenClaims{Issuer: p.cfg.Issuer, Claims: t.raw}
	if c.Subject, ok = o.String("sub"); !ok || !goodIdentifier(c.Subject, maxSubject) {
		return reject("sub is missing or not acceptable")
	}
	if c.SessionID, ok = o.String("sid"); !ok || c.SessionID != "" && !goodIdentifier(c.SessionID, maxSessionID) {
		return reject("sid is not acceptable")
	}
	if c.ClientID, ok = firstStr(o, "client_id", "azp"); !ok {
		return reject("client_id or azp is not a string")
	}
	if c.Scope, ok = scope(o); !ok {
		return reject("scope is not acceptable")
	}

	now := p.cfg.Now()
	if c.IssuedAt, ok = o.NumericDate("iat"); !ok || c.IssuedAt.After(now.Add(skew)) {
		return reject("iat is no date in the past")
	}
	if nbf, ok := o.NumericDate("nbf"); !ok || nbf.After(now.Add(skew)) {
		return reject("it is not valid yet")
	}
	if c.ExpiresAt, ok = o.NumericDate("exp"); !ok || c.ExpiresAt.IsZero() {
		return reject("exp is missing or no date")
	}
	// Last: a token that is wrong besides must not be told to come back fresh.
	if !now.Before(c.ExpiresAt) {
		return AccessTokenClaims{}, ErrExpired
	}
	return c, nil
}

// checkIsAccess returns what makes a token another than a plain bearer's access
// token, or "".
func (p *Provider) checkIsAccess(t signed, aud []string) string {
	o := t.claims
	if o.Has("cnf") {
		return "it is bound to a key"
	}
	if o.Has("events") {
		return "it is a logout token"
	}
	if t.typ == typAccess {
		return ""
	}
	for _, name := range []string{"nonce", "at_hash", "c_hash", "s_hash"} {
		if o.Has(name) {
			return "it is an ID token"
		}
	}
	// Keycloak's word for what a token is for, and Cognito's.
	if typ, ok := o.String("typ"); !ok || typ != "" && !strings.EqualFold(typ, "Bearer") {
		return "its typ claim is another kind of token's"
	}
	if use, ok := o.String("token_use"); !ok || use != "" && use != "access" {
		return "its token_use is another kind of token's"
	}
	if slices.Contains(aud, p.cfg.ClientID) {
		return "without typ at+jwt, and for this client: an ID token"
	}
	if !o.Has("scope") && !o.Has("scp") && !o.Has("client_id") {
		return "nothing says that it is an access token"
	}
	return ""
}

// scope returns a token's scope: a string (RFC 8693 section 4.2), or a list, as
// some providers have it.
func scope(o strictjson.Object) (string, bool) {
	for _, name := range []string{"scope", "scp"} {
		if !o.Has(name) {
			continue
		}
		if s, ok := o.String(name); ok {
			return s, true
		}
		list, ok := o.Strings(name)
		return strings.Join(list, " "), ok
	}
	return "", true
}

// firstStr returns the first of some claims that is there; ok is false if any of
// them is not a string.
func firstStr(o strictjson.Object, names ...string) (first string, ok bool) {
	for _, name := range names {
		s, ok := o.String(name)
		if !ok {
			return "", false
		}
		if first == "" {
			first = s
		}
	}
	return first, true
}
