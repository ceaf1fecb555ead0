package test

import (
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
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// authority signs certificates of a test's own.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{cert: &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}}
	a.pem, a.key = a.sign(t, a.cert, nil)
	return a
}

// sign completes a certificate and signs it; with a nil issuer, by itself.
func (a *authority) sign(t *testing.T, c *x509.Certificate, issuer *authority) (certPEM string, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "test"}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, by := c, key
	if issuer != nil {
		parent, by = issuer.cert, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), key
}

// leaf is a certificate of a's and its key, both PEM.
func (a *authority) leaf(t *testing.T, use x509.ExtKeyUsage, names ...string) (certPEM, keyPEM string) {
	t.Helper()
	c, key := a.sign(t, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{use}, DNSNames: names}, a)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return c, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM([]byte(a.pem))
	return p
}

// How a route's upstream is reached is what its configuration says.
func TestConnectionsByConfig(t *testing.T) {
	t.Parallel()
	tell := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client := ""
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			client = r.TLS.PeerCertificates[0].DNSNames[0]
		}
		fmt.Fprintf(w, "%s %s %s", r.Proto, r.URL.Path, client)
	})
	ours := newAuthority(t)
	certPEM, keyPEM := ours.leaf(t, x509.ExtKeyUsageServerAuth, "api.inside.test")
	pair, err := tls.X509KeyPair([]byte(certPEM), []byte(keyPEM))
	if err != nil {
		t.Fatal(err)
	}
	secure := httptest.NewUnstartedServer(tell)
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ours.pool(), NextProtos: []string{"h2", "http/1.1"}}
	secure.EnableHTTP2 = true
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that are meant to fail
	secure.StartTLS()
	t.Cleanup(secure.Close)
	ca := rig.WriteFile(t, "ca.pem", ours.pem)
	certPEM, keyPEM = ours.leaf(t, x509.ExtKeyUsageClientAuth, "gateway.inside.test")
	cert, key := rig.WriteFile(t, "cert.pem", certPEM), rig.WriteFile(t, "key.pem", keyPEM)

	h2c := httptest.NewUnstartedServer(tell)
	h2c.Config.Protocols = new(http.Protocols)
	h2c.Config.Protocols.SetUnencryptedHTTP2(true)
	h2c.Start()
	t.Cleanup(h2c.Close)
	plain := httptest.NewServer(tell)
	t.Cleanup(plain.Close)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()

	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		files := map[string]any{"ca_file": ca, "cert_file": cert, "key_file": key, "server_name": "api.inside.test"}
		with := func(changes map[string]any, less ...string) map[string]any {
			out := map[string]any{}
			for k, v := range files {
				out[k] = v
			}
			for k, v := range changes {
				out[k] = v
			}
			for _, k := range less {
				delete(out, k)
			}
			return out
		}
		route := func(path string, upstream any, connection map[string]any) map[string]any {
			return map[string]any{"path": path, "upstream": upstream, "auth": "none", "connection": connection}
		}
		c.Set("apps.0.routes", []any{
			route("/tls", secure.URL, map[string]any{"tls": files}),
			route("/tls-1", secure.URL, map[string]any{"tls": files, "protocol": "http1"}),
			route("/no-ca", secure.URL, map[string]any{"tls": with(nil, "ca_file")}),
			route("/no-cert", secure.URL, map[string]any{"tls": with(nil, "cert_file", "key_file")}),
			route("/other-name", secure.URL, map[string]any{"tls": with(map[string]any{"server_name": "other.inside.test"})}),
			route("/h2c", h2c.URL, map[string]any{"protocol": "h2c"}),
			route("/two", []any{"http://" + gone.Addr().String() + "/base", plain.URL + "/base"}, map[string]any{"dial_timeout": "1s"}),
		})
	}})
	b := w.NewBrowser()
	for _, row := range []struct {
		path   string
		status int
		body   string
	}{
		{"/tls", 200, "HTTP/2.0 /tls gateway.inside.test"},
		{"/tls-1", 200, "HTTP/1.1 /tls-1 gateway.inside.test"},
		{"/no-ca", 502, "upstream_unreachable"},
		{"/no-cert", 502, "upstream_unreachable"},
		{"/other-name", 502, "upstream_unreachable"},
		{"/h2c", 200, "HTTP/2.0 /h2c "},
		{"/two", 200, "HTTP/1.1 /base/two "},
	} {
		for range 3 {
			if r := b.Fetch("GET", row.path); r.Status != row.status || !strings.Contains(string(r.Body), row.body) {
				t.Errorf("%s: %d %s", row.path, r.Status, r.Body)
			}
		}
	}
}

