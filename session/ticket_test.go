package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session/store"
)

// The vectors of docs/sessions.md: whoever changes a derivation ends every
// session that is alive.
func TestDerivations(t *testing.T) {
	var key ServerKey
	var secret Secret
	var s salt
	for i := range 32 {
		key[i], secret[i], s[i] = byte(i), byte(0x40+i), byte(0x80+i)
	}
	var sid SID
	for i := range 16 {
		sid[i] = byte(0xf0 + i)
	}
	ticket := Ticket{SID: sid, Generation: 7, Secret: secret}
	ring, err := NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	_, id := ring.first()
	app := appID("shop")
	hash := secret.Hash()
	next := succeed(key, "shop", ticket, s)
	plain, _ := ticket.MarshalBinary()
	for _, row := range []struct {
		name string
		got  []byte
		want string
	}{
		{"ticket", plain, "01f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff0000000000000007404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f"},
		{"key id", id[:], "25a34a11"},
		{"app id", app[:], "611fa3f3a11e400c"},
		{"hash", hash[:], "ca2a4fe727faaecf16ecd130a86e0885c5540c05375340445071c0657555fd42"},
		{"prk", prk(key, secret), "fc92e8d72d18e727716e91c09f407eed3785c05215b7f8ec6404df192275dd9c"},
		{"scope", scope("shop", sid, 7), "0473686f70f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff0000000000000007"},
		{"seal key", sealKey(key, "shop", ticket), "b52fab3f380bea48a9750baf1ee24f89977837c8b192e3308ffa3e82a08611be"},
		{"successor", next[:], "92ac328588534a9b08e49e76fc6399ef9045a898de34869a9262f839613adfb9"},
		{"salt key", ring.Derive(labelSalt, "shop", 32)[0], "4c03066567c638c62d604171dbd40df09a3628b383631cb29712432409c6b182"},
		{"label key", ring.Derive(labelLabel, "shop", 32)[0], "cb6ee948c0c9a8289acd18df1ef050b1a06608fc22398903e76bdeecfb34b6f6"},
		{"cookie keys", ring.Derive("cloakroom/1 cookie", "shop", 64)[0], "bcc6ab28edbc0bd4c24d1bd041a063889d5566f6f537e476d3ab380e7990e0444c8204e5dad29bf2c357fc02581a123dda0f8add006d8ca3e0e18829ebfff76b"},
		{"box data", boxData("shop", ticket, id), "010473686f70f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff000000000000000725a34a11"},
	} {
		if got := hex.EncodeToString(row.got); got != row.want {
			t.Errorf("%s:\n got %s\nwant %s", row.name, got, row.want)
		}
	}
}

func TestSecretsPrintRedacted(t *testing.T) {
	secret := newSecret()
	key := NewServerKey()
	ticket := Ticket{SID: NewSID(), Generation: 3, Secret: secret}
	tokens := Tokens{Access: "ATcanary", Refresh: "RTcanary", ID: "IDcanary"}
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	logger.Info("x", "secret", secret, "key", key, "access", tokens.Access, "refresh", tokens.Refresh, "id", tokens.ID)
	out := log.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		out += fmt.Sprintf(verb, ticket) + fmt.Sprintf(verb, key) + fmt.Sprintf(verb, tokens) + fmt.Sprintf(verb, &tokens)
	}
	for _, canary := range []string{"canary", hex.EncodeToString([]byte("canary")), hex.EncodeToString(secret[:8]), key.Encode(),
		strings.Trim(fmt.Sprint(secret[:8]), "[]"), strings.Trim(fmt.Sprint(key[:8]), "[]")} {
		if strings.Contains(out, canary) {
			t.Errorf("%q shows", canary)
		}
	}
}

func FuzzTicket(f *testing.F) {
	b, _ := Ticket{SID: NewSID(), Generation: 1 << 40, Secret: newSecret()}.MarshalBinary()
	f.Add(b)
	f.Add([]byte{})
	f.Add(make([]byte, ticketSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		var ticket Ticket
		if ticket.UnmarshalBinary(b) != nil {
			return
		}
		if again, _ := ticket.MarshalBinary(); !bytes.Equal(again, b) {
			t.Errorf("%x reads as a ticket that writes %x", b, again)
		}
	})
}

