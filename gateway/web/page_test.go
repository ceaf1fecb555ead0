package web

import (
	"crypto/sha256"
	"encoding/base64"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

func rendered(write func(http.ResponseWriter)) (http.Header, int, string) {
	w := httptest.NewRecorder()
	write(w)
	return w.Result().Header, w.Code, w.Body.String()
}

// builtIn are the pages of an app without templates of its own.
var builtIn *Pages

var styleSheets = regexp.MustCompile(`(?s)<style>(.*?)</style>`)

func TestPagesAreHarmless(t *testing.T) {
	for name, write := range map[string]func(http.ResponseWriter){
		"bounce": func(w http.ResponseWriter) { builtIn.Bounce(w, "/x") },
		"leave": func(w http.ResponseWriter) {
			builtIn.Leave(w, &url.URL{Scheme: "https", Host: "id.test", Path: "/end"})
		},
		"error": func(w http.ResponseWriter) {
			builtIn.Error(w, 502, ErrorPage{Code: "login_failed", LoginURL: "/bff/login"})
		},
		"loggedout": func(w http.ResponseWriter) { builtIn.LoggedOut(w, true, "/") },
	} {
		t.Run(name, func(t *testing.T) {
			h, _, body := rendered(write)
			for header, want := range map[string]string{
				"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
				"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin",
			} {
				if got := h.Get(header); got != want {
					t.Errorf("%s = %q; want %q", header, got, want)
				}
			}
			css := styleSheets.FindAllStringSubmatch(body, -1)
			if len(css) != 1 {
				t.Fatalf("%d style sheets", len(css))
			}
			sum := sha256.Sum256([]byte(css[0][1]))
			csp := h.Get("Content-Security-Policy")
			for _, want := range []string{
				"default-src 'none'", "style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'",
				"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
			} {
				if !strings.Contains(csp, want) {
					t.Errorf("policy %q lacks %q", csp, want)
				}
			}
			for _, never := range []string{"<script", "<img", "<link", "<iframe", "<form", "src=", "style=", "ZgotmplZ", "<no value>"} {
				if strings.Contains(body, never) {
					t.Errorf("the page holds %s", never)
				}
			}
		})
	}
}

var (
	refresh = regexp.MustCompile(`<meta http-equiv="refresh" content="0; url=([^"]*)">`)
	href    = regexp.MustCompile(`href="([^"]*)"`)
)

// destinations returns where a page leads: by itself, and by its link.
func destinations(t *testing.T, body string) (string, string) {
	t.Helper()
	m, a := refresh.FindAllStringSubmatch(body, -1), href.FindAllStringSubmatch(body, -1)
	if len(m) != 1 || len(a) != 1 {
		t.Fatalf("%d refreshes, %d links:\n%s", len(m), len(a), body)
	}
	return html.UnescapeString(m[0][1]), html.UnescapeString(a[0][1])
}

func TestBounce(t *testing.T) {
	tests := []struct{ name, target, want string }{
		{"path", "/orders/17", "/orders/17"},
		{"callback", "/bff/callback", "/bff/callback"},
		{"query", "/x?a=1&b=2&c=%2F%20", "/x?a=1&b=2&c=%2F%20"},
		{"query with a semicolon", "/x?a;b=url=//evil", "/x?a;b=url=//evil"},
		{"query with a URL", "/x?to=https://other.test/", "/x?to=https://other.test/"},
		{"escaped path", "/caf%C3%A9/100%25", "/caf%C3%A9/100%25"},
		{"markup", `/x?"><script>alert(1)</script>`, "/x?%22%3E%3Cscript%3Ealert(1)%3C/script%3E"},
		{"quotes", `/x?a='b'`, "/x?a=%27b%27"},
		{"percent sign", "/x?50%", "/x?50%"},
		{"not ASCII", "/x?caf\u00e9", "/x?caf%C3%A9"},
		{"A-15 two slashes", "//evil.test/", "/"},
		{"A-02 backslash", `/\evil.test`, "/"},
		{"A-02 backslash within", `/x\..\\evil.test`, "/"},
		{"A-03 tab", "/\t/evil.test", "/"},
		{"A-03 line end", "/\n/evil.test", "/"},
		{"A-03 space first", " //evil.test", "/"},
		{"A-09 another origin", "https://evil.test/", "/"},
		{"A-10 script", "javascript:alert(1)", "/"},
		{"nothing", "", "/"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, status, body := rendered(func(w http.ResponseWriter) { builtIn.Bounce(w, tt.target) })
			auto, link := destinations(t, body)
			mended := strings.NewReplacer("(", "%28", ")", "%29", "50%", "50%25").Replace(tt.want)
			if status != 200 || auto != tt.want || link != mended {
				t.Errorf("%d, to %q and %q; want %q", status, auto, link, tt.want)
			}
		})
	}
}

