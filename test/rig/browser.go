package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// SessionCookie is the session cookie's name.
const SessionCookie = "__Host-Http-cloakroom"

const maxBody = 1 << 20

// Browser talks to the gateways and to the provider as a browser does: it keeps
// cookies by host, path and SameSite, says Sec-Fetch-* and Origin, follows
// redirects and meta refreshes, and fills in login forms. It reaches the app's
// origin at the replicas in turn. It fails the test when a gateway sets a
// cookie that it may not set so. It is safe for concurrent use.
type Browser struct {
	w *World

	mu   sync.Mutex
	jar  []*cookie // guarded by mu
	turn int       // guarded by mu
}

type cookie struct {
	host, path, name, value string
	sameSite                http.SameSite
}

// NewBrowser opens a browser with an empty profile.
func (w *World) NewBrowser() *Browser { return &Browser{w: w} }

// Clone copies the browser with its cookies, as a thief might.
func (b *Browser) Clone() *Browser {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := &Browser{w: b.w}
	for _, k := range b.jar {
		copied := *k
		c.jar = append(c.jar, &copied)
	}
	return c
}

// Cookie is the session cookie's value, "" if there is none.
func (b *Browser) Cookie() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range b.jar {
		if k.host == b.w.host() && k.name == SessionCookie {
			return k.value
		}
	}
	return ""
}

// SetCookie replaces the session cookie's value.
func (b *Browser) SetCookie(value string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keep(b.w.host(), &http.Cookie{Name: SessionCookie, Value: value, Path: "/", SameSite: http.SameSiteStrictMode})
}

// Request is one request of a page at the app's origin.
type Request struct {
	Method string // default GET
	Path   string
	Body   string
	Header http.Header // beside and above the usual ones; an empty list removes one
	On     *Gateway    // default: the next replica
	// Lost loses the answer on its way: its cookies are not kept.
	Lost bool
	// Context closes the tab when it is done; default: the test's.
	Context context.Context
}

// Response is an answer, read to its end.
type Response struct {
	Status     int
	Header     http.Header
	Body       []byte
	SetCookies []*http.Cookie
	URL        *url.URL
}

// JSON decodes the body into v, or fails the test.
func (r *Response) JSON(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(r.Body, v); err != nil {
		t.Fatalf("status %d, not JSON (%v): %.300s", r.Status, err, r.Body)
	}
}

// Problem is a problem document's code and reason.
func (r *Response) Problem() (code, reason string) {
	var p struct{ Code, Reason string }
	if json.Unmarshal(r.Body, &p) != nil {
		return "", ""
	}
	return p.Code, p.Reason
}

// Successor is the value of a session cookie that the answer sets, "" if none.
func (r *Response) Successor() string {
	for _, c := range r.SetCookies {
		if c.Name == SessionCookie && c.MaxAge >= 0 {
			return c.Value
		}
	}
	return ""
}

func (r *Response) String() string {
	code, reason := r.Problem()
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", r.Status, code, reason))
}

