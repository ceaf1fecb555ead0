package web

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

// site writes an application into a directory, beside a file that is none of
// its business.
func site(t testing.TB) string {
	t.Helper()
	outer := t.TempDir()
	dir := filepath.Join(outer, "dist")
	tree := fstest.MapFS{
		"index.html":                     {Data: []byte("<h1>app</h1>")},
		"assets/index-BkE3d_-z.js":       {Data: []byte("let x = 1")},
		"assets/index-BkE3d_-z.js.map":   {Data: []byte("{}")},
		"assets/logo-dark2024.png":       {Data: []byte("png")},
		"static/js/main.3f2a1b4c.css":    {Data: []byte("a{}")},
		"main.3f2a1b4c.js":               {Data: []byte("let y = 1")},
		"favicon.ico":                    {Data: []byte("ico")},
		"data":                           {Data: []byte("<script>alert(1)</script>")},
		"names/caf\u00e9 100%.txt":       {Data: []byte("text")},
		"docs/index.html":                {Data: []byte("<h1>docs</h1>")},
		"empty/x.txt":                    {Data: []byte("x")},
		".env":                           {Data: []byte("SECRET")},
		".git/config":                    {Data: []byte("SECRET")},
		"assets/.htpasswd":               {Data: []byte("SECRET")},
		".well-known/security.txt":       {Data: []byte("Contact: x")},
		".well-known/.hidden":            {Data: []byte("SECRET")},
		"movie.mp4":                      {Data: bytes.Repeat([]byte("0123456789"), 10)},
		"..dots/.well-known/x.txt":       {Data: []byte("SECRET")},
		"assets/.well-known/deeper.json": {Data: []byte("SECRET")},
	}
	if err := os.CopyFS(dir, tree); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outer, "outside.txt"), []byte("SECRET"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{
		"inside.html": "docs/index.html", "escape.txt": "../outside.txt", "absolute.txt": filepath.Join(outer, "outside.txt"), "up": "..", "loop": "loop",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo.txt"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t testing.TB, dir string, o FilesOptions) *Files {
	t.Helper()
	f, err := OpenFiles(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// ask serves one request and returns what was written, or the error.
func ask(f *Files, method, path string, header ...string) (*httptest.ResponseRecorder, error) {
	r := httptest.NewRequest(method, "/", nil)
	r.URL.RawQuery = "q=1"
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	return w, f.Serve(w, r, path)
}

var navigating = []string{"Sec-Fetch-Mode", "navigate"}

func TestFiles(t *testing.T) {
	f := open(t, site(t), FilesOptions{})
	const page, js = "text/html; charset=utf-8", "text/javascript; charset=utf-8"
	const fresh, forever = "no-cache", "max-age=31536000, immutable"
	tests := []struct {
		name, path       string
		header           []string
		body, kind, kept string // body "": not found
	}{
		{"root", "/", nil, "<h1>app</h1>", page, fresh},
		{"index by name", "/index.html", nil, "<h1>app</h1>", page, fresh},
		{"script", "/assets/index-BkE3d_-z.js", nil, "let x = 1", js, forever},
		{"its map", "/assets/index-BkE3d_-z.js.map", nil, "{}", "application/json", forever},
		{"webpack", "/static/js/main.3f2a1b4c.css", nil, "a{}", "text/css; charset=utf-8", forever},
		{"hashed, elsewhere", "/main.3f2a1b4c.js", nil, "let y = 1", js, fresh},
		{"not hashed, in assets", "/assets/logo-dark2024.png", nil, "png", "image/png", fresh},
		{"icon", "/favicon.ico", nil, "ico", "image/x-icon", fresh},
		{"no extension, looks like a page", "/data", nil, "<script>alert(1)</script>", "application/octet-stream", fresh},
		{"escapes", "/names/caf%C3%A9%20100%25.txt", nil, "text", "text/plain; charset=utf-8", fresh},
		{"directory", "/docs/", nil, "<h1>docs</h1>", page, fresh},
		{"link within", "/inside.html", nil, "<h1>docs</h1>", page, fresh},
		{"well known", "/.well-known/security.txt", nil, "Contact: x", "text/plain; charset=utf-8", fresh},
		{"the application's own path", "/orders/17", navigating, "<h1>app</h1>", page, fresh},
		{"the application's own path, with a slash", "/orders/", navigating, "<h1>app</h1>", page, fresh},
		{"the application's own path, older browser", "/orders/17", []string{"Accept", "text/html,*/*"}, "<h1>app</h1>", page, fresh},
		{"directory without a page, navigation", "/empty/", navigating, "<h1>app</h1>", page, fresh},

		{"unknown path, fetched", "/orders/17", []string{"Accept", "application/json"}, "", "", ""},
		{"unknown path, fetched as a page", "/orders/17", []string{"Accept", "text/html", "Sec-Fetch-Mode", "cors"}, "", "", ""},
		{"unknown file", "/assets/gone-BkE3d_-z.js", navigating, "", "", ""},
		{"directory without a page", "/empty/", nil, "", "", ""},
		{"no listing", "/assets/", nil, "", "", ""},
		{"file with a slash", "/favicon.ico/", navigating, "", "", ""},
		{"dot file", "/.env", navigating, "", "", ""},
		{"dot directory", "/.git/config", navigating, "", "", ""},
		{"dot file below", "/assets/.htpasswd", nil, "", "", ""},
		{"dot file among the well known", "/.well-known/.hidden", nil, "", "", ""},
		{"well known, but not at the top", "/assets/.well-known/deeper.json", nil, "", "", ""},
		{"name with leading dots", "/..dots/.well-known/x.txt", nil, "", "", ""},
		{"link out", "/escape.txt", nil, "", "", ""},
		{"absolute link out", "/absolute.txt", nil, "", "", ""},
		{"through a link out", "/up/outside.txt", nil, "", "", ""},
		{"link to itself", "/loop", nil, "", "", ""},
		{"not a regular file", "/fifo.txt", nil, "", "", ""},
		{"dots", "/../outside.txt", navigating, "", "", ""},
		{"encoded dots", "/%2e%2e/outside.txt", navigating, "", "", ""},
		{"encoded slashes", "/..%2foutside.txt", navigating, "", "", ""},
		{"backslash", `/..\outside.txt`, navigating, "", "", ""},
		{"NUL", "/index.html%00.png", navigating, "", "", ""},
		{"empty segment", "//index.html", nil, "", "", ""},
		{"bad escape", "/%zz", navigating, "", "", ""},
		{"no slash", "index.html", nil, "", "", ""},
		{"very long name", "/" + strings.Repeat("x", 5000), nil, "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, err := ask(f, "GET", tt.path, tt.header...)
			if tt.body == "" {
				if err != ErrNotFound || w.Body.Len() > 0 || len(w.Result().Header) > 0 {
					t.Fatalf("%v, %q, %v; want ErrNotFound and nothing written", err, w.Body, w.Result().Header)
				}
				return
			}
			h := w.Result().Header
			if err != nil || w.Code != 200 || w.Body.String() != tt.body {
				t.Fatalf("%v, %d, %q; want %q", err, w.Code, w.Body, tt.body)
			}
			if h.Get("Content-Type") != tt.kind || h.Get("Cache-Control") != tt.kept || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Etag") == "" {
				t.Errorf("%v; want %s and %s", h, tt.kind, tt.kept)
			}
			if fallback := len(tt.header) > 0; fallback != (h.Get("Vary") != "") {
				t.Errorf("Vary = %q", h.Get("Vary"))
			}
		})
	}
}

func TestFilesMethods(t *testing.T) {
	f := open(t, site(t), FilesOptions{})
	for _, m := range []string{"POST", "PUT", "DELETE", "OPTIONS", "PATCH"} {
		if w, err := ask(f, m, "/"); err != ErrMethod || w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %v, %v", m, err, w.Header())
		}
	}
	w, err := ask(f, "HEAD", "/index.html")
	if err != nil || w.Code != 200 || w.Body.Len() > 0 || w.Header().Get("Content-Length") != "12" {
		t.Errorf("HEAD: %v, %d, %q, %v", err, w.Code, w.Body, w.Header())
	}
}

