package faults

import (
	"slices"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// newStage starts what scenes are played on, one after the other: two replicas,
// whose logins bring tokens that have run out at once. program is the gateway;
// "": the built cloakroom.
func newStage(t *testing.T, program string) *World {
	t.Helper()
	return New(t, Setup{
		Seed: 1, Browsers: 1, Patience: 20 * time.Second, Binary: program,
		Provider: gatewaytest.Options{AccessLife: time.Minute, EditAnswer: func(r gatewaytest.Request, answer map[string]any) {
			if r.Grant == "authorization_code" {
				answer["expires_in"] = 0.001
			}
		}},
		Change: func(c rig.Config) { c.Set("log.level", "debug") },
	})
}

// scene is one fault and one browser, of somebody who is in no other scene: its
// gates hold that person's refreshes alone, and it is judged by what happened
// to that person since it began.
type scene struct {
	*World
	t      *testing.T
	b      *Browser
	first  *Replica
	second *Replica
	from   time.Duration
}

// scene opens one: its browser has just logged in.
func (w *World) scene(t *testing.T) *scene {
	t.Helper()
	s := &scene{World: w, t: t, first: w.Replicas()[0], second: w.Replicas()[1], from: w.now()}
	s.b = w.NewBrowser()
	// Not by password: that answers with a token, and so refreshes one that is out.
	if err := s.b.LogIn(); err != nil {
		t.Fatal(err)
	}
	// A replica's notion of Redis's clock is off by what its last beat took.
	const off = 150 * time.Millisecond
	begun := s.b.Session().Begun
	rig.Eventually(t, "the token has run out", func() bool { return w.now() > begun+off })
	return s
}

// restored waits until a refresh is nothing special at either replica: no back-off
// is left from the scene, and their notion of Redis's clock is right again.
func (s *scene) restored() {
	s.t.Helper()
	for _, at := range []*Replica{s.first, s.second} {
		rig.Eventually(s.t, "all is as before", func() bool {
			b := s.NewBrowser()
			return b.LogIn() == nil && b.Do(Ask{Kind: KindToken, At: at}).Got != ""
		})
	}
}

// mine is the condition that the scene's person refreshes.
func (s *scene) mine(r gatewaytest.Request) bool {
	return gatewaytest.Refreshing(r) && r.Subject == gatewaytest.SubjectOf(s.b.User)
}

// refreshing starts a refresh at a replica and returns when it stands at a gate.
func (s *scene) refreshing(at *Replica, point gatewaytest.Point) (hold *gatewaytest.Hold, done <-chan Op) {
	s.t.Helper()
	hold = s.Provider.Gate(point, s.mine)
	s.t.Cleanup(hold.Release)
	answered := make(chan Op, 1)
	go func() { answered <- s.b.Do(Ask{Kind: KindToken, At: at}) }()
	if s.arrived(hold, 1) != 1 {
		s.t.Fatal("no refresh came to the provider")
	}
	return hold, answered
}

// token asks for a token, and fails the test where the answer is another.
func (s *scene) token(at *Replica, want int) Op {
	s.t.Helper()
	op := s.b.Do(Ask{Kind: KindToken, At: at})
	if op.Status != want {
		s.t.Fatalf("%s, want %d", &op, want)
	}
	return op
}

// redemptions is how often the person's refresh tokens were accepted.
func (s *scene) redemptions() int {
	return len(s.Provider.Redemptions(gatewaytest.SubjectOf(s.b.User)))
}

// judged holds what happened in the scene against the checker.
func (s *scene) judged(allow Allowance) *Result {
	s.t.Helper()
	r := Check(s.told("scene", 1).of(s.b.User, s.from), allow)
	for _, v := range r.Violations {
		s.t.Error(v)
	}
	if s.t.Failed() {
		s.t.Logf("\n%s", r.Table())
	}
	return r
}

// of is what a history tells of one person and of the faults since a moment.
func (h *History) of(user string, from time.Duration) *History {
	c := *h
	c.Windows = slices.DeleteFunc(slices.Clone(h.Windows), func(w Window) bool { return w.From < from })
	c.Ops = slices.DeleteFunc(slices.Clone(h.Ops), func(o Op) bool { return o.User != user })
	c.Sessions = slices.DeleteFunc(slices.Clone(h.Sessions), func(s Session) bool { return s.User != user })
	ops, sids := map[int64]bool{}, map[string]bool{}
	for _, o := range c.Ops {
		ops[o.ID] = true
	}
	for _, s := range c.Sessions {
		sids[s.SID] = s.SID != ""
	}
	c.Arrivals = slices.DeleteFunc(slices.Clone(h.Arrivals), func(a Arrival) bool { return !ops[a.Op] })
	c.Ledger = slices.DeleteFunc(slices.Clone(h.Ledger), func(e gatewaytest.Entry) bool { return e.Subject != gatewaytest.SubjectOf(user) })
	c.Lines = slices.DeleteFunc(slices.Clone(h.Lines), func(l Line) bool { return !sids[l.SID] })
	return &c
}

// A session of which no token was seen has the family of whoever logged in once.
func TestSessionsOfOneLoginAreNamed(t *testing.T) {
	h := &History{
		Ledger: []gatewaytest.Entry{
			{Subject: gatewaytest.SubjectOf("once"), Family: "family-1"},
			{Subject: gatewaytest.SubjectOf("twice"), Family: "family-2"},
			{Subject: gatewaytest.SubjectOf("twice"), Family: "family-3"},
		},
		Sessions: []Session{{User: "once"}, {User: "twice"}, {User: "twice"}, {User: "never"}},
	}
	h.named()
	for i, want := range []string{"family-1", "", "", ""} {
		if got := h.Sessions[i].Family; got != want {
			t.Errorf("%s: %q, want %q", h.Sessions[i].User, got, want)
		}
	}
}
