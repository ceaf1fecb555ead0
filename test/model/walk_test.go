package model

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
	"github.com/cloakroom/cloakroom/session/store"
)

// TestKeeper walks at random, by seeds: three requests, a thief, time and a
// provider that fails, at two real keepers and in the model side by side. After
// each step both have to hold the same record and to be about to do the same
// next, and every request has to have got the answer that the model gives. What
// the walks don't have are crashes, lost replies and failovers: those are the
// model's alone, and the tests' of package session.
func TestKeeper(t *testing.T) {
	redis, g := newMachine(t), newStage(t)
	reached := map[string]int{}
	steps := 0
	walks := uint64(40)
	if os.Getenv("MODEL") == "large" {
		walks = 300
	}
	for seed := range walks {
		w := &walk{t: t, g: g, rng: rand.New(rand.NewPCG(seed, 4)), noon: time.Date(2031, 1, 1+int(seed), 0, 0, 0, 0, time.UTC), lossy: seed%2 == 1}
		w.m = &model{machine: redis, bounds: bounds{
			requestsAtOnce: maxRequests, tickets: maxTickets, rotations: 100, theft: true, gone: true, all: true,
			faults: refused | busy | badProxy | unheard,
		}, inPlace: true, trace: true, reached: reached}
		w.walk()
		steps += len(w.story)
		if t.Failed() {
			t.Fatalf("seed %d:\n%s", seed, strings.Join(w.story, "\n"))
		}
	}
	t.Logf("%d walks, %d steps", walks, steps)
	for _, what := range slices.Sorted(maps.Keys(reached)) {
		t.Logf("%9d %s", reached[what], what)
	}
	wanted := often
	if os.Getenv("MODEL") == "large" {
		wanted = append(wanted, seldom...)
	}
	for _, what := range wanted {
		if reached[what] == 0 {
			t.Errorf("never came by: %s", what)
		}
	}
}

// What the walks have to come by: those that every run of the tests takes, and
// the many that MODEL=large takes.
var (
	often = []string{
		"open: current", "open: handout", "open: predecessor", "open: settled", "open: grace", "open: reuse", "open: ended",
		"claim: ok", "claim: busy", "claim: sending", "claim: version", "claim: ended",
		"sending: ok", "sending: busy", "look: looked", "look: withdrawn", "commit: ok", "commit: ended", "withdraw: ok", "release: ok",
		"end of a rejected token: ok", "a commit in place", "a successor issued again", "an advance with nobody to hand it out to",
		"a token of unknown fate is presented once more", "ended for reuse after a theft", "new tokens for an ended session were revoked",
	}
	seldom = []string{
		"a late verdict of reuse", "a commit in place, for a predecessor in its grace", "a hand-out kept while the tokens are refreshed", "in place first, then re-issue", "commit: version",
	}
)

// walk is one session, in the model and in fact.
type walk struct {
	t     testing.TB
	g     *stage
	m     *model
	s     state
	rng   *rand.Rand
	noon  time.Time
	ticks int
	story []string
	lossy bool // most answers are lost

	sid      session.SID
	app      [8]byte
	calls    [maxRequests]*request
	tickets  [maxTickets + 1]session.Ticket
	hashes   [maxTickets + 1][32]byte
	granted  int                     // the provider's refresh tokens
	dead     bool                    // and none of them is good any more
	issued   [replicas]int           // the ticks in which access tokens run out, as they were given
	expires  int                     // and the one on record
	ahead    [replicas]time.Duration // of the keepers' clocks when they claimed
	failures int                     // in this tick
}

// candidate is a step that the model can take.
type candidate struct {
	text    string
	to      state
	answers map[int]answer
}

// steps are those of the model that make makes.
func (w *walk) steps(make func(*state)) (cs []candidate) {
	answers := map[int]answer{}
	w.m.told = func(i int, a answer) { answers[i] = a }
	w.m.found = func(t *state, text string) {
		t.faults = 0
		cs = append(cs, candidate{text, *t, answers})
		answers = map[int]answer{}
	}
	s := w.s
	make(&s)
	return cs
}

