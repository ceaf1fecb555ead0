package attacks

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// arena is what the rows of a section share.
type arena struct {
	t            *testing.T
	w            *rig.World
	provider     *gatewaytest.Provider
	registration rig.Registration
	up           *upstream
	tls          *upstream // nil if not asked for
	decoders     *decoders
	g            *rig.Gateway // plain HTTP
	secure       *rig.Gateway // TLS, HTTP/2; nil if not asked for
	users        map[string]*rig.Browser
	redis        *watched
	base         usage

	mu  sync.Mutex
	got []*exchanged // guarded by mu
}

// exchanged is what a client wrote to the gateway and read from it.
type exchanged struct {
	sent string
	got  []byte
	// answers are those that parse, in order.
	answers []*answer
	reset   bool // the connection was cut, not closed
}

// answer is one HTTP answer, informational ones included.
type answer struct {
	Status int
	Header http.Header
	Body   []byte
	Cut    bool // the body broke off
}

// setup says what an arena has beside the usual.
type setup struct {
	secure   bool
	byMethod bool // /by-method: POST for everybody, and the rest protected
	soon     bool // /soon, and /soon-tls with overTLS: as /app, to an upstream that has 2 s
	overTLS  bool // /over-tls: as /app, to an upstream over TLS, arena.tls
	replicas int
	change   func(rig.Config)
	provider gatewaytest.Options
	routes   []any // before the usual ones
}

// The arena's routes: /app is protected, /app/admin for those with the role;
// /public and whatever else there is are for everybody; /svc-a (for everybody)
// and /svc-b (protected) lose their prefix.
func (a *arena) routes() []any {
	u := a.up.url()
	return []any{
		map[string]any{"path": "/app", "upstream": u, "headers": nil},
		map[string]any{"path": "/app/admin", "upstream": u, "require": map[string]any{"roles": []any{"admin"}}},
		map[string]any{"path": "/public", "upstream": u, "auth": "none"},
		map[string]any{"path": "/maybe", "upstream": u, "auth": "optional"},
		map[string]any{"path": "/page", "upstream": u, "kind": "page"},
		map[string]any{"path": "/svc-a", "upstream": u + "/u1", "strip_prefix": "/svc-a", "auth": "none"},
		map[string]any{"path": "/svc-b", "upstream": u + "/u2", "strip_prefix": "/svc-b"},
		map[string]any{"path": "/landing", "upstream": u, "kind": "page", "auth": "none"},
		map[string]any{"path": "/", "upstream": u, "auth": "none"},
	}
}

// protected paths at the upstream, and those that need the role.
var (
	protectedPaths = []string{"/app", "/u2", "/page"}
	adminPaths     = []string{"/app/admin"}
)

func newArena(t *testing.T, s setup) *arena {
	t.Helper()
	a := &arena{t: t, up: newUpstream(t), users: map[string]*rig.Browser{}}
	a.decoders = newDecoders(t)
	if s.provider.AccessLife == 0 {
		s.provider.AccessLife = time.Hour // no refresh in between: cookies stay as they are
	}
	s.provider.Users = append(s.provider.Users,
		gatewaytest.User{Username: "alice", Claims: map[string]any{"roles": []string{"admin"}}},
		gatewaytest.User{Username: "bob", Claims: map[string]any{"roles": []string{"user"}}})
	var reg rig.Registration
	if s.byMethod {
		s.routes = append(s.routes,
			map[string]any{"path": "/by-method", "upstream": a.up.url(), "methods": []any{"POST"}, "auth": "none"},
			map[string]any{"path": "/by-method", "upstream": a.up.url(), "methods": []any{"GET", "DELETE"}})
	}
	if s.overTLS {
		cert, key := certificate(t)
		a.tls = newUpstreamOn(t, listenTLS(t, cert, key))
		a.tls.scheme = "https"
		trust := map[string]any{"tls": map[string]any{"ca_file": cert, "server_name": "app.test"}}
		s.routes = append(s.routes, map[string]any{"path": "/over-tls", "upstream": a.tls.url(), "connection": trust})
		if s.soon {
			s.routes = append(s.routes, map[string]any{"path": "/soon-tls", "upstream": a.tls.url(), "connection": trust, "timeout": "2s"})
		}
	}
	if s.soon {
		s.routes = append(s.routes, map[string]any{"path": "/soon", "upstream": a.up.url(), "timeout": "2s"})
	}
	a.provider, reg = rig.Strict(t, rig.Origin, s.provider)
	a.registration = reg
	a.w = rig.New(t, rig.Setup{Provider: reg, Replicas: max(1, s.replicas), Change: func(c rig.Config) {
		routes := append([]any{}, s.routes...)
		for _, r := range a.routes() {
			delete(r.(map[string]any), "headers")
			routes = append(routes, r)
		}
		c.Set("apps.0.routes", routes)
		c.Set("admin.token", adminToken)
		if s.change != nil {
			s.change(c)
		}
	}})
	a.g = a.w.Gateways[0]
	if s.secure {
		cert, key := certificate(t)
		a.w.Config.Set("tls", map[string]any{"cert_file": cert, "key_file": key})
		plain := len(a.w.Gateways)
		a.secure = a.w.Start()
		a.secure.WaitReady()
		a.w.Gateways = a.w.Gateways[:plain] // browsers speak plain HTTP
	}
	a.redis = watch(t, a.w.Redis)
	t.Cleanup(func() { a.settle() })
	a.base = a.usage()
	return a
}

