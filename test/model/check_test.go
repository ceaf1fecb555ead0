package model

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session/store"
)

// bounds are what one exploration covers, all of it.
type bounds struct {
	name           string
	requestsAtOnce int
	tickets        int // that are ever made
	rotations      int // of the refresh token
	faults         uint16
	atOnce         int // faults on a path at most; 0: all
	theft          bool
	all            bool // orders that make no difference, too
	gone           bool // clients hang up while they wait
	slowAnswers    bool // upstreams hold answers back
	background     bool // refreshes that nobody waits for
	timeouts       bool
	wait           bool // the writes that matter are replicated before they count
	replay         bool // commits and ends are run again after a failover
	seeded         *kv  // the record at the start, if not a new one
	sent           bool // and a request with its oldest ticket is on its way

	loses   []uint16 // the least sets of faults that lose a session; nil: not looked at
	reaches []string // besides, what has to have happened
}

// model explores all that can happen within its bounds, breadth first.
type model struct {
	*machine
	bounds
	ops   interned[op]
	views interned[view]

	inPlace bool                       // replicas and requests keep their places
	told    func(i int, answer answer) // hears how requests are answered; may be nil

	known *known
	steps int

	at      int32 // the state whose steps are being made
	last    state // where a step led that broke a property
	failed  string
	trace   bool
	found   func(t *state, text string) // while tracing
	reached map[string]int
	lost    map[uint16]int32
}

func (m *model) reach(what string, ok bool) {
	if ok {
		m.reached[what]++
	}
}

// fail is a property that does not hold: on the step that is being made.
func (m *model) fail(what string) {
	if m.failed == "" {
		m.failed = what
	}
}

// answer is how a request ends.
type answer uint8

const (
	served answer = iota
	refused503
	refused401
)

func (m *model) tell(i int, a answer) {
	if m.told != nil {
		m.told(i, a)
	}
}

