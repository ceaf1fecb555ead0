package session_test

import (
	"context"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// A replica that may not subscribe is deaf, however well Redis answers it: ends
// are told to nobody here, so what was cached before isn't believed any more.
func TestDeafReplicaAsksRedis(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.CacheTTL = 30 * time.Second
	k, other := w.listening(), w.replica()
	ticket := w.begin(k)
	w.open(k, ticket, page)
	w.open(k, ticket, page)
	w.redis.CLI("ACL", "SETUSER", "default", "-subscribe")
	w.redis.CLI("CLIENT", "KILL", "TYPE", "pubsub")
	<-time.After(1200 * time.Millisecond) // no beat is heard for longer than it may be old
	if err := other.End(t.Context(), w.app, ticket.SID, session.ReasonRevoked); err != nil {
		t.Fatal(err)
	}
	w.wantEnded(k, ticket, session.ReasonRevoked)
}

// Where the store can't say whether something has been done, it is not done.
func TestDoOnceStoreDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := session.New(w.store(100*time.Millisecond), w.keys, session.Options{Now: w.now, Log: testLog(t)})
	w.redis.Stop()
	defer w.redis.Cont()
	first, err := k.DoOnce(t.Context(), w.app, "one", time.Minute, func(context.Context) error {
		t.Error("done by who knows how many")
		return nil
	})
	if first || !unavailable(err) {
		t.Errorf("%v, %v", first, err)
	}
}
