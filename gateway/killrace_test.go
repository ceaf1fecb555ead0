package gateway_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/session"
)

// tap is a way to Redis that can be stopped at a script: before Redis gets it, or
// before its answer is told.
type tap struct {
	net.Listener
	mu   sync.Mutex
	held *held
	mute bool // nothing that is published comes through, and no connection breaks
}

// held is one such stop.
type held struct {
	sha     []byte
	answer  bool
	arrived chan struct{}
	open    chan struct{}
}

func newTap(t *testing.T, redis string) *tap {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{Listener: l}
	var conns sync.WaitGroup
	t.Cleanup(func() { l.Close(); conns.Wait() })
	conns.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", redis)
			if err != nil {
				client.Close()
				continue
			}
			answers, subscribed := make(chan *held, 1), &atomic.Bool{}
			conns.Go(func() { p.pipe(server, client, nil, answers, subscribed) })
			conns.Go(func() { p.pipe(client, server, answers, nil, subscribed) })
		}
	})
	return p
}

// pipe copies one direction. Commands that are stopped for their answer are told
// to the other direction.
func (p *tap) pipe(to, from net.Conn, stopped <-chan *held, stop chan<- *held, subscribed *atomic.Bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		mute := p.mute
		p.mu.Unlock()
		if stop == nil && mute && subscribed.Load() {
			continue
		}
		if stop != nil {
			if bytes.Contains(buf[:n], []byte("subscribe")) {
				subscribed.Store(true)
			}
			p.mu.Lock()
			h := p.held
			if h != nil && bytes.Contains(buf[:n], h.sha) {
				p.held = nil // the first alone
			} else {
				h = nil
			}
			p.mu.Unlock()
			if h != nil && h.answer {
				stop <- h
			} else if h != nil {
				close(h.arrived)
				<-h.open
			}
		}
		select {
		case h := <-stopped:
			close(h.arrived)
			<-h.open
		default:
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// at stops the next run of a script, or its answer.
func (p *tap) at(t *testing.T, script string, answer bool) *held {
	t.Helper()
	var text []byte
	for _, name := range []string{"prelude", script} {
		b, err := os.ReadFile("../session/store/lua/" + name + ".lua")
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, b...)
	}
	sum := sha1.Sum(text)
	h := &held{sha: []byte(hex.EncodeToString(sum[:])), answer: answer, arrived: make(chan struct{}), open: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = h
	return h
}

// gates are the moments of a refresh at which it is overtaken.
var gates = []struct {
	name string
	// revoked: new tokens come back to a session that has ended.
	revoked bool
	hold    func(t *testing.T, w *world, p *tap) (arrived <-chan struct{}, release func())
}{
	{"before the claim", false, func(t *testing.T, w *world, p *tap) (<-chan struct{}, func()) {
		h := p.at(t, "claim", false)
		return h.arrived, func() { close(h.open) }
	}},
	{"before sending", false, func(t *testing.T, w *world, p *tap) (<-chan struct{}, func()) {
		h := p.at(t, "sending", false)
		return h.arrived, func() { close(h.open) }
	}},
	{"after sending, unspent at the provider", true, atProvider(gatewaytest.GateBeforeCommit)},
	{"spent at the provider", true, atProvider(gatewaytest.GateAfterCommit)},
	{"in the middle of the provider's answer", true, atProvider(gatewaytest.GateMidBody)},
	{"before the commit", true, func(t *testing.T, w *world, p *tap) (<-chan struct{}, func()) {
		h := p.at(t, "commit", false)
		return h.arrived, func() { close(h.open) }
	}},
	{"after the commit, before the answer", false, func(t *testing.T, w *world, p *tap) (<-chan struct{}, func()) {
		h := p.at(t, "commit", true)
		return h.arrived, func() { close(h.open) }
	}},
}

func atProvider(p gatewaytest.Point) func(*testing.T, *world, *tap) (<-chan struct{}, func()) {
	return func(t *testing.T, w *world, _ *tap) (<-chan struct{}, func()) {
		h := w.provider.Gate(p, gatewaytest.Refreshing)
		arrived := make(chan struct{})
		go func() {
			select {
			case <-h.Arrived():
				close(arrived)
			case <-t.Context().Done():
			}
		}()
		return arrived, h.Release
	}
}

// victim is whose session is ended, and what those have who may end it.
type victim struct {
	w     *world
	at    *replica // where it is ended
	b     *browser // the session's, as before the refresh
	user  string
	sid   session.SID
	idp   string   // its session at the provider
	other *browser // the same user's, elsewhere
}

// enders are all that end a session, by what the browser is told then.
var enders = []struct {
	name string
	// reason, or locked
	reason string
	// others of the user's sessions that live on
	left int
	edit func(*gateway.App)
	end  func(t *testing.T, v victim)
}{
	{"logout", "logged_out", 1, nil, func(t *testing.T, v victim) {
		want(t, v.b.fetch("POST", "/bff/logout"), 200)
	}},
	{"the user, one", "revoked", 1, nil, func(t *testing.T, v victim) {
		if a := v.other.fetch("DELETE", "/bff/sessions/"+v.sid.String()); a.status/100 != 2 {
			t.Error(a)
		}
	}},
	{"the user, all others", "revoked", 1, nil, func(t *testing.T, v victim) {
		if a := v.other.fetch("DELETE", "/bff/sessions"); a.status/100 != 2 {
			t.Error(a)
		}
	}},
	{"back channel, sid", "provider_logout", 1, nil, func(t *testing.T, v victim) {
		want(t, v.at.logsOut(v.w, v.w.provider.LogoutToken(gatewaytest.Logout{Client: v.w.client.ID, SessionID: v.idp})), 200)
	}},
	{"back channel, sub", "provider_logout", 0, nil, func(t *testing.T, v victim) {
		want(t, v.at.logsOut(v.w, v.w.provider.LogoutToken(gatewaytest.Logout{Client: v.w.client.ID, Subject: gatewaytest.SubjectOf(v.user)})), 200)
	}},
	{"front channel", "provider_logout", 1, nil, func(t *testing.T, v victim) {
		q := url.Values{"iss": {v.w.provider.Issuer()}, "sid": {v.idp}}
		a, err := v.w.browser(v.at).send(request{method: "GET", url: origin + "/bff/frontchannel-logout?" + q.Encode(), crossSite: true,
			header: map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}})
		if err != nil {
			t.Fatal(err)
		}
		want(t, a, 200)
	}},
	{"operator", "revoked", 1, nil, func(t *testing.T, v victim) {
		if ended, err := v.at.keeper.EndOne(t.Context(), &session.App{Name: "shop"}, v.sid, session.Ending{Reason: session.ReasonRevoked}); !ended || err != nil {
			t.Error(ended, err)
		}
	}},
	{"operator, locked", "locked", 0, nil, func(t *testing.T, v victim) {
		who := session.Whose{Issuer: v.w.provider.Issuer(), Subject: gatewaytest.SubjectOf(v.user)}
		if n, err := v.at.keeper.EndBy(t.Context(), &session.App{Name: "shop"}, who, session.Ending{Reason: session.ReasonRevoked, Lock: true}); n != 2 || err != nil {
			t.Error(n, err)
		}
	}},
	{"a new login", "replaced", 2, nil, func(t *testing.T, v victim) { v.b.login() }},
	{"session limit", "session_limit", 2, func(a *gateway.App) { a.Session.MaxPerUser = 2 }, func(t *testing.T, v victim) {
		v.w.browser(v.at).login()
	}},
	{"reuse", "reuse_detected", 1, nil, nil}, // by a ticket from before: see overtake
}

// M-08: whoever ends a session, at whatever moment of a refresh, on whichever
// replica: it is dead at the end, on both, with either ticket; and tokens that come
// back to it are revoked.
func TestM08KillBeatsRefresh(t *testing.T) {
	for _, ender := range enders {
		t.Run(ender.name, func(t *testing.T) {
			t.Parallel()
			edit := []func(*gateway.App){func(a *gateway.App) { a.Session.CacheTTL = 5 * time.Second }}
			if ender.edit != nil {
				edit = append(edit, ender.edit)
			}
			w := newWorld(t, edit...)
			there := w.listening()
			p := newTap(t, w.redis.Addr())
			w.redisAddr = p.Addr().String()
			here := w.listening()
			w.warm(here)
			for n, gate := range gates {
				for m, at := range []*replica{here, there} {
					v := victim{w: w, at: at, user: fmt.Sprintf("user-%d-%d", n, m)}
					where := []string{"the same replica", "the other replica"}[m]
					if t.Failed() {
						return // the rows share a world
					}
					overtake(t, fmt.Sprintf("%s, %s", gate.name, where), v, here, p, ender.reason, ender.left, gate.revoked, gate.hold, ender.end)
				}
			}
		})
	}
}

// warm makes Redis know all scripts, so that none is sent twice.
func (w *world) warm(r *replica) {
	b := w.browser(r)
	b.login()
	w.pass(tokenLife)
	want(w.t, b.fetch("POST", "/bff/token"), 200)
	want(w.t, b.fetch("POST", "/bff/logout"), 200)
}

func overtake(t *testing.T, row string, v victim, here *replica, p *tap, reason string, left int, revoked bool,
	hold func(*testing.T, *world, *tap) (<-chan struct{}, func()), end func(*testing.T, victim)) {
	w := v.w
	w.provider.Change(func(o *gatewaytest.Options) { o.AutoLogin = gatewaytest.As(v.user) })
	b := w.browser(here)
	b.login()
	thief := b.copy()
	thief.at = v.at
	if reason == "reuse_detected" {
		w.pass(tokenLife)
		want(t, b.fetch("POST", "/bff/token"), 200)
		want(t, b.fetch("GET", "/bff/user"), 200)
		w.pass(grace + time.Second)
		end = func(t *testing.T, v victim) { want(t, thief.fetch("GET", "/bff/user"), 401, "login_required", reason) }
	}
	v.b, v.idp = b.copy(), b.providerSID()
	v.b.at = v.at
	v.sid, _ = session.ParseSID(b.fetch("GET", "/bff/session").field("sid"))
	w.pass(time.Second) // the other is newer: the limit keeps it
	v.other = w.browser(v.at)
	v.other.login()

	w.pass(tokenLife)
	subject := gatewaytest.SubjectOf(v.user)
	arrived, release := hold(t, w, p)
	old := b.copy()
	answered := make(chan answer, 1)
	go func() {
		a, err := b.try("POST", "/bff/token")
		if err != nil {
			t.Errorf("%s: %v", row, err)
		}
		answered <- a
	}()
	select {
	case <-arrived:
	case a := <-answered:
		release()
		t.Errorf("%s: it didn't come to the gate: %v", row, a)
		return
	}
	end(t, v)
	release()
	a := <-answered
	if a.status != 200 && a.status != 401 && a.status != 403 || a.status == 200 && revoked {
		t.Errorf("%s: the refresh was answered %v", row, a)
	}
	status, code := 401, []string{"login_required", reason}
	if reason == "locked" {
		status, code = 403, []string{"account_locked"}
	}
	for _, r := range []*replica{here, v.at} {
		for _, jar := range []*browser{old, b} {
			c := jar.copy()
			c.at = r
			eventually(t, row+": it is dead", func() bool { return c.fetch("GET", "/bff/user").status == status })
			for range 3 {
				want(t, c.fetch("GET", "/bff/user"), status, code...)
				want(t, c.fetch("GET", "/api/x"), status, code...)
			}
		}
	}
	// Who ends a session without its ticket can't revoke what is sealed under it:
	// only what comes back to it can be.
	if revoked {
		eventually(t, row+": what came back is revoked", func() bool { return len(w.provider.Live(subject)) <= left+endedElsewhere(reason) })
	}
	if n := len(w.provider.Reuses()); n > 0 {
		t.Errorf("%s: %d reuses at the provider", row, n)
	}
	if t.Failed() {
		t.Logf("%s: answered %d; live %v of %v", row, a.status, w.provider.Live(subject), slices.Collect(func(yield func(string) bool) {
			for _, e := range w.provider.Ledger() {
				if e.Subject == subject && !yield(e.String()) {
					return
				}
			}
		}))
	}
	v.other.fetch("POST", "/bff/logout")
}

// endedElsewhere is how many other sessions of the user an ender has ended without
// their tickets: their refresh tokens live on at the provider.
func endedElsewhere(reason string) int {
	if reason == "locked" || reason == "provider_logout" {
		return 1
	}
	return 0
}
