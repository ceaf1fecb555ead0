package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cloakroom/cloakroom/config"
	"github.com/cloakroom/cloakroom/gateway/admin"
)

const (
	// headerTimeout is for a request's header alone: the slowest phone needs a
	// few seconds, a slow-header attack would hold the connection for ever.
	headerTimeout = 10 * time.Second
	// idleTimeout is longer than the load balancers' (600 s is the longest
	// common one), so that it is never us who close a connection on which
	// they are just sending a request.
	idleTimeout = 620 * time.Second
	// finishTimeout is for refreshes and revocations after the last request:
	// what a provider may take, and the commit. It is there even if open
	// requests have used up drain.timeout, since an unfinished refresh can cost
	// a session and an unfinished download costs a download.
	finishTimeout = 10 * time.Second
	// lastCalls is how long the listener stays open at least: the kernel resets
	// connections that nobody has taken from a listener when it closes, and with
	// them the requests of a balancer that has just chosen us.
	lastCalls = 200 * time.Millisecond
)

type serveCmd struct {
	configFlag
}

func (c serveCmd) Run() error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	// The first signal drains; after it the second one ends the process as if
	// nobody caught it.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop)
	// Standard output belongs to what a command was asked for.
	return serve(ctx, cfg, c.load, newLoggers(cfg.Log, os.Stderr))
}

// serve runs the gateway until ctx is done, and then drains it. The error is
// something that kept it from starting, from going on, or from finishing what
// must not be left undone. again reads the configuration anew.
func serve(ctx context.Context, cfg *config.Config, again func() (*config.Config, error), logs loggers) (err error) {
	log := logs.Logger
	defer logs.drain()
	// net/http's client tells the whole process of what it can't place, in the
	// upstream's own words.
	stdlog.SetOutput(io.Discard)
	for _, w := range cfg.Warnings() {
		log.Warn("configuration: "+w.Message, slog.String("key", w.Key), slog.Int("line", w.Line))
	}
	s, err := wire(cfg, log, logs.access)
	if err != nil {
		return err
	}
	defer s.close()
	publicListener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer publicListener.Close()
	adminListener, err := listenAdmin(cfg.Admin)
	if err != nil {
		return fmt.Errorf("admin.listen: %w", err)
	}
	defer adminListener.Close()

	// What works in the background outlives ctx: a request that drains needs
	// its session as much as any other.
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	var working sync.WaitGroup
	defer working.Wait()
	defer stopBackground()
	health := admin.NewHealth(s.store.Ping, log)
	working.Go(func() { s.keeper.Run(background) })
	working.Go(func() { health.Run(background) })

	var draining atomic.Bool
	public := newPublicServer(cfg, closing(s.gateway, &draining), log)
	reload := newReloader(s, cfg, again, logs)
	if public.TLSConfig != nil {
		public.TLSConfig.Certificates, public.TLSConfig.GetCertificate = nil, reload.getCertificate
	}
	working.Go(func() { reload.run(background) })
	operators := newAdminServer(admin.New(health, s.metrics, s.adminAPI(log)), log)
	failed := make(chan error, 2)
	working.Go(func() { failed <- serveOn(public, listener{publicListener, s.keeper.Interrupted}) })
	working.Go(func() { failed <- serveOn(operators, adminListener) })
	// Its probes are answered to the last.
	defer operators.Close()
	log.Info("listening", slog.String("listener", "public"), slog.String("address", publicListener.Addr().String()), slog.Bool("tls", cfg.Certificate != nil))
	log.Info("listening", slog.String("listener", "admin"), slog.String("address", adminListener.Addr().String()))
	log.Info("started", slog.String("version", buildVersion()), slog.Int("apps", len(cfg.Apps)))

	select {
	case err := <-failed:
		_ = public.Close()
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}

	drain := reload.current.Load().Drain
	log.Info("draining", slog.String("delay", drain.Delay.String()), slog.String("timeout", drain.Timeout.String()))
	logs.drain()
	health.Drain()
	draining.Store(true)
	time.Sleep(max(drain.Delay, lastCalls))
	deadline := time.Now().Add(drain.Timeout)
	open, cancel := context.WithDeadline(background, deadline)
	defer cancel()
	if err := public.Shutdown(open); err != nil {
		log.Warn("requests were still open at the end of drain.timeout and are cut off")
		_ = public.Close()
	}
	finish, cancel := context.WithDeadline(background, later(deadline, time.Now().Add(finishTimeout)))
	defer cancel()
	err = errors.Join(s.keeper.Wait(finish), s.gateway.Wait(finish))
	if err != nil {
		return fmt.Errorf("a refresh or a revocation was left unfinished: %w", err)
	}
	log.Info("stopped")
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// closing asks clients to come back on another connection, and so to another
// replica, once this one drains. Closing idle connections instead would cut off
// the request that is just arriving on one. An upgrade has the header for itself.
func closing(h http.Handler, draining *atomic.Bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if draining.Load() && r.Header.Get("Upgrade") == "" {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// newPublicServer bounds headers (twice as loosely as the gateway, whose refusals
// are problems) and idle connections. There is no read or write timeout: uploads,
// downloads and event streams last as long as they last, and routes have
// deadlines of their own.
func newPublicServer(cfg *config.Config, h http.Handler, log *slog.Logger) *http.Server {
	s := &http.Server{
		Handler:                      h,
		MaxHeaderBytes:               2 * cfg.Limits.HeaderBytes,
		ReadHeaderTimeout:            headerTimeout,
		IdleTimeout:                  idleTimeout,
		DisableGeneralOptionsHandler: true, // the gateway answers, or nobody
		ErrorLog:                     errorLog(log),
		Protocols:                    new(http.Protocols),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true) // by ALPN, with TLS alone
	if cfg.Certificate != nil {
		s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*cfg.Certificate}}
	}
	return s
}

func newAdminServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		MaxHeaderBytes:    8 << 10,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second, // a scrape over a slow line
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          errorLog(log),
	}
}

// errorLog is for what net/http says about connections: strangers' handshakes
// and the like, which nobody can mend.
func errorLog(log *slog.Logger) *stdlog.Logger {
	return slog.NewLogLogger(log.Handler(), slog.LevelDebug)
}

// listener tells when it can take no connection, for want of files as a rule: who
// waits in the kernel's queue meanwhile sends a request that is older than it looks.
type listener struct {
	net.Listener
	failed func()
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		l.failed()
	}
	return c, err
}

// serveOn serves until the server is closed, which is no error.
func serveOn(s *http.Server, l net.Listener) (err error) {
	if s.TLSConfig != nil {
		err = s.ServeTLS(l, "", "")
	} else {
		err = s.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// listenAdmin opens the operators' listener. A socket that a dead process has
// left is taken over, one that somebody answers on is not.
func listenAdmin(a config.Admin) (net.Listener, error) {
	if a.Network != "unix" {
		return net.Listen(a.Network, a.Address)
	}
	l, err := net.Listen("unix", a.Address)
	if errors.Is(err, syscall.EADDRINUSE) && deadSocket(a.Address) {
		if err = os.Remove(a.Address); err == nil {
			l, err = net.Listen("unix", a.Address)
		}
	}
	if err != nil {
		return nil, err
	}
	// Its owner and group, whatever the umask says: it needs no token.
	if err := os.Chmod(a.Address, 0o660); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// deadSocket reports whether path is a socket on which nobody listens.
func deadSocket(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return false
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
