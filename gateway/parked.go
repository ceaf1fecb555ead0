package gateway

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/cloakroom/cloakroom/session"
)

// A login keeps all it has to remember in a cookie of its own: first the
// transaction with the provider, then, between the callback's two steps, the new
// session's ticket. Lax, because the provider's page navigates here.

const (
	// loginLife is how long a person may take at the provider.
	loginLife = 10 * time.Minute
	// maxLogins is how many tabs may log in at once.
	maxLogins = 7
	// maxLoginText is the longest such cookie: a browser takes 4096 bytes, name
	// and attributes included.
	maxLoginText = 3800
	// loginSkew is how far ahead another replica's clock may be: what it says was
	// sealed by one of us, so little is gained by being strict.
	loginSkew = loginLife
)

// pending is a login that is under way.
type pending struct {
	id       string // the cookie's name ends with it, and state begins with it
	created  time.Time
	returnTo string
	// previous is the session whose ticket was shown when the login began.
	previous session.SID
	state    string
	// remember: the person asked to be remembered.
	remember bool

	// One of the two: parked says which.
	parked bool
	tx     idp.Transaction // nonce and verifier; its state is the one above
	ticket session.Ticket
}

// loginIDLength is the length of a login's id: 128 bits in base64url. Nobody can
// guess the name of the cookie, so nobody can put another in its place.
const loginIDLength = 22

func newLoginID() string {
	var b [16]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// kindRemember is the bit of a pending login's kind that says remember.
const kindRemember = 4

// marshal lays a pending login out: kind, created, previous, then fields with
// their lengths.
func (p *pending) marshal() []byte {
	kind := byte(1)
	if p.parked {
		kind = 2
	}
	if p.remember {
		kind |= kindRemember
	}
	b := append(make([]byte, 0, 256+len(p.returnTo)), kind)
	b = binary.BigEndian.AppendUint64(b, uint64(p.created.UnixNano()))
	b = append(b, p.previous[:]...)
	b = appendField(b, p.state)
	b = appendField(b, p.returnTo)
	if p.parked {
		t, _ := p.ticket.MarshalBinary() // has no error to give
		return appendField(b, string(t))
	}
	b = appendField(appendField(b, p.tx.Nonce), string(p.tx.Verifier))
	if p.tx.MaxAge != "" {
		b = appendField(b, p.tx.MaxAge)
	}
	return b
}

// unmarshalPending accepts only what marshal produces.
func unmarshalPending(id string, b []byte) (*pending, bool) {
	const head = 1 + 8 + 16
	if len(b) < head {
		return nil, false
	}
	kind := b[0] &^ kindRemember
	if kind != 1 && kind != 2 {
		return nil, false
	}
	p := &pending{id: id, parked: kind == 2, remember: kind != b[0], previous: session.SID(b[9:head])}
	p.created = time.Unix(0, int64(binary.BigEndian.Uint64(b[1:9])))
	fields := make([]string, 0, 5)
	for b = b[head:]; len(b) >= 2; {
		n := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; n > len(b) || len(fields) == 5 {
			return nil, false
		}
		fields = append(fields, string(b[:n]))
		b = b[n:]
	}
	switch {
	case len(b) > 0:
		return nil, false
	case p.parked && len(fields) == 3:
		if p.ticket.UnmarshalBinary([]byte(fields[2])) != nil {
			return nil, false
		}
	case !p.parked && (len(fields) == 4 || len(fields) == 5 && fields[4] != ""):
		p.tx = idp.Transaction{State: fields[0], Nonce: fields[2], Verifier: idp.Verifier(fields[3])}
		if len(fields) == 5 {
			p.tx.MaxAge = fields[4]
		}
	default:
		return nil, false
	}
	p.state, p.returnTo = fields[0], fields[1]
	return p, true
}

func appendField(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// live reports whether the login may still go on.
func (p *pending) live(now time.Time) bool {
	age := now.Sub(p.created)
	return age < loginLife && age > -loginSkew
}

// loginLine is the Set-Cookie line that keeps p.
func (a *app) loginLine(p *pending) (string, error) {
	name := loginCookie + p.id
	text, err := a.logins.encode(name, p.marshal())
	if err != nil {
		return "", err
	}
	return cookieLine(name, text, http.SameSiteLaxMode, int(loginLife/time.Second)), nil
}

// noLoginLine is the Set-Cookie line that drops the login id.
func noLoginLine(id string) string {
	return cookieLine(loginCookie+id, "", http.SameSiteLaxMode, -1)
}

// pendings are a request's login cookies.
type pendings struct {
	live []*pending // oldest first
	// dead are the ids of those that are over, came twice or can't be read.
	dead []string
}

// pendings reads the login cookies. maxLogins is what we keep; a browser that
// sends more than a few times as many isn't one.
func (a *app) pendings(h http.Header, now time.Time) pendings {
	texts := make(map[string]string)
	var out pendings
	for name, text := range cookies(h) {
		id, ok := strings.CutPrefix(name, loginCookie)
		if !ok || !validLoginID(id) {
			continue
		}
		if _, twice := texts[id]; twice {
			texts[id] = ""
			continue
		}
		if len(texts) == 4*maxLogins {
			break
		}
		texts[id] = text
	}
	for id, text := range texts {
		p, ok := a.pending(id, text)
		if ok && p.live(now) {
			out.live = append(out.live, p)
		} else {
			out.dead = append(out.dead, id)
		}
	}
	slices.SortFunc(out.live, func(p, q *pending) int {
		if c := p.created.Compare(q.created); c != 0 {
			return c
		}
		return strings.Compare(p.id, q.id) // in one order always
	})
	slices.Sort(out.dead)
	return out
}

// pending opens one login cookie.
func (a *app) pending(id, text string) (*pending, bool) {
	b, ok := a.logins.decode(loginCookie+id, text)
	if !ok {
		return nil, false
	}
	return unmarshalPending(id, b)
}

func validLoginID(id string) bool {
	if len(id) != loginIDLength {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
