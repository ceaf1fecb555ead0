package faults

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// password is everybody's at the provider.
const password = "correct horse battery staple"

// Browser is one person's, with one cookie jar and any number of tabs: its
// methods may be called from any goroutine, also at the same time. Cookies are
// kept in the order in which they arrive, whoever asked for them.
type Browser struct {
	w    *World
	User string
	n    int

	entering sync.Mutex // held while a tab logs in or out

	mu      sync.Mutex // guards the rest
	cookie  string
	session *Session
	old     []shown // superseded tickets, the newest last
	refused bool    // the last answer was trouble
	// mixed: answers were lost or came late, so the jar's order says nothing of
	// the tickets' own.
	mixed bool
}

// shown is a ticket that once was the browser's.
type shown struct {
	cookie  string
	session *Session
	after   time.Duration // when a successor was first taken; 0: not yet
}

// Ask is what a browser asks for.
type Ask struct {
	Kind Kind
	// At names the replica; nil: the balancer chooses.
	At *Replica
	// Cookie is shown instead of the jar's, as Session's.
	Cookie  string
	Session *Session
	// Within closes the tab after so long; 0: Setup.Patience.
	Within time.Duration
	// Late keeps the answer's cookie back for so long, and Lost for ever.
	Late time.Duration
	Lost bool
	// Fresh asks over a connection of its own, and closes it: a machine that has
	// slept has none.
	Fresh bool
}

// path of a kind's request.
func (k Kind) path() (method, path string) {
	switch k {
	case KindPost:
		return http.MethodPost, "/api/orders"
	case KindToken, KindReplay:
		return http.MethodPost, "/bff/token"
	case KindSession:
		return http.MethodGet, "/bff/session"
	case KindLogout:
		return http.MethodPost, "/bff/logout"
	case KindEvents:
		return http.MethodGet, "/api/events"
	}
	return http.MethodGet, "/api/orders"
}

// NewBrowser opens a browser for somebody nobody else is. Any goroutine may.
func (w *World) NewBrowser() *Browser {
	w.mu.Lock()
	n := len(w.Browsers)
	b := &Browser{w: w, n: n, User: fmt.Sprintf("u%05d", n)}
	w.Browsers = append(w.Browsers, b)
	w.mu.Unlock()
	w.Provider.Enrol(gatewaytest.User{Username: b.User, Password: password})
	return b
}

// Do sends one request and writes down what comes back.
func (b *Browser) Do(a Ask) Op {
	method, path := a.Kind.path()
	b.mu.Lock()
	cookie, session := b.cookie, b.session
	b.mu.Unlock()
	if a.Cookie != "" {
		cookie, session = a.Cookie, a.Session
	}
	h := http.Header{
		"Accept": {"application/json"}, "X-Bff": {"1"},
		"Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Dest": {"empty"},
	}
	if method == http.MethodPost {
		h["Origin"] = []string{rig.Origin}
	}
	if cookie != "" {
		h["Cookie"] = []string{rig.SessionCookie + "=" + cookie}
	}
	if a.Fresh {
		h["Connection"] = []string{"close"}
	}
	op, _ := b.send(request{kind: a.Kind, at: a.At, method: method, path: path, header: h, cookie: cookie, session: session,
		within: a.Within, late: a.Late, lost: a.Lost, foreign: a.Cookie != "" && (a.Kind == KindGhost || a.Kind == KindReplay)})
	return op
}

type request struct {
	kind    Kind
	at      *Replica
	method  string
	path    string
	header  http.Header
	body    string
	cookie  string
	session *Session
	within  time.Duration
	late    time.Duration
	lost    bool
	foreign bool // not the browser's own: its jar keeps nothing of the answer
}

// answer is what a login's steps look at.
type answer struct {
	status  int
	header  http.Header
	body    []byte
	cookies []*http.Cookie // but the session's
	ticket  string
}

// pick is the balancer: one of those that are ready, or of all if none is.
func (w *World) pick(salt int64) *Replica {
	all := w.Replicas()
	ready := make([]*Replica, 0, len(all))
	for _, r := range all {
		if r.ready.Load() {
			ready = append(ready, r)
		}
	}
	if len(ready) == 0 {
		for _, r := range all {
			if r.Gateway() != nil {
				ready = append(ready, r)
			}
		}
	}
	if len(ready) == 0 {
		ready = all
	}
	return ready[int(uint64(salt)*0x9E3779B97F4A7C15>>33)%len(ready)]
}

