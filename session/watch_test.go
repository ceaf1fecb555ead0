package session_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
	"github.com/cloakroom/cloakroom/session/store"
)

func over(w *session.Watch) bool {
	select {
	case <-w.Done():
		return true
	default:
		return false
	}
}

func TestWatch(t *testing.T) {
	w := newWorld(t)
	here, there := w.listening(), w.listening()
	tk := w.begin(here)
	near, near2, far := here.Watch(w.app, tk.SID), here.Watch(w.app, tk.SID), there.Watch(w.app, tk.SID)
	if over(near) || near.Err() != nil {
		t.Fatal("over before its time")
	}
	near2.Stop()
	told := make(chan error, 1)
	far.AfterFunc(func() { told <- far.Err() })
	stop := near.AfterFunc(func() { t.Error("called after stop") })
	if !stop() {
		t.Error("stop came too late")
	}
	if err := here.End(t.Context(), w.app, tk.SID, session.ReasonLoggedOut); err != nil {
		t.Fatal(err)
	}
	// Its own event may be here before the reason is: then it is just an end.
	if _, ok := errors.AsType[*session.EndedError](near.Err()); !over(near) || !ok {
		t.Error("where it was ended:", near.Err())
	}
	if _, ok := errors.AsType[*session.EndedError](<-told); !ok {
		t.Error("elsewhere:", far.Err())
	}
	near.Stop()
	far.Stop()

	// An event that is wrong ends what is under way, and nothing that comes later.
	tk = w.begin(here)
	first := here.Watch(w.app, tk.SID)
	w.client().Publish(t.Context(), "cloakroom:events", "end "+tk.SID.String())
	eventually(t, "it is told", func() bool { return over(first) })
	second := here.Watch(w.app, tk.SID)
	first.Stop()
	if over(second) {
		t.Error("the next request got the old watch")
	}
	if err := here.End(t.Context(), w.app, tk.SID, session.ReasonLoggedOut); err != nil || !over(second) {
		t.Error("the new one is not told", err)
	}
	second.Stop()

	var none *session.Watch
	none.Until(time.Now())
	none.Stop()
	if over(none) || none.Err() != nil || !none.AfterFunc(func() {})() {
		t.Error("nobody's watch")
	}
}

// Watch first, open second: at no moment of an end is a session opened whose watch
// isn't told.
func TestWatchMissesNoEnd(t *testing.T) {
	w := newWorld(t)
	here, there := w.listening(), w.listening()
	for range 100 {
		tk := w.begin(here)
		w.open(there, tk, probe) // into its cache
		var race sync.WaitGroup
		for range 4 {
			race.Go(func() {
				for {
					watch := there.Watch(w.app, tk.SID)
					_, err := there.Open(t.Context(), w.app, tk, probe)
					if err != nil {
						watch.Stop()
						return
					}
					if over(watch) {
						watch.Stop()
						continue
					}
					select {
					case <-watch.Done():
					case <-time.After(10 * time.Second):
						t.Error("opened, and never told of the end")
					}
					watch.Stop()
				}
			})
		}
		if err := here.End(t.Context(), w.app, tk.SID, session.ReasonRevoked); err != nil {
			t.Fatal(err)
		}
		race.Wait()
	}
}

// What a bearer's session is judged by, where the list of ends doesn't reach.
func TestVouch(t *testing.T) {
	w := newWorld(t)
	here, deaf := w.listening(), w.replica()
	another := *w.app
	another.Name = "other"
	tk := w.begin(here)
	vouch := func(k *session.Keeper, app *session.App, sid session.SID, issued time.Time) error {
		return k.Vouch(t.Context(), app, sid, issued)
	}
	for name, k := range map[string]*session.Keeper{"hears": here, "deaf": deaf} {
		if err := vouch(k, w.app, tk.SID, w.now()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := vouch(k, w.app, tk.SID, time.Time{}); err != nil {
			t.Errorf("%s, issued nobody knows when: %v", name, err)
		}
		if err := vouch(k, w.app, session.NewSID(), w.now()); err != session.ErrNoSession {
			t.Errorf("%s, no session: %v", name, err)
		}
		if err := vouch(k, &another, tk.SID, w.now()); err != session.ErrNoSession {
			t.Errorf("%s, another app's: %v", name, err)
		}
		if sid, err := k.WhichOf(t.Context(), w.app, [][16]byte{session.NewSID(), tk.SID, session.NewSID()}); sid != tk.SID || err != nil {
			t.Errorf("%s, among noise: %v %v", name, sid, err)
		}
		if _, err := k.WhichOf(t.Context(), w.app, [][16]byte{session.NewSID(), session.NewSID()}); err != session.ErrNoSession {
			t.Errorf("%s, noise alone: %v", name, err)
		}
	}
	if err := deaf.End(t.Context(), w.app, tk.SID, session.ReasonRevoked); err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]*session.Keeper{"hears": here, "deaf": deaf} {
		eventually(t, name+": it is refused", func() bool {
			_, ended := errors.AsType[*session.EndedError](vouch(k, w.app, tk.SID, w.now()))
			return ended
		})
		if sid, err := k.WhichOf(t.Context(), w.app, [][16]byte{session.NewSID(), tk.SID}); sid != tk.SID || err != nil {
			t.Errorf("%s, ended, among noise: %v %v", name, sid, err)
		}
	}

	// All of an app's: by when the session began, not by when the token did.
	tk = w.begin(here)
	w.pass(10 * time.Second)
	if err := here.EndApp(t.Context(), w.app); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Second) // it takes what begins in the same moment, too
	next := w.begin(here)
	for name, k := range map[string]*session.Keeper{"hears": here, "deaf": deaf} {
		for _, issued := range []time.Duration{-time.Hour, -5 * time.Second, 0, time.Second} {
			at := w.now().Add(issued)
			eventually(t, name+": it is refused", func() bool { return vouch(k, w.app, tk.SID, at) != nil })
			if err := vouch(k, w.app, next.SID, at); err != nil {
				t.Errorf("%s: a session from after it: %v", name, err)
			}
		}
		eventually(t, name+": strangers, too", func() bool {
			return k.VouchForStranger(t.Context(), w.app, w.now().Add(-time.Minute)) != nil
		})
		if err := k.VouchForStranger(t.Context(), w.app, w.now().Add(time.Second)); err != nil {
			t.Errorf("%s: a stranger from after it: %v", name, err)
		}
	}
}

// Every proxied request pays for one.
func BenchmarkWatch(b *testing.B) {
	ring, err := session.NewKeyring(session.NewServerKey())
	if err != nil {
		b.Fatal(err)
	}
	st := store.New(store.Options{Address: "127.0.0.1:1"}) // never dialled
	defer st.Close()
	k, app := session.New(st, ring, session.Options{}), &session.App{Name: "shop"}
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		sid := session.NewSID()
		for p.Next() {
			watch := k.Watch(app, sid)
			if watch.Done() == nil {
				b.Error("no channel")
			}
			watch.Until(time.Time{})
			watch.Stop()
		}
	})
}
