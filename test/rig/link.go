package rig

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// Direction is a way along a [Link].
type Direction int

const (
	Up   Direction = iota // from who dialed, to the server
	Down                  // what the server says
)

// Cut is how a connection ends in the middle.
type Cut int

const (
	NoCut    Cut = iota
	Truncate     // both ends see an orderly end
	Reset        // both ends see a reset
	Silence      // no end sees anything: all that follows is swallowed
)

// Fault is what a [Link] does to one direction. The zero value does nothing.
type Fault struct {
	// Delay makes each piece so late, and up to Jitter more.
	Delay, Jitter time.Duration
	// Rate is how many bytes pass in a second; 0: all.
	Rate int
	// Stall lets nothing pass. What waits passes when the fault is changed.
	Stall bool
	// Eat swallows what comes.
	Eat bool
	// Cut ends the connection at its next piece, of which After bytes pass.
	Cut   Cut
	After int
	// Odds is the share of pieces that it befalls; 0: all of them. A stall, and a
	// rate, befall all.
	Odds float64
}

// Link is a stretch of network between two parts. A fault on it befalls
// connections that are open and those to come. It is safe for concurrent use.
type Link struct {
	t    testing.TB
	addr string
	all  sync.WaitGroup

	mu       sync.Mutex // guards the rest
	to       string
	listener net.Listener // nil while the port is closed
	open     map[*pair]struct{}
	faults   [2]Fault
	changed  chan struct{} // closed when faults change
	random   *rand.Rand
	over     bool
}

// pair is one connection through a link.
type pair struct {
	near, far *net.TCPConn
	silent    bool // guarded by the link's mu
	gone      chan struct{}
	once      sync.Once
}

// NewLink leads to an address, for the length of the test. seed decides what its
// odds befall.
func NewLink(t testing.TB, to string, seed uint64) *Link {
	t.Helper()
	l := &Link{t: t, to: to, open: map[*pair]struct{}{}, changed: make(chan struct{}), random: rand.New(rand.NewPCG(seed, 1))}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("rig: %v", err)
	}
	l.addr = listener.Addr().String()
	l.serve(listener)
	t.Cleanup(func() {
		l.mu.Lock()
		l.over = true
		l.mu.Unlock()
		l.Refuse()
		l.Heal()
		l.all.Wait()
	})
	return l
}

// Addr is the link's near end; it stays.
func (l *Link) Addr() string { return l.addr }

// To has connections to come lead elsewhere.
func (l *Link) To(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.to = addr
}

// Set puts a fault on one direction, in place of what was there.
func (l *Link) Set(d Direction, f Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults[d] = f
	close(l.changed)
	l.changed = make(chan struct{})
}

// Heal takes the faults off both directions. A connection that was silenced or
// swallowed from stays as it is.
func (l *Link) Heal() {
	l.Set(Up, Fault{})
	l.Set(Down, Fault{})
}

// Break resets all connections that are open, and returns how many.
func (l *Link) Break() int {
	l.mu.Lock()
	pairs := make([]*pair, 0, len(l.open))
	for p := range l.open {
		pairs = append(pairs, p)
	}
	l.mu.Unlock()
	for _, p := range pairs {
		p.end(Reset)
	}
	return len(pairs)
}

// HalfOpen ends all connections towards the server, and doesn't tell who dialed.
func (l *Link) HalfOpen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.open {
		p.silent = true
		p.far.Close()
	}
}

// Refuse closes the port and resets what is open.
func (l *Link) Refuse() {
	l.mu.Lock()
	if l.listener != nil {
		l.listener.Close()
		l.listener = nil
	}
	l.mu.Unlock()
	l.Break()
}

// Accept opens the same port again after [Link.Refuse].
func (l *Link) Accept() {
	l.t.Helper()
	l.mu.Lock()
	closed := l.listener == nil
	l.mu.Unlock()
	if !closed {
		return
	}
	var listener net.Listener
	Eventually(l.t, "the link's port is free again", func() (ok bool) {
		var err error
		listener, err = net.Listen("tcp", l.addr)
		return err == nil
	})
	l.serve(listener)
}

