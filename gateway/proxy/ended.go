package proxy

import (
	"net/http"
	"time"
)

// watchDelay is how long a request is under way before somebody listens for its
// end. Most are over by then, and need no goroutine for it.
const watchDelay = 20 * time.Millisecond

// phase is how far an exchange has come.
type phase uint8

const (
	phaseWaiting   phase = iota // for the upstream's final header
	phaseAnswering              // the final header is, or will be, on its way to the client
	phaseTunnel                 // the connections are the tunnel's
	phaseOver                   // Forward has returned
)

// hold enters a phase, which keeps watch from ending the exchange as in the one
// before. It reports whether the exchange may go on.
func (x *exchange) hold(next phase) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.ended && next != phaseOver {
		x.ended = isClosed(x.call.Ended)
	}
	x.phase = next
	return !x.ended
}

// watch ends the exchange when the caller says so.
func (x *exchange) watch() {
	select {
	case <-x.call.Ended:
	case <-x.ctx.Done():
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.phase == phaseWaiting || x.phase == phaseAnswering {
		x.ended = true
		x.abandon(ErrEnded)
	}
}

// late gives up on an upstream that doesn't answer.
func (x *exchange) late() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.phase == phaseWaiting {
		x.abandon(ErrTimeout)
	}
}

// abandon cancels the exchange. That is not enough where the client is waited
// for: to send the rest of its request, or to read the rest of its answer. x.mu
// is held to the end: after Forward has returned, or the connection was taken
// over, the deadlines are somebody else's.
func (x *exchange) abandon(cause error) {
	x.cancel(cause)
	rc, past := http.NewResponseController(x.w), time.Unix(1, 0)
	if x.in.Body != http.NoBody {
		_ = rc.SetReadDeadline(past)
	}
	if x.phase == phaseAnswering {
		_ = rc.SetWriteDeadline(past)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
