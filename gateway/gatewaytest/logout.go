package gatewaytest

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// logoutEvent is the member of events that makes a logout token of a JWT.
const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// notifyTimeout bounds a notification of a client.
const notifyTimeout = 5 * time.Second

// Logout says whom a logout token is about, and to whom it is sent.
type Logout struct {
	Client    string // default: "cloakroom-test"
	Subject   string
	SessionID string
	// Edit bends an otherwise correct token before it is signed; nil: nothing.
	Edit func(header, claims map[string]any)
}

// LogoutToken makes a logout token (OpenID Connect Back-Channel Logout 1.0
// section 2.4). It changes nothing here.
func (p *Provider) LogoutToken(l Logout) string {
	o := p.options()
	if l.Client == "" {
		l.Client = "cloakroom-test"
	}
	now := o.Now().Truncate(time.Second)
	claims := map[string]any{
		"iss": o.Issuer, "aud": l.Client, "iat": now.Unix(), "exp": now.Add(2 * time.Minute).Unix(),
		"jti": randomText(), "events": map[string]any{logoutEvent: map[string]any{}},
	}
	if l.Subject != "" {
		claims["sub"] = l.Subject
	}
	if l.SessionID != "" {
		claims["sid"] = l.SessionID
	}
	k := p.signingKeys()[0]
	t := jwt.NewWithClaims(k.method, jwt.MapClaims(claims))
	t.Header["kid"], t.Header["typ"] = k.id, "logout+jwt"
	if l.Edit != nil {
		l.Edit(t.Header, claims)
	}
	s, err := t.SignedString(k.key)
	if err != nil {
		panic(err) // an edit put something into the claims that has no JSON
	}
	return s
}

// Notified is one notification of a client by its back channel.
type Notified struct {
	Client    string
	SessionID string
	Status    int // 0: no answer
}

// Notifications are those sent so far, in order.
func (p *Provider) Notifications() []Notified {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.notified)
}

// SignOut ends all of a person's sessions here, as an administrator does, and
// tells the clients by their back channel, waiting for their answers. Refresh
// tokens live on unless the clients revoke them.
func (p *Provider) SignOut(subject string) {
	sids := map[string]bool{}
	p.mu.Lock()
	for _, f := range p.families {
		if f.user.Subject == subject {
			sids[f.sid] = true
		}
	}
	maps.DeleteFunc(p.logins, func(_ string, l login) bool { return sids[l.sid] })
	p.mu.Unlock()
	p.notify(sids)
}

// notify tells the clients with a back channel that sessions here are over, and
// waits for their answers.
func (p *Provider) notify(sids map[string]bool) {
	for _, n := range p.affected(sids, func(c Client) bool { return c.BackChannelLogoutURI != "" }) {
		token := p.LogoutToken(Logout{Client: n.client.ID, Subject: n.subject, SessionID: n.sid})
		status := p.post(n.client.BackChannelLogoutURI, url.Values{"logout_token": {token}})
		p.mu.Lock()
		p.notified = append(p.notified, Notified{n.client.ID, n.sid, status})
		p.mu.Unlock()
	}
}

// post sends a form and returns the answer's status, 0 if there is none.
func (p *Provider) post(to string, form url.Values) int {
	ctx, cancel := context.WithTimeout(context.Background(), notifyTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return 0
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	c := p.options().Notify
	if c == nil {
		c = http.DefaultClient
	}
	resp, err := c.Do(r)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody))
	return resp.StatusCode
}

// frames are the URLs that tell clients by their front channel, in the browser.
func (x *exchange) frames(sids map[string]bool) []string {
	var urls []string
	for _, n := range x.p.affected(sids, func(c Client) bool { return c.FrontChannelLogoutURI != "" }) {
		sep := "?"
		if strings.Contains(n.client.FrontChannelLogoutURI, "?") {
			sep = "&"
		}
		urls = append(urls, n.client.FrontChannelLogoutURI+sep+url.Values{"iss": {x.opts.Issuer}, "sid": {n.sid}}.Encode())
	}
	return urls
}

// affected is a client that took part in a session.
type affected struct {
	client  Client
	sid     string
	subject string
}

func (p *Provider) affected(sids map[string]bool, tell func(Client) bool) []affected {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []affected
	for _, f := range p.families {
		n := affected{p.clients[f.client], f.sid, f.user.Subject}
		if sids[f.sid] && tell(n.client) && !slices.ContainsFunc(found, func(o affected) bool { return o.sid == n.sid && o.client.ID == n.client.ID }) {
			found = append(found, n)
		}
	}
	slices.SortFunc(found, func(a, b affected) int { return strings.Compare(a.client.ID+a.sid, b.client.ID+b.sid) })
	return found
}
