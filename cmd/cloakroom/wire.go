package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/cloakroom/cloakroom/config"
	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/admin"
	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/cloakroom/cloakroom/gateway/proxy"
	"github.com/cloakroom/cloakroom/gateway/upstream"
	"github.com/cloakroom/cloakroom/gateway/web"
	"github.com/cloakroom/cloakroom/session"
	"github.com/cloakroom/cloakroom/session/store"
)

// service is a configuration turned into the things that serve it. Making one
// connects to nothing: serve runs it, check throws it away.
type service struct {
	store     *store.Store
	keeper    *session.Keeper
	gateway   *gateway.Gateway
	metrics   *prometheus.Registry
	upstreams *upstream.Metrics
	asked     *idp.Metrics
	providers []appProvider
	// redis is how the store goes to Redis.
	redis config.Redis
	// traced is what tracing is made of; nil: nothing is traced. Those before are
	// closed in leaving, and all once closing is closed.
	traced  config.Tracing
	tracing *tracing
	leaving sync.WaitGroup
	closing chan struct{}
	// looked is the apps as operators look after them, and admin how they do.
	looked atomic.Pointer[[]admin.App]
	admin  atomic.Pointer[config.Admin]
	// unused closes what is kept open between requests, once nothing is served
	// any more.
	unused []func()
}

// appProvider is an app's provider under the app's name.
type appProvider struct {
	app      string
	provider *idp.Provider
}

