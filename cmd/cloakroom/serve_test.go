package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/config"
	"github.com/cloakroom/cloakroom/session"
)

// logs collects log lines and lets a test wait for one.
type logs struct {
	mu    sync.Mutex
	lines []map[string]any // guarded by mu
	came  chan struct{}    // closed and renewed with each line; guarded by mu
}

func newLogs() *logs { return &logs{came: make(chan struct{})} }

func (l *logs) Write(b []byte) (int, error) {
	var line map[string]any
	if err := json.Unmarshal(b, &line); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	close(l.came)
	l.came = make(chan struct{})
	return len(b), nil
}

// all are the lines with that message.
func (l *logs) all(msg string) (lines []map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if line["msg"] == msg {
			lines = append(lines, line)
		}
	}
	return lines
}

// wait returns the first line with that message and, if named, that listener.
func (l *logs) wait(t *testing.T, msg, listener string) map[string]any {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		l.mu.Lock()
		for _, line := range l.lines {
			if line["msg"] == msg && (listener == "" || line["listener"] == listener) {
				l.mu.Unlock()
				return line
			}
		}
		came := l.came
		l.mu.Unlock()
		select {
		case <-came:
		case <-late:
			t.Fatalf("nothing logged about %q", msg)
		}
	}
}

// running is a gateway that serves within the test.
type running struct {
	file          string // its configuration
	logs          *logs
	public, admin string // addresses
	stop          context.CancelFunc
	ended         chan error
}

// start serves a configuration with one app at https://shop.test, whose route
// /open needs no session and leads to upstream. Redis is not there. extra is
// put at the file's end.
func start(t *testing.T, upstream, extra string) *running {
	t.Helper()
	return startConfig(t, oneApp(upstream, extra))
}

// oneApp is what start serves.
func oneApp(upstream, extra string) string {
	return fmt.Sprintf(`version: 1
listen: "127.0.0.1:0"
redis: {addresses: ["127.0.0.1:1"], timeout: 100ms}
keys: [%s]
apps:
  - name: shop
    origin: https://shop.test
    provider:
      issuer: http://127.0.0.1:1
      client_id: shop
      client_secret: dGhpcyBpcyByYW5kb20h
    token: {mode: relay}
    routes:
      - {path: /open/, upstream: %q, auth: none}
%s`, session.NewServerKey().Encode(), upstream, extra)
}

func startConfig(t *testing.T, text string) *running {
	t.Helper()
	return startFile(t, text, func(_ string, load func() (*config.Config, error)) (*config.Config, error) { return load() })
}

// startFile is startConfig, where the file is read at the start and at each reload by
// reading, with load, which reads it as the command does.
func startFile(t *testing.T, text string, reading func(file string, load func() (*config.Config, error)) (*config.Config, error)) *running {
	t.Helper()
	if !strings.Contains(text, "\nadmin:") {
		text += "admin: {listen: \"127.0.0.1:0\"}\n"
	}
	file := filepath.Join(t.TempDir(), "cloakroom.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	again := func() (*config.Config, error) {
		return reading(file, func() (*config.Config, error) { return config.Load(file, os.LookupEnv) })
	}
	cfg, err := again()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{file: file, logs: newLogs(), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.ended <- serve(ctx, cfg, again, newLoggers(config.Log{Level: slog.LevelDebug, Format: "json"}, r.logs))
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	r.public = r.logs.wait(t, "listening", "public")["address"].(string)
	r.admin = r.logs.wait(t, "listening", "admin")["address"].(string)
	return r
}

// client has connections of its own, which end with the test.
func client(t *testing.T) *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func fetch(t *testing.T, c *http.Client, url, host string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// holding is an upstream whose answers are held until the test lets them go.
type holding struct {
	*httptest.Server
	arrived chan struct{}
	release chan struct{}
}

func newUpstream(t *testing.T) *holding {
	u := &holding{arrived: make(chan struct{}, 1), release: make(chan struct{})}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/open/held" {
			u.arrived <- struct{}{}
			<-u.release
		}
		_, _ = io.WriteString(w, "from the upstream")
	}))
	t.Cleanup(u.Close)
	return u
}

