package rig

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/session/storetest"
)

// Origin is the app's origin where a test names no other: TLS ends in front of
// the gateway, as in most deployments.
const Origin = "https://app.test"

// maxCookie is what design.md allows a session cookie, name included.
const maxCookie = 300

// otherCookies is how the names of the gateway's cookies begin that no session is in.
const otherCookies = "__Host-cloakroom-"

// World is a deployment: replicas of one gateway on one Redis, for one app.
type World struct {
	t        testing.TB
	Origin   string
	Redis    *storetest.Server
	Upstream *Upstream
	Config   Config
	Gateways []*Gateway // while browsers are busy, change it by [World.Roll] alone
	Binary   string     // what [World.Start] runs; default: the built cloakroom
	Env      []string   // further settings of what [World.Start] runs

	mu      sync.Mutex
	secrets map[string]string // value to what it is; guarded by mu
	outputs []*Process        // guarded by mu
	rolling sync.RWMutex      // guards Gateways against Roll
}

// Setup says what a World is made of.
type Setup struct {
	Provider Registration
	Replicas int               // default 1; -1 starts none
	Origin   string            // default [Origin]
	Redis    *storetest.Server // default: a new one
	Change   func(Config)      // has the last word on the configuration
}

// New starts a World and waits until its gateways are ready.
func New(t testing.TB, s Setup) *World {
	t.Helper()
	w := &World{t: t, Origin: s.Origin, Redis: s.Redis, secrets: map[string]string{}}
	if w.Origin == "" {
		w.Origin = Origin
	}
	if w.Redis == nil {
		w.Redis = storetest.Redis(t)
	}
	w.Upstream = NewUpstream(t)
	key, _, code := Run(t, "keys", "new")
	if code != 0 {
		t.Fatalf("rig: cloakroom keys new: exit code %d", code)
	}
	key = strings.TrimSpace(key)
	w.Secret("server key", key)
	w.Secret("client secret", s.Provider.ClientSecret)

	w.Config = Config{
		"version": 1,
		"listen":  "127.0.0.1:0",
		"redis":   map[string]any{"addresses": []any{w.Redis.Addr()}, "timeout": "2s"},
		"keys":    []any{"${file:" + WriteFile(t, "key", key+"\n") + "}"},
		"admin":   map[string]any{"listen": "127.0.0.1:0"},
		"log":     map[string]any{"level": "debug", "format": "json"},
		"apps": []any{map[string]any{
			"name":   "shop",
			"origin": w.Origin,
			"provider": map[string]any{
				"issuer":        s.Provider.Issuer,
				"client_id":     s.Provider.ClientID,
				"client_auth":   s.Provider.ClientAuth,
				"client_secret": "${file:" + WriteFile(t, "client-secret", s.Provider.ClientSecret) + "}",
				"scopes":        s.Provider.Scopes,
				"login_params":  []any{"prompt", "login_hint"},
			},
			"session": map[string]any{},
			"token":   map[string]any{"mode": "relay"},
			"routes": []any{
				map[string]any{"path": "/api/", "upstream": w.Upstream.URL, "strip_prefix": "/api"},
				map[string]any{"path": "/landing", "upstream": w.Upstream.URL, "kind": "page", "auth": "none", "token": "none"},
			},
		}},
	}
	if s.Change != nil {
		s.Change(w.Config)
	}

	t.Cleanup(w.sweep) // runs when the gateways are gone
	if s.Replicas == 0 {
		s.Replicas = 1
	}
	for range s.Replicas {
		w.Start()
	}
	for _, g := range w.Gateways {
		g.WaitReady()
	}
	return w
}

func (w *World) host() string {
	_, host, _ := strings.Cut(w.Origin, "://")
	return host
}

// Gateway is one running replica.
type Gateway struct {
	*Process
	w      *World
	config string // its file
	Public string // host:port
	Admin  string // host:port
}

// Start starts one more replica and waits until it listens.
func (w *World) Start() *Gateway {
	w.t.Helper()
	g := w.start()
	w.Gateways = append(w.Gateways, g)
	return g
}

