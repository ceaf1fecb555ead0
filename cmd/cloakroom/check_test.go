package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/gateway/idp"
)

// AZ-2, AZ-9: an operator hears of a provider that won't do, before people do.
func TestCheckAsksProviders(t *testing.T) {
	more := ""
	var provider *httptest.Server
	provider = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(strings.ReplaceAll(`{"issuer":"$","authorization_endpoint":"$/a","token_endpoint":"$/t","jwks_uri":"$/k"`+more+`}`, "$", provider.URL)))
	}))
	defer provider.Close()
	for _, row := range []struct{ name, more, want string }{
		{"good", `,"code_challenge_methods_supported":["S256"]`, "ok"},
		{"no PKCE", ``, "ok, warning"},
		{"pushed requests", `,"code_challenge_methods_supported":["S256"],"require_pushed_authorization_requests":true`, "ok, warning"},
		{"not our client authentication", `,"code_challenge_methods_supported":["S256"],"token_endpoint_auth_methods_supported":["private_key_jwt"]`, "ok, warning"},
		{"an issuer twice", `,"issuer":"https://id.example"`, "failed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			more = row.more
			transport := idp.NewTransport()
			defer transport.CloseIdleConnections()
			p, err := idp.New(idp.Config{
				Issuer: provider.URL, ClientID: "shop", ClientSecret: "s", ClientAuth: idp.ClientSecretBasic,
				RedirectURI: "https://shop.example/bff/callback", Scopes: []string{"openid"}, Transport: transport,
			})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range askProviders([]appProvider{{"shop", p}}) {
				if got = append(got, f.Status); f.Subject != "provider of shop" || f.Detail == "" {
					t.Errorf("%+v", f)
				}
			}
			if s := strings.Join(got, ", "); s != row.want {
				t.Errorf("%s, want %s", s, row.want)
			}
		})
	}
}
