package gateway

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

func TestKnownTickets(t *testing.T) {
	var k knownTickets
	now, tk := time.Now(), session.Ticket{SID: session.NewSID(), Generation: 3}
	k.set("a text", tk, now)
	for _, test := range []struct {
		name, text string
		at         time.Time
		found      bool
	}{
		{"the text", "a text", now, true},
		{"another", "a texT", now, false},
		{"longer", "a text ", now, false},
		{"the end of its time", "a text", now.Add(knownLife), false},
	} {
		got, ok := k.get(test.text, test.at)
		if ok != test.found || ok && got != tk {
			t.Errorf("%s: %v, %v", test.name, got, ok)
		}
	}
}

// Secrets stay no longer than their time and the time until the next comes.
func TestKnownTicketsAreSwept(t *testing.T) {
	var k knownTickets
	now := time.Now()
	for i := range 1000 {
		k.set(strconv.Itoa(i), session.Ticket{SID: session.NewSID()}, now)
	}
	k.set("later", session.Ticket{}, now.Add(knownLife))
	left := 0
	for i := range k.places {
		if k.places[i].Load() != nil {
			left++
		}
	}
	if left != 1 {
		t.Errorf("%d places are taken, want the last one alone", left)
	}
}

// A reload makes another app: nothing is remembered over a change of keys.
func TestKnownTicketsAreAnAppsOwn(t *testing.T) {
	shop, other := testApp(t, "shop"), testApp(t, "other")
	tk := session.Ticket{SID: session.NewSID(), Generation: 1}
	h := cookieHeader(sessionCookie + "=" + sealed(t, shop, tk))
	for range 2 {
		if got, err := shop.ticket(h); err != nil || got != tk {
			t.Fatal(got, err)
		}
		if _, err := other.ticket(h); err != errBadTicket {
			t.Fatalf("another app reads it: %v", err)
		}
	}
}

// BenchmarkCookie is the first sight of a cookie; BenchmarkTicket any later one.
func BenchmarkCookie(b *testing.B) {
	a := testApp(b, "shop")
	text := sealed(b, a, newTicket())
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := a.tickets.decode(sessionCookie, text); !ok {
			b.Fatal("unreadable")
		}
	}
}

func BenchmarkGuard(b *testing.B) {
	h := http.Header{
		"Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Dest": {"empty"},
		"Origin": {"https://app.test"}, "X-Bff": {"1"},
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := guard(guardJSON, http.MethodPost, h, "https://app.test"); err != nil {
			b.Fatal(err)
		}
	}
}
