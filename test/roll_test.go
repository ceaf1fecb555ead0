package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// crowd is people at work in two tabs each, whose answers have to be right: their
// own name, and nothing but 200. Whoever of them is refused is counted.
type crowd struct {
	t      *testing.T
	people map[string]*rig.Browser
	stop   chan struct{}
	all    sync.WaitGroup

	mu       sync.Mutex     // guards the rest
	answers  int            // guarded by mu
	rotated  int            // guarded by mu
	refusals map[string]int // guarded by mu
}

// busy logs people in and sets them to work until [crowd.rest].
func busy(t *testing.T, w *rig.World, names ...string) *crowd {
	t.Helper()
	c := &crowd{t: t, people: map[string]*rig.Browser{}, stop: make(chan struct{}), refusals: map[string]int{}}
	for _, name := range names {
		b := w.NewBrowser()
		b.Login(name)
		c.people[name] = b
	}
	t.Cleanup(c.rest)
	for name, b := range c.people {
		for range 2 {
			c.all.Go(func() { c.work(name, b) })
		}
	}
	return c
}

func (c *crowd) work(name string, b *rig.Browser) {
	pace := time.NewTicker(40 * time.Millisecond)
	defer pace.Stop()
	for n := 0; ; n++ {
		select {
		case <-c.stop:
			return
		case <-pace.C:
		}
		req := []rig.Request{
			{Method: http.MethodPost, Path: "/bff/token"},
			{Path: "/api/orders"},
			{Path: "/bff/user"},
		}[n%3]
		r, err := b.Try(req)
		if errors.Is(err, syscall.ECONNREFUSED) {
			continue // a balancer asks another; and so do we, with the next
		}
		c.mu.Lock()
		c.answers++
		switch {
		case err != nil:
			c.refusals[err.Error()]++
		case r.Status != http.StatusOK:
			c.refusals[req.Path+": "+r.String()]++
		case r.Successor() != "":
			c.rotated++
		}
		c.mu.Unlock()
		if err != nil || r.Status != http.StatusOK {
			continue
		}
		if got := whose(req.Path, r); got != gatewaytest.SubjectOf(name) {
			c.t.Errorf("%s: %s's cookie opens %q's session", req.Path, name, got)
		}
	}
}

// whose is the subject of an answer to one of the crowd's requests.
func whose(path string, r *rig.Response) string {
	var answer struct {
		AccessToken string `json:"access_token"` // of /bff/token
		Sub         string // of /bff/user
		Header      http.Header
	}
	if json.Unmarshal(r.Body, &answer) != nil {
		return ""
	}
	switch path {
	case "/bff/token":
		return subjectOf(answer.AccessToken)
	case "/bff/user":
		return answer.Sub
	}
	return subjectOf(strings.TrimPrefix(answer.Header.Get("Authorization"), "Bearer "))
}

// count is how many answers and how many new tickets there have been.
func (c *crowd) count() (answers, rotated int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answers, c.rotated
}

// goOn returns when everybody has been given more new tickets meanwhile.
func (c *crowd) goOn() {
	c.t.Helper()
	_, before := c.count()
	rig.Eventually(c.t, "the crowd is given new tickets", func() bool {
		_, now := c.count()
		return now >= before+len(c.people)
	})
}

// rest ends the work. It may be called more than once.
func (c *crowd) rest() {
	c.mu.Lock()
	select {
	case <-c.stop:
	default:
		close(c.stop)
	}
	c.mu.Unlock()
	c.all.Wait()
}

// content fails the test if anybody was refused.
func (c *crowd) content() {
	c.t.Helper()
	c.rest()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t.Logf("%d answers, %d new tickets", c.answers, c.rotated)
	for what, n := range c.refusals {
		c.t.Errorf("%d × %s", n, what)
	}
}

// rolled is a world of two replicas and tokens of two seconds.
func rolled(t *testing.T) (*gatewaytest.Provider, *rig.World) {
	t.Helper()
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: 2 * time.Second})
	return p, rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: func(c rig.Config) {
		c.Set("apps.0.session.rotation_grace", "5s")
		c.Set("apps.0.session.cache_ttl", "1s")
	}})
}

