package gatewaytest

import (
	"crypto/subtle"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// grantPassword is the resource owner password credentials grant (RFC 6749
// §4.3), for clients and people who have it.
func (x *exchange) grantPassword(form url.Values, client Client) (grant, *oauthError) {
	now := x.opts.Now()
	reject := func(code, why string) (grant, *oauthError) { return grant{}, &oauthError{400, code, why} }
	if !client.PasswordGrant {
		return reject("unauthorized_client", "not registered for this grant")
	}
	name, password := form.Get("username"), form.Get("password")
	x.p.mu.Lock()
	u := x.p.users[name]
	x.p.mu.Unlock()
	if u.Password == "" || subtle.ConstantTimeCompare([]byte(u.Password), []byte(password)) != 1 {
		return reject("invalid_grant", "wrong user name or password")
	}
	user := x.p.user(name, x.opts.Issuer)
	x.Subject = user.Subject
	x.p.mu.Lock()
	defer x.p.mu.Unlock()
	f := &family{name: fmt.Sprintf("family-%d", len(x.p.families)+1), client: client.ID, user: user,
		scope: form.Get("scope"), sid: "op-" + randomText()[:16], authTime: now}
	x.p.families[f.name] = f
	g := grant{family: f, scope: f.scope}
	if !x.opts.NoRefresh {
		g.refresh = x.issueRefresh(f, now)
	}
	return g, nil
}

// hasScope reports whether a scope is one of those granted.
func hasScope(granted, scope string) bool { return slices.Contains(strings.Fields(granted), scope) }

// Enrol adds a user, or replaces the one of that name.
func (p *Provider) Enrol(u User) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users[u.Username] = u
}
