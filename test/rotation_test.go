package test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// quick makes grace 1 s, so settle 3 s and hold a third of a second.
func quick(c rig.Config) {
	c.Set("apps.0.session.rotation_grace", "1s")
	c.Set("apps.0.session.cache_ttl", "500ms")
}

// quickWorld has two replicas and a first access token of a second's life; the
// tokens that follow live for five minutes.
func quickWorld(t *testing.T) (*gatewaytest.Provider, *rig.World, *rig.Browser) {
	t.Helper()
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: time.Second})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: quick})
	b := w.NewBrowser()
	b.Login("alice")
	tokenRunsOut(t, b)
	p.Change(func(o *gatewaytest.Options) { o.AccessLife = 5 * time.Minute })
	return p, w, b
}

func redeemed(t testing.TB, p *gatewaytest.Provider, want int) {
	t.Helper()
	if got := p.Redemptions(gatewaytest.SubjectOf("alice")); len(got) != want {
		t.Fatalf("%d refreshes at the provider, want %d: %v", len(got), want, got)
	}
	if reuses := p.Reuses(); len(reuses) > 0 {
		t.Fatalf("reuse at the provider: %v", reuses)
	}
}

// N-05: the answer with the successor is lost. The old cookie is served, with no
// second grant, and gets another successor after settle.
func TestLostSuccessorIsReplacedAfterSettle(t *testing.T) {
	t.Parallel()
	p, w, b := quickWorld(t)

	lost := b.Send(rig.Request{Method: http.MethodPost, Path: "/bff/token", Lost: true})
	lostAt := time.Now()
	if lost.Successor() == "" {
		t.Fatalf("the refresh handed out no successor: %s", lost)
	}
	var another string
	rig.Eventually(t, "another successor is handed out", func() bool {
		r := token(b)
		if got := subject(t, r); got != "sub-alice" {
			t.Fatalf("the token is %q's", got)
		}
		another = r.Successor()
		return another != ""
	})
	if after := time.Since(lostAt); after < 2500*time.Millisecond {
		t.Errorf("another successor was handed out %v after the first, before it settled", after)
	}
	if another == lost.Successor() {
		t.Error("the lost successor was handed out twice")
	}
	redeemed(t, p, 1)
	if got := subject(t, token(b)); got != "sub-alice" {
		t.Fatalf("the new cookie opens %q's session", got)
	}

	// Whoever has the lost one after all is no predecessor: it ends the session.
	thief := b.Clone()
	thief.SetCookie(lost.Successor())
	wantProblem(t, token(thief), 401, "login_required", "reuse_detected")
	wantEnded(t, w, b, "reuse_detected")
}

// N-01: a thief copies the cookie, and both go on asking. They part at the first
// rotation; after the grace the second to come is found out, and both lose.
func TestThiefWhoPollsIsFoundOut(t *testing.T) {
	for _, row := range []struct {
		name       string
		thiefFirst bool
	}{{"the owner is first", false}, {"the thief is first", true}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p, w, owner := quickWorld(t)
			first, second := owner, owner.Clone()
			if row.thiefFirst {
				first, second = second, first
			}
			if r := token(first); r.Successor() == "" {
				t.Fatalf("the refresh handed out no successor: %s", r)
			}
			served := 0
			rig.Eventually(t, "the second bearer is found out", func() bool {
				if r := token(first); r.Status != http.StatusOK {
					t.Fatalf("the first bearer, before the second was found out: %s", r)
				}
				r := token(second)
				switch {
				case r.Status == http.StatusOK && r.Successor() != "":
					t.Fatal("a second copy of the successor, or another one, was handed out")
				case r.Status == http.StatusOK:
					served++
					return false
				}
				wantProblem(t, r, 401, "login_required", "reuse_detected")
				return true
			})
			if served == 0 {
				t.Error("the predecessor was not served within its grace")
			}
			wantEnded(t, w, first, "reuse_detected")
			redeemed(t, p, 1)
		})
	}
}

