package store

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// forget has Redis lose all that do changes of a session's record.
func (f *fixture) forget(sid [16]byte, do func()) {
	f.t.Helper()
	record, err := f.rdb.Get(f.t.Context(), f.recordKey(sid)).Result()
	if err != nil {
		f.t.Fatal(err)
	}
	do()
	if err := f.rdb.Set(f.t.Context(), f.recordKey(sid), record, redis.KeepTTL).Err(); err != nil {
		f.t.Fatal(err)
	}
}

// A failover while the provider answers may lose the mark. The token is spent:
// its successor must find its way into the record.
func TestNewTokensAreKeptThoughTheirMarkWasForgotten(t *testing.T) {
	inEveryMode(t, func(t *testing.T, f *fixture) {
		sid := f.begin()
		attempt := Attempt(id())
		a, err := f.Claim(t.Context(), sid, 1, attempt, 10*time.Second)
		want(t, a, err, OK)
		f.forget(sid, func() {
			a, err = f.Send(t.Context(), sid, 1, attempt, 10*time.Second)
			want(t, a, err, OK)
		})
		a, err = f.Commit(t.Context(), sid, f.advance(sid, 1, 1, attempt))
		want(t, a, err, OK)
	})
}

// A re-issue that Redis forgot brings no new tokens: run again, it must not get
// in the way of some that are about to come.
func TestReissueIsNotRunAgainOverAMark(t *testing.T) {
	inEveryMode(t, func(t *testing.T, f *fixture) {
		sid := f.begin()
		a, err := f.Commit(t.Context(), sid, f.advance(sid, 1, 1, f.send(sid, 1)))
		want(t, a, err, OK)
		f.offset += 4 * time.Minute
		again := Change{Kind: Reissue, Version: 2, Attempt: Attempt(id()), Key: f.keys[0], Body: []byte("body"),
			Generation: 3, Hash: hash(3), Settle: 3 * time.Minute, Predecessors: []Predecessor{{Generation: 1, Key: f.keys[0]}}}
		f.forget(sid, func() {
			a, err = f.Commit(t.Context(), sid, again)
			want(t, a, err, OK)
		})
		sent := f.send(sid, 2)
		again.Again = true
		a, err = f.Commit(t.Context(), sid, again)
		want(t, a, err, Sending)
		a, err = f.Commit(t.Context(), sid, Change{Kind: InPlace, Version: 2, Attempt: sent, Sent: true, Key: f.keys[0], Body: []byte("new body")})
		want(t, a, err, OK)
	})
}
