package web

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
)

// sampleErrors stand for the gateway's.
var sampleErrors = []ErrorPage{{Code: "no_route", Status: 404, Title: "There is nothing here."}, {Code: "internal", Status: 500, Title: "Something went wrong."}}

const onwardTemplate = `<!doctype html><title>{{.Title}}</title><meta http-equiv="refresh" content="0; url={{.Link}}"><style>p{color:red}</style><p>Weiter …<a href="{{.Link}}">hier</a>`

func TestOwnPages(t *testing.T) {
	p, err := ParsePages(map[string]string{
		"error.html": "<!doctype html><style>\r\nh1 { color: teal }\r\n</style><STYLE media=print>h1 { color: black }</STYLE>" +
			`<h1>{{if eq .Code "no_route"}}Hier ist nichts{{else}}{{.Title}}{{end}}</h1><i>{{.Status}} {{.Detail}} {{.TraceID}}</i>{{with .LoginURL}}<a href="{{.}}">Anmelden</a>{{end}}{{if .Again}}noch einmal{{end}}`,
		"onward.html": onwardTemplate,
	}, sampleErrors, nil)
	if err != nil {
		t.Fatal(err)
	}
	h, status, body := rendered(func(w http.ResponseWriter) {
		w.Header().Set("Set-Cookie", "a=1")
		p.Error(w, 404, ErrorPage{Code: "no_route", Detail: "</i><script>alert(1)</script>", TraceID: "0af7", LoginURL: "//evil.test", Again: true})
	})
	if status != 404 || !strings.Contains(body, "<h1>Hier ist nichts</h1><i>404 &lt;/i&gt;&lt;script&gt;alert(1)&lt;/script&gt; 0af7</i>noch einmal") || strings.Contains(body, "evil") {
		t.Errorf("%d\n%s", status, body)
	}
	// As a browser hashes them: its parser has one kind of line end.
	want := "default-src 'none'; style-src"
	for _, css := range []string{"\nh1 { color: teal }\n", "h1 { color: black }"} {
		sum := sha256.Sum256([]byte(css))
		want += " 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	want += "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	for header, want := range map[string]string{
		"Content-Security-Policy": want, "Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
		"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin", "Set-Cookie": "a=1",
	} {
		if got := h.Get(header); got != want {
			t.Errorf("%s = %q; want %q", header, got, want)
		}
	}
	for target, want := range map[string]string{"/orders/17?a=1&b='2'": "/orders/17?a=1&b=%272%27", "//evil.test/": "/"} {
		_, _, body := rendered(func(w http.ResponseWriter) { p.Bounce(w, target) })
		if auto, link := destinations(t, body); auto != want || link != want || !strings.Contains(body, "Weiter") {
			t.Errorf("to %q and %q; want %q", auto, link, want)
		}
	}
	end := "https://id.test/end?id_token_hint=a.b-c_d&state=x"
	u, _ := url.Parse(end)
	_, _, body = rendered(func(w http.ResponseWriter) { p.Leave(w, u) })
	if auto, link := destinations(t, body); auto != end || link != end {
		t.Errorf("to %q and %q; want %q", auto, link, end)
	}
	// There is no template for this one.
	_, _, body = rendered(func(w http.ResponseWriter) { p.LoggedOut(w, true, "/") })
	if _, _, ours := rendered(func(w http.ResponseWriter) { builtIn.LoggedOut(w, true, "/") }); body != ours {
		t.Errorf("in place of ours:\n%s", body)
	}
}

// The templates in docs/configuration.md serve.
func TestDocumentedTemplates(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile("(?s)```html\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(shown) != 2 {
		t.Fatalf("%d templates are shown", len(shown))
	}
	if _, err := ParsePages(map[string]string{"onward.html": shown[0][1], "error.html": shown[1][1]}, sampleErrors, nil); err != nil {
		t.Error(err)
	}
}

// Whatever is wrong with templates is told before they serve, all at once.
func TestParsePagesRefuses(t *testing.T) {
	for _, row := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"none", map[string]string{}, "holds none of error.html, logged-out.html, onward.html"},
		{"another name", map[string]string{"errors.html": "x"}, `"errors.html" is no page of the gateway's; it has error.html, logged-out.html, onward.html`},
		{"not a template", map[string]string{"error.html": "<p>\n{{.Code"}, `error.html: line 2: unclosed action`},
		{"no such function", map[string]string{"error.html": "{{env \"HOME\"}}"}, `error.html: line 1: function "env" not defined`},
		{"no such field", map[string]string{"logged-out.html": "\n\n{{.Token}}"}, `logged-out.html: line 3: at <.Token>: can't evaluate field Token in type web.loggedOut`},
		{"no such field, on one page alone", map[string]string{"error.html": `x{{if eq .Code "no_route"}}{{.Nothing}}{{end}}`}, `error.html: line 1: at <.Nothing>: can't evaluate field Nothing in type web.ErrorPage`},
		{"no such field, where an error has all", map[string]string{"error.html": `x{{if .Again}}{{.Nothing}}{{end}}`}, `error.html: line 1: at <.Nothing>: can't evaluate field Nothing in type web.ErrorPage`},
		{"no such field, where an error has nothing", map[string]string{"error.html": `{{if not .TraceID}}{{.Nothing}}{{end}}`}, `error.html: line 1: at <.Nothing>: can't evaluate field Nothing in type web.ErrorPage`},
		{"a half-open tag", map[string]string{"error.html": "<a href='{{.LoginURL}}>x</a>"}, `error.html: ends in a non-text context`},
		{"a script", map[string]string{"error.html": "<SCRIPT src=x></SCRIPT>"}, `error.html: holds a script, and no page of the gateway's runs any`},
		{"too much", map[string]string{"error.html": `{{range 100000}}0123456789{{end}}`}, `error.html: makes a page of more than 256 KiB`},
		{"nothing", map[string]string{"error.html": ""}, "error.html: makes an empty page"},
		{"leads nowhere", map[string]string{"onward.html": `<a href="{{.Link}}">on</a>`}, `onward.html: holds no <meta http-equiv="refresh" content="0; url={{.Link}}">, spelled like this`},
		{"leads somewhere else", map[string]string{"onward.html": `<meta http-equiv="refresh" content="0; url=/">`}, `onward.html: holds no <meta http-equiv="refresh" content="0; url={{.Link}}">, spelled like this`},
		{"leads nowhere at times", map[string]string{"onward.html": `{{if eq (slice .Link 0 1) "/"}}` + onwardTemplate + `{{else}}x{{end}}`}, `onward.html: holds no <meta http-equiv="refresh" content="0; url={{.Link}}">, spelled like this`},
		{"all at once", map[string]string{"onward.html": "", "error.html": "{{", "x.html": ""}, "error.html: line 1: unclosed action\n" +
			"onward.html: makes an empty page\n" + `"x.html" is no page of the gateway's; it has error.html, logged-out.html, onward.html`},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := ParsePages(row.files, sampleErrors, nil)
			if got := fmt.Sprint(err); got != row.want {
				t.Errorf("got\n%s\nwant\n%s", got, row.want)
			}
		})
	}
}

