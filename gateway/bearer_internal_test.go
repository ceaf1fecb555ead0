package gateway

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// One header, one scheme, one token, nothing around them.
func FuzzBearerToken(f *testing.F) {
	for _, line := range []string{"Bearer a.b-c_d~e+f/g=", "bearer x", "Bearer  x", "Bearer x ", "Bearer", "Bearer ", "Basic x", "Bearer x,y", "Bearer x\ty", "\u212Aearer x", "Bearer é"} {
		f.Add(line, 1)
	}
	f.Fuzz(func(t *testing.T, line string, n int) {
		lines := slices.Repeat([]string{line}, max(0, min(n, 3)))
		token, ok := bearerToken(lines)
		if !ok {
			return
		}
		if len(lines) != 1 || !strings.EqualFold(line, "Bearer "+token) || token == "" || strings.ContainsAny(token, " ,\t\r\n\"") {
			t.Errorf("%q gives %q", lines, token)
		}
	})
}

// A claim matches by a text of its own or in its array, and by nothing that only
// looks like one.
func FuzzClaimHas(f *testing.F) {
	for _, claim := range []string{`"admin"`, `["a","admin"]`, `[["admin"]]`, `{"admin":1}`, `null`, ``, `"adm\u0069n"`, `[null,"admin"]`, ` "admin"`} {
		f.Add([]byte(claim))
	}
	f.Fuzz(func(t *testing.T, claim []byte) {
		if !claimHas(json.RawMessage(claim), []string{"admin"}) {
			return
		}
		var v any
		if err := json.Unmarshal(claim, &v); err != nil {
			t.Fatal(err)
		}
		list, ok := v.([]any)
		if v != "admin" && (!ok || !slices.Contains(list, any("admin"))) {
			t.Errorf("%q", claim)
		}
	})
}
