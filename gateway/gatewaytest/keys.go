package gatewaytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"

	"github.com/golang-jwt/jwt/v5"
)

// The canaries; see [Canaries].
const (
	refreshCanary      = "RTcanary-"
	codeCanary         = "CDcanary-"
	clientSecretCanary = "CScanary-"
	accessCanary       = "ATcanary-"
	idCanary           = "IDcanary-"
)

// Canaries are texts that mark secrets, to be searched for in a store, a log or
// an answer where none may be: the prefixes of codes, refresh tokens and client
// secrets, and the claim in access and ID tokens, both as it is and in the
// three forms that base64url can give it inside a JWT.
func Canaries() []string {
	all := []string{refreshCanary, codeCanary, clientSecretCanary}
	for _, c := range []string{accessCanary, idCanary} {
		all = append(all, c)
		for shift := range 3 {
			// The characters that depend on c alone: those at the edges mix in its neighbours.
			enc := base64.RawURLEncoding.EncodeToString([]byte("xx"[:shift] + c))
			first := []int{0, 2, 3}[shift]
			last := len(enc)
			if (shift+len(c))%3 != 0 {
				last--
			}
			all = append(all, enc[first:last])
		}
	}
	return all
}

func randomText() string {
	b := make([]byte, 24)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

type signingKey struct {
	id     string
	method jwt.SigningMethod
	key    crypto.Signer
	hidden bool // not in the JWKS
}

func newSigningKey(algorithm string) signingKey {
	k := signingKey{id: "key-" + randomText()[:8]}
	var err error
	switch algorithm {
	case "", "ES256":
		k.method = jwt.SigningMethodES256
		k.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "RS256":
		k.method = jwt.SigningMethodRS256
		k.key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		err = fmt.Errorf("gatewaytest: Options.Algorithm is %q, not ES256 or RS256", algorithm)
	}
	if err != nil {
		panic(err)
	}
	return k
}

// RotateKeys signs with a new key from now on. The old keys stay in the JWKS
// if keepOld is set.
func (p *Provider) RotateKeys(keepOld bool) {
	k := newSigningKey(p.options().Algorithm)
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.keys
	p.keys = []signingKey{k}
	for _, o := range old {
		// Still needed to recognize an id_token_hint.
		o.hidden = o.hidden || !keepOld
		p.keys = append(p.keys, o)
	}
}

func (p *Provider) signingKeys() []signingKey {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]signingKey(nil), p.keys...)
}

// sign makes a JWT of a type ("at+jwt", or "JWT").
func (p *Provider) sign(typ string, claims map[string]any) string {
	k := p.signingKeys()[0]
	t := jwt.NewWithClaims(k.method, jwt.MapClaims(claims))
	t.Header["kid"], t.Header["typ"] = k.id, typ
	s, err := t.SignedString(k.key)
	if err != nil {
		panic(err) // a hook put something into the claims that has no JSON
	}
	return s
}

// verify checks one of our own JWTs; its life is the caller's affair.
func (p *Provider) verify(token, typ string) (jwt.MapClaims, error) {
	claims := jwt.MapClaims{}
	_, err := jwt.NewParser(jwt.WithoutClaimsValidation(), jwt.WithValidMethods([]string{"ES256", "RS256"})).
		ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
			if t.Header["typ"] != typ {
				return nil, fmt.Errorf("typ is %v, not %s", t.Header["typ"], typ)
			}
			for _, k := range p.signingKeys() {
				if k.id == t.Header["kid"] && k.method == t.Method {
					return k.key.Public(), nil
				}
			}
			return nil, fmt.Errorf("no key %v", t.Header["kid"])
		})
	return claims, err
}

func (k signingKey) jwk() map[string]string {
	b64 := base64.RawURLEncoding.EncodeToString
	m := map[string]string{"kid": k.id, "use": "sig", "alg": k.method.Alg()}
	switch pub := k.key.Public().(type) {
	case *ecdsa.PublicKey:
		point, err := pub.Bytes() // 4 ‖ x ‖ y
		if err != nil {
			panic(err)
		}
		m["kty"], m["crv"], m["x"], m["y"] = "EC", "P-256", b64(point[1:33]), b64(point[33:])
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", b64(pub.N.Bytes()), b64(big.NewInt(int64(pub.E)).Bytes())
	}
	return m
}

// halfHash is at_hash of OpenID Connect Core 3.1.3.6.
func halfHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2])
}

func (x *exchange) discovery() {
	iss := x.opts.Issuer
	doc := map[string]any{
		"issuer":                                         iss,
		"authorization_endpoint":                         iss + string(EndpointAuthorize),
		"token_endpoint":                                 iss + string(EndpointToken),
		"userinfo_endpoint":                              iss + string(EndpointUserInfo),
		"revocation_endpoint":                            iss + string(EndpointRevoke),
		"end_session_endpoint":                           iss + string(EndpointEndSession),
		"jwks_uri":                                       iss + string(EndpointJWKS),
		"response_types_supported":                       []string{"code"},
		"response_modes_supported":                       []string{"query"},
		"grant_types_supported":                          []string{"authorization_code", "refresh_token", "password"},
		"subject_types_supported":                        []string{"public"},
		"id_token_signing_alg_values_supported":          []string{x.p.signingKeys()[0].method.Alg()},
		"token_endpoint_auth_methods_supported":          []string{"client_secret_basic", "client_secret_post"},
		"code_challenge_methods_supported":               []string{"S256"},
		"scopes_supported":                               []string{"openid", "profile", "email", "offline_access"},
		"authorization_response_iss_parameter_supported": true,
		"backchannel_logout_supported":                   true,
		"backchannel_logout_session_supported":           true,
		"frontchannel_logout_supported":                  true,
		"frontchannel_logout_session_supported":          true,
	}
	if x.opts.EditDiscovery != nil {
		x.opts.EditDiscovery(doc)
	}
	x.json(200, doc)
}

func (x *exchange) jwks() {
	keys := []map[string]string{}
	for _, k := range x.p.signingKeys() {
		if !k.hidden {
			keys = append(keys, k.jwk())
		}
	}
	x.json(200, map[string]any{"keys": keys})
}
