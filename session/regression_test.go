package session_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// settled predecessor, live token shorter than min_ttl, provider down.
func TestSettledShortTokenProviderDown(t *testing.T) {
	w := newWorld(t)
	k := w.replica()
	first := w.begin(k)
	w.rotate(k, first)
	w.pass(3*w.app.Grace + time.Second) // settled; 119 s left
	w.provider.answer(session.Refreshed{Outcome: session.OutcomeUnspent, RetryAfter: 10 * time.Second})
	need := page
	need.MinTTL = 2 * time.Minute
	start := time.Now()
	o, err := k.Open(t.Context(), w.app, first, need)
	if err != nil {
		t.Fatalf("after %v: %v", time.Since(start), err)
	}
	if string(o.Tokens.Access) != "ATcanary-2" {
		t.Fatal("token")
	}
	t.Log(time.Since(start))
}

// an end missed while the subscription was broken.
func TestCacheAfterBrokenSubscription(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.CacheTTL = 30 * time.Second
	k := w.listening()
	other := w.replica()
	ticket := w.begin(k)
	w.open(k, ticket, page)
	w.open(k, ticket, page)
	w.redis.CLI("CLIENT", "KILL", "TYPE", "pubsub")
	if err := other.End(t.Context(), w.app, ticket.SID, session.ReasonRevoked); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(4 * time.Second)
	<-time.After(1100 * time.Millisecond)
	for time.Now().Before(deadline) {
		if _, err := k.Open(t.Context(), w.app, ticket, page); err == nil {
			t.Fatal("served more than 1.1 s after the end")
		}
		<-time.After(20 * time.Millisecond)
	}
}

// activity that could not be written is forgotten by a probe.
func TestUnwrittenActivitySurvivesAProbe(t *testing.T) {
	w := newWorld(t)
	k := session.New(w.store(100*time.Millisecond), w.keys, session.Options{Now: w.now, Log: testLog(t)})
	ticket := w.begin(k)
	w.pass(25 * time.Minute)
	w.redis.Stop()
	w.wantUnavailable(k, ticket, session.Need{Activity: true})
	// what piled up at the frozen Redis must not count: a dead Redis runs nothing
	w.redis.Kill()
	_ = fmt.Sprint
}

func TestUnwrittenActivityIsWrittenByAProbe(t *testing.T) {
	w := newWorld(t)
	k := w.replica()
	ticket := w.begin(k)
	w.pass(25 * time.Minute)
	w.redis.CLI("CONFIG", "SET", "maxmemory", "1")
	w.open(k, ticket, session.Need{Activity: true}) // refused write
	w.redis.CLI("CONFIG", "SET", "maxmemory", "0")
	w.pass(time.Minute)
	w.open(k, ticket, probe)
	w.pass(6 * time.Minute)
	w.open(k, ticket, page) // 7 min after it was used
}

// the refresh token's end is judged against a refresh in flight.
func TestRefreshTokenEndDuringRefresh(t *testing.T) {
	w := newWorld(t)
	k, other := w.replica(), w.replica()
	l := w.login()
	l.Tokens.RefreshExpiresAt = w.now().Add(tokenLife + time.Second)
	ticket, err := k.Begin(t.Context(), w.app, l)
	if err != nil {
		t.Fatal(err)
	}
	w.pass(tokenLife)
	w.provider.before = func() {
		w.pass(2 * time.Second) // the provider takes its time; the token was presented in time
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		_, err := other.Open(ctx, w.app, ticket, page)
		if _, ended := errors.AsType[*session.EndedError](err); ended {
			t.Error("a parallel request ended the session:", err)
		}
	}
	o, err := k.Open(t.Context(), w.app, ticket, page)
	if err != nil {
		t.Fatal(err)
	}
	_ = o
}

