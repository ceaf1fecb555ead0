package session_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/cloakroom/cloakroom/session"
	"github.com/cloakroom/cloakroom/session/store"
	"github.com/cloakroom/cloakroom/session/storetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// otter's timer lives as long as its cache, which lives as long as the process.
		goleak.IgnoreTopFunction("github.com/maypok86/otter/v2.periodicCleanUp[...]"))
}

// world is one Redis, one provider and a clock that all share.
type world struct {
	t        *testing.T
	redis    *storetest.Server
	offset   atomic.Int64
	keys     *session.Keyring
	provider *provider
	app      *session.App
}

const tokenLife = 5 * time.Minute

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, redis: storetest.Redis(t), provider: newProvider()}
	w.keys = keyring(t, session.NewServerKey())
	w.provider.now = w.now
	w.app = &session.App{
		Name:            "shop",
		IdleTimeout:     30 * time.Minute,
		AbsoluteTimeout: 12 * time.Hour,
		Grace:           time.Minute,
		CacheTTL:        5 * time.Second,
		Refresh:         w.provider.refresh,
		Revoke:          w.provider.revoke,
	}
	return w
}

func keyring(t *testing.T, keys ...session.ServerKey) *session.Keyring {
	t.Helper()
	r, err := session.NewKeyring(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.offset.Load())) }

// pass lets time pass for everybody.
func (w *world) pass(d time.Duration) { w.offset.Add(int64(d)) }

func (w *world) store(timeout time.Duration) *store.Store {
	s := store.New(store.Options{
		Address:   w.redis.Addr(),
		KeyPrefix: "cloakroom:",
		Timeout:   timeout,
		Offset:    func() time.Duration { return time.Duration(w.offset.Load()) },
	})
	w.t.Cleanup(func() { s.Close() })
	return s
}

// replica is a keeper that doesn't listen, so that each opening asks Redis.
func (w *world) replica() *session.Keeper { return w.replicaWith(w.keys) }

func (w *world) replicaWith(keys *session.Keyring) *session.Keeper {
	k := session.New(w.store(2*time.Second), keys, session.Options{Now: w.now, Log: testLog(w.t)})
	w.t.Cleanup(func() { k.Wait(context.Background()) })
	return k
}

// listening is a keeper that hears its own beat, and so may cache.
func (w *world) listening() *session.Keeper {
	s := w.store(2 * time.Second)
	k := session.New(s, w.keys, session.Options{Now: w.now, Log: testLog(w.t)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { k.Run(ctx); close(done) }()
	w.t.Cleanup(func() { cancel(); <-done; k.Wait(context.Background()) })
	eventually(w.t, "the replica hears itself", s.Hears)
	return k
}

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (w *world) client() *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: w.redis.Addr(), DisableIdentity: true})
	w.t.Cleanup(func() { c.Close() })
	return c
}

func (w *world) login() session.Login {
	return session.Login{
		Tokens:  w.provider.grant(),
		Issuer:  "https://id.example",
		Subject: "SUBcanary-alice",
		Claims:  []byte(`{"name":"Alice"}`),
		Address: "192.0.2.7",
		Browser: "Firefox",
	}
}

func (w *world) begin(k *session.Keeper) session.Ticket {
	w.t.Helper()
	t, err := k.Begin(w.t.Context(), w.app, w.login())
	if err != nil {
		w.t.Fatal("begin:", err)
	}
	return t
}

// page is what a page's call for a token needs; probe neither needs a token nor
// counts as activity.
var (
	page  = session.Need{Activity: true, Token: true, Cookie: true}
	probe = session.Need{Cookie: true}
)

func (w *world) open(k *session.Keeper, t session.Ticket, n session.Need) session.Opened {
	w.t.Helper()
	o, err := k.Open(w.t.Context(), w.app, t, n)
	if err != nil {
		w.t.Fatalf("open generation %d: %v", t.Generation, err)
	}
	if o.Subject != "SUBcanary-alice" {
		w.t.Fatalf("wrong user %q", o.Subject)
	}
	return o
}

