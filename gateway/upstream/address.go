package upstream

import (
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// strikes is how many failures in a row it takes to leave an address out.
	strikes = 3
	// firstRest and longestRest are how long it is left out, at first and at
	// most.
	firstRest   = time.Second
	longestRest = 30 * time.Second
)

// address is one place where the upstream is.
type address struct {
	o         *Options
	url       *url.URL
	hostport  string
	transport *http.Transport // for what is not spoken by ourselves
	tokens    chan struct{}   // one for each connection in use; nil: no limit

	underWay atomic.Int64 // requests
	failing  atomic.Bool  // there is something to forget at the next success
	restsTo  atomic.Int64 // Unix nanoseconds; 0: not left out
	rest     atomic.Int64 // how long that was, nanoseconds
	tried    atomic.Bool  // a request has gone there since

	mu    sync.Mutex
	fails int // in a row
	rests int // since the last success

	idleMu sync.Mutex
	idle   []*conn     // the last in is the first out
	reaper *time.Timer // while there are idle connections
	closed bool
}

func newAddress(o *Options, u *url.URL) *address {
	a := &address{o: o, url: u, hostport: u.Host, transport: newTransport(o)}
	if u.Port() == "" {
		a.hostport = net.JoinHostPort(u.Hostname(), "80")
	}
	if o.MaxConns > 0 {
		a.tokens = make(chan struct{}, o.MaxConns)
	}
	return a
}

func (a *address) begin() { a.underWay.Add(1) }
func (a *address) end()   { a.underWay.Add(-1) }

// succeed notes an answer.
func (a *address) succeed() {
	if !a.failing.Load() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rests > 0 && a.o.Log != nil {
		a.o.Log.Info("an upstream's address is back", slog.String("address", a.url.Host))
	}
	a.fails, a.rests = 0, 0
	a.failing.Store(false)
	a.tried.Store(false)
	a.restsTo.Store(0)
}

// fail notes a request without an answer. An address that can't be connected to
// needs no second look.
func (a *address) fail(err error, unopened bool) {
	a.o.Metrics.failed(a.url.Host, unopened)
	if a.strike(err, unopened) && !unopened {
		a.dropIdle() // each would cost a request as much
	}
}

// strike reports whether the address is left out from now on.
func (a *address) strike(err error, unopened bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failing.Store(true)
	if a.fails++; unopened {
		a.fails = max(a.fails, strikes)
	}
	now := time.Now()
	if a.fails < strikes || now.UnixNano() < a.restsTo.Load() && !a.tried.Load() {
		return false
	}
	rest := min(firstRest<<min(a.rests, 10), longestRest)
	a.rests++
	a.rest.Store(int64(rest))
	a.tried.Store(false)
	a.restsTo.Store(now.Add(rest).UnixNano())
	if len(a.o.Targets) > 1 {
		a.o.Metrics.ejected(a.url.Host)
		if a.o.Log != nil {
			a.o.Log.Warn("an upstream's address is left out", slog.String("address", a.url.Host), slog.Duration("for", rest), slog.Any("err", err))
		}
	}
	return true
}

// try lets one request go to an address whose rest is over, and the others wait for as
// long again, or for its answer: an address that takes requests and doesn't answer
// would get as many as the others have.
func (a *address) try(now int64) *address {
	if to := a.restsTo.Load(); to != 0 && to <= now && a.restsTo.CompareAndSwap(to, now+a.rest.Load()) {
		a.tried.Store(true)
	}
	return a
}

// pick returns the address for the next attempt: of those that were not tried
// and are not left out, the better of two; if all are left out, the one that is
// back first.
func (p *Pool) pick(tried []*address) *address {
	if len(p.addresses) == 1 {
		return p.addresses[0]
	}
	now := time.Now().UnixNano()
	var first, second, soonest *address
	seen := 0
	for _, a := range p.addresses {
		if slices.Contains(tried, a) {
			continue
		}
		to := a.restsTo.Load()
		if soonest == nil || to < soonest.restsTo.Load() {
			soonest = a
		}
		if to > now {
			continue
		}
		// Two of a list whose length is not known beforehand, each with the same
		// chance.
		switch seen++; {
		case first == nil:
			first = a
		case second == nil:
			second = a
		default:
			switch rand.IntN(seen) {
			case 0:
				first = a
			case 1:
				second = a
			}
		}
	}
	switch {
	case first == nil && soonest == nil:
		return p.addresses[rand.IntN(len(p.addresses))]
	case first == nil:
		return soonest
	case second == nil:
		return first.try(now)
	}
	l, r := first.underWay.Load(), second.underWay.Load()
	if r < l || r == l && rand.IntN(2) == 0 {
		return second.try(now)
	}
	return first.try(now)
}
