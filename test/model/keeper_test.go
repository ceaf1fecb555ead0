package model

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
	"github.com/cloakroom/cloakroom/session/store"
	"github.com/cloakroom/cloakroom/session/storetest"
)

// What the model transcribes is walked beside the original: two real keepers on a
// real Redis, stopped before each script that they run and before each word with
// the provider, and let go one at a time.

// halt is a goroutine of a keeper's that has been stopped.
type halt struct {
	at      string               // the store's method, or dial, answer, renew
	who     int                  // its goroutine
	token   session.RefreshToken // that was presented
	release chan session.Refreshed
}

// stage is where keepers act.
type stage struct {
	t       testing.TB
	keepers [replicas]*session.Keeper
	plain   *store.Store          // sees, and is never stopped
	apps    [replicas]session.App // alike but for who asks
	c       *conn
	running sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // closed at the next halt, or return
	halts   [replicas][]*halt
	renews  [replicas]bool // leases are not renewed just now
	open    bool           // nobody is stopped any more
	offset  time.Duration
	ahead   time.Duration // of the keepers' clocks
	revoked bool          // tokens were handed back
}

const (
	// longestBackoff is how far the keepers' clocks are ahead, and get further ahead
	// when the provider has failed: so that nobody waits for it, or for a lease.
	longestBackoff = 11 * time.Second
	// timely makes up for failures.
	timely = 25 * time.Second
	// failures is how many of them it makes up for in a tick.
	failures = 2
)

// halting are the store's methods before which a keeper is stopped.
var halting = map[string]bool{
	"Open": true, "Claim": true, "Send": true, "Withdraw": true, "Release": true, "Look": true, "Commit": true, "End": true, "EndAttempt": true,
	"renew": true,
}

func newStage(t testing.TB) *stage {
	server := storetest.Redis(t)
	key, err := session.NewKeyring(session.NewServerKey())
	if err != nil {
		t.Fatal(err)
	}
	g := &stage{t: t, changed: make(chan struct{}), ahead: longestBackoff, c: dial(t, "tcp", server.Addr())}
	connect := func(offset func() time.Duration) *store.Store {
		s := store.New(store.Options{Address: server.Addr(), KeyPrefix: "w:", Timeout: time.Minute, Offset: offset})
		t.Cleanup(func() { s.Close() })
		return s
	}
	g.plain = connect(g.clock)
	for r := range g.keepers {
		g.apps[r] = session.App{
			Name: "shop", IdleTimeout: idle, AbsoluteTimeout: life, Grace: grace,
			Refresh: g.refresh(r),
			Revoke: func(context.Context, session.RefreshToken) {
				g.mu.Lock()
				defer g.mu.Unlock()
				g.revoked = true
			},
		}
		g.keepers[r] = session.New(connect(func() time.Duration {
			if at := calling(); halting[at] {
				g.halt(r, at, "")
			}
			return g.clock()
		}), key, session.Options{Now: g.now})
	}
	t.Cleanup(func() {
		g.letAll()
		g.running.Wait()
		for _, k := range g.keepers {
			k.Wait(context.Background())
		}
	})
	return g
}

func (g *stage) clock() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.offset
}

// now is the keepers' clock.
func (g *stage) now() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Now().Add(g.offset + g.ahead)
}

// calling is the method of the store that asks for the clock; renew, where a lease
// is about to be renewed.
func calling() string {
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs[:])])
	method := ""
	for {
		f, more := frames.Next()
		switch _, name, _ := strings.Cut(f.Function, "/session/store.(*Store)."); {
		case strings.Contains(f.Function, "session.(*exchange).renew"):
			return "renew"
		case name != "" && name != "run" && method == "":
			method = name
		}
		if !more {
			return method
		}
	}
}

// goroutine is the caller's number.
func goroutine() int {
	var b [64]byte
	text := strings.TrimPrefix(string(b[:runtime.Stack(b[:], false)]), "goroutine ")
	number, _, _ := strings.Cut(text, " ")
	n, _ := strconv.Atoi(number)
	return n
}

// waits reports whether a goroutine waits for a refresh.
func waits(who int) bool {
	b := make([]byte, 1<<18)
	for block := range strings.SplitSeq(string(b[:runtime.Stack(b, true)]), "\n\n") {
		if strings.HasPrefix(block, "goroutine "+strconv.Itoa(who)+" [select") {
			return strings.Contains(block, "session.(*Keeper).refresh(")
		}
	}
	return false
}

