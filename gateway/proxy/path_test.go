package proxy

import (
	"errors"
	"net/url"
	"path"
	"strings"
	"testing"
)

// Attack rows carry the ids of the attack catalogue.
var ambiguousTargets = []struct{ name, target string }{
	{"A-15 two slashes and a host", "//evil.test/%2e%2e"},
	{"A-15 backslash and a host", `/\evil.test`},
	{"A-15 absolute form", "http://evil.test/app/"},
	{"A-15 absolute form, own host", "https://app.test/app/"},
	{"A-15 scheme without a host", "http:/app"},
	{"authority form", "app.test:443"},
	{"asterisk form", "*"},
	{"no slash", "app"},
	{"nothing", ""},
	{"only a query", "?x"},

	{"H-01 encoded slash", "/app%2fadmin/x"},
	{"H-01 encoded slashes, upper case", "/app%2Fadmin%2Fx"},
	{"H-01 dots before an encoded slash", "/public/..%2fapp/admin/x"},
	{"H-01 dots between encoded slashes", "/public%2f..%2fapp/admin/x"},
	{"H-01 encoded slash at the end", "/app/admin%2Fx"},
	{"H-02 dots", "/public/../app/admin/x"},
	{"H-02 both dots", "/public/./../app/x"},
	{"H-02 encoded dots", "/public/%2e%2e/app/admin/x"},
	{"H-02 half encoded dots", "/public/.%2e/"},
	{"H-02 encoded dots, upper case", "/public/%2E./"},
	{"H-02 encoded dots and slash", "/public/%2e%2e%2fapp"},
	{"H-02 one dot", "/app/./admin"},
	{"H-02 two dots at the end", "/.."},
	{"H-02 dots and a parameter", "/public/..;/app/admin"},
	{"H-02 three dots", "/public/.../app"},
	{"H-02 dots and a space", "/public/..%20/app"},
	{"H-02 space and dots", "/public/%20../app"},
	{"H-02 fullwidth dots", "/public/%ef%bc%8e%ef%bc%8e/app"},
	{"H-02 two dot leader", "/public/%e2%80%a5/app"},
	{"H-03 out of the prefix", "/svc-a/../svc-b/secret"},
	{"H-03 out of the prefix, encoded", "/svc-a/%2e%2e/svc-b/secret"},
	{"H-03 two slashes first", "/svc-a//../svc-b"},
	{"H-03 dots without a slash", "/svc-a/..%2fsvc-b"},
	{"H-04 encoded twice", "/app/%2561dmin"},
	{"H-04 dots encoded twice", "/public/%252e%252e/app"},
	{"H-04 slash encoded twice", "/app%252fadmin"},
	{"H-04 encoded three times", "/app/%252561dmin"},
	{"H-04 every digit encoded", "/app/%25%36%31dmin"},
	{"H-04 fullwidth percent", "/app/%ef%bc%8561dmin"},
	{"H-05 two slashes first", "//app/admin/x"},
	{"H-05 two slashes within", "/app//admin/x"},
	{"H-05 two slashes last", "/app//"},
	{"H-05 three slashes", "///app"},
	{"H-06 backslashes", `/app\admin\x`},
	{"H-06 encoded backslashes", "/app%5cadmin%5Cx"},
	{"H-06 dots and backslashes", `/public/..\app\admin`},
	{"H-06 encoded backslash and dots", "/app/%5c../"},
	{"H-07 parameter", "/app;x=1/admin/x"},
	{"H-07 empty parameter", "/app/admin;/x"},
	{"H-07 parameter as a segment", "/public/;/../app/admin"},
	{"H-07 parameter with an extension", "/app/admin/x;.js"},
	{"H-07 encoded semicolon", "/app/admin%3b/x"},
	{"H-08 fragment", "/public/x#/../app/admin"},
	{"H-08 encoded fragment", "/app/admin%23/public"},
	{"H-08 fragment at the end", "/app/admin#public"},
	{"H-08 fragment in the query", "/app/admin?x#public"},
	{"H-09 encoded question mark", "/app/admin%3f/public/"},
	{"H-10 NUL", "/app/admin%00"},
	{"H-10 NUL and dots", "/public/%00/../app/admin"},
	{"H-10 encoded control", "/app/%01"},
	{"H-10 encoded DEL", "/app/%7f"},
	{"H-10 encoded line end", "/app/%0d%0aX:%20y"},
	{"H-10 raw tab", "/app/\tadmin"},
	{"H-10 raw space", "/app/ admin"},
	{"H-10 raw control", "/app/\x01"},
	{"H-10 C1 control", "/app/%c2%85"},
	{"H-10 percent alone", "/app/%"},
	{"H-10 half an escape", "/app/%6"},
	{"H-10 bad escape", "/app/%zz"},
	{"H-10 %u escape", "/app/%u0061dmin"},
	{"H-10 %u escape, encoded", "/app/%25u0061dmin"},
	{"H-12 overlong slash", "/app%c0%afadmin"},
	{"H-12 overlong dot", "/app/%c0%ae%c0%ae/x"},
	{"H-12 not UTF-8", "/app/%ff%fe"},
	{"H-12 not UTF-8, raw", "/app/\xff"},
	{"H-12 surrogate", "/app/%ed%a0%80"},
	{"H-12 fullwidth slash", "/app%ef%bc%8fadmin"},
	{"H-12 fullwidth slash, raw", "/app／admin"},
	{"H-12 fullwidth backslash", "/app%ef%bc%bcadmin"},
	{"H-12 division slash", "/app%e2%88%95admin"},
	{"H-12 fraction slash", "/app%e2%81%84admin"},
	{"H-13 dot at the end", "/app/admin/."},
	{"space in the query (h2 could carry it)", "/app?x HTTP/1.1"},
	{"control in the query", "/app?x\x00"},
}

