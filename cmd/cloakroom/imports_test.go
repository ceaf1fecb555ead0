package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/cloakroom/cloakroom/"

// ours says which of our packages each of our packages may import: one way, and
// leaves import none. Tests may import more, and are not looked at. Nothing may
// import the packages that are there for tests.
var ours = map[string][]string{
	"cmd/cloakroom":       {"config", "gateway", "gateway/admin", "gateway/idp", "gateway/mint", "gateway/proxy", "gateway/upstream", "gateway/web", "session", "session/store"},
	"config":              {},
	"gateway":             {"gateway/idp", "gateway/mint", "gateway/proxy", "gateway/web", "session"},
	"gateway/admin":       {"session"},
	"gateway/gatewaytest": {},
	"gateway/idp":         {"gateway/strictjson"},
	"gateway/mint":        {"gateway/strictjson"},
	"gateway/proxy":       {"gateway/upstream"},
	"gateway/strictjson":  {},
	"gateway/upstream":    {},
	"gateway/web":         {},
	"session":             {"session/store"},
	"session/store":       {},
	"session/storetest":   {"session/store"},
}

// theirs says which of our packages may import a package that others of ours
// must not know of. A path ending in a slash is all that begins with it.
var theirs = map[string][]string{
	"net/http":                        {"cmd/cloakroom", "gateway", "gateway/admin", "gateway/gatewaytest", "gateway/idp", "gateway/mint", "gateway/proxy", "gateway/upstream", "gateway/web"},
	"github.com/redis/":               {"cmd/cloakroom", "session/store", "session/storetest"},
	"github.com/goccy/":               {"config"},
	"github.com/alecthomas/":          {"cmd/cloakroom"},
	"github.com/gorilla/securecookie": {"gateway"},
	"github.com/golang-jwt/":          {"gateway/idp", "gateway/mint", "gateway/gatewaytest"},
	"github.com/MicahParks/":          {"gateway/idp", "gateway/mint", "gateway/gatewaytest"},
	"go.opentelemetry.io/":            {"cmd/cloakroom", "gateway"},
	"testing":                         {"gateway/gatewaytest", "session/storetest"},
}

// pkg is what go list tells of a package.
type pkg struct {
	ImportPath string
	Imports    []string
}

func TestImportsGoOneWay(t *testing.T) {
	list := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports", "./...")
	list.Dir = "../.."
	out, err := list.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %s", exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name, isOurs := strings.CutPrefix(p.ImportPath, module)
		if !isOurs {
			continue
		}
		seen++
		allowed, known := ours[name]
		if !known {
			t.Errorf("package %s has no place in the order of imports: give it one here", name)
			continue
		}
		for _, path := range p.Imports {
			if dep, isOurs := strings.CutPrefix(path, module); isOurs {
				if !slices.Contains(allowed, dep) {
					t.Errorf("%s must not import %s", name, dep)
				}
				continue
			}
			for prefix, users := range theirs {
				covered := path == prefix || strings.HasSuffix(prefix, "/") && strings.HasPrefix(path, prefix)
				if covered && !slices.Contains(users, name) {
					t.Errorf("%s must not import %s", name, path)
				}
			}
		}
	}
	if seen < 5 {
		t.Errorf("go list knows %d packages of ours", seen)
	}
}