// Roll replaces a replica as a rolling deploy does: another is started, gets the
// requests when it is ready, and the old one is told to end. It returns the old
// one's exit code.
func (w *World) Roll(i int) int {
	w.t.Helper()
	g := w.start()
	g.WaitReady()
	w.rolling.Lock()
	old := w.Gateways[i]
	w.Gateways = slices.Clone(w.Gateways)
	w.Gateways[i] = g
	w.rolling.Unlock()
	return old.Terminate()
}

// turn is the replica whose turn it is.
func (w *World) turn(n int) *Gateway {
	w.rolling.RLock()
	defer w.rolling.RUnlock()
	return w.Gateways[n%len(w.Gateways)]
}

func (w *World) start() *Gateway {
	w.t.Helper()
	program := w.Binary
	if program == "" {
		program = binary
	}
	config := w.Config.Write(w.t)
	cmd := exec.Command(program, "serve", "--config", config)
	cmd.Env = append(environ(), w.Env...)
	g := &Gateway{Process: Start(w.t, cmd), w: w, config: config}
	w.mu.Lock()
	w.outputs = append(w.outputs, g.Process)
	w.mu.Unlock()
	Eventually(w.t, "cloakroom listens", func() bool {
		for _, line := range g.Log("listening") {
			switch line["listener"] {
			case "public":
				g.Public, _ = line["address"].(string)
			case "admin":
				g.Admin, _ = line["address"].(string)
			}
		}
		select {
		case <-g.Done():
			w.t.Fatalf("cloakroom ended at start:\n%s", g.Output())
		default:
		}
		return g.Public != "" && g.Admin != ""
	})
	return g
}

// Log lists the log lines with that msg.
func (g *Gateway) Log(msg string) []map[string]any {
	var found []map[string]any
	for line := range strings.Lines(g.Output()) {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil && fields["msg"] == msg {
			found = append(found, fields)
		}
	}
	return found
}

