package gatewaytest

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// loginCookie is the provider's own single sign-on. It has no __Host- prefix
// because the provider is served over plain http on a loopback address.
const loginCookie = "gatewaytest-login"

// login is somebody's session at the provider, in one browser.
type login struct {
	username string
	sid      string
	at       time.Time
}

// authRequest is a checked request to /authorize.
type authRequest struct {
	client    Client
	redirect  string
	state     string
	scope     string
	nonce     string
	challenge string
	prompt    []string
	maxAge    time.Duration // -1: not asked for
	hint      string
}

// authorize is the authorization endpoint (OpenID Connect Core 3.1.2, RFC 7636).
// The login page posts back to it with the same parameters and a username.
func (x *exchange) authorize() {
	if x.r.Method != http.MethodGet && x.r.Method != http.MethodPost {
		x.page(http.StatusMethodNotAllowed, errorPage, "GET or POST only")
		return
	}
	if err := x.r.ParseForm(); err != nil {
		x.page(http.StatusBadRequest, errorPage, "the request can't be read")
		return
	}
	form := x.r.Form
	client, redirect, why := x.trusted(form)
	if why != "" {
		// Never a redirect: the address is not known to be the client's.
		x.page(http.StatusBadRequest, errorPage, why)
		return
	}
	x.Client = client.ID
	ar, e := parseAuthRequest(form)
	ar.client, ar.redirect, ar.state = client, redirect, form.Get("state")
	if e != nil {
		x.back(ar, url.Values{"error": {e.code}, "error_description": {e.detail}})
		return
	}
	if form.Has("cancel") {
		x.back(ar, url.Values{"error": {"access_denied"}, "error_description": {"cancelled"}})
		return
	}
	who, ok := x.whoIsIt(ar)
	switch {
	case ok:
		x.back(ar, url.Values{"code": {x.issueCode(ar, who)}})
	case slices.Contains(ar.prompt, "none"):
		x.back(ar, url.Values{"error": {"login_required"}, "error_description": {"nobody is logged in"}})
	default:
		x.loginPage(ar, form)
	}
}

// trusted finds the client and holds the redirect_uri to it, letter by letter.
func (x *exchange) trusted(form url.Values) (c Client, redirect, why string) {
	if len(form["client_id"]) != 1 || len(form["redirect_uri"]) != 1 {
		return c, "", "client_id and redirect_uri must be there, once each"
	}
	x.p.mu.Lock()
	c, known := x.p.clients[form.Get("client_id")]
	x.p.mu.Unlock()
	if !known {
		return c, "", "no such client"
	}
	redirect = form.Get("redirect_uri")
	if !slices.Contains(c.RedirectURIs, redirect) {
		return c, "", "redirect_uri is not registered for this client"
	}
	return c, redirect, ""
}

func parseAuthRequest(form url.Values) (authRequest, *oauthError) {
	ar := authRequest{
		scope: form.Get("scope"), nonce: form.Get("nonce"), challenge: form.Get("code_challenge"),
		prompt: strings.Fields(form.Get("prompt")), maxAge: -1, hint: form.Get("login_hint"),
	}
	bad := func(why string) (authRequest, *oauthError) {
		return ar, &oauthError{400, "invalid_request", why}
	}
	if name := repeated(form); name != "" {
		return bad(name + " is there twice")
	}
	if form.Get("response_type") != "code" {
		return ar, &oauthError{400, "unsupported_response_type", "code only"}
	}
	if !slices.Contains(strings.Fields(ar.scope), "openid") {
		return ar, &oauthError{400, "invalid_scope", "openid is missing"}
	}
	if m := form.Get("response_mode"); m != "" && m != "query" {
		return bad("response_mode is query only")
	}
	if len(form.Get("state")) < 16 || len(ar.nonce) < 16 {
		return bad("state and nonce must be there, with 16 characters or more")
	}
	if form.Get("code_challenge_method") != "S256" || len(ar.challenge) != 43 {
		return bad("PKCE with S256 must be there")
	}
	if slices.Contains(ar.prompt, "none") && len(ar.prompt) > 1 {
		return bad("prompt=none stands alone")
	}
	if s := form.Get("max_age"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return bad("max_age is not a number of seconds")
		}
		ar.maxAge = time.Duration(n) * time.Second
	}
	return ar, nil
}

