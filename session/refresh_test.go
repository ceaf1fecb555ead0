package session_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

func commandCalls(t *testing.T, info, name string) int64 {
	t.Helper()
	for line := range strings.Lines(info) {
		if rest, ok := strings.CutPrefix(line, "cmdstat_"+name+":calls="); ok {
			n, _, _ := strings.Cut(rest, ",")
			calls, err := strconv.ParseInt(n, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return calls
		}
	}
	return 0
}

// N-03, N-04: parallel requests on two replicas, token out.
func TestParallelRequestsCostOneGrant(t *testing.T) {
	t.Parallel()
	for round := range 5 {
		w := newWorld(t)
		replicas := []*session.Keeper{w.listening(), w.listening()}
		ticket := w.begin(replicas[0])
		w.pass(tokenLife)
		var wg sync.WaitGroup
		var mu sync.Mutex
		var successors []session.Ticket
		for i := range 100 {
			wg.Go(func() {
				o, err := replicas[i%2].Open(context.Background(), w.app, ticket, page)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					t.Errorf("round %d: %v", round, err)
				case o.Subject != "SUBcanary-alice" || string(o.Tokens.Access) != "ATcanary-2":
					t.Errorf("round %d: not the new token", round)
				case o.Successor != nil:
					successors = append(successors, o.Successor.Ticket)
				}
			})
		}
		wg.Wait()
		if len(successors) != 1 || w.provider.grants() != 2 {
			t.Fatalf("round %d: %d successors, %d grants", round, len(successors), w.provider.grants())
		}
		w.provider.wantNoReuse(t)
		w.open(replicas[1], successors[0], page)
	}
}

func TestTokenNearItsEndIsRefreshedInTheBackground(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	first := w.begin(k)
	w.pass(tokenLife - 20*time.Second)
	o := w.open(k, first, page)
	if o.Successor != nil || string(o.Tokens.Access) != "ATcanary-1" {
		t.Fatal("the request waited")
	}
	if err := k.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	o = w.open(k, first, page)
	if o.Successor == nil || string(o.Tokens.Access) != "ATcanary-2" {
		t.Fatal("the next bearer gets no successor")
	}
	w.provider.wantNoReuse(t)
}

func TestYoungTokenIsNotRefreshedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	first := w.begin(k)
	need := page
	need.MinTTL = time.Hour // capped at half the token's life
	w.open(k, first, need)
	w.pass(tokenLife/2 - time.Second)
	w.open(k, first, need)
	if n := w.provider.grants(); n != 1 {
		t.Fatalf("%d grants", n)
	}
	w.pass(2 * time.Second)
	w.open(k, first, need)
	if n := w.provider.grants(); n != 2 {
		t.Fatalf("%d grants", n)
	}
}

// N-09: a client that hangs up burns nothing.
func TestClientGoneDuringRefresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.replica()
	first := w.begin(k)
	w.pass(tokenLife)
	ctx, hangUp := context.WithCancel(t.Context())
	w.provider.before = hangUp
	if _, err := k.Open(ctx, w.app, first, page); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := k.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.provider.before = nil
	o := w.open(k, first, page)
	if o.Successor == nil {
		t.Fatal("the successor was handed out to nobody")
	}
	if n := w.provider.grants(); n != 2 {
		t.Errorf("%d grants", n)
	}
	w.provider.wantNoReuse(t)
}