// F
func TestSessionPrintsNoToken(t *testing.T) {
	w := newWorld(t)
	k := w.replica()
	ticket := w.begin(k)
	o := w.open(k, ticket, page)
	for _, f := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		s := fmt.Sprintf(f, o) + fmt.Sprintf(f, *o.Session)
		if strings.Contains(s, "canary-") || strings.Contains(s, "84 99 97 110 97 114 121") || strings.Contains(s, "63616e617279") || strings.Contains(s, "0x63, 0x61, 0x6e") {
			t.Errorf("%s prints a token", f)
		}
	}
}

// Redis refuses the beat's write.
func TestReadOnlyRedis(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.listening()
	ticket := w.begin(k)
	w.open(k, ticket, page)
	w.redis.CLI("REPLICAOF", "127.0.0.1", "1")
	<-time.After(2200 * time.Millisecond)
	_, err := k.Open(t.Context(), w.app, ticket, page)
	if _, ok := errors.AsType[*session.UnavailableError](err); !ok {
		t.Fatalf("served from a Redis that takes no writes: %v", err)
	}
}

// an outage that answers 502 for a few minutes.
func TestOutageOfUnknownAnswers(t *testing.T) {
	w := newWorld(t)
	k := w.replica()
	tickets := []session.Ticket{}
	for range 3 {
		tickets = append(tickets, w.begin(k))
	}
	w.pass(tokenLife)
	for range 200 {
		w.provider.answers = append(w.provider.answers, session.Refreshed{Outcome: session.OutcomeUnknown})
	}
	ended := 0
	for range 60 { // 5 minutes
		for _, ticket := range tickets {
			_, err := k.Open(t.Context(), w.app, ticket, page)
			if e, ok := errors.AsType[*session.EndedError](err); ok {
				t.Logf("ended: %v", e)
				ended++
			}
		}
		w.pass(5 * time.Second)
	}
	if ended > 0 {
		t.Errorf("an outage of the provider ended sessions")
	}
}

// second presentation after the declared interval.
func TestReuseIntervalIsKept(t *testing.T) {
	w := newWorld(t)
	w.app.RefreshReuse = 10 * time.Second
	k := w.replica()
	first := w.begin(k)
	w.pass(tokenLife)
	var at []time.Time
	w.app.Refresh = func(ctx context.Context, s *session.Session, sending func() error) session.Refreshed {
		if len(at) == 1 {
			w.pass(14 * time.Second) // the second connection takes long to open
		}
		if err := sending(); err != nil {
			return session.Refreshed{Outcome: session.OutcomeNotSent, Err: err}
		}
		at = append(at, w.now())
		return session.Refreshed{Outcome: session.OutcomeUnknown}
	}
	w.wantUnavailable(k, first, page)
	if len(at) == 2 && at[1].Sub(at[0]) > w.app.RefreshReuse {
		t.Fatal("presented again after", at[1].Sub(at[0]))
	}
}

// first sight is forgotten once the record has caught up.
func TestAheadTwice(t *testing.T) {
	w := newWorld(t)
	k := w.replica()
	first := w.begin(k)
	ahead := first
	ahead.Generation = 7
	w.wantUnavailable(k, ahead, page)
	second := w.rotate(k, first)
	w.open(k, second, page)
	w.rotate(k, second)
	w.wantUnavailable(k, ahead, page)
}

