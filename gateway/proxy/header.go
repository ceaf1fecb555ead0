package proxy

import (
	"encoding/binary"
	"net/http"
	"slices"
	"strings"
)

// foldBuffer is longer than any name that is known.
type foldBuffer [64]byte

// foldHeader writes name in lower case with "_" and "." as "-" to buf: servers
// of the CGI line fold them, so "X_Forwarded_For" is "X-Forwarded-For" to them.
// Of a longer name only the beginning is written.
func foldHeader(buf *foldBuffer, name string) []byte {
	n := min(len(name), len(buf))
	for i := range n {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case c == '_' || c == '.':
			c = '-'
		}
		buf[i] = c
	}
	return buf[:n]
}

// ours reports a header that only the gateway may set, whichever way it goes.
func ours(folded []byte) bool {
	switch string(folded) {
	case "authorization", "dpop", "forwarded", "x-forwarded", "x-real-ip", "x-bff":
		return true
	}
	return hasPrefix(folded, "x-forwarded-") || hasPrefix(folded, "x-bff-") ||
		hasPrefix(folded, "secure-session-") || hasPrefix(folded, "x-auth-request-")
}

// believed reports a header by which well-known proxies tell an upstream who
// the caller is or what was asked for. Upstreams that trust one of them trust
// it from any peer, and the gateway is the peer.
func believed(folded []byte) bool {
	switch string(folded) {
	case "proxy-authorization", "remote-user", "remote-groups", "remote-email", "remote-name",
		"x-remote-user", "x-remote-group", "x-webauth-user", "x-authenticated-user", "x-authenticated-userid",
		"x-original-url", "x-original-uri", "x-original-method", "x-original-host", "x-original-forwarded-for",
		"x-rewrite-url", "x-client-ip", "x-cluster-client-ip", "client-ip", "true-client-ip", "cf-connecting-ip", "fastly-client-ip",
		"x-client-cert", "client-cert", "client-cert-chain", "x-client-dn", "x-client-verify",
		"cf-access-jwt-assertion", "cf-access-authenticated-user-email", "early-data", "http2-settings", "cookie2",
		// Other spellings alone come here: these themselves are the framing's, or pass.
		"transfer-encoding", "content-length", "content-type", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest":
		return true
	}
	return hasPrefix(folded, "x-amzn-") || hasPrefix(folded, "x-ms-client-principal") ||
		hasPrefix(folded, "x-goog-authenticated-user-") || hasPrefix(folded, "x-goog-iap-") ||
		hasPrefix(folded, "x-ssl-") || hasPrefix(folded, "ssl-client-") || hasPrefix(folded, "x-envoy-") ||
		hasPrefix(folded, "x-endpoint-api-userinfo") || hasPrefix(folded, "x-vouch-")
}

func hasPrefix(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix
}

// filter says what passes.
type filter struct {
	own      func(string) bool
	identity []string // folded
}

// names reports whether a header is one of the route's identity headers.
func (f *filter) names(folded []byte) bool {
	return len(f.identity) > 0 && slices.Contains(f.identity, string(folded))
}

// response reports whether an upstream may tell a browser what a field says:
// not cookies of the gateway's, nor the end of its origin's state, another way
// to its host, or what only the gateway sets. It serves for the final header,
// informational ones and trailers.
func (f *filter) response(name, value string) bool {
	switch name {
	case "Content-Length", "Content-Type", "Date", "Cache-Control", "Content-Encoding", "Etag", "Last-Modified", "Vary", "Server", "Location":
		if len(f.identity) == 0 {
			return true
		}
	}
	var buf foldBuffer
	switch b := foldHeader(&buf, name); {
	case string(b) == "set-cookie":
		return f.setCookie(value)
	case ours(b), string(b) == "clear-site-data", string(b) == "alt-svc", f.names(b):
		return false
	}
	return true
}

// setCookie reports whether the line of a Set-Cookie header neither sets nor
// deletes a cookie of the gateway's.
func (f *filter) setCookie(line string) bool {
	pair, _, _ := strings.Cut(line, ";")
	name := cookieName(pair)
	if ownCookie(f.own, name) {
		return false
	}
	for _, p := range cookiePrefixes {
		if f.own != nil && f.own(p+baseName(name)) {
			return false
		}
	}
	return true
}

// trailer reports whether a request trailer of that name passes. An upstream
// may merge trailers into headers, so what is no header of the client's is no
// trailer of its either.
func (f *filter) trailer(name string) bool {
	var buf foldBuffer
	b := foldHeader(&buf, name)
	switch string(b) {
	case "cookie", "host", "connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding",
		"content-length", "content-type", "content-encoding", "upgrade", "expect", "traceparent", "tracestate":
		return false
	}
	return !ours(b) && !believed(b) && !f.names(b)
}

// validValue reports whether v can be a header's value (RFC 9110 section 5.5).
func validValue(v string) bool {
	const ones = 0x0101010101010101
	i := 0
	// Tokens are long: eight bytes at a time, up to those that have one to look at.
	for ; i+8 <= len(v); i += 8 {
		x := binary.LittleEndian.Uint64([]byte(v[i : i+8]))
		del := x ^ 0x7f*ones
		if ((x-' '*ones)&^x|(del-ones)&^del)&(0x80*ones) != 0 {
			break
		}
	}
	for ; i < len(v); i++ {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return v == "" || v[0] > ' ' && v[len(v)-1] > ' '
}

// NoStore makes a response one that no cache keeps, whatever the upstream
// wished: browsers' and shared caches' rules alike (RFC 9111 section 5.2.2.5;
// RFC 9213 targeted fields; the older ones of CDNs).
func NoStore(h http.Header) {
	var buf foldBuffer
	for name := range h {
		switch f := foldHeader(&buf, name); string(f) {
		case "cache-control", "expires", "pragma", "surrogate-control", "edge-control", "x-accel-expires":
			delete(h, name)
		default:
			if len(f) > len("cache-control") && string(f[len(f)-len("-cache-control"):]) == "-cache-control" {
				delete(h, name)
			}
		}
	}
	h["Cache-Control"] = []string{"no-store"}
}