// roll replaces all replicas, one after another.
func roll(t *testing.T, w *rig.World) {
	t.Helper()
	for i := range w.Gateways {
		if code := w.Roll(i); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}

// D-06 under load: both replicas, every step of the replacement, and every step
// back that is allowed. Nobody is refused on the way.
func TestServerKeysAreReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	p, w := rolled(t)
	old := w.Config["keys"].([]any)[0]
	fresh := freshKey(t, w)

	c := busy(t, w, "alice", "bob", "carol")
	alice := about(t, c.people["alice"]).SID
	type listed struct {
		Sessions []struct {
			SID   string
			Sub   string
			Ended bool
		}
	}
	find := func(query string) (l listed) {
		t.Helper()
		if err := w.Gateways[0].Listed("app=shop&"+query, &l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, step := range []struct {
		name string
		keys []any
		// found is whether alice's session, begun under the old key, is found by
		// who she is.
		found bool
	}{
		{"append", []any{old, fresh}, true},
		{"back", []any{old}, true},
		{"append again", []any{old, fresh}, true},
		{"to the front", []any{fresh, old}, true},
		{"back to the end", []any{old, fresh}, true},
		{"to the front again", []any{fresh, old}, true},
		{"remove", []any{fresh}, false},
		{"bring it back", []any{fresh, old}, true},
	} {
		w.Config.Set("keys", step.keys)
		roll(t, w)
		c.goOn()
		if l := find("sid=" + alice); len(l.Sessions) != 1 || l.Sessions[0].Ended || (l.Sessions[0].Sub != "") != step.found {
			t.Errorf("%s: listed by sid: %+v", step.name, l)
		}
		if l := find("sub=" + gatewaytest.SubjectOf("alice")); (len(l.Sessions) == 1) != step.found {
			t.Errorf("%s: listed by subject: %+v", step.name, l)
		}
	}
	// An end by subject finds who began under the old key.
	c.content()
	w.Gateways[0].End(map[string]any{"app": "shop", "sub": gatewaytest.SubjectOf("alice")})
	wantEnded(t, w, c.people["alice"], "revoked")
	if reuses := p.Reuses(); len(reuses) > 0 {
		t.Errorf("reuse at the provider: %v", reuses)
	}
}

// V-09: files change under load, server keys among them, and nobody is refused;
// an answer that is under way comes to its end over what has been replaced.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	p, w := rolled(t)
	old := w.Config["keys"].([]any)[0]
	fresh := freshKey(t, w)

	c := busy(t, w, "alice", "bob", "carol")
	dave := w.NewBrowser()
	dave.Login("dave")
	held := make(chan *rig.Response, 1)
	go func() { held <- dave.Fetch(http.MethodGet, "/api/held") }()
	<-w.Upstream.Held()
	for n, keys := range [][]any{{old, fresh}, {fresh, old}, {old, fresh}, {fresh, old}} {
		w.Config.Set("keys", keys)
		w.Config.Set("apps.0.session.idle_timeout", fmt.Sprintf("%dm", 20+n))
		for _, g := range w.Gateways {
			g.Reload()
		}
		c.goOn()
	}
	w.Upstream.Release()
	if r := <-held; r.Status != http.StatusOK {
		t.Errorf("what was under way: %s", r)
	}
	c.content()
	if reuses := p.Reuses(); len(reuses) > 0 {
		t.Errorf("reuse at the provider: %v", reuses)
	}
}

// older is a commit of an earlier build with the same record format: the last one
// before Sentinel and Cluster.
const older = "9d7f576b7432e77fb99cbf141b5d7adb0c5f4ac7"

// buildOld builds a commit of this repository's.
func buildOld(t *testing.T, commit string) string {
	t.Helper()
	src, out := t.TempDir(), filepath.Join(t.TempDir(), "cloakroom")
	archive := exec.Command("sh", "-c", fmt.Sprintf("git -C '%s' archive %s | tar -x -C '%s'", rig.Root(), commit, src))
	if text, err := archive.CombinedOutput(); err != nil {
		t.Fatalf("this test needs the commit %s (a shallow clone lacks it: git fetch --unshallow): %v\n%s", commit, err, text)
	}
	build := exec.Command("go", "build", "-trimpath", "-o", out, "./cmd/cloakroom")
	build.Dir, build.Env = src, append(os.Environ(), "CGO_ENABLED=0") // as other tests build: most of it is in the build cache
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", commit, err, text)
	}
	return out
}

// F18: an older build beside this one, on one Redis, forward and back. Nobody is
// refused, and what one wrote the other reads.
func TestMixedVersions(t *testing.T) {
	t.Parallel()
	before := buildOld(t, older)
	p, w := rolled(t)
	w.Config.Set("drain.delay", "500ms") // the older build closes its listener at once without
	c := busy(t, w, "alice", "bob", "carol")
	replace := func(i int, with string) {
		t.Helper()
		w.Binary = with
		if code := w.Roll(i); code != 0 {
			t.Errorf("exit code %d", code)
		}
		c.goOn()
	}
	// From this one back to the old one and forward again, and once more, with
	// people who began at each.
	replace(0, before)
	replace(1, before)
	late := busy(t, w, "dave")
	replace(0, "")
	replace(1, "")
	later := busy(t, w, "erin")
	replace(0, before)
	for _, who := range []*crowd{c, late, later} {
		who.goOn()
		who.content()
		for name, b := range who.people {
			for _, g := range w.Gateways {
				if got := subject(t, b.Send(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: g})); got != gatewaytest.SubjectOf(name) {
					t.Errorf("%s's cookie opens %q's session", name, got)
				}
			}
			// What one build ends has ended for the other.
			if r := b.Send(rig.Request{Method: http.MethodPost, Path: "/bff/logout", On: w.Gateways[0]}); r.Status != http.StatusOK {
				t.Errorf("logout: %s", r)
			}
		}
	}
	if reuses := p.Reuses(); len(reuses) > 0 {
		t.Errorf("reuse at the provider: %v", reuses)
	}
}
