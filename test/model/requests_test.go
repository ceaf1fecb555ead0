package model

import (
	"fmt"

	"github.com/cloakroom/cloakroom/session/store"
)

// networkTicks is how long a request and its answer are under way at most,
// holdTicks how long a cookie may wait (a third of the grace, rounded up), and
// patienceTicks how long a request waits at the gateway (15 s, rounded up).
const (
	networkTicks  = 1
	holdTicks     = 1
	patienceTicks = 1
)

// requests makes all steps of requests, as [session.Keeper.Open] and the
// gateway do.
//
// Steps that could as well come at another time are taken at one (unless all of
// them are asked for):
//
//   - A request is sent as it arrives, or just before the jar changes: sending
//     reads the jar and touches nothing else, and to be under way for a shorter
//     time forbids nothing. One that is lost might as well not have been sent.
//   - The thief has a cookie as soon as it is handed out: having it forces nothing.
func (m *model) requests(s *state) {
	free := s.free(m.requestsAtOnce)
	send := func(q req) {
		t := *s
		t.reqs[free] = q
		if m.all {
			m.emit(&t, "the %s sends %s", parties[q.who], s.ticket(q.uid))
		} else {
			m.arrive(&t, free)
		}
	}
	if free >= 0 {
		send(req{who: browser, uid: s.jar})
		if s.purse != 0 && !s.under(thief) {
			for uid := uint8(1); uid <= s.tickets; uid++ {
				if s.purse&(1<<uid) != 0 {
					send(req{who: thief, uid: uid})
				}
			}
		}
	}
	for i, q := range s.reqs {
		if q.who != nobody && (i == 0 || q != s.reqs[i-1]) { // else the same again
			m.request(s, i)
		}
	}
}

// request makes the steps of one that is under way.
func (m *model) request(s *state, i int) {
	q := s.reqs[i]
	who := parties[q.who]
	drop := func(s *state) { s.reqs[i] = req{} }
	switch q.phase {
	case onItsWay:
		if m.all {
			t := *s
			drop(&t)
			m.emit(&t, "the %s's request with %s is lost", who, s.ticket(q.uid))
		}
		m.arrive(s, i)
	case judge:
		m.open(s, i)
	case kill:
		// [session.Keeper.refuse]: a second call, on the server's context.
		m.call(s, op{kind: opEnd, reason: reuse}, m.say("a replica ends the session for the %s's %s: reuse", who, s.ticket(q.uid)), func(s *state, r store.Result) {
			if r == store.OK {
				if s.watch == 0 && !s.twice {
					m.fail("(a) an honest browser was ended for reuse")
				}
				m.reach("ended for reuse, since a failover forgot a hand-out", s.watch == 0)
				m.reach("ended for reuse after a theft", s.watch != 0)
				m.endedBy(s, q.rep, op{kind: opEnd, reason: reuse})
			}
			m.tell(i, refused401)
			drop(s)
		}, drop)
	case replace:
		m.reissue(s, i, drop)
	case waiting:
		if m.gone {
			t := *s
			drop(&t)
			m.emit(&t, "the %s that waits hangs up", who)
		}
	case slow:
		t := *s
		if q.held > holdTicks { // [session.Keeper.MayHandOut]
			drop(&t)
			m.emit(&t, "the %s's slow answer leaves, too late for %s", who, s.ticket(q.cookie))
			break
		}
		t.reqs[i].phase, t.reqs[i].rep = answering, 0
		if q.held > 0 {
			t.reqs[i].age = 0
		}
		m.emit(&t, "the %s's answer leaves with %s", who, s.ticket(q.cookie))
	case answering:
		t := *s
		drop(&t)
		m.emit(&t, "the answer to the %s with %s is lost", who, s.ticket(q.cookie))
		t = *s
		drop(&t)
		if q.who == browser {
			t.jar = q.cookie
		} else {
			t.purse |= 1 << q.cookie
		}
		m.emit(&t, "the answer to the %s comes: %s", who, s.ticket(q.cookie))
		if m.all || q.who == thief || q.cookie == s.jar {
			break
		}
		places := 0 // while the answer was still under way
		for _, q := range s.reqs[:m.requestsAtOnce] {
			if q.who == nobody {
				places++
			}
		}
		for range places {
			t.reqs[t.free(m.requestsAtOnce)] = req{who: browser, uid: s.jar}
			u := t
			m.emit(&u, "the browser sends %s, and then the answer comes: %s", s.ticket(s.jar), s.ticket(q.cookie))
		}
	}
}

var parties = [...]string{"", "browser", "thief"}

// arrive brings a request to a replica.
func (m *model) arrive(s *state, i int) {
	for rep := range uint8(replicas) {
		if rep == 1 && s.alike() {
			break // as good as the first
		}
		t := *s
		t.reqs[i].phase, t.reqs[i].rep = judge, rep
		m.open(&t, i)
	}
}

