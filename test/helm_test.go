package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/cloakroom/cloakroom/test/rig"
)

// helm runs Helm, which test/setup.sh has built, on deploy/helm/cloakroom with
// values, and returns what it printed. It knows no cluster.
func helm(t *testing.T, values rig.Config, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
	defer cancel()
	args = append(args, filepath.Join(rig.Root(), "deploy", "helm", "cloakroom"), "--values", values.Write(t)) // no row may have a comma in its name: Helm would take the path for two
	cmd := exec.CommandContext(ctx, filepath.Join(rig.Root(), "test", "bin", "helm"), args...)
	dir := t.TempDir()
	cmd.Env = append(cmd.Environ(), "HOME="+dir, "XDG_CACHE_HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir, "KUBECONFIG=")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return stdout.String(), errors.New(stderr.String())
	}
	return stdout.String(), nil
}

// charted are the objects, by kind, that the chart makes of values.
func charted(t *testing.T, values rig.Config) map[string]map[string]any {
	t.Helper()
	out, err := helm(t, values, "template", "--namespace", "cloakroom", "cloakroom")
	if err != nil {
		t.Fatal(err)
	}
	return kinds(t, out)
}

func kinds(t *testing.T, text string) map[string]map[string]any {
	t.Helper()
	found := map[string]map[string]any{}
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var object map[string]any
		err := d.Decode(&object)
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if object == nil {
			continue
		}
		kind, _ := object["kind"].(string)
		if found[kind] != nil {
			t.Fatalf("a second %s", kind)
		}
		found[kind] = object
	}
}

// parsed is YAML as generic values.
func parsed(t *testing.T, text string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return v
}

// at is what is in v under keys and indexes; it fails where there is nothing.
func at(t *testing.T, v any, path ...any) any {
	t.Helper()
	for n, step := range path {
		var next any
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			next = m[step]
		case int:
			if list, _ := v.([]any); step < len(list) {
				next = list[step]
			}
		}
		if next == nil {
			t.Fatalf("nothing at %v", path[:n+1])
		}
		v = next
	}
	return v
}

// documentedValues are the values that docs/operating.md shows.
func documentedValues(t *testing.T) rig.Config {
	t.Helper()
	m := regexp.MustCompile("(?s)```yaml\n(image:.*?)```").FindStringSubmatch(documents(t)["docs/operating.md"])
	if m == nil {
		t.Fatal("docs/operating.md shows no values")
	}
	return rig.Config(parsed(t, m[1]))
}

// manifestValues are the values that make the chart what the plain manifests are.
func manifestValues(t *testing.T) (rig.Config, map[string]map[string]any) {
	t.Helper()
	manifests := kinds(t, deployed(t, "kubernetes/cloakroom.yaml"))
	policy := manifests["NetworkPolicy"]
	egress := at(t, policy, "spec", "egress").([]any)
	return rig.Config{
		"image":  "cloakroom:latest",
		"secret": "cloakroom",
		"config": parsed(t, at(t, manifests["ConfigMap"], "data", "cloakroom.yaml").(string)),
		"networkPolicy": map[string]any{
			"http":    at(t, policy, "spec", "ingress", 0, "from"),
			"metrics": at(t, policy, "spec", "ingress", 1, "from"),
			"egress":  egress[1:], // the first is DNS
		},
	}, manifests
}

// TestChartSaysWhatTheManifestsSay compares all of it: the security context, the
// probes, the ports, the drain, the volumes, the policies.
func TestChartSaysWhatTheManifestsSay(t *testing.T) {
	t.Parallel()
	values, manifests := manifestValues(t)
	objects := charted(t, values)
	if got, want := slices.Sorted(maps.Keys(objects)), slices.Sorted(maps.Keys(manifests)); !slices.Equal(got, want) {
		t.Fatalf("the chart makes %q, the manifests are %q", got, want)
	}
	for kind, want := range manifests {
		got := objects[kind]
		if kind == "ConfigMap" {
			for _, object := range []map[string]any{got, want} {
				data := object["data"].(map[string]any)
				data["cloakroom.yaml"] = parsed(t, data["cloakroom.yaml"].(string))
			}
		}
		for _, diff := range differences(kind, got, want) {
			t.Error(diff)
		}
	}
	// Two releases in one namespace select each its own pods.
	for _, path := range [][]any{
		{"Deployment", "spec", "selector", "matchLabels"}, {"Deployment", "spec", "template", "metadata", "labels"},
		{"Service", "spec", "selector"}, {"PodDisruptionBudget", "spec", "selector", "matchLabels"}, {"NetworkPolicy", "spec", "podSelector", "matchLabels"},
	} {
		if got := at(t, objects[path[0].(string)], append(path[1:], "app.kubernetes.io/instance")...); got != "cloakroom" {
			t.Errorf("%v: instance %v", path, got)
		}
	}
}