var errCut = errors.New("the answer breaks off")

func (b *Browser) send(q request) (Op, *answer) {
	w := b.w
	op := Op{ID: w.nextOp.Add(1), Kind: q.kind, User: b.User, Sent: fingerprint(q.cookie), Start: w.now()}
	if q.session != nil {
		op.Session = q.session.ID
	}
	within := q.within
	if within == 0 {
		within = w.patience
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	q.header[opHeader] = []string{strconv.FormatInt(op.ID, 10)}

	var resp *http.Response
	var err error
	for try := int64(0); ; try++ {
		at := q.at
		if at == nil {
			at = w.pick(op.ID + try)
		}
		op.Replica = at.N
		r := &http.Request{Method: q.method, URL: &url.URL{Scheme: "http", Host: at.addr()}, Host: "app.test", Header: q.header,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
		r.URL.Path, r.URL.RawQuery, _ = strings.Cut(q.path, "?")
		if q.body != "" {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(q.body)), int64(len(q.body))
		}
		resp, err = w.client.Do(r.WithContext(ctx))
		// A balancer turns to the next one where nothing was sent.
		if err != nil && q.at == nil && errors.Is(err, syscall.ECONNREFUSED) && try < 5 && ctx.Err() == nil {
			at.ready.Store(false)
			continue
		}
		break
	}
	if err != nil {
		op.Error = network(err, q.within > 0)
		b.finish(&op, q, nil)
		return op, nil
	}
	a := &answer{status: resp.StatusCode, header: resp.Header}
	op.Status = resp.StatusCode
	op.Retry = resp.Header.Get("Retry-After") != ""
	b.cookies(&op, q, resp, a)
	if q.kind == KindEvents && resp.StatusCode == http.StatusOK {
		// A stream has no end: the first event is its answer.
		line, rerr := bufio.NewReaderSize(io.LimitReader(resp.Body, 4096), 512).ReadBytes('\n')
		a.body, err = bytes.TrimSpace(bytes.TrimPrefix(line, []byte("data: "))), rerr
		hold := time.NewTimer(time.Duration(op.ID%16) * 50 * time.Millisecond)
		defer hold.Stop()
		if err == nil {
			<-hold.C
		}
	} else {
		a.body, err = io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	}
	resp.Body.Close()
	if err != nil {
		op.Error = network(errors.Join(errCut, err), q.within > 0)
	}
	b.read(&op, a)
	if to := resp.Header.Get("Location"); to != "" {
		if u, err := url.Parse(to); err == nil {
			op.To = u.Path
		}
	}
	b.finish(&op, q, a)
	return op, a
}

// cookies keeps the cookies of an answer whose header has arrived.
func (b *Browser) cookies(op *Op, q request, resp *http.Response, a *answer) {
	for _, c := range resp.Cookies() {
		if c.Name != rig.SessionCookie {
			a.cookies = append(a.cookies, c)
			continue
		}
		if c.MaxAge < 0 || c.Value == "" {
			op.Cleared = true
			if !q.foreign && !q.lost {
				b.mu.Lock()
				b.supersede("", nil)
				b.mu.Unlock()
			}
			continue
		}
		a.ticket, op.Got = c.Value, fingerprint(c.Value)
		b.w.mu.Lock()
		b.w.tickets[c.Value] = struct{}{}
		b.w.mu.Unlock()
		if q.foreign || q.kind == KindLogin {
			continue // a login knows its own session only when it is over
		}
		if q.lost || q.late > 0 {
			b.mu.Lock()
			b.mixed = true
			b.mu.Unlock()
		}
		if q.lost {
			op.Lost = true
			continue
		}
		if q.late > 0 {
			op.Late = true
			timer := time.NewTimer(q.late)
			<-timer.C
		}
		op.Back = b.keep(c.Value, q.session)
	}
}

// keep puts a session's ticket into the jar, and reports whether a newer
// session's was there.
func (b *Browser) keep(cookie string, s *Session) (back bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	back = b.session != nil && s != nil && b.cookie != "" && b.session != s && b.session.Begun > s.Begun
	b.supersede(cookie, s)
	return back
}

// supersede replaces the jar's ticket; b.mu is held.
func (b *Browser) supersede(cookie string, s *Session) {
	if b.cookie != "" && b.cookie != cookie {
		b.old = append(b.old, shown{b.cookie, b.session, 0})
		if len(b.old) > 32 {
			b.old = b.old[16:]
		}
	}
	b.cookie, b.session = cookie, s
}

// read looks into an answer's body.
func (b *Browser) read(op *Op, a *answer) {
	for _, canary := range neverShown {
		if bytes.Contains(a.body, canary) {
			op.Leak = string(canary)
		}
	}
	switch {
	case op.Status >= 400:
		op.Code, op.Reason = field(a.body, "code"), field(a.body, "reason")
	case op.Status == http.StatusOK && (op.Kind == KindToken || op.Kind == KindReplay):
		claims := payload([]byte(field(a.body, "access_token")))
		op.Subject, op.Family = field(claims, "sub"), field(claims, "family")
		op.Partial = op.Error == "" && !bytes.HasSuffix(bytes.TrimSpace(a.body), []byte("}"))
	case op.Status == http.StatusOK && (op.Kind == KindAPI || op.Kind == KindPost || op.Kind == KindEvents || op.Kind == KindGhost):
		body, whole := bytes.CutSuffix(a.body, []byte(";end"))
		op.Partial = op.Error == "" && !whole
		if !whole { // what it was about to say is not known
			body = body[:max(bytes.LastIndexByte(body, ';'), 0)]
		}
		for part := range strings.SplitSeq(string(body), ";") {
			name, value, _ := strings.Cut(part, "=")
			switch name {
			case "sub":
				op.Subject = value
			case "family":
				op.Family = value
			case "op":
				op.Echo, _ = strconv.ParseInt(value, 10, 64)
			}
		}
	}
}

// neverShown are marks of secrets that no client sees: refresh tokens, codes,
// client secrets. (Codes travel in the URLs of a login, and nowhere else.)
var neverShown = func() (all [][]byte) {
	for _, c := range gatewaytest.Canaries() {
		if strings.HasPrefix(c, "RT") || strings.HasPrefix(c, "CS") || strings.HasPrefix(c, "CD") {
			all = append(all, []byte(c))
		}
	}
	return all
}()

// finish writes an op down, and what it says of the browser.
func (b *Browser) finish(op *Op, q request, a *answer) {
	op.End = b.w.now()
	b.mu.Lock()
	if op.Family != "" && q.session != nil && q.session.Family == "" && op.Subject == gatewaytest.SubjectOf(b.User) {
		q.session.Family = op.Family
	}
	if q.cookie != "" && q.cookie == b.cookie && accepted(op) {
		for i := range b.old {
			if o := &b.old[i]; o.session == b.session && o.after == 0 {
				o.after = op.End
			}
		}
	}
	if !q.foreign && q.session != nil && q.session == b.session {
		b.refused = op.Status == 0 || op.Status >= 500
	}
	// Who is told that the session is over drops it, as a page does that goes to
	// the login next.
	if !q.foreign && op.Status == http.StatusUnauthorized && op.Code == "login_required" && b.session == q.session && b.cookie == q.cookie {
		b.supersede("", nil)
	}
	b.mu.Unlock()
	b.w.note(*op)
}

// network names what the network did.
func network(err error, impatient bool) string {
	var timeout net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded) && impatient, errors.Is(err, context.Canceled):
		return "aborted"
	case errors.Is(err, errCut):
		return "cut"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return "reset"
}

