package proxy

import (
	"encoding/binary"
	"net/http"
	"slices"
	"strings"

	"github.com/cloakroom/cloakroom/gateway/upstream"
)

// foldBuffer is longer than any name that is known.
type foldBuffer [64]byte

// foldHeader writes name in lower case, with "-" for all that is neither letter
// nor digit, to buf. Servers of the CGI line fold "-" and "_" together, some of
// them "." too, and some (lighttpd, Apache before 2.4) whatever may stand in a
// name: "X_Forwarded_For" and "X!Forwarded~For" are "X-Forwarded-For" to them. Of
// a longer name only the beginning is written.
func foldHeader(buf *foldBuffer, name string) []byte {
	n := min(len(name), len(buf))
	for i := range n {
		buf[i] = folded[name[i]]
	}
	return buf[:n]
}

var folded = func() (t [256]byte) {
	for c := range t {
		switch b := byte(c); {
		case 'A' <= b && b <= 'Z':
			t[c] = b | 0x20
		case 'a' <= b && b <= 'z', '0' <= b && b <= '9':
			t[c] = b
		default:
			t[c] = '-'
		}
	}
	return t
}()

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
// the caller is or what was asked for, or that a server makes something of by
// itself (Proxy, which CGI makes HTTP_PROXY of; X-Middleware-Subrequest and its
// kind, by which Next.js knows a request that it has checked). Upstreams that trust
// one of them trust it from any peer, and the gateway is the peer.
func believed(folded []byte) bool {
	switch string(folded) {
	case "proxy-authorization", "remote-user", "remote-groups", "remote-email", "remote-name",
		// Not x-auth-token, which is what clients themselves show to some.
		"x-auth-user", "x-auth-username", "x-auth-userid", "x-auth-subject", "x-auth-email", "x-auth-name", "x-auth-groups", "x-auth-roles", "x-auth-audience", "x-auth-expiresin",
		"x-verified-user", "teleport-jwt-assertion",
		"x-rewrite-url", "x-client-ip", "x-cluster-client-ip", "client-ip", "true-client-ip", "cf-connecting-ip", "cf-connecting-ipv6", "cf-pseudo-ipv4", "fastly-client-ip",
		"forwarded-for", "forwarded-for-ip", "x-forward-for", "x-vercel-forwarded-for",
		"client-cert", "client-cert-chain", "x-client-dn", "x-client-verify",
		"x-originating-ip", "x-host", "x-http-host-override", "x-http-destinationurl", "x-url-scheme", "x-scheme", "front-end-https",
		"x-userinfo", "x-id-token", "x-jwt-assertion", "x-anonymous-consumer",
		"fly-client-ip", "do-connecting-ip", "incap-client-ip", "x-sucuri-clientip", "x-nf-client-connection-ip", "x-proxyuser-ip", "proxy-client-ip", "x-azure-clientip", "x-azure-socketip", "x-azure-fdid",
		// Not x-middleware-prefetch, which is the browser's.
		"x-middleware-subrequest", "x-middleware-subrequest-id", "x-middleware-rewrite", "x-middleware-redirect", "x-middleware-next", "x-middleware-skip", "x-middleware-override-headers", "x-middleware-set-cookie",
		"x-matched-path", "proxy",
		"early-data", "http2-settings", "cookie2",
		// Other spellings alone come here: these themselves are the framing's, or pass.
		"transfer-encoding", "content-length", "content-type", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest":
		return true
	}
	for _, prefix := range believedFamilies[family(folded)] {
		if hasPrefix(folded, prefix) {
			return true
		}
	}
	return false
}

// believedFamilies are the beginnings of such names, by family.
var believedFamilies = func() (t [256][]string) {
	for _, prefix := range []string{
		"x-original-", "x-remote-", "x-webauth-", "x-amzn-", "x-ms-client-principal", "x-ms-token-", "x-goog-authenticated-user-", "x-goog-iap-", "x-appengine-",
		"x-ssl-", "x-tls-client-", "ssl-client-", "x-envoy-", "x-endpoint-api-userinfo", "x-apigateway-api-userinfo", "x-arr-", "x-vouch-", "cf-access-", "cloudfront-viewer-",
		"x-authentik-", "x-authelia-", "x-authenticated-", "x-client-cert", "x-invoke-", "x-pomerium-", "x-consumer-", "x-credential-", "x-token-user-", "x-token-subject", "oidc-", "shib-", "mellon-", "iv-", "sm-", "wl-proxy-", "l5d-", "tailscale-user-",
	} {
		f := family([]byte(prefix))
		t[f] = append(t[f], prefix)
	}
	return t
}()

// family is a letter of a folded name that few names share: the first, after "x-".
func family(folded []byte) byte {
	switch {
	case len(folded) > 2 && folded[0] == 'x' && folded[1] == '-':
		return folded[2]
	case len(folded) > 0:
		return folded[0]
	}
	return 0
}

// renames reports a header by which a client asks for another method than the
// request line's. It passes where the route is for all methods, and has no place
// where it isn't.
func renames(folded []byte) bool {
	switch string(folded) {
	case "x-http-method-override", "x-http-method", "x-method-override":
		return true
	}
	return false
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

// keepPrivate makes a response that no shared cache keeps of one to somebody who
// was known by a cookie, unless the upstream says that it is for all: public or
// s-maxage. The upstream was asked with an Authorization header, in the light of
// which nobody may share an answer that doesn't say so (RFC 9111 section 3.5).
// Who stands between the browser and the gateway has seen no such header, and a
// cookie means nothing to a cache: it would keep an answer with a mere max-age,
// or a date, for the next person. Who heeds a field of fields that is for some
// caches alone (RFC 9213) heeds nothing but that.
func keepPrivate(h http.Header, fields []upstream.Field) {
	private(h, "Cache-Control")
	for i := range fields {
		if name := fields[i].Name; strings.HasSuffix(name, "-Cache-Control") && h[name] != nil {
			private(h, name)
		}
	}
}

func private(h http.Header, name string) {
	for directive := range tokens(h[name]) {
		name, _, argument := strings.Cut(directive, "=")
		switch strings.ToLower(name) {
		case "public", "s-maxage", "no-store":
			return
		case "private":
			if !argument { // of the whole, not of some fields
				return
			}
		}
	}
	h[name] = append(h[name], "private")
}
