package gateway

import (
	"context"
	"net/http"
	"strings"
	"testing"
)

const testOrigin = "https://app.test"

// signal is one way to send, or not to send, a header. good means that it is
// there and agrees.
type signal struct {
	name   string
	values []string // nil: not sent
	good   bool
}

var (
	siteSignals = []signal{
		{"absent", nil, false},
		{"same-origin", []string{"same-origin"}, true},
		{"same-site", []string{"same-site"}, false},
		{"cross-site", []string{"cross-site"}, false},
		{"none", []string{"none"}, false},
		{"upper case", []string{"SAME-ORIGIN"}, false},
		{"list", []string{"same-origin, cross-site"}, false},
		{"junk", []string{"x"}, false},
		{"empty", []string{""}, false},
		{"twice", []string{"same-origin", "same-origin"}, false},
	}
	originSignals = []signal{
		{"absent", nil, false},
		{"app", []string{"https://app.test"}, true},
		{"http", []string{"http://app.test"}, false},
		{"port", []string{"https://app.test:444"}, false},
		{"own port", []string{"https://app.test:443"}, false},
		{"dot", []string{"https://app.test."}, false},
		{"case", []string{"https://APP.test"}, false},
		{"slash", []string{"https://app.test/"}, false},
		{"null", []string{"null"}, false},
		{"subdomain", []string{"https://evil.app.test"}, false},
		{"suffix", []string{"https://app.test.evil.test"}, false},
		{"list", []string{"https://app.test, https://evil.test"}, false},
		{"empty", []string{""}, false},
		{"twice", []string{"https://app.test", "https://app.test"}, false},
	}
	bffSignals = []signal{
		{"absent", nil, false},
		{"1", []string{"1"}, true},
		{"0", []string{"0"}, false},
		{"true", []string{"true"}, false},
		{"joined", []string{"1, 1"}, false},
		{"empty", []string{""}, false},
		{"twice", []string{"1", "1"}, false},
	}
	modes = []struct{ name, mode, dest string }{
		{"no mode", "", ""},
		{"fetch", "cors", "empty"},
		{"image", "no-cors", "image"},
		{"navigation", "navigate", "document"},
		{"frame", "navigate", "iframe"},
	}
	methods = []string{"GET", "HEAD", "POST", "DELETE", "OPTIONS", "get"}
	rules   = map[string]guardRule{"api": guardAPI, "json": guardJSON, "page": guardPage, "upgrade": guardUpgrade}
)

func (s signal) sent() bool { return s.values != nil }

// allowed is design.md's rule, said once more in another way: guard must agree
// with it on every combination.
func allowed(rule guardRule, method string, site, origin, bff signal, mode, dest string) bool {
	landing := rule == guardPage && (method == "GET" || method == "HEAD") && mode == "navigate" && dest == "document"
	if origin.name == "null" && site.name == "same-origin" && mode == "navigate" {
		origin = signal{}
	}
	if landing && len(site.values) == 1 {
		site.good = true // any value will do
	}
	for _, s := range []signal{site, origin, bff} {
		if s.sent() && !s.good {
			return false
		}
	}
	switch rule {
	case guardJSON:
		return bff.good
	case guardUpgrade:
		return origin.good
	}
	return site.good || origin.good || bff.good || landing
}

// E-01, E-02: every combination of the signals, at every kind of endpoint.
func TestGuardMatrix(t *testing.T) {
	passed, total := 0, 0
	for ruleName, rule := range rules {
		for _, method := range methods {
			for _, site := range siteSignals {
				for _, origin := range originSignals {
					for _, bff := range bffSignals {
						for _, m := range modes {
							h := http.Header{}
							set := func(name string, values []string) {
								if values != nil {
									h[http.CanonicalHeaderKey(name)] = values
								}
							}
							set("Sec-Fetch-Site", site.values)
							set("Origin", origin.values)
							set("X-BFF", bff.values)
							if m.mode != "" {
								set("Sec-Fetch-Mode", []string{m.mode})
								set("Sec-Fetch-Dest", []string{m.dest})
							}
							err := guard(rule, method, h, testOrigin)
							total++
							if err == nil {
								passed++
							}
							if want := allowed(rule, method, site, origin, bff, m.mode, m.dest); (err == nil) != want {
								t.Errorf("%s %s, Sec-Fetch-Site %s, Origin %s, X-BFF %s, %s: %v, want allowed=%v",
									ruleName, method, site.name, origin.name, bff.name, m.name, err, want)
							}
							if err != nil {
								if p := explain(context.Background(), err); p.code != codeCrossOriginBlocked || p.detail == "" {
									t.Errorf("refused with %v", err)
								}
							}
						}
					}
				}
			}
		}
	}
	t.Logf("%d of %d combinations pass", passed, total)
}

