package test

import (
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/cloakroom/cloakroom/test/rig"
)

// The published JSON Schema takes every configuration that the project shows,
// and refuses what an editor should underline. (That its keys, choices and
// defaults are the loader's: see the tests of package config.)
func TestSchemaTakesTheSamples(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join(rig.Root(), "docs", "cloakroom.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	judge := func(text string) error {
		var v map[string]any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			return err
		}
		return schema.Validate(v)
	}
	samples := map[string]string{"compose": deployed(t, "compose/cloakroom.yaml")}
	_, manifest, _ := strings.Cut(deployed(t, "kubernetes/cloakroom.yaml"), "  cloakroom.yaml: |\n")
	manifest, _, _ = strings.Cut(manifest, "\n---\n")
	samples["kubernetes"] = regexp.MustCompile(`(?m)^    `).ReplaceAllString(manifest, "")
	for n, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(documents(t)["docs/configuration.md"], -1) {
		if strings.HasPrefix(m[1], "version:") {
			samples["documented, number "+strconv.Itoa(n)] = m[1]
		}
	}
	if len(samples) < 5 {
		t.Fatalf("only %d samples were found", len(samples))
	}
	for name, text := range samples {
		if err := judge(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := samples["compose"]
	for what, bad := range map[string]string{
		"a key of the process that there isn't": good + "\nlisten_on: \":80\"\n",
		"a key of an app's that there isn't":    strings.Replace(good, "client_id:", "clientid:", 1),
		"another choice":                        regexp.MustCompile(`mode: (relay|mint|off)`).ReplaceAllString(good, "mode: relais"),
		"no apps":                               regexp.MustCompile(`(?s)\napps:.*`).ReplaceAllString(good, "\n"),
		"a duration without a unit":             good + "\ndrain: {timeout: 30}\n",
		"another version":                       strings.Replace(good, "version: 1", "version: 2", 1),
	} {
		if bad == good {
			t.Fatalf("%s: the sample is not as this test thinks", what)
		}
		if judge(bad) == nil {
			t.Errorf("%s passes", what)
		}
	}
}
