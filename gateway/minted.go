package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/cloakroom/cloakroom/gateway/mint"
	"github.com/cloakroom/cloakroom/session"
)

// minted is a token that this process signed for a session. It is used again as
// long as it has half of its life left and says what is true of the session: a
// signature for each proxied request would be most of the request's cost.
type minted struct {
	token   mint.AccessToken
	issuer  *mint.Issuer // another after a reload
	checked int64        // Tokens.IssuedAt, in ms: claims and scope are those of then
	until   time.Time    // half-time
	expires time.Time
}

// mintedBytes bounds the tokens in memory.
const mintedBytes = 64 << 20

type mintedCache = otter.Cache[session.SID, minted]

func newMinted(now func() time.Time) *mintedCache {
	return otter.Must(&otter.Options[session.SID, minted]{
		MaximumWeight: mintedBytes,
		Weigher:       func(_ session.SID, m minted) uint32 { return uint32(256 + len(m.token)) },
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[session.SID, minted]) time.Duration {
			return max(e.Value.until.Sub(now()), 1)
		}),
	})
}

// accessToken is the token that goes with an opened session's requests, and what
// is left of its life.
func (g *Gateway) accessToken(a *app, o session.Opened) (token string, left time.Duration, err error) {
	if a.Token != TokenMint {
		return string(o.Tokens.Access), o.Tokens.ExpiresAt.Sub(o.Now), nil
	}
	now, checked := g.now(), o.Tokens.IssuedAt.UnixMilli()
	if m, ok := g.minted.GetIfPresent(o.SID); ok && m.issuer == a.Mint && m.checked == checked && now.Before(m.until) {
		return string(m.token), m.expires.Sub(now), nil
	}
	// However long its checks have been overdue, a token reaches no further than
	// they would have let it, and never over the session's end. Both are told by
	// Redis's clock, tokens by ours. Where there is no refresh token, nothing is ever
	// checked.
	word := o.Tokens.IssuedAt.Add(a.policy.Revalidate + a.policy.Revalidate/5 + a.Mint.Lifetime())
	if o.Tokens.Refresh == "" || o.ExpiresAt.Before(word) {
		word = o.ExpiresAt
	}
	t, life, err := a.Mint.Mint(mint.Grant{
		SID: o.SID, Subject: o.Subject, Issuer: o.Issuer, Scope: o.Tokens.Scope,
		ClaimsJSON: o.Claims, AuthTime: o.AuthTime, NotAfter: now.Add(word.Sub(o.Now)),
	})
	switch {
	case errors.Is(err, mint.ErrExpired) && word.Equal(o.ExpiresAt):
		return "", 0, &session.EndedError{Reason: session.ReasonAbsoluteTimeout}
	case errors.Is(err, mint.ErrExpired):
		return "", 0, &session.UnavailableError{Provider: true, Err: err}
	case err != nil:
		return "", 0, fmt.Errorf("session %s: %w", o.SID, err)
	}
	g.minted.Set(o.SID, minted{token: t, issuer: a.Mint, checked: checked, until: now.Add(life / 2), expires: now.Add(life)})
	return string(t), life, nil
}

// published is what an app that mints serves to whoever verifies its tokens, if
// path is where they look. It asks for no guard: all of it is public.
func (a *app) published(path string) http.Handler {
	switch {
	case a.Token != TokenMint:
	case path == mint.JWKSPath:
		return a.Mint.JWKS()
	case path == mint.MetadataPath:
		return a.Mint.Metadata()
	}
	return nil
}

// publish serves it.
func publish(w *response, r *http.Request, doc http.Handler) error {
	w.endpoint = endpointKeys
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return &problem{code: codeMethodNotAllowed, allow: "GET, HEAD"}
	}
	doc.ServeHTTP(w, r)
	return nil
}
