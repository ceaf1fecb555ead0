package gatewaytest

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func TestRefreshRotates(t *testing.T) {
	r := start(t, Options{})
	first := r.login()
	second := r.refresh(first.str("refresh_token"))
	if second.status != 200 || second.str("refresh_token") == first.str("refresh_token") {
		t.Fatalf("%d %v", second.status, second.body)
	}
	wantOutcomes(t, r, first.str("refresh_token"), "issued redeemed")
	wantOutcomes(t, r, second.str("refresh_token"), "issued")
	if got := r.Redemptions(SubjectOf("alice")); len(got) != 1 || got[0].Request == 0 || got[0].Family != r.FamilyOf(second.str("refresh_token")) {
		t.Errorf("redemptions: %v", got)
	}
	if len(r.Redemptions(SubjectOf("bob"))) != 0 || len(r.Reuses()) != 0 {
		t.Error("the ledger has more than happened")
	}
	if got := r.Live(SubjectOf("alice")); !slices.Equal(got, []string{"rt-2"}) {
		t.Errorf("live: %v", got)
	}
}

func TestReuseRevokesTheFamily(t *testing.T) {
	r := start(t, Options{})
	first, other := r.login(), r.login()
	second := r.refresh(first.str("refresh_token"))
	third := r.refresh(second.str("refresh_token"))

	wantError(t, r.refresh(first.str("refresh_token")), 400, "invalid_grant")
	wantOutcomes(t, r, first.str("refresh_token"), "issued redeemed reuse")
	wantOutcomes(t, r, third.str("refresh_token"), "issued revoked")
	wantError(t, r.refresh(third.str("refresh_token")), 400, "invalid_grant")
	wantOutcomes(t, r, third.str("refresh_token"), "issued revoked rejected")
	if got := len(r.Reuses()); got != 1 {
		t.Errorf("%d reuses, want 1", got)
	}
	if a := r.refresh(other.str("refresh_token")); a.status != 200 {
		t.Errorf("another family's token: %d %v", a.status, a.body)
	}
	if a := r.userInfo(third.str("access_token")); a.status != 401 {
		t.Errorf("userinfo for a revoked family: %d", a.status)
	}
}

func TestParallelPresentationsAreReuse(t *testing.T) {
	r := start(t, Options{})
	rt := r.login().str("refresh_token")
	var wg sync.WaitGroup
	var mu sync.Mutex
	good := 0
	for range 20 {
		wg.Go(func() {
			if a := r.refresh(rt); a.status == 200 {
				mu.Lock()
				good++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if good != 1 || len(r.Reuses()) != 19 || len(r.Live("")) != 0 {
		t.Errorf("%d succeeded, %d reuses, live %v", good, len(r.Reuses()), r.Live(""))
	}
}

func TestRotationKinds(t *testing.T) {
	for name, tc := range map[string]struct {
		opts     Options
		answered string // the second answer's refresh token: new, same or none
		again    int    // status of a second presentation
		outcomes string
	}{
		"always":                {Options{}, "new", 400, "issued redeemed reuse"},
		"never":                 {Options{Rotation: RotateNever}, "none", 200, "issued redeemed repeated"},
		"repeat":                {Options{Rotation: RotateRepeat}, "same", 200, "issued redeemed repeated"},
		"within reuse interval": {Options{ReuseInterval: 10 * time.Second}, "new", 200, "issued redeemed repeated"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, tc.opts)
			rt := r.login().str("refresh_token")
			got := r.refresh(rt)
			kind := "new"
			switch got.str("refresh_token") {
			case rt:
				kind = "same"
			case "":
				kind = "none"
			}
			if kind != tc.answered {
				t.Errorf("the answer has %s, want %s", kind, tc.answered)
			}
			if a := r.refresh(rt); a.status != tc.again {
				t.Errorf("presented again: %d, want %d", a.status, tc.again)
			}
			wantOutcomes(t, r, rt, tc.outcomes)
		})
	}
}

func TestReuseIntervalEnds(t *testing.T) {
	r := start(t, Options{ReuseInterval: 10 * time.Second})
	rt := r.login().str("refresh_token")
	r.refresh(rt)
	r.clock.add(5 * time.Second)
	r.refresh(rt)
	r.clock.add(5 * time.Second) // the interval counts from the first redemption
	wantError(t, r.refresh(rt), 400, "invalid_grant")
	wantOutcomes(t, r, rt, "issued redeemed repeated reuse")
}

func TestRefreshRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(r *rig, rt string) answer
		code string
	}{
		"unknown": {func(r *rig, _ string) answer { return r.refresh("RTcanary-made-up") }, "invalid_grant"},
		"too old": {func(r *rig, rt string) answer {
			r.clock.add(time.Hour)
			return r.refresh(rt)
		}, "invalid_grant"},
		"another client's": {func(r *rig, rt string) answer {
			r.client = r.Register(Client{ID: "other"})
			return r.refresh(rt)
		}, "invalid_grant"},
		"account closed": {func(r *rig, rt string) answer {
			r.RevokeSubject(SubjectOf("alice"))
			return r.refresh(rt)
		}, "invalid_grant"},
		"wider scope": {func(r *rig, rt string) answer {
			return r.post("/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {rt}, "scope": {"openid admin"}})
		}, "invalid_scope"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, Options{RefreshLife: time.Hour})
			wantError(t, tc.do(r, r.login().str("refresh_token")), 400, tc.code)
			if got := r.Ledger(); got[len(got)-1].Outcome != Rejected || len(r.Reuses()) != 0 {
				t.Errorf("ledger ends %v", got[len(got)-1])
			}
		})
	}
}