// Open is how many connections there are.
func (l *Link) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

func (l *Link) serve(listener net.Listener) {
	l.mu.Lock()
	l.listener = listener
	l.mu.Unlock()
	l.all.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			l.all.Go(func() { l.carry(c.(*net.TCPConn)) })
		}
	})
}

// carry copies both ways until one end closes.
func (l *Link) carry(near *net.TCPConn) {
	l.mu.Lock()
	to := l.to
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		_ = near.SetLinger(0)
		near.Close()
		return
	}
	p := &pair{near: near, far: c.(*net.TCPConn), gone: make(chan struct{})}
	l.mu.Lock()
	if l.over {
		l.mu.Unlock()
		p.end(Reset)
		return
	}
	l.open[p] = struct{}{}
	l.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { l.pump(p, Up) })
	both.Go(func() { l.pump(p, Down) })
	both.Wait()
	l.mu.Lock()
	delete(l.open, p)
	l.mu.Unlock()
	p.end(Truncate)
}

func (p *pair) end(how Cut) {
	p.once.Do(func() {
		close(p.gone)
		if how == Reset {
			_ = p.near.SetLinger(0)
			_ = p.far.SetLinger(0)
		}
		p.near.Close()
		p.far.Close()
	})
}

// pump carries one direction.
func (l *Link) pump(p *pair, d Direction) {
	from, to := p.near, p.far
	if d == Down {
		from, to = p.far, p.near
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !l.pass(p, d, to, buf[:n]) {
			return
		}
		if err != nil {
			l.mu.Lock()
			silent := p.silent
			l.mu.Unlock()
			if d == Down && silent {
				return // who dialed is not told
			}
			if _, isReset := err.(*net.OpError); isReset {
				p.end(Reset)
			} else {
				_ = to.CloseWrite()
			}
			return
		}
	}
}

// pass lets a piece through, as the fault says. It reports false where the
// connection has ended.
func (l *Link) pass(p *pair, d Direction, to *net.TCPConn, piece []byte) bool {
	for {
		l.mu.Lock()
		f, changed, silent := l.faults[d], l.changed, p.silent
		hit := f.Odds == 0 || l.random.Float64() < f.Odds
		jitter := time.Duration(0)
		if f.Jitter > 0 {
			jitter = time.Duration(l.random.Int64N(int64(f.Jitter)))
		}
		l.mu.Unlock()
		switch {
		case silent:
			return true
		case f.Stall:
			select {
			case <-changed:
				continue
			case <-p.gone:
				return false
			}
		case hit && f.Eat:
			return true
		}
		if hit && f.Delay+jitter > 0 && !p.sleep(f.Delay+jitter) {
			return false
		}
		if hit && f.Cut != NoCut {
			_, _ = to.Write(piece[:min(f.After, len(piece))])
			if f.Cut == Silence {
				l.mu.Lock()
				p.silent = true
				l.mu.Unlock()
				return true
			}
			p.end(f.Cut)
			return false
		}
		if f.Rate > 0 {
			for len(piece) > 0 {
				n := max(1, min(len(piece), f.Rate/20))
				if _, err := to.Write(piece[:n]); err != nil || !p.sleep(time.Duration(n)*time.Second/time.Duration(f.Rate)) {
					p.end(Reset)
					return false
				}
				piece = piece[n:]
				l.mu.Lock()
				lifted := l.faults[d].Rate == 0
				l.mu.Unlock()
				if lifted {
					break
				}
			}
		}
		if len(piece) == 0 {
			return true
		}
		if _, err := to.Write(piece); err != nil {
			p.end(Reset)
			return false
		}
		return true
	}
}

// sleep reports false where the connection has ended meanwhile.
func (p *pair) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.gone:
		return false
	}
}