func TestLeave(t *testing.T) {
	for raw, want := range map[string]string{
		"https://id.test/end?id_token_hint=a.b-c_d&post_logout_redirect_uri=https%3A%2F%2Fapp.test%2Fbff%2Flogged-out&state=x": "https://id.test/end?id_token_hint=a.b-c_d&post_logout_redirect_uri=https%3A%2F%2Fapp.test%2Fbff%2Flogged-out&state=x",
		"http://localhost:9000/end": "http://localhost:9000/end",
		"javascript:alert(1)":       "/",
		"data:text/html,x":          "/",
		"/end":                      "/",
		"https:":                    "/",
	} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		_, _, body := rendered(func(w http.ResponseWriter) { builtIn.Leave(w, u) })
		if auto, link := destinations(t, body); auto != want || link != want {
			t.Errorf("%s: to %q and %q; want %q", raw, auto, link, want)
		}
	}
	_, _, body := rendered(func(w http.ResponseWriter) { builtIn.Leave(w, nil) })
	if auto, _ := destinations(t, body); auto != "/" {
		t.Errorf("nil: to %q", auto)
	}
}

func TestErrorPage(t *testing.T) {
	_, status, body := rendered(func(w http.ResponseWriter) {
		builtIn.Error(w, 502, ErrorPage{Code: "login_failed", Title: "Login failed", Detail: "</p><script>alert(1)</script>", TraceID: "0af7", LoginURL: "/bff/login?return_to=/x"})
	})
	for _, want := range []string{"<h1>Login failed</h1>", "<title>Login failed</title>", "login_failed", "0af7", `href="/bff/login?return_to=/x"`, "&lt;script&gt;"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q:\n%s", want, body)
		}
	}
	if status != 502 {
		t.Errorf("status %d", status)
	}
	_, _, body = rendered(func(w http.ResponseWriter) {
		builtIn.Error(w, 404, ErrorPage{Code: "no_route", LoginURL: "//evil.test"})
	})
	if !strings.Contains(body, "<h1>Not Found</h1>") || strings.Contains(body, "href") || strings.Contains(body, "Trace") || strings.Contains(body, "evil") {
		t.Errorf("bare page:\n%s", body)
	}
}

func TestLoggedOut(t *testing.T) {
	for link, want := range map[string]bool{"/": true, "/bff/login": true, "": false, "https://evil.test/": false, "//evil.test": false} {
		_, status, body := rendered(func(w http.ResponseWriter) { builtIn.LoggedOut(w, true, link) })
		if has := strings.Contains(body, `href="`+link+`"`); status != 200 || has != want || strings.Contains(body, "evil") {
			t.Errorf("%q: %d\n%s", link, status, body)
		}
	}
}

func TestHeadersBeforehandStay(t *testing.T) {
	h, _, _ := rendered(func(w http.ResponseWriter) {
		w.Header().Set("Set-Cookie", "a=1")
		builtIn.Bounce(w, "/")
	})
	if h.Get("Set-Cookie") != "a=1" {
		t.Error("a cookie is lost")
	}
}

func FuzzBounce(f *testing.F) {
	for _, s := range []string{"/x?a=1", "//evil", `/\evil`, "/\t/evil", `/"><script>`, "/;url=//evil", "/x?'", "/%", "/\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		_, _, body := rendered(func(w http.ResponseWriter) { builtIn.Bounce(w, target) })
		auto, link := destinations(t, body)
		for _, to := range []string{auto, link} {
			if !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.HasPrefix(to, `/\`) || strings.ContainsAny(to, "\x00\t\r\n \"'<>") {
				t.Errorf("%q leads to %q", target, to)
			}
		}
	})
}