// In reports whether the browser has a session's cookie.
func (b *Browser) In() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cookie != ""
}

// Session is the session whose ticket the browser holds, nil if none.
func (b *Browser) Session() *Session {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.session
}

// Ticket is the jar's cookie and its session.
func (b *Browser) Ticket() (string, *Session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cookie, b.session
}

// begin opens a session's entry in the history.
func (b *Browser) begin() *Session {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	s := &Session{ID: fmt.Sprintf("%s.%d", b.User, len(b.w.sessions)), User: b.User, Begun: b.w.now()}
	b.w.sessions = append(b.w.sessions, s)
	return s
}

// ending notes that somebody sets out to end a session; the returned function
// notes that it was acknowledged.
func (w *World) ending(s *Session, why string) (acknowledged func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.Ending == 0 {
		s.Ending, s.Why = w.now(), why
	}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if s.Ended == 0 {
			s.Ended = w.now()
		}
	}
}

// Enter logs in with one request, by password.
func (b *Browser) Enter() error {
	b.entering.Lock()
	defer b.entering.Unlock()
	h := http.Header{
		"Accept": {"application/json"}, "X-Bff": {"1"}, "Content-Type": {"application/json"}, "Origin": {rig.Origin},
		"Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Dest": {"empty"},
		"X-Forwarded-For": {fmt.Sprintf("10.%d.%d.%d", b.n/62500, b.n/250%250, b.n%250+1)},
	}
	b.replacing()
	op, a := b.send(request{kind: KindLogin, method: http.MethodPost, path: "/bff/login", header: h,
		body: fmt.Sprintf(`{"username":%q,"password":%q}`, b.User, password)})
	if a == nil || a.ticket == "" {
		return fmt.Errorf("login as %s: %s", b.User, &op)
	}
	b.arrive(a.ticket)
	return nil
}