func (w *walk) failf(format string, args ...any) {
	w.t.Errorf("step %d: %s", len(w.story), fmt.Sprintf(format, args...))
}

func (w *walk) walk() {
	w.begin()
	for range 120 {
		if w.t.Failed() || w.m.kvs[w.s.kv].status == ended && w.still() {
			break
		}
		do := w.choose()
		if do == nil {
			break
		}
		do()
		if w.m.failed != "" {
			w.failf("%s", w.m.failed)
		}
	}
	w.leave()
}

// still reports whether nothing is under way.
func (w *walk) still() bool {
	for r := range w.s.jobs {
		if w.s.jobs[r].phase != idling {
			return false
		}
	}
	return !w.s.under(browser) && !w.s.under(thief)
}

func (w *walk) begin() {
	w.g.mu.Lock()
	w.g.open, w.g.revoked = false, false
	w.g.offset, w.g.ahead = w.noon.Add(time.Second).Sub(time.Now()), longestBackoff
	w.g.mu.Unlock()
	for r := range w.g.keepers {
		w.g.renewals(r, true)
	}
	tokens := w.grant(0) // as the keeper takes its clock for Redis's
	ticket, err := w.g.keepers[0].Begin(w.t.Context(), &w.g.apps[0], session.Login{Tokens: tokens, Issuer: "https://id.example", Subject: "alice"})
	if err != nil {
		w.t.Fatal(err)
	}
	w.expires, w.sid = w.issued[0], ticket.SID
	w.tickets[1], w.hashes[1] = ticket, ticket.Secret.Hash()
	w.s = state{tickets: 1, jar: 1}
	w.s.gens[1] = 1
	w.s.kv = w.m.id(kv{status: live, gen: 1, uid: 1, confirmed: true, handed: none, ahead: none, looked: none})
	w.m.canon(&w.s)
	w.compare()
}

// leave lets everything end that is still under way.
func (w *walk) leave() {
	w.g.letAll()
	for _, q := range w.calls {
		if q != nil {
			q.hangUp()
		}
	}
	w.g.running.Wait()
	for _, k := range w.g.keepers {
		k.Wait(context.Background())
	}
	w.g.c.command("DEL", "w:backoff:{shop}")
	w.g.c.flush()
}

// grant is the provider's new tokens, to a replica whose clock was ahead when it
// claimed. They run out at a tick or never, so that seconds don't matter.
func (w *walk) grant(r uint8) session.Tokens {
	w.granted++
	w.issued[r] = w.ticks + [...]int{1, 1, 2, 1000}[w.rng.IntN(4)]
	return session.Tokens{
		Access: "access", TokenType: "Bearer", IssuedAt: time.Now().Add(w.g.clock() + w.ahead[r]), Refresh: token(w.granted),
		ExpiresAt: w.noon.Add(time.Duration(w.issued[r])*tick + w.ahead[r]),
	}
}