const adminToken = "ADcanary-operators-only-3f9c1d77"

// user is a browser that has logged in, the same one each time.
func (a *arena) user(name string) *rig.Browser {
	if b := a.users[name]; b != nil {
		return b
	}
	b := a.w.NewBrowser()
	b.Login(name)
	if r := b.Fetch(http.MethodPost, "/bff/token"); r.Status != http.StatusOK { // confirms the ticket
		a.t.Fatalf("%s has no token: %s", name, r)
	}
	a.users[name] = b
	return b
}

// cookie is the header line of a user's session cookie.
func (a *arena) cookie(name string) string {
	return "Cookie: " + rig.SessionCookie + "=" + a.user(name).Cookie() + "\r\n"
}

// fetched are the header lines of a page's own fetch.
const fetched = "Sec-Fetch-Site: same-origin\r\nX-BFF: 1\r\n"

// row is one case of the catalogue, with the oracles around it.
func (a *arena) row(id string, f func(c *row)) {
	a.t.Helper()
	a.t.Run(id, func(t *testing.T) {
		a.user("alice")
		a.user("bob")
		c := &row{T: t, arena: a, upstream: a.up.mark(), redisMark: a.redis.mark(), ledger: len(a.provider.Ledger())}
		a.mu.Lock()
		c.from = len(a.got)
		a.mu.Unlock()
		f(c)
		c.oracles()
	})
}

// row is one case under way.
type row struct {
	*testing.T
	*arena
	upstream  int
	redisMark int
	ledger    int
	from      int
	secretsIn bool // the upstream shows what it gets, on purpose
}

// arrived are the requests that have come to the upstream within the case.
func (c *row) arrived() []*received { return c.up.since(c.upstream) }

// untouched demands that nothing has reached the upstream, and no session's key
// in Redis.
func (c *row) untouched() {
	c.Helper()
	for _, r := range c.arrived() {
		c.Errorf("the upstream got %s %q", r.method, r.target)
	}
	if cost := c.redis.since(c.redisMark); len(cost) > 0 {
		c.Errorf("it cost Redis %d commands: %.200s", len(cost), cost[0])
	}
}

// send writes text to a replica's socket and reads until the gateway closes, or
// until nothing has come for a while once there is an answer.
func (c *row) send(text string) *exchanged { c.Helper(); return c.sendTo(c.g.Public, nil, text) }

// patience is for answers, quiet for what may follow one.
const (
	patience = 15 * time.Second
	quiet    = 150 * time.Millisecond
)

func (c *row) sendTo(addr string, tlsConfig *tls.Config, text string) *exchanged {
	c.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		c.Fatal(err)
	}
	if tlsConfig != nil {
		conn = tls.Client(conn, tlsConfig)
	}
	defer conn.Close()
	x := &exchanged{sent: text}
	written := make(chan struct{})
	go func() {
		defer close(written)
		_ = conn.SetWriteDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, text) // the gateway may close on us: that is an answer, too
	}()
	x.read(c.T, conn)
	conn.Close()
	<-written
	c.keep(x)
	return x
}

// read reads until the end. An answer that says "close" is followed by one.
func (x *exchanged) read(t testing.TB, conn net.Conn) {
	deadline := time.Now().Add(patience)
	buf := make([]byte, 64<<10)
	silence := quiet
	if strings.Contains(x.sent, "Connection: close\r\n") {
		silence = patience / 3 // the end will come by itself
	}
	for {
		_ = conn.SetReadDeadline(time.Now().Add(silence))
		n, err := conn.Read(buf)
		x.got = append(x.got, buf[:n]...)
		if err == nil {
			continue
		}
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			if x.complete() {
				break
			}
			if time.Now().Before(deadline) {
				continue
			}
			t.Errorf("no answer in %v to %.200q", patience, x.sent)
		} else if err != io.EOF {
			x.reset = true
		}
		break
	}
	x.answers, _ = parseAnswers(x.got, x.sent)
}