// clocks of gateways.
func TestGatewayClocksDiffer(t *testing.T) {
	w := newWorld(t)
	right := w.replica()
	first := w.begin(right)
	// the other gateway's clock is ahead by ten minutes
	fast := session.New(w.store(2*time.Second), w.keys, session.Options{Now: func() time.Time { return w.now().Add(10 * time.Minute) }, Log: testLog(t)})
	fapp := *w.app
	fapp.Refresh = func(ctx context.Context, s *session.Session, sending func() error) session.Refreshed {
		r := w.provider.refresh(ctx, s, sending)
		r.Tokens.IssuedAt = r.Tokens.IssuedAt.Add(10 * time.Minute)
		r.Tokens.ExpiresAt = r.Tokens.ExpiresAt.Add(10 * time.Minute)
		return r
	}
	w.pass(tokenLife)
	o, err := fast.Open(t.Context(), &fapp, first, page)
	if err != nil {
		t.Fatal(err)
	}
	w.pass(tokenLife + time.Second) // the token has run out
	o = w.open(right, o.Successor.Ticket, page)
	if string(o.Tokens.Access) == "ATcanary-2" {
		t.Error("a dead token is served")
	}
}
func TestGatewayClockBehindRefreshEnd(t *testing.T) {
	w := newWorld(t)
	slowNow := func() time.Time { return w.now().Add(-10 * time.Minute) }
	st := w.store(2 * time.Second)
	if err := st.Ping(t.Context()); err != nil { // a beat: Redis's time is known
		t.Fatal(err)
	}
	slow := session.New(st, w.keys, session.Options{Now: slowNow, Log: testLog(t)})
	l := w.login()
	l.Tokens.IssuedAt = slowNow()
	l.Tokens.ExpiresAt = slowNow().Add(tokenLife)
	l.Tokens.RefreshExpiresAt = slowNow().Add(2 * tokenLife)
	ticket, err := slow.Begin(t.Context(), w.app, l)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Open(t.Context(), w.app, ticket, page); err != nil {
		t.Fatal(err)
	}
}

// the hold counts from the hand-out.
func TestHoldCountsFromHandout(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := session.New(w.store(100*time.Millisecond), w.keys, session.Options{Now: w.now, Log: testLog(t)})
	first := w.rotate(k, w.begin(k)) // Redis knows the scripts
	w.open(k, first, probe)
	w.pass(tokenLife)
	w.provider.after = func() {
		w.redis.Stop()
		time.AfterFunc(250*time.Millisecond, func() { w.pass(w.app.Grace) })
		time.AfterFunc(800*time.Millisecond, w.redis.Cont)
	}
	o := w.open(k, first, page)
	w.provider.after = nil
	c := w.client()
	raw := c.Get(t.Context(), "cloakroom:s:{"+first.SID.String()+"}").Val()
	t.Logf("successor %v handed age %v", o.Successor != nil, w.now().UnixMilli()-int64(binary.BigEndian.Uint64([]byte(raw[68:76]))))
	if k.MayHandOut(o.Successor) {
		t.Fatal("leaves a whole grace after its hand-out")
	}
}

// a probe whose latch isn't set.
func TestProbeGivenBack(t *testing.T) {
	w := newWorld(t)
	k, other := w.replica(), w.replica()
	a, b := w.begin(k), w.begin(k)
	w.pass(tokenLife)
	w.provider.answer(session.Refreshed{Outcome: session.OutcomeUnspent})
	w.wantUnavailable(k, b, page) // the breaker opens
	w.pass(10 * time.Second)
	real := w.app.Refresh
	papp := *w.app
	papp.Refresh = func(ctx context.Context, s *session.Session, sending func() error) session.Refreshed {
		other.End(ctx, w.app, s.SID, session.ReasonLoggedOut) // so that the latch is refused
		return real(ctx, s, sending)
	}
	_, err := k.Open(t.Context(), &papp, a, page)
	t.Log(err)
	if _, err := k.Open(t.Context(), w.app, b, page); err != nil {
		t.Errorf("everybody else waits for a probe that never was: %v", err)
	}
}

// cost of a standing mark while the token lives.
func TestStandingMarkCost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.listening()
	first := w.begin(k)
	w.pass(tokenLife - 40*time.Second)
	w.provider.answer(session.Refreshed{Outcome: session.OutcomeUnknown})
	w.open(k, first, page)
	k.Wait(t.Context())
	w.pass(11 * time.Second)
	c := w.client()
	before := commandCalls(t, c.Info(context.Background(), "commandstats").Val(), "evalsha")
	for range 100 {
		w.open(k, first, page)
		k.Wait(t.Context())
	}
	t.Log("scripts:", commandCalls(t, c.Info(context.Background(), "commandstats").Val(), "evalsha")-before)
}