// choose picks what happens next; nil: what could is out of bounds.
func (w *walk) choose() func() {
	var all []func()
	add := func(weight int, do func()) {
		for range weight {
			all = append(all, do)
		}
	}
	s := &w.s
	record := w.m.kvs[s.kv]
	free := s.free(maxRequests)
	if free >= 0 && record.status == live {
		add(3, func() { w.send(free, req{who: browser, uid: s.jar}) })
		if s.purse != 0 && !s.under(thief) {
			for uid := uint8(1); uid <= s.tickets; uid++ {
				if s.purse&(1<<uid) != 0 {
					add(1, func() { w.send(free, req{who: thief, uid: uid}) })
				}
			}
		}
		if s.purse == 0 && len(w.story) > 10 {
			add(1, w.theft)
		}
		if len(w.story) > 60 {
			add(1, w.logout)
		}
	}
	for i, q := range s.reqs {
		if q.who == nobody {
			continue
		}
		switch q.phase {
		case onItsWay:
			for r := range uint8(replicas) {
				add(3, func() { w.arrive(i, r) })
			}
			add(1, func() { w.lose(i) })
		case judge, kill, replace:
			add(4, func() { w.request(i) })
		case waiting:
			// A commit that is about to run has already asked who stays. Who hangs up
			// now is one whose answer is lost.
			if !q.own || s.jobs[q.rep].phase != committing {
				add(1, func() { w.hangUp(i) })
			}
		case answering:
			add(2, func() { w.deliver(i) })
		}
	}
	for r := range uint8(replicas) {
		if phase := s.jobs[r].phase; phase != idling && (phase != looking || w.failures < failures) {
			add(4, func() { w.job(r) })
		}
	}
	if len(w.steps(w.m.tick)) > 0 && !w.impatient() {
		n := 3
		switch {
		case w.lossy && !record.confirmed && record.handed > 0:
			n = 24 // until the successor counts as lost
		case !s.under(browser):
			n = 8
		}
		add(n, w.tick)
	}
	if int(s.tickets) >= maxTickets {
		return nil
	}
	return all[w.rng.IntN(len(all))]
}

// impatient reports whether a request would have waited too long after one more
// tick: that time is not the stage's.
func (w *walk) impatient() bool {
	for _, q := range w.s.reqs {
		if q.who != nobody && q.phase != onItsWay && q.phase != answering && q.since >= patienceTicks {
			return true
		}
	}
	return false
}

// scripts are where a request is stopped in its phase, and calls where a
// replica's refresh is.
var (
	scripts = map[uint8]string{judge: "Open", kill: "End", replace: "Commit"}
	calls   = map[uint8]string{
		claiming: "Claim", latching: "dial", asking: "answer", committing: "Commit", rejecting: "EndAttempt",
		withdrawing: "Withdraw", releasing: "Release", looking: "Look",
	}
)

// enter takes a step of the model's, which the keepers have been let take, and
// checks that they are where it leads.
func (w *walk) enter(c candidate) {
	w.story = append(w.story, fmt.Sprintf("%3d. %s\n     %s", len(w.story)+1, c.text, w.m.describe(&c.to)))
	w.s = c.to
	missing := ""
	if !w.g.until(func() bool { missing = w.missing(c); return missing == "" }) {
		w.failf("%s", missing)
		return
	}
	for i, q := range w.calls {
		if q == nil {
			continue
		}
		now := w.s.reqs[i]
		if want, ok := c.answers[i]; ok {
			w.answered(i, q, want)
		}
		switch {
		case now.who == nobody:
			w.calls[i] = nil
		case now.phase == judge && w.done(q):
			// The keeper remembers that the session has ended.
			w.enter(w.steps(func(s *state) { w.m.request(s, i) })[0])
			return
		}
	}
	w.compare()
}

func (w *walk) done(q *request) bool {
	w.g.mu.Lock()
	defer w.g.mu.Unlock()
	return q.done
}

// missing is what is not yet as c says. The stage's mu is held.
func (w *walk) missing(c candidate) string {
	requests := map[int]bool{}
	for i, q := range w.s.reqs {
		call := w.calls[i]
		if call == nil {
			continue
		}
		requests[call.who] = true
		_, answered := c.answers[i]
		at := scripts[q.phase]
		over := q.phase == judge && w.m.kvs[w.s.kv].status == ended
		switch {
		case answered || q.who == nobody:
			if !call.done {
				return fmt.Sprintf("request %d is not answered", i)
			}
		case q.phase == answering || call.done && over:
		case call.done:
			return fmt.Sprintf("request %d is answered too soon: %v", i, call.err)
		case q.phase == waiting && !waits(call.who):
			return fmt.Sprintf("request %d does not wait for a refresh", i)
		case at != "" && w.g.at(int(q.rep), call.who, at, nil) == nil:
			return fmt.Sprintf("request %d is not about to %s", i, at)
		}
	}
	for r, j := range w.s.jobs {
		if at := calls[j.phase]; at != "" && w.g.at(r, 0, at, func(who int) bool { return !requests[who] }) == nil {
			return fmt.Sprintf("replica %d is not about to %s", r, at)
		}
	}
	return ""
}