// open shows a request's ticket to Redis.
func (m *model) open(s *state, i int) {
	q := s.reqs[i]
	drop := func(s *state) { s.reqs[i] = req{} }
	o := op{kind: opOpen, gen: s.gens[q.uid], uid: q.uid}
	m.call(s, o, m.say("replica %d opens the %s's %s", q.rep, parties[q.who], s.ticket(q.uid)), func(s *state, r store.Result) {
		m.judged(s, i, r, drop)
	}, drop)
}

// judged goes on as a verdict says; as session.Keeper's Open, ask and refuse.
func (m *model) judged(s *state, i int, verdict store.Result, drop func(*state)) {
	q := &s.reqs[i]
	record := m.kvs[s.kv]
	switch verdict {
	case store.Current, store.Handout, store.Superseding, store.Settled, store.InGrace:
	case store.Reuse:
		if q.since > 0 {
			m.reach("a late verdict of reuse", true)
			m.tell(i, refused503)
			drop(s) // 503: the verdict is older than 2 s
			return
		}
		q.phase, q.own, q.settled, q.view, q.cookie = kill, false, false, 0, 0
		return
	case store.Mismatch, store.None:
		if s.faults&failover == 0 {
			m.fail(fmt.Sprintf("a real ticket is answered %q", verdict))
		}
		drop(s)
		return
	case store.Ahead, store.Lost:
		if s.faults&failover == 0 {
			m.fail(fmt.Sprintf("nothing was lost, but a ticket is answered %q", verdict))
		}
		m.reach("after a theft and a failover the owner's ticket is newer than the record", s.watch != 0 && q.who == browser)
		drop(s)
		return
	default:
		m.tell(i, refused401)
		drop(s)
		return
	}
	if !forward(q.uid, record) {
		m.fail(fmt.Sprintf("no way from ticket %d to the current one", q.uid))
	}
	settled := verdict == store.Settled
	q.own, q.settled, q.view = false, false, 0
	switch {
	case verdict == store.Handout:
		q.cookie, q.held = record.uid, 0
	case q.cookie != record.uid: // what was noted for this answer may have been superseded
		q.cookie, q.held = 0, 0
	default:
		m.reach("a hand-out kept while the tokens are refreshed", true)
	}
	if settled && record.token != out {
		q.phase, q.view = replace, m.views.id(viewOf(record))
		return
	}
	m.proceed(s, i, settled, drop)
}

// proceed serves a request, or has it wait for a refresh.
func (m *model) proceed(s *state, i int, settled bool, drop func(*state)) {
	q := &s.reqs[i]
	record := m.kvs[s.kv]
	j := &s.jobs[q.rep]
	switch record.token {
	case due: // [session.Keeper.refreshInBackground]
		if j.phase == idling {
			*j = job{phase: claiming, attempt: newest, view: m.views.id(viewOf(record)), uid: q.uid}
			m.reach("a refresh in the background", true)
		}
	case out: // [session.Keeper.board]
		q.phase, q.settled = waiting, settled
		if j.phase == idling {
			*j = job{phase: claiming, attempt: newest, view: m.views.id(viewOf(record)), uid: q.uid}
			q.own = true
		}
		return
	}
	m.served(s, i, drop)
}

// served answers a request from the session, and hands its cookie out.
func (m *model) served(s *state, i int, drop func(*state)) {
	q := &s.reqs[i]
	m.tell(i, served)
	m.watchServed(s, q.who)
	if q.cookie == 0 || q.held > holdTicks {
		drop(s)
		return
	}
	// A failover may lose the note of a hand-out that nobody waited for.
	if s.handed&(1<<q.cookie) != 0 {
		if s.faults&failover == 0 || m.wait {
			m.fail(fmt.Sprintf("(b) %s is handed out a second time", s.ticket(q.cookie)))
		}
		m.reach("a successor handed out a second time, after a failover", true)
		s.twice = true
	}
	s.handed |= 1 << q.cookie
	if q.who == thief && !m.all {
		s.purse |= 1 << q.cookie
		drop(s)
		return
	}
	q.own, q.settled, q.view, q.since = false, false, 0, 0
	if m.slowAnswers && q.who == browser {
		q.phase = slow
		return
	}
	q.phase, q.rep, q.held = answering, 0, 0
}

