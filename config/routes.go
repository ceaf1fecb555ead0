package config

import (
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

func (l *loader) routes(v value) []Route {
	var out []Route
	var at []value
	list, _ := v.list()
	for _, e := range list {
		o := e.object()
		r := l.route(o)
		o.done()
		for i, other := range out {
			if r.Path != "" && other.Path != "" && clash(r, other) {
				o.get("path").problem("leads to the same requests as %s", at[i].path)
				break
			}
		}
		out, at = append(out, r), append(at, e)
	}
	return out
}

// clash reports whether two routes would serve the same request with the same
// right. A prefix matches whole segments, so that /api and /api/ are one.
func clash(a, b Route) bool {
	if strings.TrimSuffix(a.Path, "/") != strings.TrimSuffix(b.Path, "/") {
		return false
	}
	return len(a.Methods) == 0 || len(b.Methods) == 0 ||
		slices.ContainsFunc(a.Methods, func(m string) bool { return slices.Contains(b.Methods, m) })
}

func (l *loader) route(o *object) Route {
	var r Route
	r.Path = routePath(o.get("path"))
	upstream, files, dev, elsewhere := o.get("upstream"), o.get("files"), o.get("dev_server"), o.get("forward_auth")
	timeout, token, connection := o.get("timeout"), o.get("token"), o.get("connection")
	deadline, concurrent, headersOf := o.get("deadline"), o.get("max_concurrent"), o.get("headers")
	leadsTo(o, upstream, files, dev, elsewhere)
	kind, auth, tok := "api", "required", "session"
	switch {
	case files.set():
		kind, auth, tok = "page", "none", "none"
		if r.Files = files.filePath(); r.Files == "" {
			files.problem("is empty")
		} else if info, err := os.Stat(r.Files); err != nil {
			files.problem("%v", unreadable(err))
		} else if !info.IsDir() {
			files.problem("is not a directory")
		}
		for _, v := range []value{timeout, deadline, concurrent} {
			if v.set() {
				v.problem("is for an upstream; files have none")
			}
		}
		for _, v := range []value{connection, headersOf} {
			if v.set() {
				v.problem("is for an upstream")
			}
		}
	case dev.set():
		kind, auth, tok = "page", "none", "none"
		r.Upstream, r.DevServer = l.devServer(dev), true
		// Nothing is answered before the first bundle is made.
		r.Timeout = timeout.duration(2*time.Minute, 100*time.Millisecond, time.Hour)
		for _, v := range []value{deadline, concurrent, connection, headersOf} {
			if v.set() {
				v.problem("is for an upstream")
			}
		}
	case elsewhere.set():
		if r.ForwardAuth = elsewhere.boolean(true); !r.ForwardAuth {
			elsewhere.problem("must be true, or left out")
		}
		for _, v := range []value{timeout, deadline, concurrent, connection, o.get("max_header"), o.get("max_body"), o.get("strip_prefix")} {
			if v.set() {
				v.problem("is for requests that pass through here")
			}
		}
	default:
		r.Upstream = l.upstream(upstream, connection)
		r.Timeout = timeout.duration(30*time.Second, 100*time.Millisecond, time.Hour)
		r.Deadline = deadline.duration(0, time.Second, 24*time.Hour)
		if r.Deadline != 0 && r.Deadline < r.Timeout {
			if timeout.set() {
				deadline.problem("must not be shorter than timeout")
			}
			r.Timeout = r.Deadline
		}
		r.MaxConcurrent = concurrent.integer(0, 1, 1_000_000)
	}
	r.MaxHeader = int(o.get("max_header").size(0, 1<<10, 1<<20))
	r.MaxBody = o.get("max_body").size(0, 1, 1<<40)
	r.Kind = o.get("kind").choice(kind, "api", "page")
	r.Auth = o.get("auth").choice(auth, "required", "optional", "none")
	if r.Auth == "none" {
		tok = "none" // nobody's token is there to pass on
	}
	r.Token = token.choice(tok, "session", "none")
	switch {
	case r.Token == "session" && files.set():
		token.problem("must be none: files take no token")
	case r.Token == "session" && dev.set():
		token.problem("must be none: a development server gets no token")
	case r.Token == "session" && r.Auth == "none":
		token.problem("must be none where auth is none")
	}
	if !files.set() && !dev.set() {
		r.Headers = headers(headersOf, r.Auth)
	}
	r.Accept = accept(o.get("accept"), r.Auth)
	r.Require = requirements(o.get("require"), r.Auth)
	r.StripPrefix = stripPrefix(o.get("strip_prefix"), r.Path)
	r.Methods = methods(o.get("methods"))
	return r
}

// leadsTo reports a route that leads nowhere, or to more than one place.
func leadsTo(o *object, places ...value) {
	first := ""
	for _, v := range places {
		switch {
		case !v.set():
		case first != "":
			v.problem("can't stand beside %s: a route leads to one of them", first)
		default:
			first = strings.TrimPrefix(v.path, o.path+".")
		}
	}
	if first == "" && !o.broken {
		o.problem("needs an upstream, files, a dev_server or forward_auth")
	}
}

// devServer reads the address of a front end's development server: of one that
// can be where somebody develops. It shows its sources, and more of the machine
// than that if it has a flaw.
func (l *loader) devServer(v value) *Upstream {
	if _, ok := v.needed(); !ok { // one, and no list
		return nil
	}
	u := l.upstream(v, value{l: l})
	if u == nil {
		return nil
	}
	switch t := u.Targets[0]; {
	case t.Scheme != "http":
		v.problem("must be http: TLS ends at this gateway")
	case strings.Trim(t.Path, "/") != "":
		v.problem("must have no path: its pages ask for its own")
	case !nearby(strings.ToLower(t.Hostname())):
		v.problem("must be on this machine or in a private network: a development server shows its sources")
	default:
		l.warn(v, "is for development, not for production: whoever reaches this gateway can read the page's sources")
	}
	return u
}

// nearby reports whether a host is this machine or can only be meant privately: by
// its address, a name of one label (of a container, say), or one of the domains
// that the public DNS doesn't have (RFC 6761, RFC 6762, RFC 8375, and ICANN's
// .internal).
func nearby(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap()
		return a.IsLoopback() || a.IsPrivate()
	}
	if !strings.Contains(host, ".") {
		return true
	}
	return slices.ContainsFunc([]string{".localhost", ".test", ".local", ".internal", ".home.arpa"}, func(domain string) bool {
		return strings.HasSuffix(host, domain)
	})
}

