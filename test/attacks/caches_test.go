package attacks

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// K: no cache keeps what is one person's.
func TestK(t *testing.T) {
	t.Parallel()
	a := newArena(t, setup{provider: gatewaytest.Options{AccessLife: 4 * time.Second}, change: func(c rig.Config) {
		c.Set("apps.0.session.rotation_grace", "3s")
		c.Set("apps.0.session.cache_ttl", "1s")
	}})
	private := func(c *row, a *answer, what string) {
		c.Helper()
		if got := a.Header["Cache-Control"]; len(got) != 1 || got[0] != "no-store" {
			c.Errorf("%s: Cache-Control is %q", what, got)
		}
		for _, name := range []string{"ETag", "Last-Modified", "Expires", "Age", "Surrogate-Control", "Cdn-Cache-Control", "Cloudflare-Cdn-Cache-Control"} {
			if v := a.Header.Get(name); v != "" && name != "ETag" && name != "Last-Modified" {
				c.Errorf("%s: %s is %q", what, name, v)
			}
		}
	}
	a.row("K-01_token", func(c *row) {
		for _, lines := range []string{
			"", "If-None-Match: *\r\n", "If-None-Match: \"x\"\r\n", "If-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT\r\n", "Range: bytes=0-3\r\n", "If-Match: \"x\"\r\n", "If-Range: \"x\"\r\nRange: bytes=0-1\r\n", "Cache-Control: only-if-cached\r\n",
			"If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n",
		} {
			for _, path := range []string{"/bff/token", "/bff/user", "/bff/session", "/bff/sessions"} {
				x := c.send(get(path, fetched, a.cookie("alice"), lines))
				c.want(x, http.StatusOK, "")
				private(c, x.final(), path)
				if x.final().Header.Get("ETag") != "" || x.final().Header.Get("Last-Modified") != "" {
					c.Errorf("%s has validators", path)
				}
			}
		}
	})
	a.row("K-02_cookie_on_a_cacheable_answer", func(c *row) {
		c.up.teach("cacheable", wire("HTTP/1.1 200 OK\r\nCache-Control: public, s-maxage=31536000\r\nCDN-Cache-Control: max-age=600\r\nSurrogate-Control: max-age=600\r\nCloudflare-CDN-Cache-Control: max-age=600\r\nExpires: Thu, 01 Jan 2099 00:00:00 GMT\r\n"+
			"Edge-Control: cache\r\nX-Accel-Expires: 600\r\nPragma: cache\r\ncdn_cache_control: max-age=600\r\nContent-Length: 2\r\n\r\nok", true))
		// Until a successor leaves on such an answer.
		handed := 0
		for end := time.Now().Add(patience); handed == 0 && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			x := c.send(get("/app/x?do=cacheable", fetched, a.cookie("bob")))
			got := x.final()
			c.want(x, http.StatusOK, "")
			for _, k := range (&http.Response{Header: got.Header}).Cookies() {
				if k.Name == rig.SessionCookie {
					handed++
					a.w.Secret("a cookie", k.Value)
					a.user("bob").SetCookie(k.Value)
					private(c, got, "an answer with a successor")
					for name := range got.Header {
						if low := strings.ToLower(name); strings.Contains(low, "cache") && low != "cache-control" || strings.Contains(low, "surrogate") || strings.Contains(low, "expires") || strings.Contains(low, "edge") {
							c.Errorf("%s stays beside a cookie", name)
						}
					}
				}
			}
			if handed == 0 && !strings.Contains(got.Header.Get("Cache-Control"), "public") {
				c.Errorf("without a cookie the upstream's word stands: %q", got.Header.Get("Cache-Control"))
			}
		}
		if handed == 0 {
			c.Error("no successor was handed out")
		}
	})
	a.row("K-20_shared_caches", func(c *row) {
		// The upstream was asked with Authorization, and its answer is nobody else's by
		// RFC 9111 section 3.5. A cache in front of us has seen a cookie, which tells it
		// nothing: it has to be told.
		for i, test := range []struct{ sent, want string }{
			{"", "private"}, {"max-age=600", "max-age=600, private"}, {"max-age=600, must-revalidate", "max-age=600, must-revalidate, private"}, {"no-cache", "no-cache, private"},
			{"private, max-age=600", "private, max-age=600"}, {"PRIVATE", "PRIVATE"}, {"private=\"X-Note\"", "private=\"X-Note\", private"}, {"no-store", "no-store"},
			{"public, max-age=600", "public, max-age=600"}, {"s-maxage=600", "s-maxage=600"}, {"immutable\r\nCache-Control: max-age=5", "immutable, max-age=5, private"}, {"max-age=5, xpublic", "max-age=5, xpublic, private"},
		} {
			name := fmt.Sprintf("cache%d", i)
			header := "Last-Modified: Thu, 01 Jan 2015 00:00:00 GMT\r\nETag: \"x\"\r\nContent-Length: 2\r\n"
			if test.sent != "" {
				header += "Cache-Control: " + test.sent + "\r\n"
			}
			c.up.teach(name, wire("HTTP/1.1 200 OK\r\n"+header+"\r\nok", true))
			for _, target := range []string{"/app/x", "/maybe/x", "/page/x"} {
				x := c.send(get(target+"?do="+name, fetched, a.cookie("alice")))
				c.want(x, http.StatusOK, "")
				if got := strings.Join(x.final().Header["Cache-Control"], ", "); got != test.want && got != "no-store" { // with a successor
					c.Errorf("%s: %q became %q, want %q", target, test.sent, got, test.want)
				}
			}
			for _, target := range []string{"/public/x", "/maybe/x"} { // nobody's
				x := c.send(get(target+"?do="+name, fetched))
				if got := strings.Join(x.final().Header["Cache-Control"], "\r\nCache-Control: "); got != test.sent {
					c.Errorf("%s: %q became %q", target, test.sent, got)
				}
			}
		}
	})
	targetedRow(a)
	a.row("K-06_own_pages", func(c *row) {
		navigation := "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nAccept: text/html\r\n"
		for _, path := range []string{"/bff/login", "/bff/callback", "/bff/callback?code=x&state=y", "/bff/logged-out", "/bff/nothing", "/page/x", "/bff/token", "/bff/frontchannel-logout?iss=x&sid=y", "/bff/logout"} {
			private(c, c.send(get(path, navigation)).final(), path)
		}
		for _, path := range []string{"/page/x", "/bff/login"} {
			private(c, c.send(get(path, "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nAccept: text/html\r\n")).final(), path)
		}
	})
}