// The rows that a person would look for, one by one.
func TestGuard(t *testing.T) {
	for _, test := range []struct {
		name   string
		rule   guardRule
		method string
		header string // "Name: value" lines
		detail string // of the refusal; "" passes
	}{
		{"page's fetch", guardJSON, "POST", "Sec-Fetch-Site: same-origin\nX-BFF: 1", ""},
		{"page's fetch, old browser", guardJSON, "POST", "Origin: https://app.test\nX-BFF: 1", ""},
		{"old browser, GET sends no Origin", guardJSON, "GET", "X-BFF: 1", ""},
		{"no signal", guardAPI, "GET", "", "Sec-Fetch-Site, Origin and X-BFF are all missing"},
		{"E-02 image of the token", guardJSON, "GET", "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: no-cors\nSec-Fetch-Dest: image", "X-BFF: 1 is missing"},
		{"E-02 navigation to the token", guardJSON, "GET", "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document", "X-BFF: 1 is missing"},
		{"E-02 prefetch of the token", guardJSON, "GET", "Sec-Fetch-Site: same-origin\nSec-Purpose: prefetch", "X-BFF: 1 is missing"},
		{"E-02 own image of the token", guardJSON, "GET", "Sec-Fetch-Site: same-origin\nSec-Fetch-Mode: no-cors", "X-BFF: 1 is missing"},
		{"header, but a sibling's", guardJSON, "POST", "Sec-Fetch-Site: same-site\nX-BFF: 1", "Sec-Fetch-Site is not same-origin"},
		{"header, but another origin", guardJSON, "POST", "Origin: https://evil.test\nX-BFF: 1", "Origin is not the app's"},
		{"one signal agrees, one does not", guardAPI, "POST", "Sec-Fetch-Site: same-origin\nOrigin: https://evil.test", "Origin is not the app's"},
		{"F-03 preflight", guardAPI, "OPTIONS", "Origin: https://evil.test\nAccess-Control-Request-Method: POST", "Origin is not the app's"},
		{"logout by form", guardAPI, "POST", "Sec-Fetch-Site: same-origin\nSec-Fetch-Mode: navigate\nOrigin: https://app.test", ""},
		{"logout by form, no-referrer page", guardAPI, "POST", "Sec-Fetch-Site: same-origin\nSec-Fetch-Mode: navigate\nOrigin: null", ""},
		{"sandboxed frame", guardAPI, "POST", "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nOrigin: null", "Sec-Fetch-Site is not same-origin"},
		{"null without fetch metadata", guardAPI, "POST", "Origin: null", "Origin is not the app's"},
		{"link to a page", guardPage, "GET", "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document", ""},
		{"bookmark of a page", guardPage, "GET", "Sec-Fetch-Site: none\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document", ""},
		{"form to a page", guardPage, "POST", "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document", "Sec-Fetch-Site is not same-origin"},
		{"page in a foreign frame", guardPage, "GET", "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: iframe", "Sec-Fetch-Site is not same-origin"},
		{"link to an API", guardAPI, "GET", "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document", "Sec-Fetch-Site is not same-origin"},
		{"WebSocket", guardUpgrade, "GET", "Origin: https://app.test", ""},
		{"J-02 foreign WebSocket", guardUpgrade, "GET", "Origin: https://evil.test", "Origin is not the app's"},
		{"J-02 WebSocket without Origin", guardUpgrade, "GET", "X-BFF: 1", "Origin is missing"},
		{"J-02 WebSocket of a sandboxed frame", guardUpgrade, "GET", "Origin: null", "Origin is not the app's"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := http.Header{}
			for line := range strings.SplitSeq(test.header, "\n") {
				if name, value, ok := strings.Cut(line, ": "); ok {
					h.Add(name, value)
				}
			}
			err := guard(test.rule, test.method, h, testOrigin)
			detail := ""
			if err != nil {
				detail = explain(context.Background(), err).detail
			}
			if detail != test.detail {
				t.Errorf("detail %q, want %q", detail, test.detail)
			}
		})
	}
}

func TestIsNavigation(t *testing.T) {
	for _, test := range []struct {
		name, method, header string
		want                 bool
	}{
		{"browser", "GET", "Sec-Fetch-Mode: navigate", true},
		{"form", "POST", "Sec-Fetch-Mode: navigate", true},
		{"fetch that accepts HTML", "GET", "Sec-Fetch-Mode: cors\nAccept: text/html", false},
		{"old browser", "GET", "Accept: text/html,application/xhtml+xml,*/*;q=0.8", true},
		{"old browser's fetch", "GET", "Accept: application/json, text/plain, */*", false},
		{"old browser's fetch with the header", "GET", "Accept: text/html\nX-BFF: 1", false},
		{"old browser posts", "POST", "Accept: text/html", false},
		{"curl", "GET", "Accept: */*", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &http.Request{Method: test.method, Header: http.Header{}}
			for line := range strings.SplitSeq(test.header, "\n") {
				name, value, _ := strings.Cut(line, ": ")
				r.Header.Add(name, value)
			}
			if got := isNavigation(r); got != test.want {
				t.Errorf("isNavigation = %v", got)
			}
		})
	}
}
