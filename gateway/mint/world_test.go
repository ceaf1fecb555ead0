package mint_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/mint"
)

const (
	shop   = "https://shop.example"
	api    = "https://api.example"
	stock  = "https://stock.example"
	idp    = "https://id.example"
	second = time.Second
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// algorithms are all there are.
var algorithms = []string{mint.ES256, mint.EdDSA, mint.RS256}

// pems draws each of a few keys once: RSA's take long.
var pems = sync.OnceValue(func() map[string][]byte {
	all := make(map[string][]byte)
	for _, name := range []string{mint.ES256, mint.EdDSA, mint.RS256, "ES256 other", "EdDSA other"} {
		alg, _, _ := strings.Cut(name, " ")
		p, err := mint.NewSigningKeyPEM(alg)
		if err != nil {
			panic(err)
		}
		all[name] = p
	}
	return all
})

// signingKeys returns the keys of those names.
func signingKeys(tb testing.TB, names ...string) (keys []mint.SigningKey) {
	tb.Helper()
	for _, name := range names {
		k, err := mint.ParseSigningKey(pems()[name])
		if err != nil {
			tb.Fatal(err)
		}
		keys = append(keys, k)
	}
	return keys
}

// sidKeys returns keys for session ids, one per name, drawn from both.
func sidKeys(names ...string) func(string) [][]byte {
	return func(audience string) (keys [][]byte) {
		for _, name := range names {
			k := sha256.Sum256([]byte(name + "\x00" + audience))
			keys = append(keys, k[:])
		}
		return keys
	}
}

// config is a good one, at noon.
func config(tb testing.TB, algs ...string) mint.Config {
	if len(algs) == 0 {
		algs = []string{mint.ES256}
	}
	return mint.Config{
		Issuer: shop, ClientID: "shop-gateway", Audience: []string{api, stock}, Lifetime: 5 * time.Minute,
		Keys: signingKeys(tb, algs...), PairwiseKey: mint.PairwiseKey(strings.Repeat("pairwise", 4)),
		Claims: []string{"roles", "tenant"}, SIDKeys: sidKeys("now"), Now: func() time.Time { return noon },
	}
}

func issuer(tb testing.TB, cfg mint.Config) *mint.Issuer {
	tb.Helper()
	i, err := mint.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return i
}

// grant is a good one.
func grant() mint.Grant {
	return mint.Grant{
		SID: [16]byte{1, 2, 3, 15: 9}, Subject: "alice", Issuer: idp, Scope: "openid orders",
		ClaimsJSON: []byte(`{"sub":"alice","roles":["buyer","admin"],"tenant":{"id": 7},"email":"a@example","acr":"2","amr":["pwd","otp"]}`),
		AuthTime:   noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour),
	}
}

func issue(tb testing.TB, i *mint.Issuer, g mint.Grant) string {
	tb.Helper()
	token, _, err := i.Mint(g)
	if err != nil {
		tb.Fatal(err)
	}
	return string(token)
}

// parts decodes a token's header and claims, checking nothing.
func parts(tb testing.TB, token string) (header, claims map[string]any) {
	tb.Helper()
	for n, into := range []*map[string]any{&header, &claims} {
		b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[n])
		if err != nil {
			tb.Fatal(err)
		}
		if err := json.Unmarshal(b, into); err != nil {
			tb.Fatal(err)
		}
	}
	return header, claims
}

// with returns a copy of m in which name is v; nil: in which it isn't.
func with(m map[string]any, name string, v any) map[string]any {
	c := maps.Clone(m)
	if c[name] = v; v == nil {
		delete(c, name)
	}
	return c
}
