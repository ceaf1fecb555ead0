package proxy

import (
	"net/http"
	"net/netip"
	"strings"
)

// What a gateway needs that is asked about requests which another proxy forwards:
// it can't strip what it doesn't forward.

// FromTrusted reports whether r's very peer is one of trusted, whomever it speaks
// for.
func FromTrusted(r *http.Request, trusted []netip.Prefix) bool { return within(peer(r), trusted) }

// SameHeader reports whether there are servers to which a and b are one header:
// names that differ by case or by what stands between letters and digits.
func SameHeader(a, b string) bool {
	var x, y foldBuffer
	return len(a) == len(b) && string(foldHeader(&x, a)) == string(foldHeader(&y, b))
}

// RenamesMethod reports a header that [Proxy.Forward] takes out with
// [Call].FixedMethod.
func RenamesMethod(name string) bool {
	var buf foldBuffer
	return renames(foldHeader(&buf, name))
}

// OtherCookies is what [Proxy.Forward] passes on of a request's cookies, on one
// line. own is as [Config].OwnCookies.
func OtherCookies(h http.Header, own func(string) bool) string {
	var kept []string
	for _, line := range h["Cookie"] {
		if line = strings.Trim(stripCookieLine(line, own), " \t;"); line != "" {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "; ")
}
