package session

import (
	"context"
	"slices"
	"time"

	"github.com/cloakroom/cloakroom/session/store"
)

// sameTime is how far apart logins may be that begin at the same time: as long as a
// login takes at most, from its time to its place in the index.
const sameTime = time.Minute

// register makes a new session known to those who may end it, and then asks
// whether it has been ended already: whoever ends later finds it, whoever ended
// before is found. It returns how to do both again.
func (k *Keeper) register(ctx context.Context, app *App, s *Session, l Login) (again func(context.Context) error, err error) {
	keys := k.keys.Load()
	sid, expires, issued := s.SID, s.ExpiresAt, l.IssuedAt // and nothing secret, for as long as it may be done again
	user := keys.indexes(app.Name, Whose{Issuer: l.Issuer, Subject: l.Subject})
	write, ask := []store.Index{user[0]}, user
	if l.ProviderSession != "" {
		own := keys.indexes(app.Name, Whose{Issuer: l.Issuer, ProviderSession: l.ProviderSession})
		write, ask = append(write, own[0]), append(ask[:len(ask):len(ask)], own...)
	}
	again = func(ctx context.Context) error {
		if err := k.store.Indexed(ctx, sid, expires, write...); err != nil {
			return k.unavailable(ctx, err)
		}
		standings, err := k.store.Standings(ctx, ask...)
		if err != nil {
			return k.unavailable(ctx, err)
		}
		for i, standing := range standings {
			if i < len(user) && standing.Locked {
				return &EndedError{Reason: ReasonRevoked, Locked: true}
			}
			// A logout by sid is about that one session at the provider, whenever its
			// ID token was issued; one by subject only about those before it.
			if !standing.NoticeAt.IsZero() && (i >= len(user) || issued.UnixMilli() <= standing.NoticeAt.UnixMilli()) {
				return &EndedError{Reason: ReasonProviderLogout}
			}
		}
		return nil
	}
	if err := again(ctx); err != nil {
		return nil, err
	}
	if app.MaxPerUser > 0 {
		if err := k.limit(ctx, app, s, Whose{Issuer: l.Issuer, Subject: l.Subject}); err != nil {
			return nil, err
		}
	}
	return again, nil
}

// limit ends a user's oldest sessions over the app's limit. All that begin at the
// same time agree which these are, so that they don't end each other. The new one
// may be among them: then it is told.
func (k *Keeper) limit(ctx context.Context, app *App, own *Session, w Whose) error {
	infos, err := k.Sessions(ctx, app, w)
	if err != nil {
		return err
	}
	// Those from a time to come began before Redis's clock was set back: this one's
	// user must not wait for it.
	newest := slices.IndexFunc(infos, func(i Info) bool { return i.CreatedAt.Sub(own.CreatedAt) < sameTime })
	infos = append(infos[max(newest, 0):len(infos):len(infos)], infos[:max(newest, 0)]...)
	for _, i := range infos[min(len(infos), app.MaxPerUser):] {
		if i.SID == own.SID {
			err = &EndedError{Reason: ReasonSessionLimit}
		} else if err := k.End(ctx, app, i.SID, ReasonSessionLimit); err != nil {
			return err
		}
	}
	return err
}
