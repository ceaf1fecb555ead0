package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// token answers POST (and GET) /bff/token: a live access token for the page to
// hold in memory. Its guards include X-BFF on GET, which would otherwise be safe
// to send from anywhere.
func (g *Gateway) token(w *response, r *http.Request) error {
	if w.app.Token != TokenRelay && w.app.Token != TokenMint {
		return &problem{code: codeNoRoute}
	}
	if err := guard(guardJSON, r.Method, r.Header, w.app.origin); err != nil {
		return err
	}
	minTTL, err := minTTL(r.URL.RawQuery)
	if err != nil {
		return err
	}
	o, err := g.admit(w, r, session.Need{
		Activity: !background(r.Header), Token: true, MinTTL: minTTL, Cookie: true,
		Local: true, LocalKey: localKey(r.Header),
	})
	if err != nil {
		return err
	}
	answer, err := g.tokenAnswer(r.Context(), w.app, o)
	if err != nil {
		return err
	}
	return answer.write(w)
}

// tokenAnswer is what the page gets: the session's access token and, where it has to
// be told one, the local key.
type tokenAnswer struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int64  `json:"expires_in"`
	Scope       string `json:"scope"`
	LocalKey    string `json:"local_key,omitempty"`
}

func (g *Gateway) tokenAnswer(ctx context.Context, a *app, o session.Opened) (tokenAnswer, error) {
	access, life, err := g.accessToken(a, o)
	if err != nil {
		return tokenAnswer{}, err
	}
	if err := g.note(ctx, a, o); err != nil {
		return tokenAnswer{}, err
	}
	answer := tokenAnswer{
		AccessToken: access, TokenType: "Bearer", Scope: o.Tokens.Scope, ExpiresIn: max(0, int64(life/time.Second)),
	}
	if o.LocalKey != nil {
		answer.LocalKey = o.LocalKey.Encode()
	}
	return answer, nil
}

func (answer tokenAnswer) write(w *response) error {
	w.Header().Set("Pragma", "no-cache") // RFC 6749 §5.1, for old caches
	return writeJSON(w, answer)
}

// localKey is the half of a split session's key that the page keeps; nil if the
// request shows none, or what isn't one.
func localKey(h http.Header) *session.LocalKey {
	v := h["X-Bff-Local-Key"]
	if len(v) != 1 {
		return nil
	}
	l, err := session.ParseLocalKey(v[0])
	if err != nil {
		return nil
	}
	return &l
}

// minTTL reads ?min_ttl=SECONDS. How much of it is granted is the keeper's
// decision; a day is far above any access token.
func minTTL(query string) (time.Duration, error) {
	q, err := url.ParseQuery(query)
	v := q["min_ttl"]
	if err != nil || len(v) > 1 {
		return 0, invalid("min_ttl must be sent once")
	}
	if len(v) == 0 {
		return 0, nil
	}
	n, err := strconv.ParseUint(v[0], 10, 31)
	if err != nil {
		return 0, invalid("min_ttl must be a number of seconds")
	}
	return time.Duration(min(n, 86400)) * time.Second, nil
}

// writeJSON answers 200 with something that belongs to one user.
func writeJSON(w *response, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := w.Header()
	hardenOwn(h)
	h.Set("Content-Type", "application/json")
	h.Set("Vary", "Cookie")
	_, _ = w.Write(append(body, '\n')) // the client may be gone
	return nil
}
