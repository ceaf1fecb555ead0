package admin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// view is what an operator sees of a session. What a dead one has forgotten is
// left out.
type view struct {
	SID       string         `json:"sid"`
	App       string         `json:"app"`
	Subject   string         `json:"sub,omitempty"`
	Address   string         `json:"address,omitempty"`
	Browser   string         `json:"browser,omitempty"`
	CreatedAt time.Time      `json:"created_at,omitzero"`
	SeenAt    time.Time      `json:"seen_at,omitzero"`
	ExpiresAt time.Time      `json:"expires_at,omitzero"`
	Ended     bool           `json:"ended"`
	Reason    session.Reason `json:"reason,omitempty"`
	Locked    bool           `json:"locked,omitempty"`
}

func viewOf(app App, i session.Info) view {
	return view{
		SID: i.SID.String(), App: app.Name, Subject: i.Subject, Address: i.Address, Browser: i.Browser,
		CreatedAt: i.CreatedAt.UTC(), SeenAt: i.SeenAt.UTC(), ExpiresAt: i.ExpiresAt.UTC(),
		Ended: i.Ended, Reason: i.Reason, Locked: i.Locked,
	}
}

type listed struct {
	Sessions []view `json:"sessions"`
}

// list answers with one session, live or ended, or with a subject's live ones.
// All of an app's can't be listed: nothing keeps such a list.
func (a *API) list(ctx context.Context, r *http.Request, c *call) (any, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("the query can't be read")
	}
	for name, values := range q {
		if name != "app" && name != "sub" && name != "sid" {
			return nil, invalid("a parameter is unknown")
		}
		if len(values) != 1 {
			return nil, invalid(name + " is there twice")
		}
	}
	app, sub, sid := q.Get("app"), q.Get("sub"), q.Get("sid")
	if (sub == "") == (sid == "") {
		return nil, invalid("name either a sid or a sub")
	}
	apps := a.Apps()
	if app != "" {
		one, err := a.app(app, c)
		if err != nil {
			return nil, err
		}
		apps = []App{one}
	}
	out := listed{Sessions: []view{}}
	if sid != "" {
		id, err := session.ParseSID(sid)
		if err != nil {
			return nil, invalid("sid must be 22 characters of base64url")
		}
		app, info, err := a.find(ctx, apps, id, c)
		if err != nil {
			return nil, err
		}
		out.Sessions = append(out.Sessions, viewOf(app, info))
		return out, nil
	}
	c.noteSubject(sub)
	for _, app := range apps {
		infos, err := a.Keeper.Sessions(ctx, app.Policy, session.Whose{Issuer: app.Issuer, Subject: sub})
		if err != nil {
			return nil, err
		}
		for _, i := range infos {
			out.Sessions = append(out.Sessions, viewOf(app, i))
		}
	}
	c.note(slog.Int("found", len(out.Sessions)))
	return out, nil
}

// ended is how many live sessions an order has ended: 0 if it had been obeyed
// before. Of an app nobody counts them.
type ended struct {
	Ended *int `json:"ended,omitempty"`
	All   bool `json:"all,omitempty"`
}

// end ends one session, all of a subject's, or all of an app's.
func (a *API) end(ctx context.Context, r *http.Request, c *call) (any, error) {
	o, err := readOrder(r.Body, true)
	if err != nil {
		return nil, err
	}
	app, err := a.whose(ctx, o, c)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	switch {
	case !o.until.IsZero() && !o.locked:
		return nil, invalid("until says when a lock ends: it needs locked")
	case !o.until.IsZero() && !o.until.After(now):
		return nil, invalid("until is over")
	case o.locked && !o.hasSID && o.sub == "":
		return nil, invalid("locked needs a sid or a sub: an app can't be locked")
	}
	c.note(slog.String("reason", o.reason), slog.Bool("locked", o.locked))
	if !o.until.IsZero() {
		c.note(slog.Time("until", o.until))
	}
	how := session.Ending{Reason: session.ReasonRevoked, Lock: o.locked, Until: o.until}
	var n int
	switch {
	case o.hasSID:
		var did bool
		if did, err = a.Keeper.EndOne(ctx, app.Policy, o.sid, how); did {
			n = 1
		}
	case o.sub != "":
		// A login that is on its way back from the provider is one of theirs.
		how.Notice = now
		n, err = a.Keeper.EndBy(ctx, app.Policy, session.Whose{Issuer: app.Issuer, Subject: o.sub}, how)
	default:
		if err := a.Keeper.EndApp(ctx, app.Policy); err != nil {
			return nil, err
		}
		return ended{All: true}, nil
	}
	c.note(slog.Int("ended", n))
	if err != nil {
		return nil, err
	}
	return ended{Ended: &n}, nil
}

// unlocked is the answer to an order that lifts a lock, whether one was on or
// not.
type unlocked struct {
	Unlocked bool `json:"unlocked"`
}

// unlock lets a subject log in again. What has ended stays dead.
func (a *API) unlock(ctx context.Context, r *http.Request, c *call) (any, error) {
	o, err := readOrder(r.Body, false)
	if err != nil {
		return nil, err
	}
	if !o.hasSID && o.sub == "" {
		return nil, invalid("name a sid, or a sub and its app")
	}
	app, err := a.whose(ctx, o, c)
	if err != nil {
		return nil, err
	}
	c.note(slog.String("reason", o.reason))
	if o.hasSID {
		err = a.Keeper.UnlockOne(ctx, app.Policy, o.sid)
	} else {
		err = a.Keeper.Unlock(ctx, app.Policy, session.Whose{Issuer: app.Issuer, Subject: o.sub})
	}
	if err != nil {
		return nil, err
	}
	return unlocked{Unlocked: true}, nil
}

// whose finds the app that an order is about.
func (a *API) whose(ctx context.Context, o order, c *call) (App, error) {
	switch {
	case o.hasSID && (o.sub != "" || o.app != ""):
		return App{}, invalid("a sid stands alone")
	case o.hasSID:
		app, _, err := a.find(ctx, a.Apps(), o.sid, c)
		return app, err
	case o.app == "":
		return App{}, invalid("name a sid, a sub and its app, or an app")
	}
	if o.sub != "" {
		c.noteSubject(o.sub)
	}
	return a.app(o.app, c)
}

func (a *API) app(name string, c *call) (App, error) {
	for _, app := range a.Apps() {
		if app.Name == name {
			c.note(slog.String("app", app.Name))
			return app, nil
		}
	}
	return App{}, &problem{code: codeNoApp}
}

// find looks a session up in every one of apps: an id doesn't tell whose it is.
func (a *API) find(ctx context.Context, apps []App, sid session.SID, c *call) (App, session.Info, error) {
	c.note(slog.Any("sid", sid))
	for _, app := range apps {
		info, err := a.Keeper.Info(ctx, app.Policy, sid)
		if errors.Is(err, session.ErrNoSession) {
			continue
		}
		if err != nil {
			return App{}, session.Info{}, err
		}
		c.note(slog.String("app", app.Name))
		return app, info, nil
	}
	return App{}, session.Info{}, session.ErrNoSession
}
