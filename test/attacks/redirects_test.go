package attacks

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// A: nobody is sent to another site. A browser's own parser judges (the WHATWG's,
// as Node has it): where would it go?
func TestA(t *testing.T) {
	t.Parallel()
	a := newArena(t, setup{provider: gatewaytest.Options{AutoLogin: gatewaytest.As("alice")}, change: func(c rig.Config) {
		routes := c["apps"].([]any)[0].(map[string]any)["routes"].([]any)
		last := routes[len(routes)-1].(map[string]any)
		last["auth"], last["kind"] = "required", "page" // every path leads to the login
	}})
	corpus, err := os.ReadFile("testdata/open-redirects.txt")
	if err != nil {
		t.Fatal(err)
	}
	var payloads []string
	for text := range strings.Lines(strings.ReplaceAll(string(corpus), "www.whitelisteddomain.tld", "app.test")) {
		payloads = append(payloads, strings.TrimSuffix(text, "\n"))
	}
	payloads = append(payloads, classes...)
	navigation := "Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nAccept: text/html\r\n"

	// stays demands that a browser at the app's origin, or at the callback, would stay
	// there.
	stays := func(c *row, locations map[string]string) {
		c.Helper()
		for payload, origin := range browse(c, locations) {
			if origin != rig.Origin {
				c.Errorf("%q leads to %q, by %q", payload, origin, locations[payload])
			}
		}
	}
	a.row("A-00_corpora", func(c *row) {
		locations := map[string]string{}
		for _, p := range payloads {
			for _, q := range []string{url.QueryEscape(p), url.QueryEscape(url.QueryEscape(p))} {
				locations[q] = c.land(navigation, "return_to="+q)
				if len(q) > 200 {
					break
				}
			}
		}
		stays(c, locations)
	})
	a.row("A-15_path_derived", func(c *row) {
		locations := map[string]string{}
		for _, p := range payloads {
			for _, target := range []string{p, "/" + p, "//" + p, "/page/" + p, strings.ReplaceAll(url.PathEscape(p), "%2F", "/")} {
				if strings.ContainsAny(target, "\r\n") {
					continue
				}
				x := c.send(get(target, navigation))
				switch s := x.status(); {
				case s == http.StatusSeeOther:
					locations[target] = x.final().Header.Get("Location")
				case s < 400 || s >= 500:
					c.Errorf("%q: %v", target, x)
				}
			}
		}
		stays(c, locations)
		// … and what stands in it leads nowhere else, either.
		inner := map[string]string{}
		for target, to := range locations {
			if u, err := url.Parse(to); err == nil && u.Query().Has("return_to") {
				inner[target] = u.Query().Get("return_to")
			}
		}
		stays(c, inner)
		for _, lines := range []string{"X-Forwarded-Host: evil.test\r\n", "X-Forwarded-Proto: ftp\r\n", "Forwarded: host=evil.test\r\n", "X-Original-URL: //evil.test/\r\n", "X-Forwarded-Prefix: //evil.test\r\n", "Referer: https://evil.test/\r\n"} {
			x := c.send(get("/page/x", navigation, lines))
			if to := x.final().Header.Get("Location"); to != rig.Origin+"/bff/login?return_to=/page/x" {
				c.Errorf("%q: %q", lines, to)
			}
		}
	})
	a.row("A-05_error_pages", func(c *row) {
		// Also B-13: what the provider's answer says of itself is shown to nobody.
		for _, p := range payloads {
			q := url.QueryEscape(p)
			for _, path := range []string{"/bff/callback?error=" + q + "&error_description=" + q + "&state=" + q, "/bff/logged-out?state=" + q + "&return_to=" + q, "/bff/nothing?" + q, "/bff/callback?code=" + q + "&state=" + q + "&iss=" + q} {
				x := c.send(get(path, navigation))
				if x.final() == nil || x.final().Header.Get("Location") != "" {
					c.Errorf("%s: %v", path, x)
				} else if len(p) > 8 && strings.Contains(string(x.final().Body), p) {
					c.Errorf("%s shows %q", path, p)
				}
			}
			if len(p) > 120 {
				break
			}
		}
		for _, path := range []string{"/bff/callback?error=access_denied&error_description=" + strings.Repeat("x", 20<<10) + "&state=x", "/bff/callback?error=x&code=y&state=z", "/bff/callback?error=a&error=b&state=x"} {
			if x := c.send(get(path, navigation, a.cookie("alice"))); x.status() != http.StatusBadRequest || len(x.got) > 8<<10 {
				c.Errorf("%.60s: %v", path, x)
			}
		}
		c.want(c.send(get("/app/x", fetched, a.cookie("alice"))), http.StatusOK, "")
	})
	a.row("A-16_pollution", func(c *row) {
		locations := map[string]string{}
		for _, q := range []string{
			"return_to=/ok&return_to=//evil.test", "return_to=//evil.test&return_to=/ok", "return_to[]=//evil.test", "return_to=/ok&Return_To=//evil.test", "return_to=/ok;return_to=//evil.test", "return_to=/ok%26return_to=//evil.test", "rd=//evil.test&redirect=//evil.test&next=//evil.test&url=//evil.test",
			"return_to=%2Fok%00//evil.test", "return%5Fto=//evil.test", "return_to", "return_to=", "=//evil.test", "target_link_uri=https://evil.test/&iss=https://evil.test", "return_to=/ok%23//evil.test",
		} {
			locations[q] = c.land(navigation, q)
		}
		stays(c, locations)
		x := c.send(post("/bff/login", "return_to=//evil.test", "Content-Type: application/x-www-form-urlencoded\r\n", fetched))
		c.want(x, http.StatusMethodNotAllowed, "")
	})
	a.row("A-17_refused_target", func(c *row) {
		// A refused target is "/", and nothing of it is kept: not in the URL, the
		// cookie is sealed, and the login is whole.
		if to := c.land(navigation, "return_to="+url.QueryEscape("https://evil.test/x")); to != rig.Origin+"/" {
			c.Errorf("landed on %q", to)
		}
		if to := c.land(navigation, "return_to="+url.QueryEscape("/app/y?a=b#c")); to != rig.Origin+"/app/y?a=b#c" {
			c.Errorf("landed on %q", to)
		}
	})
	a.row("A-19_logout", func(c *row) {
		locations := map[string]string{}
		for _, p := range append([]string{"https://evil.test/", "//evil.test"}, classes...) {
			q := url.QueryEscape(p)
			x := c.send(post("/bff/logout?post_logout_redirect_uri="+q+"&return_to="+q+"&rd="+q, "return_to="+q, "Content-Type: application/x-www-form-urlencoded\r\n", "Sec-Fetch-Site: same-origin\r\n"))
			c.want(x, http.StatusOK, "")
			if len(p) > 8 && strings.Contains(string(x.got), "evil") {
				c.Errorf("%q: %.300q", p, x.final().Body)
			}
			x = c.send(get("/bff/logged-out?state="+q+"&post_logout_redirect_uri="+q, navigation))
			locations[p] = x.final().Header.Get("Location")
		}
		stays(c, locations)
	})
	a.row("B-15_hosts", func(c *row) {
		for _, lines := range []string{"X-Forwarded-Host: evil.test\r\n", "Forwarded: host=evil.test\r\n", "X-Host: evil.test\r\nX-Forwarded-Server: evil.test\r\n", "Origin: https://evil.test\r\n"} {
			to := c.send(get("/bff/login", navigation, lines)).final().Header.Get("Location")
			if u, err := url.Parse(to); err != nil || u.Query().Get("redirect_uri") != rig.Origin+"/bff/callback" || strings.Contains(to, "evil") {
				c.Errorf("%q: %q", lines, to)
			}
		}
		for _, host := range []string{"evil.test", "app.test.evil.test", "app.test@evil.test", "evil.test:443", "127.0.0.1", "localhost", "APP.TEST.", "[::1]"} {
			x := c.send("GET /bff/login HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n" + navigation + "\r\n")
			if s := x.status(); s != http.StatusMisdirectedRequest && s != http.StatusBadRequest {
				c.Errorf("%s: %v", host, x)
			}
		}
	})
	a.row("B-16_parameters", func(c *row) {
		for _, q := range []string{
			"scope=admin&prompt=none&redirect_uri=https://evil.test/&client_id=evil&resource=x&response_type=token&state=evil&nonce=evil&code_challenge=evil&code_challenge_method=plain&request=x&request_uri=https://evil.test/&response_mode=form_post&registration=x&claims=x",
			"login_hint=x%26scope%3Dadmin%26redirect_uri%3Dhttps://evil.test", "prompt=a&prompt=b", "login_hint=%0d%0aLocation:%20https://evil.test", "login_hint=" + strings.Repeat("x", 9000), "prompt=login%20none&login_hint=%00", "ui_locales=%ff",
		} {
			x := c.send(get("/bff/login?"+q, navigation))
			if x.status() != http.StatusSeeOther {
				continue
			}
			u, err := url.Parse(x.final().Header.Get("Location"))
			if err != nil || !strings.HasPrefix(u.String(), c.provider.Issuer()+"/") {
				c.Errorf("%.60s: %v", q, x.final().Header)
				continue
			}
			for name, values := range u.Query() {
				if len(values) != 1 {
					c.Errorf("%.60s: %s is sent %d times", q, name, len(values))
				}
				switch name {
				case "scope", "redirect_uri", "client_id", "response_type", "state", "nonce", "code_challenge", "code_challenge_method":
					if strings.Contains(values[0], "evil") || values[0] == "admin" || values[0] == "plain" || values[0] == "token" {
						c.Errorf("%.60s: %s is %q", q, name, values[0])
					}
				case "prompt", "login_hint", "ui_locales":
				default:
					c.Errorf("%.60s: %s is passed on", q, name)
				}
			}
		}
	})
}

