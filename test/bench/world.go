package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cloakroom/cloakroom/session"
)

// The hosts of the apps that every Cloakroom here serves.
const (
	relayHost = "relay.test"
	mintHost  = "mint.test"
)

// sizes are the bodies that the upstream answers with, at /api/<size>.
var sizes = []int{200, 10 << 10, 1 << 20}

// world is everything that runs.
type world struct {
	opts     options
	dir      string
	redis    string // host:port
	rdb      *redis.Client
	upstream string // host:port
	sockets  string // host:port, where WebSockets are accepted and left alone
	key      session.ServerKey
	relay    []string // cookies of the relay app
	mint     []string
	tls      string // certificate and key
	running  []*process
	closers  []func()
}

// newWorld builds the programs, and starts Redis and the upstream.
func newWorld(ctx context.Context, opts options) (_ *world, err error) {
	dir, err := os.MkdirTemp("", "cloakroom-bench-")
	if err != nil {
		return nil, err
	}
	w := &world{opts: opts, dir: dir, key: session.NewServerKey()}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	// nginx's workers run as another user, and have to read what they serve.
	if err = os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	if err = w.build(ctx, root(), "cloakroom", "./cmd/cloakroom"); err != nil {
		return nil, err
	}
	if err = w.build(ctx, filepath.Join(root(), "test"), "bare", "./bench/bare"); err != nil {
		return nil, err
	}
	if w.redis, w.rdb, _, err = w.startRedis(ctx, "redis"); err != nil {
		return nil, err
	}
	if w.sockets, err = freePort(); err != nil {
		return nil, err
	}
	if err = w.serveUpstream(ctx); err != nil {
		return nil, err
	}
	if w.relay, err = begin(ctx, w.redis, "relay", w.key, users); err != nil {
		return nil, err
	}
	if w.mint, err = begin(ctx, w.redis, "mint", w.key, users); err != nil {
		return nil, err
	}
	// What the naive gateway reads is as large as a record.
	if err = w.rdb.Set(ctx, "bench:naive", text(1600), 24*time.Hour).Err(); err != nil {
		return nil, err
	}
	w.tls, err = w.certificate()
	return w, err
}

// startRedis starts a Redis that keeps nothing.
func (w *world) startRedis(ctx context.Context, name string) (address string, rdb *redis.Client, p *process, err error) {
	if address, err = freePort(); err != nil {
		return "", nil, nil, err
	}
	_, port, _ := net.SplitHostPort(address)
	p, err = w.start(name, "redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", w.dir)
	if err != nil {
		return "", nil, nil, err
	}
	return address, redis.NewClient(&redis.Options{Addr: address}), p, p.ready(ctx, address, "")
}

func (w *world) build(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-o", filepath.Join(w.dir, name)}, args...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", name, err, out)
	}
	return nil
}

func (w *world) close() {
	if w.rdb != nil {
		_ = w.rdb.Close()
	}
	for i := len(w.running) - 1; i >= 0; i-- {
		w.running[i].stop()
	}
	for _, f := range w.closers {
		f()
	}
	_ = os.RemoveAll(w.dir)
}

func (w *world) start(name, program string, args ...string) (*process, error) {
	p, err := start(name, program, args...)
	if err == nil {
		w.running = append(w.running, p)
	}
	return p, err
}

func (w *world) file(name, content string) (string, error) {
	path := filepath.Join(w.dir, name)
	return path, errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644))
}

// nginx starts an nginx whose http block holds conf.
func (w *world) nginx(ctx context.Context, name, address string, workers, conf string) (*process, error) {
	conf = fmt.Sprintf(`daemon off; pid %[1]s/%[2]s.pid; error_log stderr crit; worker_processes %[3]s; worker_rlimit_nofile 65536;
events { worker_connections 16384; }
http {
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path %[1]s/%[2]s-body; proxy_temp_path %[1]s/%[2]s-proxy; fastcgi_temp_path %[1]s/%[2]s-f; uwsgi_temp_path %[1]s/%[2]s-u; scgi_temp_path %[1]s/%[2]s-s;
  %[4]s
}
`, w.dir, name, workers, conf)
	path, err := w.file(name+".conf", conf)
	if err != nil {
		return nil, err
	}
	p, err := w.start(name, "nginx", "-c", path, "-p", w.dir)
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, address, "")
}

// serveUpstream starts what everything here forwards to.
func (w *world) serveUpstream(ctx context.Context) (err error) {
	if w.upstream, err = freePort(); err != nil {
		return err
	}
	if w.opts.Own {
		p, err := w.start("upstream", filepath.Join(w.dir, "bare"), "-mode", "upstream", "-listen", w.upstream)
		if err != nil {
			return err
		}
		return p.ready(ctx, w.upstream, "")
	}
	for _, n := range sizes[1:] {
		if _, err := w.file(fmt.Sprintf("www/api/%d", n), strings.Repeat("x", n)); err != nil {
			return err
		}
	}
	_, err = w.nginx(ctx, "upstream", w.upstream, "1", fmt.Sprintf(`server {
    listen %s; default_type application/octet-stream; root %s/www; open_file_cache max=10;
    location = /api/200 { default_type application/json; return 200 "%s"; }
  }`, w.upstream, w.dir, strings.Repeat("x", sizes[0])))
	return err
}

