package faults

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// Browser is one person's, with one cookie jar and any number of tabs: its
// methods may be called from any goroutine, also at the same time. Cookies are
// kept in the order in which they arrive, whoever asked for them.
type Browser struct {
	w    *World
	User string
	n    int

	entering sync.Mutex // held while a tab logs in or out

	mu      sync.Mutex // guards the rest
	cookie  string
	session *Session
	old     []shown // superseded tickets, the newest last
	refused bool    // the last answer was trouble
	// mixed: answers were lost or came late, so the jar's order says nothing of
	// the tickets' own.
	mixed bool
}

// shown is a ticket that once was the browser's.
type shown struct {
	cookie  string
	session *Session
	after   time.Duration // when a successor was first taken; 0: not yet
}

// NewBrowser opens a browser for somebody nobody else is. Any goroutine may.
func (w *World) NewBrowser() *Browser {
	w.mu.Lock()
	n := len(w.Browsers)
	b := &Browser{w: w, n: n, User: fmt.Sprintf("u%05d", n)}
	w.Browsers = append(w.Browsers, b)
	w.mu.Unlock()
	w.Provider.Enrol(gatewaytest.User{Username: b.User, Password: password})
	return b
}

// cookies keeps the cookies of an answer whose header has arrived.
func (b *Browser) cookies(op *Op, q request, resp *http.Response, a *answer) {
	for _, c := range resp.Cookies() {
		if c.Name != rig.SessionCookie {
			a.cookies = append(a.cookies, c)
			continue
		}
		if c.MaxAge < 0 || c.Value == "" {
			op.Cleared = true
			if !q.foreign && !q.lost {
				b.mu.Lock()
				b.supersede("", nil)
				b.mu.Unlock()
			}
			continue
		}
		a.ticket, op.Got = c.Value, fingerprint(c.Value)
		b.w.mu.Lock()
		b.w.tickets[c.Value] = struct{}{}
		b.w.mu.Unlock()
		if q.foreign || q.kind == KindLogin {
			continue // a login knows its own session only when it is over
		}
		if q.lost || q.late > 0 {
			b.mu.Lock()
			b.mixed = true
			b.mu.Unlock()
		}
		if q.lost {
			op.Lost = true
			continue
		}
		if q.late > 0 {
			op.Late = true
			timer := time.NewTimer(q.late)
			<-timer.C
		}
		op.Back = b.keep(c.Value, q.session)
	}
}

// keep puts a session's ticket into the jar, and reports whether a newer
// session's was there.
func (b *Browser) keep(cookie string, s *Session) (back bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	back = b.session != nil && s != nil && b.cookie != "" && b.session != s && b.session.Begun > s.Begun
	b.supersede(cookie, s)
	return back
}

// supersede replaces the jar's ticket; b.mu is held.
func (b *Browser) supersede(cookie string, s *Session) {
	if b.cookie != "" && b.cookie != cookie {
		b.old = append(b.old, shown{b.cookie, b.session, 0})
		if len(b.old) > 32 {
			b.old = b.old[16:]
		}
	}
	b.cookie, b.session = cookie, s
}

// finish writes an op down, and what it says of the browser.
func (b *Browser) finish(op *Op, q request, a *answer) {
	op.End = b.w.now()
	b.mu.Lock()
	if op.Family != "" && q.session != nil && q.session.Family == "" && op.Subject == gatewaytest.SubjectOf(b.User) {
		q.session.Family = op.Family
	}
	if q.cookie != "" && q.cookie == b.cookie && accepted(op) {
		for i := range b.old {
			if o := &b.old[i]; o.session == b.session && o.after == 0 {
				o.after = op.End
			}
		}
	}
	if !q.foreign && q.session != nil && q.session == b.session {
		// That the session is known says nothing of its tokens.
		if trouble := op.Status == 0 || op.Status >= 500; trouble || op.Kind != KindSession {
			b.refused = trouble
		}
	}
	// Who is told that the session is over drops it, as a page does that goes to
	// the login next.
	if !q.foreign && op.Status == http.StatusUnauthorized && op.Code == "login_required" && b.session == q.session && b.cookie == q.cookie {
		b.supersede("", nil)
	}
	b.mu.Unlock()
	b.w.note(*op)
}

// In reports whether the browser has a session's cookie.
func (b *Browser) In() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cookie != ""
}

// Session is the session whose ticket the browser holds, nil if none.
func (b *Browser) Session() *Session {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.session
}

// Ticket is the jar's cookie and its session.
func (b *Browser) Ticket() (string, *Session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cookie, b.session
}
