package config

import (
	"regexp"
	"slices"
	"strings"
)

// Header is a header that upstreams get, and the claim that it is made from.
type Header struct {
	Name  string
	Claim string
}

// maxHeaders bounds a route's headers from claims.
const maxHeaders = 32

var headerName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,38}[A-Za-z0-9]$`)

// reservedHeaders are the headers that HTTP, the gateway or the proxy needs for
// itself; those that end in a hyphen are all that begin so.
var reservedHeaders = []string{
	"accept", "accept-encoding", "age", "allow", "alt-svc", "authorization", "cache-control", "clear-site-data", "connection",
	"content-", "cookie", "cookie2", "date", "dpop", "early-data", "etag", "expect", "expires", "forwarded", "host", "http2-settings",
	"idempotency-key", "if-", "keep-alive", "last-modified", "location", "origin", "pragma", "proxy-", "range", "referer", "sec-",
	"secure-session-", "set-cookie", "strict-transport-security", "te", "traceparent", "tracestate", "trailer", "transfer-encoding",
	"upgrade", "user-agent", "vary", "via", "www-authenticate", "x-bff", "x-bff-", "x-forwarded", "x-forwarded-by", "x-forwarded-for",
	"x-forwarded-host", "x-forwarded-method", "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-proto", "x-forwarded-scheme",
	"x-forwarded-server", "x-forwarded-ssl", "x-forwarded-uri", "x-real-ip",
}

// headers are claims that an upstream is told of in headers.
func headers(v value, auth string) []Header {
	if !v.set() {
		return nil
	}
	o := v.object()
	switch {
	case auth == "none":
		v.problem("needs auth: required or optional")
	case !o.broken && len(o.names) == 0:
		v.problem("is empty: leave the key out to add none")
	case len(o.names) > maxHeaders:
		v.problem("holds too many: at most %d", maxHeaders)
	}
	var out []Header
	for _, name := range o.names {
		h := o.get(name)
		claim, ok := h.needed()
		lower := strings.ToLower(name)
		switch {
		case !headerName.MatchString(name):
			h.problem("is no name of a header here: at most 40 letters, digits and hyphens")
		case slices.ContainsFunc(reservedHeaders, func(r string) bool {
			return lower == r || strings.HasSuffix(r, "-") && strings.HasPrefix(lower, r)
		}):
			h.problem("is a header that can't be made from a claim")
		case slices.ContainsFunc(out, func(other Header) bool { return strings.EqualFold(other.Name, name) }):
			h.problem("is given twice: the case of a header's name makes no difference")
		case ok && len(claim) > maxName:
			h.problem("names no claim")
		case ok:
			out = append(out, Header{Name: name, Claim: claim})
		}
	}
	return out
}
