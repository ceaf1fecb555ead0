package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// user answers GET /bff/user: those of the user's claims that the app is
// configured to show.
func (g *Gateway) user(w *response, r *http.Request) error {
	o, err := g.enter(w, r, guardJSON, session.Need{Activity: !background(r.Header), Cookie: true})
	if err != nil {
		return err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(o.Claims, &all); err != nil {
		return fmt.Errorf("claims of session %s: %v", o.SID, err)
	}
	shown := make(map[string]json.RawMessage, len(w.app.UserClaims))
	for _, name := range w.app.UserClaims {
		if v, ok := all[name]; ok {
			shown[name] = v
		}
	}
	return writeJSON(w, shown)
}

// session answers GET /bff/session: what there is to know about the session's
// times. A page may poll it: it doesn't count as activity and never refreshes.
// Times are RFC 3339 in UTC, to the second.
func (g *Gateway) session(w *response, r *http.Request) error {
	o, err := g.enter(w, r, guardJSON, session.Need{Cookie: true})
	if err != nil {
		return err
	}
	accessEnd := ""
	if w.app.Token != TokenMint {
		accessEnd = stamp(o.Tokens.ExpiresAt)
	}
	return writeJSON(w, struct {
		SID       string `json:"sid"`
		Created   string `json:"created_at"`
		IdleEnd   string `json:"idle_expires_at"`
		End       string `json:"expires_at"`
		AccessEnd string `json:"access_token_expires_at,omitempty"` // the provider's, where that is handed out
		Now       string `json:"server_time"`
	}{
		o.SID.String(), stamp(o.CreatedAt), stamp(o.IdleExpiresAt), stamp(o.ExpiresAt),
		accessEnd, stamp(o.Now),
	})
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