func FuzzSections(f *testing.F) {
	f.Add(sections{{1, []byte("a")}, {2, nil}, {9, bytes.Repeat([]byte("x"), 200)}}.marshal())
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSections(b)
		if err != nil {
			return
		}
		again, err := parseSections(s.marshal())
		if err != nil || len(again) != len(s) {
			t.Fatalf("%x does not survive", b)
		}
		readBox(SID{}, s)
	})
}

// Unknown sections are a newer release's: an older one keeps them when it writes.
func TestUnknownSectionsAreKept(t *testing.T) {
	ring, _ := NewKeyring(NewServerKey())
	ticket := Ticket{SID: NewSID(), Generation: 1, Secret: newSecret()}
	s := &Session{SID: ticket.SID, Generation: 1, unknown: sections{{200, []byte("newer")}}}
	body, err := parseSections(ring.pack("shop", ticket, s, sections{{201, []byte("newer too")}}, nil))
	if err != nil || body.text(201) != "newer too" {
		t.Fatal("lost outside the box", err)
	}
	key, id := ring.first()
	plain, err := unseal(sealKey(key, "shop", ticket), body.get(bodyBox), boxData("shop", ticket, id))
	if err != nil {
		t.Fatal(err)
	}
	if box, _ := parseSections(plain); box.text(200) != "newer" {
		t.Fatal("lost inside the box")
	}
}

// Two keys: what is kept of a split session's halves is a salted hash of the
// pair: hash(salt ‖ hash(ticket's secret ‖ local key)).
func TestPairIsKeptAsSaltedHash(t *testing.T) {
	ring, _ := NewKeyring(NewServerKey())
	ticket := Ticket{SID: NewSID(), Generation: 1, Secret: newSecret()}
	local := newLocalKey()
	var bodies [2]sections
	for i := range bodies {
		ring.packSplit("shop", ticket, "RTcanary", &split{local: local, open: true, confirmed: true}, &bodies[i])
		pair := bodies[i].get(bodyPair)
		inner := sha256.Sum256(append(ticket.Secret[:], local[:]...))
		outer := sha256.Sum256(append(bytes.Clone(pair[:16]), inner[:]...))
		if !bytes.Equal(pair[16:], outer[:]) {
			t.Error("not the hash of the pair")
		}
		if b := bodies[i].marshal(); bytes.Contains(b, local[:]) || bytes.Contains(b, ticket.Secret[:]) || bytes.Contains(b, []byte("canary")) {
			t.Error("a half, or the token, in clear")
		}
	}
	if bytes.Equal(bodies[0].get(bodyPair), bodies[1].get(bodyPair)) {
		t.Error("the salt repeats")
	}
}

// BenchmarkOpenBox is what a session costs that Redis has sent: keys, decryption,
// and reading.
func BenchmarkOpenBox(b *testing.B) {
	ring, _ := NewKeyring(NewServerKey())
	ticket := Ticket{SID: NewSID(), Generation: 1, Secret: newSecret()}
	now := time.Now()
	s := &Session{
		SID: ticket.SID, Generation: 1, Issuer: "https://id.example.com", Subject: "user-1", CreatedAt: now, ExpiresAt: now.Add(time.Hour),
		Claims: []byte(`{"sub":"user-1","name":"Somebody Somewhere","roles":["reader","writer"]}`),
		Tokens: Tokens{
			Access: AccessToken(strings.Repeat("a", 600)), Refresh: RefreshToken(strings.Repeat("r", 120)), ID: IDToken(strings.Repeat("i", 500)),
			TokenType: "Bearer", Scope: "openid profile email offline_access", IssuedAt: now, ExpiresAt: now.Add(time.Hour),
		},
	}
	_, id := ring.first()
	record := store.Record{Key: id, Generation: 1, Body: ring.pack("shop", ticket, s, nil, nil)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ring.unpack("shop", ticket, &record); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	key, _ := (&Keyring{keys: []ServerKey{NewServerKey()}, ids: []KeyID{{}}}).first()
	ticket, plain := Ticket{SID: NewSID(), Generation: 1, Secret: newSecret()}, make([]byte, 1500)
	b.ReportAllocs()
	for b.Loop() {
		seal(sealKey(key, "shop", ticket), plain, boxData("shop", ticket, KeyID{}))
	}
}
