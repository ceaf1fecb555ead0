package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

const page = "http://localhost:8080"

var plain = &http.Client{
	Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// tokens logs alice in at the provider by hand.
func tokens(t *testing.T, p *gatewaytest.Provider) (access, id string) {
	t.Helper()
	c := p.Register(gatewaytest.Client{Auth: "client_secret_post", RedirectURIs: []string{page + "/cb"}})
	verifier := strings.Repeat("v", 43)
	sum := sha256.Sum256([]byte(verifier))
	resp, err := plain.Get(p.Issuer() + "/authorize?" + url.Values{
		"client_id": {c.ID}, "redirect_uri": c.RedirectURIs, "response_type": {"code"}, "scope": {"openid"},
		"state": {strings.Repeat("s", 16)}, "nonce": {strings.Repeat("n", 16)},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	back, err := resp.Location()
	if err != nil {
		t.Fatal(err)
	}
	resp, err = plain.PostForm(p.Issuer()+"/token", url.Values{
		"grant_type": {"authorization_code"}, "code": {back.Query().Get("code")}, "redirect_uri": c.RedirectURIs,
		"code_verifier": {verifier}, "client_id": {c.ID}, "client_secret": {c.Secret},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct {
		Access string `json:"access_token"`
		ID     string `json:"id_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || got.Access == "" {
		t.Fatalf("no tokens: %d %v", resp.StatusCode, err)
	}
	return got.Access, got.ID
}

func startTestAPI(t *testing.T, p *gatewaytest.Provider) *api {
	t.Helper()
	a, err := startAPI(context.Background(), apiOptions{issuer: p.Issuer(), origin: page, log: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	return a
}

func do(t *testing.T, method, url, body string, header ...string) (*http.Response, map[string]any) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := plain.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var m map[string]any
	_ = json.NewDecoder(resp.Body).Decode(&m)
	return resp, m
}

func TestAPIVerifies(t *testing.T) {
	p := gatewaytest.Start(t, gatewaytest.Options{Audience: audience, AutoLogin: gatewaytest.As("alice")})
	a := startTestAPI(t, p)
	good, id := tokens(t, p)
	for name, tc := range map[string]struct {
		change func(o *gatewaytest.Options)
		token  func(fresh string) string
		status int
	}{
		"good":           {func(*gatewaytest.Options) {}, func(s string) string { return s }, 200},
		"ID token":       {func(*gatewaytest.Options) {}, func(string) string { return id }, 401},
		"none":           {func(*gatewaytest.Options) {}, func(string) string { return "" }, 401},
		"tampered":       {func(*gatewaytest.Options) {}, func(string) string { return good[:len(good)-4] + "AAAA" }, 401},
		"other audience": {func(o *gatewaytest.Options) { o.Audience = "https://other.example" }, func(s string) string { return s }, 401},
		"expired":        {func(o *gatewaytest.Options) { o.AccessLife = -time.Second }, func(s string) string { return s }, 401},
		"no subject": {func(o *gatewaytest.Options) {
			o.EditAccessToken = func(_ gatewaytest.Request, c map[string]any) { delete(c, "sub") }
		}, func(s string) string { return s }, 401},
		"other issuer": {func(o *gatewaytest.Options) {
			o.EditAccessToken = func(_ gatewaytest.Request, c map[string]any) { c["iss"] = "https://evil.example" }
		}, func(s string) string { return s }, 401},
		"no end": {func(o *gatewaytest.Options) {
			o.EditAccessToken = func(_ gatewaytest.Request, c map[string]any) { delete(c, "exp") }
		}, func(s string) string { return s }, 401},
	} {
		t.Run(name, func(t *testing.T) {
			var before gatewaytest.Options
			p.Change(func(o *gatewaytest.Options) { before = *o; tc.change(o) })
			fresh, _ := tokens(t, p)
			p.Change(func(o *gatewaytest.Options) { *o = before })
			resp, body := do(t, "GET", a.upstream+"/api/hello", "", "Authorization", "Bearer "+tc.token(fresh))
			if resp.StatusCode != tc.status {
				t.Errorf("%d %v, want %d", resp.StatusCode, body, tc.status)
			}
			if tc.status == 200 && (body["subject"] != gatewaytest.SubjectOf("alice") || body["via"] != "gateway") {
				t.Errorf("%v", body)
			}
		})
	}
}

func TestAPILetsOnlyThePageIn(t *testing.T) {
	p := gatewaytest.Start(t, gatewaytest.Options{Audience: audience, AutoLogin: gatewaytest.As("alice")})
	a := startTestAPI(t, p)
	token, _ := tokens(t, p)
	for name, tc := range map[string]struct {
		base, method, origin string
		status               int
		allowed              bool
	}{
		"preflight of the page": {a.direct, "OPTIONS", page, 204, true},
		"preflight of another":  {a.direct, "OPTIONS", "http://localhost:8081", 405, false},
		"preflight by null":     {a.direct, "OPTIONS", "null", 405, false},
		"call of the page":      {a.direct, "GET", page, 200, true},
		"call of another":       {a.direct, "GET", "https://evil.example", 200, false}, // its page can't read it
		"call past the gateway": {a.upstream, "GET", page, 200, false},
	} {
		t.Run(name, func(t *testing.T) {
			resp, _ := do(t, tc.method, tc.base+"/api/hello", "", "Authorization", "Bearer "+token, "Origin", tc.origin)
			got := resp.Header.Get("Access-Control-Allow-Origin")
			if resp.StatusCode != tc.status || (got == page) != tc.allowed || (got != "") != tc.allowed {
				t.Errorf("%d, allowed %q", resp.StatusCode, got)
			}
			if resp.Header.Get("Access-Control-Allow-Credentials") != "" {
				t.Error("cookies are allowed along")
			}
		})
	}
}

func TestNotesAreTheSubjects(t *testing.T) {
	p := gatewaytest.Start(t, gatewaytest.Options{Audience: audience, AutoLogin: gatewaytest.As("alice")})
	a := startTestAPI(t, p)
	alice, _ := tokens(t, p)
	p.Change(func(o *gatewaytest.Options) { o.AutoLogin = gatewaytest.As("bob") })
	bob, _ := tokens(t, p)
	for body, status := range map[string]int{`{"text":"milk"}`: 201, `{"text":" "}`: 400, `nonsense`: 400, `{"text":"` + strings.Repeat("x", 201) + `"}`: 400} {
		if resp, _ := do(t, "POST", a.upstream+"/api/notes", body, "Authorization", "Bearer "+alice); resp.StatusCode != status {
			t.Errorf("%.20s: %d, want %d", body, resp.StatusCode, status)
		}
	}
	if _, m := do(t, "GET", a.direct+"/api/notes", "", "Authorization", "Bearer "+alice); len(m["notes"].([]any)) != 1 {
		t.Errorf("alice's: %v", m)
	}
	if _, m := do(t, "GET", a.direct+"/api/notes", "", "Authorization", "Bearer "+bob); len(m["notes"].([]any)) != 0 {
		t.Errorf("bob's: %v", m)
	}
	for range maxNotes + 5 {
		do(t, "POST", a.upstream+"/api/notes", `{"text":"more"}`, "Authorization", "Bearer "+alice)
	}
	if _, m := do(t, "GET", a.direct+"/api/notes", "", "Authorization", "Bearer "+alice); len(m["notes"].([]any)) != maxNotes {
		t.Errorf("%d notes are kept", len(m["notes"].([]any)))
	}
}
