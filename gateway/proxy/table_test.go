package proxy

import (
	"errors"
	"strings"
	"testing"
)

func TestTableMatch(t *testing.T) {
	table, err := NewTable(
		Entry[string]{"/", "root"},
		Entry[string]{"/api/", "api"},
		Entry[string]{"/api/admin", "admin"},
		Entry[string]{"/api/@me/x", "me"},
		Entry[string]{"/caf%C3%A9/", "cafe"},
	)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, target, want string }{
		{"root", "/", "root"},
		{"below root", "/x", "root"},
		{"prefix itself, without its slash", "/api", "api"},
		{"prefix itself", "/api/", "api"},
		{"below", "/api/x/y/z", "api"},
		{"not a whole segment", "/apix", "root"},
		{"H-03 not a whole segment, longer", "/api/administrator", "api"},
		{"longest wins", "/api/admin", "admin"},
		{"longest wins, below", "/api/admin/x", "admin"},
		{"H-04 encoded letters", "/%61pi/%61dmin", "admin"},
		{"H-13 suffix", "/api/admin/x.css", "admin"},
		{"reserved as written", "/api/@me/x", "me"},
		{"reserved encoded", "/api/%40me/x", "me"},
		{"between two prefixes", "/api/@me", "api"},
		{"UTF-8", "/café/x", "cafe"},
		{"case matters", "/API/admin", "root"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := CanonicalPath(tt.target)
			if err != nil {
				t.Fatal(err)
			}
			if got, ok := table.Match(p); got != tt.want || !ok {
				t.Errorf("Match(%q) = %q, %v; want %q", p, got, ok, tt.want)
			}
		})
	}
}

func TestTableWithoutRoot(t *testing.T) {
	table, err := NewTable(Entry[int]{"/api", 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/", "/apix", "/x/api"} {
		if _, ok := table.Match(p); ok {
			t.Errorf("Match(%q) found a route", p)
		}
	}
	if _, ok := new(Table[int]).Match("/api"); ok {
		t.Error("the zero Table has a route")
	}
}

func TestNewTableRefuses(t *testing.T) {
	for _, prefixes := range [][]string{
		{"/api", "/api/"}, {"/a%2B", "/a+"}, {"api"}, {""}, {"/a//b"}, {"/%61"}, {"/a/../b"}, {"/a?b"},
	} {
		var entries []Entry[int]
		for _, p := range prefixes {
			entries = append(entries, Entry[int]{p, 0})
		}
		if _, err := NewTable(entries...); err == nil {
			t.Errorf("NewTable(%q) is no error", prefixes)
		}
	}
	if _, err := NewTable(Entry[int]{"/a%2fb", 0}); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("err = %v; want ErrAmbiguous", err)
	}
}

// H-13's cousin: a path of many segments must cost no more look-ups than the
// deepest route has.
func TestTableMatchIsBounded(t *testing.T) {
	table, _ := NewTable(Entry[int]{"/", 1}, Entry[int]{"/a/b", 2})
	deep := strings.Repeat("/a", 1<<15)
	if n := testing.AllocsPerRun(10, func() { table.Match(deep) }); n != 0 {
		t.Errorf("Match allocates %v times", n)
	}
	if got, _ := table.Match("/a/b" + deep); got != 2 {
		t.Errorf("Match = %d; want 2", got)
	}
}

func TestStripPrefix(t *testing.T) {
	tests := []struct{ path, prefix, want string }{
		{"/api/x/y", "/api", "/x/y"},
		{"/api/x/y", "/api/", "/x/y"},
		{"/api/", "/api", "/"},
		{"/api", "/api", "/"},
		{"/api", "/api/", "/"},
		{"/apix", "/api", "/apix"},
		{"/x/api", "/api", "/x/api"},
		{"/api/x", "/", "/api/x"},
		{"/a%2Bb/c%2Bd", "/a+b", "/c%2Bd"},
		{"/a/b/c/", "/a/b", "/c/"},
	}
	for _, tt := range tests {
		if got := StripPrefix(tt.path, tt.prefix); got != tt.want {
			t.Errorf("StripPrefix(%q, %q) = %q; want %q", tt.path, tt.prefix, got, tt.want)
		}
	}
}

func FuzzStripPrefix(f *testing.F) {
	f.Add("/api/x", "/api/")
	f.Add("/a%2bb", "/a+b")
	f.Add("/svc-ax", "/svc-a")
	f.Fuzz(func(t *testing.T, path, prefix string) {
		p, err := CanonicalPath(path)
		if err != nil {
			return
		}
		pre, err := CanonicalPath(prefix)
		if err != nil {
			return
		}
		got := StripPrefix(p, pre)
		if c, err := CanonicalPath(got); err != nil || c != got {
			t.Errorf("StripPrefix(%q, %q) = %q, which is not canonical (%v)", p, pre, got, err)
		}
		if !strings.HasSuffix(p, got) && got != "/" {
			t.Errorf("StripPrefix(%q, %q) = %q, which is no end of it", p, pre, got)
		}
		table, err := NewTable(Entry[int]{pre, 1})
		if err != nil {
			t.Fatal(err)
		}
		_, below := table.Match(p)
		if changed := got != p; changed && !below {
			t.Errorf("StripPrefix(%q, %q) = %q, but Match finds no route", p, pre, got)
		}
	})
}
