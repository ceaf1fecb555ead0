package idp_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/golang-jwt/jwt/v5"
)

func TestIDToken(t *testing.T) {
	type claims = map[string]any
	rs := func(over claims) func(*fake, string) string {
		return func(f *fake, nonce string) string {
			all := f.with(claims{"nonce": nonce})
			for k, v := range over {
				if v == nil {
					delete(all, k)
				} else {
					all[k] = v
				}
			}
			return sign(jwt.SigningMethodRS256, rsaKey(), claims{"kid": "rsa"}, all)
		}
	}
	header := func(h claims) func(*fake, string) string {
		return func(f *fake, nonce string) string {
			if _, ok := h["kid"]; !ok {
				h["kid"] = "rsa"
			}
			return sign(jwt.SigningMethodRS256, rsaKey(), h, f.with(claims{"nonce": nonce}))
		}
	}
	signed := func(m jwt.SigningMethod, key any, kid string) func(*fake, string) string {
		return func(f *fake, nonce string) string {
			return sign(m, key, claims{"kid": kid}, f.with(claims{"nonce": nonce}))
		}
	}
	// payload signs a text that need not be JSON; $ stands for the usual claims.
	payload := func(text string) func(*fake, string) string {
		return func(f *fake, nonce string) string {
			usual := string(must(json.Marshal(f.with(claims{"nonce": nonce}))))
			return sign(jwt.SigningMethodRS256, rsaKey(), claims{"kid": "rsa"}, strings.ReplaceAll(text, "$", usual[1:len(usual)-1]))
		}
	}
	// head signs under a header as it is written.
	head := func(text string) func(*fake, string) string {
		return func(f *fake, nonce string) string {
			input := b64([]byte(text)) + "." + b64(must(json.Marshal(f.with(claims{"nonce": nonce}))))
			return input + "." + b64(must(jwt.SigningMethodRS256.Sign(input, rsaKey())))
		}
	}
	unsigned := func(alg any) func(*fake, string) string {
		return func(f *fake, nonce string) string {
			h := claims{"typ": "JWT", "kid": "rsa"}
			if alg != nil {
				h["alg"] = alg
			}
			return b64(must(json.Marshal(h))) + "." + b64(must(json.Marshal(f.with(claims{"nonce": nonce})))) + "."
		}
	}
	at := func(d time.Duration) int64 { return start.Add(d).Unix() }
	der := must(x509.MarshalPKIXPublicKey(rsaKey().Public()))
	spki := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	sum := sha256.Sum256([]byte(accessToken))
	codeSum := sha256.Sum256([]byte("CODE-canary"))

	for _, row := range []struct {
		name string
		make func(f *fake, nonce string) string
		ok   bool
	}{
		{"RS256", rs(nil), true},
		{"PS256", signed(jwt.SigningMethodPS256, rsaKey(), "rsa"), true},
		{"ES256", signed(jwt.SigningMethodES256, ecKey(), "ec"), true},
		{"EdDSA", signed(jwt.SigningMethodEdDSA, edKey(), "ed"), true},
		{"no typ", header(claims{"typ": nil}), true},

		{"L-01 alg none", unsigned("none"), false},
		{"L-01 alg None", unsigned("None"), false},
		{"L-01 alg nOnE", unsigned("nOnE"), false},
		{"L-01 no alg", unsigned(nil), false},
		{"L-01 alg is a number", unsigned(1), false},
		{"L-01 empty signature", unsigned("RS256"), false},
		{"L-02 HS256 with the public PEM", signed(jwt.SigningMethodHS256, spki, "rsa"), false},
		{"L-02 HS256 with the public DER", signed(jwt.SigningMethodHS256, der, "rsa"), false},
		{"L-02 HS256 with the modulus", signed(jwt.SigningMethodHS256, rsaKey().N.Bytes(), "rsa"), false},
		{"L-02 HS256 with the client secret", signed(jwt.SigningMethodHS256, []byte(clientSecret), "rsa"), false},
		{"L-02 ES256 under an RSA key's id", signed(jwt.SigningMethodES256, ecKey(), "rsa"), false},
		{"L-02 algorithm not in the metadata", signed(jwt.SigningMethodRS512, rsaKey(), "rsa"), false},
		{"L-03 another key of the same id", signed(jwt.SigningMethodRS256, otherRSA(), "rsa"), false},
		{"L-03 truncated ES256", func(f *fake, n string) string {
			s := signed(jwt.SigningMethodES256, ecKey(), "ec")(f, n)
			return s[:len(s)-4]
		}, false},
		{"L-03 flipped bit", func(f *fake, n string) string {
			s := []byte(rs(nil)(f, n))
			if i := len(s) - 10; s[i] == 'A' {
				s[i] = 'B'
			} else {
				s[i] = 'A'
			}
			return string(s)
		}, false},
		{"L-03 crit", header(claims{"crit": []string{"exp"}}), false},
		{"L-03 b64 false", header(claims{"b64": false}), false},
		{"L-04 kid path", header(claims{"kid": "../../x"}), false},
		{"L-04 kid SQL", header(claims{"kid": "' OR 1=1 --"}), false},
		{"L-04 kid of 100 KiB", header(claims{"kid": strings.Repeat("k", 100<<10)}), false},
		{"L-04 kid a number", header(claims{"kid": 1}), false},
		{"L-04 kid an array", header(claims{"kid": []string{"rsa"}}), false},
		{"L-04 kid an object", header(claims{"kid": claims{"a": 1}}), false},
		{"L-04 kid null", func(f *fake, n string) string {
			input := b64([]byte(`{"alg":"RS256","kid":null}`)) + "." + b64(must(json.Marshal(f.with(claims{"nonce": n}))))
			return input + "." + b64(must(jwt.SigningMethodRS256.Sign(input, rsaKey())))
		}, false},
		{"L-04 no kid, one key of the type", func(f *fake, n string) string {
			return sign(jwt.SigningMethodRS256, rsaKey(), nil, f.with(claims{"nonce": n}))
		}, true},
		{"L-04 jku, x5u, jwk of an attacker", func(f *fake, n string) string {
			h := claims{"kid": "rsa", "jku": f.srv.URL + "/evil", "x5u": f.srv.URL + "/evil", "jwk": jwk("rsa", otherRSA().Public())}
			return sign(jwt.SigningMethodRS256, otherRSA(), h, f.with(claims{"nonce": n}))
		}, false},
		{"L-05 iss of another", rs(claims{"iss": "https://evil.example"}), false},
		{"L-05 iss with slash", func(f *fake, n string) string { return rs(claims{"iss": f.srv.URL + "/"})(f, n) }, false},
		{"L-05 no iss", rs(claims{"iss": nil}), false},
		{"L-05 iss an array", func(f *fake, n string) string { return rs(claims{"iss": []string{f.srv.URL}})(f, n) }, false},
		{"L-05 no aud", rs(claims{"aud": nil}), false},
		{"L-05 empty aud", rs(claims{"aud": []string{}}), false},
		{"L-05 another aud", rs(claims{"aud": "other"}), false},
		{"L-05 aud of odd elements", rs(claims{"aud": []any{clientID, nil}}), false},
		{"L-05 aud a number", rs(claims{"aud": 1}), false},
		{"L-05 aud array of us", rs(claims{"aud": []string{clientID}}), true},
		{"L-05 second aud, no azp", rs(claims{"aud": []string{clientID, "other"}}), false},
		{"L-05 second aud, azp us", rs(claims{"aud": []string{clientID, "other"}, "azp": clientID}), true},
		{"L-05 azp another", rs(claims{"azp": "other"}), false},
		{"L-05 azp a number", rs(claims{"azp": 1}), false},
		{"L-06 expired", rs(claims{"exp": at(-2 * time.Minute), "iat": at(-10 * time.Minute)}), false},
		{"L-06 expired within the skew", rs(claims{"exp": at(-30 * time.Second)}), true},
		{"L-06 expired at the skew", rs(claims{"exp": at(-time.Minute)}), false},
		{"L-06 no exp", rs(claims{"exp": nil}), false},
		{"L-06 exp a string", rs(claims{"exp": "1893456000"}), false},
		{"L-06 exp a fraction", rs(claims{"exp": float64(at(time.Minute)) + .5}), true},
		{"L-06 exp 1e30", rs(claims{"exp": 1e30}), false},
		{"L-06 exp negative", rs(claims{"exp": -1}), false},
		{"L-06 exp zero", rs(claims{"exp": 0}), false},
		{"L-06 exp after 2038", rs(claims{"exp": int64(4102444800)}), true},
		{"L-06 exp beyond floats", payload(`{"exp":1e999,$}`), false},
		{"L-06 nbf in the future", rs(claims{"nbf": at(5 * time.Minute)}), false},
		{"L-06 nbf within the skew", rs(claims{"nbf": at(30 * time.Second)}), true},
		{"L-06 nbf zero: valid since ever", rs(claims{"nbf": 0}), true},
		{"L-06 nbf negative", rs(claims{"nbf": -1}), false},
		{"L-06 nbf a string", rs(claims{"nbf": "now"}), false},
		{"L-06 iat in the future", rs(claims{"iat": at(10 * time.Minute)}), false},
		{"L-06 iat within the skew", rs(claims{"iat": at(30 * time.Second)}), true},
		{"L-06 iat a week ago", rs(claims{"iat": at(-7 * 24 * time.Hour)}), false},
		{"L-06 no iat", rs(claims{"iat": nil}), false},
		{"L-06 iat zero", rs(claims{"iat": 0}), false},
		{"L-06 auth_time zero: not told", rs(claims{"auth_time": 0}), true},
		{"L-06 auth_time a string", rs(claims{"auth_time": "yesterday"}), false},
		{"L-07 no sub", rs(claims{"sub": nil}), false},
		{"L-07 empty sub", rs(claims{"sub": ""}), false},
		{"L-07 sub a number", rs(claims{"sub": 7}), false},
		{"L-07 sub of 255", rs(claims{"sub": strings.Repeat("s", 255)}), true},
		{"L-07 sub of 300", rs(claims{"sub": strings.Repeat("s", 300)}), false},
		{"L-07 sub with NUL", rs(claims{"sub": "a\x00b"}), false},
		{"L-07 sub of half a surrogate pair", payload(`{"iss":"x","sub":"\ud800"}`), false},
		{"L-08 at_hash right", rs(claims{"at_hash": b64(sum[:16])}), true},
		{"L-08 at_hash wrong", rs(claims{"at_hash": b64(codeSum[:16])}), false},
		{"L-08 at_hash a number", rs(claims{"at_hash": 1}), false},
		{"L-08 c_hash right", rs(claims{"c_hash": b64(codeSum[:16])}), true},
		{"L-08 c_hash wrong", rs(claims{"c_hash": b64(sum[:16])}), false},
		{"L-10 alg twice in the header", head(`{"alg":"none","alg":"RS256","kid":"rsa"}`), false},
		{"L-10 kid twice in the header", head(`{"alg":"RS256","kid":"ec","kid":"rsa"}`), false},
		{"L-10 alg twice, one escaped", head(`{"\u0061lg":"ES256","alg":"RS256","kid":"rsa"}`), false},
		{"L-10 a header of two objects", head(`{"alg":"RS256","kid":"rsa"}{}`), false},
		{"L-10 a header not in UTF-8", head("{\"alg\":\"RS256\",\"kid\":\"rsa\",\"x\":\"\xff\"}"), false},
		{"L-10 a header in an array", head(`[{"alg":"RS256","kid":"rsa"}]`), false},
		{"L-10 a header of its own", head(`{"alg":"RS256","kid":"rsa","x":{"a":1}}`), true},
		{"L-10 two subs", payload(`{$,"sub":"bob"}`), false},
		{"L-10 deep", payload(`{"deep":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `,$}`), false},
		{"L-10 large", payload(`{"large":"` + strings.Repeat("x", 100<<10) + `",$}`), false},
		{"L-10 not JSON", payload(`$`), false},
		{"L-10 an array", payload(`[{$}]`), false},
		{"L-10 null", payload(`null`), false},
		{"L-10 BOM", payload("\ufeff{$}"), false},
		{"L-10 not UTF-8", payload("{\"x\":\"\xff\",$}"), false},
		{"L-10 two objects", payload(`{$}{$}`), false},
		{"L-12 JWE", func(f *fake, n string) string {
			return b64([]byte(`{"alg":"PBES2-HS256+A128KW","enc":"A128GCM","p2c":2147483647}`)) + ".a.b.c.d"
		}, false},
		{"L-17 an access token", header(claims{"typ": "at+jwt"}), false},
		{"L-17 an access token, in full", header(claims{"typ": "application/at+jwt"}), false},
		{"L-17 a logout token", header(claims{"typ": "logout+jwt"}), false},
		{"L-17 a logout token without typ", rs(claims{"events": claims{"http://schemas.openid.net/event/backchannel-logout": claims{}}}), false},
		{"L-17 typ a number", header(claims{"typ": 1}), false},
		{"L-17 typ in capitals", header(claims{"typ": "jwt"}), true},
		{"B-07 wrong nonce", rs(claims{"nonce": "AAAAAAAAAAAAAAAAAAAAAA"}), false},
		{"B-07 no nonce", rs(claims{"nonce": nil}), false},
		{"B-07 empty nonce", rs(claims{"nonce": ""}), false},
		{"B-07 nonce a number", rs(claims{"nonce": 1}), false},
		{"sid a number", rs(claims{"sid": 1}), false},
		{"no sid", rs(claims{"sid": nil}), true},
		{"not a token", func(*fake, string) string { return "x" }, false},
		{"dots", func(*fake, string) string { return ".." }, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			g, err := f.login(f.provider(), func(nonce string) string { return row.make(f, nonce) })
			if row.ok {
				wantKind(t, err, nil)
				if g.Subject == "" || g.Issuer != f.srv.URL || g.Access != accessToken || g.Refresh != refreshToken || g.ID == "" {
					t.Errorf("grant is incomplete: %+v", g)
				}
			} else {
				wantKind(t, err, idp.ErrRejected)
				if g.Access != "" || g.Subject != "" {
					t.Errorf("a grant came with the error")
				}
			}
			if n := len(f.requests("/evil")); n > 0 {
				t.Errorf("a URL from the token's header was fetched")
			}
			if n := len(f.requests("/token")); n != 1 {
				t.Errorf("%d requests with one code", n)
			}
			checkNoSecret(t, f.log.String())
		})
	}
}

func TestIDTokenReusedNonce_B07(t *testing.T) {
	f := newFake(t)
	p := f.provider()
	var first string
	if _, err := f.login(p, func(nonce string) string { first = f.good(nonce); return first }); err != nil {
		t.Fatal(err)
	}
	_, err := f.login(p, func(string) string { return first })
	wantKind(t, err, idp.ErrRejected)
}

func TestIDTokenMaxAge(t *testing.T) {
	for _, row := range []struct {
		name     string
		authTime any
		want     error
	}{
		{"fresh", start.Add(-time.Minute).Unix(), nil},
		{"old", start.Add(-time.Hour).Unix(), idp.ErrRejected},
		{"missing", nil, idp.ErrRejected},
		{"zero", 0, idp.ErrRejected},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			p := f.provider(func(c *idp.Config) { c.AuthorizationParams = map[string]string{"max_age": "300"} })
			f.claims = f.with(map[string]any{"auth_time": row.authTime})
			_, err := f.login(p, f.good)
			wantKind(t, err, row.want)
		})
	}
}

// What the browser asked for counts where nothing is configured.
func TestIDTokenMaxAgeOfLogin(t *testing.T) {
	for _, row := range []struct {
		name             string
		configured, asks string
		sent             string // to the provider; the last login was an hour ago
		want             error
	}{
		{"none", "", "", "", nil},
		{"satisfied", "", "7200", "7200", nil},
		{"not satisfied", "", "60", "60", idp.ErrRejected},
		{"now", "", "0", "0", idp.ErrRejected},
		{"in another spelling", "", "0060", "60", idp.ErrRejected},
		{"no number", "", "60s", "", nil},
		{"negative", "", "-1", "", nil},
		{"more than there is", "", "99999999999999999999", "", nil},
		{"less than configured", "7200", "60", "7200", nil},
		{"more than configured", "60", "7200", "60", idp.ErrRejected},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			p := f.provider(func(c *idp.Config) {
				if row.configured != "" {
					c.AuthorizationParams = map[string]string{"max_age": row.configured}
				}
			})
			tx := idp.NewTransaction()
			tx.SetMaxAge(row.asks)
			to, err := p.LoginURL(context.Background(), tx, url.Values{"max_age": {"1"}})
			if err != nil {
				t.Fatal(err)
			}
			if got := must(url.Parse(to)).Query()["max_age"]; strings.Join(got, " ") != row.sent {
				t.Errorf("max_age %q, want %q", got, row.sent)
			}
			f.grants(map[string]any{"id_token": f.good(tx.Nonce)})
			_, err = p.Exchange(context.Background(), "CODE-canary", tx)
			wantKind(t, err, row.want)
		})
	}
}

func TestIDTokenClaims(t *testing.T) {
	f := newFake(t)
	g, err := f.login(f.provider(), f.good)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(g.Claims, &got); err != nil {
		t.Fatal(err)
	}
	if got["name"] != "Alice" || got["sub"] != subject || got["nonce"] != nil {
		t.Errorf("claims: %s", g.Claims)
	}
	if g.SessionID != "provider-session" || !g.AuthTime.Equal(start.Add(-time.Hour)) || g.TokenType != "Bearer" || g.Scope != "openid" {
		t.Errorf("grant: %+v", g)
	}
}
