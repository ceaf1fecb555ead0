package model

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session/store"
	"github.com/cloakroom/cloakroom/session/storetest"
)

// Time goes by in ticks of half a grace. Scripts run in the middle of one, so
// that it doesn't matter how many milliseconds later Redis gets to them; what
// they note is rounded down to its tick.
const (
	tick   = 30 * time.Second
	grace  = 2 * tick
	settle = 3 * grace
	day    = 24 * time.Hour

	graceTicks  = int8(grace / tick)
	settleTicks = int8(settle / tick)
)

var (
	noon = time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC) // the tick that it always is
	life = 1000 * time.Hour
	born = noon.Add(-100 * time.Hour)
	last = noon.Add(life) // a session's absolute end
	idle = 500 * time.Hour
)

// none stands for a time that is not set.
const none = int8(-1)

// entry is a predecessor. Its salt leads to a ticket, and is sealed for one
// generation of the record.
type entry struct {
	gen, uid     uint8
	until        int8 // ticks left, 0: over
	leads, bound uint8
}

// kv is what Redis holds: the two keys, in normal form. It is as good as their
// bytes: whatever else changes in them is an error of [machine.decode].
type kv struct {
	status          uint8 // absent, live, ended
	reason          uint8
	version         int8
	gen, uid        uint8
	confirmed       bool
	unknowns        uint8
	handed          int8 // ticks ago
	ahead           int8 // ticks ago
	leased          uint8
	lease           uint8 // the attempt; so are:
	sending, latest uint8
	looked          int8 // ticks ago
	timeOver        uint8
	rt              int8 // the refresh token in the box
	token           uint8
	preds           [store.MaxPredecessors]entry
	n               uint8
}

const (
	absent uint8 = iota
	live
	ended

	noLease uint8 = iota - 3
	lapsed
	held

	inTime uint8 = iota - 6
	idleOver
	absoluteOver
)

// The states of an access token.
const (
	fresh uint8 = iota
	due
	out
)

// machine runs the scripts: each on each state once, the answer is kept.
type machine struct {
	t     testing.TB
	c     *conn
	store *store.Store
	at    time.Duration // the offset
	sid   [16]byte
	keys  [2]string

	ids    map[kv]uint32
	kvs    []kv
	memo   map[call]outcome
	runs   int
	doubts map[string]bool
}

type call struct {
	on uint32
	op op
}

// outcome is what a script answered, and the state that it left.
type outcome struct {
	kv     uint32
	result store.Result
}

