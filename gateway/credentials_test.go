package gateway

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"testing"

	"github.com/cloakroom/cloakroom/session"
)

// What is accepted has one reading.
func FuzzParseCredentials(f *testing.F) {
	for _, s := range []string{`{"username":"a","password":"b"}`, `{"password":"b","username":"\u00e4"}`, `{}`, `[]`, `{"username":"a","username":"b"}`, `{"username":"a","password":"b"}x`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		username, password, err := parseCredentials(body)
		if err != nil {
			if username != "" || password != "" || err != errCredentials {
				t.Errorf("%q, %q, %v", username, password, err)
			}
			return
		}
		var c map[string]string
		if err := json.Unmarshal(body, &c); err != nil || len(c) != 2 || c["username"] != username || c["password"] != password {
			t.Errorf("%q: %q, %q; another parser: %v, %v", body, username, password, c, err)
		}
	})
}

func TestNetwork(t *testing.T) {
	for from, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7",
		"2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := network(netip.MustParseAddr(from)); got != want {
			t.Errorf("%s: %q, want %q", from, got, want)
		}
	}
	if got := network(netip.Addr{}); got != "" {
		t.Errorf("%q", got)
	}
}

func TestAccount(t *testing.T) {
	for _, same := range [][]string{
		{"carol", "CAROL", " carol\t", "c a r o l", "ca\u0301rol", "cárol", "ｃａｒｏｌ", "car\u200bol", "\ufeffcarol", "carol\u00ad", "car\ufe0fol", "c\u3164arol", "ⓒarol", "carol\u202e"},
		{"kiss", "\u212aiss", "ki\u017f\u017f", "kıss", "KİSS"},
		{"a@example.com", "A＠Example．com"},
		{"Ⅳ", "iv"},
	} {
		for _, name := range same {
			if account(name) != account(same[0]) {
				t.Errorf("%q is counted as %q, %q as %q", name, account(name), same[0], account(same[0]))
			}
		}
	}
	for _, name := range []string{"karol", "carol2", "carol@example.com", "саrol", "日本"} {
		if account(name) == account("carol") || account(name) == "" {
			t.Errorf("%q is counted as %q", name, account(name))
		}
	}
}

func TestLocalKeyHeader(t *testing.T) {
	good := session.LocalKey{1, 2, 3}
	text := good.Encode()
	for name, values := range map[string][]string{"none": nil, "two": {text, text}, "empty": {""}, "long": {text + "A"}, "list": {text + ", " + text}} {
		if localKey(http.Header{"X-Bff-Local-Key": values}) != nil {
			t.Errorf("%s: taken for one", name)
		}
	}
	if l := localKey(http.Header{"X-Bff-Local-Key": {text}}); l == nil || *l != good {
		t.Error("not found")
	}
}

// A login that is remembered stays so between its two steps.
func TestPendingRemember(t *testing.T) {
	for _, p := range []*pending{{remember: true}, {remember: true, parked: true, ticket: newTicket()}, {parked: true, ticket: newTicket()}} {
		got, ok := unmarshalPending("id", p.marshal())
		if !ok || got.remember != p.remember || got.parked != p.parked || got.ticket != p.ticket {
			t.Errorf("%+v: %+v, %v", p, got, ok)
		}
	}
	if _, ok := unmarshalPending("id", append([]byte{8 | 1}, (&pending{}).marshal()[1:]...)); ok {
		t.Error("an unknown kind is read")
	}
}