// say is what a step is called in stories; otherwise nobody asks.
func (m *model) say(format string, args ...any) string {
	if !m.trace {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// emit is a step to t.
func (m *model) emit(t *state, format string, args ...any) {
	if record := m.kvs[t.kv]; t.ended && record.status == live && m.failed == "" {
		pending := false
		for r := range t.again {
			pending = pending || t.again[r] == 2
		}
		m.reach("an ended session lives until its end is run again", pending)
		if !pending && (m.wait || m.replay && t.faults&crash == 0) {
			m.failed = "(c) an ended session lives again"
		}
	}
	m.canon(t)
	if m.trace {
		m.found(t, fmt.Sprintf(format, args...))
		return
	}
	m.steps++
	if m.failed != "" {
		m.last = *t
		panic(violation{m.at})
	}
	m.known.add(t, m.at)
}

// violation is a property that didn't hold on a step from the state at, to the
// model's last.
type violation struct{ at int32 }

// fault is a step that costs one.
func (m *model) fault(s *state, f uint16, text string, do func(*state)) {
	if m.faults&f == 0 || s.faults&f != 0 || m.atOnce > 0 && bits.OnesCount16(s.faults) >= m.atOnce {
		return
	}
	t := *s
	t.faults |= f
	do(&t)
	m.emit(&t, "%s", text)
}

// call runs a script, and what its caller does then. lost is what the caller
// does if it hears nothing: nil if that is no matter.
func (m *model) call(s *state, o op, text string, then func(*state, store.Result), lost func(*state)) {
	got := m.run(s.kv, o)
	m.reached[opNames[o.kind]+": "+string(got.result)]++
	t := *s
	m.change(&t, o, got)
	then(&t, got.result)
	m.emit(&t, "%s: %s", text, got.result)
	if lost != nil {
		m.fault(s, reply, text+", and doesn't hear of it", func(s *state) {
			m.change(s, o, got)
			lost(s)
		})
	}
	if s.late != 0 {
		return
	}
	m.fault(s, late, text+", and a copy of the call is still on its way", func(s *state) {
		m.change(s, o, got)
		s.late = m.ops.id(o)
		then(s, got.result)
	})
	if lost != nil {
		m.fault(s, late, text+", but the call is stuck on its way", func(s *state) {
			s.late = m.ops.id(o)
			lost(s)
		})
	}
}

// change is what a script has done to Redis.
func (m *model) change(s *state, o op, got outcome) {
	if got.kv == s.kv {
		return
	}
	if got.result == store.Withdrawn {
		before := m.kvs[s.kv]
		s.lone |= 1 << -before.rt
		if before.looked != 1 {
			m.fail("(d) a mark is withdrawn at first sight")
		}
	}
	switch {
	case m.faults&failover == 0 || s.faults&failover != 0:
	case m.wait && (o.kind == opSend || o.kind == opEnd || o.kind == opEndAttempt || o.kind == opCommit || got.result == store.Handout):
		s.back = 0
	default:
		s.back = s.kv
	}
	s.kv = got.kv
}

// explore visits every state there is. It reports whether all properties hold.
func (m *model) explore(t *testing.T) bool {
	start := time.Now()
	runs := m.runs
	m.known, m.reached, m.lost = newKnown(), map[string]int{}, map[uint16]int32{}
	first := state{tickets: 1, jar: 1}
	first.gens[1] = 1
	record := kv{status: live, gen: 1, uid: 1, confirmed: true, handed: none, ahead: none, looked: none}
	if m.seeded != nil {
		record = *m.seeded
		first.tickets, first.jar = record.uid, record.uid
		for _, p := range record.preds[:record.n] {
			first.gens[p.uid] = p.gen
		}
		first.gens[record.uid] = record.gen
		if !record.confirmed { // its cookie was lost
			first.jar = record.preds[record.n-1].uid
		}
	}
	if m.sent {
		first.reqs[0] = req{who: browser, uid: record.preds[0].uid, age: networkTicks}
	}
	first.kv = m.id(record)
	m.canon(&first)
	m.known.add(&first, 0)
	bad := m.visit()
	t.Logf("%s: %d states, %d steps, %d script runs, %.1f s", m.name, m.known.n, m.steps, m.runs-runs, time.Since(start).Seconds())
	if bad >= 0 {
		t.Errorf("%s: %s\n%s", m.name, m.failed, m.story(bad, &m.last))
		return false
	}
	return true
}

func (m *model) visit() (bad int32) {
	defer func() {
		if v := recover(); v != nil {
			at, ok := v.(violation)
			if !ok {
				panic(v)
			}
			bad = at.at
		}
	}()
	for m.at = 0; m.at < m.known.n; m.at++ {
		s := *m.known.state(m.at)
		m.look(&s)
		m.step(&s)
		if len(m.doubts) > 0 {
			return -1
		}
	}
	return -1
}

func (m *model) step(s *state) {
	// An end that can't be undone leaves only refreshes that come back to it.
	over := m.kvs[s.kv].status == ended && s.back == 0 && s.again[0] != 2 && s.again[1] != 2
	// What the provider answers is between it and who asks: where nothing fails
	// nobody else could tell when. So nothing else is done first.
	if !m.all && m.faults == 0 && !m.background {
		for r := range s.jobs {
			if j := s.jobs[r]; j.phase == asking {
				m.ask(s, uint8(r), m.views.of(j.view))
				return
			}
		}
	}
	if !over {
		m.requests(s)
	}
	m.refreshes(s)
	if !over {
		m.world(s)
	}
}

// look judges a state in which nothing is under way: is the session lost?
func (m *model) look(s *state) {
	if s.late != 0 || m.loses == nil {
		return
	}
	for r := range s.jobs {
		if s.jobs[r].phase != idling || s.again[r] == 2 {
			return
		}
	}
	for _, q := range s.reqs {
		if q.who != nobody {
			return
		}
	}
	if s.faults&loggedOut != 0 {
		return
	}
	record := m.kvs[s.kv]
	got := m.run(s.kv, op{kind: opOpen, gen: s.gens[s.jar], uid: s.jar})
	switch got.result {
	case store.Current, store.Handout, store.Superseding, store.Settled, store.InGrace:
		if record.rt == 0 && !s.revoked {
			return
		}
	}
	for f := range m.lost {
		if f&s.faults == f {
			return
		}
	}
	for f := range m.lost {
		if f&s.faults == s.faults {
			delete(m.lost, f)
		}
	}
	m.lost[s.faults] = m.at
}

func names(f uint16) string {
	var out []string
	for ; f != 0; f &= f - 1 {
		out = append(out, faultNames[bits.TrailingZeros16(f)])
	}
	return "{" + strings.Join(out, ", ") + "}"
}

// story tells how a state came about, and a last step that isn't among them, if
// there is one.
func (m *model) story(at int32, last *state) string {
	var path []state
	if last != nil {
		path = append(path, *last)
	}
	for ; at != 0; at = m.known.parent(at) {
		path = append(path, *m.known.state(at))
	}
	slices.Reverse(path)
	m.trace = true
	defer func() { m.trace = false }()
	failed := m.failed
	var b strings.Builder
	from := *m.known.state(0)
	for i, want := range path {
		text := ""
		m.found = func(t *state, s string) {
			if *t == want && text == "" {
				text = s
			}
		}
		s := from
		m.failed = ""
		if i == len(path)-1 {
			m.failed = failed
		}
		m.step(&s)
		fmt.Fprintf(&b, "%3d. %s\n     %s\n", i+1, text, m.describe(&want))
		from = want
	}
	m.failed = failed
	return b.String()
}

func (m *model) describe(s *state) string {
	r := m.kvs[s.kv]
	var b strings.Builder
	switch r.status {
	case absent:
		b.WriteString("no record")
	case ended:
		fmt.Fprintf(&b, "ended (%d)", r.reason)
	default:
		fmt.Fprintf(&b, "record: %s", s.ticket(r.uid))
		if !r.confirmed {
			b.WriteString(" unconfirmed")
			if r.handed == none {
				b.WriteString(", not handed out")
			} else {
				fmt.Fprintf(&b, ", handed out %d ticks ago", r.handed)
			}
		}
		for _, p := range r.preds[:r.n] {
			fmt.Fprintf(&b, ", before %s", s.ticket(p.uid))
			if p.until != none {
				fmt.Fprintf(&b, " for %d ticks", p.until)
			}
		}
		fmt.Fprintf(&b, ", token %d %s", r.rt, [...]string{"", "due", "out"}[r.token])
		if r.lease != 0 {
			fmt.Fprintf(&b, ", lease %d %s", r.lease, [...]string{"", "over", "held"}[r.leased])
		}
		if r.sending != 0 {
			fmt.Fprintf(&b, ", sending %d", r.sending)
		}
	}
	fmt.Fprintf(&b, "; jar: %s", s.ticket(s.jar))
	if s.purse != 0 {
		b.WriteString("; thief:")
		for uid := uint8(1); uid <= s.tickets; uid++ {
			if s.purse&(1<<uid) != 0 {
				fmt.Fprintf(&b, " %s", s.ticket(uid))
			}
		}
	}
	if s.revoked {
		b.WriteString("; the provider has revoked the tokens")
	}
	return b.String()
}
