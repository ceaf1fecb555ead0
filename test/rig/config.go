package rig

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Config is the tree of a cloakroom.yaml.
type Config map[string]any

// Set puts a value at a path such as "apps.0.session.rotation_grace".
func (c Config) Set(path string, value any) {
	keys := strings.Split(path, ".")
	var node any = map[string]any(c)
	for _, key := range keys[:len(keys)-1] {
		switch n := node.(type) {
		case map[string]any:
			if n[key] == nil {
				n[key] = map[string]any{}
			}
			node = n[key]
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(n) {
				panic(fmt.Sprintf("rig: no %q in %s", key, path))
			}
			node = n[i]
		default:
			panic(fmt.Sprintf("rig: nothing below %q in %s", key, path))
		}
	}
	node.(map[string]any)[keys[len(keys)-1]] = value
}

// Write writes the file and returns its path. JSON is YAML too.
func (c Config) Write(t testing.TB) string {
	t.Helper()
	return WriteFile(t, "cloakroom.yaml", c.text(t))
}

func (c Config) text(t testing.TB) string {
	t.Helper()
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(c); err != nil {
		t.Fatalf("rig: %v", err)
	}
	return text.String()
}

// WriteFile writes a file in a directory of its own, as a secret is mounted.
func WriteFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatalf("rig: %v", err)
	}
	return path
}
