package gatewaytest

import (
	"net/http"
	"slices"
	"sync"
)

// Point is a moment in a request at which it can be held.
type Point string

const (
	// GateBeforeCommit: the client is known and the request understood; nothing is spent.
	GateBeforeCommit Point = "before commit"
	// GateAfterCommit: the token is spent and its successor exists; nothing is answered.
	GateAfterCommit Point = "after commit"
	// GateMidBody: header and half of the body are sent; the rest waits. A slow body, without a clock.
	GateMidBody Point = "mid body"
)

// Hold is a closed gate. Requests that come to it wait, whether or not their
// client does, until it is released.
type Hold struct {
	at      Point
	only    func(Request) bool
	arrived chan Request
	once    sync.Once
	open    chan struct{}
}

// Gate closes a gate at the token endpoint, or, given a condition, for the
// requests to any endpoint that meet it. Outside /token and /revoke all that
// a request does counts as its commit.
func (p *Provider) Gate(at Point, only ...func(Request) bool) *Hold {
	h := &Hold{
		at:   at,
		only: atToken,
		// More than any test holds at once; beyond it arrivals go untold.
		arrived: make(chan Request, 4096),
		open:    make(chan struct{}),
	}
	if len(only) > 0 {
		h.only = func(r Request) bool {
			return !slices.ContainsFunc(only, func(f func(Request) bool) bool { return !f(r) })
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gates = append(p.gates, h)
	return h
}

// Arrived tells each request that comes to the gate, once.
func (h *Hold) Arrived() <-chan Request { return h.arrived }

// Release opens the gate for good. It may be called more than once.
func (h *Hold) Release() { h.once.Do(func() { close(h.open) }) }

func (h *Hold) released() bool {
	select {
	case <-h.open:
		return true
	default:
		return false
	}
}

// At is a condition for [Provider.Gate] and [FailWith.Only].
func At(e Endpoint) func(Request) bool { return func(r Request) bool { return r.Endpoint == e } }

// Refreshing is the condition that a refresh token is presented at the token endpoint.
func Refreshing(r Request) bool { return r.Endpoint == EndpointToken && r.Grant == "refresh_token" }

func atToken(r Request) bool { return r.Endpoint == EndpointToken }

// closed lists the gates that stand in a request's way.
func (p *Provider) closed(at Point, r Request) []*Hold {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gates = slices.DeleteFunc(p.gates, (*Hold).released)
	var found []*Hold
	for _, h := range p.gates {
		if h.at == at && h.only(r) {
			found = append(found, h)
		}
	}
	return found
}

func (p *Provider) gated(at Point, r Request) bool { return len(p.closed(at, r)) > 0 }

func (p *Provider) wait(at Point, r Request) {
	for _, h := range p.closed(at, r) {
		select {
		case h.arrived <- r:
		default:
		}
		<-h.open
	}
}

// FailWith describes failing answers. Exactly one of Drop, Status, Error and
// Truncate is meant; an Error's status is 400, and 401 for invalid_client,
// unless Status says otherwise.
type FailWith struct {
	// AfterCommit spends the token first: the answer alone is lost.
	AfterCommit bool
	// Drop resets the connection instead of answering.
	Drop bool
	// Truncate sends half of the true answer and closes. It implies AfterCommit.
	Truncate bool
	// Status is answered with Body (or Error).
	Status      int
	Error       string // an OAuth error code, as JSON
	Body        string
	ContentType string
	RetryAfter  string // the header, as it stands
	// Times is how many requests fail; 0: all until [Failing.Clear].
	Times int
	// Endpoint is where; "" is the token endpoint.
	Endpoint Endpoint
	// Only narrows it further; nil: every request there.
	Only func(Request) bool
}

func (f FailWith) status() int {
	switch {
	case f.Status != 0:
		return f.Status
	case f.Error == "invalid_client":
		return http.StatusUnauthorized
	case f.Error != "":
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}

// Failing is a failure in force.
type Failing struct {
	p    *Provider
	with FailWith
	hits int  // guarded by p.mu
	over bool // guarded by p.mu
}

// Fail puts a failure in force. The latest that fits a request applies.
// Requests that are refused before they could commit (a wrong client secret, a
// malformed body) are answered as ever, and are not counted.
func (p *Provider) Fail(with FailWith) *Failing {
	if with.Endpoint == "" {
		with.Endpoint = EndpointToken
	}
	f := &Failing{p: p, with: with}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures = append(p.failures, f)
	return f
}

// Clear ends the failure.
func (f *Failing) Clear() {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	f.over = true
}

// Hits says how many requests have failed by it.
func (f *Failing) Hits() int {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	return f.hits
}

func (f *Failing) after() bool { return f.with.AfterCommit || f.with.Truncate }

// failure takes the failure that applies to a request, if any.
func (p *Provider) failure(r Request) *Failing {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures = slices.DeleteFunc(p.failures, func(f *Failing) bool { return f.over })
	for _, f := range slices.Backward(p.failures) {
		if f.with.Endpoint != r.Endpoint || f.with.Only != nil && !f.with.Only(r) {
			continue
		}
		f.hits++
		f.over = f.with.Times > 0 && f.hits >= f.with.Times
		return f
	}
	return nil
}
