package gateway

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/cloakroom/cloakroom/session"
)

// testApp is an app that needs no provider and no keeper: what is tested here
// happens before either.
func testApp(t testing.TB, name string, keys ...session.ServerKey) *app {
	t.Helper()
	if len(keys) == 0 {
		keys = []session.ServerKey{session.NewServerKey()}
	}
	ring, err := session.NewKeyring(keys...)
	if err != nil {
		t.Fatal(err)
	}
	g := New(&session.Keeper{}, Options{})
	a, err := g.prepare(App{Name: name, Origin: mustURL(t, "https://app.test"), Provider: &idp.Provider{}}, ring)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func newTicket() session.Ticket {
	return session.Ticket{SID: session.NewSID(), Generation: 3, Secret: session.Secret(session.NewServerKey())}
}

// sealed is the text of the cookie that hands tk out.
func sealed(t testing.TB, a *app, tk session.Ticket) string {
	t.Helper()
	line, err := a.ticketCookie(tk, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := http.ParseSetCookie(line)
	if err != nil {
		t.Fatal(err)
	}
	return c.Value
}

func cookieHeader(lines ...string) http.Header { return http.Header{"Cookie": lines} }

func TestTicketCookie(t *testing.T) {
	a := testApp(t, "shop")
	tk := newTicket()
	line, err := a.ticketCookie(tk, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(line) > 300 {
		t.Errorf("the cookie has %d bytes, more than 300", len(line))
	}
	for name, check := range map[string]struct{ line, want string }{
		"set":    {line, "; Path=/; HttpOnly; Secure; SameSite=Strict"},
		"delete": {a.noTicketCookie(), sessionCookie + "=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Strict"},
	} {
		if !strings.HasSuffix(check.line, check.want) {
			t.Errorf("%s: %q does not end in %q", name, check.line, check.want)
		}
		for _, never := range []string{"Domain", "Expires", "domain", "expires"} {
			if strings.Contains(check.line, never) {
				t.Errorf("%s: has %s", name, never)
			}
		}
	}
	if strings.Contains(line, "Max-Age") {
		t.Error("a session that is not remembered has a Max-Age")
	}
	if strings.Contains(line, tk.SID.String()) {
		t.Error("the cookie shows the sid")
	}
	got, err := a.ticket(cookieHeader("other=1; " + sessionCookie + "=" + sealed(t, a, tk) + "; x=y"))
	if err != nil || got != tk {
		t.Errorf("ticket = %v, %v; want %v", got, err, tk)
	}
}

// securecookie encrypts in place: a ticket must not turn into its ciphertext.
func TestCodecKeepsItsInput(t *testing.T) {
	c := testApp(t, "shop").tickets
	in := bytes.Repeat([]byte{7}, 57)
	if _, err := c.encode(sessionCookie, in); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(in, bytes.Repeat([]byte{7}, 57)) {
		t.Error("encode changed what it was given")
	}
}

// The record judges a session's age: a cookie of 1970 opens.
func TestTicketOfAnyAge(t *testing.T) {
	key := session.NewServerKey()
	a, tk := testApp(t, "shop", key), newTicket()
	raw, err := base64.URLEncoding.DecodeString(sealed(t, a, tk))
	if err != nil {
		t.Fatal(err)
	}
	parts := bytes.SplitN(raw, []byte("|"), 3) // date|value|mac, the mac over name|date|value
	ring, _ := session.NewKeyring(key)
	mac := hmac.New(sha256.New, ring.Derive("cloakroom/1 cookie", "shop", 64)[0][:32])
	old := "1|" + string(parts[1])
	io.WriteString(mac, sessionCookie+"|"+old)
	text := base64.URLEncoding.EncodeToString(mac.Sum([]byte(old + "|")))
	if got, err := a.ticket(cookieHeader(sessionCookie + "=" + text)); err != nil || got != tk {
		t.Errorf("ticket = %v, %v", got, err)
	}
}

func TestTicketUnreadable(t *testing.T) {
	key1, key2 := session.NewServerKey(), session.NewServerKey()
	a, other := testApp(t, "shop", key1), testApp(t, "bank", key1)
	good := sealed(t, a, newTicket())
	flipped := []byte(good)
	flipped[len(flipped)/2] ^= 1

	pend := &pending{id: newLoginID(), created: time.Now(), returnTo: "/", tx: idp.NewTransaction()}
	line, err := a.loginLine(pend)
	if err != nil {
		t.Fatal(err)
	}
	login, _ := http.ParseSetCookie(line)

	pair := sessionCookie + "=" + good
	for _, test := range []struct {
		name string
		h    http.Header
		want error
	}{
		{"none", http.Header{}, errNoTicket},
		{"another name", cookieHeader("x" + pair), errNoTicket},
		{"in another case", cookieHeader(strings.ToLower(pair)), errNoTicket},
		{"no value", cookieHeader(sessionCookie + "="), errBadTicket},
		{"no equals sign", cookieHeader(sessionCookie), errNoTicket},
		{"junk", cookieHeader(sessionCookie + "=!!!"), errBadTicket},
		{"one bit flipped", cookieHeader(sessionCookie + "=" + string(flipped)), errBadTicket},
		{"cut short", cookieHeader(pair[:len(pair)-8]), errBadTicket},
		{"quoted", cookieHeader(sessionCookie + `="` + good + `"`), errBadTicket},
		{"D-04 4 KiB", cookieHeader(pair + strings.Repeat("A", 4<<10)), errBadTicket},
		{"D-04 1 MiB", cookieHeader(pair + strings.Repeat("A", 1<<20)), errBadTicket},
		{"D-06 a key that is gone", cookieHeader(sessionCookie + "=" + sealed(t, testApp(t, "shop", key2), newTicket())), errBadTicket},
		{"D-08 a login's cookie", cookieHeader(sessionCookie + "=" + login.Value), errBadTicket},
		{"another app's", cookieHeader(sessionCookie + "=" + sealed(t, other, newTicket())), errBadTicket},
		{"C-04 twice in one line, foreign first", cookieHeader(sessionCookie + "=foreign; " + pair), errBadTicket},
		{"C-04 twice in one line, foreign last", cookieHeader(pair + "; " + sessionCookie + "=foreign"), errBadTicket},
		{"C-04 twice, two good ones", cookieHeader(pair + "; " + sessionCookie + "=" + sealed(t, a, newTicket())), errBadTicket},
		{"C-04 the same twice", cookieHeader(pair + "; " + pair), errBadTicket},
		{"C-04 in two lines", cookieHeader(pair, sessionCookie+"=foreign"), errBadTicket},
		{"D-10 redis glob", cookieHeader(sessionCookie + "=*"), errBadTicket},
		{"D-10 another slot", cookieHeader(sessionCookie + "={other}:s:1"), errBadTicket},
	} {
		t.Run(test.name, func(t *testing.T) {
			tk, err := a.ticket(test.h)
			if !errors.Is(err, test.want) || tk != (session.Ticket{}) {
				t.Errorf("ticket = %v, %v; want %v", tk, err, test.want)
			}
			p := explain(context.Background(), err)
			if p.code != codeLoginRequired || p.reason != reasonNoSession {
				t.Errorf("answered as %v (%v)", p.code, p.reason)
			}
		})
	}
}

// C-07: net/http returns no cookies at all when there are more than 3000. The
// ticket must not vanish among them.
func TestTicketAmongThousands(t *testing.T) {
	a := testApp(t, "shop")
	tk := newTicket()
	many := strings.Repeat("a=b; ", 3001)
	got, err := a.ticket(cookieHeader(many + sessionCookie + "=" + sealed(t, a, tk)))
	if err != nil || got != tk {
		t.Errorf("ticket = %v, %v", got, err)
	}
}

// D-06: a new key is appended, moved to the front, and the old one removed.
func TestCookieKeyRotation(t *testing.T) {
	key1, key2 := session.NewServerKey(), session.NewServerKey()
	one, both, swapped, two := testApp(t, "shop", key1), testApp(t, "shop", key1, key2), testApp(t, "shop", key2, key1), testApp(t, "shop", key2)
	tk := newTicket()
	for _, test := range []struct {
		name             string
		written, read    *app
		readable, byTwoT bool
	}{
		{"appended: the old one writes", both, one, true, false},
		{"appended: old cookies are read", one, both, true, false},
		{"moved to the front: old cookies are read", one, swapped, true, false},
		{"moved to the front: the new one writes", swapped, two, true, true},
		{"moved to the front: others still read it", swapped, both, true, false},
		{"removed: old cookies are unreadable", one, two, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.read.ticket(cookieHeader(sessionCookie + "=" + sealed(t, test.written, tk)))
			if (err == nil && got == tk) != test.readable {
				t.Errorf("ticket = %v, %v", got, err)
			}
		})
	}
}

func TestOwnCookie(t *testing.T) {
	for name, want := range map[string]bool{
		sessionCookie:                        true,
		loginCookie + "abc":                  true,
		logoutCookie:                         true,
		landedCookie:                         true,
		"__Host-cloakroom-device":            true,
		"__host-HTTP-Cloakroom":              true,
		"cloakroom":                          true,
		"cloakroom-login-x":                  true,
		"cloakrooms":                         false,
		"my-cloakroom":                       false,
		"__Host-session":                     false,
		"theme":                              false,
		"":                                   false,
		"__Host-Http-cloakroomish":           false,
		"__Secure-cloakroom-login-AAAAAAAAA": true,
	} {
		if got := OwnCookie(name); got != want {
			t.Errorf("OwnCookie(%q) = %v", name, got)
		}
	}
}

func FuzzTicketCookie(f *testing.F) {
	a := testApp(f, "shop")
	tk := newTicket()
	good := sealed(f, a, tk)
	f.Add(sessionCookie + "=" + good)
	f.Add(sessionCookie + "=" + good + "; " + sessionCookie + "=" + good)
	f.Add(sessionCookie + "=; " + sessionCookie)
	f.Add("; ;=;;" + sessionCookie + "==")
	f.Fuzz(func(t *testing.T, line string) {
		got, err := a.ticket(cookieHeader(line))
		if err != nil {
			return
		}
		// Nobody but us has the keys: what opens is what we sealed.
		if got != tk {
			t.Fatalf("a cookie that was never written opened as %v", got)
		}
		if strings.Count(line, sessionCookie+"=") < 1 {
			t.Fatal("a ticket out of nowhere")
		}
	})
}

func FuzzPending(f *testing.F) {
	p := &pending{id: newLoginID(), created: time.Unix(0, 1<<60), returnTo: "/a?b=c", previous: session.NewSID(), tx: idp.NewTransaction()}
	p.state = p.tx.State
	f.Add(p.marshal())
	p.tx.SetMaxAge("60")
	f.Add(p.marshal())
	p.parked, p.ticket = true, newTicket()
	f.Add(p.marshal())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := unmarshalPending("id", b)
		if ok && !bytes.Equal(p.marshal(), b) {
			t.Fatalf("read %x, wrote %x", b, p.marshal())
		}
	})
}

