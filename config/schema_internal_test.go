package config

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// schema is what these tests read of docs/cloakroom.schema.json.
type schema struct {
	Type       any               `json:"type"`
	Ref        string            `json:"$ref"`
	Default    any               `json:"default"`
	Enum       []any             `json:"enum"`
	Properties map[string]schema `json:"properties"`
	Additional any               `json:"additionalProperties"`
	Items      *schema           `json:"items"`
	AnyOf      []schema          `json:"anyOf"`
	Defs       map[string]schema `json:"$defs"`
}

func schemaFile(t *testing.T) schema {
	t.Helper()
	text, err := os.ReadFile("../docs/cloakroom.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// leaves calls with each key that has a value, by its path: apps.0.name.
func (s schema) leaves(root schema, path string, with func(path string, s schema)) {
	if name, ok := strings.CutPrefix(s.Ref, "#/$defs/"); ok && name != "duration" {
		root.Defs[name].leaves(root, path, with)
		return
	}
	switch {
	case s.Properties != nil:
		for name, p := range s.Properties {
			p.leaves(root, strings.TrimPrefix(path+"."+name, "."), with)
		}
	case s.Items != nil && s.Items.Ref != "":
		s.Items.leaves(root, path+".0", with)
	default:
		with(path, s)
	}
}

// minimalTree is the shortest file, with a route.
func minimalTree() map[string]any {
	return map[string]any{
		"version": 1, "redis": map[string]any{"addresses": []any{"127.0.0.1:6379"}}, "keys": []any{"w3ZkM0Yt8Jq1vXcR5uHsP7bLdA9eGnTiOf2KyWxQ4mE"},
		"apps": []any{map[string]any{
			"name": "shop", "origin": "https://shop.example.com", "token": map[string]any{"mode": "relay"},
			"provider": map[string]any{"issuer": "https://id.example.com", "client_id": "shop", "client_secret": "dGhpcyBpcyByYW5kb20h"},
			"routes":   []any{map[string]any{"path": "/api", "upstream": "http://127.0.0.1:9000"}},
		}},
	}
}

// set puts a value at a path.
func set(tree map[string]any, path string, v any) {
	keys := strings.Split(path, ".")
	var node any = tree
	for _, key := range keys[:len(keys)-1] {
		switch n := node.(type) {
		case map[string]any:
			if n[key] == nil {
				n[key] = map[string]any{}
			}
			node = n[key]
		case []any:
			i, _ := strconv.Atoi(key)
			node = n[i]
		}
	}
	node.(map[string]any)[keys[len(keys)-1]] = v
}

// loaded loads a tree, JSON being YAML, without where it stands in the file.
func loaded(t *testing.T, tree map[string]any) (*Config, error) {
	t.Helper()
	text, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cloakroom.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path, func(string) (string, bool) { return "", false })
	if c != nil {
		c.warnings, c.file, c.lines, c.files = nil, "", nil, nil
	}
	return c, err
}

// The published schema has the keys that the loader reads, and no others.
func TestSchemaHasTheKeys(t *testing.T) {
	read, told := map[string]bool{}, map[string]bool{}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	get := regexp.MustCompile(`\bget\("([a-z_]+)"\)`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, m := range get.FindAllStringSubmatch(string(text), -1) {
			read[m[1]] = true
		}
	}
	root := schemaFile(t)
	var walk func(s schema)
	walk = func(s schema) {
		for name, p := range s.Properties {
			told[name] = true
			walk(p)
		}
		if s.Properties != nil && s.Additional != false {
			t.Errorf("an object takes more than its keys: %v", slices.Sorted(maps.Keys(s.Properties)))
		}
	}
	walk(root)
	for _, d := range root.Defs {
		walk(d)
	}
	if !maps.Equal(read, told) {
		t.Errorf("the loader reads\n%q\nthe schema has\n%q", slices.Sorted(maps.Keys(read)), slices.Sorted(maps.Keys(told)))
	}
	// And each where the loader looks for it.
	root.leaves(root, "", func(path string, s schema) {
		tree := minimalTree()
		set(tree, path, "x")
		_, err := loaded(t, tree)
		if err != nil && strings.Contains(err.Error(), "is unknown") {
			t.Errorf("%s: %v", path, err)
		}
	})
}

// A default of the schema, written out, changes nothing; and what it lets a key
// be is what the loader takes.
func TestSchemaIsTrue(t *testing.T) {
	want, err := loaded(t, minimalTree())
	if err != nil {
		t.Fatal(err)
	}
	// What has an effect only beside something else.
	beside := map[string]map[string]any{
		"tracing.sample_ratio":   {"tracing.otlp_endpoint": "http://127.0.0.1:4318"},
		"apps.0.token.subject":   {"apps.0.token.mode": "mint"},
		"apps.0.routes.0.accept": {"apps.0.token.audience": []any{"https://api.example.com"}},
		"redis.mode":             {"redis.sentinel.master": "mymaster"},
	}
	root, defaults, choices := schemaFile(t), 0, 0
	root.leaves(root, "", func(path string, s schema) {
		kinds := append([]schema{s}, s.AnyOf...)
		for _, k := range kinds {
			if k.Default == nil {
				continue
			}
			defaults++
			tree, base := minimalTree(), want
			for other, v := range beside[path] {
				set(tree, other, v)
			}
			if len(beside[path]) > 0 {
				if base, err = loaded(t, tree); err != nil {
					continue // the default's own place isn't there
				}
			}
			set(tree, path, k.Default)
			if got, err := loaded(t, tree); err != nil {
				t.Errorf("%s: its default is refused: %v", path, err)
			} else if !reflect.DeepEqual(got, base) {
				t.Errorf("%s: %v is not the default", path, k.Default)
			}
		}
		for _, k := range kinds {
			for _, choice := range append(k.Enum, any("nonsense")) {
				if k.Enum == nil {
					break
				}
				choices++
				tree := minimalTree()
				for other, v := range beside[path] {
					set(tree, other, v)
				}
				set(tree, path, choice)
				_, err := loaded(t, tree)
				if refused := err != nil && strings.Contains(err.Error(), "must be "+k.Enum[0].(string)); refused != (choice == "nonsense") {
					t.Errorf("%s: %v is refused: %v, %v", path, choice, refused, err)
				}
			}
		}
	})
	if defaults < 30 || choices < 30 {
		t.Fatalf("only %d defaults and %d choices were tried", defaults, choices)
	}
}
