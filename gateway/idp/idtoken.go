package idp

import (
	"context"
	"crypto"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// skew is how far the provider's clock and ours may be apart.
	skew = time.Minute
	// maxIDTokenAge is how long ago an ID token that comes with a code may
	// have been issued: at a code's exchange it is new.
	maxIDTokenAge = time.Hour
	// maxSubject is from OpenID Connect Core 1.0 section 2.
	maxSubject = 255
	// maxSessionID is a bound of our own: sid is looked up, not shown.
	maxSessionID = 1024
)

// acceptable are the algorithms that an ID token may be signed with. HMAC is
// not among them: the client secret would be a key, and a public key could be
// mistaken for one.
var acceptable = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// idTokenWant is what an ID token is checked against.
type idTokenWant struct {
	access AccessToken
	// login: the token comes with a code. Then nonce and, if it names one, the
	// code's hash must be right, and it must be new.
	login bool
	nonce string
	code  string
	// subject is whose token it must be; empty at a login.
	subject string
}

// idToken is an ID token that held.
type idToken struct {
	subject   string
	sessionID string
	authTime  time.Time
	claims    object
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
	o, alg, err := p.verifySignature(ctx, string(raw))
	if err != nil {
		return idToken{}, err
	}
	if iss, ok := o.str("iss"); !ok || iss != p.cfg.Issuer {
		return reject("iss is another")
	}
	aud, ok := audience(o)
	if !ok || !slices.Contains(aud, p.cfg.ClientID) {
		return reject("aud doesn't name this client")
	}
	azp, ok := o.str("azp")
	if !ok || o.has("azp") && azp != p.cfg.ClientID {
		return reject("azp is another")
	}
	// An audience beside us is trusted only so far as the provider says that
	// the token was made for us.
	if len(aud) > 1 && azp == "" {
		return reject("several audiences and no azp")
	}
	// What a logout token is known by (Back-Channel Logout 1.0 section 2.4).
	if o.has("events") {
		return reject("it is a logout token")
	}
	subject, ok := o.str("sub")
	if !ok || !goodIdentifier(subject, maxSubject) {
		return reject("sub is missing or not acceptable")
	}
	if want.subject != "" && subject != want.subject {
		return idToken{}, errForeign
	}
	sid, ok := o.str("sid")
	if !ok || sid != "" && !goodIdentifier(sid, maxSessionID) {
		return reject("sid is not acceptable")
	}

	now := p.cfg.Now()
	exp, ok := o.date("exp")
	if !ok || exp.IsZero() {
		return reject("exp is missing or no date")
	}
	if !now.Before(exp.Add(skew)) {
		return reject("it has expired")
	}
	iat, ok := o.date("iat")
	if !ok || iat.IsZero() {
		return reject("iat is missing or no date")
	}
	if iat.After(now.Add(skew)) {
		return reject("it was issued in the future: compare the clocks")
	}
	if want.login && now.Sub(iat) > maxIDTokenAge {
		return reject("it was issued long ago")
	}
	if nbf, ok := o.date("nbf"); !ok || nbf.After(now.Add(skew)) {
		return reject("it is not valid yet")
	}
	authTime, ok := o.date("auth_time")
	if !ok || authTime.After(now.Add(skew)) {
		return reject("auth_time is no date in the past")
	}
	if age, set, _ := configuredMaxAge(p.cfg.AuthorizationParams); set && want.login {
		if authTime.IsZero() || now.Sub(authTime) > age+skew {
			return reject("auth_time doesn't satisfy max_age")
		}
	}

	if want.login {
		nonce, ok := o.str("nonce")
		if !ok || want.nonce == "" || subtle.ConstantTimeCompare([]byte(nonce), []byte(want.nonce)) != 1 {
			return reject("nonce is missing or another")
		}
		if !hashMatches(o, "c_hash", alg, want.code) {
			return reject("c_hash is another code's")
		}
	}
	if !hashMatches(o, "at_hash", alg, string(want.access)) {
		return reject("at_hash is another access token's")
	}
	return idToken{subject, sid, authTime, o}, nil
}

