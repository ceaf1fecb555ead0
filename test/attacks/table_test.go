package attacks

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/test/rig"
)

// TestTable holds docs/attacks.md to the tests that there are: each that it names
// exists in the package that it names.
func TestTable(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(rig.Root(), "docs", "attacks.md"))
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string]string{}
	source := func(dir string) string {
		if sources[dir] == "" {
			files, _ := filepath.Glob(filepath.Join(rig.Root(), filepath.FromSlash(dir), "*.go"))
			for _, f := range files {
				b, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				sources[dir] += string(b)
			}
		}
		return sources[dir]
	}
	cell := regexp.MustCompile("`([a-z/]+)`: ([^|<]+)")
	name := regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w*(?:/[\w-]+)?`)
	named := 0
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		for _, m := range cell.FindAllStringSubmatch(line, -1) {
			for _, one := range name.FindAllString(m[2], -1) {
				named++
				test, sub, _ := strings.Cut(one, "/")
				if !strings.Contains(source(m[1]), "func "+test+"(") {
					t.Errorf("%s has no %s", m[1], test)
				}
				if made := strings.HasPrefix(sub, "E-01_POST"); sub != "" && !made && !strings.Contains(source(m[1]), `"`+sub+`"`) {
					t.Errorf("%s has no row %s", m[1], sub)
				}
			}
		}
	}
	if named < 150 {
		t.Errorf("only %d tests are named", named)
	}
}
