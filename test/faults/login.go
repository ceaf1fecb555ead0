package faults

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/cloakroom/cloakroom/test/rig"
)

// password is everybody's at the provider.
const password = "correct horse battery staple"

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
