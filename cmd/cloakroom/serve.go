package main

import (
	"context"
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
	"syscall"
	"time"

	"github.com/cloakroom/cloakroom/config"
	"github.com/cloakroom/cloakroom/gateway/admin"
)

const (
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
	// From the first line on: nobody who reads of us ends us by asking for a reload.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	// net/http's client tells the whole process of what it can't place, in the
	// upstream's own words.
	stdlog.SetOutput(io.Discard)
	warn(log, cfg)
	s, err := wire(cfg, log, logs.access)
	if err != nil {
		return err
	}
	defer s.close()
	publicListener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return cannotListen("listen", err)
	}
	defer publicListener.Close()
	adminListener, err := listenAdmin(cfg.Admin)
	if err != nil {
		return cannotListen("admin.listen", err)
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

	public := newFront(s.gateway.Listener(listener{publicListener, s.keeper.Interrupted}), s.gateway, log)
	reload := newReloader(s, public, cfg, again, logs)
	public.use(cfg)
	working.Go(func() { reload.run(background, hup) })
	operators := newAdminServer(admin.New(health, s.metrics, s.adminAPI(log)), log)
	failed := make(chan error, 1)
	working.Go(func() { failed <- serveOn(operators, adminListener) })
	// Its probes are answered to the last.
	defer operators.Close()
	log.Info("listening", slog.String("listener", "public"), slog.String("address", publicListener.Addr().String()), slog.Bool("tls", cfg.Certificate != nil))
	log.Info("listening", slog.String("listener", "admin"), slog.String("address", adminListener.Addr().String()))
	log.Info("started", slog.String("version", buildVersion()), slog.Int("apps", len(cfg.Apps)))

	select {
	case err = <-public.failed:
	case err = <-failed:
	case <-ctx.Done():
	}
	if err != nil {
		public.close()
		return fmt.Errorf("serving: %w", err)
	}

	drain := reload.current.Load().Drain
	log.Info("draining", slog.String("delay", drain.Delay.String()), slog.String("timeout", drain.Timeout.String()))
	logs.drain()
	health.Drain()
	public.draining.Store(true)
	time.Sleep(max(drain.Delay, lastCalls))
	deadline := time.Now().Add(drain.Timeout)
	open, cancel := context.WithDeadline(background, deadline)
	defer cancel()
	if err := public.shutdown(open); err != nil {
		log.Warn("requests were still open at the end of drain.timeout and are cut off")
		public.close()
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

// warn tells of settings that work and that an operator should know about.
func warn(log *slog.Logger, cfg *config.Config) {
	for _, w := range cfg.Warnings() {
		log.Warn("configuration: "+w.Message, slog.String("key", w.Key), slog.Int("line", w.Line))
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
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

// cannotListen says which key's address can't be had, and why.
func cannotListen(key string, err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err // whose own text begins with listen, too
		if op.Addr != nil {
			key += ": " + op.Addr.String()
		}
	}
	return fmt.Errorf("%s: %w", key, err)
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
