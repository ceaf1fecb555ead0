package proxy

import (
	"context"
	"net/http"
	"time"
)

// watchDelay is how long a request is under way before somebody listens for its
// end. Most are over by then, and need no goroutine for it.
const watchDelay = 20 * time.Millisecond

// unblockAfter is how long a client may hold up an answer that is complete by
// not sending the rest of its request.
const unblockAfter = 100 * time.Millisecond

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

// Slow begins to listen: for the client's going, and for the session's end.
func (x *exchange) Slow() {
	if x.watched {
		return
	}
	x.watched = true
	x.over = make(chan struct{})
	x.unwatch[0] = context.AfterFunc(x.in.Context(), x.gone)
	if ended, over := x.call.Ended, x.over; ended != nil {
		x.unwatch[1] = time.AfterFunc(watchDelay, func() { x.watch(ended, over) }).Stop
	}
}

// unwatchAll ends the listening: from now on the exchange can't be ended.
func (x *exchange) unwatchAll() {
	x.hold(phaseOver)
	if !x.watched {
		return
	}
	select {
	case <-x.over:
	default:
		close(x.over)
	}
	for _, stop := range x.unwatch {
		if stop != nil {
			stop()
		}
	}
}

// gone ends the exchange for want of a client.
func (x *exchange) gone() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.phase == phaseWaiting || x.phase == phaseAnswering {
		x.abort()
	}
}

// watch ends the exchange when the caller says so.
func (x *exchange) watch(ended, over <-chan struct{}) {
	select {
	case <-ended:
	case <-over:
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.phase == phaseWaiting || x.phase == phaseAnswering {
		x.ended = true
		x.abandon()
	}
}

// tooLate gives up on an upstream that doesn't answer.
func (x *exchange) tooLate() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.phase == phaseWaiting {
		x.late = true
		x.abandon()
	}
}

// abandon cancels the exchange. That is not enough where the client is waited
// for: to send the rest of its request, or to read the rest of its answer. x.mu
// is held to the end: after Forward has returned, or the connection was taken
// over, the deadlines are somebody else's.
func (x *exchange) abandon() {
	x.abort()
	rc, past := http.NewResponseController(x.w), time.Unix(1, 0)
	if x.hasBody() {
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