func TestPendingRoundTrip(t *testing.T) {
	a := testApp(t, "shop")
	now := time.Now()
	p := &pending{id: newLoginID(), created: now, returnTo: "/" + strings.Repeat("x", maxReturnTo-1), previous: session.NewSID(), tx: idp.NewTransaction()}
	p.tx.SetMaxAge("2147483647")
	p.tx.State = p.id + p.tx.State
	p.state = p.tx.State
	for _, parked := range []bool{false, true} {
		if parked {
			p.parked, p.ticket, p.tx = true, newTicket(), idp.Transaction{}
		}
		line, err := a.loginLine(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(line) > 4096 {
			t.Errorf("the longest login cookie has %d bytes: browsers refuse it", len(line))
		}
		c, _ := http.ParseSetCookie(line)
		if c.SameSite != http.SameSiteLaxMode || !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.MaxAge != 600 {
			t.Errorf("attributes: %+v", c)
		}
		have := a.pendings(cookieHeader(c.Name+"="+c.Value), now)
		if len(have.live) != 1 {
			t.Fatalf("not read back: %+v", have)
		}
		got := *have.live[0]
		if !got.created.Equal(p.created) {
			t.Errorf("created %v, want %v", got.created, p.created)
		}
		got.created = p.created
		if got != *p {
			t.Errorf("read %+v, want %+v", got, *p)
		}
	}
}

func TestPendings(t *testing.T) {
	a := testApp(t, "shop")
	now := time.Now()
	cookie := func(age time.Duration, name string) string {
		p := &pending{id: newLoginID(), created: now.Add(-age), returnTo: "/", tx: idp.NewTransaction()}
		line, err := a.loginLine(p)
		if err != nil {
			t.Fatal(err)
		}
		c, _ := http.ParseSetCookie(line)
		if name == "" {
			name = c.Name
		}
		return name + "=" + c.Value
	}
	one := cookie(time.Minute, "")
	for _, test := range []struct {
		name       string
		line       string
		live, dead int
	}{
		{"B-05 a second before its end", cookie(loginLife-time.Second, ""), 1, 0},
		{"B-05 at its end", cookie(loginLife, ""), 0, 1},
		{"a clock that is a little ahead", cookie(-30*time.Second, ""), 1, 0},
		{"from the future", cookie(-time.Hour, ""), 0, 1},
		{"B-09 under another login's name", cookie(time.Minute, loginCookie+newLoginID()), 0, 1},
		{"twice", one + "; " + one, 0, 1},
		{"a name that is none", cookie(time.Minute, loginCookie+"short"), 0, 0},
		{"D-08 a ticket", loginCookie + newLoginID() + "=" + sealed(t, a, newTicket()), 0, 1},
		{"several", cookie(time.Minute, "") + "; " + cookie(2*time.Minute, "") + "; x=y", 2, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := a.pendings(cookieHeader(test.line), now)
			if len(got.live) != test.live || len(got.dead) != test.dead {
				t.Errorf("live %d, dead %d; want %d, %d", len(got.live), len(got.dead), test.live, test.dead)
			}
		})
	}
}
