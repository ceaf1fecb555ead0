package gatewaytest

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// codeLife is how long a code can be redeemed.
const codeLife = time.Minute

// family is one login at one client, and all that descends from it.
type family struct {
	name     string
	client   string
	user     User
	scope    string
	sid      string // the provider's session
	authTime time.Time
	revoked  bool
}

type grantCode struct {
	name      string
	family    *family
	redirect  string
	challenge string
	nonce     string
	expires   time.Time
	spent     bool
}

type refreshToken struct {
	name    string
	value   string
	family  *family
	expires time.Time // zero: never
	spentAt time.Time // zero: unspent
}

func (t *refreshToken) usable(now time.Time) bool {
	return !t.family.revoked && t.spentAt.IsZero() && (t.expires.IsZero() || now.Before(t.expires))
}

// token is the token endpoint (RFC 6749 §3.2).
func (x *exchange) token() {
	form, client, e := x.authenticated()
	if e != nil {
		x.refuse(e)
		return
	}
	x.Grant, x.Client = form.Get("grant_type"), client.ID
	var shown string
	switch x.Grant {
	case "authorization_code":
		x.kind, shown = KindCode, form.Get("code")
	case "refresh_token":
		x.kind, shown = KindRefresh, form.Get("refresh_token")
	case "password":
	default:
		x.refuse(&oauthError{400, "unsupported_grant_type", "authorization_code, refresh_token or password"})
		return
	}
	x.identify(shown)
	if !x.commit() {
		return
	}
	var g grant
	switch x.kind {
	case KindCode:
		g, e = x.redeemCode(shown, form)
	case KindRefresh:
		g, e = x.redeemRefresh(shown, form)
	default:
		g, e = x.grantPassword(form, client)
	}
	if e != nil {
		x.refuse(e)
		return
	}
	x.json(200, x.tokens(g))
}

// identify notes whose token was shown, if anybody's.
func (x *exchange) identify(shown string) {
	x.p.mu.Lock()
	defer x.p.mu.Unlock()
	if c := x.p.codes[shown]; x.kind == KindCode && c != nil {
		x.Token, x.Subject = c.name, c.family.user.Subject
	}
	if t := x.p.refresh[shown]; x.kind == KindRefresh && t != nil {
		x.Token, x.Subject = t.name, t.family.user.Subject
	}
}

// grant is what a redemption gives.
type grant struct {
	family  *family
	scope   string
	nonce   string // of a code
	refresh string // "" if the answer carries none
}

func (x *exchange) redeemCode(shown string, form url.Values) (grant, *oauthError) {
	now := x.opts.Now()
	x.p.mu.Lock()
	defer x.p.mu.Unlock()
	c := x.p.codes[shown]
	reject := func(why string) (grant, *oauthError) {
		x.noteLocked(Rejected)
		return grant{}, &oauthError{400, "invalid_grant", why}
	}
	switch {
	case c == nil:
		return reject("no such code")
	case c.family.client != x.Client:
		return reject("another client's code")
	case c.spent:
		x.noteLocked(Reuse)
		x.p.revokeFamily(c.family, x.Request, now)
		return grant{}, &oauthError{400, "invalid_grant", "the code was used before"}
	}
	// One attempt, good or bad: a verifier must not be guessed at.
	c.spent = true
	sum := sha256.Sum256([]byte(form.Get("code_verifier")))
	switch {
	case !now.Before(c.expires):
		return reject("the code is too old")
	case form.Get("redirect_uri") != c.redirect:
		return reject("another redirect_uri")
	case len(form.Get("code_verifier")) < 43 || base64.RawURLEncoding.EncodeToString(sum[:]) != c.challenge:
		return reject("the code_verifier does not fit")
	case c.family.revoked:
		return reject("revoked")
	}
	x.noteLocked(Redeemed)
	g := grant{family: c.family, scope: c.family.scope, nonce: c.nonce}
	if !x.opts.NoRefresh {
		g.refresh = x.issueRefresh(c.family, now)
	}
	return g, nil
}

