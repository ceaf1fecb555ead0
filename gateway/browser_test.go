package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// browser keeps the cookies of app.test and follows navigations as browsers do:
// prefixes, SameSite, fetch metadata, redirects and meta refreshes.
type browser struct {
	t      testing.TB
	w      *world
	at     *replica
	jar    map[string]*http.Cookie
	ages   map[string]time.Time // when a cookie ends, where it has a Max-Age
	plain  *http.Client
	refuse func(name string) bool // cookies that this browser doesn't keep
	old    bool                   // sends no fetch metadata
}

func (w *world) browser(r *replica) *browser {
	tr := &http.Transport{DisableKeepAlives: true}
	b := &browser{t: w.t, w: w, at: r, jar: map[string]*http.Cookie{}, ages: map[string]time.Time{}}
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if h, _, _ := net.SplitHostPort(addr); strings.HasSuffix(h, ".test") {
			addr = b.at.addr
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	b.plain = &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return b
}

// copy is another browser with the same cookies: a thief's, or the same one
// before an answer arrived.
func (b *browser) copy() *browser {
	c := b.w.browser(b.at)
	c.jar, c.ages = maps.Clone(b.jar), maps.Clone(b.ages)
	return c
}

// answer is a response, read.
type answer struct {
	url    *url.URL
	status int
	header http.Header
	body   string
}

// problem is the code and the reason of a problem document.
func (a answer) problem() (code, reason string) {
	var doc struct{ Code, Reason string }
	json.Unmarshal([]byte(a.body), &doc)
	return doc.Code, doc.Reason
}

// field is a top-level field of a JSON body, as text.
func (a answer) field(name string) string {
	var doc map[string]any
	json.Unmarshal([]byte(a.body), &doc)
	if v, ok := doc[name]; ok {
		return fmt.Sprint(v)
	}
	return ""
}

// set says whether the answer sets a cookie of that name, and with what value.
func (a answer) set(name string) (value string, ok bool) {
	for _, line := range a.header.Values("Set-Cookie") {
		if c, err := http.ParseSetCookie(line); err == nil && c.Name == name {
			return c.Value, true
		}
	}
	return "", false
}

const ticketCookie = "__Host-Http-cloakroom"

func (a answer) handsOut() bool {
	v, ok := a.set(ticketCookie)
	return ok && v != ""
}

func (a answer) String() string {
	code, reason := a.problem()
	return fmt.Sprintf("%v: %d %s %s %v", a.url, a.status, code, reason, a.header)
}

// request is one request of a browser's.
type request struct {
	method, url string
	header      map[string]string
	body        string
	crossSite   bool // for cookies: another site had a part in it
	navigation  bool // top-level
}

// send sends one request with the cookies that belong to it and keeps those of
// its answer.
func (b *browser) send(q request) (answer, error) {
	u, err := url.Parse(q.url)
	if err != nil {
		return answer{}, err
	}
	ours := u.Host == host
	wire := *u
	if ours {
		wire.Scheme = "http" // what ends TLS is somebody else
	}
	r, err := http.NewRequestWithContext(b.t.Context(), q.method, wire.String(), strings.NewReader(q.body))
	if err != nil {
		return answer{}, err
	}
	for name, value := range q.header {
		r.Header.Set(name, value)
	}
	if ours {
		if line := b.cookies(q); line != "" {
			r.Header.Set("Cookie", line)
		}
	}
	resp, err := b.plain.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	if ours {
		b.keep(resp)
	}
	body, err := io.ReadAll(resp.Body)
	return answer{u, resp.StatusCode, resp.Header, string(body)}, err
}

func (b *browser) cookies(q request) string {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(b.jar)) {
		c := b.jar[name]
		if end, ok := b.ages[name]; ok && !b.w.now().Before(end) {
			delete(b.jar, name)
			continue
		}
		if q.crossSite && (c.SameSite == http.SameSiteStrictMode || !q.navigation || q.method != "GET") {
			continue
		}
		pairs = append(pairs, name+"="+c.Value)
	}
	return strings.Join(pairs, "; ")
}