// notCanonical finds what gives a path two readings. Paths of the file are
// written decoded and without anything that would have to be encoded.
var notCanonical = regexp.MustCompile(`//|/\.{1,2}(/|$)|[^A-Za-z0-9/._~!$&'()+,=:@-]`)

func routePath(v value) string {
	s, ok := v.needed()
	switch {
	case !ok:
	case !strings.HasPrefix(s, "/"):
		v.problem("must start with /")
	case notCanonical.MatchString(s):
		v.problem("must be a plain path: no empty or dot segments, no wildcards, no escapes, no query")
	case strings.HasPrefix(strings.ToLower(s)+"/", "/bff/"):
		v.problem("is the gateway's own: /bff can't be a route")
	default:
		return s
	}
	return ""
}

func stripPrefix(v value, path string) string {
	s, ok := v.text()
	if !ok || s == "" {
		return ""
	}
	switch {
	case !strings.HasPrefix(s, "/") || notCanonical.MatchString(s) || strings.HasSuffix(s, "/"):
		v.problem("must start with / and not end with it")
	case path != "" && s != path && !strings.HasPrefix(path, s+"/"):
		v.problem("must be the route's path or whole segments at its start")
	default:
		return s
	}
	return ""
}

// knownMethods are those of RFC 9110, PATCH (RFC 5789) and WebDAV's frequent
// ones. TRACE would show the upstream's view of the request to the page,
// CONNECT is no request for a route.
var knownMethods = []string{
	"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT",
	"COPY", "LOCK", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "REPORT", "SEARCH", "UNLOCK", "QUERY",
}

func methods(v value) []string {
	if !v.set() {
		return nil
	}
	var out []string
	list, ok := v.list()
	if ok && len(list) == 0 {
		v.problem("is empty: leave the key out for all methods")
	}
	for _, e := range list {
		s, ok := e.needed()
		switch {
		case !ok:
		case !slices.Contains(knownMethods, s):
			e.problem("is no method that can be routed%s", didYouMean(strings.ToUpper(s), knownMethods))
		case slices.Contains(out, s):
			e.problem("is in the list twice")
		default:
			out = append(out, s)
		}
	}
	return out
}

// accept says what may authenticate a request: a cookie unless told otherwise.
func accept(v value, auth string) []string {
	if auth == "none" {
		if v.set() {
			v.problem("has no effect where auth is none")
		}
		return nil
	}
	if !v.set() {
		return []string{"cookie"}
	}
	var out []string
	list, ok := v.list()
	if ok && len(list) == 0 {
		v.problem("is empty: cookie, bearer or both")
	}
	for _, e := range list {
		s, ok := e.needed()
		switch {
		case !ok:
		case s != "cookie" && s != "bearer":
			e.problem("must be cookie or bearer")
		case slices.Contains(out, s):
			e.problem("is in the list twice")
		default:
			out = append(out, s)
		}
	}
	return out
}

// requirements are the claims that a request's user must have. Where nobody
// needs to be logged in, they would keep nobody out.
func requirements(v value, auth string) map[string][]string {
	if !v.set() {
		return nil
	}
	o := v.object()
	if auth != "required" {
		v.problem("needs auth: required")
	} else if !o.broken && len(o.names) == 0 {
		v.problem("is empty: leave the key out to require nothing")
	}
	out := map[string][]string{}
	for _, name := range o.names {
		if name == "" || len(name) > maxName {
			o.get(name).problem("is no name of a claim")
			continue
		}
		out[name] = names(o.get(name), 64)
	}
	return out
}
