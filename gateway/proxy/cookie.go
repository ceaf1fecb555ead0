package proxy

import "strings"

// cookiePrefixes are the prefixes that browsers know (RFC 6265bis section
// 4.1.3 and its HttpOnly forms), longest first.
var cookiePrefixes = [...]string{"__Host-Http-", "__Http-", "__Secure-", "__Host-"}

// ownCookie reports whether a cookie called name is the gateway's, or would be
// in another case or behind another prefix: a server that folds case would
// take one for the other.
func ownCookie(own func(string) bool, name string) bool {
	if own == nil || name == "" {
		return false
	}
	return own(name) || own(baseName(name))
}

// baseName returns name in lower case and without its prefixes.
func baseName(name string) string {
	for cut := true; cut; {
		cut = false
		for _, p := range cookiePrefixes {
			if len(name) >= len(p) && strings.EqualFold(name[:len(p)], p) {
				name, cut = name[len(p):], true
			}
		}
	}
	return strings.ToLower(name)
}

// cookieName returns the name in one "name=value" of a Cookie or Set-Cookie
// header. A nameless cookie ("=a=b", or "a" alone) is sent by browsers without
// its "=", and so reads back as the name that its value starts with.
func cookieName(pair string) string {
	pair = strings.Trim(pair, " \t")
	pair = strings.TrimLeft(pair, "= \t")
	name, _, _ := strings.Cut(pair, "=")
	return strings.TrimRight(name, " \t")
}

// ownPair reports whether what stands between two semicolons is a cookie of the
// gateway's, or has one in it for a server that splits at commas (RFC 2109), takes
// quotes off, or knows other white space than browsers do.
func ownPair(own func(string) bool, part string) bool {
	if ownCookie(own, cookieName(part)) {
		return true
	}
	odd := func(c byte) bool { return c == ',' || c == '"' || c >= 0x80 }
	for start, i := 0, 0; i <= len(part); i++ {
		switch {
		case i < len(part) && !odd(part[i]):
			continue
		case i == len(part) && start == 0:
			return false // as it is with almost all
		}
		if one := part[start:i]; strings.IndexByte(one, '=') >= 0 && ownCookie(own, cookieName(one)) {
			return true
		}
		start = i + 1
	}
	return false
}

// stripCookieLine removes the gateway's cookies from a line of a Cookie header
// and leaves every other byte as it is. It is no parser that could give up
// (net/http's does at 3000 cookies), and quotes hide nothing from it, as from
// browsers: what stands after a ";" is a cookie.
func stripCookieLine(line string, own func(string) bool) string {
	var out strings.Builder // filled once something is dropped
	dropped, empty := false, true
	for start := 0; start <= len(line); {
		end := len(line)
		if i := strings.IndexByte(line[start:], ';'); i >= 0 {
			end = start + i
		}
		switch part := line[start:end]; {
		case ownPair(own, part):
			if !dropped {
				dropped = true
				out.Grow(len(line))
				out.WriteString(strings.TrimSuffix(line[:start], ";"))
			}
		case !dropped:
			empty = false
		case empty:
			part = strings.TrimLeft(part, " \t")
			out.WriteString(part)
			empty = part == ""
		default:
			out.WriteByte(';')
			out.WriteString(part)
		}
		start = end + 1
	}
	if !dropped {
		return line
	}
	return out.String()
}
