package proxy

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// ErrAmbiguous is the error for a request target that two parties could read
// as two different resources. The answer is 400; nothing may be looked up or
// forwarded. The text of a wrapping error says which rule was broken and holds
// nothing of the request.
var ErrAmbiguous = errors.New("ambiguous request target")

var (
	errForm     = ambiguous("not in origin form")
	errQuery    = ambiguous("a space, control character or # in the query")
	errRaw      = ambiguous("a space, control character, backslash, ; or # in the path")
	errEscape   = ambiguous("a bad percent escape")
	errHidden   = ambiguous("an escaped / \\ ; ? # or control character")
	errTwice    = ambiguous("an escape within an escape")
	errUTF8     = ambiguous("not UTF-8")
	errLikeness = ambiguous("a look-alike of a slash or backslash")
	errEmpty    = ambiguous("an empty segment")
	errDots     = ambiguous("a segment of dots")
)

func ambiguous(why string) error { return fmt.Errorf("%w: %s", ErrAmbiguous, why) }

// What a raw byte of a path is.
const (
	refuse   = iota // has no place in a path, or two readings
	escape          // forwarded percent-encoded, however it was written
	keep            // RFC 3986 unreserved: forwarded plain, however it was written
	reserved        // RFC 3986 sub-delims, ":" and "@": forwarded as it was written
	slash
	percent
)

var pathClass = func() (t [256]byte) {
	for c := range t {
		switch {
		case c <= ' ' || c == 0x7f:
			t[c] = refuse
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			t[c] = keep
		default:
			t[c] = escape
		}
	}
	for class, set := range map[byte]string{refuse: `\;#?`, keep: "-._~", reserved: "!$&'()*+,=:@", slash: "/", percent: "%"} {
		for i := range len(set) {
			t[set[i]] = class
		}
	}
	return t
}()

// CanonicalPath returns the one path that a request target names: the path to
// match routes with and to forward. target is the request line's, as received
// (http.Request.RequestURI), with its query.
//
// In the result every unreserved character is plain, every other one that is
// not a reserved character sent plain is percent-encoded in upper case, and
// CanonicalPath of it is itself. It starts with a slash, is valid UTF-8 once
// decoded, and path.Clean would only drop its trailing slash.
//
// The error wraps [ErrAmbiguous]: for a target that is not in origin form (RFC
// 9112 section 3.2.1; the absolute form carries a second host, and net/http
// hides the first); for an empty segment, a segment of dots, a slash or
// backslash that is escaped or looks like one, a raw backslash, a ";", a "?"
// or "#" inside the path however written, control characters, bad escapes,
// escapes of escapes, and bytes that are no UTF-8. The query may hold anything
// but spaces, control characters and "#".
//
// Encoded and plain spellings of a reserved character stay apart, since some
// upstreams tell them apart ("+" and "%2B"); [Table] and [StripPrefix] do not.
func CanonicalPath(target string) (string, error) {
	raw, query, _ := strings.Cut(target, "?")
	for i := range len(query) {
		// A "#" would end the query for some upstreams, a space the request line.
		if c := query[i]; c <= ' ' || c == 0x7f || c == '#' {
			return "", errQuery
		}
	}
	if raw == "" || raw[0] != '/' {
		return "", errForm
	}
	plain := true
	for i := range len(raw) {
		switch pathClass[raw[i]] {
		case refuse:
			return "", errRaw
		case escape, percent:
			plain = false
		}
	}
	canonical, decoded := raw, raw
	if !plain {
		var err error
		if canonical, decoded, err = normalise(raw); err != nil {
			return "", err
		}
	}
	if err := checkSegments(decoded); err != nil {
		return "", err
	}
	return canonical, nil
}

// normalise returns the canonical and the decoded form of a path that has
// something to decode or to encode, and nothing raw to refuse.
func normalise(raw string) (canonical, decoded string, err error) {
	const hex = "0123456789ABCDEF"
	out := make([]byte, 0, len(raw)+16)
	plain := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		c, class, escaped := raw[i], pathClass[raw[i]], false
		if class == percent {
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				return "", "", errEscape
			}
			c, escaped = unhex(raw[i+1])<<4|unhex(raw[i+2]), true
			class = pathClass[c]
			i += 2
		}
		plain = append(plain, c)
		switch {
		case escaped && class == refuse && c != ' ', escaped && class == slash:
			return "", "", errHidden
		case class == keep, class == slash, class == reserved && !escaped:
			out = append(out, c)
		default:
			out = append(out, '%', hex[c>>4], hex[c&15])
		}
	}
	if err := checkDecoded(plain); err != nil {
		return "", "", err
	}
	return string(out), string(plain), nil
}

// checkDecoded refuses what a second decoder, or one that folds Unicode to
// ASCII, would read otherwise.
func checkDecoded(p []byte) error {
	for i := 0; i < len(p); {
		r, n := utf8.DecodeRune(p[i:])
		if r == utf8.RuneError && n == 1 {
			return errUTF8 // overlong forms end here too
		}
		i += n
		switch {
		case r >= 0x80 && r <= 0x9f:
			return errHidden
		case r == '／', r == '＼', r == '∕', r == '⁄', r == '⧸', r == '⧵', r == '﹨', r == '∖':
			return errLikeness
		case r == '%', r == '％', r == '﹪':
			// "%25" before two hex digits, or IIS's %u0061: an upstream that
			// decodes twice would read another path than the one we match.
			if i < len(p) && p[i]|0x20 == 'u' || i+1 < len(p) && isHex(p[i]) && isHex(p[i+1]) {
				return errTwice
			}
		}
	}
	return nil
}

// checkSegments takes a decoded path that starts with a slash.
func checkSegments(p string) error {
	for rest := p[1:]; ; {
		seg, after, more := strings.Cut(rest, "/")
		if seg == "" && more {
			return errEmpty
		}
		if onlyDots(seg) {
			return errDots
		}
		if !more {
			return nil
		}
		rest = after
	}
}

// onlyDots reports a segment that is "." or ".." to somebody: to RFC 3986, to
// Windows (which drops trailing dots and spaces), or after Unicode folding.
func onlyDots(seg string) bool {
	if seg == "" || seg[0] != '.' && seg[0] != ' ' && seg[0] < utf8.RuneSelf {
		return false
	}
	dots := false
	for _, r := range seg {
		switch r {
		case '.', '．', '․', '﹒', '‥', '…':
			dots = true
		case ' ', '\u00a0', '\u3000':
		default:
			return false
		}
	}
	return dots
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

// decodePath undoes the escapes of a canonical path.
func decodePath(p string) string {
	if strings.IndexByte(p, '%') < 0 {
		return p
	}
	b := make([]byte, 0, len(p))
	for i := 0; i < len(p); i++ {
		if p[i] == '%' && i+2 < len(p) {
			b = append(b, unhex(p[i+1])<<4|unhex(p[i+2]))
			i += 2
		} else {
			b = append(b, p[i])
		}
	}
	return string(b)
}
