package gatewaytest

import (
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
)

// listening is the provider's own server, where it has one.
type listening struct {
	mu     sync.Mutex // guards the rest
	addr   string
	server *http.Server
	done   chan struct{} // closed when the server's goroutine is over
}

// Start serves a provider on a free loopback port until the test ends. An
// empty opts.Issuer becomes http://127.0.0.1:PORT.
func Start(t testing.TB, opts Options) *Provider {
	t.Helper()
	p := NewProvider(opts)
	if err := p.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// Listen serves the provider over plain http, and takes the address for the
// issuer if that is still empty. End it with [Provider.Close].
func (p *Provider) Listen(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	p.mu.Lock()
	if p.opts.Issuer == "" {
		p.opts.Issuer = "http://" + l.Addr().String()
	}
	p.mu.Unlock()
	p.server.mu.Lock()
	defer p.server.mu.Unlock()
	p.server.addr = l.Addr().String()
	p.serve(l)
	return nil
}

// serve runs a server on l; server.mu is held.
func (p *Provider) serve(l net.Listener) {
	s, done := &http.Server{Handler: p}, make(chan struct{})
	p.server.server, p.server.done = s, done
	go func() {
		defer close(done)
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			panic(err)
		}
	}()
}

// Refuse closes the port and every connection: dialing the provider fails
// until [Provider.Accept]. Requests under way go on to their commit; their
// answers are lost.
func (p *Provider) Refuse() {
	p.server.mu.Lock()
	defer p.server.mu.Unlock()
	if p.server.server == nil {
		return
	}
	_ = p.server.server.Close()
	<-p.server.done
	p.server.server = nil
}

// Accept opens the port again after [Provider.Refuse].
func (p *Provider) Accept() error {
	p.server.mu.Lock()
	defer p.server.mu.Unlock()
	if p.server.server != nil {
		return nil
	}
	l, err := net.Listen("tcp", p.server.addr)
	if err != nil {
		return err
	}
	p.serve(l)
	return nil
}

// Close releases all gates, closes the port and waits for what is under way.
func (p *Provider) Close() {
	p.mu.Lock()
	gates := p.gates
	p.gates = nil
	p.mu.Unlock()
	for _, h := range gates {
		h.Release()
	}
	p.Refuse()
	p.handling.Lock()
	defer p.handling.Unlock()
}
