package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The table fits the sources: each edit finds its text, and each test is there.
// Whether the tests notice is for make mutants to tell.
func TestTableFitsTheSources(t *testing.T) {
	root, err := moduleRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen, kept := map[string]bool{}, map[string]bool{"": true}
	for _, m := range table {
		if seen[m.id] || m.id == "" || m.rule == "" || len(m.edits) == 0 {
			t.Errorf("%q: an id that comes twice, or something is missing", m.id)
		}
		seen[m.id] = true
		for from := range strings.SplitSeq(m.from, ", ") {
			kept[from] = true
		}
		if _, err := mutate(root, m); err != nil {
			t.Errorf("%s: %v", m.id, err)
		}
		if !hasTest(t, filepath.Join(root, m.pkg), m.test) {
			t.Errorf("%s: %s has no %s", m.id, m.pkg, m.test)
		}
	}
	for _, from := range listed {
		if !kept[from] {
			t.Errorf("no mutant is from %s", from)
		}
		delete(kept, from)
	}
	if len(kept) > 1 {
		t.Errorf("from places that no list has: %v", kept)
	}
}

// hasTest reports whether a package's directory has the function of a test.
func hasTest(t *testing.T, dir, test string) bool {
	t.Helper()
	name, _, _ := strings.Cut(test, "/")
	function := regexp.MustCompile(`(?m)^func ` + regexp.QuoteMeta(name) + `\(`)
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if function.Match(b) {
			return true
		}
	}
	return false
}

// An edit that doesn't find its text, or finds it twice, is an error and no edit.
func TestMutateRefuses(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "f"), []byte("a b b"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, old := range []string{"c", "b"} {
		if _, err := mutate(root, mutant{edits: []edit{{"f", old, "d"}}}); err == nil {
			t.Errorf("%q was replaced", old)
		}
	}
	files, err := mutate(root, mutant{edits: []edit{{"f", "a", "b"}, {"f", "b b b", "x"}}})
	if err != nil || files["f"] != "x" {
		t.Errorf("%q, %v", files["f"], err)
	}
}
