package test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// verified is what a resource server reads out of a token.
type verified struct {
	Header map[string]any `json:"header"`
	Claims map[string]any `json:"claims"`
	Error  string         `json:"error"`
}

// byJose verifies tokens as npm's jose does, with the keys it finds at front.
func byJose(t *testing.T, front *rig.Front, audience string, tokens ...string) []verified {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "verify.mjs")
	cmd.Dir = filepath.Join(rig.Root(), "test", "provider")
	cmd.Env = append(cmd.Environ(), "JWKS="+front.URL+"/.well-known/jwks.json", "ISSUER="+rig.Origin, "AUDIENCE="+audience)
	cmd.Stdin = strings.NewReader(strings.Join(tokens, "\n") + "\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("verify.mjs: %v", err)
	}
	var found []verified
	for line := range strings.Lines(string(out)) {
		var v verified
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("verify.mjs says %q: %v", line, err)
		}
		found = append(found, v)
	}
	if len(found) != len(tokens) {
		t.Fatalf("verify.mjs answered %d times for %d tokens", len(found), len(tokens))
	}
	return found
}

// resourceServer is an API in Go that trusts the app's origin for its tokens, and
// knows nothing else of the gateway. It answers with the token's claims.
func resourceServer(t *testing.T, front *rig.Front, audience string) *httptest.Server {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	keys, err := keyfunc.NewDefaultCtx(ctx, []string{front.URL + "/.well-known/jwks.json"})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		token, err := jwt.Parse(bearer, keys.Keyfunc, jwt.WithValidMethods([]string{"ES256", "EdDSA", "RS256"}),
			jwt.WithIssuer(rig.Origin), jwt.WithAudience(audience), jwt.WithExpirationRequired())
		if err != nil || token.Header["typ"] != "at+jwt" {
			http.Error(w, fmt.Sprint(err), http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(verified{Header: token.Header, Claims: token.Claims.(jwt.MapClaims)})
	}))
	t.Cleanup(s.Close)
	return s
}

func byKeyfunc(t *testing.T, api *httptest.Server, token string) (v verified) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, api.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := bufio.NewReader(io.LimitReader(resp.Body, 1000)).ReadString('\n')
		return verified{Error: text}
	}
	decode(t, resp.Body, &v)
	return v
}

