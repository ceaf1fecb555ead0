package model

import "github.com/cloakroom/cloakroom/session/store"

const (
	maxRequests = 3
	maxTickets  = 11
	replicas    = 2
)

// state is the world: Redis, its last state that a failover goes back to, the
// browser, the thief, what is under way, the replicas and the provider. Tickets
// are numbered as they are made; the provider's refresh token is always number
// 0, older ones count down; versions count from the record's.
type state struct {
	kv, back uint32 // of machine.kvs; back is 0 if everything is replicated

	reqs [maxRequests]req
	jobs [replicas]job
	late uint32 // a copy of a call that Redis has yet to run: of model.ops

	// journal is what each replica runs again after a failover: it has to while
	// again is 2, and may while it is 1.
	journal [replicas]uint32
	again   [replicas]uint8

	gens    [maxTickets + 1]uint8 // of the tickets
	tickets uint8                 // made so far
	jar     uint8
	purse   uint16 // the thief's tickets
	handed  uint16 // tickets that an answer has carried
	twice   bool   // one has been, since a failover forgot the first

	revoked   bool  // the provider knows the family of tokens no more
	presented bool  // its current token was shown to it
	lone      uint8 // tokens, the current one first, whose lone mark was withdrawn
	rotations uint8

	faults  uint16
	ended   bool // an end was acknowledged
	watch   uint8
	watchAt int8 // generation at the theft; ticks to wait
	used    [2]bool
}

// who is behind a request.
const (
	nobody uint8 = iota
	browser
	thief
)

// phases of a request.
const (
	onItsWay  uint8 = iota
	judge           // at its replica: open (again)
	kill            // the verdict is reuse
	replace         // its successor was lost: re-issue
	waiting         // for its replica's refresh
	slow            // the answer waits for an upstream
	answering       // the answer is on its way, with a cookie
)

type req struct {
	who, phase, rep uint8
	uid             uint8 // shown
	age             int8  // ticks on the network
	since           int8  // ticks since it came to the gateway
	cookie          uint8 // the answer's
	held            int8  // ticks since its hand-out
	own, settled    bool
	view            uint32
}

// phases of a job, a refresh in the making by one replica.
const (
	idling uint8 = iota
	claiming
	latching
	asking
	committing
	rejecting
	withdrawing
	releasing
	looking
)

type job struct {
	phase, attempt uint8
	view           uint32 // the record as judged, and as claimed
	uid            uint8  // shown
	got            int8   // the refresh token that the provider gave
	next           uint8  // the successor of a commit whose answer was lost
	fails          bool   // what waits for it gets 503, else judges again
}

// view is what a replica remembers of a record.
type view struct {
	version   int8
	gen, uid  uint8
	confirmed bool
	unknowns  bool
	rt        int8
	token     uint8
	preds     [store.MaxPredecessors]entry // until is left out
	n         uint8
}

func viewOf(s kv) view {
	v := view{version: s.version, gen: s.gen, uid: s.uid, confirmed: s.confirmed, unknowns: s.unknowns > 0, rt: s.rt, token: s.token, preds: s.preds, n: s.n}
	for i := range v.preds {
		v.preds[i].until = 0
	}
	return v
}

// interned gives comparable values small numbers. 0 is the zero value.
type interned[T comparable] struct {
	ids    map[T]uint32
	values []T
}

func (in *interned[T]) id(v T) uint32 {
	if in.ids == nil {
		var zero T
		in.ids, in.values = map[T]uint32{zero: 0}, []T{zero}
	}
	id, ok := in.ids[v]
	if !ok {
		id = uint32(len(in.values))
		in.ids[v] = id
		in.values = append(in.values, v)
	}
	return id
}

func (in *interned[T]) of(id uint32) T {
	if id == 0 {
		var zero T
		return zero
	}
	return in.values[id]
}

// forgotten is an attempt that nobody makes any more; newest one that was just
// begun.
const (
	forgotten uint8 = 14
	newest    uint8 = 13
)