// wire makes a service. What is wrong with cfg and wasn't found by the config
// package is found here.
//
// access is told a line a request, at info; nil: log is, at debug.
func wire(cfg *config.Config, log, access *slog.Logger) (*service, error) {
	s := &service{metrics: newRegistry(), redis: cfg.Redis, closing: make(chan struct{})}
	s.upstreams = upstream.NewMetrics(s.metrics)
	ring, err := newKeyring(cfg)
	if err != nil {
		return nil, err
	}
	s.store = newStore(cfg.Redis, s.metrics, log)
	s.keeper = session.New(s.store, ring, session.Options{Log: log, Metrics: s.metrics})
	s.gateway = gateway.New(s.keeper, gateway.Options{Log: log, Metrics: s.metrics, Access: access})
	s.asked = idp.NewMetrics(s.metrics)
	s.admin.Store(&cfg.Admin)
	if err := s.swap(context.Background(), cfg, log); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func newKeyring(cfg *config.Config) (*session.Keyring, error) {
	keys := make([]session.ServerKey, len(cfg.Keys))
	for i, k := range cfg.Keys {
		keys[i] = session.ServerKey(k)
	}
	return session.NewKeyring(keys...)
}

// swap takes over what may change while the process runs, or nothing of it. A
// [*config.Error] holds all that is wrong with the apps' tokens and templates.
//
// What the apps before held open is let go of as their last requests end. ctx
// bounds the wait for Redis, which is asked if the way there is another.
func (s *service) swap(ctx context.Context, cfg *config.Config, log *slog.Logger) (err error) {
	before, providersBefore := s.unused, s.providers
	s.unused, s.providers = nil, nil
	link, traces := (*store.Link)(nil), s.tracing
	defer func() {
		letGo := before
		if err != nil {
			letGo, s.unused, s.providers = s.unused, before, providersBefore
			if link != nil {
				_ = link.Close()
			}
			if traces != s.tracing {
				traces.close()
			}
		}
		for _, f := range letGo {
			f()
		}
	}()
	if !reflect.DeepEqual(s.traced, cfg.Tracing) {
		if traces, err = newTracing(cfg.Tracing, log); err != nil {
			return fmt.Errorf("tracing: %w", err)
		}
	}
	ring, err := newKeyring(cfg)
	if err != nil {
		return err
	}
	issuers, problems := newIssuers(cfg, ring)
	pages, more := newPages(cfg, log)
	if problems = append(problems, more...); len(problems) > 0 {
		slices.SortStableFunc(problems, func(a, b config.Problem) int { return cmp.Compare(a.Line, b.Line) })
		return &config.Error{Problems: problems}
	}
	toProviders := idp.NewTransport()
	s.unused = append(s.unused, toProviders.CloseIdleConnections)
	var providers http.RoundTripper = toProviders
	if traces != nil {
		providers = tracedTransport{toProviders, traces.tracer}
	}
	pools := map[string]*upstream.Pool{}
	apps := make([]gateway.App, len(cfg.Apps))
	looked := make([]admin.App, len(cfg.Apps))
	for i, a := range cfg.Apps {
		provider, err := idp.New(idp.Config{
			Issuer:              a.Provider.Issuer,
			ClientID:            a.Provider.ClientID,
			ClientSecret:        idp.ClientSecret(a.Provider.ClientSecret),
			ClientAuth:          a.Provider.ClientAuth,
			RedirectURI:         a.Origin.JoinPath("/bff/callback").String(),
			Scopes:              a.Provider.Scopes,
			AuthorizationParams: a.Provider.AuthorizationParams,
			UserInfo:            a.Provider.UserInfo,
			EndSessionEndpoint:  a.Provider.EndSessionEndpoint,
			Transport:           providers,
			Log:                 log.With(slog.String("app", a.Name)),
			Metrics:             s.asked,
		})
		if err != nil {
			return fmt.Errorf("app %s: %w", a.Name, err)
		}
		s.providers = append(s.providers, appProvider{a.Name, provider})
		apps[i] = gateway.App{
			Name:     a.Name,
			Origin:   a.Origin,
			Provider: provider,
			Session: session.App{
				IdleTimeout:       a.Session.IdleTimeout,
				AbsoluteTimeout:   a.Session.AbsoluteTimeout,
				Remember:          a.Session.Remember,
				MaxPerUser:        a.Session.MaxPerUser,
				Grace:             a.Session.RotationGrace,
				CacheTTL:          a.Session.CacheTTL,
				Revalidate:        a.Session.Revalidate,
				RefreshReuse:      a.Provider.RefreshReuse,
				RefreshRate:       a.Provider.RefreshRate,
				UnknownAnswerEnds: a.Provider.UnknownAnswer == "end",
			},
			LoginParams:   a.Provider.LoginParams,
			PasswordLogin: a.Provider.PasswordLogin,
			SplitKey:      a.Session.Binding == "split_key",
			UserClaims:    a.UserClaims,
			Token:         gateway.TokenMode(a.Token.Mode),
			Mint:          issuers[i],
			ForwardAuth:   gateway.AuthSecret(a.ForwardAuth),
			Audience:      a.Token.Audience,
			AfterLogout:   a.Session.AfterLogout,
			ClearSiteData: a.Session.ClearSiteData,
			HSTS:          hsts(a.HSTS),
			Pages:         pages[i],
		}
		if a.Session.SameSite == "lax" {
			apps[i].SameSite = http.SameSiteLaxMode
		}
		for _, r := range a.Routes {
			route, err := s.newRoute(cfg, a, r, pools, log)
			if err != nil {
				return fmt.Errorf("app %s: route %s: %w", a.Name, r.Path, err)
			}
			apps[i].Routes = append(apps[i].Routes, route)
		}
		policy := apps[i].Session
		policy.Name = a.Name
		looked[i] = admin.App{Name: a.Name, Issuer: a.Provider.Issuer, Policy: &policy}
	}
	served := gateway.Served{Apps: apps, Keys: ring, TrustedProxies: cfg.TrustedProxies, HeaderBytes: cfg.Limits.HeaderBytes}
	if traces != nil {
		served.Tracer, served.TraceRatio = traces.tracer, cfg.Tracing.SampleRatio
	}
	if link, err = tryRedis(ctx, s.store, s.redis, cfg.Redis); err != nil {
		return err
	}
	if err := s.gateway.Swap(served); err != nil {
		return err
	}
	if link != nil {
		s.store.Use(link)
		s.redis = cfg.Redis
	}
	s.retrace(traces, cfg.Tracing)
	s.keeper.ReplaceKeys(ring)
	s.looked.Store(&looked)
	// Whether a token may be left out was judged by the listener's address.
	if was := s.admin.Load(); was.Network == cfg.Admin.Network && was.Address == cfg.Admin.Address {
		s.admin.Store(&cfg.Admin)
	}
	return nil
}

// retrace takes another tracing over, or the same. The one before is closed once
// requests that began with it are over, but for the longest.
func (s *service) retrace(next *tracing, made config.Tracing) {
	old := s.tracing
	s.tracing, s.traced = next, made
	if old == nil || old == next {
		return
	}
	s.leaving.Go(func() {
		t := time.NewTimer(lastSpans)
		defer t.Stop()
		select {
		case <-t.C:
		case <-s.closing:
		}
		old.close()
	})
}

// adminAPI looks after the sessions of the apps as they are when it is asked.
func (s *service) adminAPI(log *slog.Logger) *admin.API {
	return &admin.API{
		Keeper: s.keeper,
		Apps:   func() []admin.App { return *s.looked.Load() },
		Token:  func() admin.Token { return admin.Token(s.admin.Load().Token) },
		Host:   s.admin.Load().Address,
		Log:    log,
	}
}

// hsts is the header's value (RFC 6797 section 6.1).
func hsts(h config.HSTS) string {
	if h.MaxAge == 0 {
		return ""
	}
	v := fmt.Sprintf("max-age=%d", int64(h.MaxAge/time.Second))
	if h.IncludeSubdomains {
		v += "; includeSubDomains"
	}
	return v
}

// pool is the one of pools that an upstream's requests go by; a new one joins
// them.
func (s *service) pool(u *config.Upstream, pools map[string]*upstream.Pool, log *slog.Logger) (*upstream.Pool, error) {
	if p := pools[u.Pool()]; p != nil {
		return p, nil
	}
	o := upstream.Options{
		Targets:      u.Targets,
		Protocol:     u.Protocol,
		TLS:          u.TLS,
		MaxConns:     u.MaxConns,
		MaxIdleConns: u.MaxIdleConns,
		DialTimeout:  u.DialTimeout,
		IdleTimeout:  u.IdleTimeout,
		Log:          log,
		Metrics:      s.upstreams,
	}
	if o.Protocol == "auto" {
		o.Protocol = ""
	}
	p, err := upstream.New(o)
	if err != nil {
		return nil, err
	}
	pools[u.Pool()] = p
	s.unused = append(s.unused, p.Close)
	return p, nil
}

// identityHeaders are all that upstreams are told of users in, and that no browser may
// tell any of them: apps may have some in common.
func identityHeaders(apps []config.App) []string {
	var out []string
	for _, a := range apps {
		for _, r := range a.Routes {
			for _, h := range r.Headers {
				out = append(out, h.Name)
			}
		}
	}
	return out
}

func (s *service) newRoute(cfg *config.Config, a config.App, r config.Route, pools map[string]*upstream.Pool, log *slog.Logger) (gateway.Route, error) {
	// /api and /api/ are one prefix, and so that routes of different methods
	// meet, one spelling.
	path := cmp.Or(strings.TrimSuffix(r.Path, "/"), "/")
	out := gateway.Route{
		Path:      path,
		Methods:   r.Methods,
		Token:     r.Token == "session",
		Accept:    gateway.Accept{Cookie: slices.Contains(r.Accept, "cookie"), Bearer: slices.Contains(r.Accept, "bearer")},
		Require:   r.Require,
		MaxHeader: r.MaxHeader,
		MaxBody:   r.MaxBody,
	}
	// What isn't named weaker here is the zero value, which asks for most.
	if r.Kind == "page" {
		out.Kind = gateway.KindPage
	}
	switch r.Auth {
	case "optional":
		out.Auth = gateway.AuthOptional
	case "none":
		out.Auth = gateway.AuthNone
	}
	for _, h := range r.Headers {
		out.Headers = append(out.Headers, gateway.ClaimHeader{Name: h.Name, Claim: h.Claim})
	}
	if r.ForwardAuth {
		out.ForwardAuth = true
		return out, nil
	}
	var err error
	if r.Upstream == nil {
		out.StripPrefix = r.StripPrefix
		out.Files, err = web.OpenFiles(r.Files, web.FilesOptions{Private: r.Auth != "none"})
		return out, err
	}
	out.Deadline, out.MaxConcurrent = r.Deadline, r.MaxConcurrent
	if r.DevServer {
		// As browsers would spell its origin.
		out.DevServer = "http://" + strings.TrimSuffix(strings.ToLower(r.Upstream.Targets[0].Host), ":80")
	}
	pool, err := s.pool(r.Upstream, pools, log)
	if err != nil {
		return out, err
	}
	out.Upstream, err = proxy.New(proxy.Config{
		Target:          r.Upstream.Targets[0], // its path is that of all; the pool chooses the host
		StripPrefix:     r.StripPrefix,
		Timeout:         r.Timeout,
		PublicScheme:    a.Origin.Scheme,
		TrustedProxies:  cfg.TrustedProxies,
		OwnCookies:      gateway.OwnCookie,
		IdentityHeaders: identityHeaders(cfg.Apps),
		Transport:       pool,
		Log:             log.With(slog.String("app", a.Name)),
	})
	return out, err
}

// close lets go of what the service holds open.
func (s *service) close() {
	for _, letGo := range s.unused {
		letGo()
	}
	close(s.closing)
	s.tracing.close()
	s.leaving.Wait()
	_ = s.store.Close() // what it still holds goes with the process
}

// newRegistry measures the process itself.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "cloakroom_build_info",
		Help:        "1, with the version as a label.",
		ConstLabels: prometheus.Labels{"version": buildVersion()},
	})
	info.Set(1)
	r.MustRegister(info)
	return r
}
