package store

import "time"

// maxOutages bounds how many are remembered: the latest.
const maxOutages = 8

// outage notes a beat, of which it is known whether it was written: what is
// between the first that wasn't and the next that was is time in which this
// replica could write of nobody that they were there. The store's mu is held.
func (sh *shard) outage(from, to time.Time, written bool) {
	switch {
	case !written && sh.silent.IsZero():
		sh.silent = from
	case written && !sh.silent.IsZero():
		if len(sh.outages) == maxOutages {
			sh.outages = sh.outages[1:]
		}
		// Always another array: readers keep the old one.
		sh.outages = append(sh.outages[:len(sh.outages):len(sh.outages)], [2]time.Time{sh.silent, to})
		sh.silent = time.Time{}
	}
}

// excused is when sessions of a shard could not be written that they were seen,
// as open.lua takes it: pairs of 8 bytes each, in milliseconds. One that lasts
// has no end.
func (s *Store) excused(sid [16]byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var pairs []byte
	for _, sh := range s.shards {
		if s.cluster() != nil && !sh.has(slot(text(sid))) {
			continue
		}
		for _, o := range sh.outages {
			pairs = append(append(pairs, u64(millis(o[0]))...), u64(millis(o[1]))...)
		}
		if !sh.silent.IsZero() {
			pairs = append(append(pairs, u64(millis(sh.silent))...), u64(1<<52)...)
		}
	}
	return pairs
}