// answered compares what a request was told.
func (w *walk) answered(i int, q *request, want answer) {
	got, ok := q.answer()
	if !ok || got != want {
		w.failf("request %d is told %v, want %s", i, q.err, [...]string{"served", "503", "401"}[want])
		return
	}
	now := w.s.reqs[i]
	switch {
	case now.who == nobody:
		if want == served && q.handout != nil && q.leaves {
			w.failf("request %d is handed a ticket out", i)
		}
	case q.handout == nil:
		w.failf("request %d is handed no ticket out", i)
	case q.handout.Ticket.Secret.Hash() != w.hash(now.cookie):
		w.failf("request %d is handed another ticket out than %s", i, w.s.ticket(now.cookie))
	}
}

// hash is a ticket's; that of a new one is learnt from the record.
func (w *walk) hash(uid uint8) [32]byte {
	if w.hashes[uid] == [32]byte{} {
		r, _, err := w.g.plain.Read(w.t.Context(), w.sid)
		if err != nil {
			w.t.Fatal(err)
		}
		w.hashes[uid] = r.Hash
	}
	return w.hashes[uid]
}

func (w *walk) send(at int, q req) {
	to := w.s
	to.reqs[at] = q
	w.enter(candidate{text: fmt.Sprintf("the %s sends %s", parties[q.who], to.ticket(q.uid)), to: to})
}

func (w *walk) arrive(i int, r uint8) {
	to := w.s
	to.reqs[i].phase, to.reqs[i].rep = judge, r
	w.calls[i] = w.g.request(int(r), w.tickets[to.reqs[i].uid])
	w.enter(candidate{text: fmt.Sprintf("it arrives at replica %d", r), to: to})
}

func (w *walk) lose(i int) {
	w.enter(w.steps(func(s *state) { w.m.request(s, i) })[0])
}

// request lets a request run its script.
func (w *walk) request(i int) {
	q := w.s.reqs[i]
	cs := w.steps(func(s *state) { w.m.request(s, i) })
	w.g.mu.Lock()
	h := w.g.at(int(q.rep), w.calls[i].who, scripts[q.phase], nil)
	w.g.mu.Unlock()
	w.g.let(int(q.rep), h, session.Refreshed{})
	w.enter(cs[0])
}

func (w *walk) hangUp(i int) {
	w.calls[i].hangUp()
	w.enter(w.steps(func(s *state) { w.m.request(s, i) })[0])
}

// deliver brings an answer to who asked, or not.
func (w *walk) deliver(i int) {
	q, cs := w.s.reqs[i], w.steps(func(s *state) { w.m.request(s, i) }) // lost, or not
	call := w.calls[i]
	w.calls[i] = nil
	arrives := w.rng.IntN(4) > 0
	if w.lossy {
		arrives = !arrives
	}
	if call.leaves && arrives {
		w.tickets[q.cookie] = call.handout.Ticket
		w.enter(cs[1])
		return
	}
	w.enter(cs[0])
}