// keep stores an answer's cookies, and checks what has to hold for every one of
// ours (GO6, GO8).
func (b *browser) keep(resp *http.Response) {
	for _, line := range resp.Header.Values("Set-Cookie") {
		c, err := http.ParseSetCookie(line)
		if err != nil {
			b.t.Errorf("Set-Cookie: %v", err)
			continue
		}
		if !strings.Contains(strings.ToLower(c.Name), "cloakroom") {
			continue
		}
		if !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.SameSite < http.SameSiteLaxMode || !c.Expires.IsZero() {
			b.t.Errorf("attributes of %s: %+v", c.Name, c)
		}
		if cc := resp.Header.Values("Cache-Control"); len(cc) != 1 || cc[0] != "no-store" {
			b.t.Errorf("Cache-Control %q beside a Set-Cookie", cc)
		}
		delete(b.ages, c.Name)
		switch {
		case c.MaxAge < 0:
			delete(b.jar, c.Name)
			continue
		case b.refuse != nil && b.refuse(c.Name):
			continue
		case c.MaxAge > 0:
			b.ages[c.Name] = b.w.now().Add(time.Duration(c.MaxAge) * time.Second)
		}
		b.jar[c.Name] = c
	}
}

// visit navigates to a URL, or to a path of the app, and on until a page stays.
// from is who causes it: "none" for a person, "same-origin" for the app's page,
// "cross-site" for another site's.
func (b *browser) visit(to, from string) answer {
	b.t.Helper()
	a, err := b.follow(to, from, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

// follow is visit, until stop says so of the answer.
func (b *browser) follow(to, from string, stop func(answer) bool) (answer, error) {
	base, _ := url.Parse(origin + "/")
	site := from
	for hops := 0; ; hops++ {
		if hops == 20 {
			return answer{}, fmt.Errorf("a loop at %s", base)
		}
		next, err := base.Parse(to)
		if err != nil {
			return answer{}, err
		}
		if next.Host != base.Host || next.Scheme != base.Scheme {
			site = "cross-site" // once another site had a part in a chain of redirects, it stays
		}
		header := map[string]string{"Accept": "text/html,*/*;q=0.8"}
		if !b.old {
			header["Sec-Fetch-Site"], header["Sec-Fetch-Mode"], header["Sec-Fetch-Dest"] = site, "navigate", "document"
		}
		a, err := b.send(request{method: "GET", url: next.String(), header: header, crossSite: site == "cross-site", navigation: true})
		if err != nil || stop != nil && stop(a) {
			return a, err
		}
		base = next
		if loc := a.header.Get("Location"); a.status/100 == 3 && loc != "" {
			to = loc
			continue
		}
		if m := refresh.FindStringSubmatch(a.body); a.status == 200 && m != nil {
			to, site = html.UnescapeString(m[1]), "same-origin" // a new navigation, by the page just shown
			continue
		}
		return a, nil
	}
}

var refresh = regexp.MustCompile(`http-equiv="refresh" content="0; url=([^"]*)"`)

// login logs in from scratch, as whoever the provider signs in.
func (b *browser) login() {
	b.t.Helper()
	if a := b.visit("/bff/login?return_to=/public/home", "none"); a.status != 200 || a.url.Path != "/public/home" {
		b.t.Fatalf("login ended at %v: %s", a, a.body)
	}
	if b.jar[ticketCookie] == nil {
		b.t.Fatal("login set no session cookie")
	}
}

// fetch is a call of the app's own page.
func (b *browser) fetch(method, path string, header ...string) answer {
	b.t.Helper()
	a, err := b.try(method, path, header...)
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

// try is fetch for calls that may fail, and for other goroutines than the test's.
// Headers are "Name: value"; one without a value is left out.
func (b *browser) try(method, path string, header ...string) (answer, error) {
	h := map[string]string{"X-Bff": "1", "Accept": "*/*"}
	if !b.old {
		h["Sec-Fetch-Site"], h["Sec-Fetch-Mode"], h["Sec-Fetch-Dest"] = "same-origin", "cors", "empty"
	}
	if method != "GET" {
		h["Origin"] = origin
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ":")
		if value = strings.TrimSpace(value); value == "" {
			delete(h, name)
		} else {
			h[name] = value
		}
	}
	return b.send(request{method: method, url: origin + path, header: h})
}

// want fails the test unless the answer has this status, and, if it is a
// problem, this code and reason.
func want(t testing.TB, a answer, status int, codeAndReason ...string) {
	t.Helper()
	code, reason := a.problem()
	got := []string{code, reason}
	if a.status != status || len(codeAndReason) > 0 && !slices.Equal(codeAndReason, got[:len(codeAndReason)]) {
		t.Errorf("%v: %d %v, want %d %v: %s", a.url, a.status, got, status, codeAndReason, a.body)
	}
}