// replacing notes that a login sets out to replace the jar's session.
func (b *Browser) replacing() {
	if _, s := b.Ticket(); s != nil {
		b.w.ending(s, "login")
	}
}

// arrive keeps a login's ticket, and asks what the session is called.
func (b *Browser) arrive(ticket string) {
	s := b.begin()
	b.mu.Lock()
	b.supersede(ticket, s)
	b.mu.Unlock()
	b.learn(s)
}

// learn asks for the sid of a session, which the audit lines name.
func (b *Browser) learn(s *Session) {
	cookie, session := b.Ticket()
	if session != s {
		return
	}
	h := http.Header{"X-Bff": {"1"}, "Sec-Fetch-Site": {"same-origin"}, "Cookie": {rig.SessionCookie + "=" + cookie}}
	if op, a := b.send(request{kind: KindSession, method: http.MethodGet, path: "/bff/session", header: h, cookie: cookie, session: s}); a != nil && op.Status == http.StatusOK {
		b.w.mu.Lock()
		s.SID = field(a.body, "sid")
		b.w.mu.Unlock()
	}
}

var refresh = regexp.MustCompile(`(?is)<meta[^>]+http-equiv="?refresh"?[^>]+content="\d+;\s*url=([^"]+)"`)

// LogIn logs in as browsers do: to the provider, back with a code, and over the
// small page to the landing. Its error is trouble on the way.
func (b *Browser) LogIn() error {
	b.entering.Lock()
	defer b.entering.Unlock()
	w := b.w
	navigate := func(site string, jar map[string]string) http.Header {
		h := http.Header{"Accept": {"text/html"}, "Sec-Fetch-Site": {site}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}}
		var pairs []string
		for name, value := range jar {
			pairs = append(pairs, name+"="+value)
		}
		// Strict: only a navigation within the site carries it.
		if cookie, _ := b.Ticket(); cookie != "" && site == "same-origin" {
			pairs = append(pairs, rig.SessionCookie+"="+cookie)
		}
		if len(pairs) > 0 {
			h["Cookie"] = []string{strings.Join(pairs, "; ")}
		}
		return h
	}
	jar := map[string]string{}
	step := func(path, site string) (Op, *answer) {
		op, a := b.send(request{kind: KindLogin, method: http.MethodGet, path: path, header: navigate(site, jar)})
		if a != nil {
			for _, c := range a.cookies {
				if c.MaxAge < 0 {
					delete(jar, c.Name)
				} else {
					jar[c.Name] = c.Value
				}
			}
		}
		return op, a
	}
	op, a := step("/bff/login?return_to=%2Flanding&login_hint="+b.User, "same-origin")
	if a == nil || a.status/100 != 3 {
		return fmt.Errorf("login as %s: %s", b.User, &op)
	}
	ctx, cancel := context.WithTimeout(context.Background(), w.patience)
	defer cancel()
	back, err := w.authorize(ctx, a.header.Get("Location"))
	if err != nil || back.Path != "/bff/callback" {
		return fmt.Errorf("login as %s: the provider leads to %v: %w", b.User, back, err)
	}
	if op, a = step(back.RequestURI(), "cross-site"); a == nil || a.status != http.StatusOK || !refresh.Match(a.body) {
		return fmt.Errorf("login as %s: %s", b.User, &op)
	}
	b.replacing()
	if op, a = step("/bff/callback", "same-origin"); a == nil || a.ticket == "" {
		return fmt.Errorf("login as %s: %s", b.User, &op)
	}
	b.arrive(a.ticket)
	return nil
}

