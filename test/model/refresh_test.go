package model

import (
	"github.com/cloakroom/cloakroom/session/store"
)

// Faults, each at most once on a path.
const (
	crash    uint16 = 1 << iota
	lapse           // a lease runs out under a holder that sleeps
	unheard         // the provider commits, and its answer is lost
	badProxy        // 502: the provider never saw the request, but who knows
	refused         // the provider's door is shut
	busy            // 503
	reply           // a script runs and its reply is lost
	late            // a call is run late by Redis, a copy of it or itself
	failover        // Redis loses the last write that was not waited for
	loggedOut
)

var faultNames = [...]string{"crash", "lapse", "answer lost", "502", "no connection", "503", "reply lost", "late call", "failover", "logout"}

// jobs makes all steps of refreshes, as session.Keeper's fly and its exchange do.
func (m *model) refreshes(s *state) {
	for r := range uint8(replicas) {
		m.job(s, r)
	}
}

// job makes the steps of a replica's.
func (m *model) job(s *state, r uint8) {
	j := s.jobs[r]
	v := m.views.of(j.view)
	again := func(s *state) { m.done(s, r, onceMore) }
	fails := func(s *state) { m.done(s, r, unavailable) }
	stays := func(s *state) {}
	to := func(phase uint8, fails bool) func(*state) {
		return func(s *state) { s.jobs[r].phase, s.jobs[r].fails = phase, fails }
	}
	o := op{version: v.version, attempt: j.attempt}
	switch j.phase {
	case claiming:
		o.kind = opClaim
		m.call(s, o, m.say("replica %d claims", r), func(s *state, result store.Result) {
			switch result {
			case store.OK:
				now := viewOf(m.kvs[s.kv])
				if now.uid != v.uid {
					// Only if Redis lost what was judged.
					m.reach("a claim finds another ticket on the same version", true)
					to(withdrawing, false)(s)
					return
				}
				s.jobs[r].phase, s.jobs[r].view = latching, m.views.id(now)
			case store.Sending:
				s.jobs[r].phase = looking
			case store.Ended:
				m.done(s, r, over)
			default:
				again(s)
			}
		}, fails)
	case looking:
		o.kind = opLook
		m.call(s, o, m.say("replica %d looks at the mark", r), func(s *state, result store.Result) {
			switch result {
			case store.Looked:
				m.reach("a lone mark was looked at", true)
				fails(s)
			case store.Withdrawn:
				m.reach("a lone mark was withdrawn", true)
				again(s)
			default:
				again(s)
			}
		}, fails)
	case latching:
		o.kind = opSend
		m.fault(s, refused, m.say("replica %d can't reach the provider", r), to(withdrawing, true))
		m.call(s, o, m.say("replica %d sets the mark", r), func(s *state, result store.Result) {
			if result == store.OK {
				s.jobs[r].phase = asking
				return
			}
			m.reach("the latch was another's", true)
			to(withdrawing, false)(s)
		}, to(withdrawing, true))
	case asking:
		m.ask(s, r, v)
	case committing:
		m.commit(s, r, j, v)
	case rejecting:
		o.kind, o.reason = opEndAttempt, rejected
		m.call(s, o, m.say("replica %d ends the session: the token was rejected", r), func(s *state, result store.Result) {
			if result == store.OK {
				m.reach("ended for a rejected token", true)
				m.endedBy(s, r, op{kind: opEnd, reason: rejected})
				m.done(s, r, over)
				return
			}
			m.reach("a rejected token was not the record's any more", true)
			again(s)
		}, stays)
	case withdrawing:
		o.kind = opWithdraw
		m.call(s, o, m.say("replica %d takes its mark back", r), func(s *state, _ store.Result) {
			if j.fails {
				fails(s)
			} else {
				again(s)
			}
		}, stays)
	case releasing:
		o.kind = opRelease
		m.call(s, o, m.say("replica %d leaves its mark behind", r), func(s *state, _ store.Result) { fails(s) }, stays)
	}
	if record := m.kvs[s.kv]; j.phase > claiming && record.leased == lapsed && record.lease == j.attempt {
		o := op{kind: opClaim, version: v.version, attempt: j.attempt}
		m.call(s, o, m.say("replica %d renews its lease", r), func(*state, store.Result) {}, nil)
	}
	if j.phase != idling || s.journal[r] != 0 || s.at(r) {
		m.fault(s, crash, m.say("replica %d crashes", r), func(s *state) {
			s.jobs[r], s.journal[r], s.again[r] = job{}, 0, 0
			for i, q := range s.reqs {
				if q.who != nobody && q.rep == r && q.phase != onItsWay && q.phase != slow && q.phase != answering {
					s.reqs[i] = req{}
				}
			}
		})
	}
}