// stir wakes who waits for something to happen. The caller holds mu.
func (g *stage) stir() {
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *stage) halt(r int, at string, token session.RefreshToken) session.Refreshed {
	h := &halt{at: at, who: goroutine(), token: token, release: make(chan session.Refreshed, 1)}
	g.mu.Lock()
	if g.open || at == "renew" && !g.renews[r] {
		g.mu.Unlock()
		return session.Refreshed{Outcome: session.OutcomeNotSent, Err: errors.ErrUnsupported}
	}
	g.halts[r] = append(g.halts[r], h)
	g.stir()
	g.mu.Unlock()
	return <-h.release
}

// let releases h with the provider's answer, if it waits for one.
func (g *stage) let(r int, h *halt, answer session.Refreshed) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.halts[r] = slices.DeleteFunc(g.halts[r], func(other *halt) bool { return other == h })
	h.release <- answer
}

// at is who is stopped there: the goroutine who, or if that is 0, one of the
// replica's own. The caller holds mu.
func (g *stage) at(r int, who int, at string, own func(who int) bool) *halt {
	for _, h := range g.halts[r] {
		if h.at == at && (h.who == who || who == 0 && own(h.who)) {
			return h
		}
	}
	return nil
}

// renewals stops the renewals of leases, or lets them go on.
func (g *stage) renewals(r int, stopped bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.renews[r] = stopped
	if stopped {
		return
	}
	for _, h := range g.halts[r] {
		if h.at == "renew" {
			h.release <- session.Refreshed{}
		}
	}
	g.halts[r] = slices.DeleteFunc(g.halts[r], func(h *halt) bool { return h.at == "renew" })
}

// letAll releases everybody, from now on.
func (g *stage) letAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
	for r := range g.halts {
		for _, h := range g.halts[r] {
			h.release <- session.Refreshed{Outcome: session.OutcomeNotSent, Err: errors.ErrUnsupported}
		}
		g.halts[r] = nil
	}
}

// until waits for ok, which is called with mu held, and reports whether it came.
func (g *stage) until(ok func() bool) bool {
	deadline := time.After(20 * time.Second)
	for {
		g.mu.Lock()
		done, changed := ok(), g.changed
		g.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-changed:
		case <-time.After(2 * time.Millisecond): // some things can only be looked at
		case <-deadline:
			return false
		}
	}
}

// refresh is the provider, as replica r's keeper sees it.
func (g *stage) refresh(r int) session.RefreshFunc {
	return func(_ context.Context, s *session.Session, sending func() error) session.Refreshed {
		if a := g.halt(r, "dial", ""); a.Err != nil {
			return a
		}
		if err := sending(); err != nil {
			return session.Refreshed{Outcome: session.OutcomeNotSent, Err: err}
		}
		return g.halt(r, "answer", s.Tokens.Refresh)
	}
}

func token(n int) session.RefreshToken { return session.RefreshToken(strconv.Itoa(n)) }

// request is a browser's or a thief's, at a keeper.
type request struct {
	who    int // its goroutine
	hangUp context.CancelFunc

	done    bool // guarded by the stage's mu, as is the rest
	err     error
	handout *session.Handout
	leaves  bool
}

// open has replica r open a ticket. A verdict is timely for the rest of the tick.
func (g *stage) request(r int, t session.Ticket) *request {
	ctx, cancel := context.WithCancel(context.Background())
	q := &request{hangUp: cancel}
	begun := make(chan struct{})
	need := session.Need{Token: true, Cookie: true, Received: g.now().Add(timely)}
	g.running.Go(func() {
		q.who = goroutine()
		close(begun)
		o, err := g.keepers[r].Open(ctx, &g.apps[r], t, need)
		leaves := g.keepers[r].MayHandOut(o.Successor)
		g.mu.Lock()
		defer g.mu.Unlock()
		q.done, q.err, q.handout, q.leaves = true, err, o.Successor, leaves
		g.stir()
	})
	<-begun
	return q
}

// answer is what a request was told.
func (q *request) answer() (answer, bool) {
	_, over := errors.AsType[*session.EndedError](q.err)
	_, trouble := errors.AsType[*session.UnavailableError](q.err)
	switch {
	case q.err == nil:
		return served, true
	case over:
		return refused401, true
	case trouble:
		return refused503, true
	}
	return 0, false
}
