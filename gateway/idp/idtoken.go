package idp

import (
	"context"
	"crypto"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cloakroom/cloakroom/gateway/strictjson"
)

const (
	// skew is how far the provider's clock and ours may be apart.
	skew = time.Minute
	// ahead is how far the provider's may be ahead of ours where a time lies in the
	// past by its nature: nobody gains by such a time but who signs it.
	ahead = 2 * time.Minute
	// maxIDTokenAge is how long ago an ID token that comes with a code may
	// have been issued: at a code's exchange it is new.
	maxIDTokenAge = time.Hour
	// maxSubject is from OpenID Connect Core 1.0 section 2.
	maxSubject = 255
	// maxSessionID is a bound of our own: sid is looked up, not shown.
	maxSessionID = 1024
)

// idTokenWant is what an ID token is checked against.
type idTokenWant struct {
	access AccessToken
	// login: the token comes with a code. Then nonce and, if it names one, the
	// code's hash must be right, and it must be new.
	login bool
	nonce string
	code  string
	// maxAge is the transaction's.
	maxAge string
	// password: the login was none of a browser's, so there is no code, no
	// max_age, and no nonce that the token could answer to.
	password bool
	// subject is whose token it must be; empty at a login.
	subject string
}

// idToken is an ID token that held.
type idToken struct {
	subject   string
	sessionID string
	authTime  time.Time
	claims    strictjson.Object
}

// errForeign marks an ID token, good in all else, of another subject.
var errForeign = fmt.Errorf("%w: ID token: another subject", ErrRejected)

// verifyIDToken checks an ID token (OpenID Connect Core 1.0 sections 3.1.3.7
// and 12.2). The error is ErrRejected, errForeign among them, or ErrUnavailable
// where keys can't be had.
func (p *Provider) verifyIDToken(ctx context.Context, raw IDToken, want idTokenWant) (idToken, error) {
	reject := func(reason string) (idToken, error) {
		return idToken{}, fmt.Errorf("%w: ID token: %s", ErrRejected, reason)
	}
	t, err := p.verifySignature(ctx, string(raw), anIDToken)
	if err != nil {
		return idToken{}, err
	}
	o := t.claims
	if iss, ok := o.String("iss"); !ok || iss != p.cfg.Issuer {
		return reject("iss is another")
	}
	if reason := p.checkAudience(o); reason != "" {
		return reject(reason)
	}
	// What a logout token is known by (Back-Channel Logout 1.0 section 2.4).
	if o.Has("events") {
		return reject("it is a logout token")
	}
	subject, ok := o.String("sub")
	if !ok || !goodIdentifier(subject, maxSubject) {
		return reject("sub is missing or not acceptable")
	}
	if want.subject != "" && subject != want.subject {
		return idToken{}, errForeign
	}
	sid, ok := o.String("sid")
	if !ok || sid != "" && !goodIdentifier(sid, maxSessionID) {
		return reject("sid is not acceptable")
	}

	now := p.cfg.Now()
	exp, ok := o.NumericDate("exp")
	if !ok || exp.IsZero() {
		return reject("exp is missing or no date")
	}
	if !now.Before(exp.Add(skew)) {
		return reject("it has expired")
	}
	iat, ok := o.NumericDate("iat")
	if !ok || iat.IsZero() {
		return reject("iat is missing or no date")
	}
	if iat.After(now.Add(ahead)) {
		return reject("it was issued in the future: compare the clocks")
	}
	if want.login && now.Sub(iat) > maxIDTokenAge {
		return reject("it was issued long ago")
	}
	if nbf, ok := o.NumericDate("nbf"); !ok || nbf.After(now.Add(ahead)) {
		return reject("it is not valid yet")
	}
	authTime, ok := o.NumericDate("auth_time")
	if !ok || authTime.After(now.Add(ahead)) {
		return reject("auth_time is no date in the past")
	}
	maxAge, asked := p.cfg.AuthorizationParams[paramMaxAge]
	if !asked {
		maxAge, asked = want.maxAge, want.maxAge != ""
	}
	if asked && want.login && !want.password {
		age, err := parseMaxAge(maxAge)
		if err != nil || authTime.IsZero() || now.Sub(authTime) > age+skew {
			return reject("auth_time doesn't satisfy max_age")
		}
	}

	switch {
	case want.password:
		// It would be another login's.
		if o.Has("nonce") {
			return reject("it has a nonce that nobody asked for")
		}
	case want.login:
		nonce, ok := o.String("nonce")
		if !ok || want.nonce == "" || subtle.ConstantTimeCompare([]byte(nonce), []byte(want.nonce)) != 1 {
			return reject("nonce is missing or another")
		}
		if !hashMatches(o, "c_hash", t.alg, want.code) {
			return reject("c_hash is another code's")
		}
	}
	if !hashMatches(o, "at_hash", t.alg, string(want.access)) {
		return reject("at_hash is another access token's")
	}
	return idToken{subject, sid, authTime, o}, nil
}

// checkAudience judges aud and azp as an ID token's (section 3.1.3.7): the token
// is for this client. It returns what is wrong, or "".
func (p *Provider) checkAudience(o strictjson.Object) string {
	aud, ok := audience(o)
	if !ok || !slices.Contains(aud, p.cfg.ClientID) {
		return "aud doesn't name this client"
	}
	azp, ok := o.String("azp")
	if !ok || o.Has("azp") && azp != p.cfg.ClientID {
		return "azp is another"
	}
	// An audience beside us is trusted only so far as the provider says that
	// the token was made for us.
	if len(aud) > 1 && azp == "" {
		return "several audiences and no azp"
	}
	return ""
}

// goodIdentifier refuses what could not be told from another: a replacement
// character stands for any half of a surrogate pair.
func goodIdentifier(s string, limit int) bool {
	return s != "" && len(s) <= limit && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' })
}

// hashMatches checks at_hash or c_hash if it is there (section 3.1.3.8): the
// left half of the value's hash, with the signature's hash function.
func hashMatches(o strictjson.Object, name, alg, value string) bool {
	got, ok := o.String(name)
	if !ok || o.Has(name) && got == "" {
		return false
	}
	if got == "" {
		return true
	}
	h := crypto.SHA512 // EdDSA with Ed25519, too
	switch {
	case strings.HasSuffix(alg, "256"):
		h = crypto.SHA256
	case strings.HasSuffix(alg, "384"):
		h = crypto.SHA384
	}
	d := h.New()
	d.Write([]byte(value))
	sum := d.Sum(nil)
	return subtle.ConstantTimeCompare([]byte(got), []byte(base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2]))) == 1
}

// claimsJSON returns claims, and beside them those of more, as a JSON object
// without what concerns the one token only.
func claimsJSON(claims, more strictjson.Object) ([]byte, error) {
	all := make(strictjson.Object, len(claims)+len(more))
	for name, v := range more {
		all[name] = v
	}
	for name, v := range claims {
		all[name] = v
	}
	for _, name := range []string{"nonce", "at_hash", "c_hash"} {
		delete(all, name)
	}
	return json.Marshal(all)
}

// unverifiedSubject returns the sub of a token that may not hold, "" if it has
// none that can be read.
func unverifiedSubject(raw IDToken) string {
	o, err := jwtPayload(string(raw))
	if err != nil {
		return ""
	}
	sub, _ := o.String("sub")
	return sub
}

// jwtPayload reads a JWT's claims without checking anything.
func jwtPayload(raw string) (strictjson.Object, error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || len(raw) > maxToken {
		return nil, strictjson.ErrNotObject
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, strictjson.ErrNotObject
	}
	return strictjson.Parse(b)
}