// differences tells where got isn't want. What only a chart has is left out.
func differences(path string, got, want any) (diffs []string) {
	g, isMap := got.(map[string]any)
	w, both := want.(map[string]any)
	if !isMap || !both {
		if gl, ok := got.([]any); ok {
			if wl, ok := want.([]any); ok && len(gl) == len(wl) {
				for n := range gl {
					diffs = append(diffs, differences(fmt.Sprintf("%s[%d]", path, n), gl[n], wl[n])...)
				}
				return diffs
			}
		}
		if !reflect.DeepEqual(got, want) {
			diffs = append(diffs, fmt.Sprintf("%s is %v, in the manifests %v", path, got, want))
		}
		return diffs
	}
	keys := maps.Clone(g)
	maps.Copy(keys, w)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		switch key {
		case "app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart", "checksum/restart":
			continue
		}
		diffs = append(diffs, differences(path+"."+key, g[key], w[key])...)
	}
	return diffs
}

// TestChartConfigIsGood: what the chart makes of a configuration is the same, and
// the binary takes it.
func TestChartConfigIsGood(t *testing.T) {
	t.Parallel()
	manifest, _ := manifestValues(t)
	// What a number or a text may turn into on the way through templates.
	odd := documentedValues(t)
	odd.Set("config.limits", map[string]any{"header_bytes": 1048576})
	odd.Set("config.tracing", map[string]any{"otlp_endpoint": "https://collector.example.com", "sample_ratio": 0.25})
	odd.Set("config.apps.0.provider.refresh_rate", 100000)
	odd.Set("config.apps.0.provider.authorization_params", map[string]any{
		"on": "yes", "number": "0123", "long": strings.Repeat("one word and another ", 20) + "end", "quotes": `"a": 'b' # {{ .Values }}`,
	})
	odd.Set("config.apps.0.routes.0.max_concurrent", 1000000)

	for name, values := range map[string]rig.Config{"manifest": manifest, "documented": documentedValues(t), "odd": odd} {
		t.Run(name, func(t *testing.T) {
			text := at(t, charted(t, values)["ConfigMap"], "data", "cloakroom.yaml").(string)
			written, err := json.Marshal(values["config"])
			if err != nil {
				t.Fatal(err)
			}
			given, got := parsed(t, string(written)), parsed(t, text)
			for key := range given { // the rest are the chart's defaults
				for _, diff := range differences(key, got[key], given[key]) {
					t.Error(diff)
				}
			}
			checkDeployed(t, text)
		})
	}
}