// ask presents the refresh token to a strict provider.
func (m *model) ask(s *state, r uint8, v view) {
	name := m.say("replica %d presents token %d", r, v.rt)
	m.fault(s, busy, name+": 503", func(s *state) { s.jobs[r].phase, s.jobs[r].fails = withdrawing, true })
	// Without WAIT a failover may lose the mark itself.
	marked := s.faults&failover == 0 || m.wait
	if (s.presented || v.rt != 0) && s.lone&(1<<-v.rt) == 0 && marked {
		m.fail("(d) a refresh token is presented again, and its mark was never alone")
	}
	m.reach("a token of unknown fate is presented once more", s.presented && v.unknowns)
	m.fault(s, badProxy, name+": 502", func(s *state) { s.jobs[r].phase, s.presented = releasing, true })
	t := *s
	if v.rt != 0 || s.revoked {
		t.revoked = true
		t.jobs[r].phase = rejecting
		m.emit(&t, "%s: invalid_grant", name)
		return
	}
	m.rotated(&t)
	t.rotations++
	t.presented = false
	t.jobs[r].phase, t.jobs[r].got = committing, 0
	m.emit(&t, "%s: new tokens", name)
	m.fault(&t, unheard, name+": new tokens, the answer is lost", func(s *state) { s.jobs[r].phase = releasing })
}

// commit is session.exchange's.
func (m *model) commit(s *state, r uint8, j job, v view) {
	o := op{kind: opCommit, version: v.version, attempt: j.attempt, change: inPlace, sent: true, rt: j.got}
	current := j.uid == v.uid
	if next := s.tickets + 1; current && v.confirmed && int(v.n) < store.MaxPredecessors {
		if j.next != 0 {
			next = j.next
		} else if int(s.tickets) >= m.tickets {
			return // out of bounds
		}
		if c, ok := succession(v, v.uid, v.gen, next); ok {
			c.attempt, c.change, c.sent, c.rt = o.attempt, advance, true, o.rt
			o = c
		} else {
			m.fail("a commit can't seal its predecessors anew")
		}
	}
	make := func(s *state) {
		if o.change == advance && s.jobs[r].next == 0 {
			s.tickets++
			s.gens[s.tickets] = o.gen
			s.jobs[r].next = o.uid
		}
	}
	owner := -1
	for i, q := range s.reqs {
		if q.who != nobody && q.phase == waiting && q.rep == r && q.own {
			owner = i
		}
	}
	o.handed = o.change == advance && owner >= 0
	name := m.say("replica %d commits token %d", r, o.rt)
	if o.change == advance {
		name = m.say("replica %d commits token %d and ticket %d.%d, handed out: %v", r, o.rt, o.gen, o.uid, o.handed)
	}
	m.call(s, o, name, func(s *state, result store.Result) {
		switch result {
		case store.OK:
			m.reach("a commit in place", o.change == inPlace)
			m.reach("a commit in place, for a predecessor in its grace", o.change == inPlace && !current && v.confirmed)
			m.reach("a commit in place, for there is no room for one more predecessor", o.change == inPlace && current && v.confirmed)
			m.reach("an advance that drops a predecessor", o.change == advance && m.kvs[s.kv].n <= v.n)
			m.reach("an advance with nobody to hand it out to", o.change == advance && !o.handed)
			m.reach("a commit run again after a lost reply", j.next != 0)
			make(s)
			m.journal(s, r, o)
			if owner >= 0 && o.change == advance {
				if record := m.kvs[s.kv]; o.handed && record.handed != none {
					s.reqs[owner].cookie, s.reqs[owner].held = o.uid, record.handed
				}
			}
			m.done(s, r, committed)
		case store.Ended, store.None:
			m.reach("new tokens for an ended session were revoked", true)
			s.revoked = true
			m.done(s, r, over)
		case store.Full:
			m.fail("a commit finds more predecessors than its claim")
		default:
			m.reach("a commit was refused", true)
			m.done(s, r, onceMore)
		}
	}, make)
}

// How a refresh ends for those who wait for it.
const (
	committed uint8 = iota
	onceMore
	unavailable
	over
)

// done lets those go on who wait for a replica's refresh.
func (m *model) done(s *state, r uint8, how uint8) {
	s.jobs[r] = job{}
	for i := range s.reqs {
		q := &s.reqs[i]
		if q.who == nobody || q.phase != waiting || q.rep != r {
			continue
		}
		own := q.own
		q.own, q.view = false, 0
		switch {
		case how == unavailable:
			m.tell(i, refused503)
			*q = req{}
		case how == over:
			m.tell(i, refused401)
			*q = req{}
		case how == committed && own && !q.settled:
			m.served(s, i, func(s *state) { s.reqs[i] = req{} })
		default:
			m.reach("in place first, then re-issue", own && how == committed)
			q.phase, q.settled = judge, false
		}
	}
}

// endedBy notes an end that its caller heard of.
func (m *model) endedBy(s *state, r uint8, o op) {
	s.ended = true
	m.journal(s, r, o)
}

// journal is session.Keeper's: what was acknowledged is run again after a failover.
func (m *model) journal(s *state, r uint8, o op) {
	if !m.replay || m.faults&failover == 0 {
		return
	}
	if s.faults&failover != 0 {
		return // there is no second one
	}
	if o.kind == opCommit {
		o.again = true
	}
	s.journal[r] = m.ops.id(o)
}