// Fetch sends what fetch() on the app's page would, with X-BFF: 1.
func (b *Browser) Fetch(method, path string) *Response {
	b.w.t.Helper()
	r, err := b.Try(Request{Method: method, Path: path})
	if err != nil {
		b.w.t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

// Send is Fetch with all of a [Request]; it fails the test on a network error.
func (b *Browser) Send(req Request) *Response {
	b.w.t.Helper()
	r, err := b.Try(req)
	if err != nil {
		b.w.t.Fatalf("%s %s: %v", req.Method, req.Path, err)
	}
	return r
}

// Try is Send for any goroutine: it returns network errors.
func (b *Browser) Try(req Request) (*Response, error) {
	h := http.Header{
		"Accept": {"application/json"}, "X-Bff": {"1"},
		"Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Dest": {"empty"},
	}
	if req.Method != "" && req.Method != http.MethodGet && req.Method != http.MethodHead {
		h.Set("Origin", b.w.Origin)
	}
	for k, v := range req.Header {
		h[http.CanonicalHeaderKey(k)] = v
	}
	u, err := url.Parse(b.w.Origin + req.Path)
	if err != nil {
		return nil, err
	}
	return b.send(req, u, h, "same-origin")
}

// send sends one request, with the cookies that belong to it.
func (b *Browser) send(req Request, u *url.URL, h http.Header, site string) (*Response, error) {
	target := *u
	own := u.Host == b.w.host()
	b.mu.Lock()
	if own {
		on := req.On
		if on == nil {
			on = b.w.turn(b.turn)
			b.turn++
		}
		target.Scheme, target.Host = "http", on.Public
	}
	var pairs []string
	for _, k := range b.jar {
		if k.host != u.Host || !underPath(u.Path, k.path) {
			continue
		}
		if site == "cross-site" && (k.sameSite == http.SameSiteStrictMode ||
			k.sameSite == http.SameSiteLaxMode && !(h.Get("Sec-Fetch-Mode") == "navigate" && (req.Method == "" || req.Method == http.MethodGet))) {
			continue
		}
		pairs = append(pairs, k.name+"="+k.value)
	}
	b.mu.Unlock()

	ctx := req.Context
	if ctx == nil {
		ctx = b.w.t.Context()
	}
	r, err := http.NewRequestWithContext(ctx, req.Method, target.String(), strings.NewReader(req.Body))
	if err != nil {
		return nil, err
	}
	r.Host = u.Host
	for k, v := range h {
		if len(v) > 0 {
			r.Header[k] = v
		}
	}
	if len(pairs) > 0 && r.Header["Cookie"] == nil {
		r.Header.Set("Cookie", strings.Join(pairs, "; "))
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, err
	}
	out := &Response{resp.StatusCode, resp.Header, body, resp.Cookies(), u}
	if own {
		b.w.inspect(req, out)
	}
	if !req.Lost {
		b.mu.Lock()
		for _, c := range out.SetCookies {
			b.keep(u.Host, c)
		}
		b.mu.Unlock()
	}
	return out, nil
}

// client never follows a redirect and decodes nothing.
var client = &http.Client{
	Transport:     &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       60 * time.Second,
}

// keep stores a cookie; b.mu is held.
func (b *Browser) keep(host string, c *http.Cookie) {
	path := c.Path
	if path == "" {
		path = "/"
	}
	same := func(k *cookie) bool { return k.host == host && k.path == path && k.name == c.Name }
	if c.MaxAge < 0 || !c.Expires.IsZero() && c.Expires.Before(time.Now()) {
		b.jar = slices.DeleteFunc(b.jar, same)
		return
	}
	if i := slices.IndexFunc(b.jar, same); i >= 0 {
		b.jar[i].value, b.jar[i].sameSite = c.Value, c.SameSite
		return
	}
	b.jar = append(b.jar, &cookie{host, path, c.Name, c.Value, c.SameSite})
}

// underPath is RFC 6265 §5.1.4.
func underPath(path, of string) bool {
	return path == of || strings.HasPrefix(path, of) && (strings.HasSuffix(of, "/") || path[len(of)] == '/')
}

// Login logs in as user from the app's page and returns the page it lands on.
func (b *Browser) Login(user string) *Response {
	b.w.t.Helper()
	page := b.Navigate("/bff/login?return_to=%2Flanding&prompt=login", user)
	if page.Status != http.StatusOK || page.URL.Path != "/landing" {
		b.w.t.Fatalf("login as %s ended on %s with %s: %.500s", user, page.URL, page, page.Body)
	}
	if b.Cookie() == "" {
		b.w.t.Fatalf("login as %s left no session cookie", user)
	}
	return page
}

// Navigate follows a link on the app's page, and then redirects, meta refreshes
// and, as user, login forms, to where they end.
func (b *Browser) Navigate(path, user string) *Response {
	b.w.t.Helper()
	u, err := url.Parse(b.w.Origin + path)
	if err != nil {
		b.w.t.Fatal(err)
	}
	return b.walk(u, b.w.Origin, user, nil)
}

// NavigateUntil is Navigate, but it stops before it opens an URL for which stop
// says so, and returns that.
func (b *Browser) NavigateUntil(path, user string, stop func(*url.URL) bool) *url.URL {
	b.w.t.Helper()
	u, err := url.Parse(b.w.Origin + path)
	if err != nil {
		b.w.t.Fatal(err)
	}
	r := b.walk(u, b.w.Origin, user, stop)
	if !stop(r.URL) {
		b.w.t.Fatalf("the browser ended on %s with %s", r.URL, r)
	}
	return r.URL
}

// Arrive opens an URL from a page of another site.
func (b *Browser) Arrive(raw, user string) *Response {
	b.w.t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		b.w.t.Fatal(err)
	}
	return b.walk(u, "https://elsewhere.test", user, nil)
}

func (b *Browser) walk(u *url.URL, from, user string, stop func(*url.URL) bool) *Response {
	b.w.t.Helper()
	req := Request{Method: http.MethodGet}
	site := relation(from, u)
	for range 20 {
		h := http.Header{
			"Accept":         {"text/html,application/xhtml+xml"},
			"Sec-Fetch-Site": {site}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"},
		}
		if req.Method == http.MethodPost {
			h.Set("Content-Type", "application/x-www-form-urlencoded")
			h.Set("Origin", from)
		}
		b.w.note(u.Query())
		if stop != nil && stop(u) {
			return &Response{URL: u}
		}
		r, err := b.send(req, u, h, site)
		if err != nil {
			b.w.t.Fatalf("%s %s: %v", req.Method, u.Path, err)
		}
		page := origin(u)
		if to := r.Header.Get("Location"); to != "" && r.Status/100 == 3 {
			u = b.resolve(u, to)
			req = Request{Method: http.MethodGet}
			// A chain of redirects is as foreign as its most foreign part.
			if next := relation(page, u); next == "cross-site" || site == "cross-site" {
				site = "cross-site"
			}
			continue
		}
		if m := metaRefresh.FindSubmatch(r.Body); m != nil {
			u, from = b.resolve(u, html.UnescapeString(string(m[1]))), page
			req, site = Request{Method: http.MethodGet}, relation(from, u)
			continue
		}
		if action, fields := findLogin(r.Body, user); fields != nil && user != "" && u.Host != b.w.host() {
			if action != "" {
				u = b.resolve(u, action)
			}
			req = Request{Method: http.MethodPost, Body: fields.Encode()}
			from, site = page, relation(page, u)
			continue
		}
		return r
	}
	b.w.t.Fatalf("the browser goes in circles at %s", u)
	return nil
}

var (
	metaRefresh = regexp.MustCompile(`(?is)<meta[^>]+http-equiv="?refresh"?[^>]+content="\d+;\s*url=([^"]+)"`)
	formTag     = regexp.MustCompile(`(?is)<form([^>]*)>(.*?)</form>`)
	selfSubmits = regexp.MustCompile(`document\.forms\[0\]\.submit\(\)`)
	formAction  = regexp.MustCompile(`(?is)action="([^"]*)"`)
	inputTag    = regexp.MustCompile(`(?is)<input([^>]*)>`)
	attribute   = regexp.MustCompile(`(?is)([a-z]+)="([^"]*)"`)
)

// findLogin finds the form of a page that asks for a name, or that a script
// submits, and fills it in: hidden fields as they are, any password, user for
// the rest.
func findLogin(page []byte, user string) (action string, fields url.Values) {
	for _, form := range formTag.FindAllSubmatch(page, -1) {
		v, asks := url.Values{}, false
		for _, tag := range inputTag.FindAllSubmatch(form[2], -1) {
			attrs := map[string]string{}
			for _, a := range attribute.FindAllSubmatch(tag[1], -1) {
				attrs[strings.ToLower(string(a[1]))] = html.UnescapeString(string(a[2]))
			}
			switch attrs["type"] {
			case "hidden", "submit":
				v.Set(attrs["name"], attrs["value"])
			case "password":
				v.Set(attrs["name"], "any password")
			default:
				v.Set(attrs["name"], user)
				asks = true
			}
		}
		if !asks && !selfSubmits.Match(page) {
			continue
		}
		if a := formAction.FindSubmatch(form[1]); a != nil {
			action = html.UnescapeString(string(a[1]))
		}
		return action, v
	}
	return "", nil
}

func (b *Browser) resolve(u *url.URL, ref string) *url.URL {
	b.w.t.Helper()
	next, err := u.Parse(ref)
	if err != nil {
		b.w.t.Fatalf("bad reference %q: %v", ref, err)
	}
	return next
}

func origin(u *url.URL) string { return u.Scheme + "://" + u.Host }

// relation is Sec-Fetch-Site for a request from a page; hosts here are their
// own sites.
func relation(from string, to *url.URL) string {
	f, err := url.Parse(from)
	switch {
	case err != nil || f.Hostname() != to.Hostname():
		return "cross-site"
	case origin(f) != origin(to):
		return "same-site"
	}
	return "same-origin"
}