// job lets a replica's refresh go on.
func (w *walk) job(r uint8) {
	j := w.s.jobs[r]
	var cs []candidate
	for _, c := range w.steps(func(s *state) { w.m.job(s, r) }) {
		fails := strings.HasSuffix(c.text, "can't reach the provider") || strings.HasSuffix(c.text, ": 503") || strings.HasSuffix(c.text, ": 502") || strings.HasSuffix(c.text, "lost")
		if strings.HasSuffix(c.text, "renews its lease: ok") || fails && w.failures >= failures {
			continue
		}
		cs = append(cs, c)
		if !fails {
			cs = append(cs, c, c, c, c, c)
		}
	}
	c := cs[w.rng.IntN(len(cs))]
	requests := map[int]bool{}
	for _, q := range w.calls {
		if q != nil {
			requests[q.who] = true
		}
	}
	stopped := func(at string) (h *halt) {
		if !w.g.until(func() bool {
			h = w.g.at(int(r), 0, at, func(who int) bool { return !requests[who] })
			return h != nil
		}) {
			w.failf("replica %d is not about to %s", r, at)
		}
		return h
	}
	h := stopped(calls[j.phase])
	var a session.Refreshed
	switch j.phase {
	case claiming:
		w.ahead[r] = w.aheadNow()
	case latching:
		if strings.HasSuffix(c.text, "can't reach the provider") {
			a = session.Refreshed{Outcome: session.OutcomeNotSent, Err: errUnreachable}
			break
		}
		w.g.let(int(r), h, a)
		if h = stopped("Send"); h == nil {
			return
		}
	case asking:
		if good := h.token == token(w.granted) && !w.dead; good != (w.m.views.of(j.view).rt == 0 && !w.s.revoked) {
			w.failf("replica %d presents token %s of %d", r, string(h.token), w.granted)
		}
		switch {
		case strings.HasSuffix(c.text, ": 503"):
			a.Outcome = session.OutcomeUnspent
		case strings.HasSuffix(c.text, ": 502"):
		case strings.HasSuffix(c.text, "lost"):
			w.grant(r)
		case strings.HasSuffix(c.text, "invalid_grant"):
			a.Outcome = session.OutcomeRejected
		default:
			a = session.Refreshed{Outcome: session.OutcomeSpent, Tokens: w.grant(r)}
		}
	case committing:
		if strings.HasSuffix(c.text, ": ok") {
			w.expires = w.issued[r]
		}
	}
	w.g.let(int(r), h, a)
	if c.to.jobs[r].phase == idling {
		w.g.renewals(int(r), false)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		if err := w.g.keepers[r].Wait(ctx); err != nil {
			w.failf("replica %d goes on", r)
		}
		cancel()
		w.g.renewals(int(r), true)
		if j.phase == releasing || j.phase == withdrawing && j.fails || strings.HasSuffix(c.text, ": looked") {
			w.failed()
		}
	}
	if c.to.revoked && !w.s.revoked {
		w.dead = true
		w.g.mu.Lock()
		if j.phase == committing && !w.g.revoked {
			w.failf("new tokens for an ended session are not handed back")
		}
		w.g.mu.Unlock()
	}
	w.enter(c)
}

// failed makes good for a failure of the provider's: nobody leaves it alone.
func (w *walk) failed() {
	w.failures++
	w.g.c.command("DEL", "w:backoff:{shop}")
	w.g.c.flush()
	w.g.mu.Lock()
	defer w.g.mu.Unlock()
	w.g.ahead += longestBackoff
}

func (w *walk) aheadNow() time.Duration {
	w.g.mu.Lock()
	defer w.g.mu.Unlock()
	return w.g.ahead
}

func (w *walk) theft() {
	cs := w.steps(func(s *state) {
		s.purse = 1 << s.jar
		w.m.watchTheft(s)
		w.m.emit(s, "a thief copies %s", s.ticket(s.jar))
	})
	w.enter(cs[0])
}

func (w *walk) logout() {
	cs := w.steps(func(s *state) {
		o := op{kind: opEnd, reason: logout}
		w.m.call(s, o, "the user logs out", func(s *state, _ store.Result) { w.m.endedBy(s, 0, o) }, nil)
	})
	done := make(chan error, 1)
	who := make(chan int, 1)
	w.g.running.Go(func() {
		who <- goroutine()
		done <- w.g.keepers[0].End(context.Background(), &w.g.apps[0], w.sid, session.ReasonLoggedOut)
	})
	me := <-who
	var h *halt
	if !w.g.until(func() bool { h = w.g.at(0, me, "End", nil); return h != nil }) {
		w.failf("a logout ends nothing")
		return
	}
	w.g.let(0, h, session.Refreshed{})
	if err := <-done; err != nil {
		w.failf("logout: %v", err)
	}
	w.enter(cs[0])
}