var (
	appID = [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	keyID = [4]byte{9, 9, 9, 9}
)

func newMachine(t testing.TB) *machine {
	server := storetest.Redis(t)
	m := &machine{
		t: t, c: dial(t, "tcp", server.Addr()),
		sid: [16]byte{0xc1}, ids: map[kv]uint32{}, memo: map[call]outcome{}, doubts: map[string]bool{},
	}
	m.store = store.New(store.Options{Address: server.Addr(), KeyPrefix: "m:", Timeout: time.Minute, Offset: func() time.Duration { return m.at }})
	t.Cleanup(func() { m.store.Close() })
	text := base64.RawURLEncoding.EncodeToString(m.sid[:])
	m.keys = [2]string{"m:s:{" + text + "}", "m:p:{" + text + "}"}
	m.id(kv{}) // 0: nothing is there
	return m
}

// id interns a state of the store.
func (m *machine) id(s kv) uint32 {
	id, ok := m.ids[s]
	if !ok {
		id = uint32(len(m.kvs))
		m.ids[s] = id
		m.kvs = append(m.kvs, s)
	}
	return id
}

// kinds of op.
const (
	opNone uint8 = iota
	opOpen
	opClaim
	opSend
	opWithdraw
	opRelease
	opLook
	opCommit
	opEnd
	opEndAttempt
)

var opNames = [...]string{"", "open", "claim", "sending", "withdraw", "release", "look", "commit", "end", "end of a rejected token"}

// op is a call of the store.
type op struct {
	kind, gen, uid uint8
	version        int8
	attempt        uint8
	change         uint8 // of a commit
	sent, handed   bool
	again          bool
	rt             int8
	pred           entry
	n              uint8
	preds          [store.MaxPredecessors]entry
	reason         uint8
	noCookie       bool // of an opening
}

const (
	advance uint8 = iota
	inPlace
	reissue
)

var changes = [...]string{store.Advance, store.InPlace, store.Reissue}

// reasons that the model ends sessions for.
const (
	reuse    uint8 = 8
	rejected uint8 = 9
	logout   uint8 = 3
)

// run returns what o does on a state of the store.
func (m *machine) run(on uint32, o op) outcome {
	c := call{on, o}
	got, ok := m.memo[c]
	if !ok {
		before := m.kvs[on]
		m.restore(before)
		result := m.call(o)
		after := m.snapshot(c)
		got = outcome{m.id(after), result}
		m.twice(c, got)
		m.memo[c] = got
	}
	return got
}

// twice runs a script again on what its first run left.
func (m *machine) twice(c call, first outcome) {
	result := m.call(c.op)
	after := m.snapshot(c)
	if id := m.id(after); id != first.kv {
		m.doubt("a second run of %s changes %+v to %+v", opNames[c.op.kind], m.kvs[first.kv], after)
	}
	want := first.result
	switch {
	case c.op.kind == opOpen && want == store.Handout:
		want = store.Superseding // the hand-out is the first one's
	case c.op.kind == opOpen && want == store.Expired:
		want = store.Ended
	case (c.op.kind == opEnd || c.op.kind == opEndAttempt) && want == store.OK:
		want = store.Ended
	case c.op.kind == opRelease && want == store.OK:
		want = store.Busy
	case c.op.kind == opLook && want == store.Withdrawn:
		want = store.Moved
	}
	if result != want {
		m.doubt("%s answers %q, then %q, not %q, on %+v", opNames[c.op.kind], first.result, result, want, m.kvs[c.on])
	}
}

// doubt notes a fault that needs no trace: the state and the script are enough.
func (m *machine) doubt(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if len(m.doubts) < 10 && !m.doubts[text] {
		m.doubts[text] = true
		m.t.Error(text)
	}
}

// now sets the offset so that a script that runs at once runs in mid-tick.
func (m *machine) now() { m.at = time.Until(noon) + tick/2 }

func (m *machine) call(o op) store.Result {
	m.now()
	m.runs++
	ctx := m.t.Context()
	version := uint64(1000 + int(o.version))
	var a store.Answer
	var err error
	switch o.kind {
	case opOpen:
		a, err = m.store.Open(ctx, m.sid, store.Presented{
			App: appID, KnownKeys: [][4]byte{keyID}, Generation: uint64(o.gen), Hash: hash(o.uid),
			IdleTimeout: idle, Grace: grace, Settle: settle, Interval: idle / 10, Activity: true, Cookie: !o.noCookie,
		})
	case opClaim:
		a, err = m.store.Claim(ctx, m.sid, version, attempt(o.attempt), tick)
	case opSend:
		a, err = m.store.Send(ctx, m.sid, version, attempt(o.attempt), tick)
	case opWithdraw:
		a, err = m.store.Withdraw(ctx, m.sid, version, attempt(o.attempt))
	case opRelease:
		a, err = m.store.Release(ctx, m.sid, version, attempt(o.attempt))
	case opLook:
		a, err = m.store.Look(ctx, m.sid, version, tick, 1)
	case opCommit:
		c := store.Change{
			Kind: changes[o.change], Version: version, Attempt: attempt(o.attempt), Sent: o.sent, Key: keyID, Body: box(o.rt, fresh), Again: o.again,
			Generation: uint64(o.gen), Hash: hash(o.uid), Handed: o.handed, Settle: settle, Predecessor: o.pred.store(),
		}
		for _, p := range o.preds[:o.n] {
			c.Predecessors = append(c.Predecessors, p.store())
		}
		a, err = m.store.Commit(ctx, m.sid, c)
	case opEnd:
		a, err = m.store.End(ctx, m.sid, appID, store.EndReason(o.reason), store.Lock{})
	case opEndAttempt:
		a, err = m.store.EndAttempt(ctx, m.sid, appID, store.EndReason(o.reason), version, attempt(o.attempt))
	}
	if err != nil {
		m.t.Fatalf("%s: %v", opNames[o.kind], err)
	}
	return a.Result
}

func hash(uid uint8) (h [32]byte) {
	if uid != 0 {
		for i := range h {
			h[i] = uid
		}
	}
	return h
}

func attempt(id uint8) (a store.Attempt) {
	for i := range a {
		a[i] = id
	}
	return a
}

func box(rt int8, token uint8) []byte { return []byte{byte(rt + 100), token} }

func (e entry) store() store.Predecessor {
	p := store.Predecessor{Generation: uint64(e.gen), Hash: hash(e.uid), Key: keyID}
	p.Salt[0], p.Salt[63] = e.leads, e.bound
	return p
}

// ago is a time some ticks ago.
func ago(ticks int8) uint64 {
	if ticks == none {
		return 0
	}
	return uint64(noon.Add(-time.Duration(ticks) * tick).UnixMilli())
}

// The layout of docs/sessions.md.
const header = 172

// encode returns the bytes of the two keys; the second may be "".
func encode(s kv) (record, predecessors string) {
	if s.status == absent {
		return "", ""
	}
	be := binary.BigEndian
	b := make([]byte, header)
	b[0], b[1], b[2] = store.Format, s.status, s.reason
	copy(b[4:], appID[:])
	copy(b[12:], keyID[:])
	be.PutUint64(b[16:], uint64(1000+int(s.version)))
	be.PutUint64(b[24:], uint64(s.gen))
	h := hash(s.uid)
	copy(b[32:], h[:])
	if s.confirmed {
		b[64] = 1
	}
	b[65] = s.unknowns
	be.PutUint64(b[68:], ago(s.handed))
	be.PutUint64(b[76:], uint64(born.UnixMilli()))
	seen, expires := noon, last
	switch s.timeOver {
	case idleOver:
		seen = noon.Add(-idle)
	case absoluteOver:
		expires = noon
	}
	be.PutUint64(b[84:], uint64(seen.UnixMilli()))
	be.PutUint64(b[92:], uint64(expires.UnixMilli()))
	be.PutUint64(b[100:], ago(s.ahead))
	switch s.leased {
	case lapsed:
		be.PutUint64(b[108:], ago(1))
	case held:
		be.PutUint64(b[108:], ago(-2)) // none is -1
	}
	lease, sending, latest := attempt(s.lease), attempt(s.sending), attempt(s.latest)
	copy(b[116:], lease[:])
	copy(b[132:], sending[:])
	be.PutUint64(b[148:], ago(s.looked))
	copy(b[156:], latest[:])
	if s.status == live {
		b = append(b, box(s.rt, s.token)...)
	}
	var p []byte
	for _, e := range s.preds[:s.n] {
		until := uint64(0)
		if e.until != none {
			until = uint64(noon.Add(time.Duration(e.until) * tick).UnixMilli())
		}
		h := hash(e.uid)
		p = be.AppendUint64(p, uint64(e.gen))
		p = append(p, h[:]...)
		p = be.AppendUint64(p, until)
		p = append(p, keyID[:]...)
		salt := e.store().Salt
		p = append(p, salt[:]...)
	}
	return string(b), string(p)
}

// expiries are when Redis forgets the two keys.
func expiries(s kv) (record, predecessors time.Time) {
	record = last.Add(day)
	if s.timeOver == absoluteOver {
		record = noon.Add(day)
	}
	predecessors = noon
	for _, e := range s.preds[:s.n] {
		if e.until == none {
			return record, record
		}
		if t := noon.Add(time.Duration(e.until) * tick); t.After(predecessors) {
			predecessors = t
		}
	}
	return record, predecessors
}

func (m *machine) restore(s kv) {
	m.now()
	record, predecessors := encode(s)
	m.c.command("DEL", m.keys[0], m.keys[1])
	expires, until := expiries(s)
	at := func(t time.Time) string { return strconv.FormatInt(t.Add(tick/2-m.at).UnixMilli(), 10) }
	if record != "" {
		m.c.command("SET", m.keys[0], record, "PXAT", at(expires))
	}
	if predecessors != "" && until.After(noon) {
		m.c.command("SET", m.keys[1], predecessors, "PXAT", at(until))
	}
	m.c.flush()
}

// snapshot reads what c left.
func (m *machine) snapshot(c call) kv {
	m.c.command("GET", m.keys[0])
	m.c.command("PEXPIRETIME", m.keys[0])
	m.c.command("GET", m.keys[1])
	m.c.command("PEXPIRETIME", m.keys[1])
	m.c.command("DBSIZE")
	a := m.c.flush()
	s, err := decode(a[0], a[2], m.kvs[c.on], c.op)
	if err != nil {
		m.doubt("%s on %+v: %v", opNames[c.op.kind], m.kvs[c.on], err)
		return s
	}
	// Every key has a TTL, and the right one.
	expires, until := expiries(s)
	for i, want := range []time.Time{expires, until} {
		if a[2*i] == "" {
			continue
		}
		got, _ := strconv.ParseInt(a[2*i+1], 10, 64)
		if got < 0 {
			m.doubt("%s on %+v leaves a key without a TTL", opNames[c.op.kind], m.kvs[c.on])
		} else if at := time.UnixMilli(got).Add(m.at).Sub(want); at < -time.Second || at >= tick {
			m.doubt("%s on %+v leaves a key that lives %v too long", opNames[c.op.kind], m.kvs[c.on], at)
		}
	}
	if keys := strconv.Itoa(min(len(a[0]), 1) + min(len(a[2]), 1)); a[4] != keys {
		m.doubt("%s on %+v leaves %s keys", opNames[c.op.kind], m.kvs[c.on], a[4])
	}
	return s
}

// decode is encode's inverse on what o has left of before.
func decode(record, predecessors string, before kv, o op) (s kv, err error) {
	if record == "" {
		if predecessors != "" {
			return s, fmt.Errorf("predecessors without a record")
		}
		return kv{}, nil
	}
	b := []byte(record)
	if len(b) < header {
		return s, fmt.Errorf("record of %d bytes", len(b))
	}
	be := binary.BigEndian
	clock := func(at int) int8 { // in ticks ago
		v := be.Uint64(b[at:])
		if v == 0 {
			return none
		}
		return int8(noon.Sub(time.UnixMilli(floor(v))) / tick)
	}
	s = kv{
		status: b[1], reason: b[2], version: int8(int(be.Uint64(b[16:])) - 1000), gen: uint8(be.Uint64(b[24:])), uid: b[32],
		confirmed: b[64] == 1, unknowns: b[65], handed: clock(68), ahead: clock(100), lease: b[116], sending: b[132],
		looked: clock(148), latest: b[156],
	}
	if be.Uint64(b[108:]) != 0 {
		if s.leased = held; time.UnixMilli(int64(be.Uint64(b[108:]))).Before(noon) {
			s.leased = lapsed
		}
	}
	s.timeOver = before.timeOver
	if s.status == live {
		if len(b) != header+2 {
			return s, fmt.Errorf("a body of %d bytes", len(b)-header)
		}
		s.rt, s.token = int8(b[header])-100, b[header+1]
	}
	p := []byte(predecessors)
	if len(p)%116 != 0 || len(p)/116 > len(s.preds) {
		return s, fmt.Errorf("%d bytes of predecessors", len(p))
	}
	for ; len(p) > 0; p = p[116:] {
		e := entry{gen: uint8(be.Uint64(p)), uid: p[8], until: none, leads: p[52], bound: p[115]}
		if v := be.Uint64(p[40:]); v != 0 {
			e.until = int8(time.UnixMilli(floor(v)).Sub(noon) / tick)
			be.PutUint64(p[40:], uint64(floor(v)))
		}
		s.preds[s.n] = e
		s.n++
	}
	// Nothing else has changed.
	r, q := encode(s)
	for _, at := range []int{68, 84, 100, 108, 148} {
		be.PutUint64(b[at:], uint64(floor(be.Uint64(b[at:]))))
	}
	full := []byte(predecessors)
	for at := 40; at < len(full); at += 116 {
		be.PutUint64(full[at:], uint64(floor(be.Uint64(full[at:]))))
	}
	if s.leased == held && s.status == live {
		be.PutUint64(b[108:], ago(-2))
	}
	if string(b) != r || string(full) != q {
		return s, fmt.Errorf("the keys hold what the model knows nothing of:\n%x\n%x\n%x\n%x", b, r, full, q)
	}
	if s.status == ended {
		s = kv{status: ended, reason: s.reason, timeOver: s.timeOver} // no script looks at the rest
	}
	return s, nil
}

// floor rounds a time down to its tick.
func floor(ms uint64) int64 {
	if ms == 0 {
		return 0
	}
	n, t := noon.UnixMilli(), tick.Milliseconds()
	d := int64(ms) - n
	q := d / t
	if d%t < 0 {
		q--
	}
	return n + q*t
}
