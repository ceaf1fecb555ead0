package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloakroom/cloakroom/config"
	"github.com/cloakroom/cloakroom/gateway"
)

const (
	// headerTimeout is for a request's header alone: the slowest phone needs a
	// few seconds, a slow-header attack would hold the connection for ever.
	headerTimeout = 10 * time.Second
	// idleTimeout is longer than the load balancers' (600 s is the longest
	// common one), so that it is never us who close a connection on which
	// they are just sending a request.
	idleTimeout = 620 * time.Second
)

// front is what stands behind the public listener: a server, and where the
// configuration changes what a server can't while it serves (limits, tls), another
// one for the connections that come from then on. The one before stays with those
// that it has, and asks their clients to come back on new ones. It closes none: a
// request may just be arriving there.
type front struct {
	listener net.Listener
	handler  http.Handler
	log      *slog.Logger
	failed   chan error // what kept it from going on

	draining    atomic.Bool                     // clients are asked to come back elsewhere
	certificate atomic.Pointer[tls.Certificate] // the latest
	current     atomic.Pointer[server]          // takes what comes
	working     sync.WaitGroup

	mu     sync.Mutex // guards the rest
	before []*server  // with connections that are left
	closed bool
}

// newFront serves nobody until [front.use].
func newFront(l net.Listener, h http.Handler, log *slog.Logger) *front {
	return &front{listener: l, handler: h, log: log, failed: make(chan error, 1)}
}

// use serves from now on as cfg says.
func (f *front) use(cfg *config.Config) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if cfg.Certificate != nil {
		f.certificate.Store(cfg.Certificate)
	}
	was, s := f.current.Load(), newServer(f, cfg)
	if f.closed || was != nil && was.limits == s.limits && was.tls == s.tls {
		return
	}
	f.current.Store(s)
	f.working.Go(s.serve)
	if was == nil {
		f.working.Go(f.accept)
		return
	}
	f.before = append(slices.DeleteFunc(f.before, (*server).over), was)
	_ = was.takesNoMore()
}

func (f *front) getCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return f.certificate.Load(), nil
}

// accept hands each connection to the server of the moment.
func (f *front) accept() {
	for {
		var a accepted
		if a.conn, a.err = f.listener.Accept(); errors.Is(a.err, net.ErrClosed) {
			return
		}
		for !f.current.Load().take(a) {
			if f.current.Load().gone() { // and nobody follows it: the process ends
				if a.err == nil {
					_ = a.conn.Close()
				}
				return
			}
		}
	}
}

// shutdown takes no connection any more, and returns when all requests are over,
// or with ctx's error.
func (f *front) shutdown(ctx context.Context) error {
	return f.end(func(s *http.Server) error { return s.Shutdown(ctx) })
}

// close cuts off what is open.
func (f *front) close() {
	_ = f.end((*http.Server).Close)
}

func (f *front) end(end func(*http.Server) error) error {
	f.mu.Lock()
	f.closed = true
	all := append(slices.Clone(f.before), f.current.Load())
	f.mu.Unlock()
	_ = f.listener.Close()
	errs := make([]error, len(all))
	var ending sync.WaitGroup
	for i, s := range all {
		ending.Go(func() { errs[i] = end(s.http) })
	}
	ending.Wait()
	f.working.Wait()
	return errors.Join(errs...)
}

// server is one of a front's, and a listener to itself: of what it is handed.
type server struct {
	front  *front
	http   *http.Server
	limits config.Limits
	tls    bool

	handed chan accepted
	done   chan struct{} // closed: it takes no more
	once   sync.Once     // closes done

	open     atomic.Int64 // connections
	returned atomic.Bool  // it knows of all that it has taken
}

// accepted is what a listener has answered.
type accepted struct {
	conn net.Conn
	err  error
}

// newServer bounds headers (twice as loosely as the gateway, whose refusals are
// problems) and idle connections. There is no read or write timeout: uploads,
// downloads and event streams last as long as they last, and routes have
// deadlines of their own.
func newServer(f *front, cfg *config.Config) *server {
	s := &server{front: f, limits: cfg.Limits, tls: cfg.Certificate != nil, handed: make(chan accepted), done: make(chan struct{})}
	s.http = &http.Server{
		Handler:                      s,
		MaxHeaderBytes:               2 * cfg.Limits.HeaderBytes,
		ReadHeaderTimeout:            headerTimeout,
		IdleTimeout:                  idleTimeout,
		DisableGeneralOptionsHandler: true, // the gateway answers, or nobody
		ErrorLog:                     errorLog(f.log),
		Protocols:                    new(http.Protocols),
		ConnState:                    s.count,
	}
	s.http.Protocols.SetHTTP1(true)
	s.http.Protocols.SetHTTP2(true) // by ALPN, with TLS alone
	if s.tls {
		s.http.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: f.getCertificate}
	}
	return s
}

// serve serves until the server is replaced or ended, which is no error.
func (s *server) serve() {
	err := serveOn(s.http, s)
	_ = s.takesNoMore()
	s.returned.Store(true)
	if err != nil && s.front.current.Load() == s {
		s.front.failed <- err
	}
}

// ServeHTTP asks clients to come back on another connection where this one's days
// are over, and so, when the process drains, to another replica. Closing idle
// connections instead would cut off the request that is just arriving on one. An
// upgrade has the header for itself.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if (s.gone() || s.front.draining.Load()) && r.Header.Get("Upgrade") == "" {
		w.Header().Set("Connection", "close")
	}
	s.front.handler.ServeHTTP(w, r)
}

// take hands the server what was accepted, unless it takes no more.
func (s *server) take(a accepted) bool {
	select {
	case s.handed <- a:
		return true
	case <-s.done:
		return false
	}
}

func (s *server) takesNoMore() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

func (s *server) gone() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// over reports whether nothing is left of it.
func (s *server) over() bool { return s.returned.Load() && s.open.Load() == 0 }

func (s *server) count(c net.Conn, state http.ConnState) {
	gateway.ConnState(c, state)
	switch state {
	case http.StateNew:
		s.open.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.open.Add(-1)
	}
}

// Accept, Close and Addr implement net.Listener.
func (s *server) Accept() (net.Conn, error) {
	select {
	case a := <-s.handed:
		return a.conn, a.err
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *server) Close() error   { return s.takesNoMore() }
func (s *server) Addr() net.Addr { return s.front.listener.Addr() }

var _ net.Listener = (*server)(nil)
