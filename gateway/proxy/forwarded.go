package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
)

// ClientAddr returns the address that r came from: the connection's peer, or,
// where that is trusted, the nearest address in X-Forwarded-For that is not.
// It is the zero Addr for a peer without one (a Unix socket), which no prefix
// makes trusted.
func ClientAddr(r *http.Request, trusted []netip.Prefix) netip.Addr {
	addr := peer(r)
	if !within(addr, trusted) {
		return addr
	}
	lines := r.Header["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		for rest, more := lines[i], true; more; {
			var hop string
			if cut := strings.LastIndexByte(rest, ','); cut >= 0 {
				rest, hop = rest[:cut], rest[cut+1:]
			} else {
				hop, more = rest, false
			}
			next, ok := parseHop(hop)
			if !ok {
				return addr // who stands behind an unreadable hop can't be told
			}
			if addr = next; !within(addr, trusted) {
				return addr
			}
		}
	}
	return addr
}

func parseHop(s string) (netip.Addr, bool) {
	s = strings.Trim(s, " \t")
	addr, err := netip.ParseAddr(s)
	if err != nil {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}, false
		}
		addr = ap.Addr()
	}
	return addr.Unmap().WithZone(""), true
}

func peer(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

func within(addr netip.Addr, prefixes []netip.Prefix) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// forwardedFor is the X-Forwarded-For to send: the peer's address, behind what
// the peer sent if it is trusted. Empty if the peer has no address.
func forwardedFor(r *http.Request, trusted []netip.Prefix) string {
	addr := peer(r)
	if !addr.IsValid() {
		return ""
	}
	if within(addr, trusted) {
		// Less the empty elements around it: they are nobody's (RFC 9110 section 5.6.1).
		if prior := strings.Trim(strings.Join(r.Header["X-Forwarded-For"], ", "), ", \t"); prior != "" {
			return prior + ", " + addr.String()
		}
	}
	return addr.String()
}

// Traceparent returns the W3C trace context of a request (Trace Context
// section 3.2): what h carries, if that is exactly one valid value, or a new
// one. A new one is marked as sampled: an upstream that follows its parent
// would otherwise record nothing.
func Traceparent(h http.Header) string {
	if v := h["Traceparent"]; len(v) == 1 && validTraceparent(v[0]) {
		return v[0]
	}
	b := newTraceparent()
	return string(b[:])
}

// Unrecorded is a [Traceparent] of the same trace that names a span of our own, which
// nobody keeps.
func Unrecorded(h http.Header) string {
	b := newTraceparent()
	if v := h["Traceparent"]; len(v) == 1 && validTraceparent(v[0]) {
		copy(b[3:35], v[0][3:35])
	}
	b[54] = '0'
	return string(b[:])
}

func newTraceparent() (b [55]byte) {
	// An id is no secret: it has to be unlike others, and not hard to guess. The
	// runtime's ChaCha8 is seeded by the system.
	var id [24]byte
	for i := 0; i < len(id); i += 8 {
		binary.NativeEndian.PutUint64(id[i:], rand.Uint64())
	}
	copy(b[:], "00-")
	hex.Encode(b[3:35], id[:16])
	b[35] = '-'
	hex.Encode(b[36:52], id[16:])
	copy(b[52:], "-01")
	return b
}

// TraceID is the trace id within a [Traceparent].
func TraceID(traceparent string) string {
	if !validTraceparent(traceparent) {
		return ""
	}
	return traceparent[3:35]
}

func validTraceparent(s string) bool {
	if len(s) < 55 || len(s) > 512 || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" {
		return false
	}
	if len(s) > 55 && (s[:2] == "00" || s[55] != '-') {
		return false
	}
	for i := range 55 {
		if c := s[i]; i != 2 && i != 35 && i != 52 && !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return strings.Trim(s[3:35], "0") != "" && strings.Trim(s[36:52], "0") != ""
}