// world makes all other steps.
func (m *model) world(s *state) {
	record := m.kvs[s.kv]
	rewrite := func(text string, change func(*kv)) {
		t, r := *s, record
		change(&r)
		t.kv = m.id(r)
		m.emit(&t, "%s", text)
	}
	if record.status == live {
		if int(s.tickets) < m.tickets && int(s.rotations) < m.rotations {
			if record.token == fresh && m.background {
				rewrite("the access token is about to run out", func(r *kv) { r.token = due })
			}
			if record.token != out {
				rewrite("the access token runs out", func(r *kv) { r.token = out })
			}
		}
		if m.timeouts && record.timeOver == inTime {
			rewrite("the idle time is over", func(r *kv) { r.timeOver = idleOver })
			rewrite("the absolute time is over", func(r *kv) { r.timeOver = absoluteOver })
		}
		if record.leased == held {
			if s.holds(record.lease) {
				m.fault(s, lapse, "the lease runs out under its holder", func(s *state) {
					r := record
					r.leased = lapsed
					s.kv = m.id(r)
				})
			} else {
				rewrite("a lease without a holder runs out", func(r *kv) { r.leased = lapsed })
			}
		}
	}
	if s.late != 0 {
		o := m.ops.of(s.late)
		t := *s
		t.late = 0
		got := m.run(t.kv, o)
		m.change(&t, o, got)
		m.reach("a late call changed something", got.kv != s.kv)
		m.emit(&t, "a late call of %s: %s", opNames[o.kind], got.result)
	}
	if s.watch == 0 && m.theft {
		t := *s
		t.purse = 1 << s.jar
		m.watchTheft(&t)
		m.emit(&t, "a thief copies %s", s.ticket(s.jar))
	}
	if record.status == live {
		if m.faults&loggedOut != 0 && s.faults&loggedOut == 0 {
			for r := range uint8(replicas) {
				if r == 1 && s.alike() {
					break
				}
				t := *s
				t.faults |= loggedOut
				o := op{kind: opEnd, reason: logout}
				m.call(&t, o, m.say("the user logs out at replica %d", r), func(s *state, _ store.Result) { m.endedBy(s, r, o) }, nil)
			}
		}
	}
	if s.back != 0 {
		m.fault(s, failover, "Redis fails over and loses its last write", func(s *state) {
			s.kv, s.back = s.back, 0
			m.watchTheft(s)
			for r := range s.journal {
				if s.journal[r] != 0 {
					s.again[r] = 2
				}
			}
		})
	}
	for r, left := range s.again {
		if left == 0 {
			continue
		}
		o := m.ops.of(s.journal[r])
		t := *s
		t.again[r] = 1
		got := m.run(t.kv, o)
		m.change(&t, o, got)
		if got.kv != s.kv {
			m.watchTheft(&t)
		}
		m.reach("a commit run again after a failover", o.kind == opCommit && got.kv != s.kv)
		m.reach("an end run again after a failover", o.kind == opEnd && got.kv != s.kv)
		m.emit(&t, "replica %d runs its %s again: %s", r, opNames[o.kind], got.result)
	}
	m.tick(s)
}

// holds reports whether a replica is at work under an attempt.
func (s *state) holds(attempt uint8) bool {
	for _, j := range s.jobs {
		if j.phase != idling && j.attempt == attempt {
			return true
		}
	}
	return false
}

// tick lets half a grace go by. A request and its answer are under way for less
// than a grace.
func (m *model) tick(s *state) {
	t := *s
	for i := range t.reqs {
		q := &t.reqs[i]
		if q.who == nobody {
			continue
		}
		switch q.phase {
		case onItsWay, answering:
			if q.age >= networkTicks {
				return
			}
			q.age++
		case slow:
			q.held = min(q.held+1, holdTicks+1)
		default:
			if q.cookie != 0 {
				q.held = min(q.held+1, holdTicks+1)
			}
			if q.since++; q.since > patienceTicks {
				*q = req{} // 503: it has waited too long
			}
		}
	}
	t.kv = m.id(m.older(s, m.kvs[s.kv]))
	t.back = 0 // replicas are never that far behind
	for r := range t.journal {
		if t.again[r] == 2 {
			return // that takes no half minute
		}
		t.journal[r], t.again[r] = 0, 0
	}
	if t.watch == parting {
		if t.watchAt--; t.watchAt == 0 {
			t.watch = parted
		}
	}
	m.emit(&t, "time goes by")
}

// older is a record after a tick. This is what clock and expiry do: no script
// runs.
func (m *model) older(s *state, r kv) kv {
	if r.status != live {
		return r
	}
	if r.handed != none {
		r.handed = min(r.handed+1, settleTicks+1)
	}
	if r.ahead != none {
		r.ahead = 1
	}
	if r.looked != none {
		r.looked = 1
	}
	if r.leased == held && !s.holds(r.lease) {
		r.leased = lapsed
	}
	kept := false
	for i := range r.preds[:r.n] {
		p := &r.preds[i]
		if p.until > 0 {
			p.until--
		}
		kept = kept || p.until != 0
	}
	if !kept {
		r.preds, r.n = [store.MaxPredecessors]entry{}, 0
	}
	return r
}
