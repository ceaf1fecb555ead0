package attacks

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// canary is in files that no route serves.
const fileCanary = "FLcanary-not-to-be-served"

// directory is an application's, with what may come to lie about in one.
func directory(t testing.TB) string {
	t.Helper()
	top := t.TempDir()
	dir := filepath.Join(top, "dist")
	put := func(name, text string) {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("index.html", "<!doctype html><title>the application</title>")
	put("app.js", "export {}")
	put("data.bin", string(bytes.Repeat([]byte("0123456789abcdef"), 4096)))
	put("docs/index.html", "<!doctype html><title>the documents</title>")
	put("sub/page.html", "<!doctype html>")
	put(".well-known/security.txt", "Contact: x")
	for _, hidden := range []string{".env", ".git/config", "sub/.htaccess", ".well-known/.secret", "../secret.txt", "../dist-old/secret.txt", "docs/.index.html.swp"} {
		put(hidden, fileCanary)
	}
	for name, to := range map[string]string{
		"link-in": "app.js", "link-out": "../secret.txt", "link-dir": "..", "sub/link-up": "../../secret.txt", "link-root": "/", "link-abs": filepath.Join(top, "secret.txt"), "link-loop": "link-loop",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// filesRoutes serve it: to everybody, and to those who are logged in.
func filesRoutes(t testing.TB) []any {
	dir := directory(t)
	return []any{
		map[string]any{"path": "/files", "files": dir, "strip_prefix": "/files"},
		map[string]any{"path": "/members", "files": dir, "strip_prefix": "/members", "auth": "required"},
	}
}

const navigated = "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nAccept: text/html\r\n"

// fileRows is H's part about files.
func fileRows(a *arena) {
	a.row("H-20_files", func(c *row) {
		for target, status := range map[string]int{
			"": 200, "/": 200, "/app.js": 200, "/index.html": 200, "/docs/": 200, "/docs": 307, "/link-in": 200, "/.well-known/security.txt": 200, "/docs?x=//evil.test": 307, "/%61pp.js": 200,
			// No listing, nothing hidden, nothing that is no file, nothing from outside.
			"/sub": 404, "/sub/": 404, "/.env": 404, "/.git/config": 404, "/.git/": 404, "/sub/.htaccess": 404, "/.well-known/.secret": 404, "/docs/.index.html.swp": 404, "/%2eenv": 404, "/.well-known/": 404,
			"/link-out": 404, "/link-dir/secret.txt": 404, "/link-dir/": 404, "/sub/link-up": 404, "/link-root/etc/passwd": 404, "/link-abs": 404, "/link-loop": 404, "/pipe": 404, "/link-dir/dist/app.js": 404,
			// Other spellings are other files.
			"/app.js/": 404, "/app.js/x": 404, "/app.js.": 404, "/app.js%20": 404, "/APP.JS": 404, "/app.js::$DATA": 404, "/app.js:x": 404, "/con": 404, "/~": 404, "/app.js~": 404, "/*": 404, "/docs.": 404, "/docs%20/": 404,
			"/nul.txt": 404, "/.%20": 400, "/...": 400, "/app%00.js": 400,
			// And some are none.
			"/../secret.txt": 400, "/%2e%2e/secret.txt": 400, "/..%2fsecret.txt": 400, "/..%5csecret.txt": 400, `/..\secret.txt`: 400, "/%c0%ae%c0%ae/secret.txt": 400, "/..%c0%afsecret.txt": 400, "/..%252fsecret.txt": 400,
			"//etc/passwd": 400, "/%2fetc/passwd": 400, "/sub/../.env": 400, "/./.env": 400, "/..;/secret.txt": 400, "/.../secret.txt": 400, "/..%ef%bc%8fsecret.txt": 400, "/%u002e%u002e/secret.txt": 400, "/docs/..": 400,
		} {
			for _, method := range []string{"GET", "HEAD"} {
				x := c.send(request(method, "/files"+target, "Sec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-origin\r\n"))
				c.want(x, status, "")
				if to := x.final().Header.Get("Location"); status == http.StatusTemporaryRedirect && !strings.HasPrefix(to, "./docs/") {
					c.Errorf("%s leads to %q", target, to)
				}
			}
			// Nor to a person who only gets the application's page.
			if x := c.send(get("/files"+target, navigated)); status == 400 && x.status() != 400 {
				c.Errorf("a navigation to %q: %v", target, x)
			}
			if x := c.send(get("/members"+target, fetched)); status != 400 && x.status() != http.StatusUnauthorized {
				c.Errorf("%q for nobody: %v", target, x)
			}
		}
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "get", "MOVE", "COPY"} {
			c.want(c.send(request(method, "/files/app.js", "Destination: /files/x\r\n")), http.StatusMethodNotAllowed, "method_not_allowed")
		}
		for _, x := range c.exchanges() {
			if strings.Contains(string(x.got), fileCanary) || strings.Contains(string(x.got), "root:") {
				c.Errorf("%.120q: %q", x.sent, x.got)
			}
		}
		if n := len(c.arrived()); n > 0 {
			c.Errorf("the upstream got %d requests", n)
		}
	})
	a.row("H-21_files_of_members", func(c *row) {
		// What is not everybody's is no shared cache's, whatever part of it was asked for.
		x := c.send(get("/members/app.js", fetched, a.cookie("alice")))
		c.want(x, http.StatusOK, "")
		etag := x.final().Header.Get("ETag")
		for lines, status := range map[string]int{
			"": 200, "If-None-Match: " + etag + "\r\n": 304, "If-None-Match: W/" + etag + ", \"x\"\r\n": 304, "If-None-Match: *\r\n": 304, "Range: bytes=0-2\r\n": 206, "If-Range: " + etag + "\r\nRange: bytes=0-2\r\n": 206,
			"If-Range: \"x\"\r\nRange: bytes=0-2\r\n": 200, "If-Match: \"x\"\r\n": 412,
		} {
			x := c.send(get("/members/app.js", fetched, a.cookie("alice"), lines))
			c.want(x, status, "")
			if cc := x.final().Header.Get("Cache-Control"); status < 400 && !strings.Contains(cc, "private") && cc != "no-store" {
				c.Errorf("%q: Cache-Control is %q", lines, cc)
			}
			// The file's tag is no key to it.
			if x := c.send(get("/members/app.js", fetched, lines)); x.status() != http.StatusUnauthorized || x.final().Header.Get("ETag") != "" {
				c.Errorf("%q: nobody gets %v", lines, x)
			}
		}
	})
}

// rangeRow asks for parts of a file, in more parts than a file has.
func rangeRow(a *arena) {
	a.row("Q-24_ranges", func(c *row) {
		const size = 65536
		for _, value := range []string{
			"bytes=" + strings.Repeat("0-0,", 7000) + "0-0", "bytes=" + strings.Repeat("-1,", 9000) + "-1", "bytes=" + strings.Repeat("0-,", 9000) + "0-", "bytes=0-" + strings.Repeat(",5-", 9000), "bytes=0-0" + strings.Repeat(",2-2,4-4", 2000),
			"bytes=" + strings.Repeat("0-9,", 100) + "0-9", "bytes=" + strings.Repeat(",", 20000) + "0-0", "bytes=" + strings.Repeat(" ,\t", 9000) + "0-0", "bytes=0-0\r\nRange: bytes=1-1", "bytes=0-65535,0-65535",
		} {
			x := c.send(get("/files/data.bin", "Range: "+value+"\r\n"))
			if s := x.status(); s != 200 && s != 206 && s != 416 && s != 400 || len(x.got) > size+8192 {
				c.Errorf("%.60q: %d with %d bytes", value, s, len(x.got))
			}
		}
		whole := len(c.send(get("/bff/client.js")).got)
		for _, value := range []string{"bytes=" + strings.Repeat("0-0,", 4000) + "0-0", "bytes=0-0,2-2", "bytes=0-0"} {
			if x := c.send(get("/bff/client.js", "Range: "+value+"\r\n")); x.status() != 200 && x.status() != 206 || len(x.got) > whole+1024 {
				c.Errorf("client.js, %.60q: %d with %d bytes", value, x.status(), len(x.got))
			}
		}
		for value, status := range map[string]int{
			"bytes=0-0": 206, "bytes=-16": 206, "bytes=65535-": 206, "bytes=0-1,4-5": 206, "bytes=5-1": 416, "bytes=65536-": 416, "bytes=x": 416, "bytes=0-99999999999999999999": 416, "lines=0-1": 416, "bytes=0x0-0x1": 416, "bytes=--1": 416, "bytes": 416,
		} {
			x := c.send(get("/files/data.bin", "Range: "+value+"\r\n"))
			if s := x.status(); s != status && s != 200 {
				c.Errorf("%q: %d, want %d", value, s, status)
			}
		}
	})
}
