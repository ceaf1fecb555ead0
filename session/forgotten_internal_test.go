package session

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cloakroom/cloakroom/session/store"
	"github.com/cloakroom/cloakroom/session/storetest"
)

// A failover may have lost what was judged, and another change may have been made
// since, on the same version. Its ticket is another: nothing is done to it.
func TestRefreshOfAnotherHistoryIsLeft(t *testing.T) {
	server := storetest.Redis(t)
	s := store.New(store.Options{Address: server.Addr(), KeyPrefix: "t:"})
	defer s.Close()
	keys, err := NewKeyring(NewServerKey())
	if err != nil {
		t.Fatal(err)
	}
	presented := false
	app := &App{Name: "shop", AbsoluteTimeout: time.Hour, Grace: time.Minute, Refresh: func(_ context.Context, _ *Session, sending func() error) Refreshed {
		presented = sending() == nil
		return Refreshed{Outcome: OutcomeUnspent}
	}}
	k := New(s, keys, Options{})
	now := time.Now()
	ticket, err := k.Begin(t.Context(), app, Login{Tokens: Tokens{Access: "a", Refresh: "r", IssuedAt: now, ExpiresAt: now.Add(time.Minute)}, Issuer: "i", Subject: "s"})
	if err != nil {
		t.Fatal(err)
	}
	v, err := k.judge(t.Context(), app, ticket, Need{})
	if err != nil {
		t.Fatal(err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), DisableIdentity: true})
	defer rdb.Close()
	const hash = 32 // its place in the record
	if err := rdb.SetRange(t.Context(), "t:s:{"+ticket.SID.String()+"}", hash, "another").Err(); err != nil {
		t.Fatal(err)
	}
	if next, err := k.fly(t.Context(), app, v, func() bool { return true }, nil); next != nil || err != nil || presented {
		t.Errorf("%v, %v, presented: %v", next, err, presented)
	}
	if r, _, err := s.Read(t.Context(), ticket.SID); err != nil || r.Version != v.version+1 || !r.LeaseUntil.IsZero() {
		t.Errorf("version %d, lease until %v, %v", r.Version, r.LeaseUntil, err)
	}
}
