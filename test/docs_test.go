package test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/test/rig"
)

// documents are the project's own, by path from its root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	files, err := filepath.Glob(filepath.Join(rig.Root(), "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} {
		files = append(files, filepath.Join(rig.Root(), name))
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name, _ := filepath.Rel(rig.Root(), file)
		found[name] = string(text)
	}
	return found
}

var (
	docLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	docHeading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	docCode    = regexp.MustCompile("(?s)```.*?```")
	// What GitHub leaves of a heading in its anchor.
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// No link within the documents is dead, sections included.
func TestLinksLeadSomewhere(t *testing.T) {
	docs := documents(t)
	anchors := map[string]map[string]bool{}
	for name, text := range docs {
		anchors[name] = map[string]bool{}
		for _, m := range docHeading.FindAllStringSubmatch(docCode.ReplaceAllString(text, ""), -1) {
			anchors[name][strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
		}
	}
	links := 0
	for name, text := range docs {
		for _, m := range docLink.FindAllStringSubmatch(docCode.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			file, section, _ := strings.Cut(m[1], "#")
			to := name
			if file != "" {
				to = filepath.Join(filepath.Dir(name), file)
			}
			if _, err := os.Stat(filepath.Join(rig.Root(), to)); err != nil {
				t.Errorf("%s: %s leads nowhere", name, m[1])
			} else if section != "" && !anchors[to][section] {
				t.Errorf("%s: %s has no such section", name, m[1])
			}
		}
	}
	if links < 20 {
		t.Fatalf("only %d links were found", links)
	}
}

// sources calls with each Go file of the product, tests and the test's provider
// left out; or with each test, if tests is set.
func sources(t *testing.T, tests bool, with func(path, text string)) {
	t.Helper()
	err := filepath.WalkDir(rig.Root(), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git" || !tests && (d.Name() == "gatewaytest" || d.Name() == "test" || d.Name() == "deploy")):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") != tests:
			return nil
		}
		text, err := os.ReadFile(path)
		if err == nil {
			with(path, string(text))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Every metric is in the operators' document, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	defined := map[string]bool{}
	name := regexp.MustCompile(`"(cloakroom_[a-z_]+)"`)
	sources(t, false, func(_, text string) {
		for _, m := range name.FindAllStringSubmatch(text, -1) {
			defined[m[1]] = true
		}
	})
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(cloakroom_[a-z_]+)` \\|").FindAllStringSubmatch(documents(t)["docs/operating.md"], -1) {
		documented[m[1]] = true
	}
	if !maps.Equal(defined, documented) || len(defined) == 0 {
		t.Errorf("defined\n%q\ndocumented\n%q", slices.Sorted(maps.Keys(defined)), slices.Sorted(maps.Keys(documented)))
	}
}

// The tests that docs/requirements.md and docs/attacks.md name are there.
func TestNamedTestsExist(t *testing.T) {
	tests := map[string]bool{}
	decl := regexp.MustCompile(`(?m)^func ((?:Test|Example|Fuzz)\w+)\(`)
	sources(t, true, func(_, text string) {
		for _, m := range decl.FindAllStringSubmatch(text, -1) {
			tests[m[1]] = true
		}
	})
	named := 0
	for name, text := range documents(t) {
		for _, m := range regexp.MustCompile("`((?:Test|Example_|Fuzz)\\w+)`").FindAllStringSubmatch(text, -1) {
			if named++; !tests[m[1]] {
				t.Errorf("%s names %s, which there isn't", name, m[1])
			}
		}
	}
	if named < 50 {
		t.Fatalf("only %d tests are named", named)
	}
}
