package session

import (
	"context"
	"sync/atomic"
	"time"
)

// pulse knows whether this process has been running without a break. A process
// that was stopped, or starved, reads what has lain in its sockets since as if
// it had just been sent: tickets from before that are no proof of anything.
type pulse struct {
	last   atomic.Int64 // when it ticked, in nanoseconds since started; 0: it never has
	resume atomic.Int64 // when it ticked first after a break, or when one was told of
}

var started = time.Now()

const (
	pulseInterval = 250 * time.Millisecond
	// pulseBreak is a break that could make a request older than a verdict of
	// reuse may be.
	pulseBreak = reuseVerdictAge
	// backlogAge is how long it may take to read what came during a break.
	backlogAge = 10 * time.Second
)

// run ticks until ctx is done.
func (p *pulse) run(ctx context.Context) {
	defer p.last.Store(0)
	ticker := time.NewTicker(pulseInterval)
	defer ticker.Stop()
	for {
		p.tick(time.Since(started))
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *pulse) tick(now time.Duration) {
	if last := p.last.Swap(int64(now)); last != 0 && now-time.Duration(last) > pulseBreak {
		p.resume.Store(int64(now))
	}
}

// steady reports whether there was no break lately, not even one that the next
// tick will find. Where nothing ticks, there is nothing to say.
func (p *pulse) steady(now time.Duration) bool {
	last, resume := time.Duration(p.last.Load()), time.Duration(p.resume.Load())
	return (last == 0 || now-last <= pulseBreak) && (resume == 0 || now-resume > backlogAge)
}

// Interrupted tells that requests may have waited for longer than anybody can see:
// this process could take no connections, say. What they show is no proof of reuse
// for the next 10 s.
func (k *Keeper) Interrupted() { k.pulse.resume.Store(int64(time.Since(started))) }

// timely reports whether a request came no longer than age ago, when its ticket
// was judged at that time of Redis's. To a virtual machine that was paused no time
// has passed: Redis's tells.
func (k *Keeper) timely(need Need, judged time.Time, age time.Duration) bool {
	return k.now().Sub(need.Received) <= age && k.pulse.steady(time.Since(started)) && judged.Sub(k.time()) <= pulseBreak
}