// canon brings a state into normal form, so that states that differ in names
// alone are one: versions count from the record's, attempts are named in order,
// replicas and requests are sorted. None of it is more than a renaming.
func (m *model) canon(s *state) {
	if !m.inPlace {
		m.sortReplicas(s)
		for i := 1; i < len(s.reqs); i++ {
			for j := i; j > 0 && less(&s.reqs[j], &s.reqs[j-1]); j-- {
				s.reqs[j], s.reqs[j-1] = s.reqs[j-1], s.reqs[j]
			}
		}
	}
	record, back := m.kvs[s.kv], m.kvs[s.back]
	base := record.version
	if record.status != live {
		base = back.version
	}
	var names [16]uint8
	named := uint8(0)
	name := func(a uint8) {
		if a != 0 && names[a] == 0 {
			named++
			names[a] = named
		}
	}
	for _, j := range s.jobs {
		name(j.attempt)
	}
	name(m.ops.of(s.late).attempt)
	for _, o := range s.journal {
		name(m.ops.of(o).attempt)
	}
	rename := func(a uint8) uint8 {
		if a != 0 && names[a] == 0 {
			return forgotten
		}
		return names[a]
	}
	shift := func(v int8) int8 { return max(v-base, -6) }
	rekey := func(id uint32) uint32 {
		r := m.kvs[id]
		if r.status != live {
			return id
		}
		r.version = shift(r.version)
		r.lease, r.sending, r.latest = rename(r.lease), rename(r.sending), rename(r.latest)
		return m.id(r)
	}
	s.kv, s.back = rekey(s.kv), rekey(s.back)
	reop := func(id uint32) uint32 {
		if id == 0 {
			return 0
		}
		o := m.ops.of(id)
		o.attempt = rename(o.attempt)
		if o.kind != opOpen && o.kind != opEnd {
			o.version = shift(o.version)
		}
		return m.ops.id(o)
	}
	s.late = reop(s.late)
	for i := range s.journal {
		s.journal[i] = reop(s.journal[i])
	}
	review := func(id uint32) uint32 {
		if id == 0 {
			return 0
		}
		v := m.views.of(id)
		v.version = shift(v.version)
		return m.views.id(v)
	}
	for i := range s.reqs {
		s.reqs[i].view = review(s.reqs[i].view)
	}
	for i := range s.jobs {
		s.jobs[i].view = review(s.jobs[i].view)
		s.jobs[i].attempt = rename(s.jobs[i].attempt)
	}
}

// rotated renames the refresh tokens after the provider has made a new one.
func (m *model) rotated(s *state) {
	s.lone = s.lone&7<<1 | s.lone&8
	older := func(rt int8) int8 { return max(rt-1, -3) }
	for _, id := range []*uint32{&s.kv, &s.back} {
		if r := m.kvs[*id]; r.status == live {
			r.rt = older(r.rt)
			*id = m.id(r)
		}
	}
	reop := func(id *uint32) {
		if o := m.ops.of(*id); o.kind == opCommit {
			o.rt = older(o.rt)
			*id = m.ops.id(o)
		}
	}
	reop(&s.late)
	review := func(id *uint32) {
		if *id != 0 {
			v := m.views.of(*id)
			v.rt = older(v.rt)
			*id = m.views.id(v)
		}
	}
	for i := range s.reqs {
		review(&s.reqs[i].view)
	}
	for i := range s.jobs {
		reop(&s.journal[i])
		review(&s.jobs[i].view)
		if s.jobs[i].phase == committing {
			s.jobs[i].got = older(s.jobs[i].got)
		}
	}
}

func (m *model) sortReplicas(s *state) {
	rank := func(r int) [8]uint32 {
		j := s.jobs[r]
		k := [8]uint32{uint32(j.phase), j.view, uint32(j.uid), uint32(j.got + 100), uint32(j.next), s.journal[r]}
		for _, q := range s.reqs {
			if q.who != nobody && int(q.rep) == r && q.phase != onItsWay {
				k[6] += 1 + uint32(q.phase)<<8 + uint32(q.uid)<<16
			}
		}
		k[7] = uint32(s.again[r])
		return k
	}
	a, b := rank(0), rank(1)
	for i := range a {
		if a[i] == b[i] {
			continue
		}
		if a[i] < b[i] {
			s.jobs[0], s.jobs[1] = s.jobs[1], s.jobs[0]
			s.journal[0], s.journal[1] = s.journal[1], s.journal[0]
			s.again[0], s.again[1] = s.again[1], s.again[0]
			for i := range s.reqs {
				if q := &s.reqs[i]; q.who != nobody && q.phase != onItsWay && q.phase != slow && q.phase != answering {
					q.rep = 1 - q.rep
				}
			}
		}
		break
	}
}

func less(a, b *req) bool {
	x := [...]int{-int(a.who), int(a.phase), int(a.rep), int(a.uid), int(a.age), int(a.since), int(a.cookie), int(a.held), int(a.view), one(a.own), one(a.settled)}
	y := [...]int{-int(b.who), int(b.phase), int(b.rep), int(b.uid), int(b.age), int(b.since), int(b.cookie), int(b.held), int(b.view), one(b.own), one(b.settled)}
	for i := range x {
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return false
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}