// The outcome table.
func TestRefreshOutcomes(t *testing.T) {
	t.Parallel()
	kept := []struct {
		name    string
		outcome session.Outcome
	}{
		{"not sent", session.OutcomeNotSent},
		{"unspent", session.OutcomeUnspent},
	}
	for _, row := range kept {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			k, other := w.replica(), w.replica()
			first := w.begin(k)
			w.pass(tokenLife)
			w.provider.answer(session.Refreshed{Outcome: row.outcome, RetryAfter: 3 * time.Second})
			u := w.wantUnavailable(k, first, page)
			if !u.Provider || u.RetryAfter < time.Second || u.RetryAfter > 10*time.Second {
				t.Fatalf("%+v", u)
			}
			// Left alone by all.
			w.wantUnavailable(k, first, page)
			w.wantUnavailable(other, first, page)
			w.pass(10 * time.Second)
			if o := w.open(other, first, page); o.Successor == nil {
				t.Fatal("no successor")
			}
		})
	}
	t.Run("not sent, by this replica's own fault: no other is kept from it", func(t *testing.T) {
		w := newWorld(t)
		k, other := w.replica(), w.replica()
		first := w.begin(k)
		w.pass(tokenLife)
		w.provider.answer(session.Refreshed{Outcome: session.OutcomeNotSent, Local: true})
		if u := w.wantUnavailable(k, first, page); !u.Provider || u.RetryAfter < time.Second {
			t.Fatalf("%+v", u)
		}
		if o := w.open(other, first, page); o.Successor == nil {
			t.Fatal("no successor")
		}
	})
	t.Run("live token served meanwhile", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		first := w.begin(k)
		w.pass(tokenLife - 30*time.Second)
		w.provider.answer(session.Refreshed{Outcome: session.OutcomeUnspent})
		need := page
		need.MinTTL = time.Minute
		if o := w.open(k, first, need); string(o.Tokens.Access) != "ATcanary-1" {
			t.Fatal("not the live token")
		}
	})
	t.Run("rejected", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		first := w.begin(k)
		w.pass(tokenLife)
		w.provider.answer(session.Refreshed{Outcome: session.OutcomeRejected})
		w.wantEnded(k, first, session.ReasonRefreshRejected)
		w.wantEnded(w.replica(), first, session.ReasonRefreshRejected)
	})
	t.Run("foreign subject", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		first := w.begin(k)
		w.pass(tokenLife)
		w.provider.answer(session.Refreshed{Outcome: session.OutcomeForeign, Tokens: session.Tokens{Refresh: "foreign"}})
		w.wantEnded(k, first, session.ReasonRefreshRejected)
		if fmt.Sprint(len(w.provider.revoked)) != "1" {
			t.Error("the foreign token was kept")
		}
	})
	t.Run("no refresh token", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		l := w.login()
		l.Tokens.Refresh = ""
		ticket, err := k.Begin(t.Context(), w.app, l)
		if err != nil {
			t.Fatal(err)
		}
		w.pass(tokenLife - 10*time.Second)
		w.open(k, ticket, page)
		w.pass(10 * time.Second)
		w.wantEnded(k, ticket, session.ReasonRefreshRejected)
	})
	t.Run("refresh token's own end", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		l := w.login()
		l.Tokens.RefreshExpiresAt = w.now().Add(2 * time.Minute)
		ticket, err := k.Begin(t.Context(), w.app, l)
		if err != nil {
			t.Fatal(err)
		}
		w.open(k, ticket, page)
		w.pass(2 * time.Minute)
		w.wantEnded(k, ticket, session.ReasonRefreshRejected)
	})
	t.Run("provider keeps the refresh token", func(t *testing.T) {
		w := newWorld(t)
		w.provider.keeps = true
		k := w.replica()
		ticket := w.begin(k)
		for range 3 {
			ticket = w.rotate(k, ticket)
		}
		// Presenting it again can't be reuse, so an unknown answer is no matter.
		w.pass(tokenLife)
		w.provider.answer(session.Refreshed{Outcome: session.OutcomeUnknown})
		w.wantUnavailable(k, ticket, page)
		w.pass(10 * time.Second)
		w.open(k, ticket, page)
	})
	for _, spent := range []bool{false, true} {
		t.Run(fmt.Sprintf("unknown, spent=%v", spent), func(t *testing.T) {
			w := newWorld(t)
			k, other := w.replica(), w.replica()
			first := w.begin(k)
			w.pass(tokenLife)
			w.provider.commits = spent
			w.provider.answer(session.Refreshed{Outcome: session.OutcomeUnknown})
			w.wantUnavailable(k, first, page)
			w.pass(10 * time.Second)
			w.wantUnavailable(other, first, page) // the first look
			w.pass(29 * time.Second)
			w.wantUnavailable(k, first, page)
			w.pass(2 * time.Second)
			if spent {
				w.wantEnded(other, first, session.ReasonRefreshRejected)
			} else {
				w.open(other, first, page)
			}
			for token, n := range w.provider.presented {
				if n > 2 {
					t.Errorf("%s presented %d times", string(token), n)
				}
			}
		})
	}
	t.Run("unknown twice", func(t *testing.T) {
		w := newWorld(t)
		k := w.replica()
		first := w.begin(k)
		w.pass(tokenLife)
		w.provider.answer(session.Refreshed{Outcome: session.OutcomeUnknown}, session.Refreshed{Outcome: session.OutcomeUnknown})
		for range 4 {
			w.wantUnavailable(k, first, page)
			w.pass(31 * time.Second)
		}
		// An outage of unknown answers ends nobody: only invalid_grant would.
		w.open(k, first, page)
	})
	t.Run("unknown, provider treats reuse as an incident", func(t *testing.T) {
		w := newWorld(t)
		w.app.UnknownAnswerEnds = true
		k := w.replica()
		first := w.begin(k)
		w.pass(tokenLife)
		w.provider.answer(session.Refreshed{Outcome: session.OutcomeUnknown})
		for range 2 {
			w.wantUnavailable(k, first, page)
			w.pass(31 * time.Second)
		}
		w.wantEnded(k, first, session.ReasonRefreshRejected)
		w.provider.wantNoReuse(t)
	})
	t.Run("unknown, provider declares a reuse interval", func(t *testing.T) {
		w := newWorld(t)
		w.app.RefreshReuse = 10 * time.Second
		k := w.replica()
		first := w.begin(k)
		w.pass(tokenLife)
		w.provider.answer(session.Refreshed{Outcome: session.OutcomeUnknown})
		if o := w.open(k, first, page); o.Successor == nil {
			t.Fatal("not presented again at once")
		}
	})
}

