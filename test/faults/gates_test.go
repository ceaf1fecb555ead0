package faults

import (
	"net/http"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// The rows' races, forced by gates instead of hoped for: one browser, one fault,
// and the same checker at the end.

// scene is a small world with one browser whose token has run out.
type scene struct {
	*World
	b *Browser
}

func newScene(t *testing.T, change func(*Setup)) *scene {
	t.Helper()
	s := Setup{Seed: 1, Browsers: 1, Patience: 20 * time.Second, Provider: gatewaytest.Options{AccessLife: time.Second}}
	if change != nil {
		change(&s)
	}
	w := New(t, s)
	w.Populate()
	b := w.Browsers[0]
	rig.Eventually(t, "the token has run out", func() bool {
		b.mu.Lock()
		begun := b.session.Begun
		b.mu.Unlock()
		return w.now() > begun+1100*time.Millisecond
	})
	w.Provider.Change(func(o *gatewaytest.Options) { o.AccessLife = time.Minute })
	return &scene{w, b}
}

// refreshing starts a refresh at a replica and returns when it stands at a gate.
func (s *scene) refreshing(at *Replica, point gatewaytest.Point) (hold *gatewaytest.Hold, done <-chan Op) {
	s.T.Helper()
	hold = s.Provider.Gate(point, gatewaytest.Refreshing)
	answered := make(chan Op, 1)
	go func() { answered <- s.b.Do(Ask{Kind: KindToken, At: at}) }()
	if s.arrived(hold, 1) != 1 {
		s.T.Fatal("no refresh came to the provider")
	}
	return hold, answered
}

// judged checks the scene's history.
func (s *scene) judged(allow Allowance) *Result {
	s.T.Helper()
	h := s.history("scene", 1, nil)
	r := Check(h, allow)
	for _, v := range r.Violations {
		s.T.Error(v)
	}
	if s.T.Failed() {
		s.T.Logf("\n%s", r.Table())
	}
	return r
}

func (s *scene) token(at *Replica, want int) Op {
	s.T.Helper()
	op := s.b.Do(Ask{Kind: KindToken, At: at})
	if op.Status != want {
		s.T.Fatalf("%s, want %d", &op, want)
	}
	return op
}

// F1: the replica that refreshes is killed before the provider has spent the
// token. The other one presents nothing on a guess: it refuses.
func TestKilledDuringAGrant(t *testing.T) {
	t.Parallel()
	s := newScene(t, nil)
	first, second := s.Replicas()[0], s.Replicas()[1]
	over := s.Fault("SIGKILL")
	hold, done := s.refreshing(first, gatewaytest.GateAfterCommit)
	s.Kill(first)
	hold.Release()
	if op := <-done; op.Error == "" {
		t.Errorf("a killed replica answers: %s", &op)
	}
	op := s.b.Do(Ask{Kind: KindToken, At: second, Within: 1500 * time.Millisecond})
	if op.Status != http.StatusServiceUnavailable && op.Error != "aborted" {
		t.Errorf("the other replica: %s", &op)
	}
	if n := len(s.Provider.Redemptions("")); n != 1 {
		t.Errorf("%d redemptions", n)
	}
	over()
	s.judged(Allowance{Cut: true})
}

// F3: the replica that refreshes sleeps with the answer on its way to it, wakes
// up and commits; nobody has asked the provider meanwhile.
func TestAsleepWithTheAnswer(t *testing.T) {
	t.Parallel()
	s := newScene(t, nil)
	first, second := s.Replicas()[0], s.Replicas()[1]
	over := s.Fault("SIGSTOP")
	hold, done := s.refreshing(first, gatewaytest.GateAfterCommit)
	s.Freeze(first)
	hold.Release()
	other := s.b.Do(Ask{Kind: KindToken, At: second, Within: 500 * time.Millisecond})
	if other.Status == http.StatusOK || other.Status == http.StatusUnauthorized {
		t.Errorf("the other replica, meanwhile: %s", &other)
	}
	s.Thaw(first)
	if op := <-done; op.Status != http.StatusOK || op.Got == "" {
		t.Errorf("the replica that slept: %s", &op)
	}
	over()
	s.token(second, http.StatusOK)
	if r := s.judged(Allowance{Cut: true}); r.Grants != 1 {
		t.Errorf("%d grants", r.Grants)
	}
}

// F14: the browser is gone while the provider works. The grant is finished, and
// its successor goes to the next bearer.
func TestGoneDuringAGrant(t *testing.T) {
	t.Parallel()
	for _, point := range []gatewaytest.Point{gatewaytest.GateBeforeCommit, gatewaytest.GateAfterCommit, gatewaytest.GateMidBody} {
		t.Run(string(point), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, func(s *Setup) { s.Change = func(c rig.Config) { c.Set("log.level", "debug") } })
			first, second := s.Replicas()[0], s.Replicas()[1]
			over := s.Fault("the client leaves")
			hold, done := s.refreshing(first, point)
			first.Client.Break()
			if op := <-done; op.Error == "" {
				t.Errorf("the browser that left was answered: %s", &op)
			}
			// Else it might still take the answer for one that arrives.
			rig.Eventually(t, "the gateway knows", func() bool { return len(first.Gateway().Log("client closed the request")) > 0 })
			over()
			hold.Release()
			if op := s.token(second, http.StatusOK); op.Got == "" {
				t.Errorf("the next bearer gets no successor: %s", &op)
			}
			s.token(first, http.StatusOK)
			if r := s.judged(Allowance{Cut: true}); r.Grants != 1 || r.Rotations != 1 {
				t.Errorf("%d grants, %d rotations", r.Grants, r.Rotations)
			}
		})
	}
}

