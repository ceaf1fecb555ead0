// Package mint makes a gateway's own access tokens: JWTs after RFC 9068 that
// live for minutes, name one audience, and can be verified by anybody who has
// fetched the public keys. It knows no session and does no I/O.
//
// [Issuer.Mint] makes a token, [Issuer.Verify] reads one back that came as a
// bearer, [Issuer.JWKS] and [Issuer.Metadata] serve what resource servers need.
//
// # What is in a token
//
// The header is {"alg","kid","typ":"at+jwt"}. The claims are iss (the app's
// origin), aud (one string), sub, sid, client_id, iat, exp, jti; scope and
// auth_time where they are known; acr, amr and the configured ones where the
// session's claims have them. No claim of the provider's can take the place of
// one that the protocol gives a meaning.
//
// sub is the provider's, or a keyed hash over audience, provider and subject
// ([Pairwise]): two audiences can't tell that they speak of one user. sid is the
// session's public id, encrypted as one AES-256 block under a key of the
// audience's own: the same in all tokens of a session, linked to nothing
// elsewhere, and mapped back by the gateway alone.
//
// # Replacing a signing key
//
// The first key signs, all are published and accepted. So: append the new key
// and roll out; when verifiers have fetched it ([MaxAge], and whatever they add)
// move it to the front and roll out; when the last token of the old one has run
// out ([Config.Lifetime]) remove that.
//
// # What it doesn't promise
//
// A token says what was true when it was made: that its session has ended since
// is for the caller of Verify to know. Nobody else can, until it expires.
//
// An [Issuer] is immutable; all methods may be called from several goroutines
// at once. No error text holds a token, a key or a piece of either.
package mint

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// minLifetime leaves a second at least, since dates are whole seconds.
	minLifetime = 2 * time.Second
	// maxLifetime is far above what makes sense: a token can't be called back.
	maxLifetime = 24 * time.Hour
	// maxToken bounds what is made and what is read. Servers commonly refuse
	// headers beyond 8 to 32 KiB.
	maxToken = 16 << 10
	// maxClaims bounds what is signed, so that in base64, with the header and
	// the largest key's signature, it stays below maxToken.
	maxClaims = 10 << 10
	// skew is how far the clocks of two gateways may be apart.
	skew = time.Minute
	// minPairwiseKey is the hash's own strength.
	minPairwiseKey = 32
)

const redacted = "[redacted]"

// AccessToken is a signed token, a bearer credential. It prints as
// "[redacted]"; only string(t) reveals it.
type AccessToken string

func (AccessToken) String() string       { return redacted }
func (AccessToken) GoString() string     { return redacted }
func (AccessToken) LogValue() slog.Value { return slog.StringValue(redacted) }

// PairwiseKey keys the hash that makes pairwise subjects. With another key
// every user becomes somebody else. It prints as "[redacted]".
type PairwiseKey string

