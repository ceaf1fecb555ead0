package idp_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/golang-jwt/jwt/v5"
)

const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// logoutClaims are a good logout token's, with some replaced; nil drops one.
func (f *fake) logoutClaims(over map[string]any) map[string]any {
	all := map[string]any{
		"iss": f.srv.URL, "aud": clientID, "iat": start.Unix(), "exp": start.Add(2 * time.Minute).Unix(), "jti": "jti-1",
		"sub": subject, "sid": "provider-session", "events": map[string]any{logoutEvent: map[string]any{}},
	}
	maps.Copy(all, over)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return all
}

func TestLogoutToken_M01(t *testing.T) {
	type claims = map[string]any
	null := json.RawMessage("null")
	rs := func(over claims) func(*fake) string {
		return func(f *fake) string {
			return sign(jwt.SigningMethodRS256, rsaKey(), claims{"kid": "rsa", "typ": "logout+jwt"}, f.logoutClaims(over))
		}
	}
	typ := func(v any) func(*fake) string {
		return func(f *fake) string {
			return sign(jwt.SigningMethodRS256, rsaKey(), claims{"kid": "rsa", "typ": v}, f.logoutClaims(nil))
		}
	}
	header := func(h claims) func(*fake) string {
		return func(f *fake) string { return sign(jwt.SigningMethodRS256, rsaKey(), h, f.logoutClaims(nil)) }
	}
	signed := func(m jwt.SigningMethod, key any, kid string) func(*fake) string {
		return func(f *fake) string {
			return sign(m, key, claims{"kid": kid, "typ": "logout+jwt"}, f.logoutClaims(nil))
		}
	}
	// payload signs a text that need not be JSON; $ stands for the usual claims.
	payload := func(text string) func(*fake) string {
		return func(f *fake) string {
			usual := string(must(json.Marshal(f.logoutClaims(nil))))
			return sign(jwt.SigningMethodRS256, rsaKey(), claims{"kid": "rsa"}, strings.ReplaceAll(text, "$", usual[1:len(usual)-1]))
		}
	}
	unsigned := func(alg, signature string) func(*fake) string {
		return func(f *fake) string {
			h := b64(must(json.Marshal(claims{"typ": "logout+jwt", "kid": "rsa", "alg": alg})))
			return h + "." + b64(must(json.Marshal(f.logoutClaims(nil)))) + "." + signature
		}
	}
	event := func(v any) func(*fake) string { return rs(claims{"events": claims{logoutEvent: v}}) }
	at := func(d time.Duration) int64 { return start.Add(d).Unix() }
	der := must(x509.MarshalPKIXPublicKey(rsaKey().Public()))
	spki := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})

	for _, row := range []struct {
		name string
		make func(*fake) string
		ok   bool
	}{
		{"sub and sid", rs(nil), true},
		{"sid alone", rs(claims{"sub": nil}), true},
		{"sub alone", rs(claims{"sid": nil}), true},
		{"sub alone, sid null", rs(claims{"sid": null}), true},
		{"PS256", signed(jwt.SigningMethodPS256, rsaKey(), "rsa"), true},
		{"ES256", signed(jwt.SigningMethodES256, ecKey(), "ec"), true},
		{"EdDSA", signed(jwt.SigningMethodEdDSA, edKey(), "ed"), true},
		{"typ in capitals", typ("LOGOUT+JWT"), true},
		{"typ in full", typ("application/logout+jwt"), true},
		{"typ JWT", typ("JWT"), true},
		{"no typ", typ(nil), true},
		{"an event besides", rs(claims{"events": claims{logoutEvent: claims{}, "urn:x": 1}}), true},
		{"event not empty", event(claims{"a": 1}), true},
		{"aud array of us", rs(claims{"aud": []string{clientID}}), true},
		{"several audiences, azp us", rs(claims{"aud": []string{"other", clientID}, "azp": clientID}), true},

		{"alg none", unsigned("none", ""), false},
		{"alg none, signed", unsigned("none", "AAAA"), false},
		{"alg nOnE", unsigned("nOnE", ""), false},
		{"no signature", unsigned("RS256", ""), false},
		{"HS256 with the public PEM", signed(jwt.SigningMethodHS256, spki, "rsa"), false},
		{"HS256 with the public DER", signed(jwt.SigningMethodHS256, der, "rsa"), false},
		{"HS256 with the client secret", signed(jwt.SigningMethodHS256, []byte(clientSecret), "rsa"), false},
		{"algorithm not in the metadata", signed(jwt.SigningMethodRS512, rsaKey(), "rsa"), false},
		{"wrong key", signed(jwt.SigningMethodRS256, otherRSA(), "rsa"), false},
		{"another type of key", signed(jwt.SigningMethodES256, ecKey(), "rsa"), false},
		{"unknown kid", signed(jwt.SigningMethodRS256, rsaKey(), "nobody"), false},
		{"kid a number", header(claims{"kid": 1}), false},
		{"crit", header(claims{"kid": "rsa", "crit": []string{"exp"}}), false},
		{"key in the header", func(f *fake) string {
			h := claims{"kid": "x", "jwk": jwk("x", otherRSA().Public()), "jku": f.srv.URL + "/evil"}
			return sign(jwt.SigningMethodRS256, otherRSA(), h, f.logoutClaims(nil))
		}, false},
		{"changed after signing", func(f *fake) string {
			parts := strings.Split(rs(nil)(f), ".")
			parts[1] = b64(must(json.Marshal(f.logoutClaims(claims{"sub": "bob"}))))
			return strings.Join(parts, ".")
		}, false},
		{"encrypted", func(*fake) string { return b64([]byte(`{"alg":"RSA-OAEP","enc":"A128GCM"}`)) + ".a.b.c.d" }, false},
		{"wrong iss", rs(claims{"iss": "https://evil.example"}), false},
		{"iss with slash", func(f *fake) string { return rs(claims{"iss": f.srv.URL + "/"})(f) }, false},
		{"no iss", rs(claims{"iss": nil}), false},
		{"wrong aud", rs(claims{"aud": "other"}), false},
		{"no aud", rs(claims{"aud": nil}), false},
		{"aud empty", rs(claims{"aud": []string{}}), false},
		{"several audiences, no azp", rs(claims{"aud": []string{"other", clientID}}), false},
		{"azp another", rs(claims{"azp": "other"}), false},
		{"no events", rs(claims{"events": nil}), false},
		{"events null", rs(claims{"events": null}), false},
		{"events a string", rs(claims{"events": logoutEvent}), false},
		{"events an array", rs(claims{"events": []string{logoutEvent}}), false},
		{"events empty", rs(claims{"events": claims{}}), false},
		{"wrong event member", rs(claims{"events": claims{"http://schemas.openid.net/event/frontchannel-logout": claims{}}}), false},
		{"event member in https", rs(claims{"events": claims{"https" + logoutEvent[4:]: claims{}}}), false},
		{"event member in another case", rs(claims{"events": claims{strings.ToUpper(logoutEvent): claims{}}}), false},
		{"event null", event(null), false},
		{"event true", event(true), false},
		{"event a string", event("{}"), false},
		{"event an array", event([]any{}), false},
		{"with nonce", rs(claims{"nonce": "n"}), false},
		{"with an empty nonce", rs(claims{"nonce": ""}), false},
		{"with nonce null", rs(claims{"nonce": null}), false},
		{"neither sub nor sid", rs(claims{"sub": nil, "sid": nil}), false},
		{"both null", rs(claims{"sub": null, "sid": null}), false},
		{"sub empty beside sid", rs(claims{"sub": ""}), false},
		{"sid empty beside sub", rs(claims{"sid": ""}), false},
		{"sub a number", rs(claims{"sub": 1}), false},
		{"sid an array", rs(claims{"sid": []string{"provider-session"}}), false},
		{"sub of 300", rs(claims{"sub": strings.Repeat("s", 300)}), false},
		{"sid of 2000", rs(claims{"sid": strings.Repeat("s", 2000)}), false},
		{"sid with NUL", rs(claims{"sid": "a\x00"}), false},
		{"expired", rs(claims{"exp": at(-2 * time.Minute), "iat": at(-4 * time.Minute)}), false},
		{"expired at the skew", rs(claims{"exp": at(-time.Minute)}), false},
		{"expired within the skew", rs(claims{"exp": at(-59 * time.Second)}), true},
		{"no exp", rs(claims{"exp": nil}), false},
		{"exp a string", rs(claims{"exp": "1893456000"}), false},
		{"future iat", rs(claims{"iat": at(5 * time.Minute), "exp": at(7 * time.Minute)}), false},
		{"iat within the skew", rs(claims{"iat": at(59 * time.Second)}), true},
		{"old iat, exp far", rs(claims{"iat": at(-10 * time.Minute), "exp": at(time.Hour)}), false},
		{"old iat, just in time", rs(claims{"iat": at(-10*time.Minute + time.Second), "exp": at(time.Hour)}), true},
		{"no iat", rs(claims{"iat": nil}), false},
		{"iat a string", rs(claims{"iat": "now"}), false},
		{"nbf zero: valid since ever", rs(claims{"nbf": 0}), true},
		{"nbf in the future", rs(claims{"nbf": at(5 * time.Minute)}), false},
		{"missing jti", rs(claims{"jti": nil}), false},
		{"empty jti", rs(claims{"jti": ""}), false},
		{"jti a number", rs(claims{"jti": 1}), false},
		{"jti of 300", rs(claims{"jti": strings.Repeat("j", 300)}), false},
		{"typ at+jwt", typ("at+jwt"), false},
		{"typ secevent+jwt", typ("secevent+jwt"), false},
		{"typ empty", typ(""), false},
		{"typ a number", typ(1), false},
		{"typ with a parameter", typ("logout+jwt; x"), false},
		{"sub twice", payload(`{$,"sub":"bob"}`), false},
		{"events twice", payload(`{$,"events":{}}`), false},
		{"event member twice", payload(`{"iss":"x","events":{"` + logoutEvent + `":{},"` + logoutEvent + `":{}}}`), false},
		{"names inside the event twice", event(json.RawMessage(`{"a":1,"a":2}`)), false},
		{"two objects", payload(`{$}{$}`), false},
		{"an array", payload(`[{$}]`), false},
		{"not UTF-8", payload("{\"x\":\"\xff\",$}"), false},
		{"deep", payload(`{"deep":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `,$}`), true},
		{"oversize", payload(`{"large":"` + strings.Repeat("x", 20<<10) + `",$}`), false},
		{"empty", func(*fake) string { return "" }, false},
		{"dots", func(*fake) string { return ".." }, false},
		{"newline behind", func(f *fake) string { return rs(nil)(f) + "\n" }, false},
		{"padded", func(f *fake) string { return rs(nil)(f) + "=" }, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			got, err := f.provider().VerifyLogoutToken(context.Background(), row.make(f))
			if row.ok {
				wantKind(t, err, nil)
				if got.Issuer != f.srv.URL || got.JTI != "jti-1" || got.Subject == "" && got.SessionID == "" || got.IssuedAt.IsZero() {
					t.Errorf("got %+v", got)
				}
				if !f.clock().Before(got.ExpiresAt) {
					t.Errorf("accepted, and over at %v", got.ExpiresAt)
				}
			} else {
				wantKind(t, err, idp.ErrRejected)
				if got != (idp.LogoutToken{}) {
					t.Errorf("%+v came with the error", got)
				}
			}
			if len(f.requests("/evil")) > 0 {
				t.Error("a URL from the token's header was fetched")
			}
			if n := len(f.requests("/jwks")); n > 1 {
				t.Errorf("%d fetches of the keys", n)
			}
			checkNoSecret(t, f.log.String())
		})
	}
}

// A caller who remembers jti until ExpiresAt sees each token once.
func TestLogoutTokenExpiresAt(t *testing.T) {
	for _, row := range []struct {
		name string
		exp  time.Duration
		want time.Duration
	}{
		{"two minutes, and the skew", 2 * time.Minute, 3 * time.Minute},
		{"a year", 365 * 24 * time.Hour, 10 * time.Minute},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			p := f.provider()
			token := sign(jwt.SigningMethodRS256, rsaKey(), map[string]any{"kid": "rsa"}, f.logoutClaims(map[string]any{"exp": start.Add(row.exp).Unix()}))
			got, err := p.VerifyLogoutToken(context.Background(), token)
			if err != nil || !got.ExpiresAt.Equal(start.Add(row.want)) || !got.IssuedAt.Equal(start) || got.Subject != subject || got.SessionID != "provider-session" {
				t.Fatalf("got %+v, %v", got, err)
			}
			f.advance(row.want - time.Second)
			if _, err := p.VerifyLogoutToken(context.Background(), token); err != nil {
				t.Errorf("refused too early: %v", err)
			}
			f.advance(time.Second)
			_, err = p.VerifyLogoutToken(context.Background(), token)
			wantKind(t, err, idp.ErrRejected)
		})
	}
}

// TestVerifyWithoutKeys: that the provider is down says nothing about a token.
func TestVerifyWithoutKeys(t *testing.T) {
	verifiers := map[string]func(*fake, *idp.Provider, context.Context) error{
		"logout token": func(f *fake, p *idp.Provider, ctx context.Context) error {
			_, err := p.VerifyLogoutToken(ctx, sign(jwt.SigningMethodRS256, rsaKey(), map[string]any{"kid": "rsa"}, f.logoutClaims(nil)))
			return err
		},
		"access token": func(f *fake, p *idp.Provider, ctx context.Context) error {
			_, err := p.VerifyAccessToken(ctx, f.at(nil, nil), []string{api})
			return err
		},
	}
	for name, verify := range verifiers {
		for _, path := range []string{wellKnown, "/jwks"} {
			t.Run(name+path, func(t *testing.T) {
				f := newFake(t)
				f.on(path, answer(503, ""))
				p := f.provider()
				for range 20 {
					wantKind(t, verify(f, p, context.Background()), idp.ErrUnavailable)
				}
				if n := len(f.requests(path)); n != 1 {
					t.Errorf("%d fetches", n)
				}
			})
		}
		t.Run(name+", slow keys", func(t *testing.T) {
			f := newFake(t)
			f.on("/jwks", hang(""))
			wantKind(t, verify(f, f.provider(func(c *idp.Config) { c.Timeout = 50 * time.Millisecond }), context.Background()), idp.ErrUnavailable)
		})
		t.Run(name+", the caller leaves", func(t *testing.T) {
			f := newFake(t)
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if err := verify(f, f.provider(func(c *idp.Config) { c.Timeout = 50 * time.Millisecond }), ctx); !errors.Is(err, context.Canceled) || !errors.Is(err, idp.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A flood of tokens with made-up key ids costs the provider one fetch.
func TestVerifyUnknownKeys_ID8(t *testing.T) {
	f := newFake(t)
	p := f.provider()
	if _, err := p.VerifyAccessToken(context.Background(), f.at(nil, nil), []string{api}); err != nil {
		t.Fatal(err)
	}
	f.advance(6 * time.Second)
	for i := range 200 {
		h := map[string]any{"kid": fmt.Sprint("made-up-", i)}
		_, err := p.VerifyLogoutToken(context.Background(), sign(jwt.SigningMethodEdDSA, edKey(), h, f.logoutClaims(nil)))
		wantKind(t, err, idp.ErrRejected)
		_, err = p.VerifyAccessToken(context.Background(), f.at(h, nil), []string{api})
		wantKind(t, err, idp.ErrRejected)
	}
	if n := len(f.requests("/jwks")); n != 2 {
		t.Errorf("%d fetches of the keys, want 2", n)
	}
}

func TestCheckFrontChannel(t *testing.T) {
	f := newFake(t)
	p := f.provider()
	for _, row := range []struct {
		name, iss, sid string
		want           error
	}{
		{"fine", f.srv.URL, "provider-session", nil},
		{"another issuer", "https://evil.example", "provider-session", idp.ErrRejected},
		{"iss with slash", f.srv.URL + "/", "provider-session", idp.ErrRejected},
		{"no iss", "", "provider-session", idp.ErrRejected},
		{"no sid", f.srv.URL, "", idp.ErrRejected},
		{"nothing", "", "", idp.ErrRejected},
		{"sid of 2000", f.srv.URL, strings.Repeat("s", 2000), idp.ErrRejected},
		{"sid with a newline", f.srv.URL, "a\nb", idp.ErrRejected},
		{"sid not UTF-8", f.srv.URL, "a\xff", idp.ErrRejected},
	} {
		t.Run(row.name, func(t *testing.T) { wantKind(t, p.CheckFrontChannel(row.iss, row.sid), row.want) })
	}
	if len(f.seen) > 0 {
		t.Error("it asked the provider")
	}
}