// reissue is [session.Keeper.reissue].
func (m *model) reissue(s *state, i int, drop func(*state)) {
	if int(s.tickets) >= m.tickets {
		return // out of bounds
	}
	q := s.reqs[i]
	v := m.views.of(q.view)
	o, ok := succession(v, q.uid, s.gens[q.uid], s.tickets+1)
	if !ok {
		m.fail("a re-issue can't seal its predecessors anew")
		return
	}
	for i := range o.n {
		if o.preds[i].gen == o.pred.gen {
			o.preds[i].leads = o.pred.leads
		}
	}
	o.pred = entry{}
	o.change, o.handed, o.attempt, o.rt = reissue, true, newest, v.rt
	make := func(s *state) {
		s.tickets++
		s.gens[s.tickets] = o.gen
	}
	m.call(s, o, m.say("replica %d issues another successor for %s", q.rep, s.ticket(q.uid)), func(s *state, r store.Result) {
		q := &s.reqs[i]
		switch r {
		case store.OK:
			make(s)
			m.reach("a successor issued again", true)
			m.reach("a successor issued again to the thief", q.who == thief)
			m.reach("a re-issue that drops a predecessor", m.kvs[s.kv].n < v.n)
			m.journal(s, q.rep, o)
			q.cookie, q.held, q.view = s.tickets, 0, 0
		case store.Sending:
			m.reach("a re-issue beside a mark", true)
			q.view = 0
		default:
			q.phase, q.view = judge, 0
			return
		}
		// What the token was when the request was judged.
		if v.token == due {
			m.proceed(s, i, false, drop)
			return
		}
		m.served(s, i, drop)
	}, func(s *state) {
		make(s)
		drop(s)
	})
}

// succession is session.Keeper's: the ticket after uid, and the salts sealed anew.
func succession(v view, uid, gen, next uint8) (o op, ok bool) {
	o = op{kind: opCommit, version: v.version, gen: v.gen + 1, uid: next, n: v.n, preds: v.preds}
	for i := range o.n {
		if o.preds[i].bound != v.gen {
			return o, false // session.Keyring's resalt
		}
		o.preds[i].bound = o.gen
	}
	o.pred = entry{gen: gen, uid: uid, leads: next, bound: o.gen}
	return o, true
}

// forward is session.Keyring's: it derives the current ticket from uid.
func forward(uid uint8, record kv) bool {
	for _, p := range record.preds[:record.n] {
		if p.uid == uid {
			if p.bound != record.gen {
				return false
			}
			uid = p.leads
		}
	}
	return uid == record.uid
}

// watchServed follows what a thief's ticket is good for: once the successor is
// known to be in use and both have shown up since, one of them is out after a
// grace and what it takes to lose a successor.
func (m *model) watchServed(s *state, who uint8) {
	record := m.kvs[s.kv]
	if s.watch == stolen && int8(record.gen) > s.watchAt && record.confirmed {
		s.watch, s.used = rotated, [2]bool{}
	}
	switch s.watch {
	case rotated:
		s.used[who-1] = true
		if s.used[0] && s.used[1] {
			s.watch, s.watchAt, s.used = parting, graceTicks+settleTicks+1, [2]bool{}
		}
	case parted:
		s.used[who-1] = true
		m.reach("one of owner and thief goes on", true)
		if s.used[0] && s.used[1] {
			m.fail("(b) thief and owner both go on")
		}
	}
}

// watchTheft begins to watch, after a theft, and anew after a failover: Redis may
// have forgotten that a successor was handed out, and hands it out once more. Then
// owner and thief share a ticket, until the next rotation parts them.
func (m *model) watchTheft(s *state) {
	if s.purse == 0 {
		return
	}
	s.watch, s.watchAt, s.used = stolen, int8(s.gens[s.jar]), [2]bool{}
	if s.faults&failover != 0 {
		s.watchAt = max(s.watchAt, int8(m.kvs[s.kv].gen))
	}
}

// What is watched after a theft.
const (
	_ uint8 = iota
	stolen
	rotated
	parting
	parted
)

// free is a place for one more request, or -1.
func (s *state) free(most int) int {
	for i, q := range s.reqs[:most] {
		if q.who == nobody {
			return i
		}
	}
	return -1
}

// under reports whether a request of who is under way.
func (s *state) under(who uint8) bool {
	for _, q := range s.reqs {
		if q.who == who {
			return true
		}
	}
	return false
}

// alike reports whether it doesn't matter at which replica something begins.
func (s *state) alike() bool {
	return s.jobs[0] == s.jobs[1] && s.journal[0] == s.journal[1] && s.again[0] == s.again[1] && !s.at(0) && !s.at(1)
}

// at reports whether a request is at a replica.
func (s *state) at(rep uint8) bool {
	for _, q := range s.reqs {
		if q.who != nobody && q.rep == rep && q.phase != onItsWay && q.phase != answering {
			return true
		}
	}
	return false
}

// name is a ticket's, in stories.
type name struct{ gen, uid uint8 }

func (n name) String() string { return fmt.Sprintf("ticket %d.%d", n.gen, n.uid) }

func (s *state) ticket(uid uint8) name { return name{s.gens[uid], uid} }