// rotate makes the token run out and t's bearer refresh it.
func (w *world) rotate(k *session.Keeper, t session.Ticket) session.Ticket {
	w.t.Helper()
	w.pass(tokenLife)
	o := w.open(k, t, page)
	if o.Successor == nil {
		w.t.Fatalf("generation %d: no successor", t.Generation)
	}
	return o.Successor.Ticket
}

func (w *world) wantEnded(k *session.Keeper, t session.Ticket, reason session.Reason) {
	w.t.Helper()
	_, err := k.Open(w.t.Context(), w.app, t, page)
	if ended, ok := errors.AsType[*session.EndedError](err); !ok || ended.Reason != reason {
		w.t.Fatalf("generation %d: %v, want ended: %s", t.Generation, err, reason)
	}
}

func (w *world) wantUnavailable(k *session.Keeper, t session.Ticket, n session.Need) *session.UnavailableError {
	w.t.Helper()
	_, err := k.Open(w.t.Context(), w.app, t, n)
	u, ok := errors.AsType[*session.UnavailableError](err)
	if !ok {
		w.t.Fatalf("generation %d: %v, want unavailable", t.Generation, err)
	}
	return u
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// provider is a strict authorization server: it rotates, and a token's second
// use revokes the family.
type provider struct {
	now func() time.Time

	mu        sync.Mutex
	issued    int
	current   session.RefreshToken
	presented map[session.RefreshToken]int
	family    bool // alive
	revoked   []session.RefreshToken
	answers   []session.Refreshed // instead of an own answer, first first
	commits   bool                // whether such an answer hides a rotation
	keeps     bool                // does not rotate
	before    func()              // after sending, before the commit
	after     func()              // after the commit, before the answer
}

func newProvider() *provider {
	return &provider{presented: map[session.RefreshToken]int{}, family: true}
}

func (p *provider) grant() session.Tokens {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.issue()
}

func (p *provider) issue() session.Tokens {
	p.issued++
	p.current = session.RefreshToken(fmt.Sprintf("RTcanary-%d", p.issued))
	return session.Tokens{
		Access:    session.AccessToken(fmt.Sprintf("ATcanary-%d", p.issued)),
		TokenType: "Bearer",
		Scope:     "openid",
		IssuedAt:  p.now(),
		ExpiresAt: p.now().Add(tokenLife),
		Refresh:   p.current,
		ID:        "IDcanary",
	}
}

// answer has the provider give these answers, one a call, then its own.
func (p *provider) answer(rs ...session.Refreshed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers = rs
}

func (p *provider) refresh(ctx context.Context, s *session.Session, sending func() error) session.Refreshed {
	p.mu.Lock()
	if len(p.answers) > 0 && p.answers[0].Outcome == session.OutcomeNotSent {
		r := p.answers[0]
		p.answers = p.answers[1:]
		p.mu.Unlock()
		return r
	}
	before, after := p.before, p.after
	p.mu.Unlock()
	if err := sending(); err != nil {
		return session.Refreshed{Outcome: session.OutcomeNotSent, Err: err}
	}
	if before != nil {
		before()
	}
	r := p.exchange(s.Tokens.Refresh)
	if after != nil {
		after()
	}
	return r
}

func (p *provider) exchange(t session.RefreshToken) session.Refreshed {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.presented[t]++
	if len(p.answers) > 0 {
		r := p.answers[0]
		p.answers = p.answers[1:]
		if p.commits {
			p.issue()
		}
		return r
	}
	if t != p.current || !p.family {
		p.family = false
		return session.Refreshed{Outcome: session.OutcomeRejected}
	}
	if p.keeps {
		tokens := p.issue()
		p.current = t
		tokens.Refresh = ""
		return session.Refreshed{Outcome: session.OutcomeSpent, Tokens: tokens}
	}
	return session.Refreshed{Outcome: session.OutcomeSpent, Tokens: p.issue()}
}

func (p *provider) revoke(_ context.Context, t session.RefreshToken) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revoked = append(p.revoked, t)
}

// grants is how many token sets were handed out, the login's included.
func (p *provider) grants() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.issued
}

func (p *provider) wantNoReuse(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for token, n := range p.presented {
		if n > 1 {
			t.Errorf("%s was presented %d times", string(token), n)
		}
	}
	if !p.family {
		t.Error("the provider saw reuse")
	}
}
