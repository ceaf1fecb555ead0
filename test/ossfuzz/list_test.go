// Package ossfuzz holds what OSS-Fuzz needs to build the native fuzz targets
// (project.yaml, Dockerfile, build.sh), and a test that none is forgotten. To
// fuzz here: make fuzz.
package ossfuzz

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestListed holds build.sh to the targets that there are.
func TestListed(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	target := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)
	var there []string
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		for _, m := range target.FindAllSubmatch(text, -1) {
			there = append(there, filepath.ToSlash(dir)+" "+string(m[1]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("build.sh")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	names := map[string]bool{}
	for text := range strings.Lines(string(script)) {
		f := strings.Fields(text)
		if len(f) != 4 || f[0] != "fuzz" {
			continue
		}
		listed = append(listed, f[1]+" "+f[2])
		if names[f[3]] {
			t.Errorf("two targets are called %s", f[3])
		}
		names[f[3]] = true
	}
	for _, one := range there {
		if !slices.Contains(listed, one) {
			t.Errorf("build.sh lacks %s", one)
		}
	}
	for _, one := range listed {
		if !slices.Contains(there, one) {
			t.Errorf("build.sh has %s, which isn't there", one)
		}
	}
}