func TestServeWithoutRedis(t *testing.T) {
	u := newUpstream(t)
	r := start(t, u.URL, "")
	c := client(t)
	r.logs.wait(t, "redis does not answer: not ready, waiting for it", "")
	for _, row := range []struct {
		name, url, host string
		status          int
	}{
		{"alive", "http://" + r.admin + "/healthz", "", 200},
		{"not ready", "http://" + r.admin + "/readyz", "", 503},
		{"metrics", "http://" + r.admin + "/metrics", "", 200},
		{"a route without a session", "http://" + r.public + "/open/x", "shop.test", 200},
		{"login with the provider down", "http://" + r.public + "/bff/login", "shop.test", 503},
		// Nothing of the operators' listener is public, and nothing public is on it.
		{"public healthz", "http://" + r.public + "/healthz", "shop.test", 404},
		{"public readyz", "http://" + r.public + "/readyz", "shop.test", 404},
		{"public metrics", "http://" + r.public + "/metrics", "shop.test", 404},
		{"operators' login", "http://" + r.admin + "/bff/login", "shop.test", 404},
	} {
		if resp, body := fetch(t, c, row.url, row.host); resp.StatusCode != row.status {
			t.Errorf("%s: %d %s, want %d", row.name, resp.StatusCode, body, row.status)
		}
	}
	if _, body := fetch(t, c, "http://"+r.admin+"/metrics", ""); !strings.Contains(body, "cloakroom_build_info") || !strings.Contains(body, "go_goroutines") {
		t.Errorf("metrics lack the process's own:\n%s", body)
	}
	r.stop()
	if err := <-r.ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestDrain(t *testing.T) {
	t.Run("open requests are finished, new ones go elsewhere", func(t *testing.T) {
		u := newUpstream(t)
		r := start(t, u.URL, "drain: {delay: 300ms, timeout: 20s}\n")
		c := client(t)
		type answer struct {
			status int
			body   string
			err    error
		}
		held := make(chan answer, 1)
		go func() {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.public+"/open/held", nil)
			req.Host = "shop.test"
			resp, err := c.Do(req)
			if err != nil {
				held <- answer{err: err}
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			held <- answer{resp.StatusCode, string(body), err}
		}()
		<-u.arrived
		r.stop()
		r.logs.wait(t, "draining", "")
		resp, body := fetch(t, c, "http://"+r.admin+"/readyz", "")
		if resp.StatusCode != 503 || body != "draining\n" {
			t.Errorf("readyz while draining: %d %q", resp.StatusCode, body)
		}
		resp, _ = fetch(t, c, "http://"+r.public+"/open/x", "shop.test")
		if resp.StatusCode != 200 || !resp.Close {
			t.Errorf("within drain.delay: %d, connection closed: %v", resp.StatusCode, resp.Close)
		}
		// The listener goes once the delay is over.
		newcomer := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
		for {
			resp, err := newcomer.Get("http://" + r.public + "/open/x")
			if err != nil {
				break
			}
			resp.Body.Close()
		}
		select {
		case err := <-r.ended:
			t.Fatalf("ended with a request open: %v", err)
		case a := <-held:
			t.Fatalf("the open request got %+v", a)
		default:
		}
		if resp, _ := fetch(t, c, "http://"+r.admin+"/healthz", ""); resp.StatusCode != 200 {
			t.Errorf("healthz while draining: %d", resp.StatusCode)
		}
		close(u.release)
		if a := <-held; a.err != nil || a.status != 200 || a.body != "from the upstream" {
			t.Errorf("the open request got %+v", a)
		}
		if err := <-r.ended; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
	t.Run("not for ever", func(t *testing.T) {
		u := newUpstream(t)
		defer close(u.release)
		r := start(t, u.URL, "drain: {timeout: 1s}\n")
		c := client(t)
		cut := make(chan error, 1)
		go func() {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.public+"/open/held", nil)
			req.Host = "shop.test"
			resp, err := c.Do(req)
			if err == nil {
				resp.Body.Close()
			}
			cut <- err
		}()
		<-u.arrived
		r.stop()
		if err := <-r.ended; err != nil {
			t.Errorf("ended with %v", err)
		}
		if err := <-cut; err == nil {
			t.Error("the held request was answered")
		}
		r.logs.wait(t, "requests were still open at the end of drain.timeout and are cut off", "")
	})
}

func TestHeaderLimit(t *testing.T) {
	u := newUpstream(t)
	r := start(t, u.URL, "limits: {header_bytes: 4096}\n")
	c := client(t)
	for _, row := range []struct {
		size, status int
	}{{3000, 200}, {20000, 431}} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.public+"/open/x", nil)
		req.Host = "shop.test"
		req.Header.Set("X-Long", strings.Repeat("x", row.size))
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != row.status {
			t.Errorf("a header of %d bytes: %d, want %d", row.size, resp.StatusCode, row.status)
		}
	}
}

