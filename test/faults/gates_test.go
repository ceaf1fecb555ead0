package faults

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// The rows' races, forced by gates instead of hoped for: one browser, one fault,
// and the same checker at the end. They share two replicas, and so come one after
// the other, in any order; each leaves the replicas as it found them.
func TestGates(t *testing.T) {
	w := newStage(t, "")
	before := w.gauges()
	for _, n := range rand.Perm(len(gates)) {
		t.Run(gates[n].name, func(t *testing.T) {
			s := w.scene(t)
			gates[n].play(s)
			s.restored()
		})
	}
	// What was printed, kept and left open is looked at once, for all of them.
	after := w.quiet(before)
	w.sweep(w.Rig.Logs())
	h := w.told("gates", 1)
	for _, v := range Check(&History{Before: before, After: after, Troubles: h.Troubles}, Allowance{}).Violations {
		t.Error(v)
	}
}

var gates = []struct {
	name string
	play func(s *scene)
}{
	{"F1 killed during a grant", killedDuringAGrant},
	{"F2 asked to end during a grant", retiredDuringAGrant},
	{"F3 asleep with the answer", asleepWithTheAnswer},
	{"F6 Redis is frozen", redisIsFrozen},
	{"F9 the provider is away", providerIsAway},
	{"F10 the answer is lost", answerIsLost},
	{"F11 ten ask while one is at the provider", oneAsksForAll},
	{"F13 the upstream resets", upstreamResets},
	{"F14 gone before the commit", func(s *scene) { goneDuringAGrant(s, gatewaytest.GateBeforeCommit) }},
	{"F14 gone after the commit", func(s *scene) { goneDuringAGrant(s, gatewaytest.GateAfterCommit) }},
	{"F14 gone in mid body", func(s *scene) { goneDuringAGrant(s, gatewaytest.GateMidBody) }},
	{"F15 a new ticket is lost", newTicketIsLost},
	{"F16 ended during a grant", endedDuringAGrant},
}

// The replica that refreshes is killed when the provider has spent the token.
// The other one presents nothing on a guess: it refuses.
func killedDuringAGrant(s *scene) {
	over := s.Fault("SIGKILL")
	hold, done := s.refreshing(s.first, gatewaytest.GateAfterCommit)
	s.Kill(s.first)
	defer s.Boot(s.first)
	hold.Release()
	if op := <-done; op.Error == "" {
		s.t.Errorf("a killed replica answers: %s", &op)
	}
	op := s.b.Do(Ask{Kind: KindToken, At: s.second, Within: 500 * time.Millisecond})
	if op.Status != http.StatusServiceUnavailable && op.Error != "aborted" {
		s.t.Errorf("the other replica: %s", &op)
	}
	if n := s.redemptions(); n != 1 {
		s.t.Errorf("%d redemptions", n)
	}
	over()
	s.judged(Allowance{Cut: true})
}

// A replica that is asked to end finishes the refresh, answers, and is gone.
func retiredDuringAGrant(s *scene) {
	hold, done := s.refreshing(s.first, gatewaytest.GateAfterCommit)
	code := make(chan int, 1)
	s.first.ready.Store(false)
	go func() { code <- s.Retire(s.first) }()
	defer s.Boot(s.first)
	g := s.first.Gateway()
	rig.Eventually(s.t, "it takes no more", func() bool { return g == nil || !g.Ready() })
	hold.Release()
	if op := <-done; op.Status != http.StatusOK || op.Got == "" {
		s.t.Errorf("the refresh that was under way: %s", &op)
	}
	if n := <-code; n != 0 {
		s.t.Errorf("exit code %d", n)
	}
	s.token(s.second, http.StatusOK)
	if r := s.judged(Allowance{}); r.Grants != 1 {
		s.t.Errorf("%d grants", r.Grants)
	}
}