// Ready reports whether /readyz says so.
func (g *Gateway) Ready() bool {
	resp, err := client.Get("http://" + g.Admin + "/readyz")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// WaitReady waits for it.
func (g *Gateway) WaitReady() {
	g.w.t.Helper()
	Eventually(g.w.t, "cloakroom is ready", func() bool {
		select {
		case <-g.Done():
			g.w.t.Fatalf("cloakroom ended:\n%s", g.Output())
		default:
		}
		return g.Ready()
	})
}

// Metrics is the text of /metrics.
func (g *Gateway) Metrics() string {
	g.w.t.Helper()
	resp, err := client.Get("http://" + g.Admin + "/metrics")
	if err != nil {
		g.w.t.Fatalf("metrics: %v", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		g.w.t.Fatalf("metrics: %v", err)
	}
	return string(text)
}

// Reload has the gateway take the world's configuration over as it is now.
func (g *Gateway) Reload() {
	g.w.t.Helper()
	reloads := func() int { // in both formats
		text := g.Output()
		return strings.Count(text, `"msg":"reloaded"`) + strings.Count(text, " msg=reloaded ")
	}
	before := reloads()
	next := g.config + ".next"
	if err := os.WriteFile(next, []byte(g.w.Config.text(g.w.t)), 0o600); err != nil {
		g.w.t.Fatalf("rig: %v", err)
	}
	if err := os.Rename(next, g.config); err != nil {
		g.w.t.Fatalf("rig: %v", err)
	}
	g.Signal(syscall.SIGHUP)
	Eventually(g.w.t, "cloakroom has reloaded", func() bool { return reloads() > before })
}

// Terminate asks the gateway to end (SIGTERM) and returns its exit code.
func (g *Gateway) Terminate() int {
	g.w.t.Helper()
	g.Signal(syscall.SIGTERM)
	return g.Wait(Patience)
}

// Secret adds a text that no gateway may ever print.
func (w *World) Secret(what, value string) {
	if len(value) < 8 {
		return // too short to be told from chance
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secrets[value] = what
}

// Secrets are the texts that may be nowhere in clear, and what each is.
func (w *World) Secrets() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.secrets)
}

// note remembers what a login carries in its URLs.
func (w *World) note(q url.Values) {
	for _, name := range []string{"code", "state", "nonce", "code_challenge"} {
		w.Secret(name, q.Get(name))
	}
}

// inspect holds every answer of a gateway against what no answer may do, and
// remembers the secrets in it.
func (w *World) inspect(req Request, r *Response) {
	w.t.Helper()
	where := req.Method + " " + r.URL.Path
	for _, c := range r.SetCookies {
		w.Secret("a cookie", c.Value)
		var wrong []string
		expect := func(ok bool, what string) {
			if !ok {
				wrong = append(wrong, what)
			}
		}
		expect(c.Secure, "Secure is missing")
		expect(c.HttpOnly, "HttpOnly is missing")
		expect(c.Path == "/", "Path is not /")
		expect(c.Domain == "", "it has a Domain")
		expect(strings.Contains(r.Header.Get("Cache-Control"), "no-store"), "the answer is not no-store")
		switch {
		case c.Name == SessionCookie:
			expect(c.SameSite == http.SameSiteStrictMode, "SameSite is not Strict")
			expect(c.RawExpires == "", "it has an Expires")
			expect(len(c.Name)+1+len(c.Value) <= maxCookie, "it is longer than 300 bytes")
			expect(c.MaxAge >= 0 || req.Method == http.MethodPost && r.URL.Path == "/bff/logout", "only a logout deletes it")
			expect(c.MaxAge < 0 || r.Status < 400, "a refusal sets it")
		case strings.HasPrefix(c.Name, otherCookies):
			expect(c.SameSite == http.SameSiteLaxMode, "SameSite is not Lax")
		default:
			expect(false, "the gateway has no such cookie")
		}
		if len(wrong) > 0 {
			w.t.Errorf("%s (%s) sets the cookie %s: %s", where, r, c.Name, strings.Join(wrong, "; "))
		}
	}
	if r.Status >= 500 && len(r.SetCookies) > 0 {
		w.t.Errorf("%s: trouble (%s) touches cookies", where, r)
	}
	var token struct {
		Access string `json:"access_token"`
	}
	if json.Unmarshal(r.Body, &token) == nil && token.Access != "" {
		w.Secret("an access token", token.Access)
		if !strings.Contains(r.Header.Get("Cache-Control"), "no-store") {
			w.t.Errorf("%s answers a token without no-store", where)
		}
	}
}

var trouble = regexp.MustCompile(`(?m)^panic:|^fatal error:|^goroutine \d+ \[|WARNING: DATA RACE|http: panic serving`)

// sweep searches all that the gateways printed (attack S-01), and all that they
// sent to the upstream: there only access tokens may be.
func (w *World) sweep() {
	for _, c := range gatewaytest.Canaries() {
		w.Secret("a canary", c)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	seen, err := json.Marshal(w.Upstream.Seen())
	if err != nil {
		w.t.Errorf("rig: %v", err)
	}
	for value, what := range w.secrets {
		if what != "an access token" && what != "a canary" && bytes.Contains(seen, []byte(value)) {
			w.t.Errorf("cloakroom sent %s to the upstream", what)
		}
	}
	for _, p := range w.outputs {
		printed := []byte(p.Output())
		for value, what := range w.secrets {
			if i := bytes.Index(printed, []byte(value)); i >= 0 {
				w.t.Errorf("cloakroom printed %s: %s", what, around(printed, i, len(value)))
			}
		}
		if at := trouble.FindIndex(printed); at != nil {
			w.t.Errorf("cloakroom crashed or raced:\n%s", printed[at[0]:min(len(printed), at[0]+8000)])
		}
		if w.t.Failed() {
			w.t.Logf("cloakroom printed (the end of it):\n%s", printed[max(0, len(printed)-16000):])
		}
	}
}

// around is the line of a find, with the find cut out of it.
func around(text []byte, at, length int) string {
	start := bytes.LastIndexByte(text[:at], '\n') + 1
	end := len(text)
	if i := bytes.IndexByte(text[at:], '\n'); i >= 0 {
		end = at + i
	}
	return string(text[start:at]) + "<here>" + string(text[min(at+length, end):end])
}

// Random is a text that nobody else has.
func Random() string { return rand.Text() }

// Logs are what each process has printed so far, in the order in which they
// were started.
func (w *World) Logs() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, p := range w.outputs {
		all = append(all, p.Output())
	}
	return all
}
