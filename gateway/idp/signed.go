package idp

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"github.com/cloakroom/cloakroom/gateway/strictjson"
)

// acceptable are the algorithms that a token may be signed with. HMAC is not
// among them: the client secret would be a key, and a public key could be
// mistaken for one.
var acceptable = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// tokenKind is a use that the provider signs tokens for. A token of one kind
// must never do for another (RFC 8725 section 3.11), whoever signed it.
type tokenKind struct {
	name string // for errors
	// types are the header's typ that are accepted, in lower case and without
	// "application/"; "" stands for none.
	types []string
	limit int // bytes
	// anyAlgorithm: the provider's metadata don't say which algorithms it uses.
	anyAlgorithm bool
}

var (
	anIDToken     = tokenKind{name: "ID token", types: []string{"", "jwt"}, limit: maxToken}
	aLogoutToken  = tokenKind{name: "logout token", types: []string{"", "jwt", "logout+jwt"}, limit: maxLogoutToken}
	anAccessToken = tokenKind{name: "access token", types: []string{"", "jwt", typAccess}, limit: maxToken, anyAlgorithm: true}
)

// signed is a token whose signature held. Nothing else of it is checked.
type signed struct {
	claims strictjson.Object
	raw    []byte // the claims as they were signed: one JSON object
	alg    string
	typ    string // as in tokenKind.types
}

// verifySignature reads a signed token and checks its header and signature. The
// error is ErrRejected, or ErrUnavailable where keys can't be had.
func (p *Provider) verifySignature(ctx context.Context, raw string, kind tokenKind) (signed, error) {
	reject := func(reason string) (signed, error) {
		return signed{}, fmt.Errorf("%w: %s: %s", ErrRejected, kind.name, reason)
	}
	if len(raw) > kind.limit {
		return reject("too large")
	}
	// The decoder skips them: one token would have many spellings.
	if strings.ContainsAny(raw, "\r\n") {
		return reject("not a signed JWT")
	}
	// The library takes the last of equal names, and others take the first: that
	// would be two tokens (RFC 7515 section 4, RFC 8725 section 2.4).
	header, _, _ := strings.Cut(raw, ".")
	if b, err := base64.RawURLEncoding.Strict().DecodeString(header); err != nil {
		return reject("not a signed JWT")
	} else if _, err := strictjson.Parse(b); err != nil {
		return reject("its header is " + err.Error())
	}
	m, err := p.metadata.get(ctx)
	if err != nil {
		return signed{}, noKeys(kind, err)
	}
	algorithms := m.algorithms
	if kind.anyAlgorithm {
		algorithms = acceptable
	}
	// The claims are judged by the caller: the library's reading of dates takes
	// any number for one.
	parser := jwt.NewParser(jwt.WithValidMethods(algorithms), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation())
	var payload rawClaims
	var typ string
	var own error // the key function's; the library's texts may quote the token
	token, err := parser.ParseWithClaims(raw, &payload, func(t *jwt.Token) (any, error) {
		if typ, own = kind.checkHeader(t.Header); own != nil {
			return nil, own
		}
		kid, named := t.Header["kid"].(string)
		var keys []crypto.PublicKey
		if keys, own = p.key(ctx, kid, named, t.Method.Alg()); own != nil {
			own = noKeys(kind, own)
			return nil, own
		}
		if len(keys) == 0 {
			own = fmt.Errorf("%w: %s: signed by no key that the provider publishes", ErrRejected, kind.name)
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
		return signed{}, own
	case errors.Is(err, jwt.ErrTokenMalformed):
		return reject("not a signed JWT")
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return reject("wrong signature, or an algorithm that is not accepted")
	default:
		return reject("an algorithm that is not accepted")
	}
	o, err := strictjson.Parse(payload.raw)
	if err != nil {
		return reject(err.Error())
	}
	return signed{claims: o, raw: payload.raw, alg: token.Method.Alg(), typ: typ}, nil
}

// noKeys makes ErrUnavailable of whatever kept the provider's keys from us: that they
// were refused says nothing about the token.
func noKeys(kind tokenKind, err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%s: %w: %v", kind.name, ErrUnavailable, err)
}

// checkHeader judges a JOSE header and returns its typ. Where it points to keys
// (jku, jwk, x5u, x5c) it is not asked.
func (kind tokenKind) checkHeader(h map[string]any) (typ string, err error) {
	refuse := func(reason string) (string, error) {
		return "", fmt.Errorf("%w: %s: %s", ErrRejected, kind.name, reason)
	}
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
	if v, ok := h["typ"]; ok {
		s, _ := v.(string)
		// RFC 7515 section 4.1.9: a media type, the prefix optional.
		typ = strings.TrimPrefix(strings.ToLower(s), "application/")
		if typ == "" {
			return refuse("typ is empty or not a string")
		}
	}
	if !slices.Contains(kind.types, typ) {
		return refuse("typ is another kind of token's")
	}
	return typ, nil
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
func audience(o strictjson.Object) ([]string, bool) {
	if s, ok := o.String("aud"); ok {
		return []string{s}, s != ""
	}
	return o.Strings("aud")
}
