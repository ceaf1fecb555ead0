package gateway_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/cloakroom/cloakroom/gateway/proxy"
	upstreams "github.com/cloakroom/cloakroom/gateway/upstream"
	"github.com/cloakroom/cloakroom/session"
	"github.com/cloakroom/cloakroom/session/store"
	"github.com/cloakroom/cloakroom/session/storetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// otter's timer lives as long as its cache, which lives as long as the process.
		goleak.IgnoreAnyFunction("github.com/maypok86/otter/v2.periodicCleanUp[...]"),
		goleak.IgnoreAnyFunction("github.com/maypok86/otter/v2/internal/clock.(*Real).Tick"))
}

const (
	host      = "app.test"
	origin    = "https://app.test"
	tokenLife = 5 * time.Minute
	grace     = time.Minute
)

// world is a provider, a Redis, an upstream, any number of replicas in front of
// them, and one clock for all.
type world struct {
	t        testing.TB
	redis    *storetest.Server
	provider *gatewaytest.Provider
	client   gatewaytest.Client
	upstream *upstream
	keys     *session.Keyring
	offset   atomic.Int64
	log      *journal
	edit     []func(*gateway.App)

	redisAddr string                 // the next replica's way to Redis; empty: straight
	options   func(*gateway.Options) // of the next replica; may be nil
	served    func(*gateway.Served)  // by the next replica; may be nil
}

// newWorld returns a world whose gateway serves app.test, with changes to the
// app's definition.
func newWorld(t testing.TB, edit ...func(*gateway.App)) *world {
	t.Helper()
	w := &world{t: t, redis: storetest.Redis(t), log: &journal{}, edit: edit}
	w.provider = gatewaytest.Start(t, gatewaytest.Options{
		AutoLogin: gatewaytest.As("alice"), AccessLife: tokenLife, Now: w.now,
	})
	w.client = w.provider.Register(gatewaytest.Client{
		RedirectURIs: []string{origin + "/bff/callback"}, PostLogoutRedirectURIs: []string{origin + "/bff/logged-out"},
	})
	w.upstream = newUpstream(t)
	ring, err := session.NewKeyring(session.NewServerKey())
	if err != nil {
		t.Fatal(err)
	}
	w.keys = ring
	t.Cleanup(func() { // S-01, on every test
		for _, secret := range append(gatewaytest.Canaries(), "__Host-Http-cloakroom=", "code_verifier") {
			if line := w.log.find(secret); line != "" {
				t.Errorf("S-01: %q is in the log: %s", secret, line)
			}
		}
	})
	return w
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.offset.Load())) }

// pass lets time pass for everybody.
func (w *world) pass(d time.Duration) { w.offset.Add(int64(d)) }