func TestFilesConditionalAndRange(t *testing.T) {
	f := open(t, site(t), FilesOptions{})
	w, _ := ask(f, "GET", "/movie.mp4")
	etag, changed := w.Header().Get("Etag"), w.Header().Get("Last-Modified")
	for _, tt := range []struct {
		name   string
		header []string
		status int
		body   string
	}{
		{"known", []string{"If-None-Match", etag}, 304, ""},
		{"known, weakly", []string{"If-None-Match", "W/" + etag}, 304, ""},
		{"other", []string{"If-None-Match", `"x"`}, 200, ""},
		{"unchanged", []string{"If-Modified-Since", changed}, 304, ""},
		{"range", []string{"Range", "bytes=5-9"}, 206, "56789"},
		{"range of this version", []string{"Range", "bytes=5-9", "If-Range", etag}, 206, "56789"},
		{"range of another version", []string{"Range", "bytes=5-9", "If-Range", `"x"`}, 200, ""},
		{"range beyond", []string{"Range", "bytes=500-"}, 416, ""},
	} {
		w, err := ask(f, "GET", "/movie.mp4", tt.header...)
		if err != nil || w.Code != tt.status || tt.body != "" && w.Body.String() != tt.body {
			t.Errorf("%s: %v, %d, %.20q; want %d %q", tt.name, err, w.Code, w.Body, tt.status, tt.body)
		}
	}
}

