package gateway

import (
	"bytes"
	"errors"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/securecookie"

	"github.com/cloakroom/cloakroom/session"
)

// The gateway's cookies. All are host-bound by their prefix: no other host and
// no plain http page can set them, and no script the session's (__Host-Http-).
const (
	sessionCookie = "__Host-Http-cloakroom"
	loginCookie   = "__Host-cloakroom-login-" // followed by the login's id
	logoutCookie  = "__Host-cloakroom-logout"
	landedCookie  = "__Host-cloakroom-landed"
)

// OwnCookie reports whether a cookie of that name belongs to the gateway: such
// a cookie goes to no upstream, and none may set it. It is wider than what the
// gateway reads: in any case, behind any prefix or none, with any ending.
func OwnCookie(name string) bool {
	name = strings.ToLower(name)
	for _, prefix := range [...]string{"__host-http-", "__http-", "__host-", "__secure-"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			name = rest
			break
		}
	}
	return name == "cloakroom" || strings.HasPrefix(name, "cloakroom-")
}

// maxTicketText is above any ticket's encoded length: 57 bytes make 192. What is
// longer is not looked at.
const maxTicketText = 256

// errNoTicket and errBadTicket are the two ways to have no ticket. They are
// answered alike; only the first may be a Strict cookie that was left out.
var (
	errNoTicket  = errors.New("no session cookie")
	errBadTicket = errors.New("unreadable session cookie")
)

// cookies yields the name and value of each cookie sent. It reads the headers
// itself: http.Request.Cookies silently returns none at all when there are more
// than 3000, which would make "anonymous" of a request that carries a ticket.
// The size of the headers bounds the work.
func cookies(h http.Header) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, line := range h["Cookie"] {
			for line != "" {
				var part string
				part, line, _ = strings.Cut(line, ";")
				name, value, ok := strings.Cut(strings.Trim(part, " \t"), "=")
				if ok && !yield(name, value) {
					return
				}
			}
		}
	}
}

// codec writes and reads one kind of cookie for one app. It tries every key and
// writes with the first. Safe for concurrent use.
type codec struct{ keys []*securecookie.SecureCookie }

// newCodec takes one 64-byte key per server key: 32 to authenticate, 32 to
// encrypt.
func newCodec(keys [][]byte, maxText int) codec {
	var c codec
	for _, k := range keys {
		sc := securecookie.New(k[:32:32], k[32:64:64])
		sc.MaxAge(0) // what the cookie holds is judged by its own times
		sc.MaxLength(maxText)
		sc.SetSerializer(plain{})
		c.keys = append(c.keys, sc)
	}
	return c
}

// encode seals value under the cookie's name.
func (c codec) encode(name string, value []byte) (string, error) {
	return c.keys[0].Encode(name, value)
}

// decode opens what encode sealed under the same name, with any of the keys.
// The text is malleable (bits that base64 ignores): nothing that a ticket is worth
// may be keyed by it.
func (c codec) decode(name, text string) ([]byte, bool) {
	for _, k := range c.keys {
		var value []byte
		if k.Decode(name, text, &value) == nil {
			return value, true
		}
	}
	return nil, false
}

// plain hands bytes through to securecookie. Unlike its NopEncoder it copies
// them, because securecookie encrypts in place.
type plain struct{}

func (plain) Serialize(src any) ([]byte, error) { return bytes.Clone(src.([]byte)), nil }

func (plain) Deserialize(src []byte, dst any) error {
	*dst.(*[]byte) = src
	return nil
}

// ticket reads the session cookie: without Redis, so that a forged one costs
// nothing but a few hashes. Two cookies of the name may be one of the user's and
// one of somebody else's, and which comes first is the sender's choice: that is
// no ticket at all.
func (a *app) ticket(h http.Header) (session.Ticket, error) {
	text, n := "", 0
	for name, value := range cookies(h) {
		if name == sessionCookie {
			text = value
			n++
		}
	}
	switch n {
	case 0:
		return session.Ticket{}, errNoTicket
	case 1:
		now := time.Now()
		if t, ok := a.known.get(text, now); ok {
			return t, nil
		}
		if b, ok := a.tickets.decode(sessionCookie, text); ok {
			var t session.Ticket
			if t.UnmarshalBinary(b) == nil {
				a.known.set(text, t, now)
				return t, nil
			}
		}
	}
	return session.Ticket{}, errBadTicket
}

// ticketCookie is the Set-Cookie line that hands t out. life is how long the
// browser shall keep it; 0: until it closes.
func (a *app) ticketCookie(t session.Ticket, life time.Duration) (string, error) {
	b, err := t.MarshalBinary()
	if err != nil {
		return "", err
	}
	text, err := a.tickets.encode(sessionCookie, b)
	if err != nil {
		return "", err
	}
	maxAge := 0
	if life > 0 {
		maxAge = max(1, int(life/time.Second))
	}
	return cookieLine(sessionCookie, text, a.sameSite, maxAge), nil
}

// noTicketCookie is the Set-Cookie line that deletes the session cookie: with
// every attribute of the real one, or a browser may keep both.
func (a *app) noTicketCookie() string {
	return cookieLine(sessionCookie, "", a.sameSite, -1)
}

// cookieLine is a Set-Cookie line with the attributes that all our cookies have.
// maxAge is in seconds; 0: until the browser closes; below 0: delete it.
func cookieLine(name, value string, sameSite http.SameSite, maxAge int) string {
	c := http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: maxAge,
		Secure: true, HttpOnly: true, SameSite: sameSite,
	}
	return c.String()
}
