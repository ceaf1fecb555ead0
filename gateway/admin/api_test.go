package admin

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// Who may call, from where, and how (attacks U-02, U-04). Each row changes one
// thing about a call that works, and nothing may have happened.
func TestDoor(t *testing.T) {
	w := newWorld(t)
	ticket := w.begin(w.shop, "alice")
	end := fmt.Sprintf(`{"sid":%q}`, ticket.SID)
	set := func(name string, values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header[name] = values }
	}
	host := func(h string) func(*http.Request) { return func(r *http.Request) { r.Host = h } }
	for _, row := range []struct {
		name   string
		change func(*http.Request)
		status int
		code   string
	}{
		{"U-04 no token", func(r *http.Request) { r.Header.Del("Authorization") }, 401, "unauthorized"},
		{"U-04 empty token", set("Authorization", "Bearer "), 401, "unauthorized"},
		{"U-04 wrong token", set("Authorization", "Bearer "+testToken+"x"), 401, "unauthorized"},
		{"U-04 token cut short", set("Authorization", "Bearer "+testToken[:8]), 401, "unauthorized"},
		{"U-04 token with space", set("Authorization", "Bearer  "+testToken), 401, "unauthorized"},
		{"U-04 token by another scheme", set("Authorization", "Basic "+testToken), 401, "unauthorized"},
		{"U-04 token alone", set("Authorization", testToken), 401, "unauthorized"},
		{"U-04 two tokens", set("Authorization", "Bearer "+testToken, "Bearer "+testToken), 401, "unauthorized"},
		{"U-04 token in the query", func(r *http.Request) {
			r.Header.Del("Authorization")
			r.URL.RawQuery = "access_token=" + testToken
		}, 401, "unauthorized"},
		{"U-02 rebound name", host("evil.example:9090"), 421, "unknown_host"},
		{"U-02 rebound name that looks local", host("localhost.evil.example"), 421, "unknown_host"},
		{"U-02 rebound name with an address in it", host("127.0.0.1.evil.example:9090"), 421, "unknown_host"},
		{"U-02 another address", host("192.0.2.1:9090"), 421, "unknown_host"},
		{"U-02 public host", host("shop.example.com"), 421, "unknown_host"},
		{"U-02 no host", host(""), 421, "unknown_host"},
		{"U-02 form", set("Content-Type", "application/x-www-form-urlencoded"), 415, "unsupported_media_type"},
		{"U-02 plain text", set("Content-Type", "text/plain"), 415, "unsupported_media_type"},
		{"U-02 JSON in a parameter", set("Content-Type", "text/plain; x=application/json"), 415, "unsupported_media_type"},
		{"U-02 no content type", func(r *http.Request) { r.Header.Del("Content-Type") }, 415, "unsupported_media_type"},
		{"U-02 two content types", set("Content-Type", "application/json", "text/plain"), 415, "unsupported_media_type"},
		{"U-02 cross-site", set("Sec-Fetch-Site", "cross-site"), 403, "cross_origin_blocked"},
		{"U-02 same-site", set("Sec-Fetch-Site", "same-site"), 403, "cross_origin_blocked"},
		{"U-02 two sites", set("Sec-Fetch-Site", "same-origin", "cross-site"), 403, "cross_origin_blocked"},
		{"U-02 empty site", set("Sec-Fetch-Site", ""), 403, "cross_origin_blocked"},
		{"U-02 foreign origin", set("Origin", "https://evil.example"), 403, "cross_origin_blocked"},
		{"U-02 null origin", set("Origin", "null"), 403, "cross_origin_blocked"},
		{"U-02 own origin, foreign site", func(r *http.Request) {
			r.Header.Set("Origin", "http://"+testHost)
			r.Header.Set("Sec-Fetch-Site", "cross-site")
		}, 403, "cross_origin_blocked"},
		{"by GET", func(r *http.Request) { r.Method = "GET" }, 405, "method_not_allowed"},
		{"by DELETE", func(r *http.Request) { r.Method = "DELETE" }, 405, "method_not_allowed"},
		{"unknown path", func(r *http.Request) { r.URL.Path = "/admin/session/end" }, 404, "not_found"},
		{"path with a slash", func(r *http.Request) { r.URL.Path = "/admin/sessions/end/" }, 404, "not_found"},
		{"admin alone", func(r *http.Request) { r.URL.Path = "/admin" }, 404, "not_found"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := request("POST", "/admin/sessions/end", end)
			row.change(r)
			status, answer := w.do(r)
			if status != row.status || answer["code"] != row.code {
				t.Errorf("got %d %v, want %d %s", status, answer, row.status, row.code)
			}
			line := w.log.last(t)
			if line["audit"] != true || line["who"] != "admin" || line["level"] != "WARN" || line["code"] != row.code || line["status"] != float64(row.status) {
				t.Errorf("audited as %v", line)
			}
			// Without the token nothing is told of what there would be.
			for _, path := range []string{"/admin/", "/admin/nothing", "/admin/sessions"} {
				if row.status == 401 {
					r.URL.Path = path
					if status, _ := w.do(r); status != 401 {
						t.Errorf("%s: %d", path, status)
					}
				}
			}
		})
	}
	w.wantAlive(w.shop, ticket)
	if strings.Contains(w.log.text(), testToken) || strings.Contains(fmt.Sprintf("%v %+v %#v", w.api.Token(), *w.api, w.api.Token()), testToken) {
		t.Error("the token is shown")
	}

	for _, row := range []struct {
		name   string
		change func(*http.Request)
	}{
		{"own origin", set("Origin", "http://"+testHost)},
		{"own site", set("Sec-Fetch-Site", "same-origin")},
		{"typed in", set("Sec-Fetch-Site", "none")},
		{"localhost, forwarded", host("localhost:19090")},
		{"loopback, IPv6", host("[::1]:9090")},
		{"charset", set("Content-Type", "application/json; charset=utf-8")},
		{"scheme in lower case", set("Authorization", "bearer "+testToken)},
		{"the address it came to", func(r *http.Request) {
			r.Host = "192.0.2.1:9090"
			*r = *r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 9090})))
		}},
		{"socket", func(r *http.Request) {
			r.Host = "cloakroom"
			*r = *r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.UnixAddr{Name: "/run/x", Net: "unix"})))
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := request("POST", "/admin/sessions/end", end)
			row.change(r)
			if status, answer := w.do(r); status != 200 {
				t.Errorf("got %d %v", status, answer)
			}
		})
	}
}

