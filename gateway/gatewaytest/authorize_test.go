package gatewaytest

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func nobody(*http.Request) string { return "" }

func TestAuthorizeStrictness(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(q url.Values)
		status int
		code   string
	}{
		"fine":                   {func(url.Values) {}, 303, ""},
		"unknown client":         {func(q url.Values) { q.Set("client_id", "x") }, 400, ""},
		"redirect with a slash":  {func(q url.Values) { q.Set("redirect_uri", callback+"/") }, 400, ""},
		"redirect with a query":  {func(q url.Values) { q.Set("redirect_uri", callback+"?a=b") }, 400, ""},
		"redirect elsewhere":     {func(q url.Values) { q.Set("redirect_uri", "https://evil.example") }, 400, ""},
		"redirect twice":         {func(q url.Values) { q.Add("redirect_uri", callback) }, 400, ""},
		"no redirect":            {func(q url.Values) { q.Del("redirect_uri") }, 400, ""},
		"implicit":               {func(q url.Values) { q.Set("response_type", "id_token") }, 303, "unsupported_response_type"},
		"no openid":              {func(q url.Values) { q.Set("scope", "profile") }, 303, "invalid_scope"},
		"no state":               {func(q url.Values) { q.Del("state") }, 303, "invalid_request"},
		"no nonce":               {func(q url.Values) { q.Del("nonce") }, 303, "invalid_request"},
		"nonce twice":            {func(q url.Values) { q.Add("nonce", "x") }, 303, "invalid_request"},
		"no PKCE":                {func(q url.Values) { q.Del("code_challenge"); q.Del("code_challenge_method") }, 303, "invalid_request"},
		"plain PKCE":             {func(q url.Values) { q.Set("code_challenge_method", "plain") }, 303, "invalid_request"},
		"short challenge":        {func(q url.Values) { q.Set("code_challenge", "abc") }, 303, "invalid_request"},
		"prompt none with login": {func(q url.Values) { q.Set("prompt", "none login") }, 303, "invalid_request"},
		"bad max_age":            {func(q url.Values) { q.Set("max_age", "-1") }, 303, "invalid_request"},
		"cancelled":              {func(q url.Values) { q.Set("cancel", "1") }, 303, "access_denied"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, Options{})
			q := r.authParams()
			tc.change(q)
			status, got := r.authorize(q)
			if status != tc.status || got.Get("error") != tc.code {
				t.Fatalf("%d %v, want %d %s", status, got, tc.status, tc.code)
			}
			if status == 303 && (got.Get("iss") != r.Issuer() || got.Get("state") != q.Get("state")) {
				t.Errorf("sent back %v", got)
			}
			if has := got.Has("code"); has != (name == "fine") || has != (len(r.Ledger()) == 1) {
				t.Errorf("sent back %v, ledger %v", got, r.Ledger())
			}
		})
	}
}

func TestLoginPage(t *testing.T) {
	r := start(t, Options{AutoLogin: nobody})
	q := r.authParams()
	q.Set("login_hint", `b"><o>b`)
	resp, err := r.browser.Get(r.Issuer() + "/authorize?" + q.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 || !strings.Contains(string(page), `value="b&#34;&gt;&lt;o&gt;b"`) || strings.Contains(string(page), "<o>") {
		t.Errorf("page %d %s", resp.StatusCode, page)
	}
	post := func(add url.Values) (int, url.Values) {
		form := r.authParams()
		for k, v := range add {
			form[k] = v
		}
		resp, err := r.browser.PostForm(r.Issuer()+"/authorize", form)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		loc, err := resp.Location()
		if err != nil {
			return resp.StatusCode, nil
		}
		return resp.StatusCode, loc.Query()
	}
	if status, _ := post(url.Values{"username": {" "}}); status != 200 {
		t.Errorf("no name: %d", status)
	}
	if _, got := post(url.Values{"username": {""}, "cancel": {"1"}}); got.Get("error") != "access_denied" {
		t.Errorf("cancelled: %v", got)
	}
	status, got := post(url.Values{"username": {"Émile"}, "password": {"anything"}})
	if status != 303 || got.Get("code") == "" {
		t.Fatalf("%d %v", status, got)
	}
	a := r.redeem(got.Get("code"))
	id, err := r.verify(a.str("id_token"), "JWT")
	if err != nil || id["sub"] != "sub-émile" || id["name"] != "Émile" {
		t.Errorf("ID token %v %v", id, err)
	}
}

func TestSingleSignOn(t *testing.T) {
	r := start(t, Options{})
	r.Change(func(o *Options) { o.AutoLogin = nil })
	silent := r.authParams()
	silent.Set("prompt", "none")
	if _, got := r.authorize(silent); got.Get("error") != "login_required" {
		t.Errorf("prompt=none before the login: %v", got)
	}
	if _, err := r.browser.PostForm(r.Issuer()+"/authorize", merge(r.authParams(), url.Values{"username": {"bob"}})); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		add    url.Values
		status int
	}{
		"again":          {nil, 303},
		"prompt=none":    {url.Values{"prompt": {"none"}}, 303},
		"prompt=login":   {url.Values{"prompt": {"login"}}, 200},
		"select_account": {url.Values{"prompt": {"select_account"}}, 200},
		"young enough":   {url.Values{"max_age": {"60"}}, 303},
	} {
		if status, got := r.authorize(merge(r.authParams(), tc.add)); status != tc.status || got.Has("code") != (status == 303) {
			t.Errorf("%s: %d %v, want %d", name, status, got, tc.status)
		}
	}
	r.clock.add(2 * time.Minute)
	if status, _ := r.authorize(merge(r.authParams(), url.Values{"max_age": {"60"}})); status != 200 {
		t.Errorf("max_age passed: %d, want the page", status)
	}
}

