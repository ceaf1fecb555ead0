package session

import (
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session/store"
)

// A watch that nobody uses is the next request's, as good as new, until the next
// sweep.
func TestWatchIsKeptForTheNextRequest(t *testing.T) {
	k := &Keeper{store: store.New(store.Options{Address: "127.0.0.1:1"}), watches: newWatches(), now: time.Now}
	app, sid := &App{Name: "shop"}, SID{1}
	first := k.Watch(app, sid)
	first.Until(time.Now())
	first.swept, first.asked, first.header, first.wanted = true, time.Now(), &store.Record{}, time.Now()
	first.Stop()
	next := k.Watch(app, sid)
	if next != first {
		t.Error("another one was made")
	}
	if !next.until.IsZero() || next.swept || !next.asked.IsZero() || next.header != nil || !next.wanted.IsZero() {
		t.Error("it knows of the request before")
	}
	next.Stop()
	if k.Watch(&App{Name: "shop"}, sid) == first {
		t.Error("it is of another configuration")
	}
	k.watches.end(sid, errOver)
	asked := k.Watch(app, sid)
	asked.asking = true
	asked.Stop()
	fresh := k.Watch(app, sid)
	if fresh == asked {
		t.Error("an answer that is on its way is for whoever asked")
	}
	k.sweepOnce(t.Context())
	if s := fresh.shard; s.bySID[sid] != fresh {
		t.Error("one in use was swept away")
	}
	fresh.Stop()
	k.sweepOnce(t.Context())
	if s := fresh.shard; len(s.bySID) != 0 {
		t.Error("one that nobody uses stays")
	}
}
