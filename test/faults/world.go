package faults

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/session/storetest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// World is a deployment under load. Its methods are for the test's goroutine
// unless they say otherwise.
type World struct {
	T            testing.TB
	Rig          *rig.World
	Setup        Setup
	Provider     *gatewaytest.Provider
	Certified    *rig.Certified // the provider in its place, with Setup.Certified
	ProviderLink *rig.Link      // between all gateways and the provider
	Upstream     *Upstream
	Redis        *storetest.Server
	// Stores are asked at the end if every key has a TTL, and searched for secrets;
	// default: Redis. A row that makes others of them sets it.
	Stores   []Searched
	Browsers []*Browser
	Start    time.Time

	patience   time.Duration
	client     *http.Client // follows nothing, shared by all browsers
	replicas   atomic.Pointer[[]*Replica]
	nextOp     atomic.Int64
	nextNumber atomic.Int64
	figures    map[string]float64 // a row's own, from its Strike for its Judge

	mu       sync.Mutex // guards the rest
	ops      []Op
	sessions []*Session
	windows  []Window
	troubles []Trouble
	tickets  map[string]struct{} // every ticket that was ever set
	metrics  [][]byte
	dead     []dead
}

// Replica is one place behind the balancer: its links stay, while the process
// behind them comes and goes.
type Replica struct {
	N        int
	Client   *rig.Link // from browsers
	Redis    *rig.Link // nil with Setup.NoRedisLink
	Upstream *rig.Link

	w       *World
	gateway atomic.Pointer[rig.Gateway] // nil: none runs
	ready   atomic.Bool
	process atomic.Int64 // the number of the process, over all replicas
}

// addr is where browsers find it.
func (r *Replica) addr() string {
	if g := r.Gateway(); g != nil && r.w.Setup.NoLinks {
		return g.Public
	}
	return r.Client.Addr()
}

// Gateway is the process that runs there; nil: none.
func (r *Replica) Gateway() *rig.Gateway { return r.gateway.Load() }

