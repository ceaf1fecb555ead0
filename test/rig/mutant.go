package rig

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Edit replaces a text that a file of the sources has exactly once.
type Edit struct{ File, Old, New string }

// Overlay writes what tells the go command about edits, and returns its path. It
// fails the test where an edit doesn't fit the sources any more.
func Overlay(t testing.TB, edits ...Edit) string {
	t.Helper()
	texts, replace := map[string]string{}, map[string]string{}
	for _, e := range edits {
		if texts[e.File] == "" {
			text, err := os.ReadFile(filepath.Join(Root(), e.File))
			if err != nil {
				t.Fatalf("rig: %v", err)
			}
			texts[e.File] = string(text)
		}
		if n := strings.Count(texts[e.File], e.Old); n != 1 {
			t.Fatalf("rig: %s has this %d times, not once:\n%s", e.File, n, e.Old)
		}
		texts[e.File] = strings.Replace(texts[e.File], e.Old, e.New, 1)
	}
	for file, text := range texts {
		replace[filepath.Join(Root(), file)] = WriteFile(t, filepath.Base(file), text)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatalf("rig: %v", err)
	}
	return WriteFile(t, "overlay.json", string(overlay))
}

// Build builds cloakroom with edits, which never touch the tree, and returns the
// program's path: a gateway that is wrong in one place, for tests of tests.
func Build(t testing.TB, edits ...Edit) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "cloakroom")
	build := exec.Command("go", "build", "-overlay", Overlay(t, edits...), "-o", program, "./cmd/cloakroom")
	build.Dir = Root()
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("rig: build a mutant: %v\n%s", err, out)
	}
	return program
}