func (x *exchange) redeemRefresh(shown string, form url.Values) (grant, *oauthError) {
	now := x.opts.Now()
	x.p.mu.Lock()
	defer x.p.mu.Unlock()
	t := x.p.refresh[shown]
	reject := func(code, why string) (grant, *oauthError) {
		x.noteLocked(Rejected)
		return grant{}, &oauthError{400, code, why}
	}
	switch {
	case t == nil:
		return reject("invalid_grant", "no such refresh token")
	case t.family.client != x.Client:
		return reject("invalid_grant", "another client's refresh token")
	}
	inInterval := !t.spentAt.IsZero() && now.Sub(t.spentAt) < x.opts.ReuseInterval && !t.family.revoked
	switch {
	case !t.spentAt.IsZero() && !inInterval:
		x.noteLocked(Reuse)
		x.p.revokeFamily(t.family, x.Request, now)
		return grant{}, &oauthError{400, "invalid_grant", "the refresh token was used before"}
	case t.family.revoked:
		return reject("invalid_grant", "revoked")
	case !t.expires.IsZero() && !now.Before(t.expires):
		return reject("invalid_grant", "the refresh token is too old")
	}
	g := grant{family: t.family, scope: t.family.scope}
	if s := form.Get("scope"); s != "" {
		for _, want := range strings.Fields(s) {
			if !slices.Contains(strings.Fields(t.family.scope), want) {
				return reject("invalid_scope", "more than was granted")
			}
		}
		g.scope = s
	}
	before := slices.ContainsFunc(x.p.ledger, func(e Entry) bool { return e.Token == t.name && e.Outcome == Redeemed })
	if before {
		x.noteLocked(Repeated)
	} else {
		x.noteLocked(Redeemed)
	}
	switch x.opts.Rotation {
	case RotateNever:
	case RotateRepeat:
		g.refresh = t.value
	default:
		if t.spentAt.IsZero() {
			t.spentAt = now
		}
		g.refresh = x.issueRefresh(t.family, now)
	}
	return g, nil
}

// issueRefresh makes a refresh token for what was presented; p.mu is held.
func (x *exchange) issueRefresh(f *family, now time.Time) string {
	t := &refreshToken{
		name:   fmt.Sprintf("rt-%d", len(x.p.refresh)+1),
		value:  refreshCanary + randomText(),
		family: f,
	}
	if x.opts.RefreshLife > 0 {
		t.expires = now.Add(x.opts.RefreshLife)
	}
	x.p.refresh[t.value] = t
	x.p.write(Entry{Request: x.N, At: now, Endpoint: x.Endpoint, Kind: KindRefresh, Token: t.name, Parent: x.Token,
		Family: f.name, Subject: f.user.Subject, Client: f.client, Outcome: Issued})
	return t.value
}

// revokeFamily ends a family, with an entry for each token that still worked; p.mu is held.
func (p *Provider) revokeFamily(f *family, r Request, now time.Time) {
	var names []string
	for _, t := range p.refresh {
		if t.family == f && t.usable(now) {
			names = append(names, t.name)
		}
	}
	slices.Sort(names)
	f.revoked = true
	for _, name := range names {
		p.write(Entry{Request: r.N, At: now, Endpoint: r.Endpoint, Kind: KindRefresh, Token: name,
			Family: f.name, Subject: f.user.Subject, Client: f.client, Outcome: Revoked})
	}
}