// nginxProxy is contender (a).
func (w *world) nginxProxy(ctx context.Context) (*contender, error) {
	address, err := freePort()
	if err != nil {
		return nil, err
	}
	p, err := w.nginx(ctx, "nginx", address, "auto", fmt.Sprintf(`upstream up { server %s; keepalive 1024; keepalive_requests 1000000000; }
  server { listen %s; location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; } }`, w.upstream, address))
	return &contender{Name: "nginx", process: p, address: address}, err
}

// bare is a contender that bare/main.go is.
func (w *world) bare(ctx context.Context, name, mode string, more ...string) (*contender, error) {
	address, err := freePort()
	if err != nil {
		return nil, err
	}
	args := append([]string{"-mode", mode, "-listen", address, "-upstream", "http://" + w.upstream, "-redis", w.redis}, more...)
	p, err := w.start(name, filepath.Join(w.dir, "bare"), args...)
	if err != nil {
		return nil, err
	}
	return &contender{Name: name, process: p, address: address, cookies: w.relay}, p.ready(ctx, address, "")
}

// cloakroom starts a gateway with the two apps. change has the last word on its
// configuration.
func (w *world) cloakroom(ctx context.Context, name string, change func(config map[string]any, app map[string]any)) (*contender, error) {
	public, err := freePort()
	if err != nil {
		return nil, err
	}
	admin, err := freePort()
	if err != nil {
		return nil, err
	}
	app := func(name string) map[string]any {
		return map[string]any{
			"name": name, "origin": "https://" + name + ".test",
			// Nobody logs in, so nobody asks it.
			"provider": map[string]any{"issuer": "https://id.example.com", "client_id": "bench", "client_auth": "client_secret_basic", "client_secret": text(32), "scopes": []any{"openid"}},
			"session":  map[string]any{"cache_ttl": "5s", "idle_timeout": "30m", "absolute_timeout": "12h"},
			"token":    map[string]any{"mode": "relay"},
			"routes": []any{
				map[string]any{"path": "/api/", "upstream": "http://" + w.upstream},
				map[string]any{"path": "/ws/", "upstream": "http://" + w.sockets},
			},
		}
	}
	relay, mint := app("relay"), app("mint")
	signing, err := w.signingKey()
	if err != nil {
		return nil, err
	}
	mint["token"] = map[string]any{"mode": "mint", "audience": []any{"https://api.example.com"}, "signing_keys": []any{signing}, "pairwise_key": session.NewServerKey().Encode()}
	mint["session"].(map[string]any)["revalidate"] = "12h"
	config := map[string]any{
		"version": 1, "listen": public,
		"redis": map[string]any{"addresses": []any{w.redis}},
		"keys":  []any{w.key.Encode()},
		"admin": map[string]any{"listen": admin},
		"apps":  []any{relay, mint},
	}
	if change != nil {
		change(config, relay)
	}
	b, err := json.MarshalIndent(config, "", "  ") // JSON is YAML, too
	if err != nil {
		return nil, err
	}
	path, err := w.file(name+".yaml", string(b))
	if err != nil {
		return nil, err
	}
	p, err := w.start(name, filepath.Join(w.dir, "cloakroom"), "serve", "--config", path)
	if err != nil {
		return nil, err
	}
	c := &contender{Name: name, process: p, address: public, admin: admin, cookies: w.relay}
	return c, p.ready(ctx, public, "http://"+admin+"/readyz")
}

func (w *world) signingKey() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// certificate makes one for clients that don't look at it.
func (w *world) certificate() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	like := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{relayHost},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, like, like, key.Public(), key)
	if err != nil {
		return "", err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	return w.file("tls.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))+
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

// contender is one of those that are measured.
type contender struct {
	Name    string
	process *process
	address string
	admin   string // of a Cloakroom
	cookies []string
	host    string // default relayHost
	method  string // default GET
	path    string // default /api/200
	more    []string
}

// as is the same process under another name, asked for something else.
func (c contender) as(name string, change func(*contender)) *contender {
	c.Name = name
	change(&c)
	return &c
}

func (c *contender) target() target {
	t := target{address: c.address, host: c.host, method: c.method, path: c.path, cookies: c.cookies, more: c.more}
	for field, value := range maps.All(map[*string]string{&t.host: relayHost, &t.method: "GET", &t.path: "/api/200"}) {
		if *field == "" {
			*field = value
		}
	}
	return t
}