// Tokens that the gateway mints are good for resource servers that know the
// app's origin alone, by two libraries; while signing keys are replaced, too. The
// subject is another at another audience, and stays the same at one.
func TestMintedTokensForResourceServers(t *testing.T) {
	t.Parallel()
	const audience, another = "https://api.test", "https://reports.test"
	front := rig.NewFront(t)
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		mints(t, c)
		c.Set("apps.0.token.claims", []any{"email_verified"})
	}})
	front.Serve(w)
	old := w.Config["apps"].([]any)[0].(map[string]any)["token"].(map[string]any)["signing_keys"].([]any)[0]
	restart := func(keys ...any) {
		t.Helper()
		w.Config.Set("apps.0.token.signing_keys", keys)
		leaving := w.Gateways[0]
		w.Start().WaitReady()
		w.Gateways = w.Gateways[1:]
		if code := leaving.Terminate(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
	b := w.NewBrowser()
	b.Login("alice")
	sid := about(t, b).SID
	tokens := []string{accessToken(t, token(b))}
	mint := func() {
		t.Helper()
		tokens = append(tokens, accessToken(t, token(b)))
	}
	fetched := resourceServer(t, front, audience) // has the old key alone

	// The other algorithms come first in turn; nothing is forgotten meanwhile.
	eddsa, rs256 := signingKey(t, "EdDSA"), signingKey(t, "RS256")
	restart(old, eddsa)
	mint()
	restart(eddsa, old, rs256)
	mint()
	restart(rs256, eddsa, old)
	mint()

	var subject, sidThere any
	joses := byJose(t, front, audience, tokens...)
	for i, alg := range []string{"ES256", "ES256", "EdDSA", "RS256"} {
		for how, v := range map[string]verified{
			"jose":                      joses[i],
			"keyfunc, fetched now":      byKeyfunc(t, resourceServer(t, front, audience), tokens[i]),
			"keyfunc, fetched at first": byKeyfunc(t, fetched, tokens[i]),
		} {
			if v.Error != "" {
				t.Fatalf("token %d, %s: %s", i, how, v.Error)
			}
			if v.Header["alg"] != alg || v.Header["typ"] != "at+jwt" {
				t.Errorf("token %d, %s: the header is %v", i, how, v.Header)
			}
			if subject == nil {
				subject, sidThere = v.Claims["sub"], v.Claims["sid"]
			}
			if v.Claims["sub"] != subject || v.Claims["sid"] != sidThere || v.Claims["email_verified"] != true ||
				v.Claims["iss"] != rig.Origin || v.Claims["aud"] != audience || v.Claims["client_id"] == "" {
				t.Errorf("token %d, %s: the claims are %v", i, how, v.Claims)
			}
		}
	}
	if subject == gatewaytest.SubjectOf("alice") || sidThere == sid {
		t.Errorf("sub %v and sid %v tell who it is", subject, sidThere)
	}
	for how, v := range map[string]verified{
		"jose":    byJose(t, front, another, tokens[0])[0],
		"keyfunc": byKeyfunc(t, resourceServer(t, front, another), tokens[0]),
	} {
		if v.Error == "" {
			t.Errorf("%s: a token for %s is taken by %s", how, audience, another)
		}
	}
	parts := strings.Split(tokens[0], ".")
	if v := byJose(t, front, audience, parts[0]+"."+parts[1]+"."+strings.Split(tokens[1], ".")[2])[0]; v.Error == "" {
		t.Error("jose: another token's signature is taken")
	}

	// The same person, elsewhere; and at the first audience again.
	w.Config.Set("apps.0.token.audience", []any{another})
	restart(rs256)
	mint()
	there := byJose(t, front, another, tokens[len(tokens)-1])[0]
	if there.Error != "" || there.Claims["sub"] == subject || there.Claims["sub"] == nil || there.Claims["sid"] == sidThere {
		t.Errorf("at another audience: %s, the claims are %v", there.Error, there.Claims)
	}
	w.Config.Set("apps.0.token.audience", []any{audience, another})
	restart(rs256)
	mint()
	if v := byJose(t, front, audience, tokens[len(tokens)-1])[0]; v.Error != "" || v.Claims["sub"] != subject {
		t.Errorf("at the first audience again: %s, the claims are %v", v.Error, v.Claims)
	}
	// A key that has left the list takes its tokens along.
	if v := byJose(t, front, audience, tokens[0])[0]; v.Error == "" {
		t.Error("a token of a key that was removed is taken")
	}
}

// Where tokens and keys are to be found, and for how long they may be kept.
func TestPublishedKeys(t *testing.T) {
	t.Parallel()
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) { mints(t, c, "ES256", "RS256") }})
	get := func(path string, h http.Header) *rig.Response {
		t.Helper()
		return w.NewBrowser().Send(rig.Request{Path: path, Header: h})
	}
	r := get("/.well-known/openid-configuration", nil)
	var doc struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	r.JSON(t, &doc)
	if r.Status != http.StatusOK || doc.Issuer != rig.Origin || doc.JWKS != rig.Origin+"/.well-known/jwks.json" {
		t.Errorf("discovery: %d %+v", r.Status, doc)
	}
	r = get("/.well-known/jwks.json", nil)
	var set struct{ Keys []map[string]any }
	r.JSON(t, &set)
	if len(set.Keys) != 2 {
		t.Errorf("%d keys", len(set.Keys))
	}
	for _, k := range set.Keys {
		for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "k"} {
			if k[private] != nil {
				t.Errorf("the key set has the private member %q", private)
			}
		}
	}
	etag := r.Header.Get("ETag")
	if r.Header.Get("Cache-Control") != "public, max-age=300" || etag == "" || len(r.SetCookies) > 0 {
		t.Errorf("the key set's headers are %v", r.Header)
	}
	if again := get("/.well-known/jwks.json", http.Header{"If-None-Match": {etag}}); again.Status != http.StatusNotModified {
		t.Errorf("the key set that was there already: %d", again.Status)
	}
}