func TestCodeWorksOnce(t *testing.T) {
	r := start(t, Options{})
	code := r.code()
	a := r.redeem(code)
	if a.status != 200 {
		t.Fatalf("%d %v", a.status, a.body)
	}
	wantError(t, r.redeem(code), 400, "invalid_grant")
	wantOutcomes(t, r, code, "issued redeemed reuse")
	wantOutcomes(t, r, a.str("refresh_token"), "issued revoked")
}

func TestCodeRefused(t *testing.T) {
	good := url.Values{"grant_type": {"authorization_code"}, "redirect_uri": {callback}, "code_verifier": {verifier}}
	for name, tc := range map[string]struct {
		change func(r *rig, form url.Values)
	}{
		"no verifier":      {func(_ *rig, f url.Values) { f.Del("code_verifier") }},
		"wrong verifier":   {func(_ *rig, f url.Values) { f.Set("code_verifier", strings.Repeat("x", 43)) }},
		"other redirect":   {func(_ *rig, f url.Values) { f.Set("redirect_uri", callback+"/") }},
		"no redirect":      {func(_ *rig, f url.Values) { f.Del("redirect_uri") }},
		"too old":          {func(r *rig, _ url.Values) { r.clock.add(codeLife) }},
		"another client's": {func(r *rig, _ url.Values) { r.client = r.Register(Client{ID: "other"}) }},
		"unknown":          {func(_ *rig, f url.Values) { f.Set("code", "CDcanary-made-up") }},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, Options{})
			form := maps.Clone(good)
			form.Set("code", r.code())
			tc.change(r, form)
			wantError(t, r.post("/token", form), 400, "invalid_grant")
		})
	}
}

func TestVerifierIsNotGuessedTwice(t *testing.T) {
	r := start(t, Options{})
	code := r.code()
	r.post("/token", url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback}, "code_verifier": {strings.Repeat("x", 43)}})
	wantError(t, r.redeem(code), 400, "invalid_grant")
}

