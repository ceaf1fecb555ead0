package session

import (
	"context"
	"log/slog"

	"github.com/cloakroom/cloakroom/session/store"
)

// succession prepares the next ticket after t, and the change that makes it.
func (r *Keyring) succession(app *App, t Ticket, generation uint64, ps []store.Predecessor, c store.Change) (Ticket, store.Change, error) {
	key, id := r.first()
	s := newSalt()
	next := Ticket{SID: t.SID, Generation: generation + 1, Secret: succeed(key, app.Name, t, s)}
	older, err := r.resalt(app.Name, t.SID, ps, generation, next.Generation)
	if err != nil {
		return Ticket{}, c, err
	}
	c.Kind = store.Advance
	c.Generation = next.Generation
	c.Hash = next.Secret.Hash()
	c.Predecessors = older
	c.Predecessor = store.Predecessor{
		Generation: t.Generation,
		Hash:       t.Secret.Hash(),
		Key:        id,
		Salt:       r.sealSalt(app.Name, t.SID, t.Generation, next.Generation, s),
	}
	return next, c, nil
}

// reissue gives the bearer of a predecessor another successor, since the first
// was lost on its way: an honest browser would have shown it by now. It reports
// whether the session has to be judged again.
func (k *Keeper) reissue(ctx context.Context, app *App, v *view, shown Ticket) (again bool, err error) {
	body, err := parseSections(v.record.Body)
	if err != nil {
		return false, k.alarm(app, v.SID, "box")
	}
	keys := k.keys.Load()
	_, id := keys.first()
	attempt := newAttempt()
	next, change, err := keys.succession(app, shown, v.record.Generation, v.predecessors, store.Change{Version: v.version, Attempt: attempt, Key: id})
	if err != nil {
		return false, k.alarm(app, v.SID, "successor")
	}
	// The shown ticket is on record already: its entry now leads elsewhere.
	for i, p := range change.Predecessors {
		if p.Generation == shown.Generation {
			change.Predecessors[i].Key, change.Predecessors[i].Salt = change.Predecessor.Key, change.Predecessor.Salt
		}
	}
	change.Kind, change.Settle = store.Reissue, app.settle()
	s := *v.Session
	s.Generation = next.Generation
	change.Body = keys.pack(app.Name, next, &s, body, v.split)
	sent := k.now()
	answer, err := k.store.Commit(ctx, v.SID, change)
	if err != nil {
		return false, k.unavailable(ctx, err)
	}
	switch answer.Result {
	case store.OK:
		k.changed(v.SID, change)
	case store.Sending:
		return false, nil // served, without a cookie
	default:
		return true, nil
	}
	v.Session, v.ticket, v.version, v.record = &s, next, answer.Record.Version, answer.Record
	v.settled, v.handout = false, k.handout(app, next, sent, answer)
	k.audit("successor issued again", app, v.SID, slog.Uint64("generation", next.Generation))
	k.cache.hear(store.Event{SID: v.SID, Generation: next.Generation}, k.now())
	return false, nil
}
