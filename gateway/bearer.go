package gateway

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/cloakroom/cloakroom/gateway/mint"
	"github.com/cloakroom/cloakroom/gateway/proxy"
	"github.com/cloakroom/cloakroom/session"
)

// Accept says by what a route knows its caller. The zero value means by the
// cookie alone.
type Accept struct {
	Cookie bool
	// Bearer: an Authorization header, where there is one, decides alone. It must
	// hold an access token of this app's: one that was minted here, or, where the
	// app relays, a JWT of the provider's for the app's Audience. It is forwarded
	// as it is, if the route's Token is set. No guard is asked, since no browser
	// adds such a header by itself.
	Bearer bool
}

func (a Accept) cookie() bool { return a.Cookie || !a.Bearer }

// caller is who sends a route's request, as far as anybody is known.
type caller struct {
	token  proxy.Bearer   // for the upstream
	claims []byte         // what is known of the user, a JSON object
	watch  *session.Watch // nil: no session of ours is behind it
	bearer bool           // an Authorization header decided
}

// tokenRefused answers for a bearer that isn't accepted. To a page it means: get
// a token, and say it again once.
func tokenRefused(c code, err error) error {
	return &problem{code: c, challenge: `Bearer error="invalid_token"`, err: err}
}

// errNoBearer is for a request without credentials (RFC 6750 section 3: no error
// code).
var errNoBearer error = &problem{code: codeTokenInvalid, detail: "Authorization: Bearer is missing", challenge: "Bearer"}

// byBearer finds the caller by the request's Authorization header, which is there.
func (g *Gateway) byBearer(w *response, r *http.Request, rt *Route) (caller, error) {
	token, ok := bearerToken(r.Header["Authorization"])
	if !ok {
		return caller{}, tokenRefused(codeTokenInvalid, errors.New("not one bearer token"))
	}
	verify := g.verifyRelayed
	if w.app.Token == TokenMint {
		verify = g.verifyMinted
	}
	claims, err := verify(r.Context(), w, token)
	switch {
	case err == nil:
	case errors.Is(err, mint.ErrExpired), errors.Is(err, idp.ErrExpired):
		return caller{}, tokenRefused(codeTokenExpired, err)
	case errors.Is(err, mint.ErrInvalid), errors.Is(err, idp.ErrRejected), isOver(err):
		return caller{}, tokenRefused(codeTokenInvalid, err)
	default:
		return caller{}, err
	}
	c := caller{claims: claims, watch: w.watch, bearer: true}
	if rt.Token {
		c.token = proxy.Bearer(token)
	}
	return c, nil
}

// isOver reports whether err says that a session is no more.
func isOver(err error) bool {
	_, ended := errors.AsType[*session.EndedError](err)
	return ended || errors.Is(err, session.ErrNoSession)
}

// verifyMinted judges a token of our own.
func (g *Gateway) verifyMinted(ctx context.Context, w *response, token string) (claims []byte, err error) {
	c, err := w.app.Mint.Verify(token)
	if err != nil {
		return nil, err
	}
	sid, err := g.keeper.WhichOf(ctx, w.app.policy, c.SIDs)
	if err != nil {
		return nil, err
	}
	return c.JSON, g.vouch(ctx, w, sid, c.IssuedAt)
}

// verifyRelayed judges a token of the provider's. One that no session of ours has
// handed out stands on its own.
func (g *Gateway) verifyRelayed(ctx context.Context, w *response, token string) (claims []byte, err error) {
	c, err := w.app.Provider.VerifyAccessToken(ctx, token, w.app.Audience)
	if err != nil {
		return nil, err
	}
	sid, ours, err := g.keeper.TokenSession(ctx, w.app.policy, session.AccessToken(token))
	switch {
	case err != nil:
		return nil, err
	case ours:
		return c.Claims, g.vouch(ctx, w, sid, c.IssuedAt)
	}
	return c.Claims, g.keeper.VouchForStranger(ctx, w.app.policy, c.IssuedAt)
}

// vouch judges the session behind a token, and watches it from before it does.
func (g *Gateway) vouch(ctx context.Context, w *response, sid session.SID, issuedAt time.Time) error {
	w.sid = sid
	w.watch = g.keeper.Watch(w.app.policy, sid)
	return g.keeper.Vouch(ctx, w.app.policy, sid, issuedAt)
}

// bearerToken reads the one accepted spelling: a single header, the scheme in any
// case, a space, a token (RFC 6750 section 2.1).
func bearerToken(lines []string) (string, bool) {
	if len(lines) != 1 {
		return "", false
	}
	scheme, token, ok := strings.Cut(lines[0], " ")
	if !ok || len(scheme) != len("Bearer") || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", false
	}
	for _, c := range []byte(token) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~+/=", c) >= 0:
		default:
			return "", false
		}
	}
	return token, true
}

// note remembers whose a provider's access token is, before it is handed out to a
// page that may show it to a route.
func (g *Gateway) note(ctx context.Context, a *app, o session.Opened) error {
	if !a.takesRelayed {
		return nil
	}
	// What a verifier goes by is in the token; it may be later than what the
	// provider said beside it.
	expires, ok := jwtExpiry(string(o.Tokens.Access))
	if !ok {
		return nil // opaque, or for ever: no route takes it
	}
	return g.keeper.NoteToken(ctx, a.policy, o.SID, o.Tokens.Access, expires)
}

// jwtExpiry is the exp of a token that the provider itself has given us. Nothing
// is verified.
func jwtExpiry(token string) (time.Time, bool) {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, ok := strings.Cut(rest, ".")
	b, err := base64.RawURLEncoding.DecodeString(payload)
	var c struct {
		Expires float64 `json:"exp"`
	}
	if !ok || err != nil || json.Unmarshal(b, &c) != nil || c.Expires <= 0 || c.Expires > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(c.Expires), 0), true
}
