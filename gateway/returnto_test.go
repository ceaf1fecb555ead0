package gateway

import (
	"bufio"
	"net/url"
	"os"
	"strings"
	"testing"
)

// targets reads the corpus: class by line.
func targets(t testing.TB) (lines []string, class map[string]string) {
	t.Helper()
	f, err := os.Open("testdata/return_to.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	class = make(map[string]string)
	current := ""
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		if name, ok := strings.CutPrefix(line, "## "); ok {
			current = name
		} else if line != "" && !strings.HasPrefix(line, "# ") {
			lines = append(lines, line)
			class[line] = current
		}
	}
	return lines, class
}

// spellings are the ways in which a target may arrive.
func spellings(target string) []string {
	once := url.QueryEscape(target)
	out := []string{target, once, url.QueryEscape(once)}
	if decoded, err := url.PathUnescape(target); err == nil {
		out = append(out, decoded, " "+decoded, "\t"+decoded, "/"+decoded, "https://app.test"+decoded, "https://app.test@"+decoded)
	}
	return append(out, "https://app.test"+target, "/"+target, "//"+target)
}

// landsHere says in what follows, as a browser would, whether a Location stays on
// the origin. It follows the URL standard in what matters for a target that is
// appended to an origin or used by itself.
func landsHere(target string) bool {
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7f {
			return false // browsers drop some of these, wherever they stand
		}
	}
	target = strings.ReplaceAll(target, `\`, "/")
	if !strings.HasPrefix(target, "/") || strings.HasPrefix(target, "//") {
		return false
	}
	// With dot segments resolved it must not begin with two slashes either.
	path, _, _ := strings.Cut(target, "#")
	path, _, _ = strings.Cut(path, "?")
	var kept []string
	for seg := range strings.SplitSeq(path[1:], "/") {
		switch strings.ReplaceAll(strings.ToLower(seg), "%2e", ".") {
		case ".":
		case "..":
			kept = kept[:max(0, len(kept)-1)]
		default:
			kept = append(kept, seg)
		}
	}
	return !strings.HasPrefix("/"+strings.Join(kept, "/"), "//")
}

func TestReturnPathRefuses(t *testing.T) {
	lines, class := targets(t)
	for _, line := range lines {
		t.Run(class[line]+"/"+line, func(t *testing.T) {
			if got := returnPath(line); got != "/" {
				t.Errorf("returnPath(%q) = %q", line, got)
			}
			for _, s := range spellings(line) {
				if got := returnPath(s); !landsHere(got) || got != "/" && got != s {
					t.Errorf("returnPath(%q) = %q", s, got)
				}
			}
		})
	}
}

func TestReturnPathKeeps(t *testing.T) {
	for _, target := range []string{
		"/", "/orders", "/orders/", "/orders/17?tab=lines&sort=-date", "/?q=a%20b", "/a%20b/c", "/search?next=https://evil.test/",
		"/#/inbox", "/app#section?x=//y", "/%C3%A4pfel", "/bffs", "/@me", "/a:b", "/~me", "/a+b", "/x?y=../z",
		"/" + strings.Repeat("x", maxReturnTo-1),
	} {
		if got := returnPath(target); got != target {
			t.Errorf("returnPath(%q) = %q", target, got)
		}
	}
	if got := returnPath("/" + strings.Repeat("x", maxReturnTo)); got != "/" {
		t.Error("a target that is too long was kept")
	}
}

func FuzzReturnPath(f *testing.F) {
	lines, _ := targets(f)
	for _, line := range lines {
		f.Add(line)
	}
	f.Add("/orders?x=y#z")
	f.Add("/#0000%")
	f.Fuzz(func(t *testing.T, raw string) {
		got := returnPath(raw)
		if !landsHere(got) {
			t.Errorf("returnPath(%q) = %q leaves the site", raw, got)
		}
		if got != "/" && got != raw {
			t.Errorf("returnPath(%q) = %q: neither kept nor refused", raw, got)
		}
		if strings.ContainsAny(got, "\\\r\n\t ") || len(got) > maxReturnTo {
			t.Errorf("returnPath(%q) = %q", raw, got)
		}
		// A fragment stays in the browser, which minds its escapes less than net/url.
		sent, _, _ := strings.Cut(got, "#")
		u, err := url.Parse("https://app.test" + sent)
		if err != nil || u.Host != "app.test" || u.User != nil {
			t.Errorf("returnPath(%q) = %q: %v %v", raw, got, u, err)
		}
		if back := returnPath(got); back != got {
			t.Errorf("not stable: %q, then %q", got, back)
		}
	})
}
