package proxy

import (
	"strings"
	"testing"
)

// owned is what a gateway hands in: it knows its cookies by their whole names
// and by their bare ones.
func owned(name string) bool {
	switch name {
	case "__Host-Http-cloakroom", "cloakroom":
		return true
	}
	return strings.HasPrefix(name, "__Host-cloakroom-") || strings.HasPrefix(name, "cloakroom-")
}

func TestStripCookies(t *testing.T) {
	const ticket = "__Host-Http-cloakroom=CKcanary"
	tests := []struct {
		name string
		in   []string
		want []string
	}{
		{"nothing of ours", []string{"a=1; b=2"}, []string{"a=1; b=2"}},
		{"G-07 odd bytes stay", []string{"foo=1; ; bar=2;;\tbaz = \"3\" ;"}, []string{"foo=1; ; bar=2;;\tbaz = \"3\" ;"}},
		{"G-07 ours alone", []string{ticket}, nil},
		{"G-07 ours first", []string{ticket + "; a=1"}, []string{"a=1"}},
		{"G-07 ours last", []string{"a=1; " + ticket}, []string{"a=1"}},
		{"G-07 ours between", []string{"a=1; " + ticket + "; b=2"}, []string{"a=1; b=2"}},
		{"G-07 no space", []string{"a=1;" + ticket + ";b=2"}, []string{"a=1;b=2"}},
		{"G-07 tabs and spaces", []string{"a=1;\t __Host-Http-cloakroom \t=CKcanary ; b=2"}, []string{"a=1; b=2"}},
		{"G-07 double semicolon", []string{"a=1;; " + ticket + ";; b=2"}, []string{"a=1;;; b=2"}},
		{"G-07 twice", []string{ticket + "; " + ticket + "; a=1; " + ticket}, []string{"a=1"}},
		{"G-07 login cookie", []string{"__Host-cloakroom-login-AbC=CKcanary; a=1"}, []string{"a=1"}},
		{"G-07 several headers", []string{"a=1; " + ticket, ticket, "b=2"}, []string{"a=1", "b=2"}},
		{"G-07 within quotes", []string{`a="x; ` + ticket + `"; b=2`}, []string{`a="x; b=2`}},
		{"G-07 name in a value", []string{"a=" + ticket}, []string{"a=" + ticket}},
		{"G-07 behind a comma", []string{"a=1, " + ticket + "; b=2"}, []string{"b=2"}},
		{"G-07 in quotes", []string{`"` + ticket + `"; b=2`}, []string{"b=2"}},
		{"G-07 behind a space that is none", []string{"\xa0" + ticket + "; b=2", "\xe2\x80\x83" + ticket}, []string{"b=2"}},
		{"G-07 commas and quotes that hide nothing", []string{`a="1,2", b=3; c=é=4`}, []string{`a="1,2", b=3; c=é=4`}},
		{"G-07 longer name", []string{"__Host-Http-cloakroomx=1"}, []string{"__Host-Http-cloakroomx=1"}},
		{"G-07 another case", []string{"__host-HTTP-Cloakroom=CKcanary; a=1"}, []string{"a=1"}},
		{"G-07 another prefix", []string{"__Secure-cloakroom=CKcanary; a=1"}, []string{"a=1"}},
		{"G-07 two prefixes", []string{"__Secure-__Host-cloakroom=CKcanary; a=1"}, []string{"a=1"}},
		{"G-07 without a value", []string{"__Host-Http-cloakroom; a=1"}, []string{"a=1"}},
		{"G-07 nameless", []string{"=" + ticket + "; a=1"}, []string{"a=1"}},
		{"nothing left but spaces", []string{" " + ticket + " "}, nil},
		{"C-07 more than net/http reads", []string{strings.Repeat("x=1; ", 5000) + ticket}, []string{strings.Repeat("x=1; ", 4999) + "x=1"}},
		{"C-07 more than net/http reads, ours first", []string{ticket + strings.Repeat("; x=1", 5000)}, []string{strings.Repeat("x=1; ", 4999) + "x=1"}},
		{"no header", nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, line := range tt.in {
				if line = stripCookieLine(line, owned); line != "" {
					got = append(got, line)
				}
			}
			if strings.Join(got, "\n") != strings.Join(tt.want, "\n") || len(got) != len(tt.want) {
				t.Errorf("%.80q = %.80q; want %.80q", tt.in, got, tt.want)
			}
		})
	}
}

func TestStripSetCookies(t *testing.T) {
	filter := filter{own: owned}
	for _, line := range []string{
		"__Host-Http-cloakroom=x",
		"__Host-Http-cloakroom=; Max-Age=0",
		"__host-http-CLOAKROOM=x; Path=/",
		"cloakroom=x; Domain=app.test",
		"__Host-cloakroom=x; Secure; Path=/",
		"__Secure-Cloakroom=x",
		"  __Host-Http-cloakroom =x",
		"\t__Host-Http-cloakroom",
		"=__Host-Http-cloakroom=x",
		"==__Host-Http-cloakroom=x",
		"= = cloakroom=x",
		"__Host-cloakroom-login-0011=x; SameSite=None",
		"__Host-cloakroom-device=x",
		"__Http-__Host-cloakroom=x",
	} {
		if filter.setCookie(line) {
			t.Errorf("R-01: %q passes", line)
		}
	}
	for _, line := range []string{"a=__Host-Http-cloakroom=x", "mycloakroom=1; HttpOnly", "a=1; cloakroom=2", "=", ""} {
		if !filter.setCookie(line) {
			t.Errorf("%q does not pass", line)
		}
	}
}

func FuzzStripCookies(f *testing.F) {
	f.Add("a=1; __Host-Http-cloakroom=x; b=2")
	f.Add(`a="; cloakroom=x";;`)
	f.Add(" ;\t=cloakroom; ")
	f.Fuzz(func(t *testing.T, line string) {
		var want []string // what stays, without the spaces around it
		ours := false
		for part := range strings.SplitSeq(line, ";") {
			if ownPair(owned, part) {
				ours = true
			} else {
				want = append(want, strings.Trim(part, " \t"))
			}
		}
		got := stripCookieLine(line, owned)
		if !ours && got != line {
			t.Fatalf("%q: nothing of ours, and yet %q", line, got)
		}
		var left []string
		for part := range strings.SplitSeq(got, ";") {
			if ownPair(owned, part) {
				t.Fatalf("%q: %q still holds a cookie of ours", line, got)
			}
			left = append(left, strings.Trim(part, " \t"))
		}
		if a, b := strings.Trim(strings.Join(left, ";"), ";"), strings.Trim(strings.Join(want, ";"), ";"); a != b {
			t.Fatalf("%q: left %q; want %q", line, a, b)
		}
	})
}

func BenchmarkStripCookies(b *testing.B) {
	line := "theme=dark; __Host-Http-cloakroom=" + strings.Repeat("x", 240) + "; lang=en"
	b.ReportAllocs()
	for b.Loop() {
		stripCookieLine(line, owned)
	}
}