// land logs in by a /bff/login with that query, and returns where it lands, as
// the gateway says it.
func (c *row) land(navigation, query string) string {
	c.Helper()
	jar := map[string]string{}
	step := func(path, site string) *answer {
		var pairs []string
		for k, v := range jar {
			pairs = append(pairs, k+"="+v)
		}
		cookie := ""
		if len(pairs) > 0 {
			cookie = "Cookie: " + strings.Join(pairs, "; ") + "\r\n"
		}
		got := c.send(get(path, strings.ReplaceAll(navigation, "none", site), cookie)).final()
		if got == nil {
			c.Fatalf("%s: no answer", path)
		}
		for _, k := range (&http.Response{Header: got.Header}).Cookies() {
			c.w.Secret("a cookie", k.Value)
			jar[k.Name] = k.Value
		}
		return got
	}
	to := step("/bff/login?"+query, "none").Header.Get("Location")
	resp, err := provided.Get(to)
	if err != nil {
		c.Fatalf("%s: %v", to, err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	back, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || back.Path != "/bff/callback" {
		c.Fatalf("the provider answers %d %s", resp.StatusCode, resp.Header.Get("Location"))
	}
	step(back.RequestURI(), "cross-site")
	landing := step("/bff/callback", "same-origin")
	if landing.Status != http.StatusSeeOther {
		c.Fatalf("%s: the callback answers %d %s", query, landing.Status, landing.code())
	}
	return landing.Header.Get("Location")
}

var provided = &http.Client{Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// browse says at which origin a browser would be after following each reference
// from a page of the app's. None is the app's own.
func browse(c *row, references map[string]string) map[string]string {
	c.Helper()
	in, err := json.Marshal(references)
	if err != nil {
		c.Fatal(err)
	}
	cmd := exec.Command("node", "-e", `
const refs = JSON.parse(require('fs').readFileSync(0, 'utf8')), out = {};
for (const [name, ref] of Object.entries(refs)) {
  if (/[\u0000-\u001f\u007f]/.test(ref)) { out[name] = 'control characters'; continue; }
  try { out[name] = new URL(ref, '`+rig.Origin+`/bff/callback').origin; } catch (e) { out[name] = '`+rig.Origin+`'; }
}
console.log(JSON.stringify(out));`)
	cmd.Stdin = strings.NewReader(string(in))
	text, err := cmd.Output()
	if err != nil {
		c.Fatalf("node: %v", err)
	}
	out := map[string]string{}
	if err := json.Unmarshal(text, &out); err != nil {
		c.Fatal(err)
	}
	if len(references) > 0 && len(out) == 0 {
		c.Fatal(fmt.Errorf("node judged nothing"))
	}
	return out
}

// classes are the catalogue's own, by ID, and variants of them.
var classes = []string{
	//
	`/\evil.test`, `\/\/evil.test`, `/\/evil.test`, `\\evil.test`, "/%5cevil.test", "//%5cevil.test", "https://%5cevil.test", `https:\\evil.test`, `/\\evil.test`, `\evil.test`, `/%5c%5cevil.test`, `/%5c/evil.test`,
	//
	"/%09/evil.test", "/%0a/evil.test", "/%0d/evil.test", "/%0b/evil.test", "/ /evil.test", "/\t\\evil.test", "/\t\t/\t/evil.test", "\x01//evil.test", "\x20//evil.test", "\x1f//evil.test", "/\n/evil.test", "/\r/evil.test", "\t//evil.test", "/\x00/evil.test", "/\x0b/evil.test", "/\x0c/evil.test", "/\u00a0/evil.test",
	//
	`/./\evil.test`, `/./../../\evil.test`, "/..//evil.test", "/x/..//evil.test", "/%2e%2e//evil.test", "/.//evil.test", "/x/%2e%2e//evil.test", "/x/..%2f/evil.test", "/.%2e//evil.test",
	//
	"http://evil.test:80#@app.test/", "http://evil.test:80?@app.test/", "http://evil.test%23.app.test/", "http://evil.test%3F.app.test/", "http://evil.test%2f%2f.app.test/", "http://evil.test%5c%5c.app.test/", `http://evil.test\.app.test`, "https://app.test@evil.test/", "https://app.test:80@evil.test", "//app.test@evil.test", "https://app.test.evil.test", "https://evil.test/app.test",
	//
	"http://0xd83ad6ce", "http://3627734734", "http://0330.072.0326.0316", "http://00330.0x3a.54990", "http://[::ffff:216.58.214.206]", "http:3627734734", "http://app.test@[::ffff:216.58.214.206]", "//3627734734", "//0xd83ad6ce",
	//
	"https:evil.test", "https:/evil.test", "hTTps://evil.test", "ftp://app.test/", ".evil.test", "@evil.test", "evil.test/x", "https:///evil.test", "http:////evil.test", ":@evil.test", "//evil.test:443", "?//evil.test", "#//evil.test",
	//
	"javascript:alert(1)", "java%0d%0ascript%0d%0a:alert(0)", `j\av\a\script:alert(1)`, "%19Jav%09asc%09ript:alert(1)", "javascripT://x%0D%0Aalert(1)", "data:text/html;base64,PHNjcmlwdD4=", "vbscript:x", `";alert(0);//`, "\x19javascript:alert(1)", "blob:https://app.test/x", "view-source:x", "<script>alert(1)</script>", "/\"><script>alert(1)</script>",
	//
	"〱evil.test", "〵evil.test", "ゝevil.test", "ーevil.test", "ｰevil.test", "//evil%E3%80%82test", "／／evil.test", "／＼evil.test", "\ufeff//evil.test", "\u200b//evil.test", "\xff\xfe//evil.test", "/／evil.test", "/＼evil.test", "/⁄evil.test", "//evil。test",
	//
	"//evil%00.test", "/%00//evil.test", "//app.test%00.evil.test", "/\x00//evil.test", "/ok%00//evil.test",
}