// Kill against refresh: an end at each gate of a refresh in flight.
func TestEndWinsAgainstRefresh(t *testing.T) {
	t.Parallel()
	for _, gate := range []string{"after sending", "after the provider's commit"} {
		t.Run(gate, func(t *testing.T) {
			w := newWorld(t)
			k, other := w.replica(), w.replica()
			first := w.begin(k)
			w.pass(tokenLife)
			end := func() {
				if err := other.End(context.Background(), w.app, first.SID, session.ReasonRevoked); err != nil {
					t.Error(err)
				}
			}
			if gate == "after sending" {
				w.provider.before = end
			} else {
				w.provider.after = end
			}
			w.wantEnded(k, first, session.ReasonRevoked)
			w.wantEnded(other, first, session.ReasonRevoked)
			if len(w.provider.revoked) != 1 || w.provider.revoked[0] != "RTcanary-2" {
				t.Errorf("%d tokens revoked at the provider", len(w.provider.revoked))
			}
		})
	}
}

// N-11: Redis stops after the provider's answer: the new tokens are held.
func TestCommitIsHeldUntilRedisTakesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := session.New(w.store(200*time.Millisecond), w.keys, session.Options{Now: w.now, Log: testLog(t)})
	first := w.begin(k)
	w.pass(tokenLife)
	w.provider.after = func() {
		w.redis.Stop()
		time.AfterFunc(time.Second, w.redis.Cont)
	}
	o := w.open(k, first, page)
	w.provider.after = nil
	if string(o.Tokens.Access) != "ATcanary-2" || o.Successor == nil {
		t.Fatal("not the new tokens")
	}
	w.open(w.replica(), o.Successor.Ticket, page)
	w.provider.wantNoReuse(t)
}

func TestRedisStoppedTouchesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := session.New(w.store(100*time.Millisecond), w.keys, session.Options{Now: w.now, Log: testLog(t)})
	first := w.begin(k)
	w.redis.Stop()
	u := w.wantUnavailable(k, first, page)
	if u.Provider {
		t.Error("blamed on the provider")
	}
	w.redis.Cont()
	w.open(k, first, page)
}

// Mint mode: the refresh token is checked every revalidate, whatever the life of
// the provider's access token.
func TestRevalidate(t *testing.T) {
	t.Parallel()
	t.Run("due in the background, later in the request", func(t *testing.T) {
		w := newWorld(t)
		w.app.Revalidate = 10 * time.Minute
		k := w.replica()
		ticket := w.begin(k)
		w.pass(9 * time.Minute) // the provider's token ran out: no matter
		w.open(k, ticket, page)
		if n := w.provider.grants(); n != 1 {
			t.Fatalf("%d grants", n)
		}
		w.pass(time.Minute)
		if o := w.open(k, ticket, page); o.Successor != nil {
			t.Fatal("the request waited")
		}
		if err := k.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		o := w.open(k, ticket, page)
		if o.Successor == nil || w.provider.grants() != 2 {
			t.Fatal("not checked")
		}
		w.pass(12 * time.Minute)
		if o := w.open(k, o.Successor.Ticket, page); o.Successor == nil || w.provider.grants() != 3 {
			t.Fatal("the request did not wait")
		}
	})
	t.Run("provider down", func(t *testing.T) {
		w := newWorld(t)
		w.app.Revalidate = 10 * time.Minute
		k := w.replica()
		ticket := w.begin(k)
		w.pass(12 * time.Minute)
		w.provider.answer(session.Refreshed{Outcome: session.OutcomeNotSent})
		w.wantUnavailable(k, ticket, page)
	})
	t.Run("password changed at the provider", func(t *testing.T) {
		w := newWorld(t)
		w.app.Revalidate = 10 * time.Minute
		k := w.replica()
		ticket := w.begin(k)
		w.pass(12 * time.Minute)
		w.provider.answer(session.Refreshed{Outcome: session.OutcomeRejected})
		w.wantEnded(k, ticket, session.ReasonRefreshRejected)
	})
	t.Run("nothing to refresh", func(t *testing.T) {
		w := newWorld(t)
		w.app.Revalidate = 10 * time.Minute
		k := w.replica()
		first, err := w.beginAs(k, func(l *session.Login) { l.Tokens.Refresh = "" })
		if err != nil {
			t.Fatal(err)
		}
		ticket := first
		for range 3 {
			w.pass(10 * time.Minute)
			w.open(k, ticket, page)
			if err := k.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			o := w.open(k, ticket, page)
			if o.Successor == nil {
				t.Fatal("the ticket does not advance")
			}
			ticket = o.Successor.Ticket
			w.open(k, ticket, page)
		}
		w.pass(w.app.Grace)
		w.wantEnded(k, first, session.ReasonReuseDetected)
	})
}