// A template that fails all the same costs nobody the page, and the log is not
// told what it was to show.
func TestOwnPageThatFails(t *testing.T) {
	var log bytes.Buffer
	p, err := ParsePages(map[string]string{
		"onward.html": onwardTemplate + "\n" + `{{if eq (len .Link) 30}}{{index .Link .Title}}{{end}}`,
		"error.html":  `{{if eq .Detail "many"}}{{range 100000}}0123456789{{end}}{{end}}x`,
	}, sampleErrors, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	secret := "/x?code=a-secret-of-30-letters"
	_, status, body := rendered(func(w http.ResponseWriter) { p.Bounce(w, secret) })
	if _, _, ours := rendered(func(w http.ResponseWriter) { builtIn.Bounce(w, secret) }); status != 200 || body != ours {
		t.Errorf("in place of ours: %d\n%s", status, body)
	}
	if got := log.String(); !strings.Contains(got, `msg="a page's template failed, ours was shown" file=onward.html line=2`) || strings.Contains(got, "secret") {
		t.Errorf("log: %s", got)
	}
	h, status, body := rendered(func(w http.ResponseWriter) { p.Error(w, 502, ErrorPage{Code: "internal", Detail: "many"}) })
	if status != 502 || !strings.Contains(body, "<h1>Bad Gateway</h1>") || h.Get("Content-Security-Policy") != ourPolicy {
		t.Errorf("in place of ours: %d\n%s", status, body)
	}
}
