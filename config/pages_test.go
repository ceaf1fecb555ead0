package config_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// withPages is the minimal file with pages.
func withPages(dir string) string {
	return strings.Replace(minimal, "    routes:", fmt.Sprintf("    pages: %q\n    routes:", dir), 1)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPages(t *testing.T) {
	c, err := load(t, minimal)
	if err != nil || c.Apps[0].Pages != nil {
		t.Fatalf("without the key: %v, %v", c, err)
	}
	if c, err = load(t, withPages("")); err != nil || c.Apps[0].Pages != nil {
		t.Fatalf("empty: %v, %v", c, err)
	}

	// As Kubernetes mounts files: by links that stay within.
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "..2026", "more.html"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "..2026", "error.html"), "<p>{{.Code}}</p>\n")
	if err := os.Symlink("..2026", filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..data/error.html", filepath.Join(dir, "error.html")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "onward.html"), "")
	write(t, filepath.Join(dir, "README"), "\xff")
	if c, err = load(t, withPages(dir)); err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"error.html": "<p>{{.Code}}</p>\n", "onward.html": ""}; !maps.Equal(c.Apps[0].Pages, want) {
		t.Errorf("got %q, want %q", c.Apps[0].Pages, want)
	}
	files := c.Files()
	for _, path := range []string{dir, filepath.Join(dir, "error.html"), filepath.Join(dir, "onward.html")} {
		if files[path] == "" {
			t.Errorf("doesn't watch %s", path)
		}
	}
	if len(files) != 4 {
		t.Errorf("watches %q", files)
	}
	// Where there are none, somebody will say so who knows them.
	if c, err = load(t, withPages(t.TempDir())); err != nil || c.Apps[0].Pages == nil {
		t.Errorf("an empty directory: %v, %v", c, err)
	}
}

func TestPagesThatCantBeRead(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	write(t, outside, "hunter2")
	for _, row := range []struct {
		name string
		make func(dir string) error
		want string
	}{
		{"no directory", os.Remove, "can't be read: no such file or directory"},
		{"a file", func(dir string) error { return os.WriteFile(filepath.Join(dir, "x"), nil, 0o600) }, ""},
		{"a link out", func(dir string) error { return os.Symlink(outside, filepath.Join(dir, "error.html")) }, "error.html can't be read: path escapes from parent"},
		{"a link out, by dots", func(dir string) error {
			return os.Symlink("../../../../../../../etc/passwd", filepath.Join(dir, "error.html"))
		}, "error.html can't be read: path escapes from parent"},
		{"a dead link", func(dir string) error { return os.Symlink("nowhere", filepath.Join(dir, "error.html")) }, "error.html can't be read: no such file or directory"},
		{"a directory", func(dir string) error { return os.Mkdir(filepath.Join(dir, "error.html"), 0o700) }, "error.html is not a regular file"},
		{"a pipe", func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "error.html"), 0o600) }, "error.html is not a regular file"},
		{"too large", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "error.html"), make([]byte, 64<<10+1), 0o600)
		}, "error.html is larger than 64 KiB"},
		{"not text", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "error.html"), []byte("caf\xe9"), 0o600)
		}, "error.html is not UTF-8"},
		{"a library", func(dir string) error {
			for i := range 257 {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
					return err
				}
			}
			return nil
		}, "holds more than 256 files"},
		{"two at once", func(dir string) error {
			if err := os.Symlink(outside, filepath.Join(dir, "b.html")); err != nil {
				return err
			}
			return os.Mkdir(filepath.Join(dir, "a.html"), 0o700)
		}, "a.html is not a regular file\nb.html can't be read: path escapes from parent"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := row.make(dir); err != nil {
				t.Fatal(err)
			}
			_, err := load(t, withPages(dir))
			if got := strings.ReplaceAll(strings.Join(problems(t, err), "\n"), "15: apps[0].pages: ", ""); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
	t.Run("a file for a directory", func(t *testing.T) {
		_, err := load(t, withPages(outside))
		if got, want := strings.Join(problems(t, err), "\n"), "15: apps[0].pages: can't be read: not a directory"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestDevServer(t *testing.T) {
	c, err := load(t, strings.Replace(minimal, aRoute, `{path: /, dev_server: "http://localhost:5173"}`, 1))
	if err != nil {
		t.Fatal(err)
	}
	r := c.Apps[0].Routes[0]
	if got, want := fmt.Sprintln(r.DevServer, r.Upstream.Targets, r.Kind, r.Auth, r.Token, r.Timeout, r.Accept), "true [http://localhost:5173] page none none 2m0s []\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if w := c.Warnings(); len(w) != 1 || w[0].Key != "apps[0].routes[0].dev_server" || w[0].Line != 16 || !strings.Contains(w[0].Message, "not for production") {
		t.Errorf("warnings: %v", w)
	}
	const a = `path: /, dev_server: "http://localhost:5173"`
	for _, row := range []struct{ name, route, want string }{
		{"another port", `path: /, dev_server: "http://127.0.0.1:80/"`, ""},
		{"IPv6", `path: /, dev_server: "http://[::1]:5173"`, ""},
		{"a private address", `path: /, dev_server: "http://192.168.1.7:5173"`, ""},
		{"a container", `path: /, dev_server: "http://front_end:5173"`, ""},
		{"the host of containers", `path: /, dev_server: "http://host.docker.internal:5173"`, ""},
		{"behind a login", a + `, auth: required, methods: [GET, HEAD], timeout: 5m, max_body: 1KiB`, ""},
		{"a public address", `path: /, dev_server: "http://203.0.113.7"`, "dev_server: must be on this machine or in a private network: a development server shows its sources"},
		{"a cloud's own", `path: /, dev_server: "http://169.254.169.254"`, "dev_server: must be on this machine or in a private network: a development server shows its sources"},
		{"a public address, mapped", `path: /, dev_server: "http://[::ffff:203.0.113.7]"`, "dev_server: must be on this machine or in a private network: a development server shows its sources"},
		{"a public name", `path: /, dev_server: "http://dev.example.com"`, "dev_server: must be on this machine or in a private network: a development server shows its sources"},
		{"a name that looks private", `path: /, dev_server: "http://localhost.example.com"`, "dev_server: must be on this machine or in a private network: a development server shows its sources"},
		{"TLS", `path: /, dev_server: "https://localhost:5173"`, "dev_server: must be http: TLS ends at this gateway"},
		{"a path", `path: /, dev_server: "http://localhost:5173/app"`, "dev_server: must have no path: its pages ask for its own"},
		{"several", `path: /, dev_server: ["http://localhost:5173"]`, "dev_server: must be a single value"},
		{"empty", `path: /, dev_server: ""`, "dev_server: is empty"},
		{"beside an upstream", a + `, upstream: "http://a"`, "dev_server: can't stand beside upstream: a route leads to one of them"},
		{"beside files", a + `, files: /`, "dev_server: can't stand beside files: a route leads to one of them"},
		{"a token", a + `, auth: required, token: session`, "token: must be none: a development server gets no token"},
		{"headers", a + `, auth: required, headers: {X-User: sub}`, "headers: is for an upstream"},
		{"connection", a + `, connection: {max: 1}`, "connection: is for an upstream"},
		{"deadline", a + `, deadline: 1m`, "deadline: is for an upstream"},
		{"places", a + `, max_concurrent: 1`, "max_concurrent: is for an upstream"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := load(t, strings.Replace(minimal, aRoute, "{"+row.route+"}", 1))
			got, want := strings.Join(problems(t, err), "\n"), ""
			if row.want != "" {
				want = "16: apps[0].routes[0]." + row.want
			}
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
