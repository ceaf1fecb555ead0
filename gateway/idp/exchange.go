package idp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cloakroom/cloakroom/gateway/strictjson"
)

const (
	// defaultTokenLife is for an access token whose life nobody tells. Too
	// short costs a refresh more; too long costs failing calls.
	defaultTokenLife = 5 * time.Minute
	maxTokenLife     = 30 * 24 * time.Hour
	maxRefreshLife   = 10 * 365 * 24 * time.Hour
	// maxLogins is how many logins are under way at a time. Anybody can begin some,
	// and answer them with made-up codes: where the provider is slow, refreshes must
	// find connections all the same (NewTransport's MaxConnsPerHost).
	maxLogins = 32
	// maxUserInfo bounds what userinfo can add to each session.
	maxUserInfo = 64 << 10
)

// Exchange spends an authorization code (RFC 6749 section 4.1.3, RFC 7636
// section 4.5), once, and checks what comes back: an ID token for this
// transaction, and userinfo about the same subject if Config.UserInfo asks for
// it. The caller has compared the state and asked CheckIssuer.
//
// The error is ErrRejected or ErrUnavailable; after either the code is gone, and
// the browser has to log in again.
func (p *Provider) Exchange(ctx context.Context, code string, tx Transaction) (Grant, error) {
	if !tx.ok() {
		return Grant{}, errors.New("idp: transaction was not made by NewTransaction")
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	m, err := p.metadata.get(ctx)
	if err != nil {
		return Grant{}, err
	}
	leave, err := p.enter(ctx, opExchange)
	if err != nil {
		return Grant{}, err
	}
	defer leave()
	a, _, _, err := p.postForm(ctx, opExchange, m.token, url.Values{
		"grant_type":    {"authorization_code"},
		"code":          {code},
		"redirect_uri":  {p.cfg.RedirectURI},
		"code_verifier": {string(tx.Verifier)},
	}, nil)
	if err != nil {
		return Grant{}, unavailable(ctx, opExchange, err)
	}
	return p.complete(ctx, opExchange, a, func(g *Grant) error {
		if g.ID == "" {
			return fmt.Errorf("%s: %w: no ID token", opExchange, ErrRejected)
		}
		return p.identify(ctx, opExchange, m, g, idTokenWant{access: g.Access, login: true, nonce: tx.Nonce, code: code, maxAge: tx.MaxAge})
	})
}

// enter waits for a login's place among those that are under way.
func (p *Provider) enter(ctx context.Context, op operation) (leave func(), err error) {
	select {
	case p.logins <- struct{}{}:
		return func() { <-p.logins }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", op, ended(ctx))
	}
}

// complete makes a Grant of the answer to a login. identify checks whose tokens
// they are, and fills that in. From the moment they are issued, a failure hands
// them back.
func (p *Provider) complete(ctx context.Context, op operation, a answer, identify func(*Grant) error) (Grant, error) {
	if a.status != http.StatusOK {
		return Grant{}, statusError(op, a)
	}
	g, err := p.parseGrant(a.body)
	switch {
	case errors.Is(err, strictjson.ErrNotObject):
		err = fmt.Errorf("%s: %w: %v", op, ErrUnavailable, err)
	case err != nil:
		err = fmt.Errorf("%s: %w: %v", op, ErrRejected, err)
	default:
		err = identify(&g)
	}
	if err != nil {
		p.undo(ctx, op, g)
		return Grant{}, err
	}
	return g, nil
}

// identify checks the ID token that came with a login, and asks userinfo if
// Config.UserInfo has it so.
func (p *Provider) identify(ctx context.Context, op operation, m *metadata, g *Grant, want idTokenWant) error {
	id, err := p.verifyIDToken(ctx, g.ID, want)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	var info strictjson.Object
	if p.cfg.UserInfo {
		if info, err = p.userInfo(ctx, m.userInfo, g.Access, id.subject); err != nil {
			return err
		}
	}
	return p.fillIn(g, id, info)
}

func (p *Provider) fillIn(g *Grant, id idToken, info strictjson.Object) (err error) {
	g.Issuer, g.Subject, g.SessionID, g.AuthTime = p.cfg.Issuer, id.subject, id.sessionID, id.authTime
	g.Claims, err = claimsJSON(id.claims, info)
	return err
}

// userInfo asks the userinfo endpoint (OpenID Connect Core 1.0 section 5.3). The
// sub there must be subject, the ID token's (section 5.3.2): an access token that
// was swapped shows by that. Only where no ID token came is subject empty.
func (p *Provider) userInfo(ctx context.Context, target string, access AccessToken, subject string) (strictjson.Object, error) {
	a, err := p.getJSON(ctx, opUserInfo, target, access, maxUserInfo)
	if err != nil {
		return nil, err
	}
	if !a.isJSON() {
		return nil, fmt.Errorf("%s: %w: the answer is not application/json", opUserInfo, ErrRejected)
	}
	o, err := strictjson.Parse(a.body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %v", opUserInfo, ErrUnavailable, err)
	}
	sub, ok := o.String("sub")
	if !ok || !goodIdentifier(sub, maxSubject) {
		return nil, fmt.Errorf("%s: %w: sub is missing or not acceptable", opUserInfo, ErrRejected)
	}
	if subject != "" && sub != subject {
		return nil, fmt.Errorf("%s: %w: sub is not the ID token's", opUserInfo, ErrRejected)
	}
	return o, nil
}

// parseGrant reads a token endpoint's success (RFC 6749 section 5.1). The error
// is [strictjson.ErrNotObject], or says which part is missing or of the wrong
// kind; what could be read of the tokens comes with it, to be handed back.
func (p *Provider) parseGrant(body []byte) (Grant, error) {
	o, err := strictjson.Parse(body)
	if err != nil {
		return Grant{}, err
	}
	token := func(name string, to *string) error {
		s, ok := o.String(name)
		if !ok || len(s) > maxToken || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("%s is not acceptable", name)
		}
		*to = s
		return nil
	}
	var g Grant
	if err := errors.Join(
		token("access_token", (*string)(&g.Access)),
		token("refresh_token", (*string)(&g.Refresh)),
		token("id_token", (*string)(&g.ID)),
		token("token_type", &g.TokenType),
		token("scope", &g.Scope),
	); err != nil {
		return g, err
	}
	// A space would end it within an Authorization header.
	if g.Access == "" || strings.Contains(string(g.Access), " ") {
		return g, errors.New("access_token is missing or not acceptable")
	}
	if !strings.EqualFold(g.TokenType, "Bearer") {
		return g, errors.New("token_type is not Bearer")
	}
	g.ExpiresIn = p.tokenLife(o, string(g.Access))
	// Two spellings in the wild; no standard names one.
	g.RefreshExpiresIn = max(o.Seconds("refresh_expires_in", maxRefreshLife), o.Seconds("refresh_token_expires_in", maxRefreshLife))
	return g, nil
}

// tokenLife is Grant.ExpiresIn. The access token is read only where the
// provider doesn't tell: it is made for others.
func (p *Provider) tokenLife(o strictjson.Object, access string) time.Duration {
	if d := o.Seconds("expires_in", maxTokenLife); d > 0 {
		return d
	}
	if claims, err := jwtPayload(access); err == nil {
		if exp, ok := claims.NumericDate("exp"); ok && !exp.IsZero() {
			if d := exp.Sub(p.cfg.Now()); d > 0 {
				return min(d, maxTokenLife)
			}
		}
	}
	return defaultTokenLife
}
