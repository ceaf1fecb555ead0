package gateway

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

func TestHeaderValue(t *testing.T) {
	for _, row := range []struct {
		name, claim, want string
		none              bool
	}{
		{"absent", ``, "", true},
		{"null", `null`, "", true},
		{"an empty array", `[]`, "", true},
		{"an empty text", `""`, "", false},
		{"text", `"alice"`, "alice", false},
		{"text with a space", `"Alice A."`, "Alice A.", false},
		{"spaces around", `" a "`, "%20a%20", false},
		{"only a space", `" "`, "%20", false},
		{"whole number", `17`, "17", false},
		{"large number", `12345678901234567890`, "12345678901234567890", false},
		{"number", `1.50`, "1.50", false},
		{"true", `true`, "true", false},
		{"array", `["admin","user"]`, "admin,user", false},
		{"array of one", `["admin"]`, "admin", false},
		{"array of all kinds", `["a",1,true,null]`, "a,1,true,null", false},
		{"a comma is no separator", `"a,admin"`, "a%2Cadmin", false},
		{"a comma in an element", `["CN=x,OU=y","z"]`, "CN=x%2COU=y,z", false},
		{"percent", `"100%"`, "100%25", false},
		{"what looks encoded", `"%2C"`, "%252C", false},
		{"CR and LF", `"a\r\nX-Admin: 1"`, "a%0D%0AX-Admin: 1", false},
		{"NUL", `"a\u0000b"`, "a%00b", false},
		{"DEL", `"a\u007f"`, "a%7F", false},
		{"UTF-8", `"J\u00fcrgen"`, "J%C3%BCrgen", false},
		{"an escape that is plain", `"\u0061dmin"`, "admin", false},
		{"object", `{"a": [1, "x"]}`, `{"a":[1%2C"x"]}`, false},
		{"array in an array", `[["a", "b"], "c"]`, `["a"%2C"b"],c`, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, ok, err := headerValue(json.RawMessage(row.claim))
			if err != nil || got != row.want || ok == row.none {
				t.Errorf("got %q, %v, %v", got, ok, err)
			}
		})
	}
}

// what doesn't fit is refused whole. What fits is whole.
func TestClaimHeadersSize(t *testing.T) {
	rt := &Route{Headers: []ClaimHeader{{"X-Groups", "groups"}, {"X-User", "sub"}}}
	claims := func(n int) map[string]json.RawMessage {
		groups := strings.TrimSuffix(strings.Repeat(`"gg",`, n), ",")
		return map[string]json.RawMessage{"groups": json.RawMessage("[" + groups + "]"), "sub": json.RawMessage(`"alice"`)}
	}
	got, err := rt.claimHeaders(claims(100))
	if err != nil || len(got) != 2 || len(got[0].Value) != 299 || got[1].Value != "alice" {
		t.Errorf("%v, %v", got, err)
	}
	for _, n := range []int{2730, 100_000} {
		got, err = rt.claimHeaders(claims(n))
		p, ok := err.(*problem)
		if got != nil || !ok || p.code != codeHeadersTooLarge || !strings.Contains(p.detail, "X-Groups") {
			t.Errorf("%d groups: %d headers, %v", n, len(got), err)
		}
	}
}

// Whatever a claim's text is, it stands in a header as it is, and comes back from
// it: no two texts look alike.
func FuzzHeaderValue(f *testing.F) {
	for _, s := range []string{"alice", "", " ", "a,b", "100%", "\r\nX: y", "ü", "\x00", "%2C"} {
		f.Add(s, "x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		a, b = strings.ToValidUTF8(a, "?"), strings.ToValidUTF8(b, "?")
		claim, err := json.Marshal([]string{a, b})
		if err != nil {
			t.Fatal(err)
		}
		got, ok, err := headerValue(claim)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		for _, c := range []byte(got) {
			if c < ' ' || c > '~' {
				t.Fatalf("%q holds %q", got, c)
			}
		}
		if strings.TrimSpace(got) != got {
			t.Fatalf("%q would be trimmed", got)
		}
		parts := strings.Split(got, ",")
		if len(parts) != 2 {
			t.Fatalf("%q has %d parts", got, len(parts))
		}
		for i, want := range []string{a, b} {
			if back, err := url.PathUnescape(parts[i]); err != nil || back != want {
				t.Fatalf("%q comes back as %q, %v", want, back, err)
			}
		}
	})
}