func (PairwiseKey) String() string               { return redacted }
func (PairwiseKey) GoString() string             { return redacted }
func (PairwiseKey) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (PairwiseKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Subject is whose name tokens carry as sub.
type Subject int

const (
	// Pairwise subjects are keyed hashes, different for each audience.
	Pairwise Subject = iota
	// Provider subjects are the provider's own.
	Provider
)

// Config is what one app's tokens are like.
type Config struct {
	// Issuer is the app's origin, such as https://shop.example: iss, byte for
	// byte, and where the keys are found.
	Issuer string
	// ClientID is client_id in each token.
	ClientID string
	// Audience names at least one resource server. Tokens are made for the
	// first; Verify accepts those for any.
	Audience []string
	// Lifetime is a token's life, from 2 s to 24 h.
	Lifetime time.Duration
	// Keys are at least one. The first signs, all are published and accepted.
	Keys []SigningKey
	// Subject is Pairwise unless told otherwise.
	Subject Subject
	// PairwiseKey is at least 32 bytes; Pairwise subjects need it.
	PairwiseKey PairwiseKey
	// Claims are copied from the session's claims where it has them. acr, amr
	// and auth_time come by themselves; what RFC 9068 and its kin give a
	// meaning can't be named. With Pairwise subjects, a claim that names the
	// user (email, say) undoes them.
	Claims []string
	// SIDKeys returns the 32-byte keys that hide session ids from an audience:
	// the first writes, all are tried when reading. It is called by New alone,
	// once per audience, and must not give two audiences the same key.
	SIDKeys func(audience string) [][]byte
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Issuer signs and verifies the tokens of one app.
type Issuer struct {
	cfg      Config
	claims   []claim
	sid      map[string][]cipher.Block // by audience
	byHeader map[string]*key           // by a token's first segment
	jwks     document
	metadata document
}

// claim is a configured claim.
type claim struct {
	name   string
	member string // `,"name":`
}

// New checks cfg and does no I/O. Its error names all that is wrong.
func New(cfg Config) (*Issuer, error) {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf("mint: "+format, args...)) }

	if u, err := url.Parse(cfg.Issuer); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Scheme+"://"+u.Host != cfg.Issuer {
		wrong("the issuer must be an origin, such as https://shop.example")
	}
	if cfg.ClientID == "" || !utf8.ValidString(cfg.ClientID) {
		wrong("no client id")
	}
	if cfg.Lifetime < minLifetime || cfg.Lifetime > maxLifetime {
		wrong("a lifetime of %s is not between %s and %s", cfg.Lifetime, minLifetime, maxLifetime)
	}
	switch {
	case cfg.Subject != Pairwise && cfg.Subject != Provider:
		wrong("unknown kind of subject %d", cfg.Subject)
	case cfg.Subject == Pairwise && len(cfg.PairwiseKey) < minPairwiseKey:
		wrong("pairwise subjects need a key of at least %d bytes", minPairwiseKey)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Audience, cfg.Keys, cfg.Claims = slices.Clone(cfg.Audience), slices.Clone(cfg.Keys), slices.Clone(cfg.Claims)

	i := &Issuer{cfg: cfg, byHeader: make(map[string]*key)}
	if len(cfg.Keys) == 0 {
		wrong("no signing key")
	}
	for n, k := range cfg.Keys {
		switch {
		case k.k == nil:
			wrong("signing key %d is empty", n+1)
		case i.byHeader[k.k.header] != nil:
			wrong("signing key %d is there twice", n+1)
		default:
			i.byHeader[k.k.header] = k.k
		}
	}
	var err error
	if i.sid, err = sidCiphers(cfg.Audience, cfg.SIDKeys); err != nil {
		errs = append(errs, err)
	}
	if i.claims, err = chosen(cfg.Claims); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	i.jwks, i.metadata = keysDocument(cfg.Keys), metadataDocument(cfg)
	return i, nil
}

// Lifetime is the life of a token that nothing cuts short.
func (i *Issuer) Lifetime() time.Duration { return i.cfg.Lifetime }

// Format prints the issuer's name and nothing else: its parts are secret.
func (i Issuer) Format(s fmt.State, _ rune) { io.WriteString(s, "mint.Issuer("+i.cfg.Issuer+")") }

// sidCiphers makes each audience's ciphers.
func sidCiphers(audiences []string, keys func(string) [][]byte) (map[string][]cipher.Block, error) {
	if len(audiences) == 0 {
		return nil, errors.New("mint: no audience")
	}
	if keys == nil {
		return nil, errors.New("mint: no keys for session ids")
	}
	ciphers := make(map[string][]cipher.Block, len(audiences))
	owner := make(map[string]string) // by key
	for _, aud := range audiences {
		if aud == "" || !utf8.ValidString(aud) {
			return nil, errors.New("mint: an audience is empty, or not text")
		}
		if ciphers[aud] != nil {
			return nil, fmt.Errorf("mint: audience %q is there twice", aud)
		}
		for _, k := range keys(aud) {
			if len(k) != 32 {
				return nil, fmt.Errorf("mint: a key for session ids has %d bytes, not 32", len(k))
			}
			if other, used := owner[string(k)]; used {
				return nil, fmt.Errorf("mint: audiences %q and %q have the same key for session ids", other, aud)
			}
			owner[string(k)] = aud
			b, err := aes.NewCipher(k)
			if err != nil {
				return nil, fmt.Errorf("mint: %v", err) // unreachable: the size is right
			}
			ciphers[aud] = append(ciphers[aud], b)
		}
		if len(ciphers[aud]) == 0 {
			return nil, fmt.Errorf("mint: audience %q has no key for session ids", aud)
		}
	}
	return ciphers, nil
}

// automatic claims need not be chosen; naming them changes nothing.
var automatic = []string{"acr", "amr", "auth_time"}

// protocol claims mean something to whoever verifies a token, so the provider's
// are never copied: RFC 7519 and 9068, then those that bind, delegate, refer to
// another token, or make this one look like an ID or a logout token.
var protocol = []string{
	"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope", "sid",
	"cnf", "act", "may_act", "azp", "authorization_details", "status",
	"nonce", "at_hash", "c_hash", "s_hash", "events", "toe", "txn", "sub_id", "sub_jwk",
	"_claim_names", "_claim_sources",
}

// chosen checks the configured claims' names. Names are compared without case:
// readers that ignore it (encoding/json is one) would take SUB for sub.
func chosen(names []string) ([]claim, error) {
	var claims []claim
	for n, name := range names {
		same := func(other string) bool { return strings.EqualFold(name, other) }
		switch {
		case name == "" || !utf8.ValidString(name):
			return nil, errors.New("mint: a claim's name is empty, or not text")
		case slices.ContainsFunc(protocol, same):
			return nil, fmt.Errorf("mint: claim %q can't be chosen: it is the protocol's own", name)
		case slices.Contains(automatic, name):
			continue
		case slices.ContainsFunc(automatic, same):
			return nil, fmt.Errorf("mint: claim %q can't be chosen: it reads like another", name)
		case slices.ContainsFunc(names[:n], same):
			return nil, fmt.Errorf("mint: claim %q is there twice", name)
		}
		quoted, err := json.Marshal(name)
		if err != nil {
			return nil, fmt.Errorf("mint: %v", err) // unreachable: it is text
		}
		claims = append(claims, claim{name, "," + string(quoted) + ":"})
	}
	return claims, nil
}