// Where no token is set, the rest of the door stays shut.
func TestDoorWithoutToken(t *testing.T) {
	w := newWorld(t)
	w.api.Token = func() Token { return "" }
	r := request("GET", "/admin/sessions?sub=alice", "")
	r.Header.Del("Authorization")
	if status, answer := w.do(r); status != 200 {
		t.Errorf("got %d %v", status, answer)
	}
	r.Host = "evil.example"
	if status, _ := w.do(r); status != 421 {
		t.Errorf("rebound: got %d", status)
	}
	r.Host = testHost
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	if status, _ := w.do(r); status != 403 {
		t.Errorf("cross-site: got %d", status)
	}
}

// U-03: what needs no token tells nothing, and none of it asks for one.
func TestHealthTellsNothing(t *testing.T) {
	w := newWorld(t)
	w.redis.Kill()
	for _, path := range []string{"/healthz", "/readyz"} {
		rec := httptest.NewRecorder()
		w.handler.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		if rec.Code == 401 || len(strings.Fields(rec.Body.String())) != 1 {
			t.Errorf("%s: %d %q", path, rec.Code, rec.Body)
		}
	}
}

// Bodies that are not an order are refused whole.
func TestBodies(t *testing.T) {
	w := newWorld(t)
	ticket := w.begin(w.shop, "alice")
	sid := ticket.SID.String()
	flipped := slices.Clone(ticket.SID[:])
	flipped[0] ^= 1
	for _, row := range []struct {
		name, path, body string
		status           int
		code             string
	}{
		{"empty", "end", ``, 400, "invalid_request"},
		{"no JSON", "end", `sid=` + sid, 400, "invalid_request"},
		{"null", "end", `null`, 400, "invalid_request"},
		{"list", "end", `[{"sid":"` + sid + `"}]`, 400, "invalid_request"},
		{"cut short", "end", `{"sid":"` + sid + `"`, 400, "invalid_request"},
		{"trailing", "end", `{"sid":"` + sid + `"} {}`, 400, "invalid_request"},
		{"trailing bracket", "end", `{"sid":"` + sid + `"}}`, 400, "invalid_request"},
		{"nothing named", "end", `{}`, 400, "invalid_request"},
		{"unknown key", "end", `{"sid":"` + sid + `","force":true}`, 400, "invalid_request"},
		{"key in another case", "end", `{"SID":"` + sid + `"}`, 400, "invalid_request"},
		{"key twice", "end", `{"sid":"` + sid + `","sid":"` + sid + `"}`, 400, "invalid_request"},
		{"sid is null", "end", `{"sid":null,"app":"shop"}`, 400, "invalid_request"},
		{"sid is a number", "end", `{"sid":1}`, 400, "invalid_request"},
		{"sid is an object", "end", `{"sid":{"sid":"` + sid + `"}}`, 400, "invalid_request"},
		{"sid empty, whole app behind it", "end", `{"sid":"","app":"shop"}`, 400, "invalid_request"},
		{"sub empty, whole app behind it", "end", `{"sub":"","app":"shop"}`, 400, "invalid_request"},
		{"malformed sid", "end", `{"sid":"` + sid + `A"}`, 400, "invalid_request"},
		{"malformed sid, padded", "end", `{"sid":"` + sid + `=="}`, 400, "invalid_request"},
		{"malformed sid, a cookie's size", "end", `{"sid":"` + strings.Repeat("A", 300) + `"}`, 400, "invalid_request"},
		{"unknown sid", "end", fmt.Sprintf(`{"sid":%q}`, sidOf(flipped)), 404, "no_session"},
		{"sid and app", "end", `{"sid":"` + sid + `","app":"shop"}`, 400, "invalid_request"},
		{"sid and sub", "end", `{"sid":"` + sid + `","sub":"alice"}`, 400, "invalid_request"},
		{"sub without an app", "end", `{"sub":"alice"}`, 400, "invalid_request"},
		{"unknown app", "end", `{"sub":"alice","app":"shoe"}`, 404, "no_app"},
		{"unknown app, all of it", "end", `{"app":"Shop"}`, 404, "no_app"},
		{"reason over two lines", "end", `{"sid":"` + sid + `","reason":"a\nb"}`, 400, "invalid_request"},
		{"reason too long", "end", `{"sid":"` + sid + `","reason":"` + strings.Repeat("x", 257) + `"}`, 400, "invalid_request"},
		{"locked as text", "end", `{"sid":"` + sid + `","locked":"false"}`, 400, "invalid_request"},
		{"app locked", "end", `{"app":"shop","locked":true}`, 400, "invalid_request"},
		{"until without locked", "end", `{"sid":"` + sid + `","until":"2999-01-01T00:00:00Z"}`, 400, "invalid_request"},
		{"until is over", "end", `{"sid":"` + sid + `","locked":true,"until":"2001-01-01T00:00:00Z"}`, 400, "invalid_request"},
		{"until is the first year", "end", `{"sid":"` + sid + `","locked":true,"until":"0001-01-01T00:00:00Z"}`, 400, "invalid_request"},
		{"sub of half a surrogate pair", "end", `{"sub":"\ud800","app":"shop"}`, 400, "invalid_request"},
		{"sub not in UTF-8", "end", "{\"sub\":\"\xff\",\"app\":\"shop\"}", 400, "invalid_request"},
		{"until is a day", "end", `{"sid":"` + sid + `","locked":true,"until":"2999-01-01"}`, 400, "invalid_request"},
		{"oversize", "end", `{"sid":"` + sid + `","reason":"` + strings.Repeat("x", 16<<10) + `"}`, 413, "too_large"},
		{"oversize behind the object", "end", `{"sid":"` + sid + `"}` + strings.Repeat(" ", 16<<10), 413, "too_large"},
		{"unlock nothing", "unlock", `{}`, 400, "invalid_request"},
		{"unlock an app", "unlock", `{"app":"shop"}`, 400, "invalid_request"},
		{"unlock until", "unlock", `{"sid":"` + sid + `","until":"2999-01-01T00:00:00Z"}`, 400, "invalid_request"},
		{"unlock and lock", "unlock", `{"sid":"` + sid + `","locked":true}`, 400, "invalid_request"},
		{"unlock an unknown sid", "unlock", fmt.Sprintf(`{"sid":%q}`, sidOf(flipped)), 404, "no_session"},
	} {
		t.Run(row.name, func(t *testing.T) {
			status, answer := w.post(row.path, row.body)
			if status != row.status || answer["code"] != row.code {
				t.Errorf("got %d %v, want %d %s", status, answer, row.status, row.code)
			}
			if line := w.log.last(t); line["action"] != "sessions."+row.path || line["code"] != row.code {
				t.Errorf("audited as %v", line)
			}
		})
	}
	w.wantAlive(w.shop, ticket)
}

// FuzzOrder: whatever a body holds, it is refused or means one thing.
func FuzzOrder(f *testing.F) {
	f.Add(`{"sid":"AAAAAAAAAAAAAAAAAAAAAA"}`, true)
	f.Add(`{"sub":"alice","app":"shop","reason":"x","locked":true,"until":"2999-01-01T00:00:00Z"}`, true)
	f.Add(`{"app":"shop"}`, false)
	f.Fuzz(func(t *testing.T, body string, lock bool) {
		o, err := readOrder(strings.NewReader(body), lock)
		if err != nil {
			if p := explain(err); p.code != codeInvalidRequest {
				t.Errorf("refused with %s", p.code)
			}
			return
		}
		if !lock && (o.locked || !o.until.IsZero()) {
			t.Error("locks where it may not")
		}
		if strings.ContainsAny(o.reason, "\r\n\x1b") || len(o.reason) > maxReason {
			t.Errorf("reason %q", o.reason)
		}
	})
}
