package session

import (
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session/store"
)

func TestCacheAnswersOneTicketOfOneApp(t *testing.T) {
	t.Parallel()
	c := newCache()
	ticket := Ticket{SID: NewSID(), Generation: 1, Secret: newSecret()}
	now := time.Now()
	c.keep(ticket.SID, &cached{app: "shop", hash: ticket.Secret.Hash(), view: &view{Session: &Session{}}, stored: now, ttl: time.Minute}, now)
	if _, ok := c.find("shop", ticket); !ok {
		t.Fatal("not kept")
	}
	if _, ok := c.find("bank", ticket); ok {
		t.Error("answers another app")
	}
	other := ticket
	other.Secret = newSecret()
	if _, ok := c.find("shop", other); ok {
		t.Error("answers another secret")
	}
}

// An event drops what is kept and forbids keeping what was asked for before it
// came, however late the answer is.
func TestEventForbidsKeepingEarlierOpenings(t *testing.T) {
	t.Parallel()
	for _, e := range []store.Event{{Generation: 2}, {Ended: true}} {
		c := newCache()
		ticket := Ticket{SID: NewSID(), Generation: 1, Secret: newSecret()}
		e.SID = ticket.SID
		sent := time.Now()
		entry := &cached{app: "shop", hash: ticket.Secret.Hash(), view: &view{Session: &Session{}}, stored: sent, ttl: time.Minute}
		c.keep(ticket.SID, entry, sent)
		c.hear(e, sent.Add(time.Millisecond))
		if _, ok := c.find("shop", ticket); ok {
			t.Fatalf("%+v: still there", e)
		}
		c.keep(ticket.SID, entry, sent)
		if _, ok := c.find("shop", ticket); ok {
			t.Fatalf("%+v: kept an opening that was sent before", e)
		}
		after := sent.Add(2 * time.Millisecond)
		c.keep(ticket.SID, entry, after)
		if _, ok := c.find("shop", ticket); !ok {
			t.Fatalf("%+v: an opening sent afterwards is not kept", e)
		}
	}
}

// A predecessor's salt is bound to the record's generation: an entry that a
// Redis writer puts back under a later record leads nowhere.
func TestSaltOfAnEarlierRecordLeadsNowhere(t *testing.T) {
	t.Parallel()
	ring, err := NewKeyring(NewServerKey())
	if err != nil {
		t.Fatal(err)
	}
	sid, s := NewSID(), newSalt()
	sealed := ring.sealSalt("shop", sid, 1, 2, s)
	if got, err := ring.unsealSalt("shop", sid, 1, 2, sealed); err != nil || got != s {
		t.Fatal("its own record:", err)
	}
	for _, row := range []struct {
		name        string
		app         string
		sid         SID
		own, record uint64
	}{
		{"a later record", "shop", sid, 1, 3},
		{"another predecessor", "shop", sid, 2, 2},
		{"another session", "shop", NewSID(), 1, 2},
		{"another app", "bank", sid, 1, 2},
	} {
		if _, err := ring.unsealSalt(row.app, row.sid, row.own, row.record, sealed); err == nil {
			t.Error(row.name)
		}
	}
	again, err := ring.resalt("shop", sid, []store.Predecessor{{Generation: 1, Salt: sealed}}, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ring.unsealSalt("shop", sid, 1, 3, again[0].Salt); err != nil || got != s {
		t.Error("sealed anew:", err)
	}
}

// What this code doesn't know stays in the box and in the record's body.
func TestUnknownSectionsSurviveAWrite(t *testing.T) {
	t.Parallel()
	ring, err := NewKeyring(NewServerKey())
	if err != nil {
		t.Fatal(err)
	}
	ticket := Ticket{SID: NewSID(), Generation: 1, Secret: newSecret()}
	s := &Session{SID: ticket.SID, Generation: 1, ExpiresAt: time.Now(), unknown: sections{{200, []byte("newer")}}}
	_, id := ring.first()
	record := store.Record{Key: id, Generation: 1, Body: ring.pack("shop", ticket, s, sections{{201, []byte("newer")}}, nil)}
	for range 2 {
		s, err = ring.unpack("shop", ticket, &record)
		if err != nil {
			t.Fatal(err)
		}
		body, err := parseSections(record.Body)
		if err != nil {
			t.Fatal(err)
		}
		if string(s.unknown.get(200)) != "newer" || string(body.get(201)) != "newer" {
			t.Fatal("lost")
		}
		record.Body = ring.pack("shop", ticket, s, body, nil)
	}
}
