package test

import (
	"bytes"
	"debug/elf"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

func deployed(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(rig.Root(), "deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The configurations that are deployed pass `cloakroom check`, their secrets
// apart.
func TestDeployedConfigsAreGood(t *testing.T) {
	t.Parallel()
	_, manifest, found := strings.Cut(deployed(t, "kubernetes/cloakroom.yaml"), "  cloakroom.yaml: |\n")
	if !found {
		t.Fatal("the ConfigMap has no cloakroom.yaml")
	}
	manifest, _, _ = strings.Cut(manifest, "\n---\n")
	for name, text := range map[string]string{
		"compose":    deployed(t, "compose/cloakroom.yaml"),
		"kubernetes": regexp.MustCompile(`(?m)^    `).ReplaceAllString(manifest, ""),
	} {
		t.Run(name, func(t *testing.T) { checkDeployed(t, text) })
	}
}

// checkDeployed has the binary check a configuration, with secrets of the test's.
func checkDeployed(t *testing.T, text string) {
	t.Helper()
	key, _, _ := rig.Run(t, "keys", "new")
	secrets := 0
	text = regexp.MustCompile(`\$\{file:([^}]+)\}`).ReplaceAllStringFunc(text, func(ref string) string {
		secrets++
		value := rig.Random() + rig.Random()
		if strings.HasSuffix(ref, "key}") {
			value = key
		}
		return "${file:" + rig.WriteFile(t, "secret", value) + "}"
	})
	if secrets != 4 {
		t.Fatalf("%d secrets, want the key, Redis's, the client's and the admin's", secrets)
	}
	stdout, stderr, code := rig.Run(t, "check", "--config", rig.WriteFile(t, "cloakroom.yaml", text))
	if code != 0 {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
}

// Redis as deployed: its account may do all that the gateway does, and nothing
// to anybody else's keys.
func TestDeployedRedisAccountSuffices(t *testing.T) {
	t.Parallel()
	password := rig.Random()
	addr := free(t)
	_, port, _ := net.SplitHostPort(addr)
	dir := filepath.Join(rig.Root(), "deploy", "redis")
	// The tester's own account is for ACL LOG: what was refused to whom.
	users := rig.WriteFile(t, "users.acl", deployed(t, "redis/users.acl")+"user tester on nopass ~* &* +@all\n")
	redis := rig.Start(t, exec.Command("sh", filepath.Join(dir, "start.sh"),
		rig.WriteFile(t, "redis-password", password+"\n"), users, filepath.Join(dir, "redis.conf"),
		"--bind", "127.0.0.1", "--port", port, "--dir", t.TempDir()))
	cli := func(args ...string) string {
		out, _ := exec.Command("redis-cli", append([]string{"-p", port}, args...)...).CombinedOutput()
		return string(out)
	}
	rig.Eventually(t, "Redis answers", func() bool {
		select {
		case <-redis.Done():
			t.Fatalf("Redis ended:\n%s", redis.Output())
		default:
		}
		return strings.Contains(cli("ping"), "NOAUTH")
	})

	_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: time.Second})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: func(c rig.Config) {
		quick(c)
		c.Set("redis.addresses", []any{addr})
		c.Set("redis.username", "cloakroom")
		c.Set("redis.password", "${file:"+rig.WriteFile(t, "redis-password", password+"\n")+"}")
	}})
	w.Secret("Redis's password", password)
	b := w.NewBrowser()
	b.Login("alice")
	tokenRunsOut(t, b)
	if r := token(b); r.Status != http.StatusOK || r.Successor() == "" {
		t.Fatalf("a refresh: %s", r)
	}
	if r := b.Fetch(http.MethodPost, "/bff/logout"); r.Status != http.StatusOK {
		t.Fatalf("a logout: %s", r)
	}
	if refused := strings.TrimSpace(cli("--no-auth-warning", "--user", "tester", "--pass", "x", "ACL", "LOG")); refused != "" {
		t.Errorf("the account may not do all that the gateway does:\n%s", refused)
	}
	as := []string{"--no-auth-warning", "--user", "cloakroom", "--pass", password}
	for _, args := range [][]string{{"SET", "other:key", "1"}, {"KEYS", "*"}, {"CONFIG", "GET", "*"}, {"FLUSHALL"}, {"PUBLISH", "other", "x"}} {
		if out := cli(append(as, args...)...); !strings.Contains(out, "NOPERM") {
			t.Errorf("%s as cloakroom: %s", args, out)
		}
	}
}

// The image's build: its command, on the files that .dockerignore lets through,
// makes a static binary.
func TestImageBuildMakesAStaticBinary(t *testing.T) {
	t.Parallel()
	command := regexp.MustCompile(`CGO_ENABLED=0 go build .*`).FindString(deployed(t, "Dockerfile"))
	if command == "" {
		t.Fatal("the Dockerfile builds nothing")
	}
	src, out := t.TempDir(), filepath.Join(t.TempDir(), "cloakroom")
	for _, name := range []string{"go.mod", "go.sum", "cmd", "config", "gateway", "session"} {
		copyTree(t, filepath.Join(rig.Root(), name), filepath.Join(src, name))
	}
	build := exec.Command("sh", "-c", strings.ReplaceAll(command, "/out/cloakroom", out))
	build.Dir, build.Env = src, append(os.Environ(), "VERSION=v1.2.3")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, text)
	}
	f, err := elf.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the binary is not static")
		}
	}
	text, err := exec.Command(out, "version").Output()
	if err != nil || !bytes.HasPrefix(text, []byte("cloakroom v1.2.3 ")) {
		t.Errorf("cloakroom version: %q, %v", text, err)
	}
}

// copyTree copies what .dockerignore lets through: no tests, no testdata.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "testdata" {
				return filepath.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if strings.HasSuffix(path, "_test.go") {
			return nil
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		file, err := os.Create(filepath.Join(to, rel))
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = io.Copy(file, in)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
