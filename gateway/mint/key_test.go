package mint_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/cloakroom/cloakroom/gateway/mint"
)

func pkcs8(tb testing.TB, key any) []byte {
	tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// privateForms are the secret numbers of a key as they might be printed.
func privateForms(tb testing.TB, name string) (forms []string) {
	tb.Helper()
	var secrets [][]byte
	switch k := private(tb, name).(type) {
	case *ecdsa.PrivateKey:
		b, err := k.Bytes()
		if err != nil {
			tb.Fatal(err)
		}
		secrets = append(secrets, b)
	case ed25519.PrivateKey:
		secrets = append(secrets, k.Seed())
	case *rsa.PrivateKey:
		for _, n := range []*big.Int{k.D, k.Primes[0], k.Primes[1]} {
			secrets = append(secrets, n.Bytes())
		}
	}
	for _, s := range secrets {
		for _, form := range []string{
			hex.EncodeToString(s), new(big.Int).SetBytes(s).String(), base64.RawURLEncoding.EncodeToString(s), base64.StdEncoding.EncodeToString(s),
			strings.Trim(fmt.Sprint(s), "[]"),
		} {
			forms = append(forms, form[:20])
		}
	}
	return forms
}

func TestNewSigningKeyPEM(t *testing.T) {
	for _, alg := range algorithms {
		k := signingKeys(t, alg)[0]
		if k.Algorithm() != alg {
			t.Errorf("a key for %s is one for %s", alg, k.Algorithm())
		}
		// The other library's thumbprint.
		sum, err := (&jose.JSONWebKey{Key: private(t, alg).Public()}).Thumbprint(crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if want := base64.RawURLEncoding.EncodeToString(sum); k.ID() != want {
			t.Errorf("%s: id %q, want %q", alg, k.ID(), want)
		}
		again, err := mint.ParseSigningKey(append([]byte("\n\t"), append(pems()[alg], " \r\n"...)...))
		if err != nil || again.ID() != k.ID() {
			t.Errorf("%s, with space around: %v", alg, err)
		}
	}
	if signingKeys(t, "ES256 other")[0].ID() == signingKeys(t, mint.ES256)[0].ID() {
		t.Error("two keys have one id")
	}
	for _, alg := range []string{"", "es256", "HS256", "none", "PS256", "ES384"} {
		if p, err := mint.NewSigningKeyPEM(alg); err == nil || p != nil {
			t.Errorf("a key for %q", alg)
		}
	}
}

func TestParseSigningKeyRefuses(t *testing.T) {
	good := pems()[mint.ES256]
	block, _ := pem.Decode(good)
	ec := private(t, mint.ES256).(*ecdsa.PrivateKey)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(ec.Public())
	if err != nil {
		t.Fatal(err)
	}
	typed := func(name string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: name, Bytes: der}) }
	for _, row := range []struct {
		name string
		pem  []byte
		hint string
	}{
		{"nothing", nil, "must be PEM"},
		{"a server key", []byte("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), "must be PEM"},
		{"text before", append([]byte("Bag Attributes\n"), good...), "must be PEM"},
		{"text after", append(slices.Clone(good), "more"...), "one PEM block"},
		{"two keys", bytes.Repeat(good, 2), "one PEM block"},
		{"headers", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Headers: map[string]string{"a": "b"}, Bytes: block.Bytes}), "without headers"},
		{"cut short", typed("PRIVATE KEY", block.Bytes[:len(block.Bytes)-1]), "not readable"},
		{"SEC 1", typed("EC PRIVATE KEY", sec1), "openssl pkcs8"},
		{"SEC 1 called PKCS #8", typed("PRIVATE KEY", sec1), "not readable"},
		{"PKCS #1", typed("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(small)), "openssl pkcs8"},
		{"parameters first", append(typed("EC PARAMETERS", []byte{6, 0}), good...), "openssl pkcs8"},
		{"encrypted", typed("ENCRYPTED PRIVATE KEY", block.Bytes), "must not be encrypted"},
		{"public", typed("PUBLIC KEY", spki), "must be a private key"},
		{"certificate", typed("CERTIFICATE", spki), "must be a private key"},
		{"P-384", pkcs8(t, p384), "P-256, not P-384"},
		{"X25519", pkcs8(t, x25519), "must be EC P-256, Ed25519 or RSA"},
		{"RSA 1024", pkcs8(t, small), "2048"},
	} {
		t.Run(row.name, func(t *testing.T) {
			k, err := mint.ParseSigningKey(row.pem)
			if err == nil || !strings.Contains(err.Error(), row.hint) || !reflect.ValueOf(k).IsZero() {
				t.Errorf("error %v, want %q", err, row.hint)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	for _, row := range []struct {
		name  string
		spoil func(*mint.Config)
		hint  string
	}{
		{"no issuer", func(c *mint.Config) { c.Issuer = "" }, "origin"},
		{"issuer with a path", func(c *mint.Config) { c.Issuer += "/x" }, "origin"},
		{"issuer with a slash", func(c *mint.Config) { c.Issuer += "/" }, "origin"},
		{"issuer with a query", func(c *mint.Config) { c.Issuer += "?x" }, "origin"},
		{"issuer with a user", func(c *mint.Config) { c.Issuer = "https://u@shop.example" }, "origin"},
		{"issuer of no web", func(c *mint.Config) { c.Issuer = "ftp://shop.example" }, "origin"},
		{"no client", func(c *mint.Config) { c.ClientID = "" }, "client id"},
		{"no audience", func(c *mint.Config) { c.Audience = nil }, "audience"},
		{"empty audience", func(c *mint.Config) { c.Audience = []string{""} }, "audience"},
		{"audience twice", func(c *mint.Config) { c.Audience = []string{api, api} }, "twice"},
		{"no lifetime", func(c *mint.Config) { c.Lifetime = 0 }, "lifetime"},
		{"lifetime of years", func(c *mint.Config) { c.Lifetime = 1e6 * time.Hour }, "lifetime"},
		{"no key", func(c *mint.Config) { c.Keys = nil }, "no signing key"},
		{"empty key", func(c *mint.Config) { c.Keys = []mint.SigningKey{{}} }, "empty"},
		{"key twice", func(c *mint.Config) { c.Keys = append(c.Keys, c.Keys[0]) }, "twice"},
		{"unknown subject", func(c *mint.Config) { c.Subject = 2 }, "subject"},
		{"no pairwise key", func(c *mint.Config) { c.PairwiseKey = "" }, "32 bytes"},
		{"short pairwise key", func(c *mint.Config) { c.PairwiseKey = c.PairwiseKey[:31] }, "32 bytes"},
		{"no sid keys", func(c *mint.Config) { c.SIDKeys = nil }, "session ids"},
		{"no sid key for it", func(c *mint.Config) { c.SIDKeys = func(string) [][]byte { return nil } }, "session ids"},
		{"short sid key", func(c *mint.Config) { c.SIDKeys = func(string) [][]byte { return [][]byte{make([]byte, 16)} } }, "not 32"},
		{"one sid key for all", func(c *mint.Config) { c.SIDKeys = func(string) [][]byte { return [][]byte{make([]byte, 32)} } }, "same key"},
		{"claim sub", func(c *mint.Config) { c.Claims = []string{"sub"} }, "protocol's own"},
		{"claim ISS", func(c *mint.Config) { c.Claims = []string{"ISS"} }, "protocol's own"},
		{"claim \u017fub", func(c *mint.Config) { c.Claims = []string{"\u017fub"} }, "protocol's own"},
		{"claim cnf", func(c *mint.Config) { c.Claims = []string{"cnf"} }, "protocol's own"},
		{"claim scope", func(c *mint.Config) { c.Claims = []string{"roles", "scope"} }, "protocol's own"},
		{"claim Acr", func(c *mint.Config) { c.Claims = []string{"Acr"} }, "another"},
		{"claim twice", func(c *mint.Config) { c.Claims = []string{"roles", "Roles"} }, "twice"},
		{"claim empty", func(c *mint.Config) { c.Claims = []string{""} }, "empty"},
		{"claim not text", func(c *mint.Config) { c.Claims = []string{"\xff"} }, "text"},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := config(t)
			row.spoil(&cfg)
			if i, err := mint.New(cfg); err == nil || i != nil || !strings.Contains(err.Error(), row.hint) {
				t.Errorf("error %v, want %q", err, row.hint)
			}
		})
	}
	_, err := mint.New(mint.Config{})
	for _, hint := range []string{"origin", "client id", "lifetime", "signing key", "32 bytes", "audience"} {
		if err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("of nothing, %q is not named: %v", hint, err)
		}
	}
}

// A caller's later changes of what it handed in change nothing.
func TestNewCopies(t *testing.T) {
	cfg := config(t)
	cfg.Claims = []string{"acr", "amr", "auth_time", "a\"b"}
	i := issuer(t, cfg)
	cfg.Audience[0], cfg.Claims[3], cfg.Keys[0] = "https://evil.example", "email", mint.SigningKey{}
	g := grant()
	g.ClaimsJSON = []byte(`{"a\"b":1,"email":"a@example","auth_time":7,"acr":"2"}`)
	_, claims := parts(t, issue(t, i, g))
	if claims["aud"] != api || claims["a\"b"] != 1.0 || claims["email"] != nil || claims["acr"] != "2" || claims["auth_time"] != float64(noon.Unix()-3600) {
		t.Errorf("claims %v", claims)
	}
}

func TestDocuments(t *testing.T) {
	i := issuer(t, config(t, mint.ES256, mint.EdDSA, mint.RS256, "ES256 other"))
	for _, d := range []struct {
		name    string
		handler http.Handler
	}{{mint.JWKSPath, i.JWKS()}, {mint.MetadataPath, i.Metadata()}} {
		get := func(method string, header ...string) *http.Response {
			r := httptest.NewRequest(method, shop+d.name, nil)
			for n := 0; n < len(header); n += 2 {
				r.Header.Set(header[n], header[n+1])
			}
			w := httptest.NewRecorder()
			d.handler.ServeHTTP(w, r)
			return w.Result()
		}
		full := get("GET")
		tag := full.Header.Get("ETag")
		for _, row := range []struct {
			name   string
			answer *http.Response
			status int
			empty  bool
		}{
			{"GET", full, 200, false},
			{"HEAD", get("HEAD"), 200, true},
			{"it has this", get("GET", "If-None-Match", tag), 304, true},
			{"it has this among others", get("GET", "If-None-Match", `"x", `+tag), 304, true},
			{"it has another", get("GET", "If-None-Match", `"x"`), 200, false},
			{"in parts", get("GET", "Range", "bytes=0-0,1-1,0-0"), 200, false},
			{"POST", get("POST"), 405, true},
			{"OPTIONS", get("OPTIONS"), 405, true},
			{"DELETE", get("DELETE"), 405, true},
		} {
			t.Run(d.name+" "+row.name, func(t *testing.T) {
				var body bytes.Buffer
				if _, err := body.ReadFrom(row.answer.Body); err != nil {
					t.Fatal(err)
				}
				h := row.answer.Header
				if row.answer.StatusCode != row.status || (body.Len() == 0) != row.empty {
					t.Errorf("status %d, %d bytes", row.answer.StatusCode, body.Len())
				}
				if row.status == 405 {
					if h.Get("Allow") != "GET, HEAD" || h.Get("Cache-Control") != "" {
						t.Errorf("header %v", h)
					}
					return
				}
				if h.Get("Cache-Control") != "public, max-age=300" || h.Get("ETag") != tag || h.Get("Access-Control-Allow-Origin") != "*" || h.Get("Set-Cookie") != "" {
					t.Errorf("header %v", h)
				}
				if row.status == 200 && h.Get("Content-Type") != "application/json" {
					t.Errorf("type %q", h.Get("Content-Type"))
				}
			})
		}
		if len(tag) < 20 || tag[0] != '"' {
			t.Errorf("%s: tag %s is not strong", d.name, tag)
		}
	}
	other := httptest.NewRecorder()
	issuer(t, config(t)).JWKS().ServeHTTP(other, httptest.NewRequest("GET", mint.JWKSPath, nil))
	mine := httptest.NewRecorder()
	i.JWKS().ServeHTTP(mine, httptest.NewRequest("GET", mint.JWKSPath, nil))
	if other.Header().Get("ETag") == mine.Header().Get("ETag") {
		t.Error("other keys, same tag")
	}
}

func TestMetadata(t *testing.T) {
	for subject, name := range map[mint.Subject]string{mint.Pairwise: "pairwise", mint.Provider: "public"} {
		cfg := config(t, mint.ES256, "ES256 other", mint.RS256)
		cfg.Subject = subject
		w := httptest.NewRecorder()
		issuer(t, cfg).Metadata().ServeHTTP(w, httptest.NewRequest("GET", mint.MetadataPath, nil))
		var got map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"issuer": shop, "jwks_uri": shop + "/.well-known/jwks.json", "response_types_supported": []any{"none"},
			"subject_types_supported": []any{name}, "id_token_signing_alg_values_supported": []any{"ES256", "RS256"},
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%v\nwant %v", got, want)
		}
	}
}

// All keys are published, in order, and nothing of their private halves is.
func TestJWKSIsPublic(t *testing.T) {
	names := []string{mint.RS256, mint.ES256, mint.EdDSA, "ES256 other", "EdDSA other"}
	cfg := config(t, names...)
	w := httptest.NewRecorder()
	issuer(t, cfg).JWKS().ServeHTTP(w, httptest.NewRequest("GET", mint.JWKSPath, nil))
	var got struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || len(got.Keys) != len(names) {
		t.Fatalf("%d keys, %v", len(got.Keys), err)
	}
	members := map[string][]string{
		"RSA": {"alg", "e", "kid", "kty", "n", "use"}, "EC": {"alg", "crv", "kid", "kty", "use", "x", "y"}, "OKP": {"alg", "crv", "kid", "kty", "use", "x"},
	}
	for n, k := range got.Keys {
		var have []string
		for name := range k {
			have = append(have, name)
		}
		slices.Sort(have)
		if kty, _ := k["kty"].(string); !slices.Equal(have, members[kty]) {
			t.Errorf("%s has %v", names[n], have)
		}
		if k["kid"] != cfg.Keys[n].ID() || k["alg"] != cfg.Keys[n].Algorithm() || k["use"] != "sig" {
			t.Errorf("%s is %v", names[n], k)
		}
		for _, form := range privateForms(t, names[n]) {
			if strings.Contains(w.Body.String(), form) {
				t.Errorf("the private half of %s is public", names[n])
			}
		}
	}
}