// LogOut ends the browser's session, and shows its ticket once more afterwards,
// at each replica, as a ghost.
func (b *Browser) LogOut() {
	b.entering.Lock()
	defer b.entering.Unlock()
	cookie, s := b.Ticket()
	if s == nil {
		return
	}
	acknowledged := b.w.ending(s, "logout")
	op := b.Do(Ask{Kind: KindLogout, Cookie: cookie, Session: s})
	if op.Status != http.StatusOK {
		return
	}
	acknowledged()
	b.w.mu.Lock()
	b.w.dead = append(b.w.dead, dead{b, cookie, s})
	b.w.mu.Unlock()
	b.Do(Ask{Kind: KindGhost, Cookie: cookie, Session: s})
}

// dead is a ticket of a session that has ended.
type dead struct {
	b       *Browser
	cookie  string
	session *Session
}

// Ghost shows the ticket of a session that has ended, chosen by draw, if there
// is any.
func (w *World) Ghost(draw int) {
	w.mu.Lock()
	if len(w.dead) == 0 {
		w.mu.Unlock()
		return
	}
	d := w.dead[draw%len(w.dead)]
	w.mu.Unlock()
	d.b.Do(Ask{Kind: KindGhost, Cookie: d.cookie, Session: d.session})
}

// showGhosts shows them all, at every replica.
func (w *World) showGhosts() {
	w.Sleep(time.Second)
	w.mu.Lock()
	all := append([]dead(nil), w.dead...)
	w.mu.Unlock()
	for _, r := range w.Running() {
		for _, d := range all {
			d.b.Do(Ask{Kind: KindGhost, Cookie: d.cookie, Session: d.session, At: r})
		}
	}
}

// Socket opens a WebSocket through the gateway and reads its greeting.
func (b *Browser) Socket() Op {
	w := b.w
	cookie, s := b.Ticket()
	at := w.pick(w.nextOp.Load())
	op := Op{ID: w.nextOp.Add(1), Kind: KindSocket, User: b.User, Sent: fingerprint(cookie), Replica: at.N, Start: w.now()}
	if s != nil {
		op.Session = s.ID
	}
	q := request{kind: KindSocket, cookie: cookie, session: s}
	fail := func(err error) Op {
		op.Error = network(err, false)
		b.finish(&op, q, nil)
		return op
	}
	conn, err := net.DialTimeout("tcp", at.addr(), 5*time.Second)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(w.patience))
	fmt.Fprintf(conn, "GET /api/socket HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: %s\r\nCookie: %s=%s\r\n%s: %d\r\n\r\n", rig.Origin, rig.SessionCookie, cookie, opHeader, op.ID)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, &http.Request{Method: http.MethodGet})
	if err != nil {
		return fail(err)
	}
	a := &answer{status: resp.StatusCode, header: resp.Header}
	op.Status, op.Retry = resp.StatusCode, resp.Header.Get("Retry-After") != ""
	b.cookies(&op, q, resp, a)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		var head [2]byte
		if _, err = io.ReadFull(in, head[:]); err == nil {
			a.body = make([]byte, head[1]&0x7f)
			_, err = io.ReadFull(in, a.body)
		}
		if err != nil {
			op.Error = "cut"
		}
		if parts := strings.Split(string(a.body), ";"); len(parts) >= 3 {
			op.Subject = strings.TrimPrefix(parts[0], "sub=")
			op.Family = strings.TrimPrefix(parts[1], "family=")
			op.Echo, _ = strconv.ParseInt(strings.TrimPrefix(parts[2], "op="), 10, 64)
		}
	} else {
		a.body, _ = io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		b.read(&op, a)
	}
	b.finish(&op, q, a)
	return op
}

// accept is RFC 6455's answer to a key.
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
