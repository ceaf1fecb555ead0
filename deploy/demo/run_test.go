package main

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

// browser keeps cookies for the app and sends what a browser would. The
// standard jar won't do: it keeps Secure cookies from http://localhost.
type browser struct {
	t       *testing.T
	cookies map[string]string
}

func (b *browser) do(method, target, body string, header ...string) (*http.Response, string) {
	b.t.Helper()
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if req.URL.Hostname() == "localhost" {
		for name, value := range b.cookies {
			req.AddCookie(&http.Cookie{Name: name, Value: value})
		}
	}
	resp, err := plain.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if req.URL.Hostname() == "localhost" {
		for _, c := range resp.Cookies() {
			b.cookies[c.Name] = c.Value
			if c.MaxAge < 0 {
				delete(b.cookies, c.Name)
			}
		}
	}
	return resp, string(text)
}

func (b *browser) json(method, target string, header ...string) (int, map[string]any) {
	b.t.Helper()
	resp, text := b.do(method, target, "", append(header, "X-BFF", "1", "Sec-Fetch-Site", "same-origin")...)
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		b.t.Fatalf("%s %s: %d %.200s", method, target, resp.StatusCode, text)
	}
	return resp.StatusCode, m
}

// login walks the whole way, through the provider's page.
func (b *browser) login(origin, username string) {
	b.t.Helper()
	resp, _ := b.do("GET", origin+"/bff/login?return_to=/%3Fback", "", "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document")
	to, err := resp.Location()
	if err != nil {
		b.t.Fatalf("login: %d %v", resp.StatusCode, err)
	}
	form := to.Query()
	form.Set("username", username)
	resp, _ = b.do("POST", to.Scheme+"://"+to.Host+to.Path, form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	back, err := resp.Location()
	if err != nil {
		b.t.Fatalf("the provider's page: %d %v", resp.StatusCode, err)
	}
	b.do("GET", back.String(), "", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document")
	resp, text := b.do("GET", origin+"/bff/callback", "", "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document")
	if loc := resp.Header.Get("Location"); loc != "/?back" && loc != origin+"/?back" {
		b.t.Fatalf("landed at %d %q: %.300s", resp.StatusCode, loc, text)
	}
}

// output waits for texts that the demo prints.
type output struct {
	mu   sync.Mutex // guards text
	text strings.Builder
	more chan struct{}
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default:
	}
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (o *output) find(t *testing.T, ended <-chan error, pattern string) string {
	t.Helper()
	for deadline := time.After(3 * time.Minute); ; {
		if m := regexp.MustCompile(pattern).FindStringSubmatch(o.String()); m != nil {
			return m[1]
		}
		select {
		case <-o.more:
		case err := <-ended:
			t.Fatalf("the demo ended: %v\n%s", err, o)
		case <-deadline:
			t.Fatalf("%s is not in:\n%s", pattern, o)
		}
	}
}

// TestDemo runs the demo as make demo does, logs in as two people one after the
// other, calls the API both ways, and ends it.
func TestDemo(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	t.Setenv("TMPDIR", t.TempDir())
	s, err := readSettings(env("PORT", "0", "ACCESS_TTL", "5s", "GRACE", "2s"))
	if err != nil {
		t.Fatal(err)
	}
	out := &output{more: make(chan struct{}, 1)}
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, s, out) }()
	origin := out.find(t, ended, `Open +(http://localhost:\d+)`)
	b := &browser{t, map[string]string{}}

	_, index := b.do("GET", origin+"/", "")
	api := regexp.MustCompile(`name="demo-api" content="([^"]+)"`).FindStringSubmatch(index)
	if api == nil {
		t.Fatalf("the page: %.300s", index)
	}
	if status, m := b.json("POST", origin+"/bff/token"); status != 401 || m["code"] != "login_required" {
		t.Errorf("before the login: %d %v", status, m)
	}
	first := ""
	for _, name := range []string{"alice", "bob"} {
		b.login(origin, name)
		subject := gatewaytest.SubjectOf(name)
		status, token := b.json("POST", origin+"/bff/token")
		if status != 200 {
			t.Fatalf("token: %d %v\n%s", status, token, out)
		}
		if _, user := b.json("GET", origin+"/bff/user"); user["sub"] != subject {
			t.Errorf("user: %v", user)
		}
		if status, m := b.json("GET", api[1]+"/api/hello", "Origin", origin, "Authorization", "Bearer "+token["access_token"].(string)); status != 200 || m["subject"] != subject || m["via"] != "page" {
			t.Errorf("directly: %d %v", status, m)
		}
		if status, m := b.json("GET", origin+"/api/hello"); status != 200 || m["subject"] != subject || m["via"] != "gateway" || m["cookies_seen"] != 0.0 {
			t.Errorf("through the gateway: %d %v", status, m)
		}
		if first == "" {
			first = b.cookies["__Host-Http-cloakroom"]
		}
	}
	old := &browser{t, map[string]string{"__Host-Http-cloakroom": first}}
	if status, m := old.json("GET", origin+"/bff/user"); status != 401 || m["reason"] != "replaced" {
		t.Errorf("the first session, after the second login: %d %v", status, m)
	}

	// The token runs out; the ticket rotates on the way to the next one.
	before := maps.Clone(b.cookies)
	_, token := b.json("POST", origin+"/bff/token")
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(time.Minute); b.cookies["__Host-Http-cloakroom"] == before["__Host-Http-cloakroom"]; {
		if time.Now().After(deadline) {
			t.Fatalf("the ticket does not rotate\n%s", out)
		}
		<-look.C
		_, token = b.json("POST", origin+"/bff/token?min_ttl=2")
	}
	if token["access_token"] == nil {
		t.Errorf("after the rotation: %v", token)
	}

	status, m := b.json("POST", origin+"/bff/logout")
	to, _ := m["logout_url"].(string)
	if status != 200 || !strings.Contains(to, "/end_session?") {
		t.Fatalf("logout: %d %v", status, m)
	}
	resp, _ := b.do("GET", to, "")
	if loc := resp.Header.Get("Location"); !strings.HasPrefix(loc, origin+"/bff/logged-out?state=") {
		t.Errorf("the provider sends the browser to %q (%d)", loc, resp.StatusCode)
	}
	if status, _ := b.json("POST", origin+"/bff/token"); status != 401 {
		t.Errorf("after the logout: %d", status)
	}

	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the end: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the demo does not end")
	}
	for _, canary := range gatewaytest.Canaries() {
		if strings.Contains(out.String(), canary) {
			t.Errorf("%s is in what the demo prints", canary)
		}
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if _, err := plain.Get(origin); err == nil {
		t.Error("something still answers")
	}
}
