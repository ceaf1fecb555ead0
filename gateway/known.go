package gateway

import (
	"hash/maphash"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// knownTickets remembers what cookies' texts decode to, for a page's many requests
// come with one cookie. That is a pure function of the text and of the app's keys,
// which are fixed for the life of an app: whether the ticket is worth anything is
// asked each time. A text that doesn't decode is not remembered, so nobody without a
// key can fill it.
//
// It is a plain table: a text has one place, and whoever comes later takes it. The
// zero value is ready, and safe for concurrent use.
type knownTickets struct {
	places [4096]atomic.Pointer[knownTicket]
	swept  atomic.Int64 // in ns since 1970
}

type knownTicket struct {
	text   string
	ticket session.Ticket
	until  time.Time
}

// knownLife is how long a secret stays in memory for this; what has run out goes
// when the next one comes.
const knownLife = time.Minute

var knownSeed = maphash.MakeSeed()

func (k *knownTickets) place(text string) *atomic.Pointer[knownTicket] {
	return &k.places[maphash.String(knownSeed, text)%uint64(len(k.places))]
}

// get returns what set remembers of exactly this text.
func (k *knownTickets) get(text string, now time.Time) (session.Ticket, bool) {
	if e := k.place(text).Load(); e != nil && e.text == text && now.Before(e.until) {
		return e.ticket, true
	}
	return session.Ticket{}, false
}

func (k *knownTickets) set(text string, t session.Ticket, now time.Time) {
	// The text is a part of a header, all of which would stay with it.
	k.place(text).Store(&knownTicket{strings.Clone(text), t, now.Add(knownLife)})
	if last := k.swept.Load(); now.UnixNano()-last >= int64(knownLife) && k.swept.CompareAndSwap(last, now.UnixNano()) {
		for i := range k.places {
			if e := k.places[i].Load(); e != nil && !now.Before(e.until) {
				k.places[i].CompareAndSwap(e, nil)
			}
		}
	}
}
