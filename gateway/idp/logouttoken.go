package idp

import (
	"context"
	"fmt"
	"time"

	"github.com/cloakroom/cloakroom/gateway/strictjson"
)

const (
	// maxLogoutToken is far above any logout token, certificates in its header
	// included. Anybody may send one.
	maxLogoutToken = 16 << 10
	// maxLogoutAge is how long ago a logout token may have been issued,
	// whatever its exp says; that should be two minutes ahead (Back-Channel
	// Logout 1.0 section 2.4). It bounds how long a jti has to be remembered.
	maxLogoutAge = 10 * time.Minute
	// maxTokenID is a bound of our own: jti is remembered, not shown.
	maxTokenID = 255

	logoutEvent = "http://schemas.openid.net/event/backchannel-logout"
)

// LogoutToken is a provider's word that a session, or all of a person's, are
// over (OpenID Connect Back-Channel Logout 1.0 section 2.4).
type LogoutToken struct {
	Issuer string
	// Subject and SessionID: at least one is not empty. With a SessionID, that
	// session ends; with a Subject alone, all of that person's at this issuer.
	Subject   string
	SessionID string
	// JTI names the token. That it hasn't been used before is for the caller to
	// ensure: remembered until ExpiresAt it serves once.
	JTI      string
	IssuedAt time.Time
	// ExpiresAt is when VerifyLogoutToken begins to refuse the token. It takes
	// the clocks' skew and the token's age into account, so it is not quite the
	// token's exp.
	ExpiresAt time.Time
}

// VerifyLogoutToken checks a logout token as OpenID Connect Back-Channel Logout
// 1.0 section 2.6 has it, all but the replay of its jti, and the session, which
// the caller knows.
//
// What that leaves open is decided so: exp and jti are required, as in the final
// text; a token without them, which older providers send, is refused. A token is
// refused 10 minutes after its iat, too. typ is logout+jwt, or the JWT that says
// nothing, or missing: none of the required claims is an ID token's or an access
// token's. Events beside the logout's are ignored. Encrypted tokens are refused.
//
// The error is ErrRejected, or ErrUnavailable where the provider's keys can't be
// had: the provider may then send the token again.
func (p *Provider) VerifyLogoutToken(ctx context.Context, token string) (LogoutToken, error) {
	reject := func(reason string) (LogoutToken, error) {
		return LogoutToken{}, fmt.Errorf("%w: %s: %s", ErrRejected, aLogoutToken.name, reason)
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	t, err := p.verifySignature(ctx, token, aLogoutToken)
	if err != nil {
		return LogoutToken{}, err
	}
	o := t.claims
	if iss, ok := o.String("iss"); !ok || iss != p.cfg.Issuer {
		return reject("iss is another")
	}
	if reason := p.checkAudience(o); reason != "" {
		return reject(reason)
	}
	if !isLogout(o) {
		return reject("events doesn't hold a logout")
	}
	// Whatever its value: an ID token must not do for a logout token, and this
	// is what tells them apart.
	if _, there := o["nonce"]; there {
		return reject("it has a nonce")
	}
	subject, ok := o.String("sub")
	if !ok || o.Has("sub") && !goodIdentifier(subject, maxSubject) {
		return reject("sub is not acceptable")
	}
	sid, ok := o.String("sid")
	if !ok || o.Has("sid") && !goodIdentifier(sid, maxSessionID) {
		return reject("sid is not acceptable")
	}
	if subject == "" && sid == "" {
		return reject("it has neither sub nor sid")
	}
	jti, ok := o.String("jti")
	if !ok || !goodIdentifier(jti, maxTokenID) {
		return reject("jti is missing or not acceptable")
	}

	now := p.cfg.Now()
	iat, ok := o.NumericDate("iat")
	if !ok || iat.IsZero() {
		return reject("iat is missing or no date")
	}
	if iat.After(now.Add(skew)) {
		return reject("it was issued in the future: compare the clocks")
	}
	exp, ok := o.NumericDate("exp")
	if !ok || exp.IsZero() {
		return reject("exp is missing or no date")
	}
	if nbf, ok := o.NumericDate("nbf"); !ok || nbf.After(now.Add(skew)) {
		return reject("it is not valid yet")
	}
	until := exp.Add(skew)
	if oldest := iat.Add(maxLogoutAge); oldest.Before(until) {
		until = oldest
	}
	if !now.Before(until) {
		return reject("it has expired, or was issued long ago")
	}
	return LogoutToken{Issuer: p.cfg.Issuer, Subject: subject, SessionID: sid, JTI: jti, IssuedAt: iat, ExpiresAt: until}, nil
}

// isLogout reports whether events holds the logout's member, an object, empty as
// a rule.
func isLogout(o strictjson.Object) bool {
	events, err := strictjson.Parse(o["events"])
	if err != nil {
		return false
	}
	_, err = strictjson.Parse(events[logoutEvent])
	return err == nil
}

// CheckFrontChannel judges the parameters of a front-channel logout (OpenID
// Connect Front-Channel Logout 1.0 section 3). Anybody's page can make a browser
// send them: a sid that only the provider and the session know is all that speaks
// for them, so both are required here. A parameter that comes twice is the
// caller's to refuse. The error is ErrRejected. It does no I/O.
func (p *Provider) CheckFrontChannel(iss, sid string) error {
	if iss != p.cfg.Issuer {
		return fmt.Errorf("%w: front-channel logout: iss is missing or another", ErrRejected)
	}
	if !goodIdentifier(sid, maxSessionID) {
		return fmt.Errorf("%w: front-channel logout: sid is missing or not acceptable", ErrRejected)
	}
	return nil
}