// complete reports whether there are answers and nothing after them.
func (x *exchanged) complete() bool {
	answers, rest := parseAnswers(x.got, x.sent)
	if len(answers) == 0 || rest > 0 {
		return false
	}
	switch last := answers[len(answers)-1]; {
	case last.Status == http.StatusSwitchingProtocols:
		return true
	default:
		return last.Status >= 200 && !last.Cut
	}
}

// parseAnswers reads all answers in text, and says how much is left over.
func parseAnswers(text []byte, sent string) (all []*answer, rest int) {
	in := bufio.NewReader(bytes.NewReader(text))
	method := "GET"
	if m, _, ok := strings.Cut(sent, " "); ok {
		method = m
	}
	for {
		if _, err := in.Peek(1); err != nil {
			return all, 0
		}
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			left, _ := io.ReadAll(in)
			return all, len(left) + 1
		}
		one := &answer{Status: resp.StatusCode, Header: resp.Header}
		if resp.StatusCode == http.StatusSwitchingProtocols {
			one.Body, _ = io.ReadAll(in)
			return append(all, one), 0
		}
		body, err := io.ReadAll(resp.Body)
		one.Body, one.Cut = body, err != nil
		for k, v := range resp.Trailer {
			one.Header[http.TrailerPrefix+k] = v
		}
		all = append(all, one)
	}
}

func (c *row) keep(x *exchanged) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arena.got = append(c.arena.got, x)
}

func (c *row) exchanges() []*exchanged {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*exchanged(nil), c.arena.got[c.from:]...)
}

// final is the first final answer, nil if there is none.
func (x *exchanged) final() *answer {
	for _, a := range x.answers {
		if a.Status >= 200 || a.Status == http.StatusSwitchingProtocols {
			return a
		}
	}
	return nil
}

// finals counts them.
func (x *exchanged) finals() (n int) {
	for _, a := range x.answers {
		if a.Status >= 200 {
			n++
		}
	}
	return n
}

// status is the first final answer's, 0 if the connection was closed without one.
func (x *exchanged) status() int {
	if a := x.final(); a != nil {
		return a.Status
	}
	return 0
}

// code is the problem's, or a page's.
func (a *answer) code() string {
	if a == nil {
		return ""
	}
	var p struct{ Code string }
	if json.Unmarshal(a.Body, &p) == nil && p.Code != "" {
		return p.Code
	}
	if m := pageCode.FindSubmatch(a.Body); m != nil && strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") {
		return string(m[1])
	}
	return ""
}

var pageCode = regexp.MustCompile(`<dt>Code</dt><dd>([a-z_]+)</dd>`)

func (x *exchanged) String() string {
	a := x.final()
	if a == nil {
		return fmt.Sprintf("closed without an answer (%.80q)", x.got)
	}
	return fmt.Sprintf("%d %s %.120q", a.Status, a.code(), a.Body)
}

// want demands a status and, if it is not "", a problem's code.
func (c *row) want(x *exchanged, status int, code string) {
	c.Helper()
	if x.status() != status || code != "" && x.final().code() != code {
		c.Errorf("%.160q: got %v, want %d %s", x.sent, x, status, code)
	}
}

// get is a request to the app's host, header lines and all, on a connection of
// its own.
func get(target string, header ...string) string { return request("GET", target, header...) }

func request(method, target string, header ...string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n" + strings.Join(header, "") + "\r\n"
}

// post has a body of a known length.
func post(target, body string, header ...string) string {
	return request("POST", target, append(header, "Content-Length: "+strconv.Itoa(len(body))+"\r\n")...) + body
}

// insecure trusts the arena's certificate, whatever it is.
func insecure(protocols ...string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, ServerName: "app.test", NextProtos: protocols}
}

func listenTLS(t testing.TB, cert, key string) net.Listener {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// certificate is a self-signed one for app.test and its neighbours.
func certificate(t testing.TB) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"app.test", "*.app.test", "evil.test"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = rig.WriteFile(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	key = rig.WriteFile(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	return filepath.Clean(cert), filepath.Clean(key)
}
