// Package web serves what the gateway itself shows to a browser: the files of a
// single-page application, and the few small pages of the login and logout
// flows. It knows no session.
//
// [Files] serves a directory: the file that a path names, index.html for the
// directory itself and for navigations to paths that only the application
// knows. It follows no symbolic link out of the directory, lists nothing, and
// serves nothing whose name starts with a dot (but .well-known/).
//
// [Pages] carry no script, load nothing, and can't be framed or cached. An app
// may have templates of its own for them.
package web

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"
)

var (
	// ErrNotFound is the error for a path that names no file.
	ErrNotFound = errors.New("no such file")
	// ErrMethod is the error for a method other than GET and HEAD.
	ErrMethod = errors.New("method not allowed on files")
)

// index is the application's page, and a directory's.
const index = "index.html"

// FilesOptions are the optional parts of [Files].
type FilesOptions struct {
	// Private keeps shared caches from storing anything: for a directory that
	// not everybody may see.
	Private bool
}

// Files serves the files of one directory. It is safe for concurrent use. A
// directory that is replaced while it runs is seen at once.
type Files struct {
	dir     string
	private bool

	mu   sync.Mutex
	tags map[string]tag // by file name, for the files that exist
}

// tag is a file's entity tag, and what the file looked like when it was made.
type tag struct {
	info  fs.FileInfo
	value string
}

// maxTags bounds the memory for tags; beyond it they are computed anew.
const maxTags = 8192

// maxTagged is the size of the largest file that is read for its tag. Larger
// ones have only a modification time.
const maxTagged = 16 << 20

// maxRanges is how many parts of a file may be asked for at once. Each costs an
// answer's header of its own, even of a single byte: who asks for thousands would be
// sent many times the file, and gets it once (RFC 9110 section 14.2).
const maxRanges = 16

// OpenFiles returns the files below dir, which must be a directory.
func OpenFiles(dir string, o FilesOptions) (*Files, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("files: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("files: %s is not a directory", dir)
	}
	return &Files{dir: dir, private: o.Private, tags: make(map[string]tag)}, nil
}

// Serve answers r with the file that p names: a path in canonical form, from
// the directory's point of view (which may differ from r's own). A directory
// is answered by its index.html, after a redirect to its path with a slash. A
// navigation to a path that names nothing, and whose last segment has no
// extension, is answered by the application's index.html. Conditional and range
// requests are RFC 9110's; who asks for more than 16 ranges gets the whole.
//
// An error means that nothing has been written: [ErrNotFound], [ErrMethod]
// (with Allow set), or the file system's.
func (f *Files) Serve(w http.ResponseWriter, r *http.Request, p string) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return ErrMethod
	}
	root, err := os.OpenRoot(f.dir)
	if err != nil {
		return fmt.Errorf("files: %w", err)
	}
	defer root.Close()

	name, ok := fileName(p)
	if !ok {
		return ErrNotFound
	}
	info, err := root.Stat(name)
	switch {
	case err != nil:
	case info.Mode().IsRegular() && !strings.HasSuffix(p, "/"):
		return f.send(w, r, root, name, info)
	case info.IsDir():
		page := path.Join(name, index)
		if info, err := root.Stat(page); err == nil && info.Mode().IsRegular() {
			if strings.HasSuffix(p, "/") || name == "." {
				return f.send(w, r, root, page, info)
			}
			return addSlash(w, r, p)
		}
	}
	if !navigation(r) || path.Ext(name) != "" {
		return ErrNotFound
	}
	if info, err = root.Stat(index); err != nil || !info.Mode().IsRegular() {
		return ErrNotFound
	}
	// Only this answer depends on how it was asked for.
	w.Header().Add("Vary", "Accept, Sec-Fetch-Mode")
	return f.send(w, r, root, index, info)
}

// fileName returns the name that a canonical path stands for, relative to the
// directory, if it is one that may be served.
func fileName(p string) (string, bool) {
	name, err := url.PathUnescape(p)
	if err != nil || !strings.HasPrefix(name, "/") {
		return "", false
	}
	name = strings.TrimSuffix(name[1:], "/")
	if name == "" {
		return ".", true
	}
	if !fs.ValidPath(name) || strings.ContainsAny(name, "\\\x00") {
		return "", false
	}
	for i, segment := range strings.Split(name, "/") {
		if segment[0] == '.' && !(i == 0 && segment == ".well-known") {
			return "", false
		}
	}
	return name, true
}

// navigation reports whether r loads a page, as the browser says or, from one
// that says nothing, as what it accepts suggests.
func navigation(r *http.Request) bool {
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}

// addSlash sends the browser to the same path with a slash, so that relative
// links of a directory's page work. The reference is relative too: it can't
// leave the origin, and holds whatever prefix the path was found under.
func addSlash(w http.ResponseWriter, r *http.Request, p string) error {
	target := "./" + p[strings.LastIndexByte(p, '/')+1:] + "/"
	if r.URL.RawQuery != "" {
		target += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", target)
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusTemporaryRedirect)
	return nil
}

