package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

// root is the gateway's module, seen from this one's directory.
const root = "../.."

// build makes the gateway's binary with the Go that runs this.
func build(ctx context.Context, dir string) (string, error) {
	if _, err := os.Stat(filepath.Join(root, "cmd", "cloakroom")); err != nil {
		return "", fmt.Errorf("the gateway's source is not at %s; run this as: make demo", root)
	}
	binary := filepath.Join(dir, "cloakroom.exe") // the suffix matters to Windows alone
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/cloakroom")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the gateway: %v\n%s", err, output)
	}
	return binary, nil
}

// configValues are the blanks of the configuration.
type configValues struct {
	settings
	Cert          certificate
	RedisAddr     string
	RedisPassword string
	AdminPort     int
	Issuer        string
	ClientID      string
	ClientSecret  string
	Upstream      string
	Files         string
}

// %q suits YAML: a double-quoted scalar has Go's escapes, and more.
var configTemplate = template.Must(template.New("").Parse(`# Written by the demo for this run.
version: 1
listen: "127.0.0.1:{{.Port}}"
{{- if .Cert.CertFile}}
tls: {cert_file: {{printf "%q" .Cert.CertFile}}, key_file: {{printf "%q" .Cert.KeyFile}}}
{{- end}}
drain: {timeout: 5s}
redis:
  addresses: [{{printf "%q" .RedisAddr}}]
  password: ${file:redis-password}
keys:
  - ${file:key}
admin: {listen: "127.0.0.1:{{.AdminPort}}"}
log: {format: text}
apps:
  - name: demo
    origin: {{.Origin}}
    provider:
      issuer: {{.Issuer}}
      client_id: {{.ClientID}}
      client_secret: ${file:client-secret}
      scopes: [openid, profile, email, offline_access]
    session:
      idle_timeout: {{.Idle}}
      absolute_timeout: {{.Absolute}}
      rotation_grace: {{.Grace}}
    token: {mode: relay}
    routes:
      - {path: /api/, upstream: {{printf "%q" .Upstream}}}
      - {path: /, files: {{printf "%q" .Files}}}
`))

func (v configValues) Port() int        { return v.port }
func (v configValues) Origin() string   { return v.origin() }
func (v configValues) Idle() string     { return v.idle.String() }
func (v configValues) Absolute() string { return v.absolute.String() }
func (v configValues) Grace() string    { return v.grace.String() }

// writeConfig writes cloakroom.yaml, with its secrets in files beside it.
func writeConfig(dir string, v configValues) (string, error) {
	for name, text := range map[string]string{
		"key": secret(), "redis-password": v.RedisPassword, "client-secret": v.ClientSecret,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			return "", err
		}
	}
	var text strings.Builder
	if err := configTemplate.Execute(&text, v); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "cloakroom.yaml")
	return path, os.WriteFile(path, []byte(text.String()), 0o600)
}

// process is the running gateway.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; read it after done
}

func startGateway(binary, config string, log io.Writer) (*process, error) {
	p := &process{cmd: exec.Command(binary, "serve", "--config", config), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

// startTimeout is far above what a start takes on a slow machine.
const startTimeout = 30 * time.Second

// ready waits until the gateway says that it can serve.
func (p *process) ready(ctx context.Context, adminPort int) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	url := fmt.Sprintf("http://127.0.0.1:%d/readyz", adminPort)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-p.done:
			return fmt.Errorf("the gateway did not start: %v", p.err)
		case <-ctx.Done():
			return fmt.Errorf("the gateway was not ready in time: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// stop asks the gateway to finish what it has begun, and kills it if it doesn't.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(os.Interrupt) // it may have heard Ctrl-C already
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}
