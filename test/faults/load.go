package faults

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Load is what browsers do all the time. Shares are of all requests, in
// thousandths; what is left of 1000 are GETs on a protected route.
type Load struct {
	Rate    int // requests a second, if the machine can
	Workers int // how many requests may be under way
	Token   int // POST /bff/token
	Post    int // POST on a protected route
	Session int // GET /bff/session
	Login   int // a login (four requests), or a logout and a login
	Stream  int // event streams and WebSockets
	Burst   int // four requests at once, of one browser: its tabs wake up
	// Abort closes the tab while the answer is under way, at a random moment.
	Abort int
	// Lose loses, and Late delays by up to LateBy, an answer's cookie.
	Lose, Late int
	LateBy     time.Duration
	Ghost      int // tickets of sessions that have ended
	// Thief shows a superseded ticket, where there is one that was superseded long
	// enough ago: its session has to end.
	Thief int
}

// DefaultLoad is the mix of the plan.
func DefaultLoad() Load {
	return Load{Rate: 2500, Workers: 256, Token: 150, Post: 50, Session: 20, Login: 5, Stream: 10, Burst: 40, Ghost: 5}
}

// running is a load under way.
type running struct {
	stop     atomic.Bool
	stopping chan struct{}
	all      sync.WaitGroup
}

// Begin starts a load; its Stop returns when all is answered.
func (w *World) Begin(l Load) (stop func()) {
	run := &running{stopping: make(chan struct{})}
	every := time.Second * time.Duration(l.Workers) / time.Duration(l.Rate)
	for n := range l.Workers {
		run.all.Go(func() {
			r := rand.New(rand.NewPCG(w.Setup.Seed, uint64(n)))
			next := time.Now().Add(time.Duration(r.Int64N(int64(every) + 1)))
			for {
				timer := time.NewTimer(time.Until(next))
				select {
				case <-run.stopping:
					timer.Stop()
					return
				case <-timer.C:
				}
				n := w.one(&l, r)
				next = next.Add(every * time.Duration(n))
				if late := time.Now(); next.Before(late.Add(-time.Second)) {
					next = late // what was missed in an outage isn't made up for
				}
			}
		})
	}
	return func() {
		if run.stop.CompareAndSwap(false, true) {
			close(run.stopping)
		}
		run.all.Wait()
	}
}

// one does one thing in one browser, and returns how many requests it took.
func (w *World) one(l *Load, r *rand.Rand) int {
	b := w.Browsers[r.IntN(len(w.Browsers))]
	if !b.In() {
		// Whoever is out logs in again; other tabs see that one does.
		if b.entering.TryLock() {
			b.entering.Unlock()
			_ = b.LogIn() // what goes wrong is in the history
		}
		return 4
	}
	if s := b.Session(); s != nil && w.unnamed(s) && b.entering.TryLock() {
		b.learn(s)
		b.entering.Unlock()
		return 1
	}
	ask := Ask{Kind: KindAPI}
	draw := r.IntN(1000)
	for _, c := range []struct {
		share int
		kind  Kind
	}{{l.Token, KindToken}, {l.Post, KindPost}, {l.Session, KindSession}, {l.Login, KindLogin}, {l.Stream, KindEvents}, {l.Thief, KindReplay}, {l.Ghost, KindGhost}} {
		if draw -= c.share; draw < 0 {
			ask.Kind = c.kind
			break
		}
	}
	odds := func(thousandths int) bool { return thousandths > 0 && r.IntN(1000) < thousandths }
	switch ask.Kind {
	case KindLogin:
		if r.IntN(2) == 0 {
			b.LogOut()
		}
		_ = b.LogIn()
		return 6
	case KindEvents:
		if r.IntN(3) == 0 {
			b.Socket()
			return 1
		}
	case KindGhost:
		w.Ghost(r.Int())
		return 1
	case KindReplay:
		if !b.steal() {
			ask.Kind = KindAPI
			break
		}
		return 2
	}
	if odds(l.Abort) {
		ask.Within = time.Duration(r.Int64N(int64(12*time.Millisecond))) + time.Microsecond
	}
	switch {
	case odds(l.Lose):
		ask.Lost = true
	case odds(l.Late):
		ask.Late = time.Duration(r.Int64N(int64(l.LateBy)))
	}
	if odds(l.Burst) {
		var tabs sync.WaitGroup
		for range 3 {
			tab := ask
			tab.Kind = []Kind{KindAPI, KindToken}[r.IntN(2)]
			tabs.Go(func() { b.Do(tab) })
		}
		b.Do(ask)
		tabs.Wait()
		return 4
	}
	b.Do(ask)
	return 1
}

// stale is how long after its successor was taken a ticket is past its grace for
// certain, on a busy machine too.
const stale = 6 * time.Second

// unnamed reports whether a session's sid was never told.
func (w *World) unnamed(s *Session) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return s.SID == ""
}

// steal shows a ticket that was superseded long ago. It reports whether there
// was one.
func (b *Browser) steal() bool {
	b.mu.Lock()
	var found *shown
	for i := range b.old {
		if o := &b.old[i]; o.session == b.session && o.after > 0 && b.w.now()-o.after > stale && !b.mixed {
			found = o
		}
	}
	s := b.session
	b.mu.Unlock()
	if found == nil || s == nil {
		return false
	}
	acknowledged := b.w.ending(s, "thief")
	op := b.Do(Ask{Kind: KindReplay, Cookie: found.cookie, Session: s})
	if op.Status == 401 {
		acknowledged()
	}
	return true
}

// Populate opens the world's browsers and logs them in.
func (w *World) Populate() {
	w.T.Helper()
	var all sync.WaitGroup
	places := make(chan struct{}, 16)
	for range w.Setup.Browsers {
		b := w.NewBrowser()
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			enter := b.Enter
			if w.Certified != nil {
				enter = b.LogIn
			}
			if err := enter(); err != nil {
				w.T.Errorf("faults: %v", err)
			}
		})
	}
	all.Wait()
}

// Settle asks for every browser's token until each knows if its session lives,
// and notes what it was told.
func (w *World) Settle(limit time.Duration) {
	deadline := time.Now().Add(limit)
	var all sync.WaitGroup
	places := make(chan struct{}, 32)
	for _, b := range w.Browsers {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
				cookie, s := b.Ticket()
				if s == nil {
					return
				}
				op := b.Do(Ask{Kind: KindToken, Cookie: cookie, Session: s})
				w.mu.Lock()
				s.Final, s.FinalReason = op.Status, op.Reason
				w.mu.Unlock()
				if op.Status == 200 || op.Status == 401 || time.Now().After(deadline) {
					return
				}
				timer := time.NewTimer(pause)
				<-timer.C
			}
		})
	}
	all.Wait()
}

// Troubled is how many browsers' last answer was trouble.
func (w *World) Troubled() int {
	n := 0
	for _, b := range w.Browsers {
		b.mu.Lock()
		if b.refused && b.cookie != "" {
			n++
		}
		b.mu.Unlock()
	}
	return n
}
