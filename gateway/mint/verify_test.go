package mint_test

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/cloakroom/cloakroom/gateway/mint"
)

// private returns the key of that name, for tokens that Mint would not make.
func private(tb testing.TB, name string) crypto.Signer {
	tb.Helper()
	block, _ := pem.Decode(pems()[name])
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		tb.Fatal(err)
	}
	return k.(crypto.Signer)
}

// forge signs claims, which may be text, with any header.
func forge(tb testing.TB, method jwt.SigningMethod, key any, header map[string]any, claims any) string {
	tb.Helper()
	segment := func(v any) string {
		b, isText := []byte(nil), false
		if s, ok := v.(string); ok {
			b, isText = []byte(s), true
		}
		if !isText {
			var err error
			if b, err = json.Marshal(v); err != nil {
				tb.Fatal(err)
			}
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	signed := segment(header) + "." + segment(claims)
	signature, err := method.Sign(signed, key)
	if err != nil {
		tb.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func TestVerify(t *testing.T) {
	for _, alg := range algorithms {
		for _, subject := range []mint.Subject{mint.Pairwise, mint.Provider} {
			cfg := config(t, alg)
			cfg.Subject = subject
			i := issuer(t, cfg)
			token := issue(t, i, grant())
			c, err := i.Verify(token)
			if err != nil {
				t.Fatal(err)
			}
			_, claims := parts(t, token)
			if c.Subject != claims["sub"] || len(c.SIDs) != 1 || c.SIDs[0] != grant().SID ||
				!c.IssuedAt.Equal(noon) || !c.ExpiresAt.Equal(noon.Add(5*time.Minute)) {
				t.Errorf("%s: %+v", alg, c)
			}
			var got map[string]any
			if json.Unmarshal(c.JSON, &got) != nil || fmt.Sprint(got) != fmt.Sprint(claims) {
				t.Errorf("%s: JSON %s", alg, c.JSON)
			}
		}
	}
}

// Headers and signatures: every row but the first must be refused as invalid,
// expired or not.
func TestVerifyHeader(t *testing.T) {
	i := issuer(t, config(t, mint.ES256, mint.RS256))
	good := issue(t, i, grant())
	header, claims := parts(t, good)
	ec, rsa := private(t, mint.ES256), private(t, mint.RS256)
	rsaHeader, _ := parts(t, issue(t, issuer(t, config(t, mint.RS256)), grant()))
	es := func(header map[string]any) string { return forge(t, jwt.SigningMethodES256, ec, header, claims) }
	segments := strings.Split(good, ".")
	spki, err := x509.MarshalPKIXPublicKey(rsa.Public())
	if err != nil {
		t.Fatal(err)
	}

	for _, row := range []struct {
		name, token string
		ok          bool
	}{
		{"as Mint makes it", es(header), true},
		{"the second key's", forge(t, jwt.SigningMethodRS256, rsa, rsaHeader, claims), true},
		{"no typ", es(with(header, "typ", nil)), false},
		{"typ JWT", es(with(header, "typ", "JWT")), false},
		{"typ of a logout token", es(with(header, "typ", "logout+jwt")), false},
		{"typ in capitals", es(with(header, "typ", "AT+JWT")), false},
		{"typ as a media type", es(with(header, "typ", "application/at+jwt")), false},
		{"no kid", es(with(header, "kid", nil)), false},
		{"empty kid", es(with(header, "kid", "")), false},
		{"kid of nobody", es(with(header, "kid", "x")), false},
		{"kid of another key", es(with(header, "kid", rsaHeader["kid"])), false},
		{"kid a number", es(with(header, "kid", 1)), false},
		{"kid a path", es(with(header, "kid", "../../dev/null")), false},
		{"ES256 key, RS256 header", es(with(header, "alg", "RS256")), false},
		{"ES256 key, the RSA key's header", es(rsaHeader), false},
		{"RSA key, ES256 header", forge(t, jwt.SigningMethodRS256, rsa, header, claims), false},
		{"RSA key, PS256", forge(t, jwt.SigningMethodPS256, rsa, with(rsaHeader, "alg", "PS256"), claims), false},
		{"RSA key, RS512", forge(t, jwt.SigningMethodRS512, rsa, with(rsaHeader, "alg", "RS512"), claims), false},
		{"RSA key, RS512 called RS256", forge(t, jwt.SigningMethodRS512, rsa, rsaHeader, claims), false},
		{"HMAC with the public key", forge(t, jwt.SigningMethodHS256, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), with(rsaHeader, "alg", "HS256"), claims), false},
		{"HMAC, header says RS256", forge(t, jwt.SigningMethodHS256, spki, rsaHeader, claims), false},
		{"alg none", forge(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, with(header, "alg", "none"), claims), false},
		{"alg nOnE", forge(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, with(header, "alg", "nOnE"), claims), false},
		{"no alg", es(with(header, "alg", nil)), false},
		{"crit", es(with(header, "crit", []string{"b64"})), false},
		{"b64", es(with(header, "b64", false)), false},
		{"own jwk", es(with(header, "jwk", map[string]any{"kty": "EC"})), false},
		{"own jku", es(with(header, "jku", "https://evil.example/keys")), false},
		{"a key of nobody", forge(t, jwt.SigningMethodES256, private(t, "ES256 other"), header, claims), false},
		{"another's claims", segments[0] + "." + strings.Split(es(header), ".")[1] + "x." + segments[2], false},
		{"no signature", segments[0] + "." + segments[1] + ".", false},
		{"zero signature", segments[0] + "." + segments[1] + "." + strings.Repeat("A", 86), false},
		{"longer signature", good + "AA", false},
		{"spare bits in the signature", good[:len(good)-1] + string(good[len(good)-1]+1), false},
		{"padding", good + "==", false},
		{"two parts", segments[0] + "." + segments[1], false},
		{"four parts", good + ".", false},
		{"five parts", good + ".a.b", false},
		{"line break at the end", good + "\n", false},
		{"line break inside", segments[0] + "." + segments[1] + "\n." + segments[2], false},
		{"space before", " " + good, false},
		{"empty", "", false},
		{"dots", "..", false},
		{"opaque", "2YotnFZFEjr1zCsicMWpAA", false},
		{"huge", good + strings.Repeat("A", 1<<20), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			c, err := i.Verify(row.token)
			if row.ok && err != nil || !row.ok && (!errors.Is(err, mint.ErrInvalid) || errors.Is(err, mint.ErrExpired)) {
				t.Errorf("error %v", err)
			}
			if !row.ok && (c.Subject != "" || c.SIDs != nil || c.JSON != nil) {
				t.Error("claims came with the error")
			}
		})
	}
}

// Claims: signed by the right key, and still not to be had.
func TestVerifyClaims(t *testing.T) {
	i := issuer(t, config(t))
	header, claims := parts(t, issue(t, i, grant()))
	text := func(s string) string {
		b, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:len(b)-1]) + s
	}
	sid := claims["sid"].(string)
	at := func(d time.Duration) int64 { return noon.Add(d).Unix() }
	for _, row := range []struct {
		name   string
		claims any
		want   error
	}{
		{"as Mint makes them", claims, nil},
		{"for the other audience", with(claims, "aud", stock), nil},
		{"nbf now", with(claims, "nbf", at(0)), nil},
		{"nbf soon", with(claims, "nbf", at(time.Minute)), nil},
		{"nbf later", with(claims, "nbf", at(61*second)), mint.ErrInvalid},
		{"nbf not a number", with(claims, "nbf", "0"), mint.ErrInvalid},
		{"iss another app", with(claims, "iss", "https://shop2.example"), mint.ErrInvalid},
		{"iss the provider", with(claims, "iss", idp), mint.ErrInvalid},
		{"iss with a slash", with(claims, "iss", shop+"/"), mint.ErrInvalid},
		{"no iss", with(claims, "iss", nil), mint.ErrInvalid},
		{"iss an array", with(claims, "iss", []string{shop}), mint.ErrInvalid},
		{"aud another", with(claims, "aud", "https://evil.example"), mint.ErrInvalid},
		{"aud the client", with(claims, "aud", "shop-gateway"), mint.ErrInvalid},
		{"aud several", with(claims, "aud", []string{api, stock}), mint.ErrInvalid},
		{"aud empty", with(claims, "aud", ""), mint.ErrInvalid},
		{"no aud", with(claims, "aud", nil), mint.ErrInvalid},
		{"no sub", with(claims, "sub", nil), mint.ErrInvalid},
		{"sub empty", with(claims, "sub", ""), mint.ErrInvalid},
		{"sub a number", with(claims, "sub", 1), mint.ErrInvalid},
		{"no sid", with(claims, "sid", nil), mint.ErrInvalid},
		{"sid short", with(claims, "sid", sid[:20]), mint.ErrInvalid},
		{"sid long", with(claims, "sid", sid+"AA"), mint.ErrInvalid},
		{"sid with spare bits", with(claims, "sid", sid[:21]+string(sid[21]+1)), mint.ErrInvalid},
		{"sid with a line break", with(claims, "sid", sid[:5]+"\n"+sid[5:]), mint.ErrInvalid},
		{"sid a number", with(claims, "sid", 1), mint.ErrInvalid},
		{"no iat", with(claims, "iat", nil), mint.ErrInvalid},
		{"iat soon", with(claims, "iat", at(time.Minute)), nil},
		{"iat later", with(claims, "iat", at(61*second)), mint.ErrInvalid},
		{"no exp", with(claims, "exp", nil), mint.ErrInvalid},
		{"exp null", text(`,"exp":null}`), mint.ErrInvalid},
		{"exp a string", with(claims, "exp", "99999999999"), mint.ErrInvalid},
		{"exp beyond all", with(claims, "exp", 1e18), mint.ErrInvalid},
		{"exp negative", with(claims, "exp", -1), mint.ErrInvalid},
		{"exp next second", with(claims, "exp", at(second)), nil},
		{"exp now", with(claims, "exp", at(0)), mint.ErrExpired},
		{"exp past", with(claims, "exp", at(-time.Hour)), mint.ErrExpired},
		{"exp past, aud another", with(with(claims, "exp", at(-second)), "aud", "x"), mint.ErrInvalid},
		{"exp past, iss another", with(with(claims, "exp", at(-second)), "iss", "x"), mint.ErrInvalid},
		{"sub twice", text(`,"sub":"root"}`), mint.ErrInvalid},
		{"two objects", text(`}{}`), mint.ErrInvalid},
		{"an array", `[]`, mint.ErrInvalid},
		{"null", `null`, mint.ErrInvalid},
		{"nothing", ``, mint.ErrInvalid},
		{"not text", text(",\"x\":\"\xff\"}"), mint.ErrInvalid},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := i.Verify(forge(t, jwt.SigningMethodES256, private(t, mint.ES256), header, row.claims))
			if !errors.Is(err, row.want) || row.want == nil && err != nil {
				t.Errorf("error %v, want %v", err, row.want)
			}
			if errors.Is(err, mint.ErrInvalid) && errors.Is(err, mint.ErrExpired) {
				t.Error("invalid and expired at once")
			}
		})
	}
}

