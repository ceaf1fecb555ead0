package test

import (
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// SIGTERM: not ready at once, still serving for drain.delay, then nothing new;
// what is open is finished; exit code 0.
func TestGracefulDrain(t *testing.T) {
	t.Parallel()
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: func(c rig.Config) {
		c.Set("drain.delay", "2s")
		c.Set("drain.timeout", "30s")
	}})
	b := w.NewBrowser()
	b.Login("alice")
	leaving, staying := w.Gateways[0], w.Gateways[1]

	type result struct {
		r   *rig.Response
		err error
	}
	open := make(chan result, 1)
	go func() {
		r, err := b.Try(rig.Request{Path: "/api/held", On: leaving})
		open <- result{r, err}
	}()
	select {
	case <-w.Upstream.Held():
	case <-time.After(rig.Patience):
		t.Fatal("the open request never came to the upstream")
	}
	leaving.Signal(syscall.SIGTERM)
	rig.Within(t, 2*time.Second, "it says that it is not ready", func() bool { return !leaving.Ready() })
	if r, err := b.Try(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: leaving}); err != nil || r.Status != http.StatusOK {
		t.Errorf("within drain.delay: %v, %v", r, err)
	}
	rig.Eventually(t, "it takes nothing new", func() bool {
		_, err := b.Try(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: leaving})
		return err != nil
	})
	select {
	case <-leaving.Done():
		t.Fatal("it ended with a request open")
	case got := <-open:
		t.Fatalf("the open request was cut: %v, %v", got.r, got.err)
	default:
	}
	w.Upstream.Release()
	if got := <-open; got.err != nil || got.r.Status != http.StatusOK {
		t.Errorf("the open request: %v, %v", got.r, got.err)
	}
	if code := leaving.Wait(rig.Patience); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if got := subject(t, b.Send(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: staying})); got != "sub-alice" {
		t.Errorf("at the other replica the token is %q's", got)
	}
}

// A refresh that is under way when the gateway is told to end is finished and
// kept: the next replica has what it brought.
func TestShutdownWaitsForARefresh(t *testing.T) {
	t.Parallel()
	p, w, b := quickWorld(t)
	hold := p.Gate(gatewaytest.GateAfterCommit)
	defer hold.Release()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = b.Try(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: w.Gateways[0], Lost: true})
	}()
	select {
	case <-hold.Arrived():
	case <-time.After(rig.Patience):
		t.Fatal("no refresh came to the provider")
	}
	w.Gateways[0].Signal(syscall.SIGTERM)
	rig.Eventually(t, "it is not ready", func() bool { return !w.Gateways[0].Ready() })
	hold.Release()
	if code := w.Gateways[0].Wait(rig.Patience); code != 0 {
		t.Errorf("exit code %d", code)
	}
	<-gone
	if got := subject(t, b.Send(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: w.Gateways[1]})); got != "sub-alice" {
		t.Errorf("the token is %q's", got)
	}
	redeemed(t, p, 1)
}

// A rolling deploy logs nobody out: replicas are replaced one by one while
// people go on.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: 2 * time.Second})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2})
	b := w.NewBrowser()
	b.Login("alice")
	for range 3 {
		old := w.Gateways[0]
		w.Start().WaitReady()
		w.Gateways = w.Gateways[1:]
		if code := old.Terminate(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		tokenRunsOut(t, b)
		if got := subject(t, token(b)); got != "sub-alice" {
			t.Fatalf("the token is %q's", got)
		}
	}
	if reuses := p.Reuses(); len(reuses) > 0 {
		t.Errorf("reuse at the provider: %v", reuses)
	}
}
