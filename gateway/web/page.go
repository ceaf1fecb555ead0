package web

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
	"strings"
)

// style is the pages' one style sheet. It is inline, so that a page needs no
// second request, and named in the policy by its hash.
const style = `
:root{color-scheme:light dark;--bg:#f6f5f2;--card:#fff;--ink:#1d1c1a;--soft:#6a665e;--line:#e3e0d9;--act:#7a3b12}
@media (prefers-color-scheme:dark){:root{--bg:#171614;--card:#211f1c;--ink:#eeebe4;--soft:#a39d92;--line:#35322d;--act:#e8a06f}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.5rem;background:var(--bg);color:var(--ink);font:1rem/1.55 system-ui,sans-serif}
main{width:100%;max-width:27rem;padding:2rem;background:var(--card);border:1px solid var(--line);border-radius:.9rem}
h1{margin:0 0 .5rem;font-size:1.25rem;line-height:1.3}
p{margin:0 0 1.25rem;color:var(--soft);overflow-wrap:anywhere}
a{color:var(--act)}
.act{display:inline-block;padding:.55rem 1.1rem;border:1px solid currentColor;border-radius:.5rem;font-weight:600;text-decoration:none}
.act:hover,.act:focus-visible{text-decoration:underline}
dl{display:grid;grid-template-columns:auto 1fr;gap:.15rem .8rem;margin:1.5rem 0 0;padding-top:1rem;border-top:1px solid var(--line);font-size:.8rem;color:var(--soft)}
dd{margin:0;font-family:ui-monospace,monospace;overflow-wrap:anywhere}
.wait{opacity:0;animation:show .2s .8s forwards}
@keyframes show{to{opacity:1}}
`

// policy lets a page show these style sheets and do nothing else: no script, no
// form, no frame, no request.
func policy(styles ...string) string {
	hashes := ""
	for _, s := range styles {
		sum := sha256.Sum256([]byte(s))
		hashes += " 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; style-src" + cmp.Or(hashes, " 'none'") + "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

var ourPolicy = policy(style)

// The pages are called as the files are that may take their places.
const (
	errorFile     = "error.html"
	loggedOutFile = "logged-out.html"
	onwardFile    = "onward.html"
)

var ours = template.Must(template.New("ours").Parse(`
{{define "head"}}<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="robots" content="noindex">
<title>{{.Title}}</title>
<style>` + style + `</style>
{{end}}
{{define "refresh"}}<meta http-equiv="refresh" content="0; url={{.Link}}">{{end}}
{{define "onward.html"}}{{template "head" .}}{{template "refresh" .}}
<main class="wait">
<h1>{{.Title}}</h1>
<p>If nothing happens, go on by hand.</p>
<a class="act" href="{{.Link}}">Continue</a>
</main>
{{end}}
{{define "error.html"}}{{template "head" .}}<main>
<h1>{{.Title}}</h1>
{{with .Detail}}<p>{{.}}</p>
{{end}}{{with .LoginURL}}<a class="act" href="{{.}}">Log in</a>
{{end}}{{if .Again}}<a class="act" href="">Try again</a>
{{end}}<dl><dt>Code</dt><dd>{{.Code}}</dd>{{with .TraceID}}<dt>Trace</dt><dd>{{.}}</dd>{{end}}</dl>
</main>
{{end}}
{{define "logged-out.html"}}{{template "head" .}}<main>
<h1>{{.Title}}</h1>
<p>{{if .Done}}Your session has ended in this browser.{{else}}Open the application to see whether you are logged in.{{end}}</p>
{{with .Link}}<a class="act" href="{{.}}">Back to the application</a>
{{end}}</main>
{{end}}`))

// page is what the template of onward.html shows.
type page struct {
	Title string
	Link  template.URL // from plain
}

// loggedOut is what the template of logged-out.html shows.
type loggedOut struct {
	page
	Done bool
}

// Bounce writes the small page that navigates on to target within the site, so
// that the browser sends its SameSite=Strict cookies along, which it keeps back
// from a navigation that came from elsewhere. It uses a meta refresh and no
// script. target is a path with an optional query; anything that would leave
// the origin is replaced by "/". The page can't know a fragment, so the
// navigation has none.
func (p *Pages) Bounce(w http.ResponseWriter, target string) {
	if !local(target) {
		target = "/"
	}
	p.write(w, http.StatusOK, onwardFile, page{Title: "One moment …", Link: plain(target)})
}

// Leave writes the small page that navigates on to another site: what answers
// a form where a redirect would have to pass the application's form-action. A
// target that is not http or https becomes "/".
func (p *Pages) Leave(w http.ResponseWriter, target *url.URL) {
	link := "/"
	if target != nil && (target.Scheme == "https" || target.Scheme == "http") && target.Host != "" && target.Opaque == "" {
		link = target.String()
	}
	p.write(w, http.StatusOK, onwardFile, page{Title: "One moment …", Link: plain(link)})
}

// ErrorPage is what a page about a failed navigation says. Every field is text,
// and escaped.
type ErrorPage struct {
	Code    string // the problem's code
	Status  int    // filled in by Error
	Title   string // empty: the status's own text
	Detail  string
	TraceID string
	// LoginURL is a path of this origin; anything else is left out.
	LoginURL string
	// Again offers to open the page once more.
	Again bool
}

// Error writes a page about a failed navigation.
func (p *Pages) Error(w http.ResponseWriter, status int, e ErrorPage) {
	e.Status = status
	if e.Title == "" {
		e.Title = http.StatusText(status)
	}
	if !local(e.LoginURL) {
		e.LoginURL = ""
	}
	p.write(w, status, errorFile, e)
}

// LoggedOut writes the page at the end of a logout. done says that one which began
// in this browser has ended here; else somebody has come by a link, and is told
// nothing that may be untrue. link leads back into the application: a path of this
// origin; anything else is left out.
func (p *Pages) LoggedOut(w http.ResponseWriter, done bool, link string) {
	if !local(link) {
		link = ""
	}
	p.write(w, http.StatusOK, loggedOutFile, leftBy(done, link))
}

func leftBy(done bool, link string) loggedOut {
	title := "This page comes after a logout"
	if done {
		title = "You are logged out"
	}
	return loggedOut{page{Title: title, Link: plain(link)}, done}
}

// local reports a path, with or without a query, that no browser takes for
// another origin: browsers drop tabs and line ends from URLs and read
// backslashes as slashes.
func local(target string) bool {
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c == 0x7f {
			return false
		}
	}
	path, _, _ := strings.Cut(target, "?")
	return strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") && !strings.Contains(path, `\`)
}

// plain writes a URL that was judged already without the characters that mean
// something in HTML, as browsers do. Everything else stays as it is in the
// refresh; in a link the template mends a lone "%" as well.
func plain(target string) template.URL {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(target) {
		switch c := target[i]; {
		case c <= ' ', c >= 0x7f, strings.IndexByte("\"'<>`", c) >= 0:
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		default:
			b.WriteByte(c)
		}
	}
	return template.URL(b.String())
}

// write sends one page: the app's own, or ours. Headers that are set already,
// cookies say, stay.
func (p *Pages) write(w http.ResponseWriter, status int, file string, data any) {
	body, csp := p.own(file, data)
	if body == nil {
		body, csp = render(file, data), ourPolicy
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", csp)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	w.WriteHeader(status)
	w.Write(body)
}

// render executes a template of ours.
func render(name string, data any) []byte {
	var b bytes.Buffer
	if err := ours.ExecuteTemplate(&b, name, data); err != nil {
		panic(err) // the templates are constants, and tests run each of them
	}
	return b.Bytes()
}
