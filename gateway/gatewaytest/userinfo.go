package gatewaytest

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// userInfo is OpenID Connect Core 5.3, with the access token as a bearer header.
func (x *exchange) userInfo() {
	if x.r.Method != http.MethodGet && x.r.Method != http.MethodPost {
		x.refuse(&oauthError{405, "invalid_request", "GET or POST only"})
		return
	}
	token, ok := strings.CutPrefix(x.r.Header.Get("Authorization"), "Bearer ")
	claims, err := x.p.verify(token, "at+jwt")
	var exp int64
	if f, ok := claims["exp"].(float64); ok {
		exp = int64(f)
	}
	name, _ := claims["family"].(string)
	x.p.mu.Lock()
	f := x.p.families[name]
	live := f != nil && !f.revoked
	x.p.mu.Unlock()
	if !ok || err != nil || x.opts.Now().Unix() >= exp || !live {
		x.header.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		x.json(http.StatusUnauthorized, map[string]string{"error": "invalid_token"})
		return
	}
	info := maps.Clone(f.user.Claims)
	info["sub"] = f.user.Subject
	if x.opts.EditUserInfo != nil {
		x.opts.EditUserInfo(info)
	}
	x.json(200, info)
}

// revoke is RFC 7009 for refresh tokens: the whole family goes, and with it
// what /userinfo gives for its access tokens.
func (x *exchange) revoke() {
	form, client, e := x.authenticated()
	if e != nil {
		x.refuse(e)
		return
	}
	x.Client = client.ID
	if form.Get("token") == "" {
		x.refuse(&oauthError{400, "invalid_request", "no token"})
		return
	}
	if _, err := x.p.verify(form.Get("token"), "at+jwt"); err == nil {
		x.refuse(&oauthError{400, "unsupported_token_type", "access tokens run out by themselves"})
		return
	}
	x.kind = KindRefresh
	x.identify(form.Get("token"))
	if !x.commit() {
		return
	}
	now := x.opts.Now()
	x.p.mu.Lock()
	defer x.p.mu.Unlock()
	// An unknown token is as good as revoked (§2.2).
	if t := x.p.refresh[form.Get("token")]; t != nil && t.family.client == client.ID {
		x.p.revokeFamily(t.family, x.Request, now)
	}
	x.header.Set("Cache-Control", "no-store")
}

// endSession is OpenID Connect RP-Initiated Logout 1.0. It ends the provider's
// session and every family that began in it.
func (x *exchange) endSession() {
	if err := x.r.ParseForm(); err != nil {
		x.page(http.StatusBadRequest, errorPage, "the request can't be read")
		return
	}
	form := x.r.Form
	if name := repeated(form); name != "" {
		x.page(http.StatusBadRequest, errorPage, name+" is there twice")
		return
	}
	var sid string
	var client Client
	if hint := form.Get("id_token_hint"); hint != "" {
		claims, err := x.p.verify(hint, "JWT") // its life does not matter
		if err != nil || claims["iss"] != x.opts.Issuer {
			x.page(http.StatusBadRequest, errorPage, "id_token_hint is not one of ours")
			return
		}
		sid, _ = claims["sid"].(string)
		aud, _ := claims["aud"].(string)
		x.p.mu.Lock()
		client = x.p.clients[aud]
		x.p.mu.Unlock()
		if id := form.Get("client_id"); id != "" && id != aud {
			x.page(http.StatusBadRequest, errorPage, "client_id is not the hint's")
			return
		}
	} else if x.r.Method != http.MethodPost || !form.Has("confirm") {
		x.page(http.StatusOK, signOutPage, "")
		return
	}
	to := form.Get("post_logout_redirect_uri")
	if to != "" && !slices.Contains(client.PostLogoutRedirectURIs, to) {
		x.page(http.StatusBadRequest, errorPage, "post_logout_redirect_uri is not registered")
		return
	}
	ended := x.signOut(sid)
	x.p.notify(ended)
	frames := x.frames(ended)
	q := url.Values{}
	if s := form.Get("state"); s != "" {
		q["state"] = []string{s}
	}
	switch {
	case to == "":
		x.signedOut(frames, "")
	case len(frames) > 0:
		x.signedOut(frames, withQuery(to, q))
	default:
		x.redirect(to, q)
	}
}

// signOut ends the browser's login, and the login that a hint named, and returns
// their sids.
func (x *exchange) signOut(sid string) map[string]bool {
	ended := map[string]bool{}
	if sid != "" {
		ended[sid] = true
	}
	if l, ok := x.loggedIn(); ok && (sid == "" || sid == l.sid) {
		ended[l.sid] = true
		x.cookie("", -1)
	}
	now := x.opts.Now()
	x.p.mu.Lock()
	defer x.p.mu.Unlock()
	maps.DeleteFunc(x.p.logins, func(_ string, l login) bool { return ended[l.sid] })
	for _, f := range x.p.families {
		if ended[f.sid] && !f.revoked {
			x.p.revokeFamily(f, x.Request, now)
		}
	}
	return ended
}
