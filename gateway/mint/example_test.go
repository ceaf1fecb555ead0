package mint_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"

	"github.com/cloakroom/cloakroom/gateway/mint"
)

// accessClaims are those of a minted token that the example looks at.
type accessClaims struct {
	jwt.RegisteredClaims
	ClientID string   `json:"client_id"`
	SID      string   `json:"sid"`
	Scope    string   `json:"scope"`
	Roles    []string `json:"roles"` // chosen by token.claims
}

// Validate is called by the library after its own checks.
func (c accessClaims) Validate() error {
	if c.Subject == "" || c.SID == "" || c.IssuedAt == nil {
		return errors.New("not a token of the gateway's")
	}
	return nil
}

type verifier struct {
	keys   jwt.Keyfunc
	parser *jwt.Parser
}

// newVerifier fetches the keys of issuer and keeps them fresh until ctx is done.
func newVerifier(ctx context.Context, issuer, audience string) (*verifier, error) {
	k, err := keyfunc.NewDefaultCtx(ctx, []string{issuer + "/.well-known/jwks.json"})
	if err != nil {
		return nil, err
	}
	return &verifier{keys: k.Keyfunc, parser: jwt.NewParser(
		jwt.WithValidMethods([]string{"ES256", "EdDSA", "RS256"}), // or the one you use
		jwt.WithIssuer(issuer),
		jwt.WithAudience(audience),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithStrictDecoding(),
		jwt.WithLeeway(5*time.Second),
	)}, nil
}

func (v *verifier) verify(r *http.Request) (*accessClaims, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil, errors.New("no bearer token")
	}
	var c accessClaims
	t, err := v.parser.ParseWithClaims(token, &c, v.keys)
	if err != nil {
		return nil, err
	}
	// An ID token of the same issuer must not do (RFC 9068 section 4).
	if typ, _ := t.Header["typ"].(string); !strings.EqualFold(strings.TrimPrefix(typ, "application/"), "at+jwt") {
		return nil, errors.New("not an access token")
	}
	return &c, nil
}

// protect lets callers in who have a role.
func (v *verifier) protect(role string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := v.verify(r)
		if err != nil {
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		if !slices.Contains(c.Roles, role) {
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// A resource server in Go: golang-jwt and keyfunc verify what the gateway minted.
func Example_resourceServer() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	// The gateway, as far as a resource server sees it.
	published := http.NewServeMux()
	gateway := httptest.NewServer(published)
	defer gateway.Close()
	const audience = "https://api.example"
	pem, _ := mint.NewSigningKeyPEM(mint.ES256)
	key, _ := mint.ParseSigningKey(pem)
	issuer, err := mint.New(mint.Config{
		Issuer: gateway.URL, ClientID: "shop-gateway", Audience: []string{audience}, Lifetime: 5 * time.Minute,
		Keys: []mint.SigningKey{key}, PairwiseKey: mint.PairwiseKey(strings.Repeat("pairwise", 4)),
		Claims: []string{"roles"}, SIDKeys: sidKeys("now"),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	published.Handle(mint.JWKSPath, issuer.JWKS())

	v, err := newVerifier(ctx, gateway.URL, audience)
	if err != nil {
		fmt.Println(err)
		return
	}
	api := v.protect("buyer", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "orders") }))

	call := func(authorization string) int {
		r := httptest.NewRequest("GET", "/orders", nil)
		r.Header.Set("Authorization", authorization)
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		return w.Code
	}
	token := func(claims string) string {
		t, _, err := issuer.Mint(mint.Grant{
			SID: [16]byte{1}, Subject: "alice", Issuer: "https://id.example", ClaimsJSON: []byte(claims), NotAfter: time.Now().Add(time.Hour),
		})
		if err != nil {
			fmt.Println(err)
		}
		return "Bearer " + string(t)
	}
	good := token(`{"roles":["buyer"]}`)
	fmt.Println(call(good))
	fmt.Println(call(token(`{"roles":["guest"]}`)))
	fmt.Println(call(good[:len(good)-4] + "AAAA"))
	fmt.Println(call("Basic YTpi"))
	// Output:
	// 200
	// 403
	// 401
	// 401
}
