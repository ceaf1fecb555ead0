package gateway

import (
	"strings"

	"github.com/cloakroom/cloakroom/gateway/proxy"
)

// maxReturnTo bounds return_to: it travels in the login's cookie, and seven of
// those have to fit into a request's headers.
const maxReturnTo = 1024

// returnPath says where a login may land: on a path of the app's own origin,
// with its query and fragment. Anything else, and anything that some browser or
// upstream could read in another way, is "/": a login is not refused for its
// target.
//
// The list is an allow-list on purpose. Deny-lists of "//", "/\" and the like
// have been bypassed by what URL parsers drop (tab, CR, LF), fold (backslash) or
// normalise (dot segments) after the check.
func returnPath(raw string) string {
	const root = "/"
	if len(raw) == 0 || len(raw) > maxReturnTo || raw[0] != '/' {
		return root
	}
	for i := range len(raw) {
		// Only printable ASCII, as location.pathname and its like give it. A
		// browser reads a backslash as a slash.
		if c := raw[i]; c <= ' ' || c >= 0x7f || c == '\\' {
			return root
		}
	}
	path := raw
	if i := strings.IndexAny(raw, "?#"); i >= 0 {
		path = raw[:i]
	}
	if strings.Contains(path, "//") || dotSegment(path) {
		return root
	}
	// The gateway would refuse to land there, so don't begin to go.
	canonical, err := proxy.CanonicalPath(path)
	if err != nil || ownPath(canonical) {
		return root
	}
	return raw
}

// dotSegment reports whether a browser would take some segment for "." or "..",
// which it does in their percent-encoded spellings too (WHATWG URL).
func dotSegment(path string) bool {
	for seg := range strings.SplitSeq(path, "/") {
		switch strings.ReplaceAll(strings.ToLower(seg), "%2e", ".") {
		case ".", "..":
			return true
		}
	}
	return false
}