// A superseded ticket after its grace ends the session, successor and all, on
// both replicas.
func TestSupersededTicketAfterGraceEndsTheSession(t *testing.T) {
	t.Parallel()
	_, w, b := quickWorld(t)
	old := b.Clone()
	if r := token(b); r.Successor() == "" {
		t.Fatalf("the refresh handed out no successor: %s", r)
	}
	confirmed := about(t, b).ServerTime
	rig.Eventually(t, "the grace is over", func() bool {
		return about(t, b).ServerTime.Sub(confirmed) > 1500*time.Millisecond
	})
	wantProblem(t, old.Fetch(http.MethodGet, "/api/orders"), 401, "login_required", "reuse_detected")
	wantEnded(t, w, b, "reuse_detected")
}

// N-06: an answer that took longer than hold leaves without the successor it
// was to carry, and touches no cookie.
func TestSlowAnswerDoesNotBringALateCookie(t *testing.T) {
	t.Parallel()
	p, w, b := quickWorld(t)
	type result struct {
		r   *rig.Response
		err error
	}
	slow := make(chan result, 1)
	go func() {
		r, err := b.Try(rig.Request{Path: "/api/held"})
		slow <- result{r, err}
	}()
	select {
	case <-w.Upstream.Held():
	case <-time.After(rig.Patience):
		t.Fatal("the slow request never came to the upstream")
	}
	redeemed(t, p, 1)
	// Another request settles it: the held one's time is long over.
	var successor string
	rig.Eventually(t, "the held answer's successor is given up", func() bool {
		r := token(b)
		successor = r.Successor()
		return successor != ""
	})
	w.Upstream.Release()
	got := <-slow
	if got.err != nil || got.r.Status != http.StatusOK {
		t.Fatalf("the slow answer: %v, %v", got.r, got.err)
	}
	if len(got.r.SetCookies) > 0 {
		t.Error("the slow answer brought a cookie, long after its hold")
	}
	if b.Cookie() != successor {
		t.Error("the browser's cookie is not the successor")
	}
	redeemed(t, p, 1)
}

// N-09: a closed tab burns nothing. The refresh goes on without its request, and
// the next one gets what it brought.
func TestClosedTabDoesNotLoseTheRefresh(t *testing.T) {
	t.Parallel()
	p, w, b := quickWorld(t)
	hold := p.Gate(gatewaytest.GateAfterCommit)
	defer hold.Release()
	ctx, closeTab := context.WithCancel(t.Context())
	defer closeTab()
	gone := make(chan error, 1)
	go func() {
		_, err := b.Try(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: w.Gateways[0], Context: ctx})
		gone <- err
	}()
	select {
	case <-hold.Arrived():
	case <-time.After(rig.Patience):
		t.Fatal("no refresh came to the provider")
	}
	closeTab()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Fatalf("the closed tab's request: %v", err)
	}
	hold.Release()
	other := b.Clone()
	r := token(b)
	if got := subject(t, r); got != "sub-alice" {
		t.Fatalf("the token is %q's", got)
	}
	if r.Successor() == "" {
		t.Error("nobody was there for the successor, and the next bearer did not get it")
	}
	if r := token(other); r.Status != http.StatusOK || r.Successor() != "" {
		t.Errorf("the bearer after that: %s, with a successor: %v", r, r.Successor() != "")
	}
	redeemed(t, p, 1)
}

// The ticket's generations follow each other; none is handed out twice.
func TestTicketRotatesWithEveryRefresh(t *testing.T) {
	t.Parallel()
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: time.Second})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: quick})
	b := w.NewBrowser()
	b.Login("alice")
	seen := map[string]bool{b.Cookie(): true}
	for len(seen) < 5 {
		tokenRunsOut(t, b)
		r := token(b)
		if got := subject(t, r); got != "sub-alice" {
			t.Fatalf("the token is %q's", got)
		}
		if r.Successor() == "" {
			continue // a refresh in the background, or by a request before: the next bearer has it
		}
		if seen[r.Successor()] {
			t.Fatal("a ticket was handed out twice")
		}
		seen[r.Successor()] = true
	}
	if reuses := p.Reuses(); len(reuses) > 0 {
		t.Errorf("reuse at the provider: %v", reuses)
	}
}
