package store

import "time"

// Glance is what this replica knew of Redis at one moment, without asking it: a
// request that looks more than once sees the same.
type Glance struct {
	at     time.Time // by this process's clock
	offset time.Duration
	known  *known
}

// known is what beats and their kind have told. It is immutable: each change
// publishes another one.
type known struct {
	told, toldAt time.Time // as Store's
	deafAt       time.Time // until when what was heard says that this replica hears; zero: it doesn't
	ear          uint64
	lame         bool // a shard is
	notBefore    map[[8]byte]time.Time
}

// publish lets everybody see what has changed. The caller holds mu.
func (s *Store) publish() {
	k := &known{told: s.told, toldAt: s.toldAt, ear: s.ear, notBefore: s.notBefore}
	if len(s.shards) > 0 && !s.notBeforeAt.IsZero() {
		k.deafAt = s.notBeforeAt.Add(deafAfter)
	}
	for _, sh := range s.shards {
		k.lame = k.lame || sh.lame
		switch at := sh.heard.Add(deafAfter); {
		case sh.heard.IsZero():
			k.deafAt = time.Time{}
		case at.Before(k.deafAt):
			k.deafAt = at
		}
	}
	s.known.Store(k)
}

// Glance looks at what is known now.
func (s *Store) Glance() Glance {
	return Glance{at: time.Now(), offset: s.offset(), known: s.known.Load()}
}

// Ear names the subscription by which this replica hears itself; 0 if it
// doesn't. As long as the name stays, nothing published has been missed but
// what is under way for up to a second.
func (g Glance) Ear() uint64 {
	if !g.at.Before(g.known.deafAt) {
		return 0
	}
	return g.known.ear
}

// Now is Redis's time as the last beat told it, and whether one has.
func (g Glance) Now() (time.Time, bool) {
	return g.known.clock(g.at, g.offset), !g.known.told.IsZero()
}

// NotBefore is when an app's sessions have to have begun to be alive: as it was
// read last, and so to be believed only where Ear is not 0.
func (g Glance) NotBefore(app [8]byte) time.Time { return g.known.notBefore[app] }

// clock is Redis's time at a moment of this process's. What has passed since the
// beat is told by the monotonic clock: the other one may have been set back.
func (k *known) clock(at time.Time, offset time.Duration) time.Time {
	if k.told.IsZero() {
		return at.Add(offset)
	}
	return k.told.Add(at.Sub(k.toldAt) + offset)
}