func TestCanonicalPathRefuses(t *testing.T) {
	for _, tt := range ambiguousTargets {
		t.Run(tt.name, func(t *testing.T) {
			got, err := CanonicalPath(tt.target)
			if !errors.Is(err, ErrAmbiguous) {
				t.Fatalf("CanonicalPath(%q) = %q, %v; want ErrAmbiguous", tt.target, got, err)
			}
			if _, probe, _ := strings.Cut(tt.target, "evil"); probe != "" && strings.Contains(err.Error(), "evil") {
				t.Errorf("the error repeats the request: %v", err)
			}
		})
	}
}

func TestCanonicalPath(t *testing.T) {
	tests := []struct{ name, target, want string }{
		{"root", "/", "/"},
		{"plain", "/api/orders/17", "/api/orders/17"},
		{"slash at the end stays", "/api/", "/api/"},
		{"query is not path", "/app?x=/../public;y=%zz//", "/app"},
		{"empty query", "/app?", "/app"},
		{"H-04 unreserved is decoded", "/%61pp/%41-%2D%5f%7E", "/app/A--_~"},
		{"H-13 extension", "/app/admin/x.css", "/app/admin/x.css"},
		{"H-13 encoded space at the end", "/app/admin/x%20", "/app/admin/x%20"},
		{"H-13 tilde", "/app/admin/x~", "/app/admin/x~"},
		{"dotted names", "/.well-known/a..b/..c/d../e", "/.well-known/a..b/..c/d../e"},
		{"reserved as sent", "/a+b/a%2bb/@x/%40x/(1)!$&'*,=:", "/a+b/a%2Bb/@x/%40x/(1)!$&'*,=:"},
		{"others are encoded", `/"<>^{|}[]` + "`", "/%22%3C%3E%5E%7B%7C%7D%5B%5D%60"},
		{"percent sign", "/100%25", "/100%25"},
		{"percent sign before letters", "/50%25off", "/50%25off"},
		{"percent sign before a space", "/5%25%20x", "/5%25%20x"},
		{"H-12 UTF-8 raw and encoded", "/caf\u00e9/%c3%a9", "/caf%C3%A9/%C3%A9"},
		{"H-12 decomposed stays", "/e%cc%81", "/e%CC%81"},
		{"H-12 case folding letters", "/%c4%b1%e2%84%aa", "/%C4%B1%E2%84%AA"},
		{"H-12 ellipsis in a name", "/more%e2%80%a6", "/more%E2%80%A6"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := CanonicalPath(tt.target)
			if err != nil || got != tt.want {
				t.Fatalf("CanonicalPath(%q) = %q, %v; want %q", tt.target, got, err, tt.want)
			}
			if again, err := CanonicalPath(got); err != nil || again != got {
				t.Errorf("CanonicalPath(%q) = %q, %v; want the same", got, again, err)
			}
		})
	}
}

