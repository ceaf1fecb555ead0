package store

import (
	"testing"
	"time"
)

// D: late copies of a finished attempt's claim and sending.
func TestLateClaimAndSendingAfterWithdraw(t *testing.T) {
	inEveryMode(t, testLateClaimAndSendingAfterWithdraw)
}

func testLateClaimAndSendingAfterWithdraw(t *testing.T, f *fixture) {
	ctx := t.Context()
	sid := f.begin()
	attempt := Attempt(id())
	a, err := f.Claim(ctx, sid, 1, attempt, 10*time.Second)
	want(t, a, err, OK)
	a, err = f.Withdraw(ctx, sid, 1, attempt) // nothing was sent
	want(t, a, err, OK)
	f.Claim(ctx, sid, 1, attempt, 10*time.Second) // a renewal that lingered
	f.Send(ctx, sid, 1, attempt, 10*time.Second)  // a sending that lingered
	a, err = f.Claim(ctx, sid, a.Record.Version, Attempt(id()), 10*time.Second)
	want(t, a, err, OK)
}