// app is the definition that the replicas serve.
func (w *world) app() gateway.App {
	w.t.Helper()
	o, _ := url.Parse(origin)
	transport := idp.NewTransport()
	w.t.Cleanup(transport.CloseIdleConnections)
	p, err := idp.New(idp.Config{
		Issuer: w.provider.Issuer(), ClientID: w.client.ID, ClientSecret: idp.ClientSecret(w.client.Secret),
		ClientAuth: idp.ClientSecretBasic, RedirectURI: origin + "/bff/callback",
		Scopes: []string{"openid", "profile", "offline_access"}, Transport: transport, Timeout: 5 * time.Second,
		Now: w.now, Log: w.log.logger(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	api := w.upstream.proxy(w.t, "/api")
	def := gateway.App{
		Name: "shop", Origin: o, Provider: p,
		Session: session.App{
			IdleTimeout: 30 * time.Minute, AbsoluteTimeout: 12 * time.Hour, Grace: grace,
		},
		LoginParams: []string{"prompt", "login_hint"},
		UserClaims:  []string{"sub", "name", "email", "absent"},
		Token:       gateway.TokenRelay,
		AfterLogout: "/bye",
		Routes: []gateway.Route{
			{Path: "/api/", Upstream: api, Token: true},
			{Path: "/api/plain", Upstream: api},
			{Path: "/api/read", Methods: []string{"GET"}, Upstream: api, Token: true},
			{Path: "/public/", Upstream: api, Auth: gateway.AuthNone},
			{Path: "/maybe/", Upstream: api, Auth: gateway.AuthOptional, Token: true},
			{Path: "/page/", Upstream: api, Kind: gateway.KindPage, Token: true},
		},
	}
	for _, f := range w.edit {
		f(&def)
	}
	return def
}

// replica is one gateway process.
type replica struct {
	*gateway.Gateway
	keeper *session.Keeper
	store  *store.Store
	addr   string
}

// replica starts a gateway that serves apps, by default the world's one.
func (w *world) replica(apps ...gateway.App) *replica {
	w.t.Helper()
	if len(apps) == 0 {
		apps = []gateway.App{w.app()}
	}
	st := store.New(store.Options{
		Address: cmp.Or(w.redisAddr, w.redis.Addr()), KeyPrefix: "cloakroom:", Timeout: 2 * time.Second,
		Offset: func() time.Duration { return time.Duration(w.offset.Load()) },
	})
	keeper := session.New(st, w.keys, session.Options{Log: w.log.logger(), Now: w.now})
	opts := gateway.Options{Log: w.log.logger(), Now: w.now}
	if w.options != nil {
		w.options(&opts)
	}
	g := gateway.New(keeper, opts)
	serves := gateway.Served{Apps: apps, Keys: w.keys}
	if w.served != nil {
		w.served(&serves)
	}
	if err := g.Swap(serves); err != nil {
		w.t.Fatal(err)
	}
	srv := httptest.NewServer(g)
	w.t.Cleanup(func() {
		srv.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if g.Wait(ctx) != nil || keeper.Wait(ctx) != nil {
			w.t.Error("the gateway doesn't come to rest")
		}
		st.Close()
	})
	return &replica{Gateway: g, keeper: keeper, store: st, addr: srv.Listener.Addr().String()}
}

// upstream tells what reached it, and answers with it.
type upstream struct {
	*httptest.Server
	mu     sync.Mutex
	seen   []seen
	answer func(http.ResponseWriter, *http.Request) bool // true: it has answered
}

// seen is one request as the upstream got it.
type seen struct {
	Method, Path, Query string
	User                string // the sub of the bearer
	Header              http.Header
}

func newUpstream(t testing.TB) *upstream {
	u := &upstream{}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := seen{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, subject(r.Header.Get("Authorization")), r.Header}
		u.mu.Lock()
		u.seen = append(u.seen, s)
		answer := u.answer
		u.mu.Unlock()
		if answer != nil && answer(w, r) {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(s)
	}))
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) proxy(t testing.TB, strip string, identity ...string) *proxy.Proxy {
	t.Helper()
	target, _ := url.Parse(u.URL)
	pool, err := upstreams.New(upstreams.Options{Targets: []*url.URL{target}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	p, err := proxy.New(proxy.Config{Target: target, StripPrefix: strip, OwnCookies: gateway.OwnCookie, IdentityHeaders: identity, Transport: pool, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// answers sets what the upstream says from now on; nil: what it saw.
func (u *upstream) answers(f func(http.ResponseWriter, *http.Request) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = f
}

func (u *upstream) requests() []seen {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]seen(nil), u.seen...)
}

// last is the latest request that reached the upstream.
func (u *upstream) last(t testing.TB) seen {
	t.Helper()
	all := u.requests()
	if len(all) == 0 {
		t.Fatal("nothing reached the upstream")
	}
	return all[len(all)-1]
}

// subject is the sub in a bearer token that is a JWT, unverified.
func subject(authorization string) string {
	parts := strings.Split(strings.TrimPrefix(authorization, "Bearer "), ".")
	if len(parts) != 3 {
		return ""
	}
	b, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Sub string `json:"sub"`
	}
	json.Unmarshal(b, &claims)
	return claims.Sub
}

// journal is the log of all replicas, at level debug.
type journal struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines.Write(b)
}

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// find returns the first line with text in it.
func (j *journal) find(text string) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(j.lines.String()) {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
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