// Through a roll-out of a new key, what one gateway signs every other accepts.
func TestKeyOverlap(t *testing.T) {
	made := func(algs ...string) *mint.Issuer { return issuer(t, config(t, algs...)) }
	before, appended := made(mint.ES256), made(mint.ES256, "ES256 other", mint.EdDSA)
	moved, removed := made("ES256 other", mint.ES256), made("ES256 other")
	for _, row := range []struct {
		name           string
		signs, accepts *mint.Issuer
		ok             bool
	}{
		{"old signs, old accepts", before, before, true},
		{"appended: old still signs", appended, before, true},
		{"appended: old accepted", before, appended, true},
		{"moved: new signs, appended accepts", moved, appended, true},
		{"moved: old accepted", appended, moved, true},
		{"removed: new signs, moved accepts", removed, moved, true},
		{"removed: old refused", before, removed, false},
		{"too early: new unknown", moved, before, false},
	} {
		_, err := row.accepts.Verify(issue(t, row.signs, grant()))
		if (err == nil) != row.ok || err != nil && !errors.Is(err, mint.ErrInvalid) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// What is accepted has been signed here, byte for byte, whatever was tried.
func FuzzVerify(f *testing.F) {
	i := issuer(f, config(f, mint.ES256, mint.EdDSA))
	ed := issuer(f, config(f, mint.EdDSA))
	ours := make(map[string]bool)
	for _, token := range []string{issue(f, i, grant()), issue(f, ed, grant())} {
		f.Add(token)
		f.Add(token + "=")
		f.Add(token[:len(token)/2])
		f.Add(strings.ReplaceAll(token, ".", ".."))
		ours[token[:strings.LastIndexByte(token, '.')]] = true
	}
	for _, s := range []string{"", ".", "..", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", strings.Repeat(".", 20000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, token string) {
		c, err := i.Verify(token)
		if err == nil {
			if !ours[token[:strings.LastIndexByte(token, '.')]] || c.Subject == "" || c.SIDs[0] != grant().SID {
				t.Errorf("accepted %q", token)
			}
			return
		}
		if !errors.Is(err, mint.ErrInvalid) || len(err.Error()) > 200 {
			t.Errorf("error %v", err)
		}
	})
}

// Whatever a session's claims are, a token that is made is one object with the
// protocol's claims as they should be, and can be read back.
func FuzzMint(f *testing.F) {
	for _, s := range []string{
		``, `{}`, `{"roles":["a"],"tenant":7}`, `{"roles":"\"},\"sub\":\"root\""}`, `{"roles":{"a":1,"a":2},"acr":"x","amr":["y"]}`,
		`{"sub":"root","iss":"x"}`, `{"roles":null}`, `[]`, `null`, `{"roles":1e999}`, `{"roles" : [ 1 , 2 ] }`, `{"tenant":"</script>"}`,
	} {
		f.Add([]byte(s), "alice", "openid")
	}
	cfg := config(f)
	cfg.Subject = mint.Provider
	i := issuer(f, cfg)
	f.Fuzz(func(t *testing.T, claimsJSON []byte, subject, scope string) {
		g := grant()
		g.ClaimsJSON, g.Subject, g.Scope = claimsJSON, subject, scope
		token, expiresIn, err := i.Mint(g)
		if err != nil {
			return
		}
		c, err := i.Verify(string(token))
		if err != nil || c.Subject != subject || c.SIDs[0] != g.SID || expiresIn != cfg.Lifetime {
			t.Fatalf("%v: %+v", err, c)
		}
		var claims map[string]json.RawMessage // some numbers fit nothing else
		if err := json.Unmarshal(c.JSON, &claims); err != nil {
			t.Fatal(err)
		}
		allowed := map[string]bool{"roles": true, "tenant": true, "acr": true, "amr": true, "scope": true, "auth_time": true}
		fixed := map[string]string{"iss": shop, "aud": api, "client_id": "shop-gateway", "sub": subject}
		for name, v := range claims {
			want, is := fixed[name]
			var got string
			if is && (json.Unmarshal(v, &got) != nil || got != want) {
				t.Errorf("%s is %s", name, v)
			}
			if !is && !allowed[name] && name != "sid" && name != "jti" && name != "iat" && name != "exp" {
				t.Errorf("claim %q came from somewhere", name)
			}
		}
	})
}