func TestChartRefuses(t *testing.T) {
	t.Parallel()
	literal := "a-secret-that-stands-in-values"
	for _, row := range []struct {
		name   string
		change func(rig.Config)
		want   []string // in one refusal
	}{
		{"nothing is given", func(c rig.Config) { clear(c) },
			[]string{"image: ", "config.apps: ", "config.redis.addresses: ", "secret: ", "networkPolicy.http: ", "networkPolicy.egress: "}},
		{"no app", func(c rig.Config) { delete(c["config"].(map[string]any), "apps") }, []string{"config.apps: "}},
		{"two configurations", func(c rig.Config) { c.Set("configFrom.configMap", "mine") }, []string{"config.apps: "}},
		{"two of one's own", func(c rig.Config) { c.Set("configFrom", map[string]any{"configMap": "a", "secret": "b"}) }, []string{"configFrom: "}},
		{"another port", func(c rig.Config) { c.Set("config.listen", ":80") }, []string{"config.listen: "}},
		{"a listener that the kubelet can't reach", func(c rig.Config) { c.Set("config.admin.listen", "127.0.0.1:9090") }, []string{"config.admin.listen: "}},
		{"the product's own default for it", func(c rig.Config) { c.Set("config.admin", map[string]any{"listen": nil}) }, []string{"config.admin.listen: "}},
		{"less time than the drain takes", func(c rig.Config) { c.Set("config.drain", map[string]any{"delay": "1m0.5s"}) },
			[]string{"terminationGracePeriodSeconds: has to be 101 at least"}},
		{"less than refreshes get", func(c rig.Config) { c.Set("config.drain.delay", "6s") }, []string{"terminationGracePeriodSeconds: has to be 46 at least"}},
		{"secrets in values", func(c rig.Config) {
			c.Set("config.keys", []any{"${file:/run/secrets/cloakroom/key}", literal})
			c.Set("config.redis.password", literal)
			c.Set("config.redis.sentinel", map[string]any{"password": literal})
			c.Set("config.admin.token", literal+"${env:MORE}")
			c.Set("config.apps.0.provider.client_secret", "$${file:"+literal+"}")
			c.Set("config.apps.0.forward_auth.secret", literal)
			c.Set("config.apps.0.token", map[string]any{"mode": "mint", "pairwise_key": literal, "signing_keys": []any{literal}})
		}, []string{"config.keys[1]: ", "config.redis.password: ", "config.redis.sentinel.password: ", "config.admin.token: ",
			"config.apps[0].provider.client_secret: ", "config.apps[0].forward_auth.secret: ", "config.apps[0].token.pairwise_key: ",
			"config.apps[0].token.signing_keys[0]: "}},
		{"a mount that follows no change", func(c rig.Config) {
			c.Set("volumeMounts", []any{map[string]any{"name": "site", "mountPath": "/site", "subPath": "x"}})
		}, []string{"volumeMounts: site "}},
		{"a policy that lets nobody in", func(c rig.Config) { c.Set("networkPolicy.http", []any{}) }, []string{"networkPolicy.http: "}},
		{"an Ingress for no host", func(c rig.Config) {
			delete(c, "config")
			c.Set("configFrom", map[string]any{"secret": "mine"})
			c.Set("ingress", map[string]any{"enabled": true})
		}, []string{"ingress.hosts: "}},
		{"a typo", func(c rig.Config) { c.Set("replica", 3) }, []string{"'replica' not allowed"}},
		{"a typo further in", func(c rig.Config) { c.Set("networkPolicy.enable", false) }, []string{"'enable' not allowed"}},
		{"another kind", func(c rig.Config) { c.Set("replicas", "two") }, []string{"/replicas"}},
		{"no pods", func(c rig.Config) { c.Set("replicas", 0) }, []string{"/replicas"}},
		{"a configuration as a text", func(c rig.Config) { c.Set("config", "version: 1") }, []string{"config"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			values := documentedValues(t)
			row.change(values)
			out, err := helm(t, values, "template", "cloakroom")
			if err == nil {
				t.Fatalf("it is taken:\n%s", out)
			}
			for _, want := range row.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in\n%v", want, err)
				}
			}
			if strings.Contains(err.Error(), literal) {
				t.Errorf("the refusal shows a secret:\n%v", err)
			}
		})
	}
}

func TestChartPassesLint(t *testing.T) {
	t.Parallel()
	out, err := helm(t, documentedValues(t), "lint", "--strict")
	if err != nil {
		t.Errorf("%s%v", out, err)
	}
}

// The gateway reloads its files. Pods are replaced for what takes a restart, and
// for nothing else of the configuration.
func TestChartRestartsForWhatTakesARestart(t *testing.T) {
	t.Parallel()
	template := func(set string, value any) any {
		values := documentedValues(t)
		if set != "" {
			values.Set(set, value)
		}
		return at(t, charted(t, values)["Deployment"], "spec", "template")
	}
	before := template("", nil)
	for _, row := range []struct {
		key     string
		value   any
		restart bool
	}{
		{"config.listen", "0.0.0.0:8080", true},
		{"config.admin.listen", "0.0.0.0:9090", true},
		{"config.redis.mode", "cluster", true},
		{"config.redis.addresses", []any{"other.shop.svc:6379"}, true},
		{"config.redis.key_prefix", "other:", true},
		{"config.redis.timeout", "1s", false},
		{"config.log", map[string]any{"level": "debug"}, false},
		{"config.trusted_proxies", []any{"10.1.0.0/16"}, false},
		{"config.drain", map[string]any{"timeout": "20s"}, false},
	} {
		if restart := !reflect.DeepEqual(template(row.key, row.value), before); restart != row.restart {
			t.Errorf("%s: restart is %v", row.key, restart)
		}
	}
}

