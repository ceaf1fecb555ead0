package gateway

import (
	"context"
	"net/http"
	"slices"

	"github.com/cloakroom/cloakroom/session"
)

// A person's own sessions, in all browsers. To look after them is no activity:
// a page may poll the list.

// sessions answers GET /bff/sessions: the live ones, newest first.
func (g *Gateway) sessions(w *response, r *http.Request) error {
	o, err := g.enter(w, r, guardJSON, session.Need{Cookie: true})
	if err != nil {
		return err
	}
	infos, err := g.keeper.Sessions(r.Context(), w.app.policy, own(o))
	if err != nil {
		return err
	}
	type entry struct {
		SID     string `json:"sid"`
		Created string `json:"created_at"`
		Seen    string `json:"last_seen_at"`
		Browser string `json:"browser"`
		Address string `json:"address"`
		Current bool   `json:"current"`
	}
	list := make([]entry, len(infos))
	for i, s := range infos {
		list[i] = entry{s.SID.String(), stamp(s.CreatedAt), stamp(s.SeenAt), s.Browser, s.Address, s.SID == o.SID}
	}
	return writeJSON(w, struct {
		Sessions []entry `json:"sessions"`
	}{list})
}

// own selects the sessions of whoever has this one.
func own(o session.Opened) session.Whose { return session.Whose{Issuer: o.Issuer, Subject: o.Subject} }

// endSession answers DELETE /bff/sessions/{sid}. A session that is somebody
// else's, has ended, or never was is not found, and so is what is no sid: all
// take the same way to the same answer.
//
// The current one is ended like any other; its cookie stays, since only the
// answer to a logout deletes it, and opens nothing any more.
func (g *Gateway) endSession(w *response, r *http.Request, name string) error {
	o, err := g.enter(w, r, guardJSON, session.Need{Cookie: true})
	if err != nil {
		return err
	}
	// A tab that closes now must not stop half-way.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), endTimeout)
	defer cancel()
	infos, err := g.keeper.Sessions(ctx, w.app.policy, own(o))
	if err != nil {
		return err
	}
	sid, err := session.ParseSID(name)
	if err != nil || !slices.ContainsFunc(infos, func(s session.Info) bool { return s.SID == sid }) {
		return &problem{code: codeNoRoute, detail: "no such session"}
	}
	if _, err := g.keeper.EndOne(ctx, w.app.policy, sid, session.Ending{Reason: session.ReasonRevoked}); err != nil {
		return err
	}
	if sid == o.SID {
		w.app.policy.Revoke(ctx, o.Tokens.Refresh) // of the others only their browsers can open it
	}
	hardenOwn(w.Header())
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// endOthers answers DELETE /bff/sessions: all but the current one end.
func (g *Gateway) endOthers(w *response, r *http.Request) error {
	o, err := g.enter(w, r, guardJSON, session.Need{Cookie: true})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), endTimeout)
	defer cancel()
	ended, err := g.keeper.EndBy(ctx, w.app.policy, own(o), session.Ending{Reason: session.ReasonRevoked, Except: o.SID})
	if err != nil {
		return err
	}
	return writeJSON(w, struct {
		Ended int `json:"ended"`
	}{ended})
}