// verifySignature reads a signed token and checks its header and signature.
func (p *Provider) verifySignature(ctx context.Context, raw string) (claims object, alg string, err error) {
	reject := func(reason string) (object, string, error) {
		return nil, "", fmt.Errorf("%w: ID token: %s", ErrRejected, reason)
	}
	if len(raw) > maxToken {
		return reject("too large")
	}
	m, err := p.metadata.get(ctx)
	if err != nil {
		return nil, "", err
	}
	// The claims are judged by verifyIDToken: the library's reading of dates
	// takes any number for one.
	parser := jwt.NewParser(jwt.WithValidMethods(m.algorithms), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation())
	var payload rawClaims
	var own error // the key function's; the library's texts may quote the token
	token, err := parser.ParseWithClaims(raw, &payload, func(t *jwt.Token) (any, error) {
		if own = checkHeader(t.Header); own != nil {
			return nil, own
		}
		kid, named := t.Header["kid"].(string)
		var keys []crypto.PublicKey
		if keys, own = p.key(ctx, kid, named, t.Method.Alg()); own != nil {
			return nil, own
		}
		set := jwt.VerificationKeySet{}
		for _, k := range keys {
			set.Keys = append(set.Keys, k)
		}
		return set, nil
	})
	switch {
	case err == nil:
	case own != nil:
		return nil, "", own
	case errors.Is(err, jwt.ErrTokenMalformed):
		return reject("not a signed JWT")
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return reject("wrong signature, or an algorithm that is not accepted")
	default:
		return reject("an algorithm that is not accepted")
	}
	o, err := parseObject(payload.raw)
	if err != nil {
		return reject(err.Error())
	}
	return o, token.Method.Alg(), nil
}

// checkHeader judges a JOSE header. Where it points to keys (jku, jwk, x5u,
// x5c) it is not asked.
func checkHeader(h map[string]any) error {
	refuse := func(reason string) error { return fmt.Errorf("%w: ID token: %s", ErrRejected, reason) }
	// We understand no extension (RFC 7515 section 4.1.11), b64 included.
	if _, ok := h["crit"]; ok {
		return refuse("it has critical extensions")
	}
	if _, ok := h["b64"]; ok {
		return refuse("it has critical extensions")
	}
	if kid, ok := h["kid"]; ok {
		if _, ok := kid.(string); !ok {
			return refuse("kid is not a string")
		}
	}
	// RFC 8725 section 3.11: no token for another use, whoever signed it.
	if v, ok := h["typ"]; ok {
		s, _ := v.(string)
		if s = strings.ToLower(s); s != "jwt" && s != "application/jwt" {
			return refuse("typ is another kind of token's")
		}
	}
	return nil
}

// rawClaims keeps a token's payload as it is. It satisfies jwt.Claims by way of
// the embedded type, which stays empty.
type rawClaims struct {
	jwt.RegisteredClaims
	raw json.RawMessage
}

func (c *rawClaims) UnmarshalJSON(b []byte) error {
	c.raw = append(json.RawMessage(nil), b...)
	return nil
}

// audience returns aud, which is a string or an array of strings.
func audience(o object) ([]string, bool) {
	if s, ok := o.str("aud"); ok {
		return []string{s}, s != ""
	}
	return o.strs("aud")
}

// goodIdentifier refuses what could not be told from another: a replacement
// character stands for any half of a surrogate pair.
func goodIdentifier(s string, limit int) bool {
	return s != "" && len(s) <= limit && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' })
}

// hashMatches checks at_hash or c_hash if it is there (section 3.1.3.8): the
// left half of the value's hash, with the signature's hash function.
func hashMatches(o object, name, alg, value string) bool {
	got, ok := o.str(name)
	if !ok || o.has(name) && got == "" {
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
func claimsJSON(claims, more object) ([]byte, error) {
	all := make(object, len(claims)+len(more))
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
	sub, _ := o.str("sub")
	return sub
}

// jwtPayload reads a JWT's claims without checking anything.
func jwtPayload(raw string) (object, error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || len(raw) > maxToken {
		return nil, errNotObject
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, errNotObject
	}
	return parseObject(b)
}
