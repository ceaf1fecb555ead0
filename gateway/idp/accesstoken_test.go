package idp_test

import (
	"context"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/golang-jwt/jwt/v5"
)

const api = "https://api.example"

// at makes an access token as RFC 9068 has it, with some of its header and
// claims replaced; nil drops one.
func (f *fake) at(header, over map[string]any) string {
	h := map[string]any{"kid": "ec", "typ": "at+jwt"}
	maps.Copy(h, header)
	all := map[string]any{
		"iss": f.srv.URL, "aud": api, "sub": subject, "sid": "provider-session", "client_id": clientID, "scope": "read write",
		"iat": start.Unix(), "exp": start.Add(5 * time.Minute).Unix(), "jti": "at-1", "roles": []string{"admin"},
	}
	maps.Copy(all, over)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return sign(jwt.SigningMethodES256, ecKey(), h, all)
}

func TestAccessToken(t *testing.T) {
	type claims = map[string]any
	typed := func(over claims) func(*fake) string { return func(f *fake) string { return f.at(nil, over) } }
	// plain is a token whose header doesn't say what it is.
	plain := func(over claims) func(*fake) string {
		return func(f *fake) string { return f.at(claims{"typ": "JWT"}, over) }
	}
	header := func(h claims) func(*fake) string { return func(f *fake) string { return f.at(h, nil) } }
	at := func(d time.Duration) int64 { return start.Add(d).Unix() }
	for _, row := range []struct {
		name string
		make func(*fake) string
		want error
	}{
		{"at+jwt", typed(nil), nil},
		{"application/at+jwt", header(claims{"typ": "application/at+jwt"}), nil},
		{"AT+JWT", header(claims{"typ": "AT+JWT"}), nil},
		{"no sid", typed(claims{"sid": nil}), nil},
		{"at+jwt without scope and client_id", typed(claims{"scope": nil, "client_id": nil}), nil},
		{"at+jwt for this client too", typed(claims{"aud": []string{clientID, api}}), nil},
		{"second of our audiences", typed(claims{"aud": "https://other.example"}), nil},
		{"an audience besides", typed(claims{"aud": []string{"https://x.example", api}}), nil},
		{"algorithm not in the ID token's metadata", func(f *fake) string {
			f.metadata["id_token_signing_alg_values_supported"] = []string{"RS256"}
			return f.at(nil, nil)
		}, nil},
		{"like Keycloak's", plain(claims{"typ": "Bearer", "azp": "spa", "client_id": nil}), nil},
		{"like Okta's", func(f *fake) string {
			return f.at(claims{"typ": nil}, claims{"scope": nil, "client_id": nil, "cid": "spa", "scp": []string{"read", "write"}})
		}, nil},
		{"like Cognito's, with an audience", plain(claims{"token_use": "access"}), nil},
		{"JWT with client_id alone", plain(claims{"scope": nil}), nil},

		{"opaque", func(*fake) string { return accessToken }, idp.ErrRejected},
		{"empty", func(*fake) string { return "" }, idp.ErrRejected},
		{"alg none", func(f *fake) string {
			return b64([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + strings.Split(f.at(nil, nil), ".")[1] + "."
		}, idp.ErrRejected},
		{"HS256 with the client secret", func(f *fake) string {
			return sign(jwt.SigningMethodHS256, []byte(clientSecret), claims{"typ": "at+jwt", "kid": "ec"}, f.logoutClaims(claims{"aud": api}))
		}, idp.ErrRejected},
		{"unknown kid", header(claims{"kid": "nobody"}), idp.ErrRejected},
		{"key of another type", header(claims{"kid": "rsa"}), idp.ErrRejected},
		{"crit", header(claims{"crit": []string{"exp"}}), idp.ErrRejected},
		{"typ logout+jwt", header(claims{"typ": "logout+jwt"}), idp.ErrRejected},
		{"typ dpop+jwt", header(claims{"typ": "dpop+jwt"}), idp.ErrRejected},
		{"typ empty", header(claims{"typ": ""}), idp.ErrRejected},
		{"iss another", typed(claims{"iss": "https://evil.example"}), idp.ErrRejected},
		{"iss with slash", func(f *fake) string { return f.at(nil, claims{"iss": f.srv.URL + "/"}) }, idp.ErrRejected},
		{"no iss", typed(claims{"iss": nil}), idp.ErrRejected},
		{"aud another", typed(claims{"aud": "https://x.example"}), idp.ErrRejected},
		{"aud a prefix", typed(claims{"aud": api + "/"}), idp.ErrRejected},
		{"no aud", typed(claims{"aud": nil}), idp.ErrRejected},
		{"aud empty", typed(claims{"aud": ""}), idp.ErrRejected},
		{"aud an empty list", typed(claims{"aud": []string{}}), idp.ErrRejected},
		{"aud a number", typed(claims{"aud": 1}), idp.ErrRejected},
		{"no sub", typed(claims{"sub": nil}), idp.ErrRejected},
		{"sub a number", typed(claims{"sub": 1}), idp.ErrRejected},
		{"sub of 300", typed(claims{"sub": strings.Repeat("s", 300)}), idp.ErrRejected},
		{"sid a number", typed(claims{"sid": 1}), idp.ErrRejected},
		{"sid of 2000", typed(claims{"sid": strings.Repeat("s", 2000)}), idp.ErrRejected},
		{"client_id a number", typed(claims{"client_id": 1}), idp.ErrRejected},
		{"scope a number", typed(claims{"scope": 1}), idp.ErrRejected},
		{"scope a list with a number", typed(claims{"scope": []any{"read", 1}}), idp.ErrRejected},
		{"bound to a key", typed(claims{"cnf": claims{"jkt": "x"}}), idp.ErrRejected},
		{"events", typed(claims{"events": claims{logoutEvent: claims{}}}), idp.ErrRejected},
		{"JWT, nothing of an access token", plain(claims{"scope": nil, "client_id": nil}), idp.ErrRejected},
		{"no typ, nothing of an access token", func(f *fake) string { return f.at(claims{"typ": nil}, claims{"scope": nil, "client_id": nil}) }, idp.ErrRejected},
		{"JWT with nonce", plain(claims{"nonce": "n"}), idp.ErrRejected},
		{"JWT with at_hash", plain(claims{"at_hash": "x"}), idp.ErrRejected},
		{"JWT with c_hash", plain(claims{"c_hash": "x"}), idp.ErrRejected},
		{"JWT for this client too", plain(claims{"aud": []string{clientID, api}}), idp.ErrRejected},
		{"Keycloak's ID token", plain(claims{"typ": "ID"}), idp.ErrRejected},
		{"Keycloak's refresh token", plain(claims{"typ": "Refresh"}), idp.ErrRejected},
		{"Keycloak's offline token", plain(claims{"typ": "Offline"}), idp.ErrRejected},
		{"Cognito's ID token", plain(claims{"token_use": "id"}), idp.ErrRejected},
		{"no exp", typed(claims{"exp": nil}), idp.ErrRejected},
		{"exp a string", typed(claims{"exp": "1893456000"}), idp.ErrRejected},
		{"exp now", typed(claims{"exp": at(0)}), idp.ErrExpired},
		{"exp in a second", typed(claims{"exp": at(time.Second)}), nil},
		{"expired, and another aud", typed(claims{"exp": at(-time.Hour), "aud": "https://x.example"}), idp.ErrRejected},
		{"expired, and an ID token", plain(claims{"exp": at(-time.Hour), "nonce": "n"}), idp.ErrRejected},
		{"expired, and forged", func(f *fake) string {
			return f.at(claims{"kid": "rsa"}, claims{"exp": at(-time.Hour)})
		}, idp.ErrRejected},
		{"nbf zero: valid since ever", typed(claims{"nbf": 0}), nil},
		{"nbf in the future", typed(claims{"nbf": at(5 * time.Minute)}), idp.ErrRejected},
		{"nbf within the skew", typed(claims{"nbf": at(59 * time.Second)}), nil},
		{"iat in the future", typed(claims{"iat": at(5 * time.Minute)}), idp.ErrRejected},
		{"iat a string", typed(claims{"iat": "now"}), idp.ErrRejected},
		{"aud twice", func(f *fake) string {
			usual := string(must(json.Marshal(f.logoutClaims(claims{"events": nil, "scope": "x", "aud": api}))))
			return sign(jwt.SigningMethodES256, ecKey(), claims{"kid": "ec", "typ": "at+jwt"}, usual[:len(usual)-1]+`,"aud":"x"}`)
		}, idp.ErrRejected},
		{"oversize", typed(claims{"x": strings.Repeat("x", 100<<10)}), idp.ErrRejected},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			token := row.make(f)
			got, err := f.provider().VerifyAccessToken(context.Background(), token, []string{api, "https://other.example"})
			wantKind(t, err, row.want)
			if row.want != nil {
				if got.Subject != "" || got.Claims != nil {
					t.Errorf("%+v came with the error", got)
				}
				return
			}
			if got.Issuer != f.srv.URL || got.Subject != subject || !f.clock().Before(got.ExpiresAt) || !json.Valid(got.Claims) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestAccessTokenClaims(t *testing.T) {
	for _, row := range []struct {
		name        string
		over        map[string]any
		sid, client string
		scope       string
	}{
		{"all", nil, "provider-session", clientID, "read write"},
		{"azp, scp a string", map[string]any{"client_id": nil, "azp": "spa", "scope": nil, "scp": "read"}, "provider-session", "spa", "read"},
		{"scope a list", map[string]any{"scope": []string{"a", "b"}}, "provider-session", clientID, "a b"},
		{"nothing", map[string]any{"sid": nil, "client_id": nil, "scope": nil}, "", "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			got, err := f.provider().VerifyAccessToken(context.Background(), f.at(nil, row.over), []string{api})
			if err != nil || got.SessionID != row.sid || got.ClientID != row.client || got.Scope != row.scope ||
				!got.IssuedAt.Equal(start) || !got.ExpiresAt.Equal(start.Add(5*time.Minute)) {
				t.Errorf("got %+v, %v", got, err)
			}
			var c struct{ Roles []string }
			if json.Unmarshal(got.Claims, &c) != nil || len(c.Roles) != 1 {
				t.Errorf("claims %s", got.Claims)
			}
		})
	}
}

// No audience is nobody's, however the token puts it.
func TestAccessTokenWithoutAudience(t *testing.T) {
	f := newFake(t)
	for _, mine := range [][]string{nil, {}, {""}} {
		for _, aud := range []any{api, "", []string{}, []string{""}} {
			_, err := f.provider().VerifyAccessToken(context.Background(), f.at(nil, map[string]any{"aud": aud}), mine)
			wantKind(t, err, idp.ErrRejected)
		}
	}
}

// TestCrossFeed_ID10 gives each kind of token to each verifier, as alike as they
// can be made: one key, one issuer, one audience for all.
func TestCrossFeed_ID10(t *testing.T) {
	type claims = map[string]any
	const idToken, access, logout = "ID token", "access token", "logout token"
	make := func(f *fake, kind string, typ any, nonce string) string {
		h := claims{"kid": "rsa", "typ": typ}
		all := f.with(claims{"jti": "jti-1"})
		switch kind {
		case idToken:
			if nonce != "" {
				all["nonce"] = nonce
			}
		case access:
			all["scope"], all["client_id"] = "openid", clientID
			delete(all, "auth_time")
		case logout:
			all = f.logoutClaims(nil)
		}
		return sign(jwt.SigningMethodRS256, rsaKey(), h, all)
	}
	verifiers := map[string]func(f *fake, p *idp.Provider, nonce, token string) error{
		idToken: func(f *fake, p *idp.Provider, nonce, token string) error {
			tx := idp.NewTransaction()
			tx.Nonce = nonce
			f.grants(claims{"id_token": token})
			_, err := p.Exchange(context.Background(), "CODE-canary", tx)
			return err
		},
		access: func(f *fake, p *idp.Provider, nonce, token string) error {
			_, err := p.VerifyAccessToken(context.Background(), token, []string{clientID})
			return err
		},
		logout: func(f *fake, p *idp.Provider, nonce, token string) error {
			_, err := p.VerifyLogoutToken(context.Background(), token)
			return err
		},
	}
	nonce := idp.NewTransaction().Nonce
	for _, row := range []struct {
		kind  string
		typ   any
		nonce string
		taker string // "" nobody
	}{
		{idToken, "JWT", nonce, idToken},
		{idToken, nil, nonce, idToken},
		{idToken, "JWT", "", ""}, // as after a refresh
		{idToken, nil, "", ""},
		{access, "at+jwt", "", access},
		{access, "application/at+jwt", "", access},
		// Nothing but their word tells these from an ID token for this client.
		{access, "JWT", "", ""},
		{access, nil, "", ""},
		{logout, "logout+jwt", "", logout},
		{logout, "JWT", "", logout},
		{logout, nil, "", logout},
		// A token that says it is another.
		{idToken, "at+jwt", nonce, access}, // at+jwt is the provider's own word, and it signed for it
		{idToken, "logout+jwt", nonce, ""},
		{access, "logout+jwt", "", ""},
		{logout, "at+jwt", "", ""},
	} {
		for name, verify := range verifiers {
			typ, _ := row.typ.(string)
			t.Run(row.kind+" of typ "+typ+" as "+name, func(t *testing.T) {
				f := newFake(t)
				err := verify(f, f.provider(), nonce, make(f, row.kind, row.typ, row.nonce))
				if name == row.taker {
					wantKind(t, err, nil)
				} else {
					wantKind(t, err, idp.ErrRejected)
				}
			})
		}
	}
	// The other things that a provider hands out.
	for _, token := range []string{refreshToken, accessToken, clientSecret, "a.b.c", nonce} {
		for name, verify := range verifiers {
			f := newFake(t)
			if err := verify(f, f.provider(), nonce, token); err == nil {
				t.Errorf("%q does for an %s", token, name)
			}
		}
	}
}

func BenchmarkVerifyAccessToken(b *testing.B) {
	t := new(testing.T)
	f := newFake(t)
	defer f.srv.Close()
	tr := idp.NewTransport()
	defer tr.CloseIdleConnections()
	cfg := f.config()
	cfg.Transport = tr
	p := must(idp.New(cfg))
	token := f.at(nil, nil)
	for b.Loop() {
		if _, err := p.VerifyAccessToken(context.Background(), token, []string{api}); err != nil {
			b.Fatal(err)
		}
	}
}
