package session_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
	"github.com/cloakroom/cloakroom/session/store"
	"github.com/cloakroom/cloakroom/session/storetest"
)

// Time in which the gateway could not write is not idle time. Redis is gone for
// twenty minutes, in the middle of which a session's half hour is over: neither
// who went on, whichever replica was asked, nor who was away has idled out. Who
// stays away for half an hour beside it has.
func TestOutageIsNotIdleTime(t *testing.T) {
	for _, row := range []struct {
		name   string
		active bool // the person went on meanwhile, at the first replica
		other  bool // and is served by the other one afterwards
		away   time.Duration
		idle   bool
	}{
		{"active, and the same replica", true, false, 0, false},
		{"active, and the other replica", true, true, 0, false},
		{"away, and back at once", false, false, 0, false},
		{"away, and back within the idle time", false, true, 9 * time.Minute, false},
		{"away for longer than the idle time", false, true, 11 * time.Minute, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.redis = storetest.Redis(t, "--appendonly", "yes", "--appendfsync", "always")
			replica := func() (*session.Keeper, *store.Store) {
				s := w.store(time.Second)
				k := session.New(s, w.keys, session.Options{Now: w.now, Log: testLog(t)})
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan struct{})
				go func() { k.Run(ctx); close(done) }()
				t.Cleanup(func() { cancel(); <-done; k.Wait(context.Background()) })
				eventually(t, "the replica hears itself", s.Hears)
				return k, s
			}
			k, near := replica()
			other, far := replica()
			ticket := w.begin(k)
			w.pass(20 * time.Minute)

			w.redis.Kill()
			eventually(t, "both replicas have noticed", func() bool { return near.Ping(t.Context()) != nil && far.Ping(t.Context()) != nil })
			for range 2 {
				if row.active {
					_, err := k.Open(t.Context(), w.app, ticket, session.Need{Activity: true})
					if _, ok := errors.AsType[*session.UnavailableError](err); !ok {
						t.Fatalf("Redis is gone: %v", err)
					}
				}
				w.pass(10 * time.Minute)
			}
			w.redis.Restart()
			eventually(t, "both replicas are back", func() bool { return near.Hears() && far.Hears() })
			w.pass(row.away)
			if row.other {
				k = other
			}
			if row.idle {
				w.wantEnded(k, ticket, session.ReasonIdleTimeout)
				return
			}
			w.open(k, ticket, session.Need{Activity: true})
		})
	}
}