func TestClientAuthentication(t *testing.T) {
	const id, secret = "app 1", "s+e/c:r%t é"
	basic := func(req *http.Request, id, secret string) {
		req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	}
	for name, tc := range map[string]struct {
		style  string
		change func(req *http.Request, form url.Values)
		status int
		code   string
	}{
		"basic":                  {"client_secret_basic", func(q *http.Request, _ url.Values) { basic(q, id, secret) }, 200, ""},
		"post":                   {"client_secret_post", func(_ *http.Request, f url.Values) { f.Set("client_id", id); f.Set("client_secret", secret) }, 200, ""},
		"basic for post":         {"client_secret_post", func(q *http.Request, _ url.Values) { basic(q, id, secret) }, 401, "invalid_client"},
		"post for basic":         {"client_secret_basic", func(_ *http.Request, f url.Values) { f.Set("client_id", id); f.Set("client_secret", secret) }, 401, "invalid_client"},
		"both":                   {"client_secret_basic", func(q *http.Request, f url.Values) { basic(q, id, secret); f.Set("client_secret", secret) }, 401, "invalid_client"},
		"basic, not encoded":     {"client_secret_basic", func(q *http.Request, _ url.Values) { q.SetBasicAuth(id, secret) }, 401, "invalid_client"},
		"basic, other client_id": {"client_secret_basic", func(q *http.Request, f url.Values) { basic(q, id, secret); f.Set("client_id", "x") }, 401, "invalid_client"},
		"wrong secret":           {"client_secret_basic", func(q *http.Request, _ url.Values) { basic(q, id, "x") }, 401, "invalid_client"},
		"unknown client":         {"client_secret_basic", func(q *http.Request, _ url.Values) { basic(q, "x", secret) }, 401, "invalid_client"},
		"none":                   {"client_secret_basic", func(*http.Request, url.Values) {}, 401, "invalid_client"},
		"query":                  {"client_secret_basic", func(q *http.Request, _ url.Values) { basic(q, id, secret); q.URL.RawQuery = "x=1" }, 400, "invalid_request"},
		"twice":                  {"client_secret_basic", func(q *http.Request, f url.Values) { basic(q, id, secret); f.Add("refresh_token", "x") }, 400, "invalid_request"},
		"not a form": {"client_secret_basic", func(q *http.Request, _ url.Values) {
			basic(q, id, secret)
			q.Header.Set("Content-Type", "application/json")
		}, 400, "invalid_request"},
		"GET":           {"client_secret_basic", func(q *http.Request, _ url.Values) { basic(q, id, secret); q.Method = "GET" }, 405, "invalid_request"},
		"unknown grant": {"client_secret_basic", func(q *http.Request, f url.Values) { basic(q, id, secret); f.Set("grant_type", "client_credentials") }, 400, "unsupported_grant_type"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, Options{})
			r.client = r.Register(Client{ID: id, Secret: secret, RedirectURIs: []string{callback}})
			rt := r.login().str("refresh_token")
			r.client.Auth = tc.style
			r.Register(r.client)

			form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {rt}}
			req, _ := http.NewRequest("POST", r.Issuer()+"/token", nil)
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			tc.change(req, form)
			body := form.Encode()
			full, _ := http.NewRequest(req.Method, req.URL.String(), strings.NewReader(body))
			full.Header = req.Header
			a := r.do(full)
			if tc.status == 200 {
				if a.status != 200 {
					t.Errorf("%d %v", a.status, a.body)
				}
				return
			}
			wantError(t, a, tc.status, tc.code)
			wantOutcomes(t, r, rt, "issued") // not a presentation
		})
	}
}

func TestTokensAreWhatTheySay(t *testing.T) {
	for _, alg := range []string{"ES256", "RS256"} {
		t.Run(alg, func(t *testing.T) {
			r := start(t, Options{Algorithm: alg, Audience: "https://api.test", AccessLife: 20 * time.Second, RefreshLife: time.Hour,
				Users: []User{{Username: "alice", Subject: "s-1", Claims: map[string]any{"roles": []string{"admin"}, "name": "Alice A."}}}})
			r.browser.Jar = nil
			a := r.login()
			if a.body["expires_in"] != 20.0 || a.body["refresh_expires_in"] != 3600.0 || a.str("token_type") != "Bearer" || a.header.Get("Cache-Control") != "no-store" {
				t.Errorf("answer: %v", a.body)
			}
			access, err := r.verify(a.str("access_token"), "at+jwt")
			if err != nil || access["iss"] != r.Issuer() || access["aud"] != "https://api.test" || access["sub"] != "s-1" || access["client_id"] != r.client.ID ||
				access["exp"].(float64)-access["iat"].(float64) != 20 {
				t.Errorf("access token: %v %v", access, err)
			}
			id, err := r.verify(a.str("id_token"), "JWT")
			if err != nil || id["aud"] != r.client.ID || id["nonce"] != "nonce-nonce-nonce-0" || id["at_hash"] != halfHash(a.str("access_token")) ||
				id["sid"] != access["sid"] || id["auth_time"] != 1_800_000_000.0 || id["name"] != "Alice A." || id["email"] != "alice@example.com" || id["picture"] == nil {
				t.Errorf("ID token: %v %v", id, err)
			}
			next, err := r.verify(r.refresh(a.str("refresh_token")).str("id_token"), "JWT")
			if err != nil || next["nonce"] != nil || next["sid"] != id["sid"] || next["auth_time"] != id["auth_time"] {
				t.Errorf("refreshed ID token: %v %v", next, err)
			}
			info := r.userInfo(a.str("access_token"))
			if info.status != 200 || info.str("sub") != "s-1" || info.str("name") != "Alice A." {
				t.Errorf("userinfo: %d %v", info.status, info.body)
			}
			r.clock.add(20 * time.Second)
			if info := r.userInfo(a.str("access_token")); info.status != 401 {
				t.Errorf("userinfo with an expired token: %d", info.status)
			}
			// The published key really is the one that signs.
			for _, tok := range []string{a.str("access_token"), a.str("id_token")} {
				if !slices.ContainsFunc(Canaries(), func(c string) bool { return strings.Contains(tok, c) }) {
					t.Error("a JWT has no canary that can be found in its text")
				}
			}
		})
	}
}