// Reproducible builds: a new index.html of the same size and the same time is
// another page all the same.
func TestFilesTagFollowsContents(t *testing.T) {
	dir := site(t)
	f := open(t, dir, FilesOptions{})
	long := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	tags := make(map[string]bool)
	for _, name := range []string{"index.html", "favicon.ico"} {
		for _, body := range []string{"one", "two", "six"} {
			// As a deployment does it: a new file takes the old one's place.
			next := filepath.Join(dir, "next")
			if err := errors.Join(os.WriteFile(next, []byte(body), 0o600), os.Chtimes(next, long, long), os.Rename(next, filepath.Join(dir, name))); err != nil {
				t.Fatal(err)
			}
			w, err := ask(f, "GET", "/"+name)
			if err != nil || w.Body.String() != body {
				t.Fatalf("%s: %v, %q; want %q", name, err, w.Body, body)
			}
			tags[name+w.Header().Get("Etag")] = true
			again, _ := ask(f, "GET", "/"+name)
			if got := again.Header().Get("Etag"); got != w.Header().Get("Etag") {
				t.Errorf("%s: tag changed to %s", name, got)
			}
		}
	}
	if len(tags) != 6 {
		t.Errorf("tags %v; want six", tags)
	}
}

func TestFilesLargeFileHasNoTag(t *testing.T) {
	dir := site(t)
	big, err := os.Create(filepath.Join(dir, "big.bin"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(big.Truncate(maxTagged+1), big.Close()); err != nil {
		t.Fatal(err)
	}
	w, err := ask(open(t, dir, FilesOptions{}), "HEAD", "/big.bin")
	if err != nil || w.Header().Get("Etag") != "" || w.Header().Get("Last-Modified") == "" {
		t.Errorf("%v, %v", err, w.Header())
	}
}

func TestFilesDirectoryIsReplaced(t *testing.T) {
	dir := site(t)
	f := open(t, dir, FilesOptions{})
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(f, "GET", "/"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("no directory: %v; want the file system's error", err)
	}
	if err := os.CopyFS(dir, fstest.MapFS{"index.html": {Data: []byte("new")}}); err != nil {
		t.Fatal(err)
	}
	if w, err := ask(f, "GET", "/"); err != nil || w.Body.String() != "new" {
		t.Errorf("%v, %q; want the new page", err, w.Body)
	}
}

func TestFilesAddSlash(t *testing.T) {
	dir := site(t)
	if err := os.CopyFS(filepath.Join(dir, "a:b"), fstest.MapFS{"index.html": {Data: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	f := open(t, dir, FilesOptions{})
	for path, want := range map[string]string{"/docs": "./docs/?q=1", "/a:b": "./a:b/?q=1"} {
		w, err := ask(f, "GET", path)
		if err != nil || w.Code != http.StatusTemporaryRedirect || w.Header().Get("Location") != want {
			t.Errorf("%s: %v, %d, %q; want %q", path, err, w.Code, w.Header().Get("Location"), want)
		}
	}
}

func TestFilesPrivate(t *testing.T) {
	f := open(t, site(t), FilesOptions{Private: true})
	for path, want := range map[string]string{"/": "private, no-cache", "/assets/index-BkE3d_-z.js": "private, max-age=31536000, immutable"} {
		if w, err := ask(f, "GET", path); err != nil || w.Header().Get("Cache-Control") != want {
			t.Errorf("%s: %v, %q; want %q", path, err, w.Header().Get("Cache-Control"), want)
		}
	}
}

func TestFilesWithoutIndex(t *testing.T) {
	f := open(t, t.TempDir(), FilesOptions{})
	for _, path := range []string{"/", "/x"} {
		if w, err := ask(f, "GET", path, navigating...); err != ErrNotFound || len(w.Result().Header) > 0 {
			t.Errorf("%s: %v, %v", path, err, w.Result().Header)
		}
	}
}

func TestOpenFilesRefuses(t *testing.T) {
	for _, dir := range []string{filepath.Join(t.TempDir(), "none"), filepath.Join(site(t), "index.html")} {
		if _, err := OpenFiles(dir, FilesOptions{}); err == nil {
			t.Errorf("OpenFiles(%q) is no error", filepath.Base(dir))
		}
	}
}

func TestHashed(t *testing.T) {
	for name, want := range map[string]bool{
		"assets/index-BkE3d_-z.js": true, "assets/index-DiwrgTda.css": true, "_app/immutable/chunks/a.1f2e3d4c.js": true,
		"static/media/logo.6ce24c58023cc2f8fd88fe9d219db6c6.svg": true, "_next/static/chunks/main-8c5f1b2ad3e4f567.js": false,
		"assets/chunk-ABCD2345.js": true, "static/js/2.3f2a1b4c.chunk.js": false,
		"assets/jquery-3.7.1.min.js": false, "assets/report-20241231.pdf": false, "assets/some-document.pdf": false, "assets/roboto-latin700.woff2": false,
		"assets/app.bundle.js": false, "assets/app.facefeed.js": false, "index-BkE3d_-z.js": false, "assets/BkE3d_-z.js": false, "assets/.js": false, "assets/x": false,
	} {
		if got := hashed(name); got != want {
			t.Errorf("hashed(%q) = %v", name, got)
		}
	}
}

func FuzzFileName(f *testing.F) {
	for _, s := range []string{"/", "/a/b.js", "/../x", "/%2e%2e/x", "/.env", "/.well-known/x", "//x", "/a%00", `/a\b`, "/a/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, p string) {
		name, ok := fileName(p)
		if !ok {
			return
		}
		if !filepath.IsLocal(name) || strings.ContainsAny(name, "\\\x00") {
			t.Errorf("fileName(%q) = %q, which leaves the directory", p, name)
		}
		for s := range strings.SplitSeq(strings.TrimPrefix(name, ".well-known"), "/") {
			if name != "." && strings.HasPrefix(s, ".") {
				t.Errorf("fileName(%q) = %q, which is hidden", p, name)
			}
		}
	})
}

func BenchmarkFiles(b *testing.B) {
	f := open(b, site(b), FilesOptions{})
	r := httptest.NewRequest("GET", "/assets/index-BkE3d_-z.js", nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := f.Serve(httptest.NewRecorder(), r, "/assets/index-BkE3d_-z.js"); err != nil {
			b.Fatal(err)
		}
	}
}