// New starts a World: the parts and the replicas, no browser yet.
func New(t testing.TB, s Setup) *World {
	t.Helper()
	if s.Replicas == 0 {
		s.Replicas = 2
	}
	if s.Browsers == 0 {
		s.Browsers = 200
	}
	if s.Provider.AccessLife == 0 {
		s.Provider.AccessLife = 4 * time.Second
	}
	s.grouped()
	if s.Redis == nil {
		// Without a delay, or what is searched at the end comes 5 s late.
		s.Redis = storetest.Redis(t, "--appendonly", "yes", "--appendfsync", "everysec", "--rdbcompression", "no", "--repl-diskless-sync-delay", "0")
	}
	if s.Patience == 0 {
		s.Patience = 25 * time.Second // longer than a gateway waits for a provider
	}
	w := &World{
		T: t, Setup: s, patience: s.Patience, Redis: s.Redis, Stores: s.searched(), Start: time.Now(),
		tickets: map[string]struct{}{},
		client: &http.Client{
			Transport:     &http.Transport{MaxIdleConnsPerHost: 512, MaxIdleConns: 2048, DisableCompression: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	t.Cleanup(w.client.CloseIdleConnections)
	none := []*Replica{}
	w.replicas.Store(&none)
	w.Upstream = newUpstream(t, w.Start)

	w.ProviderLink = rig.NewLink(t, "", s.Seed)
	s.Provider.Issuer = "http://" + w.ProviderLink.Addr()
	if s.Provider.AutoLogin == nil {
		s.Provider.AutoLogin = gatewaytest.As("nobody")
	}
	w.Provider = gatewaytest.NewProvider(s.Provider)
	server := httptest.NewServer(w.Provider)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	t.Cleanup(w.Provider.Close)
	_, host, _ := strings.Cut(server.URL, "://")
	w.ProviderLink.To(host)
	c := w.Provider.Register(gatewaytest.Client{
		RedirectURIs:           []string{rig.Origin + "/bff/callback"},
		PostLogoutRedirectURIs: []string{rig.Origin + "/bff/logged-out"},
		PasswordGrant:          true,
	})
	registration := rig.Registration{Issuer: s.Provider.Issuer, ClientID: c.ID, ClientSecret: c.Secret, ClientAuth: c.Auth,
		Scopes: []string{"openid", "profile", "email", "offline_access"}}
	if s.Certified {
		registration = w.certify()
	}
	w.Rig = rig.New(t, rig.Setup{
		Provider: registration, Replicas: -1, Redis: s.Redis,
		Change: func(c rig.Config) {
			c.Set("log.level", "info")
			c.Set("trusted_proxies", []any{"127.0.0.0/8"})
			c.Set("apps.0.provider.password_login", !s.Certified)
			c.Set("apps.0.session.rotation_grace", "3s")
			if s.Change != nil {
				s.Change(c)
			}
		},
	})
	w.Rig.Binary = s.Binary
	for range s.Replicas {
		w.Add()
	}
	return w
}

// Replicas are all places, in the order in which they came.
func (w *World) Replicas() []*Replica { return *w.replicas.Load() }

// Running are the places where a process runs.
func (w *World) Running() []*Replica {
	var found []*Replica
	for _, r := range w.Replicas() {
		if r.Gateway() != nil {
			found = append(found, r)
		}
	}
	return found
}

// Add starts one more replica, with links of its own, and returns when it is
// ready.
func (w *World) Add() *Replica {
	w.T.Helper()
	all := w.Replicas()
	n := len(all)
	r := &Replica{N: n, w: w, Client: rig.NewLink(w.T, "", w.Setup.Seed+uint64(10*n+1))}
	_, upstream, _ := strings.Cut(w.Upstream.URL, "://")
	r.Upstream = rig.NewLink(w.T, upstream, w.Setup.Seed+uint64(10*n+2))
	if !w.Setup.NoRedisLink && !w.Setup.NoLinks {
		r.Redis = rig.NewLink(w.T, w.Redis.Addr(), w.Setup.Seed+uint64(10*n+3))
	}
	w.Boot(r)
	more := append(append([]*Replica{}, all...), r)
	w.replicas.Store(&more)
	return r
}

// Boot starts a process at a place where none runs, and waits until it is ready.
func (w *World) Boot(r *Replica) {
	w.T.Helper()
	w.boot(r)
	r.Gateway().WaitReady()
	r.ready.Store(true)
}

func (w *World) boot(r *Replica) {
	w.T.Helper()
	c := w.Rig.Config
	if r.Redis != nil {
		c.Set("redis.addresses", []any{r.Redis.Addr()})
	}
	upstream := "http://" + r.Upstream.Addr()
	if w.Setup.NoLinks {
		upstream = w.Upstream.URL
	}
	routes := []any{
		map[string]any{"path": "/api/", "upstream": upstream, "strip_prefix": "/api"},
		map[string]any{"path": "/landing", "upstream": upstream, "kind": "page", "auth": "none", "token": "none"},
	}
	if w.Setup.Bearers {
		routes = append(routes, map[string]any{"path": "/bearer/", "upstream": upstream, "strip_prefix": "/bearer", "accept": []any{"bearer"}})
		c.Set("apps.0.token.audience", []any{"https://api.example.com"})
	}
	c.Set("apps.0.routes", routes)
	if w.Setup.Each != nil {
		w.Setup.Each(w.Rig, r.N)
	}
	g := w.Rig.Start()
	r.Client.To(g.Public)
	r.Client.Accept()
	r.process.Store(w.nextNumber.Add(1) - 1)
	r.gateway.Store(g)
	watching := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	w.T.Cleanup(func() {
		cancel()
		<-watching
	})
	go func() {
		defer close(watching)
		r.watch(ctx, g)
	}()
}

// watch is the balancer's health check: a replica that doesn't say it is ready
// gets no requests as long as another does.
func (r *Replica) watch(ctx context.Context, g *rig.Gateway) {
	client := &http.Client{Timeout: 500 * time.Millisecond, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.Done():
			if r.gateway.CompareAndSwap(g, nil) {
				r.ready.Store(false)
			}
			return
		case <-tick.C:
		}
		resp, err := client.Get("http://" + g.Admin + "/readyz")
		ok := err == nil && resp.StatusCode == http.StatusOK
		if err == nil {
			resp.Body.Close()
		}
		if r.gateway.Load() == g {
			r.ready.Store(ok)
		}
	}
}

// Kill ends a replica's process at once (SIGKILL).
func (w *World) Kill(r *Replica) {
	w.T.Helper()
	g := r.Gateway()
	g.Signal(syscall.SIGKILL)
	<-g.Done()
	r.gateway.CompareAndSwap(g, nil)
	r.Client.Refuse() // nobody listens there any more
}

// Retire asks a replica to end (SIGTERM), waits, and returns its exit code.
func (w *World) Retire(r *Replica) int {
	w.T.Helper()
	g := r.Gateway()
	g.Signal(syscall.SIGTERM)
	code := g.Wait(2 * rig.Patience)
	r.gateway.CompareAndSwap(g, nil)
	r.Client.Refuse()
	return code
}

// Freeze stops a replica's process (SIGSTOP), and returns when none of it runs;
// Thaw lets it go on.
func (w *World) Freeze(r *Replica) { r.Gateway().Freeze() }

// Thaw is Freeze's end.
func (w *World) Thaw(r *Replica) { r.Gateway().Signal(syscall.SIGCONT) }

// Fault opens a window: what goes wrong from now on may be its doing. The
// returned function closes it. Any goroutine may call both.
func (w *World) Fault(name string) (over func()) {
	from := w.now()
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.windows)
	w.windows = append(w.windows, Window{Name: name, From: from})
	return func() {
		to := w.now()
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.windows[n].To == 0 {
			w.windows[n].To = to
		}
	}
}

// Trouble writes down a violation that the caller has seen. Any goroutine may.
func (w *World) Trouble(invariant, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.troubles = append(w.troubles, Trouble{invariant, fmt.Sprintf(format, args...)})
}

func (w *World) now() time.Duration { return time.Since(w.Start) }

// Sleep lets the load go on for a while.
func (w *World) Sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.T.Context().Done():
	}
}