// F13: a POST whose upstream resets is an error, once.
func TestUpstreamResets(t *testing.T) {
	t.Parallel()
	s := newScene(t, nil)
	for harm := BeforeHead; harm <= AfterAnswer; harm++ {
		over := s.Fault("the upstream fails")
		s.Upstream.Harming(func(int64) Harm { return harm })
		for _, kind := range []Kind{KindPost, KindAPI} {
			op := s.b.Do(Ask{Kind: kind, At: s.Replicas()[0]})
			switch {
			case harm == AfterAnswer && (op.Status != 200 || op.Error != ""):
				t.Errorf("%s after a whole answer: %s", kind, &op)
			case harm == BeforeHead && op.Status != http.StatusBadGateway:
				t.Errorf("%s before the head: %s", kind, &op)
			case (harm == MidBody || harm == ShortBody) && op.Error == "":
				t.Errorf("%s in the body: %s", kind, &op)
			}
		}
		s.Upstream.Harming(nil)
		over()
	}
	s.token(nil, http.StatusOK)
	if r := s.judged(Allowance{Cut: true}); r.Grants != 1 {
		t.Errorf("%d grants: an upstream's fault is no reason to refresh", r.Grants)
	}
}

// F9: while the provider is away sessions wait, each costs one grant afterwards,
// and the back-off keeps the others away from it.
func TestProviderIsAway(t *testing.T) {
	t.Parallel()
	s := newScene(t, nil)
	over := s.Fault("the provider refuses")
	s.ProviderLink.Refuse()
	for range 5 {
		op := s.token(nil, http.StatusServiceUnavailable)
		if op.Code != "provider_unavailable" {
			t.Errorf("%s", &op)
		}
	}
	s.ProviderLink.Accept()
	over()
	rig.Eventually(t, "the session works again", func() bool { return s.b.Do(Ask{Kind: KindToken}).Status == http.StatusOK })
	if r := s.judged(Allowance{Recovery: 12 * time.Second}); r.Grants != 1 {
		t.Errorf("%d grants", r.Grants)
	}
}