// decoders are upstreams' ways to read a path; to each of them a canonical path
// must name the same resource.
var decoders = map[string]func(string) string{
	"once": func(p string) string { return path.Clean(lenient(p)) },
	"twice": func(p string) string {
		return path.Clean(lenient(lenient(p)))
	},
	"parameters cut, backslashes turned": func(p string) string {
		segments := strings.Split(strings.ReplaceAll(lenient(p), `\`, "/"), "/")
		for i, s := range segments {
			segments[i], _, _ = strings.Cut(s, ";")
		}
		return path.Clean(strings.Join(segments, "/"))
	},
	"a URL again": func(p string) string {
		p, _, _ = strings.Cut(lenient(p), "#")
		p, _, _ = strings.Cut(p, "?")
		return path.Clean(p)
	},
}

// lenient decodes what can be decoded.
func lenient(p string) string {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if p[i] == '%' && i+2 < len(p) && isHex(p[i+1]) && isHex(p[i+2]) {
			b.WriteByte(unhex(p[i+1])<<4 | unhex(p[i+2]))
			i += 2
		} else {
			b.WriteByte(p[i])
		}
	}
	return b.String()
}

func FuzzCanonicalPath(f *testing.F) {
	for _, tt := range ambiguousTargets {
		f.Add(tt.target)
	}
	for _, s := range []string{"/", "/api/x?y=1", "/%61%2B+/caf%c3%a9/100%25", "/a/b/../c", "/%25%32%65"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		p, err := CanonicalPath(target)
		if err != nil {
			if !errors.Is(err, ErrAmbiguous) || p != "" {
				t.Fatalf("CanonicalPath(%q) = %q, %v", target, p, err)
			}
			return
		}
		if again, err := CanonicalPath(p); err != nil || again != p {
			t.Fatalf("CanonicalPath(%q) = %q, but of that it is %q, %v", target, p, again, err)
		}
		decoded, err := url.PathUnescape(p)
		if err != nil || decoded != decodePath(p) {
			t.Fatalf("%q decodes to %q, %v, and to %q", p, decoded, err, decodePath(p))
		}
		want := decoded
		if want != "/" {
			want = strings.TrimSuffix(want, "/")
		}
		if path.Clean(decoded) != want {
			t.Errorf("%q decodes to %q, which is not clean", p, decoded)
		}
		for name, read := range decoders {
			if got := read(p); got != want {
				t.Errorf("%q is %q to an upstream that decodes %s", p, got, name)
			}
		}
		raw, _, _ := strings.Cut(target, "?")
		if got := path.Clean(lenient(raw)); got != want {
			t.Errorf("%q was sent, which is %q, but %q is forwarded", raw, got, want)
		}
		u := url.URL{Scheme: "http", Host: "u", Path: decoded, RawPath: p}
		if u.EscapedPath() != p {
			t.Errorf("net/url would send %q for %q", u.EscapedPath(), p)
		}
	})
}

func BenchmarkCanonicalPath(b *testing.B) {
	for _, bb := range []struct{ name, target string }{
		{"plain", "/api/v1/orders/1234567?page=2&sort=-created"},
		{"escaped", "/api/v1/caf%C3%A9/%61bc?page=2"},
		{"refused", "/api/v1/../admin"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				CanonicalPath(bb.target)
			}
		})
	}
}