func (w *walk) tick() {
	c := w.steps(w.m.tick)[0]
	w.g.mu.Lock()
	w.g.offset += tick
	w.g.mu.Unlock()
	w.ticks++
	w.failures = 0
	// Nobody renews a lease.
	if r := w.m.kvs[c.to.kv]; r.leased == held {
		r.leased = lapsed
		c.to.kv = w.m.id(r)
	}
	if w.m.kvs[c.to.kv].n == 0 { // Redis has expired the key
		w.g.c.command("DEL", w.key("p"))
		w.g.c.flush()
	}
	w.enter(c)
}

func (w *walk) key(kind string) string {
	return "w:" + kind + ":{" + w.sid.String() + "}"
}

// compare checks that Redis holds the model's record.
func (w *walk) compare() {
	want := w.m.kvs[w.s.kv]
	got, found, err := w.g.plain.Read(w.t.Context(), w.sid)
	if err != nil || !found {
		w.t.Fatal(found, err)
	}
	if want.status == ended {
		if !got.Ended || got.Reason != store.EndReason(want.reason) {
			w.failf("the record is not ended for %d: %v %d", want.reason, got.Ended, got.Reason)
		}
		return
	}
	ago := func(at time.Time) int8 {
		if at.IsZero() {
			return none
		}
		return int8(min(w.ticks-int(at.Sub(w.noon)/tick), int(settleTicks)+1))
	}
	w.hash(want.uid)
	have := kv{
		status: live, gen: uint8(got.Generation), confirmed: got.Confirmed, unknowns: got.Unknowns, handed: ago(got.HandedAt),
		ahead: none, looked: min(ago(got.LookedAt), 1), token: want.token, timeOver: want.timeOver, rt: want.rt, version: want.version,
	}
	for uid := uint8(1); uid <= w.s.tickets; uid++ {
		if w.hashes[uid] == got.Hash {
			have.uid = uid
		}
	}
	if !got.LeaseUntil.IsZero() {
		have.leased = lapsed
		if got.LeaseUntil.After(time.Now().Add(w.g.clock())) {
			have.leased = held
		}
	}
	// Of attempts only what they hold can be compared.
	if got.Lease != (store.Attempt{}) {
		have.lease = 1
	}
	if got.Sending != (store.Attempt{}) {
		have.sending = 1
	}
	want.latest, want.lease, want.sending = 0, min(want.lease, 1), min(want.sending, 1)
	for i := range want.preds {
		want.preds[i].leads, want.preds[i].bound = 0, 0
	}
	w.g.c.command("GET", w.key("p"))
	p := []byte(w.g.c.flush()[0])
	for ; len(p) >= 116 && have.n < uint8(len(have.preds)); p = p[116:] {
		e := entry{gen: uint8(binary.BigEndian.Uint64(p)), until: none}
		for uid := uint8(1); uid <= w.s.tickets; uid++ {
			if w.hashes[uid] == [32]byte(p[8:40]) {
				e.uid = uid
			}
		}
		if ms := binary.BigEndian.Uint64(p[40:]); ms != 0 {
			e.until = int8(max(int(time.UnixMilli(int64(ms)).Sub(w.noon)/tick)-w.ticks, 0))
		}
		have.preds[have.n] = e
		have.n++
	}
	if have != want {
		w.failf("the record is\n%+v, want\n%+v", have, want)
	}
	// What has run out has done so for the keepers, too.
	if want.token == fresh && w.ticks >= w.expires {
		r := w.m.kvs[w.s.kv]
		r.token = out
		w.s.kv = w.m.id(r)
	}
}

var errUnreachable = errors.New("unreachable")