// send answers with one regular file.
func (f *Files) send(w http.ResponseWriter, r *http.Request, root *os.Root, name string, info fs.FileInfo) error {
	file, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("files: %w", err)
	}
	defer file.Close()

	h := w.Header()
	kind := contentType(name)
	h.Set("Content-Type", kind)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", f.caching(name, kind))
	if etag := f.etag(name, info, file); etag != "" {
		h.Set("Etag", etag)
	}
	if strings.Count(r.Header.Get("Range"), ",") >= maxRanges {
		r.Header.Del("Range")
	}
	http.ServeContent(w, r, "", info.ModTime(), file)
	return nil
}

// etag returns a strong entity tag of the file's contents, or none. Size and
// time alone won't do: reproducible builds give every file the same time, and
// an index.html that differs in a hash has the same size.
func (f *Files) etag(name string, info fs.FileInfo, file *os.File) string {
	if info.Size() > maxTagged {
		return ""
	}
	f.mu.Lock()
	t, ok := f.tags[name]
	f.mu.Unlock()
	// A page is read each time: it is small, and the one file that must not be
	// out of date.
	if ok && path.Ext(name) != ".html" && os.SameFile(t.info, info) &&
		t.info.Size() == info.Size() && t.info.ModTime().Equal(info.ModTime()) {
		return t.value
	}
	sum := sha256.New()
	_, err := io.Copy(sum, io.LimitReader(file, maxTagged))
	if _, serr := file.Seek(0, io.SeekStart); err != nil || serr != nil {
		return ""
	}
	t = tag{info, `"` + base64.RawURLEncoding.EncodeToString(sum.Sum(nil)[:18]) + `"`}
	f.mu.Lock()
	if len(f.tags) >= maxTags {
		clear(f.tags)
	}
	f.tags[name] = t
	f.mu.Unlock()
	return t.value
}

// caching is a file's Cache-Control. Files that a bundler named by their
// contents never change; all others are asked about each time, which costs a
// 304.
func (f *Files) caching(name, kind string) string {
	scope := ""
	if f.private {
		scope = "private, "
	}
	if hashed(name) && !strings.HasPrefix(kind, "text/html") {
		return scope + "max-age=31536000, immutable"
	}
	return scope + "no-cache"
}

// hashed reports a name that a bundler made out of the contents: in one of
// their usual directories, with a part that looks like a hash. To miss one
// costs a 304; to take a name for hashed that isn't would pin a file for a
// year. Hence both.
func hashed(name string) bool {
	dir, base := path.Split(name)
	usual := false
	for _, d := range strings.Split(strings.TrimSuffix(dir, "/"), "/") {
		switch d {
		case "assets", "static", "chunks", "immutable":
			usual = true
		}
	}
	if !usual {
		return false
	}
	stem := strings.TrimSuffix(base, ".map")
	stem = strings.TrimSuffix(stem, path.Ext(stem))
	if i := strings.LastIndexByte(stem, '.'); i >= 0 && looksHashed(stem[i+1:]) {
		return true // webpack: main.3f2a1b4c.js
	}
	// Rollup: index-BkE3d_-z.js. Its hashes may hold a "-", so count from the end.
	return len(stem) > 9 && stem[len(stem)-9] == '-' && looksHashed(stem[len(stem)-8:])
}

// looksHashed reports eight or more characters that no word, date or version is
// made of: hex with digits and letters, or base64url with its cases mixed.
func looksHashed(s string) bool {
	if len(s) < 8 {
		return false
	}
	var digit, hex, lower, upper int
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9':
			digit++
		case 'a' <= c && c <= 'f':
			hex++
			lower++
		case 'g' <= c && c <= 'z':
			lower++
		case 'A' <= c && c <= 'Z':
			upper++
		case c != '-' && c != '_':
			return false
		}
	}
	if digit+hex == len(s) {
		return digit > 0 && hex > 0
	}
	return upper > 0 && digit > 0 || upper > 1 && lower > 1
}

// types are the kinds of file that applications are made of. The system's own
// tables differ between machines, and a script with a wrong type is not run.
var types = map[string]string{
	".html": "text/html; charset=utf-8", ".htm": "text/html; charset=utf-8",
	".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8",
	".css": "text/css; charset=utf-8", ".txt": "text/plain; charset=utf-8",
	".json": "application/json", ".map": "application/json", ".webmanifest": "application/manifest+json",
	".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif",
	".webp": "image/webp", ".avif": "image/avif", ".ico": "image/x-icon",
	".woff": "font/woff", ".woff2": "font/woff2", ".ttf": "font/ttf", ".otf": "font/otf",
	".wasm": "application/wasm", ".pdf": "application/pdf", ".xml": "text/xml; charset=utf-8",
	".mp4": "video/mp4", ".webm": "video/webm", ".mp3": "audio/mpeg",
}

// contentType goes by the name alone: contents that look like a page must not
// make a page of a file that is none.
func contentType(name string) string {
	ext := strings.ToLower(path.Ext(name))
	if t, ok := types[ext]; ok {
		return t
	}
	if t := mime.TypeByExtension(ext); t != "" {
		return t
	}
	return "application/octet-stream"
}
