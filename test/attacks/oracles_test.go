package attacks

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/session/storetest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// oracles holds what a case has caused against the rules that hold for every
// case. GO1's and GO2's search of logs, metrics and Redis is settle's.
func (c *row) oracles() {
	c.Helper()
	cookies := map[string]string{} // value to user
	for name, b := range c.users {
		cookies[b.Cookie()] = name
	}
	for _, x := range c.exchanges() {
		c.leaks(x)
		owner := ""
		for value, name := range cookies {
			if value != "" && strings.Contains(x.sent, value) {
				if owner != "" {
					owner = "both"
				} else {
					owner = name
				}
			}
		}
		for _, a := range x.answers {
			c.cookiesOf(x, a)
			// GO3: whose bearer the upstream saw. Who sends two cookies has none.
			if sub := a.Header.Get("X-Upstream-Sub"); sub != "" && sub != gatewaytest.SubjectOf(owner) {
				c.Errorf("GO3: %s's request %.120q was answered for %s", owner, x.sent, sub)
			}
		}
	}
	// GO4.
	for _, r := range c.arrived() {
		sub := r.sub()
		for decoder, got := range c.decoders.read(r) {
			if sub == "" && within(got.Path, protectedPaths) {
				c.Errorf("GO4: %s reads a request of nobody's, %q, as %q", decoder, r.target, got.Path)
			}
			if sub != gatewaytest.SubjectOf("alice") && within(got.Path, adminPaths) {
				c.Errorf("GO4: %s reads a request of %q's, %q, as %q", decoder, sub, r.target, got.Path)
			}
		}
		// GO1, GO2: of the gateway's secrets an upstream gets access tokens alone.
		for _, l := range r.lines {
			for value, what := range c.w.Secrets() {
				if what != "an access token" && strings.Contains(l.value, value) {
					c.Errorf("GO2: the upstream got %s in %s", what, l.name)
				}
			}
			if bytes.Contains([]byte(l.value), []byte("RTcanary-")) {
				c.Errorf("GO1: the upstream got a refresh token in %s", l.name)
			}
			if l.name != "Authorization" && carries(l.value, accessCanaries) {
				c.Errorf("GO2: the upstream got an access token in %s", l.name)
			}
		}
	}
	// GO5.
	for _, e := range c.provider.Reuses() {
		c.Errorf("GO5: a refresh token was used twice: %v", e)
	}
	// GO7.
	select {
	case <-c.g.Done():
		c.Fatalf("GO7: the gateway has ended:\n%.4000s", c.g.Output())
	default:
	}
}

func within(path string, of []string) bool {
	for _, p := range of {
		if path == p || strings.HasPrefix(path, p+"/") {
			return true
		}
	}
	return false
}

// accessCanaries mark access tokens, in a JWT or in clear.
var accessCanaries, idCanaries = func() (access, id []string) {
	all := gatewaytest.Canaries()[3:]
	return all[:4], all[4:]
}()

func carries(text string, canaries []string) bool {
	for _, c := range canaries {
		if strings.Contains(text, c) {
			return true
		}
	}
	return false
}

// leaks is GO1 and GO2 for what a client got.
func (c *row) leaks(x *exchanged) {
	c.Helper()
	got := string(x.got)
	path := x.sent
	if _, rest, ok := strings.Cut(x.sent, " "); ok {
		path, _, _ = strings.Cut(rest, " ")
		path, _, _ = strings.Cut(path, "?")
	}
	for _, canary := range []string{"RTcanary-", "CScanary-", "CDcanary-", "ADcanary-"} {
		if strings.Contains(got, canary) {
			c.Errorf("GO1: the client got a %s in the answer to %.120q", canary, x.sent)
		}
	}
	if path != "/bff/token" && path != "/bff/login" && carries(got, accessCanaries) && !c.secretsIn {
		c.Errorf("GO2: the client got an access token in the answer to %.120q", x.sent)
	}
	if path != "/bff/logout" && carries(got, idCanaries) { // its id_token_hint has to be there
		c.Errorf("GO2: the client got an ID token in the answer to %.120q", x.sent)
	}
}