// The replica that refreshes sleeps with the answer on its way to it, wakes up
// and commits; nobody has asked the provider meanwhile.
func asleepWithTheAnswer(s *scene) {
	over := s.Fault("SIGSTOP")
	hold, done := s.refreshing(s.first, gatewaytest.GateAfterCommit)
	s.Freeze(s.first)
	defer s.Thaw(s.first)
	hold.Release()
	other := s.b.Do(Ask{Kind: KindToken, At: s.second, Within: 300 * time.Millisecond})
	if other.Status == http.StatusOK || other.Status == http.StatusUnauthorized {
		s.t.Errorf("the other replica, meanwhile: %s", &other)
	}
	s.Thaw(s.first)
	if op := <-done; op.Status != http.StatusOK || op.Got == "" {
		s.t.Errorf("the replica that slept: %s", &op)
	}
	over()
	s.token(s.second, http.StatusOK)
	if r := s.judged(Allowance{Cut: true}); r.Grants != 1 {
		s.t.Errorf("%d grants", r.Grants)
	}
}

// Redis freezes with a refresh at the provider: its answer waits for Redis, and
// nothing is lost.
func redisIsFrozen(s *scene) {
	over := s.Fault("Redis is frozen")
	hold, done := s.refreshing(s.first, gatewaytest.GateAfterCommit)
	s.Redis.Stop()
	defer s.Redis.Cont()
	hold.Release()
	other := s.b.Do(Ask{Kind: KindToken, At: s.second, Within: 300 * time.Millisecond})
	if other.Status == http.StatusOK || other.Status == http.StatusUnauthorized {
		s.t.Errorf("the other replica, meanwhile: %s", &other)
	}
	s.Redis.Cont()
	if op := <-done; op.Status != http.StatusOK || op.Got == "" {
		s.t.Errorf("the refresh that was under way: %s", &op)
	}
	over()
	s.token(s.second, http.StatusOK)
	if r := s.judged(Allowance{}); r.Grants != 1 {
		s.t.Errorf("%d grants", r.Grants)
	}
}

// While the provider is away sessions wait, each costs one grant afterwards, and
// the back-off keeps the others away from it.
func providerIsAway(s *scene) {
	over := s.Fault("the provider refuses")
	s.ProviderLink.Refuse()
	defer s.ProviderLink.Accept()
	for range 5 {
		op := s.token(nil, http.StatusServiceUnavailable)
		if op.Code != "provider_unavailable" {
			s.t.Errorf("%s", &op)
		}
	}
	s.ProviderLink.Accept()
	over()
	rig.Eventually(s.t, "the session works again", func() bool { return s.b.Do(Ask{Kind: KindToken}).Status == http.StatusOK })
	if r := s.judged(Allowance{Recovery: 12 * time.Second}); r.Grants != 1 {
		s.t.Errorf("%d grants", r.Grants)
	}
}

// The provider spends the token, and its answer is lost: nobody presents it again
// within the half minute in which it is in doubt, and nobody calls that an end.
func answerIsLost(s *scene) {
	over := s.Fault("the answer is lost")
	s.Provider.Fail(gatewaytest.FailWith{Drop: true, AfterCommit: true, Times: 1, Only: s.mine})
	s.b.Do(Ask{Kind: KindToken, At: s.first, Within: 500 * time.Millisecond})
	for _, at := range []*Replica{s.second, s.first} {
		op := s.b.Do(Ask{Kind: KindToken, At: at, Within: 300 * time.Millisecond})
		if op.Status != http.StatusServiceUnavailable && op.Error != "aborted" {
			s.t.Errorf("%s", &op)
		}
	}
	over()
	if r := s.judged(Allowance{Unknown: true}); r.Grants != 1 {
		s.t.Errorf("%d grants", r.Grants)
	}
}

// Ten requests at two replicas, and one is at the provider: all are answered from
// its one grant.
func oneAsksForAll(s *scene) {
	hold, done := s.refreshing(s.first, gatewaytest.GateMidBody)
	var all sync.WaitGroup
	for n := range 10 {
		all.Go(func() {
			if op := s.b.Do(Ask{Kind: KindToken, At: []*Replica{s.first, s.second}[n%2]}); op.Status != http.StatusOK {
				s.t.Errorf("%s", &op)
			}
		})
	}
	// Those at the first wait in its own flight; those at the second for news.
	rig.Eventually(s.t, "all are at the gateway", func() bool { return s.first.Client.Open()+s.second.Client.Open() >= 11 })
	hold.Release()
	<-done
	all.Wait()
	if r := s.judged(Allowance{}); r.Grants != 1 || r.Rotations != 1 {
		s.t.Errorf("%d grants, %d rotations", r.Grants, r.Rotations)
	}
}

