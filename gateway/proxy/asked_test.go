package proxy

import (
	"net/http"
	"net/netip"
	"testing"
)

func TestFromTrusted(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	for _, row := range []struct {
		name, peer string
		want       bool
	}{
		{"inside", "10.1.2.3:4567", true},
		{"inside, mapped", "[::ffff:10.1.2.3]:4567", true},
		{"outside", "10.2.0.1:4567", false},
		{"a Unix socket", "@", false},
		{"nothing", "", false},
	} {
		r := &http.Request{RemoteAddr: row.peer, Header: http.Header{"X-Forwarded-For": {"10.1.2.3"}}}
		if got := FromTrusted(r, trusted); got != row.want {
			t.Errorf("%s: %v", row.name, got)
		}
		if FromTrusted(r, nil) {
			t.Errorf("%s: trusted by nobody's list", row.name)
		}
	}
}

func TestSameHeader(t *testing.T) {
	for _, row := range []struct {
		a, b string
		want bool
	}{
		{"X-User", "x-user", true},
		{"X_User", "X-User", true},
		{"X.User", "X-User", true},
		{"X!User", "X-User", true},
		{"X-User-", "X-User", false},
		{"XUser", "X-User", false},
		{"X-Users", "X-User", false},
	} {
		if got := SameHeader(row.a, row.b); got != row.want {
			t.Errorf("%s, %s: %v", row.a, row.b, got)
		}
	}
	if !RenamesMethod("X_HTTP-Method_Override") || RenamesMethod("X-User") {
		t.Error("RenamesMethod")
	}
}

func TestOtherCookies(t *testing.T) {
	own := func(name string) bool { return name == "cloakroom" }
	for _, row := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"none", nil, ""},
		{"ours alone", []string{"__Host-Http-cloakroom=x"}, ""},
		{"ours among others", []string{"a=1; __Host-Http-cloakroom=x; b=2"}, "a=1; b=2"},
		{"in another case", []string{"CLOAKROOM=x;b=2"}, "b=2"},
		{"on several lines", []string{"a=1", "cloakroom=x", "b=2; cloakroom=y"}, "a=1; b=2"},
		{"nothing between", []string{";;", "a=1"}, "a=1"},
	} {
		if got := OtherCookies(http.Header{"Cookie": row.lines}, own); got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}
