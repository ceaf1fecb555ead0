package gateway

import (
	"net/http"
	"strings"
)

// guardRule says which requests a cookie may authenticate.
type guardRule uint8

const (
	// guardAPI: a route of kind api, any method; and logout by form.
	guardAPI guardRule = iota
	// guardJSON: the endpoints below /bff that a script calls. They ask for
	// X-BFF: 1 always, GET too: a header that no other origin can add without a
	// preflight, which is never granted.
	guardJSON
	// guardPage: a route of kind page. A person may follow a link to it from
	// anywhere.
	guardPage
	// guardUpgrade: a WebSocket's handshake, which CORS doesn't stop.
	guardUpgrade
)

// guard decides, before the cookie is looked at, whether the request comes from
// the app's own origin. Every signal that is present must agree, and a request
// without any is refused (Fetch Metadata; RFC 6454 §7; OAuth 2.0 for
// Browser-Based Apps §6.1.3.3). Go's http.CrossOriginProtection is not enough
// here: it lets GET and requests without a signal pass.
//
// It is a pure function of its arguments. Its error is a [problem] whose detail
// names the signal that is missing or foreign.
func guard(rule guardRule, method string, h http.Header, origin string) error {
	// A repeated header has two readings, so it counts as foreign. net/http has
	// trimmed the values; anything else is compared to the letter.
	site, origins, bff := h["Sec-Fetch-Site"], h["Origin"], h["X-Bff"]

	mine := len(bff) == 1 && bff[0] == "1"
	if len(bff) > 0 && !mine {
		return blocked("X-BFF must be sent once and be 1")
	}
	if rule == guardJSON && !mine {
		return blocked("X-BFF: 1 is missing")
	}

	sameOrigin := len(site) == 1 && site[0] == "same-origin"
	navigation := only(h, "Sec-Fetch-Mode", "navigate")
	landing := rule == guardPage && (method == http.MethodGet || method == http.MethodHead) &&
		navigation && only(h, "Sec-Fetch-Dest", "document") && len(site) <= 1
	if len(site) > 0 && !sameOrigin && !landing {
		return blocked("Sec-Fetch-Site is not same-origin")
	}

	// A form of a page with Referrer-Policy: no-referrer sends "null".
	if len(origins) == 1 && origins[0] == "null" && sameOrigin && navigation {
		origins = nil
	}
	if len(origins) > 0 && (len(origins) != 1 || origins[0] != origin) {
		return blocked("Origin is not the app's")
	}
	if rule == guardUpgrade && len(origins) == 0 {
		return blocked("Origin is missing")
	}

	if len(site) == 0 && len(origins) == 0 && !mine && !landing {
		return blocked("Sec-Fetch-Site, Origin and X-BFF are all missing")
	}
	return nil
}

// only reports whether the header was sent once, with exactly this value. The
// name must be in canonical form.
func only(h http.Header, name, value string) bool {
	v := h[name]
	return len(v) == 1 && v[0] == value
}

// background reports whether the page says that nobody is there: such a request
// doesn't count against the idle timeout.
func background(h http.Header) bool { return only(h, "X-Bff-Background", "1") }

// isNavigation reports whether the answer will be shown to a person rather than
// read by a script. Browsers without fetch metadata are told by their Accept.
func isNavigation(r *http.Request) bool {
	if mode := r.Header["Sec-Fetch-Mode"]; len(mode) > 0 {
		return only(r.Header, "Sec-Fetch-Mode", "navigate")
	}
	if len(r.Header["Sec-Fetch-Site"]) > 0 || len(r.Header["X-Bff"]) > 0 {
		return false
	}
	return r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html")
}

// crossSite reports whether another site caused this top-level navigation. The
// browser then left the Strict cookie out, even if it has one.
func crossSite(r *http.Request) bool {
	return only(r.Header, "Sec-Fetch-Site", "cross-site") && only(r.Header, "Sec-Fetch-Mode", "navigate") &&
		only(r.Header, "Sec-Fetch-Dest", "document")
}