// cookiesOf is GO6, GO8 and GO9 for one answer.
func (c *row) cookiesOf(x *exchanged, a *answer) {
	c.Helper()
	ours := false
	for _, k := range (&http.Response{Header: a.Header}).Cookies() {
		low := strings.ToLower(k.Name)
		if !strings.Contains(low, "cloakroom") {
			continue
		}
		ours = true
		wrong := func(what string) { c.Errorf("GO8: %.120q is answered with the cookie %s: %s", x.sent, k.Name, what) }
		switch {
		case !strings.HasPrefix(k.Name, "__Host-"):
			wrong("no __Host- prefix")
		case !k.Secure || !k.HttpOnly || k.Path != "/" || k.Domain != "" || k.SameSite == 0 || k.SameSite == http.SameSiteNoneMode:
			wrong("attributes: " + k.Raw)
		}
		if k.Name == rig.SessionCookie && k.MaxAge < 0 && !strings.HasPrefix(x.sent, "POST /bff/logout") {
			c.Errorf("GO9: %.120q deletes the session cookie", x.sent)
		}
		// A login whose code was spent for nothing is over, and that is no trouble that passes.
		over := strings.HasPrefix(k.Name, "__Host-cloakroom-login-") && k.MaxAge < 0 && a.code() == "login_failed"
		if a.Status >= 500 && !over || a.Status < 200 {
			c.Errorf("GO9: %d with the cookie %s to %.120q", a.Status, k.Name, x.sent)
		}
	}
	if ours || carries(string(a.Body), accessCanaries) && !c.secretsIn {
		if a.Header.Get("Cache-Control") != "no-store" {
			c.Errorf("GO6: Cache-Control is %q in the answer to %.120q", a.Header.Get("Cache-Control"), x.sent)
		}
		for name := range a.Header {
			if low := strings.ToLower(name); strings.HasSuffix(low, "-cache-control") || low == "surrogate-control" || low == "expires" {
				c.Errorf("GO6: %s in the answer to %.120q", name, x.sent)
			}
		}
	}
}

// usage is what a process holds.
type usage struct{ goroutines, sockets, memory, cpu float64 }

func (a *arena) usage() usage { return usageOf(a.g) }

func usageOf(g *rig.Gateway) usage {
	var u usage
	for text := range strings.Lines(g.Metrics()) {
		name, value, _ := strings.Cut(strings.TrimSpace(text), " ")
		n, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "go_goroutines":
			u.goroutines = n
		case "process_open_fds":
			u.sockets = n
		case "process_resident_memory_bytes":
			u.memory = n
		case "process_cpu_seconds_total":
			u.cpu = n
		}
	}
	return u
}

// settle is GO7 for a section, and the search for secrets where they collect.
// Connections to upstreams are kept on purpose, and the race detector's memory
// is not the gateway's: hence what is added to the tenth.
func (a *arena) settle() {
	limit := func(base, more float64) float64 { return base*1.1 + more }
	var now usage
	end := time.Now().Add(patience)
	for {
		now = a.usage()
		if now.goroutines <= limit(a.base.goroutines, 40) && now.sockets <= limit(a.base.sockets, 20) {
			break
		}
		if time.Now().After(end) {
			a.t.Errorf("GO7: at first %+v, at the end %+v", a.base, now)
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if now.memory > limit(a.base.memory, 256<<20) {
		a.t.Errorf("GO7: memory: at first %.0f, at the end %.0f", a.base.memory, now.memory)
	}
	metrics := a.g.Metrics()
	secrets := a.w.Secrets()
	for _, canary := range append(gatewaytest.Canaries(), "ADcanary-") {
		secrets[canary] = "a canary"
		if strings.Contains(a.g.Output(), canary) {
			a.t.Errorf("GO1: %s is in the log", canary)
		}
	}
	inRedis := a.redis.text()
	for value, what := range secrets {
		if strings.Contains(metrics, value) {
			a.t.Errorf("GO2: /metrics shows %s", what)
		}
		if strings.Contains(inRedis, value) {
			a.t.Errorf("GO1: Redis was sent %s in clear", what)
		}
	}
}

// watched is what Redis was sent, but for beats and pings.
type watched struct {
	marks net.Conn
	said  int // marks

	mu   sync.Mutex
	all  bytes.Buffer // guarded by mu
	work []string     // guarded by mu
}

func watch(t testing.TB, r *storetest.Server) *watched {
	t.Helper()
	conn, err := net.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	fmt.Fprint(conn, "MONITOR\r\n")
	if text, err := in.ReadString('\n'); err != nil || text != "+OK\r\n" {
		t.Fatalf("MONITOR: %q, %v", text, err)
	}
	marks, err := net.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { marks.Close() })
	w := &watched{marks: marks}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		for {
			text, err := in.ReadString('\n')
			w.mu.Lock()
			w.all.WriteString(text)
			if strings.Contains(text, "{") { // the hash tag of a session's keys
				w.work = append(w.work, text)
			}
			w.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return w
}

// mark is how much there was, once all that was before it has been told: what
// MONITOR says comes when it comes.
func (w *watched) mark() int {
	w.said++
	name := fmt.Sprintf("mark-%d-", w.said)
	w.mu.Lock()
	from := w.all.Len()
	w.mu.Unlock()
	fmt.Fprintf(w.marks, "ECHO %s\r\n", name)
	told := func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return bytes.Contains(w.all.Bytes()[from:], []byte(name))
	}
	for end := time.Now().Add(patience); time.Now().Before(end) && !told(); {
		time.Sleep(time.Millisecond)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.work)
}

func (w *watched) since(mark int) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.work[mark:]...)
}

func (w *watched) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.String()
}
