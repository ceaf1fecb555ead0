package mint

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/MicahParks/jwkset"
)

// Where resource servers look.
const (
	JWKSPath     = "/.well-known/jwks.json"
	MetadataPath = "/.well-known/openid-configuration"
)

// MaxAge is how long caches may keep keys and metadata.
const MaxAge = 5 * time.Minute

// document is a public JSON text that never changes.
type document struct {
	body []byte
	etag string
}

// JWKS serves the public keys (RFC 7517), for JWKSPath.
func (i *Issuer) JWKS() http.Handler { return i.jwks }

// Metadata serves what verifiers need to find the keys (OpenID Connect
// Discovery 1.0, RFC 8414), for MetadataPath. The gateway is no identity
// provider: it has no authorization or token endpoint, and names none.
func (i *Issuer) Metadata() http.Handler { return i.metadata }

func keysDocument(keys []SigningKey) document {
	set := jwkset.JWKSMarshal{}
	for _, k := range keys {
		set.Keys = append(set.Keys, k.k.jwk)
	}
	return newDocument(set)
}

func metadataDocument(cfg Config) document {
	subjects := "pairwise"
	if cfg.Subject == Provider {
		subjects = "public"
	}
	var algs []string
	for _, k := range cfg.Keys {
		if alg := k.Algorithm(); !slices.Contains(algs, alg) {
			algs = append(algs, alg)
		}
	}
	return newDocument(struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
		// The specifications require the rest. No response is to be had here:
		// "none" says so, where an empty array may not be sent. Verifiers take
		// the algorithms from the ID token's member, for want of another.
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	}{cfg.Issuer, cfg.Issuer + JWKSPath, []string{"none"}, []string{subjects}, algs})
}

func newDocument(v any) document {
	body, err := json.Marshal(v)
	if err != nil {
		panic("mint: internal error: " + err.Error()) // unreachable: strings only
	}
	sum := sha256.Sum256(body)
	return document{body, `"` + encode(sum[:16]) + `"`}
}

// ServeHTTP answers GET and HEAD, and 304 to who has it already. Everything in
// it is public, so any page may read it.
func (d document) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "public, max-age="+strconv.Itoa(int(MaxAge.Seconds())))
	h.Set("ETag", d.etag)
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("X-Content-Type-Options", "nosniff")
	r.Header.Del("Range") // it is small, and in parts it would be large
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(d.body))
}
