package idp

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// fuzzProvider knows its metadata and one key, and asks nobody.
func fuzzProvider(tb testing.TB, key *ecdsa.PublicKey) *Provider {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	p, err := New(Config{
		Issuer: "https://id.example", ClientID: "shop", ClientSecret: "s", ClientAuth: ClientSecretBasic,
		RedirectURI: "https://shop.example/cb", Scopes: []string{"openid"}, Now: func() time.Time { return now },
	})
	if err != nil {
		tb.Fatal(err)
	}
	p.metadata.value, p.metadata.gotAt = &metadata{algorithms: acceptable}, now
	p.keys.value, p.keys.gotAt, p.keys.triedAt = &keySet{keys: []providerKey{{id: "k", public: key}}}, now, now
	return p
}

func FuzzTokenAnswer(f *testing.F) {
	for _, s := range []string{
		`{"access_token":"a","token_type":"Bearer","expires_in":300,"refresh_token":"r","id_token":"a.b.c","scope":"openid"}`,
		`{"access_token":"a","token_type":"bearer","expires_in":"1e12"}`, `{"access_token":1}`, `{"error":"invalid_grant"}`, `[]`, `{`, `null`, "\x00",
		`{"access_token":"a.eyJleHAiOjF9.c","token_type":"Bearer","expires_in":-1,"refresh_expires_in":1e400}`,
	} {
		f.Add(200, []byte(s))
		f.Add(400, []byte(s))
	}
	p := fuzzProvider(f, &ecdsa.PublicKey{})
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		g, fail := p.judge(answer{status: status, body: body}, true)
		if fail == nil {
			if g.Access == "" || g.ExpiresIn <= 0 || g.ExpiresIn > maxTokenLife || g.RefreshExpiresIn < 0 || !strings.EqualFold(g.TokenType, "Bearer") {
				t.Errorf("grant %+v of %q", g, body)
			}
			if strings.ContainsAny(string(g.Access), " \r\n\x00") {
				t.Errorf("access token doesn't fit a header: %q", string(g.Access))
			}
			return
		}
		if g.Access != "" {
			t.Error("a grant came with the error")
		}
		// Only the word itself ends a session.
		if fail.Kind == Rejected && (status < 400 || status > 499 || !strings.Contains(string(body), "error")) {
			t.Errorf("%d %q is Rejected", status, body)
		}
		if len(fail.OAuthError) > 64 {
			t.Errorf("OAuthError %q", fail.OAuthError)
		}
	})
}

func FuzzIDToken(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	p := fuzzProvider(f, &key.PublicKey)
	enc := base64.RawURLEncoding.EncodeToString
	good := `{"iss":"https://id.example","aud":"shop","sub":"alice","exp":1772366700,"iat":1772366400,"nonce":"n"}`
	for _, header := range []string{`{"alg":"ES256","kid":"k"}`, `{"alg":"none"}`, `{"alg":["ES256"],"kid":null}`, `null`, `[]`} {
		for _, payload := range []string{good, `null`, `[]`, `{"aud":[[]],"exp":{}}`, strings.Repeat("[", 100)} {
			f.Add(header, payload, "", true)
			f.Add(header, payload, "AAAA", false)
		}
	}
	f.Fuzz(func(t *testing.T, header, payload, signature string, sign bool) {
		// The signed half of the inputs reaches the checks of the claims.
		if sign {
			header = `{"alg":"ES256","kid":"k"}`
		}
		raw := enc([]byte(header)) + "." + enc([]byte(payload))
		if sign {
			sig, err := jwt.SigningMethodES256.Sign(raw, key)
			if err != nil {
				t.Fatal(err)
			}
			signature = enc(sig)
		}
		id, err := p.verifyIDToken(context.Background(), IDToken(raw+"."+signature), idTokenWant{login: true, nonce: "n"})
		unverifiedSubject(IDToken(raw + "." + signature))
		if err != nil {
			return
		}
		var c struct{ Iss, Sub string }
		if json.Unmarshal([]byte(payload), &c) != nil || c.Sub != id.subject || id.subject == "" || c.Iss != "https://id.example" || !sign {
			t.Errorf("accepted %s . %s", header, payload)
		}
	})
}

