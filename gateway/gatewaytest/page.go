package gatewaytest

import (
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// style is shared by all pages. They carry no script.
const style = `
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: light-dark(#eef0f4, #16181d) }
main { width: min(22rem, 90vw); padding: 2rem; border-radius: 14px; background: light-dark(#fff, #22252c); box-shadow: 0 8px 30px #0002 }
h1 { font-size: 1.25rem; margin: 0 0 .25rem } p { margin: 0 0 1.25rem; color: light-dark(#5b6270, #a3aab8) }
label { display: block; margin: 0 0 1rem; font-size: .875rem } .who { display: flex; gap: .5rem; margin-bottom: 1.25rem }
input { display: block; width: 100%; box-sizing: border-box; margin-top: .25rem; padding: .6rem .7rem; font: inherit; border: 1px solid light-dark(#c9ced8, #444a56); border-radius: 8px; background: transparent; color: inherit }
button { flex: 1; padding: .6rem .9rem; font: inherit; border-radius: 8px; border: 1px solid light-dark(#c9ced8, #444a56); background: transparent; color: inherit; cursor: pointer }
button.main { width: 100%; background: #3257d6; border-color: #3257d6; color: #fff } .cancel { margin-top: .5rem; width: 100%; border: 0 }
`

const head = `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{.Title}}</title><style>` + style + `</style></head><body><main>`

// The buttons for alice and bob carry the name themselves, so the field must
// not: it would be sent as well, as a second value.
var loginTemplate = template.Must(template.New("login").Parse(head + `
<h1>Who are you?</h1><p>A provider for trying things out. Any name will do, and any password. {{.Client}} asks.</p>
{{with .Problem}}<p id="problem" role="alert">{{.}}</p>{{end}}
<form method="post" action="/authorize" class="who">{{range .Hidden}}<input type="hidden" name="{{.Name}}" value="{{.Value}}">{{end}}
<button name="username" value="alice" id="as-alice">Alice</button><button name="username" value="bob" id="as-bob">Bob</button></form>
<form method="post" action="/authorize">{{range .Hidden}}<input type="hidden" name="{{.Name}}" value="{{.Value}}">{{end}}
<label>Name<input name="username" id="username" value="{{.Hint}}" autocomplete="username" autofocus required maxlength="64"></label>
<label>Password<input name="password" id="password" type="password" autocomplete="current-password"></label>
<button class="main" id="submit">Log in</button>
<button class="cancel" name="cancel" value="1" id="cancel" formnovalidate>Cancel</button></form></main></body></html>`))

var errorPage = template.Must(template.New("error").Parse(head + `<h1>That did not work</h1><p id="problem">{{.Text}}</p></main></body></html>`))

var signOutPage = template.Must(template.New("signout").Parse(head + `<h1>Sign out?</h1><p>Of this provider, in this browser.</p>
<form method="post" action="/end_session"><input type="hidden" name="confirm" value="1"><button class="main" id="submit">Sign out</button></form></main></body></html>`))

var signedOutPage = template.Must(template.New("signedout").Parse(head + `<h1 id="signed-out">You are signed out</h1>
{{with .Next}}<p><a id="next" href="{{.}}">Continue</a></p>{{end}}{{range .Frames}}<iframe src="{{.}}" hidden></iframe>{{end}}</main></body></html>`))

const pagePolicy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"

type hidden struct{ Name, Value string }

type pageData struct {
	Title, Text, Client, Hint, Problem string
	Hidden                             []hidden
	Next                               string
	Frames                             []string
}

func (x *exchange) loginPage(ar authRequest, form url.Values) {
	d := pageData{Title: "Log in", Client: ar.client.ID, Hint: ar.hint}
	if x.r.Method == http.MethodPost {
		d.Problem = "Please give a name."
	}
	for _, name := range slices.Sorted(maps.Keys(form)) {
		if name != "username" && name != "password" {
			d.Hidden = append(d.Hidden, hidden{name, form.Get(name)})
		}
	}
	x.render(http.StatusOK, loginTemplate, d)
}

// signedOut tells the clients with a front channel by iframes. The person goes on
// by hand, when they had their time.
func (x *exchange) signedOut(frames []string, next string) {
	x.render(http.StatusOK, signedOutPage, pageData{Title: "Provider", Next: next, Frames: frames})
	if len(frames) > 0 {
		x.header.Set("Content-Security-Policy", pagePolicy+"; frame-src *")
	}
}

func (x *exchange) page(status int, t *template.Template, text string) {
	x.render(status, t, pageData{Title: "Provider", Text: text})
}

func (x *exchange) render(status int, t *template.Template, d pageData) {
	x.status = status
	x.header.Set("Content-Type", "text/html; charset=utf-8")
	x.header.Set("Cache-Control", "no-store")
	x.header.Set("Referrer-Policy", "no-referrer")
	// No form-action: it would stop the redirect to the client that follows the login.
	x.header.Set("Content-Security-Policy", pagePolicy)
	if err := t.Execute(&x.body, d); err != nil {
		panic(err) // unreachable: the templates are fixed and write to memory
	}
}

// picture draws a user's initial.
func (x *exchange) picture() {
	name := strings.TrimSuffix(x.r.PathValue("file"), ".svg")
	initial, hue := "?", 0
	for i, r := range name {
		if i == 0 {
			initial = strings.ToUpper(string(r))
		}
		hue = (hue*31 + int(r)) % 360
	}
	x.header.Set("Content-Type", "image/svg+xml")
	x.header.Set("Cache-Control", "max-age=3600")
	fmt.Fprintf(&x.body, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 40"><rect width="40" height="40" fill="hsl(%d 55%% 45%%)"/>`+
		`<text x="20" y="27" font-family="sans-serif" font-size="20" fill="#fff" text-anchor="middle">%s</text></svg>`,
		hue, template.HTMLEscapeString(initial))
}
