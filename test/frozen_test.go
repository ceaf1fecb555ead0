package test

import (
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// What lay in the sockets of a replica that was stopped is read when it goes on,
// and looks new. By then its ticket is superseded: that is no theft. (Fault row
// F3; it once ended the sessions of all that had been waiting.)
func TestWokenReplicaEndsNothing(t *testing.T) {
	t.Parallel()
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: time.Second})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: quick})
	b := w.NewBrowser()
	b.Login("alice")
	p.Change(func(o *gatewaytest.Options) { o.AccessLife = 5 * time.Minute }) // from the second token on
	frozen, awake := w.Gateways[0], w.Gateways[1]
	if got := subject(t, b.Send(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: frozen})); got != "sub-alice" {
		t.Fatalf("before: %q", got) // and a connection that is kept
	}
	straggler := b.Clone()
	frozen.Freeze()
	late := make(chan *rig.Response, 1)
	go func() {
		r, err := straggler.Try(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: frozen})
		if err != nil {
			t.Error(err)
		}
		late <- r
	}()

	// Meanwhile the browser goes on at the other replica, until the straggler's
	// ticket is no predecessor any more.
	before := b.Cookie()
	rig.Eventually(t, "the ticket advances", func() bool {
		b.Send(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: awake})
		return b.Cookie() != before
	})
	confirmed := time.Now()
	b.Send(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: awake})
	rig.Eventually(t, "the grace is over, and the verdict would be late", func() bool { return time.Since(confirmed) > 2500*time.Millisecond })

	if len(late) > 0 {
		t.Fatal("a stopped replica answered")
	}
	frozen.Signal(syscall.SIGCONT)
	if r := <-late; r != nil {
		if code, _ := r.Problem(); r.Status != 503 {
			t.Errorf("the straggler: %d %s", r.Status, code)
		}
	}
	for _, g := range w.Gateways {
		rig.Eventually(t, "the session goes on", func() bool {
			r := b.Send(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: g})
			if r.Status == 401 {
				t.Fatalf("logged out: %s", r.Body)
			}
			return r.Status == 200
		})
	}
}