// whoIsIt decides whether a code can be issued now, and to whom.
func (x *exchange) whoIsIt(ar authRequest) (login, bool) {
	if x.r.Method == http.MethodPost {
		name := strings.ToLower(strings.TrimSpace(x.r.PostForm.Get("username")))
		if name == "" || len(name) > 64 {
			return login{}, false
		}
		return x.logIn(name), true
	}
	if x.opts.AutoLogin != nil {
		name := x.opts.AutoLogin(x.r)
		if name == "" {
			return login{}, false
		}
		return x.logIn(name), true
	}
	l, ok := x.loggedIn()
	if !ok || slices.Contains(ar.prompt, "login") || slices.Contains(ar.prompt, "select_account") ||
		ar.maxAge >= 0 && x.opts.Now().Sub(l.at) > ar.maxAge {
		return login{}, false
	}
	return l, true
}

func (x *exchange) loggedIn() (login, bool) {
	c, err := x.r.Cookie(loginCookie)
	if err != nil {
		return login{}, false
	}
	x.p.mu.Lock()
	defer x.p.mu.Unlock()
	l, ok := x.p.logins[c.Value]
	return l, ok
}

func (x *exchange) logIn(username string) login {
	l := login{username: username, sid: "op-" + randomText()[:16], at: x.opts.Now()}
	value := randomText()
	x.p.mu.Lock()
	x.p.logins[value] = l
	x.p.mu.Unlock()
	x.cookie(value, 0)
	return l
}

func (x *exchange) cookie(value string, maxAge int) {
	x.header.Add("Set-Cookie", (&http.Cookie{Name: loginCookie, Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, SameSite: http.SameSiteLaxMode}).String())
}

// issueCode begins a family.
func (x *exchange) issueCode(ar authRequest, who login) string {
	now, user := x.opts.Now(), x.p.user(who.username, x.opts.Issuer)
	x.p.mu.Lock()
	defer x.p.mu.Unlock()
	f := &family{name: fmt.Sprintf("family-%d", len(x.p.families)+1), client: ar.client.ID, user: user,
		scope: ar.scope, sid: who.sid, authTime: who.at}
	x.p.families[f.name] = f
	value := codeCanary + randomText()
	c := &grantCode{name: fmt.Sprintf("code-%d", len(x.p.codes)+1), family: f, redirect: ar.redirect,
		challenge: ar.challenge, nonce: ar.nonce, expires: now.Add(codeLife)}
	x.p.codes[value] = c
	x.p.write(Entry{Request: x.N, At: now, Endpoint: x.Endpoint, Kind: KindCode, Token: c.name,
		Family: f.name, Subject: user.Subject, Client: f.client, Outcome: Issued})
	return value
}

// back sends the browser to the client, with state and iss (RFC 9207).
func (x *exchange) back(ar authRequest, q url.Values) {
	q.Set("iss", x.opts.Issuer)
	if ar.state != "" {
		q.Set("state", ar.state)
	}
	if x.opts.EditCallback != nil {
		x.opts.EditCallback(q)
	}
	x.redirect(ar.redirect, q)
}

func (x *exchange) redirect(to string, q url.Values) {
	x.header.Set("Location", withQuery(to, q))
	x.header.Set("Cache-Control", "no-store")
	x.header.Set("Referrer-Policy", "no-referrer")
	x.status = http.StatusSeeOther
}

func withQuery(to string, q url.Values) string {
	if len(q) == 0 {
		return to
	}
	if strings.Contains(to, "?") {
		return to + "&" + q.Encode()
	}
	return to + "?" + q.Encode()
}