// A POST whose upstream resets is an error, once.
func upstreamResets(s *scene) {
	defer s.Upstream.Harming(nil)
	for harm := BeforeHead; harm <= AfterAnswer; harm++ {
		over := s.Fault("the upstream fails")
		s.Upstream.Harming(func(int64) Harm { return harm })
		for _, kind := range []Kind{KindPost, KindAPI} {
			op := s.b.Do(Ask{Kind: kind, At: s.first})
			switch {
			case harm == AfterAnswer && (op.Status != 200 || op.Error != ""):
				s.t.Errorf("%s after a whole answer: %s", kind, &op)
			case harm == BeforeHead && op.Status != http.StatusBadGateway:
				s.t.Errorf("%s before the head: %s", kind, &op)
			case (harm == MidBody || harm == ShortBody) && op.Error == "":
				s.t.Errorf("%s in the body: %s", kind, &op)
			}
		}
		s.Upstream.Harming(nil)
		over()
	}
	s.token(nil, http.StatusOK)
	if r := s.judged(Allowance{Cut: true}); r.Grants != 1 {
		s.t.Errorf("%d grants: an upstream's fault is no reason to refresh", r.Grants)
	}
}

// The browser is gone while the provider works. The grant is finished, and its
// successor goes to the next bearer.
func goneDuringAGrant(s *scene, point gatewaytest.Point) {
	gone := func() int { return len(s.first.Gateway().Log("client closed the request")) }
	over := s.Fault("the client leaves")
	hold, done := s.refreshing(s.first, point)
	before := gone()
	s.first.Client.Break()
	if op := <-done; op.Error == "" {
		s.t.Errorf("the browser that left was answered: %s", &op)
	}
	// Else it might still take the answer for one that arrives.
	rig.Eventually(s.t, "the gateway knows", func() bool { return gone() > before })
	over()
	hold.Release()
	if op := s.token(s.second, http.StatusOK); op.Got == "" {
		s.t.Errorf("the next bearer gets no successor: %s", &op)
	}
	s.token(s.first, http.StatusOK)
	if r := s.judged(Allowance{Cut: true}); r.Grants != 1 || r.Rotations != 1 {
		s.t.Errorf("%d grants, %d rotations", r.Grants, r.Rotations)
	}
}

// The answer with the new ticket never comes to the browser: its old one goes on
// working, at both replicas, and costs no second grant.
func newTicketIsLost(s *scene) {
	if op := s.b.Do(Ask{Kind: KindToken, At: s.first, Lost: true}); op.Status != http.StatusOK || op.Got == "" {
		s.t.Fatalf("no new ticket: %s", &op)
	}
	for _, at := range []*Replica{s.second, s.first, s.second} {
		if op := s.token(at, http.StatusOK); op.Got != "" {
			s.t.Errorf("the successor is handed out twice: %s", &op)
		}
	}
	if r := s.judged(Allowance{}); r.Grants != 1 || r.FalseEnds != 0 {
		s.t.Errorf("%d grants, %d false ends", r.Grants, r.FalseEnds)
	}
}

// A session is ended while its refresh is at the provider: it stays dead, and the
// refresh token that comes back is revoked.
func endedDuringAGrant(s *scene) {
	hold, done := s.refreshing(s.first, gatewaytest.GateAfterCommit)
	cookie, session := s.b.Ticket()
	acknowledged := s.ending(session, "logout")
	if op := s.b.Do(Ask{Kind: KindLogout, Cookie: cookie, Session: session}); op.Status != http.StatusOK {
		s.t.Fatalf("the logout: %s", &op)
	}
	acknowledged()
	hold.Release()
	if op := <-done; op.Status != http.StatusUnauthorized {
		s.t.Errorf("the refresh that was under way: %s", &op)
	}
	for _, at := range []*Replica{s.first, s.second} {
		if op := s.b.Do(Ask{Kind: KindGhost, Cookie: cookie, Session: session, At: at}); op.Status != http.StatusUnauthorized {
			s.t.Errorf("an ended session: %s", &op)
		}
	}
	rig.Eventually(s.t, "the new refresh token is revoked", func() bool { return len(s.Provider.Live(gatewaytest.SubjectOf(s.b.User))) == 0 })
	s.judged(Allowance{})
}
