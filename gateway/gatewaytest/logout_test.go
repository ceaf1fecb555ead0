package gatewaytest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// Signing out tells every client of the session, by its channels, and nobody
// else.
func TestNotify(t *testing.T) {
	r := start(t, Options{})
	var tokens []string
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		tokens = append(tokens, q.FormValue("logout_token"))
	}))
	defer app.Close()
	r.client.BackChannelLogoutURI, r.client.FrontChannelLogoutURI = app.URL, "https://app.example/front"
	r.client = r.Register(r.client)
	r.Register(Client{ID: "other", BackChannelLogoutURI: app.URL})
	r.Change(func(o *Options) { o.Notify = app.Client() })

	other, a := r.login(), r.login() // two sessions at the provider
	id, err := r.verify(a.str("id_token"), "JWT")
	if err != nil {
		t.Fatal(err)
	}
	sid := id["sid"].(string)
	resp, err := r.browser.Get(r.Issuer() + "/end_session?" + url.Values{
		"id_token_hint": {a.str("id_token")}, "post_logout_redirect_uri": {loggedOut}, "state": {"s-1"}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page, _ := io.ReadAll(resp.Body)

	if n := r.Notifications(); len(n) != 1 || n[0] != (Notified{r.client.ID, sid, 200}) {
		t.Fatalf("%v", n)
	}
	c, err := r.verify(tokens[0], "logout+jwt")
	if err != nil {
		t.Fatal(err)
	}
	if c["sid"] != sid || c["sub"] != SubjectOf("alice") || c["aud"] != r.client.ID || c["jti"] == "" || c["nonce"] != nil {
		t.Errorf("%v", c)
	}
	frame := "https://app.example/front?" + url.Values{"iss": {r.Issuer()}, "sid": {sid}}.Encode()
	if resp.StatusCode != 200 || !strings.Contains(string(page), strings.ReplaceAll(frame, "&", "&amp;")) || !strings.Contains(string(page), loggedOut+"?state=s-1") {
		t.Errorf("%d %s", resp.StatusCode, page)
	}
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "frame-src *") {
		t.Error(csp)
	}
	wantOutcomes(t, r, other.str("refresh_token"), "issued")
	app.CloseClientConnections()
}

func TestPasswordGrant(t *testing.T) {
	r := start(t, Options{Users: []User{{Username: "carol", Password: "correct horse"}, {Username: "dave"}}})
	try := func(name, password, scope string) answer {
		return r.post("/token", url.Values{"grant_type": {"password"}, "username": {name}, "password": {password}, "scope": {scope}})
	}
	wantError(t, try("carol", "correct horse", "openid"), 400, "unauthorized_client")
	r.client.PasswordGrant = true
	r.client = r.Register(r.client)
	for name, c := range map[string][2]string{"wrong": {"carol", "x"}, "none": {"carol", ""}, "has none": {"dave", ""}, "unknown": {"erin", "correct horse"}} {
		t.Run(name, func(t *testing.T) { wantError(t, try(c[0], c[1], "openid"), 400, "invalid_grant") })
	}
	a := try("carol", "correct horse", "openid profile")
	id, err := r.verify(a.str("id_token"), "JWT")
	if err != nil || id["sub"] != SubjectOf("carol") || id["nonce"] != nil {
		t.Fatalf("%v %v %v", a, id, err)
	}
	if again := r.refresh(a.str("refresh_token")); again.status != 200 {
		t.Errorf("%v", again)
	}
	if a := try("carol", "correct horse", "profile"); a.status != 200 || a.str("id_token") != "" {
		t.Errorf("an ID token that nobody asked for: %v", a)
	}
}