func merge(a, b url.Values) url.Values {
	for k, v := range b {
		a[k] = v
	}
	return a
}

func TestLoginHintAutoLogin(t *testing.T) {
	r := start(t, Options{AutoLogin: As("alice")})
	_, got := r.authorize(merge(r.authParams(), url.Values{"login_hint": {"bob"}}))
	r.redeem(got.Get("code"))
	if len(r.Live(SubjectOf("bob"))) != 1 {
		t.Errorf("ledger %v", r.Ledger())
	}
}

func TestEndSession(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(r *rig, q url.Values)
		status int
		ends   bool
	}{
		"to the app":        {func(*rig, url.Values) {}, 303, true},
		"nowhere":           {func(_ *rig, q url.Values) { q.Del("post_logout_redirect_uri") }, 200, true},
		"not registered":    {func(_ *rig, q url.Values) { q.Set("post_logout_redirect_uri", loggedOut+"/") }, 400, false},
		"not ours":          {func(_ *rig, q url.Values) { q.Set("id_token_hint", "a.b.c") }, 400, false},
		"hint is an access": {func(r *rig, q url.Values) { q.Set("id_token_hint", r.login().str("access_token")) }, 400, false},
		"other client":      {func(_ *rig, q url.Values) { q.Set("client_id", "x") }, 400, false},
		"no hint":           {func(_ *rig, q url.Values) { q.Del("id_token_hint") }, 200, false},
		"hint is old": {func(r *rig, _ url.Values) {
			r.clock.add(time.Hour)
			r.RotateKeys(false)
		}, 303, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, Options{})
			a := r.login()
			q := url.Values{"id_token_hint": {a.str("id_token")}, "post_logout_redirect_uri": {loggedOut}, "state": {"s-1"}}
			tc.change(r, q)
			resp, err := r.browser.Get(r.Issuer() + "/end_session?" + q.Encode())
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != tc.status {
				t.Errorf("%d, want %d", resp.StatusCode, tc.status)
			}
			if resp.StatusCode == 303 && resp.Header.Get("Location") != loggedOut+"?state=s-1" {
				t.Errorf("sent to %s", resp.Header.Get("Location"))
			}
			if ended := strings.HasSuffix(r.outcomes(a.str("refresh_token")), "revoked"); ended != tc.ends {
				t.Errorf("ended: %v, want %v", ended, tc.ends)
			}
			r.Change(func(o *Options) { o.AutoLogin = nil })
			_, got := r.authorize(merge(r.authParams(), url.Values{"prompt": {"none"}}))
			if loggedOut := got.Get("error") == "login_required"; loggedOut != tc.ends {
				t.Errorf("logged out at the provider: %v, want %v", loggedOut, tc.ends)
			}
		})
	}
}

func TestConfirmedSignOut(t *testing.T) {
	r := start(t, Options{})
	rt := r.login().str("refresh_token")
	resp, err := r.browser.PostForm(r.Issuer()+"/end_session", url.Values{"confirm": {"1"}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	wantOutcomes(t, r, rt, "issued revoked")
}

func TestRevoke(t *testing.T) {
	for name, tc := range map[string]struct {
		token  func(r *rig, a answer) string
		status int
		ends   bool
	}{
		"current":      {func(_ *rig, a answer) string { return a.str("refresh_token") }, 200, true},
		"unknown":      {func(*rig, answer) string { return "nonsense" }, 200, false},
		"access token": {func(_ *rig, a answer) string { return a.str("access_token") }, 400, false},
		"none":         {func(*rig, answer) string { return "" }, 400, false},
		"another client": {func(r *rig, a answer) string {
			r.client = r.Register(Client{ID: "other"})
			return a.str("refresh_token")
		}, 200, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, Options{})
			a := r.login()
			got := r.post("/revoke", url.Values{"token": {tc.token(r, a)}, "token_type_hint": {"refresh_token"}})
			if got.status != tc.status {
				t.Errorf("%d %v, want %d", got.status, got.body, tc.status)
			}
			if ended := len(r.Live("")) == 0; ended != tc.ends {
				t.Errorf("ended: %v, want %v", ended, tc.ends)
			}
		})
	}
	r := start(t, Options{})
	first := r.login().str("refresh_token")
	second := r.refresh(first).str("refresh_token")
	r.post("/revoke", url.Values{"token": {first}})
	wantOutcomes(t, r, second, "issued revoked")
}

func TestPicture(t *testing.T) {
	r := start(t, Options{})
	resp, err := r.browser.Get(r.Issuer() + "/picture/%3Cx.svg")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.Header.Get("Content-Type") != "image/svg+xml" || !strings.Contains(string(body), ">&lt;</text>") {
		t.Errorf("%v %s", resp.Header, body)
	}
}