// Limits, headers from claims, HSTS, the access log.
func TestRoutesByConfig(t *testing.T) {
	t.Parallel()
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		to := c["apps"].([]any)[0].(map[string]any)["routes"].([]any)[0].(map[string]any)["upstream"]
		c.Set("limits.header_bytes", 8192)
		c.Set("log.level", "info")
		c.Set("log.access", true)
		c.Set("apps.0.hsts", map[string]any{"max_age": "1h", "include_subdomains": true})
		c.Set("apps.0.routes", []any{
			map[string]any{"path": "/landing", "upstream": to, "kind": "page", "auth": "none"},
			map[string]any{"path": "/api", "upstream": to, "strip_prefix": "/api", "headers": map[string]any{"X-User": "sub", "X-Mail": "email"}},
			map[string]any{"path": "/open", "upstream": to, "strip_prefix": "/open", "auth": "none", "max_header": "4KiB", "max_body": "1KiB", "max_concurrent": 1, "deadline": "10s"},
		})
	}})
	b := w.NewBrowser()
	b.Login("alice")
	got := func(r *rig.Response) (seen rig.Received) {
		t.Helper()
		if r.Status != http.StatusOK {
			t.Fatalf("%v: %s", r, r.Body)
		}
		r.JSON(t, &seen)
		if v := r.Header.Values("Strict-Transport-Security"); len(v) != 1 || v[0] != "max-age=3600; includeSubDomains" {
			t.Errorf("HSTS: %q", v)
		}
		return seen
	}
	forged := http.Header{"X-User": {"root"}, "X_mail": {"root"}}
	seen := got(b.Send(rig.Request{Path: "/api/x", Header: forged}))
	if seen.Header.Get("X-User") != gatewaytest.SubjectOf("alice") || seen.Header.Get("X-Mail") != "alice@example.com" || seen.Header["X_mail"] != nil {
		t.Errorf("upstream saw %v", seen.Header)
	}
	seen = got(b.Send(rig.Request{Path: "/open/x", Header: forged}))
	if seen.Header.Get("X-User") != "" || seen.Header.Get("X-Mail") != "" || seen.Header["X_mail"] != nil {
		t.Errorf("upstream saw %v", seen.Header)
	}

	if r := b.Send(rig.Request{Method: "POST", Path: "/open/x", Body: strings.Repeat("x", 1024)}); r.Status != 200 {
		t.Errorf("1 KiB: %v", r)
	}
	wantProblem(t, b.Send(rig.Request{Method: "POST", Path: "/open/x", Body: strings.Repeat("x", 1025)}), 413, "too_large", "")
	if r := b.Send(rig.Request{Path: "/api/x", Header: http.Header{"X-Long": {strings.Repeat("x", 4096)}}}); r.Status != 200 {
		t.Errorf("a header beyond another route's limit: %v", r)
	}
	wantProblem(t, b.Send(rig.Request{Path: "/open/x", Header: http.Header{"X-Long": {strings.Repeat("x", 4096)}}}), 431, "headers_too_large", "")
	// The gateway's own refusal, and beyond twice the limit net/http's.
	wantProblem(t, b.Send(rig.Request{Path: "/open/x", Header: http.Header{"X-Long": {strings.Repeat("x", 8192)}}}), 431, "headers_too_large", "")
	if r := b.Send(rig.Request{Path: "/open/x", Header: http.Header{"X-Long": {strings.Repeat("x", 32768)}}}); r.Status != 431 {
		t.Errorf("four times the limit: %v", r)
	}

	held := make(chan *rig.Response, 1)
	go func() {
		r, _ := b.Try(rig.Request{Path: "/open/held"})
		held <- r
	}()
	<-w.Upstream.Held()
	r := b.Fetch("GET", "/open/x")
	wantProblem(t, r, 503, "upstream_busy", "")
	if r.Header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After: %q", r.Header.Get("Retry-After"))
	}
	w.Upstream.Release()
	if r := <-held; r == nil || r.Status != 200 {
		t.Errorf("the one that had the place: %v", r)
	}
	rig.Eventually(t, "access lines without debug", func() bool { return len(w.Gateways[0].Log("request")) >= 5 })
}

// Spans go where the configuration says, and hold no secret; the sweep at the
// test's end looks at all that the collector got, too.
func TestTracingByConfig(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var sent bytes.Buffer
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 8<<20))
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&sent, "%s %s %v %s\n", r.Method, r.URL.Path, r.Header, body)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(collector.Close)
	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
	w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		c.Set("tracing", map[string]any{"otlp_endpoint": collector.URL, "sample_ratio": json.Number("1")})
	}})
	b := w.NewBrowser()
	b.Login("alice")
	r := b.Fetch("GET", "/api/private-path?q=private-query")
	if r.Status != 200 {
		t.Fatalf("%v", r)
	}
	// What is left is sent when the process ends.
	if code := w.Gateways[0].Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	mu.Lock()
	defer mu.Unlock()
	text := sent.String()
	for _, want := range []string{"POST /v1/traces", "GET route", "GET callback", "upstream", "provider", "session", "cloakroom"} {
		if !strings.Contains(text, want) {
			t.Errorf("the collector got no %q", want)
		}
	}
	for _, secret := range append(gatewaytest.Canaries(), b.Cookie(), "private-", "alice") {
		if strings.Contains(text, secret) {
			t.Errorf("the collector got %q", secret)
		}
	}
}