// tokens is a good answer (RFC 6749 §5.1, OpenID Connect Core 3.1.3.3 and 12.2).
func (x *exchange) tokens(g grant) map[string]any {
	now, f := x.opts.Now().Truncate(time.Second), g.family
	access := map[string]any{
		"iss": x.opts.Issuer, "sub": f.user.Subject, "aud": x.opts.Audience, "client_id": f.client,
		"iat": now.Unix(), "exp": now.Add(x.opts.AccessLife).Unix(), "jti": randomText(),
		"scope": g.scope, "sid": f.sid, "family": f.name, "canary": accessCanary,
	}
	if x.opts.EditAccessToken != nil {
		x.opts.EditAccessToken(x.Request, access)
	}
	answer := map[string]any{
		"access_token": x.p.sign("at+jwt", access),
		"token_type":   "Bearer",
		"expires_in":   int(x.opts.AccessLife / time.Second),
		"scope":        g.scope,
	}
	id := maps.Clone(f.user.Claims)
	maps.Copy(id, map[string]any{
		"iss": x.opts.Issuer, "sub": f.user.Subject, "aud": f.client,
		"iat": now.Unix(), "exp": now.Add(x.opts.IDTokenLife).Unix(), "auth_time": f.authTime.Unix(),
		"sid": f.sid, "at_hash": halfHash(answer["access_token"].(string)), "canary": idCanary,
	})
	if g.nonce != "" {
		id["nonce"] = g.nonce
	}
	if x.opts.EditIDToken != nil {
		x.opts.EditIDToken(x.Request, id)
	}
	if hasScope(g.scope, "openid") {
		answer["id_token"] = x.p.sign("JWT", id)
	}
	if g.refresh != "" {
		answer["refresh_token"] = g.refresh
		if x.opts.RefreshLife > 0 {
			answer["refresh_expires_in"] = int(x.opts.RefreshLife / time.Second)
		}
	}
	if x.opts.EditAnswer != nil {
		x.opts.EditAnswer(x.Request, answer)
	}
	return answer
}

// authenticated reads a client's form and holds it to the rules of RFC 6749
// §2.3 and §3.2: one way to authenticate, one value per parameter.
func (x *exchange) authenticated() (url.Values, Client, *oauthError) {
	bad := func(why string) (url.Values, Client, *oauthError) {
		return nil, Client{}, &oauthError{400, "invalid_request", why}
	}
	denied := func(why string) (url.Values, Client, *oauthError) {
		return nil, Client{}, &oauthError{401, "invalid_client", why}
	}
	if x.r.Method != http.MethodPost {
		return nil, Client{}, &oauthError{405, "invalid_request", "POST only"}
	}
	if x.r.URL.RawQuery != "" {
		return bad("parameters belong into the body")
	}
	if ct, _, err := mime.ParseMediaType(x.r.Header.Get("Content-Type")); err != nil || ct != "application/x-www-form-urlencoded" {
		return bad("the body is not a form")
	}
	if err := x.r.ParseForm(); err != nil {
		return bad("the body can't be read")
	}
	form := x.r.PostForm
	if name := repeated(form); name != "" {
		return bad(name + " is there twice")
	}
	id, secret, basic := x.r.BasicAuth()
	style := "client_secret_post"
	if basic {
		style = "client_secret_basic"
		var err1, err2 error
		// RFC 6749 §2.3.1: both are form-encoded inside the header.
		id, err1 = url.QueryUnescape(id)
		secret, err2 = url.QueryUnescape(secret)
		if err1 != nil || err2 != nil {
			return denied("the Authorization header is not form-encoded")
		}
		if form.Has("client_secret") {
			return denied("authenticated in two ways")
		}
		if form.Has("client_id") && form.Get("client_id") != id {
			return denied("two client ids")
		}
	} else {
		id, secret = form.Get("client_id"), form.Get("client_secret")
	}
	x.p.mu.Lock()
	c, known := x.p.clients[id]
	x.p.mu.Unlock()
	switch {
	case !known:
		return denied("no such client")
	case c.Auth != style:
		return denied("registered for " + c.Auth)
	case subtle.ConstantTimeCompare([]byte(secret), []byte(c.Secret)) != 1:
		return denied("wrong client secret")
	}
	return form, c, nil
}

// repeated names a parameter that has more than one value (RFC 6749 §3.1), if any.
func repeated(form url.Values) string {
	for name, values := range form {
		if len(values) > 1 {
			return name
		}
	}
	return ""
}
