package idp

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/MicahParks/jwkset"

	"github.com/cloakroom/cloakroom/gateway/strictjson"
)

const (
	minRSABits = 2048
	// maxRSABits bounds the work of one verification.
	maxRSABits = 8192
	// maxCandidates bounds the work for one token where many keys have its id.
	maxCandidates = 4
)

// keySet is the provider's keys that signatures can be checked with, in the
// document's order. jwkset reads the single keys; fetching is our own, since
// jwkset's client reads without a limit, drops a whole set for one bad key, and
// lets callers wait for its rate limit.
type keySet struct {
	keys []providerKey
}

type providerKey struct {
	id     string
	alg    string // empty where the provider doesn't say
	public crypto.PublicKey
}

func (p *Provider) fetchKeys(ctx context.Context) (*keySet, error) {
	m, err := p.metadata.get(ctx)
	if err != nil {
		return nil, err
	}
	a, err := p.getJSON(ctx, opKeys, m.keys, "", maxAnswer)
	if err != nil {
		return nil, err
	}
	set, ignored, err := parseKeys(a.body)
	if err != nil {
		return nil, err
	}
	if ignored > 0 {
		p.cfg.Log.Info("identity provider: keys that can't be used here", "issuer", p.cfg.Issuer, "ignored", ignored, "used", len(set.keys))
	}
	return set, nil
}

// parseKeys reads a JWK Set (RFC 7517 section 5). Keys that are not for
// checking signatures, or weak, or broken are ignored; a set without any good
// one is an error, so that the last good set stays.
func parseKeys(body []byte) (set *keySet, ignored int, err error) {
	o, err := strictjson.Parse(body)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w: %v", opKeys, ErrUnavailable, err)
	}
	var elems []json.RawMessage
	if json.Unmarshal(o["keys"], &elems) != nil {
		return nil, 0, fmt.Errorf("%s: %w: keys is not an array", opKeys, ErrUnavailable)
	}
	set = new(keySet)
	for _, e := range elems {
		if k, ok := parseKey(e); ok {
			set.keys = append(set.keys, k)
		} else {
			ignored++
		}
	}
	if len(set.keys) == 0 {
		return nil, ignored, fmt.Errorf("%s: %w: no key that can be used", opKeys, ErrUnavailable)
	}
	return set, ignored, nil
}

func parseKey(raw []byte) (providerKey, bool) {
	o, err := strictjson.Parse(raw)
	if err != nil {
		return providerKey{}, false
	}
	if use, ok := o.String("use"); !ok || use != "" && use != "sig" {
		return providerKey{}, false
	}
	if ops, ok := o.Strings("key_ops"); !ok || o.Has("key_ops") && !slices.Contains(ops, "verify") {
		return providerKey{}, false
	}
	alg, ok := o.String("alg")
	if !ok {
		return providerKey{}, false
	}
	id, ok := o.String("kid")
	if !ok {
		return providerKey{}, false
	}
	// The public parameters alone are handed on: certificates are not what we
	// trust by, and a private part that somebody published is not looked at.
	m := jwkset.JWKMarshal{}
	for name, to := range map[string]*string{"n": &m.N, "e": &m.E, "x": &m.X, "y": &m.Y} {
		if *to, ok = o.String(name); !ok {
			return providerKey{}, false
		}
	}
	kty, _ := o.String("kty")
	crv, _ := o.String("crv")
	m.KTY, m.CRV = jwkset.KTY(kty), jwkset.CRV(crv)
	if len(m.N) > maxRSABits/6+8 || len(m.E) > 16 {
		return providerKey{}, false
	}
	jwk, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return providerKey{}, false
	}
	switch k := jwk.Key().(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSABits || k.N.BitLen() > maxRSABits || k.N.Bit(0) == 0 || k.E < 3 || k.E&1 == 0 {
			return providerKey{}, false
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return providerKey{}, false
	}
	return providerKey{id: id, alg: alg, public: jwk.Key()}, true
}

// fits reports whether a key can have made signatures with alg: the type, the
// curve and the key's own word must agree.
func (k providerKey) fits(alg string) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch pub := k.public.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		return curveOf[alg] != "" && curveOf[alg] == pub.Curve.Params().Name
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false // unreachable
}

var curveOf = map[string]string{"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}

// find returns the keys that fit. Without an id there must be one only (OpenID
// Connect Core 1.0 section 10.1).
func (s *keySet) find(id string, named bool, alg string) []crypto.PublicKey {
	var found []crypto.PublicKey
	for _, k := range s.keys {
		if k.fits(alg) && (!named || k.id == id) {
			found = append(found, k.public)
		}
	}
	if !named && len(found) > 1 {
		return nil
	}
	return found[:min(len(found), maxCandidates)]
}

// key returns the keys that a signature may have been made with; none if the
// provider publishes none that fits. A key id that isn't known has the keys
// fetched again, if they haven't been lately.
func (p *Provider) key(ctx context.Context, id string, named bool, alg string) ([]crypto.PublicKey, error) {
	set, err := p.keys.get(ctx)
	if err != nil {
		return nil, err
	}
	if found := set.find(id, named, alg); len(found) > 0 {
		return found, nil
	}
	set, err = p.keys.after(ctx, set)
	if found := set.find(id, named, alg); len(found) > 0 {
		return found, nil
	}
	return nil, err
}