func TestChartOptions(t *testing.T) {
	t.Parallel()
	volume := func(t *testing.T, objects map[string]map[string]any) map[string]any {
		return at(t, objects["Deployment"], "spec", "template", "spec", "volumes", 0).(map[string]any)
	}
	for _, row := range []struct {
		name   string
		change func(rig.Config)
		check  func(t *testing.T, objects map[string]map[string]any)
	}{
		{"a ConfigMap of one's own", func(c rig.Config) {
			delete(c, "config")
			c.Set("configFrom", map[string]any{"configMap": "mine"})
		}, func(t *testing.T, objects map[string]map[string]any) {
			if objects["ConfigMap"] != nil || at(t, volume(t, objects), "configMap", "name") != "mine" {
				t.Error(objects["ConfigMap"], volume(t, objects))
			}
		}},
		{"a Secret of one's own", func(c rig.Config) {
			delete(c, "config")
			delete(c, "secret")
			c.Set("configFrom", map[string]any{"secret": "mine"})
		}, func(t *testing.T, objects map[string]map[string]any) {
			if objects["ConfigMap"] != nil || at(t, volume(t, objects), "secret", "secretName") != "mine" || volume(t, objects)["configMap"] != nil {
				t.Error(objects["ConfigMap"], volume(t, objects))
			}
			if n := len(at(t, objects["Deployment"], "spec", "template", "spec", "volumes").([]any)); n != 1 {
				t.Errorf("%d volumes", n)
			}
		}},
		{"one pod", func(c rig.Config) { c.Set("replicas", 1) }, func(t *testing.T, objects map[string]map[string]any) {
			if objects["PodDisruptionBudget"] != nil {
				t.Error("its node can't be drained")
			}
		}},
		{"an autoscaler", func(c rig.Config) { c.Set("replicas", nil) }, func(t *testing.T, objects map[string]map[string]any) {
			if replicas, ok := objects["Deployment"]["spec"].(map[string]any)["replicas"]; ok || objects["PodDisruptionBudget"] == nil {
				t.Errorf("replicas: %v, %v", replicas, objects["PodDisruptionBudget"])
			}
		}},
		{"no policy", func(c rig.Config) { c.Set("networkPolicy", map[string]any{"enabled": false}) }, func(t *testing.T, objects map[string]map[string]any) {
			if objects["NetworkPolicy"] != nil {
				t.Error(objects["NetworkPolicy"])
			}
		}},
		{"an Ingress", func(c rig.Config) {
			c.Set("ingress", map[string]any{"enabled": true, "className": "nginx", "tlsSecret": "shop-tls", "annotations": map[string]any{"a": "b"}})
		}, func(t *testing.T, objects map[string]map[string]any) {
			want := parsed(t, `
ingressClassName: nginx
tls: [{secretName: shop-tls, hosts: [shop.example.com]}]
rules:
  - host: shop.example.com
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: cloakroom, port: {name: http}}}}]}
`)
			for _, diff := range differences("spec", at(t, objects["Ingress"], "spec"), want) {
				t.Error(diff)
			}
		}},
		{"more of everything", func(c rig.Config) {
			maps.Copy(c, rig.Config(parsed(t, `
imagePullSecrets: [{name: registry}]
env: [{name: OTEL_EXPORTER_OTLP_HEADERS, valueFrom: {secretKeyRef: {name: otel, key: headers}}}]
volumes: [{name: site, configMap: {name: site}}]
volumeMounts: [{name: site, mountPath: /site, readOnly: true}]
nodeSelector: {kubernetes.io/arch: arm64}
tolerations: [{key: edge, operator: Exists}]
affinity: {nodeAffinity: {}}
service: {type: LoadBalancer, port: 443, annotations: {a: b}}
`)))
		}, func(t *testing.T, objects map[string]map[string]any) {
			spec := at(t, objects["Deployment"], "spec", "template", "spec")
			for _, path := range [][]any{{"imagePullSecrets", 0, "name"}, {"containers", 0, "env", 1, "valueFrom"}, {"volumes", 2, "configMap"},
				{"containers", 0, "volumeMounts", 2, "mountPath"}, {"nodeSelector", "kubernetes.io/arch"}, {"tolerations", 0, "key"}, {"affinity", "nodeAffinity"}} {
				at(t, spec, path...)
			}
			service := objects["Service"]
			if at(t, service, "spec", "type") != "LoadBalancer" || fmt.Sprint(at(t, service, "spec", "ports", 0, "port")) != "443" || at(t, service, "metadata", "annotations", "a") != "b" {
				t.Error(service)
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			values := documentedValues(t)
			row.change(values)
			row.check(t, charted(t, values))
		})
	}
}

// Every value is in the schema, and the schema knows no other.
func TestChartSchemaIsTheValues(t *testing.T) {
	t.Parallel()
	values := parsed(t, deployed(t, "helm/cloakroom/values.yaml"))
	var schema map[string]any
	text, err := os.ReadFile(filepath.Join(rig.Root(), "deploy", "helm", "cloakroom", "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	compare := func(what string, values, schema map[string]any) {
		known := maps.Clone(at(t, schema, "properties").(map[string]any))
		delete(known, "global") // Helm's own
		if got, want := slices.Sorted(maps.Keys(known)), slices.Sorted(maps.Keys(values)); !slices.Equal(got, want) {
			t.Errorf("%s: the schema has %q, values.yaml %q", what, got, want)
		}
	}
	compare("values", values, schema)
	for _, group := range []string{"configFrom", "service", "ingress", "networkPolicy"} {
		compare(group, values[group].(map[string]any), at(t, schema, "properties", group).(map[string]any))
	}
}