func TestTLS(t *testing.T) {
	u := newUpstream(t)
	cert, key := selfSigned(t)
	r := start(t, u.URL, fmt.Sprintf("tls: {cert_file: %q, key_file: %q}\n", cert, key))
	for _, row := range []struct {
		name  string
		proto []string
		want  string
	}{
		{"HTTP/2", []string{"h2", "http/1.1"}, "HTTP/2.0"},
		{"HTTP/1.1", []string{"http/1.1"}, "HTTP/1.1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			tr := &http.Transport{ForceAttemptHTTP2: row.want == "HTTP/2.0", TLSClientConfig: &tls.Config{InsecureSkipVerify: true, NextProtos: row.proto}}
			defer tr.CloseIdleConnections()
			resp, body := fetch(t, &http.Client{Transport: tr, Timeout: 20 * time.Second}, "https://"+r.public+"/open/x", "shop.test")
			if resp.StatusCode != 200 || resp.Proto != row.want || body != "from the upstream" {
				t.Errorf("%s %d %q", resp.Proto, resp.StatusCode, body)
			}
		})
	}
	t.Run("TLS 1.1 is refused", func(t *testing.T) {
		conn, err := tls.Dial("tcp", r.public, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
		if err == nil {
			conn.Close()
			t.Error("accepted")
		}
	})
}

// selfSigned writes a certificate and its key.
func selfSigned(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"shop.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		var b bytes.Buffer
		if err := pem.Encode(&b, block); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestAdminSocket(t *testing.T) {
	// A socket's path is short; a test's directory may not be.
	dir, err := os.MkdirTemp("", "cloakroom")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "admin.sock")
	abandoned, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	abandoned.SetUnlinkOnClose(false)
	if _, err := listenAdmin(config.Admin{Network: "unix", Address: path}); err == nil {
		t.Fatal("a living socket was taken over")
	}
	abandoned.Close()

	u := newUpstream(t)
	start(t, u.URL, fmt.Sprintf("admin: {listen: %q}\n", "unix:"+path))
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	defer tr.CloseIdleConnections()
	resp, body := fetch(t, &http.Client{Transport: tr}, "http://admin/healthz", "")
	if resp.StatusCode != 200 || body != "ok\n" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenAdmin(config.Admin{Network: "unix", Address: file}); err == nil {
		t.Error("a file was taken over")
	}
}

// refusing is a listener that can take no connection.
type refusing struct {
	net.Listener
	err error
}

func (l refusing) Accept() (net.Conn, error) { return nil, l.err }

// Who waits in the kernel's queue while there are no files sends requests that are
// older than they look: whoever judges them is told. A listener that is closed is
// no such thing.
func TestListenerThatCanTakeNobodyIsTold(t *testing.T) {
	for err, want := range map[error]int{syscall.EMFILE: 1, net.ErrClosed: 0} {
		told := 0
		l := listener{refusing{err: err}, func() { told++ }}
		if _, got := l.Accept(); !errors.Is(got, err) || told != want {
			t.Errorf("%v: %v, told %d times", err, got, told)
		}
	}
}

// An address that can't be had is told once, under its key.
func TestListenErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for address, want := range map[string]string{
		taken.Addr().String(): "listen: " + taken.Addr().String() + ": bind: address already in use",
		"192.0.2.1:1":         "listen: 192.0.2.1:1: bind: cannot assign requested address",
		"127.0.0.1:99999":     "listen: address 99999: invalid port",
	} {
		_, err := net.Listen("tcp", address)
		if err == nil {
			t.Fatalf("%s can be had", address)
		}
		if got := cannotListen("listen", err).Error(); !strings.HasPrefix(got, want) || strings.Count(got, "listen") > 1 {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
}
