package mint

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// The algorithms that tokens are signed with (RFC 7518, RFC 8037).
const (
	ES256 = "ES256" // ECDSA on P-256 with SHA-256: small and quick, the default
	EdDSA = "EdDSA" // Ed25519
	RS256 = "RS256" // RSA PKCS #1 v1.5 with SHA-256: understood everywhere, slow to sign
)

const (
	minRSABits = 2048
	// maxRSABits keeps verifiers that refuse more, and our own processor.
	maxRSABits = 8192
	// newRSABits is the size of a new key: each step up makes signing, which
	// happens at each token, several times slower, and keys are replaceable.
	newRSABits = 2048
)

// SigningKey is a private key and the one algorithm it is used with. It prints
// as "[redacted]". The zero value holds none, and is refused by New.
type SigningKey struct {
	// A pointer, so that printing whatever holds a SigningKey in an unexported
	// field, past Format, shows an address.
	k *key
}

func (SigningKey) String() string             { return redacted }
func (SigningKey) Format(s fmt.State, _ rune) { io.WriteString(s, redacted) }
func (SigningKey) LogValue() slog.Value       { return slog.StringValue(redacted) }

// ID is the key's RFC 7638 thumbprint, its kid. It is public.
func (s SigningKey) ID() string { return s.k.jwk.KID }

// Algorithm is ES256, EdDSA or RS256.
func (s SigningKey) Algorithm() string { return s.k.method.Alg() }

// key is a signing key, ready for use.
type key struct {
	method  jwt.SigningMethod
	private crypto.Signer
	public  crypto.PublicKey
	jwk     jwkset.JWKMarshal // the public key's
	header  string            // the first segment of each token that it signs
}

// ParseSigningKey reads one private key as PKCS #8 in PEM: P-256 makes ES256,
// Ed25519 EdDSA, RSA of 2048 bits or more RS256. Everything else is refused,
// with a hint where there is one.
func ParseSigningKey(pemText []byte) (SigningKey, error) {
	text := strings.TrimSpace(string(pemText))
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil || !strings.HasPrefix(text, "-----BEGIN "):
		return SigningKey{}, errors.New("mint: a signing key must be PEM, beginning with -----BEGIN PRIVATE KEY-----")
	case block.Type == "EC PRIVATE KEY", block.Type == "RSA PRIVATE KEY", block.Type == "EC PARAMETERS":
		return SigningKey{}, fmt.Errorf("mint: a signing key must be PKCS #8, not %s: convert it with openssl pkcs8 -topk8 -nocrypt", block.Type)
	case block.Type == "ENCRYPTED PRIVATE KEY":
		return SigningKey{}, errors.New("mint: a signing key must not be encrypted: convert it with openssl pkcs8 -in FILE")
	case block.Type != "PRIVATE KEY":
		return SigningKey{}, errors.New("mint: a signing key must be a private key: the PEM holds something else")
	case len(rest) > 0 || len(block.Headers) > 0:
		return SigningKey{}, errors.New("mint: a signing key must be one PEM block without headers")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		// The parser's text isn't shown: it may quote what it read.
		return SigningKey{}, errors.New("mint: a signing key is not readable as PKCS #8")
	}
	switch k := parsed.(type) {
	case *ecdsa.PrivateKey:
		if k.Curve != elliptic.P256() {
			return SigningKey{}, fmt.Errorf("mint: an EC signing key must be on P-256, not %s", k.Curve.Params().Name)
		}
		return newSigningKey(jwt.SigningMethodES256, k)
	case ed25519.PrivateKey:
		return newSigningKey(jwt.SigningMethodEdDSA, k)
	case *rsa.PrivateKey:
		if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return SigningKey{}, fmt.Errorf("mint: an RSA signing key must have %d to %d bits, not %d", minRSABits, maxRSABits, bits)
		}
		if k.E < 65537 {
			return SigningKey{}, errors.New("mint: an RSA signing key must have an exponent of 65537 or more")
		}
		return newSigningKey(jwt.SigningMethodRS256, k)
	default:
		return SigningKey{}, errors.New("mint: a signing key must be EC P-256, Ed25519 or RSA")
	}
}

// NewSigningKeyPEM draws a key for ES256, EdDSA or RS256 (2048 bits), and
// returns it as PKCS #8 in PEM.
func NewSigningKeyPEM(alg string) ([]byte, error) {
	var private crypto.Signer
	var err error
	switch alg {
	case ES256:
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case EdDSA:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	case RS256:
		private, err = rsa.GenerateKey(rand.Reader, newRSABits)
	default:
		return nil, fmt.Errorf("mint: no signing algorithm %q: use ES256, EdDSA or RS256", alg)
	}
	if err != nil {
		return nil, fmt.Errorf("mint: drawing a key: %v", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("mint: %v", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func newSigningKey(method jwt.SigningMethod, private crypto.Signer) (SigningKey, error) {
	// Made from the public key, it can't hold a private member.
	public := private.Public()
	made, err := jwkset.NewJWKFromKey(public, jwkset.JWKOptions{
		Metadata: jwkset.JWKMetadataOptions{ALG: jwkset.ALG(method.Alg()), USE: jwkset.UseSig},
	})
	if err != nil {
		return SigningKey{}, fmt.Errorf("mint: a signing key has no JWK: %v", err)
	}
	jwk := made.Marshal()
	if jwk.KID, err = thumbprint(jwk); err != nil {
		return SigningKey{}, err
	}
	header, err := json.Marshal(struct {
		Alg string `json:"alg"`
		Kid string `json:"kid"`
		Typ string `json:"typ"`
	}{method.Alg(), jwk.KID, "at+jwt"})
	if err != nil {
		return SigningKey{}, fmt.Errorf("mint: %v", err) // unreachable: three strings
	}
	return SigningKey{&key{method, private, public, jwk, base64.RawURLEncoding.EncodeToString(header)}}, nil
}

// thumbprint is RFC 7638's, with SHA-256: the hash of the required members in
// the order of their names.
func thumbprint(k jwkset.JWKMarshal) (string, error) {
	// Every value is base64url or a registered name, so none needs escaping.
	var members string
	switch k.KTY {
	case jwkset.KtyEC:
		members = fmt.Sprintf(`{"crv":"%s","kty":"%s","x":"%s","y":"%s"}`, k.CRV, k.KTY, k.X, k.Y)
	case jwkset.KtyOKP:
		members = fmt.Sprintf(`{"crv":"%s","kty":"%s","x":"%s"}`, k.CRV, k.KTY, k.X)
	case jwkset.KtyRSA:
		members = fmt.Sprintf(`{"e":"%s","kty":"%s","n":"%s"}`, k.E, k.KTY, k.N)
	default:
		return "", fmt.Errorf("mint: no thumbprint for a key of type %q", k.KTY)
	}
	sum := sha256.Sum256([]byte(members))
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}