func FuzzLogoutToken(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	p := fuzzProvider(f, &key.PublicKey)
	event := `"events":{"` + logoutEvent + `":{}}`
	for _, s := range []string{
		`{"iss":"https://id.example","aud":"shop","sub":"alice","sid":"s","jti":"j","exp":1772366500,"iat":1772366400,` + event + `}`,
		`{"iss":"https://id.example","aud":["shop"],"sid":"s","jti":"j","exp":1772366500,"iat":1772366400,"nonce":null,` + event + `}`,
		`{"events":{"` + logoutEvent + `":null}}`, `{"events":[]}`, `null`, `{"sid":"\ud800"}`,
	} {
		f.Add(`{"alg":"ES256","kid":"k","typ":"logout+jwt"}`, s, true)
		f.Add(`{"alg":"none"}`, s, false)
	}
	f.Fuzz(func(t *testing.T, header, payload string, sign bool) {
		got, err := p.VerifyLogoutToken(context.Background(), fuzzToken(t, key, header, payload, sign))
		if err != nil {
			if got != (LogoutToken{}) {
				t.Error("a token came with the error")
			}
			return
		}
		var c map[string]any
		json.Unmarshal([]byte(payload), &c)
		events, _ := c["events"].(map[string]any)
		_, isObject := events[logoutEvent].(map[string]any)
		_, nonce := c["nonce"]
		now := p.cfg.Now()
		if !sign || !isObject || nonce || got.Subject == "" && got.SessionID == "" || got.JTI == "" || len(got.JTI) > maxTokenID ||
			c["iss"] != got.Issuer || got.Subject != "" && c["sub"] != got.Subject || got.SessionID != "" && c["sid"] != got.SessionID ||
			!now.Before(got.ExpiresAt) || got.ExpiresAt.Sub(now) > maxLogoutAge+skew {
			t.Errorf("accepted %s . %s as %+v", header, payload, got)
		}
	})
}

func FuzzAccessToken(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	p := fuzzProvider(f, &key.PublicKey)
	for _, s := range []string{
		`{"iss":"https://id.example","aud":"api","sub":"alice","sid":"s","client_id":"c","scope":"a b","exp":1772366500,"iat":1772366400}`,
		`{"iss":"https://id.example","aud":["x","api"],"sub":"alice","scp":["a"],"exp":1772366500,"nonce":"n"}`,
		`{"aud":[[]]}`, `null`, `{"cnf":{}}`,
	} {
		f.Add(`{"alg":"ES256","kid":"k","typ":"at+jwt"}`, s, true)
		f.Add(`{"alg":"ES256","kid":"k"}`, s, true)
		f.Add(`{"alg":"none"}`, s, false)
	}
	f.Fuzz(func(t *testing.T, header, payload string, sign bool) {
		got, err := p.VerifyAccessToken(context.Background(), fuzzToken(t, key, header, payload, sign), []string{"api"})
		if err != nil {
			if got.Subject != "" || got.Claims != nil {
				t.Error("claims came with the error")
			}
			return
		}
		var c map[string]any
		json.Unmarshal(got.Claims, &c)
		_, bound := c["cnf"].(map[string]any)
		if !sign || bound || c["iss"] != "https://id.example" || c["sub"] != got.Subject || got.Subject == "" || !strings.Contains(payload, "api") ||
			!p.cfg.Now().Before(got.ExpiresAt) {
			t.Errorf("accepted %s . %s as %+v", header, payload, got)
		}
	})
}

// fuzzToken puts a token together; signed ones reach the checks of the claims.
func fuzzToken(t *testing.T, key *ecdsa.PrivateKey, header, payload string, sign bool) string {
	enc := base64.RawURLEncoding.EncodeToString
	raw := enc([]byte(header)) + "." + enc([]byte(payload))
	if !sign {
		return raw + ".AAAA"
	}
	sig, err := jwt.SigningMethodES256.Sign(raw, key)
	if err != nil {
		t.Fatal(err)
	}
	return raw + "." + enc(sig)
}

func FuzzMetadataAndKeys(f *testing.F) {
	f.Add([]byte(`{"issuer":"https://id.example","authorization_endpoint":"https://id.example/a","token_endpoint":"https://id.example/t","jwks_uri":"https://id.example/k"}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"OKP","crv":"X25519","x":"AA"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA"},null,1,[]]}`))
	p := fuzzProvider(f, &ecdsa.PublicKey{})
	f.Fuzz(func(t *testing.T, body []byte) {
		if m, err := p.parseMetadata(body); err == nil && (!strings.HasPrefix(m.token, "https://") || !strings.HasPrefix(m.keys, "https://")) {
			t.Errorf("unsafe endpoint accepted: %s", body)
		}
		if set, _, err := parseKeys(body); err == nil && len(set.keys) == 0 {
			t.Error("an empty set is no error")
		}
	})
}