func (w *World) note(op Op) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ops = append(w.ops, op)
}

// gauges asks each running replica what it holds.
func (w *World) gauges() []Gauge {
	var all []Gauge
	for _, r := range w.Running() {
		text := []byte(r.Gateway().Metrics())
		w.mu.Lock()
		w.metrics = append(w.metrics, text)
		w.mu.Unlock()
		g := Gauge{
			Process: int(r.process.Load()), Goroutines: Metric(text, "go_goroutines"),
			FDs: Metric(text, "process_open_fds"), RSS: Metric(text, "process_resident_memory_bytes"),
		}
		// Connections that are kept open on purpose are no leak, up to what a pool may hold.
		pooled := r.Upstream.Open()
		if r.Redis != nil {
			pooled += r.Redis.Open()
		}
		g.FDs -= float64(min(pooled, 512))
		all = append(all, g)
	}
	return all
}

// Metric is the sum of a metric's samples, over all labels.
func Metric(text []byte, name string) float64 {
	sum := 0.0
	for line := range bytes.Lines(text) {
		rest, ok := bytes.CutPrefix(line, []byte(name))
		if !ok || len(rest) == 0 || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		n, err := strconv.ParseFloat(string(bytes.TrimSpace(rest[bytes.LastIndexByte(rest, ' ')+1:])), 64)
		if err == nil {
			sum += n
		}
	}
	return sum
}
