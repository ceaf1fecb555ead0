package proxy

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// FuzzRequestHeader: whatever a client calls a header, an upstream that folds
// names as CGI does sees of the trusted ones only what the gateway has set, and
// no line is anything but a line.
func FuzzRequestHeader(f *testing.F) {
	for _, name := range []string{"X-Forwarded-For", "x_forwarded_for", "X.Forwarded.User", "Authorization", "authorization", "Remote_User", "Dpop", "Connection", "X-Note", "X-Real.Ip", "Forwarded", "Transfer_Encoding", "X-User", "x_user", "X.Forwarded0"} {
		f.Add(name, "spoofed", "close")
		f.Add(name, "spoofed", "X-Forwarded-For, Authorization")
	}
	p, err := New(Config{Target: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, IdentityHeaders: []string{"X-User"}})
	if err != nil {
		f.Fatal(err)
	}
	set := map[string]string{
		"authorization": "Bearer ours", "x-forwarded-for": "192.0.2.1", "x-forwarded-host": "app.test", "x-forwarded-proto": "http", "x-user": "alice",
	}
	f.Fuzz(func(t *testing.T, name, value, connection string) {
		r := httptest.NewRequest(http.MethodGet, "http://app.test/x", nil)
		r.RemoteAddr = "192.0.2.1:1"
		if !token(name) || !validValue(value) || !validValue(connection) {
			return // net/http lets nothing else through
		}
		r.Header[http.CanonicalHeaderKey(name)] = []string{value}
		r.Header["Connection"] = append(r.Header["Connection"], connection)
		x := &exchange{proxy: p, in: r, call: Call{Path: "/x", Bearer: "ours", Headers: []Header{{Name: "X-User", Value: "alice"}}}}
		var out outgoing
		x.header(&out)
		text := string(out.lines)
		if strings.Count(text, "\n") != strings.Count(text, "\r\n") || strings.Contains(text, "\r\n\r\n") || strings.HasPrefix(text, "\r\n") {
			t.Fatalf("not lines: %q", text)
		}
		var seen []string
		for line := range strings.SplitSeq(strings.TrimSuffix(text, "\r\n"), "\r\n") {
			n, v, ok := strings.Cut(line, ": ")
			if !ok {
				t.Fatalf("not a field: %q", line)
			}
			folded := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(n))
			if want, ours := set[folded]; ours {
				if v != want || slices.Contains(seen, folded) {
					t.Fatalf("%q", text)
				}
				seen = append(seen, folded)
			} else if strings.HasPrefix(folded+"-", "x-forwarded-") || folded == "forwarded" || folded == "remote-user" || folded == "dpop" || folded == "transfer-encoding" || folded == "content-length" {
				t.Fatalf("%q passes: %q", name, line)
			}
		}
		if len(seen) != len(set) {
			t.Fatalf("only %q of the gateway's: %q", seen, text)
		}
	})
}

func token(s string) bool {
	for i := range len(s) {
		if c := s[i]; !('a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}