func TestDiscoveryAndKeys(t *testing.T) {
	r := start(t, Options{Algorithm: "RS256"})
	get := func(path string) map[string]any {
		req, _ := http.NewRequest("GET", r.Issuer()+path, nil)
		return r.do(req).body
	}
	doc := get("/.well-known/openid-configuration")
	if doc["issuer"] != r.Issuer() || doc["token_endpoint"] != r.Issuer()+"/token" || doc["authorization_response_iss_parameter_supported"] != true {
		t.Errorf("discovery: %v", doc)
	}
	kids := func() (ids []string) {
		for _, k := range get("/jwks")["keys"].([]any) {
			ids = append(ids, k.(map[string]any)["kid"].(string))
		}
		return ids
	}
	first := kids()
	r.Change(func(o *Options) { o.Algorithm = "ES256" })
	r.RotateKeys(true)
	second := kids()
	if len(second) != 2 || second[1] != first[0] {
		t.Errorf("kept: %v then %v", first, second)
	}
	r.RotateKeys(false)
	if third := kids(); len(third) != 1 || slices.Contains(second, third[0]) {
		t.Errorf("not kept: %v then %v", second, third)
	}
	header, _, _ := strings.Cut(r.login().str("access_token"), ".")
	raw, _ := base64.RawURLEncoding.DecodeString(header)
	var h map[string]string
	if json.Unmarshal(raw, &h) != nil || h["kid"] != kids()[0] || h["alg"] != "ES256" || h["typ"] != "at+jwt" {
		t.Errorf("header %s", raw)
	}
	if r.Requests(EndpointJWKS) != 4 || r.Requests(EndpointDiscovery) != 1 {
		t.Errorf("%d and %d requests counted", r.Requests(EndpointJWKS), r.Requests(EndpointDiscovery))
	}
}

func TestHooks(t *testing.T) {
	r := start(t, Options{
		EditIDToken:     func(_ Request, c map[string]any) { c["nonce"] = "wrong" },
		EditAccessToken: func(_ Request, c map[string]any) { c["aud"] = "elsewhere" },
		EditAnswer:      func(_ Request, a map[string]any) { delete(a, "expires_in"); a["token_type"] = "DPoP" },
		EditCallback:    func(q url.Values) { q.Set("iss", "https://evil.example") },
		EditUserInfo:    func(c map[string]any) { c["sub"] = "somebody" },
		EditDiscovery:   func(d map[string]any) { delete(d, "end_session_endpoint") },
	})
	_, q := r.authorize(r.authParams())
	if q.Get("iss") != "https://evil.example" {
		t.Errorf("callback: %v", q)
	}
	a := r.redeem(q.Get("code"))
	id, _ := r.verify(a.str("id_token"), "JWT")
	access, _ := r.verify(a.str("access_token"), "at+jwt")
	if _, told := a.body["expires_in"]; told || a.str("token_type") != "DPoP" || id["nonce"] != "wrong" || access["aud"] != "elsewhere" {
		t.Errorf("answer: %v %v %v", a.body, id, access)
	}
	if info := r.userInfo(a.str("access_token")); info.str("sub") != "somebody" {
		t.Errorf("userinfo: %v", info.body)
	}
	req, _ := http.NewRequest("GET", r.Issuer()+string(EndpointDiscovery), nil)
	if r.do(req).body["end_session_endpoint"] != nil {
		t.Error("discovery is unedited")
	}
}

func (r *rig) userInfo(access string) answer {
	req, _ := http.NewRequest("GET", r.Issuer()+"/userinfo", nil)
	req.Header.Set("Authorization", "Bearer "+access)
	return r.do(req)
}

// TestCanariesAreFound holds the encoded forms to what JWTs look like.
func TestCanariesAreFound(t *testing.T) {
	for shift := range 3 {
		s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"a": strings.Repeat("x", shift), "canary": accessCanary}).SignedString([]byte("k"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(Canaries(), func(c string) bool { return strings.Contains(s, c) }) {
			t.Errorf("shift %d: not found in %s", shift, s)
		}
	}
}
