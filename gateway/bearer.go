package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"

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
	// headers tell the upstream of the claims that it asks for.
	headers []proxy.Header
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
	v, err := g.verify(r.Context(), w.app, token)
	if err == nil {
		err = g.vouch(r.Context(), w, token, v)
	}
	switch {
	case err == nil:
	case errors.Is(err, mint.ErrExpired), errors.Is(err, idp.ErrExpired):
		return caller{}, tokenRefused(codeTokenExpired, err)
	case errors.Is(err, mint.ErrInvalid), errors.Is(err, idp.ErrRejected), isOver(err):
		return caller{}, tokenRefused(codeTokenInvalid, err)
	default:
		return caller{}, err
	}
	c := caller{claims: v.claims, watch: w.watch, bearer: true}
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

// verified is a token whose signature has been checked, and all else that doesn't
// change while it lives.
type verified struct {
	app      *app // another after a reload
	claims   []byte
	sids     [][16]byte // of a minted one
	issuedAt time.Time
	expires  time.Time
}

const (
	// verifiedLife is how long a verdict on a signature is used again: checking
	// one costs as much as the rest of a request. A key that its owner withdraws is
	// no good any more after that.
	verifiedLife = time.Minute
	// verifiedBytes bounds the verdicts in memory.
	verifiedBytes = 32 << 20
)

// verifiedCache holds verdicts by the SHA-256 of the token's very text.
type verifiedCache = otter.Cache[[32]byte, verified]

func newVerified() *verifiedCache {
	return otter.Must(&otter.Options[[32]byte, verified]{
		MaximumWeight:    verifiedBytes,
		Weigher:          func(_ [32]byte, v verified) uint32 { return uint32(256 + len(v.claims)) },
		ExpiryCalculator: otter.ExpiryWriting[[32]byte, verified](verifiedLife),
	})
}

// verify checks a token by itself: one of our own, or the provider's.
func (g *Gateway) verify(ctx context.Context, a *app, token string) (verified, error) {
	key := sha256.Sum256([]byte(token))
	if v, ok := g.verified.GetIfPresent(key); ok && v.app == a && g.now().Before(v.expires) {
		return v, nil
	}
	v := verified{app: a}
	if a.Token == TokenMint {
		c, err := a.Mint.Verify(token)
		if err != nil {
			return v, err
		}
		v.claims, v.sids, v.issuedAt, v.expires = c.JSON, c.SIDs, c.IssuedAt, c.ExpiresAt
	} else {
		c, err := a.Provider.VerifyAccessToken(ctx, token, a.Audience)
		if err != nil {
			return v, err
		}
		v.claims, v.issuedAt, v.expires = c.Claims, c.IssuedAt, c.ExpiresAt
	}
	g.verified.Set(key, v)
	return v, nil
}

// vouch judges the session that a token was handed out to, and watches it from
// before it does. A provider's token that no session of ours has handed out stands
// on its own.
func (g *Gateway) vouch(ctx context.Context, w *response, token string, v verified) (err error) {
	policy, ours := w.app.policy, true
	var sid session.SID
	if w.app.Token == TokenMint {
		sid, err = g.keeper.WhichOf(ctx, policy, v.sids)
	} else {
		sid, ours, err = g.keeper.TokenSession(ctx, policy, session.AccessToken(token))
	}
	if err != nil {
		return err
	}
	if !ours {
		return g.keeper.VouchForStranger(ctx, policy, v.issuedAt)
	}
	w.sid = sid
	w.watch = g.keeper.Watch(policy, sid)
	return g.keeper.Vouch(ctx, policy, sid, v.issuedAt)
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
	return g.keeper.NoteToken(ctx, a.policy, o.SID, o.Tokens.Access, func() time.Time { return jwtExpiry(string(o.Tokens.Access)) })
}

// jwtExpiry is the exp of a token that the provider itself has given us. Nothing
// is verified. Zero: it is opaque, or for ever, and no route takes it.
func jwtExpiry(token string) time.Time {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, ok := strings.Cut(rest, ".")
	b, err := base64.RawURLEncoding.DecodeString(payload)
	var c struct {
		Expires float64 `json:"exp"`
	}
	if !ok || err != nil || json.Unmarshal(b, &c) != nil || c.Expires <= 0 || c.Expires > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(c.Expires), 0)
}
