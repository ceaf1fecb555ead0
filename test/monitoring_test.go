package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// alert is a rule of deploy/prometheus/alerts.yaml.
type alert struct {
	Alert       string
	Expr        string
	Labels      map[string]string
	Annotations map[string]string
}

func alerts(t *testing.T) (found []alert) {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []alert }
	}
	if err := yaml.Unmarshal([]byte(deployed(t, "prometheus/alerts.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		found = append(found, g.Rules...)
	}
	if len(found) == 0 {
		t.Fatal("there are no alerts")
	}
	return found
}

// The alerts are good rules, which fire when they should and keep silent
// otherwise, as Prometheus's own tool tests them.
func TestAlertsFireWhenTheyShould(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(rig.Root(), "deploy", "prometheus")
	for _, args := range [][]string{{"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts_test.yaml"}} {
		cmd := exec.Command("promtool", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	var file struct {
		Tests []struct {
			Expected []struct {
				Name   string `yaml:"alertname"`
				Alerts []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	if err := yaml.Unmarshal([]byte(deployed(t, "prometheus/alerts_test.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	tested := map[string]bool{}
	for _, test := range file.Tests {
		for _, e := range test.Expected {
			tested[fmt.Sprint(e.Name, len(e.Alerts) > 0)] = true
		}
	}
	for _, a := range alerts(t) {
		for _, fires := range []bool{true, false} {
			if !tested[fmt.Sprint(a.Alert, fires)] {
				t.Errorf("%s: no test with it firing: %t", a.Alert, fires)
			}
		}
	}
}

// Alerts and the operators' document name each other, with the same severity.
func TestAlertsAreDocumented(t *testing.T) {
	t.Parallel()
	const page = "https://github.com/cloakroom/cloakroom/blob/main/docs/operating.md#alerts"
	document := documents(t)["docs/operating.md"]
	_, section, found := strings.Cut(document, "\n## Alerts\n")
	if !found {
		t.Fatal("docs/operating.md has no section Alerts")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var documented, defined []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(Cloakroom\\w+)` (\\w+) \\|").FindAllStringSubmatch(section, -1) {
		documented = append(documented, m[1]+" "+m[2])
	}
	for _, a := range alerts(t) {
		defined = append(defined, a.Alert+" "+a.Labels["severity"])
		if a.Annotations["summary"] == "" || a.Annotations["runbook_url"] != page {
			t.Errorf("%s: %q", a.Alert, a.Annotations)
		}
	}
	if !slices.Equal(documented, defined) {
		t.Errorf("defined\n%q\ndocumented\n%q", defined, documented)
	}
}

// dashboard is what is of interest in deploy/grafana/cloakroom.json.
type dashboard struct {
	Templating struct {
		List []struct {
			Name, Type string
			Definition string
		}
	}
	Panels []struct {
		Type, Title string
		Datasource  struct{ UID string }
		Targets     []struct {
			Expr, LegendFormat string
			Datasource         struct{ UID string }
		}
	}
}

var (
	selector = regexp.MustCompile(`\b(?:cloakroom|process|go)_\w+(?:\{[^}]*\})?`)
	grouping = regexp.MustCompile(`\b(?:by|on) \(([^)]*)\)`)
	legend   = regexp.MustCompile(`\{\{(\w+)\}\}`)
)

// A Prometheus that scrapes a gateway finds each series and label that the alerts
// and the dashboard ask for, after trouble that makes all of them; every panel
// has something to show, and an alert fires.
func TestAlertsAndDashboardAskForWhatThereIs(t *testing.T) {
	t.Parallel()
	p, w := troubled(t)
	prometheus := scraping(t, w.Gateways[0])
	trouble(t, p, w)

	var board dashboard
	if err := json.Unmarshal([]byte(deployed(t, "grafana/cloakroom.json")), &board); err != nil {
		t.Fatal(err)
	}
	// What Grafana puts in place of its variables.
	filled := strings.NewReplacer("$job", "cloakroom", "$app", "shop", "$__rate_interval", "5m").Replace

	asked := map[string]string{} // expression to who asks
	for _, a := range alerts(t) {
		asked[a.Expr] = a.Alert
	}
	for _, v := range board.Templating.List {
		if v.Type == "query" {
			of, label, found := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(v.Definition, "label_values("), ")"), ", ")
			if !found {
				t.Errorf("$%s: %s", v.Name, v.Definition)
			}
			asked["count by ("+label+") ("+filled(of)+")"] = "$" + v.Name
		}
	}
	panels := 0
	for _, panel := range board.Panels {
		if panel.Type == "row" {
			continue
		}
		panels++
		for _, target := range panel.Targets {
			if panel.Datasource.UID != "${datasource}" || target.Datasource.UID != "${datasource}" {
				t.Errorf("%s: its data source is not the variable", panel.Title)
			}
			expr := filled(target.Expr)
			asked[expr] = panel.Title
			var labels []string
			for _, m := range legend.FindAllStringSubmatch(target.LegendFormat, -1) {
				labels = append(labels, m[1])
			}
			prometheus.finds(panel.Title, expr, labels)
		}
	}
	if panels < 15 {
		t.Errorf("the dashboard has %d panels", panels)
	}
	for expr, who := range asked {
		var labels []string
		for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
			labels = append(labels, strings.Split(m[1], ", ")...)
		}
		selectors := selector.FindAllString(grouping.ReplaceAllString(expr, ""), -1)
		if len(selectors) == 0 {
			t.Errorf("%s: nothing is asked for by %s", who, expr)
		}
		for _, s := range selectors {
			prometheus.finds(who, s, labels)
		}
	}
	rig.Eventually(t, "the alert for a damaged record fires", func() bool {
		return len(prometheus.query(`ALERTS{alertname="CloakroomSessionAlarm",alertstate="firing",app="shop",kind="box",severity="critical"}`)) == 1
	})
}

// troubled is a gateway for which much goes wrong: its Redis has no replica to
// wait for, one of its upstreams isn't there, another closes connections.
func troubled(t *testing.T) (*gatewaytest.Provider, *rig.World) {
	var mu sync.Mutex
	seen := map[string]bool{} // guarded by mu
	closes := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if seen[r.RemoteAddr] {
			panic(http.ErrAbortHandler)
		}
		seen[r.RemoteAddr] = true
	}))
	t.Cleanup(closes.Close)
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: time.Second})
	return p, rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		quick(c)
		c.Set("apps.0.session.cache_ttl", "0s")
		c.Set("redis.wait_replicas", 1)
		app := c["apps"].([]any)[0].(map[string]any)
		app["routes"] = append(app["routes"].([]any),
			map[string]any{"path": "/gone/", "upstream": []any{"http://127.0.0.1:1", "http://127.0.0.1:2"}},
			map[string]any{"path": "/closes/", "upstream": closes.URL})
	}})
}

// trouble makes every kind of series that operators look at.
func trouble(t *testing.T, p *gatewaytest.Provider, w *rig.World) {
	t.Helper()
	alice, bob, carol := w.NewBrowser(), w.NewBrowser(), w.NewBrowser()
	alice.Login("alice")
	bob.Login("bob")
	carol.Login("carol")
	g := w.Gateways[0]
	counted := func(series string) {
		t.Helper()
		rig.Eventually(t, series+" is counted", func() bool { return counter(g.Metrics(), series) > 0 })
	}

	// Upstreams.
	if r := alice.Fetch(http.MethodGet, "/gone/x"); r.Status != http.StatusBadGateway {
		t.Errorf("an upstream that isn't there: %s", r)
	}
	for range 2 {
		if r := alice.Fetch(http.MethodGet, "/closes/x"); r.Status != http.StatusOK {
			t.Errorf("an upstream that closes connections: %s", r)
		}
	}
	counted(`cloakroom_upstream_retries_total\{[^}]*\}`)

	// Another site, and a copied cookie.
	foreign := alice.Send(rig.Request{Path: "/api/x", Header: http.Header{"Sec-Fetch-Site": {"cross-site"}}})
	wantProblem(t, foreign, 403, "cross_origin_blocked", "")
	tokenRunsOut(t, alice)
	thief := alice.Clone()
	subject(t, token(alice))
	rig.Eventually(t, "the thief is noticed", func() bool {
		token(alice)
		_, reason := token(thief).Problem()
		return reason == "reuse_detected"
	})

	// The provider's answer is lost.
	p.Fail(gatewaytest.FailWith{Drop: true, Times: 1, Only: gatewaytest.Refreshing})
	tokenRunsOut(t, bob)
	wantProblem(t, token(bob), 503, "provider_unavailable", "")
	counted(`cloakroom_refreshes_total\{[^}]*outcome="unknown"[^}]*\}`)
	if r := bob.Fetch(http.MethodPost, "/bff/logout"); r.Status != http.StatusOK {
		t.Errorf("a logout: %s", r)
	}
	counted(`cloakroom_revocations_total\{[^}]*\}`)

	// Somebody wrote to Redis, and Redis falls silent.
	sid := about(t, carol).SID
	for _, key := range keys(w.Redis) {
		if strings.Contains(key, sid) && boxSize(t, w.Redis.CLI("GET", key)) > 0 {
			w.Redis.CLI("SETRANGE", key, "272", "damaged")
		}
	}
	wantProblem(t, token(carol), 503, "store_unavailable", "")
	counted(`cloakroom_session_alarms_total\{[^}]*\}`)
	w.Redis.Stop()
	wantProblem(t, token(carol), 503, "store_unavailable", "")
	counted(`cloakroom_store_seconds_count\{operation="beat",result="error"\}`)
	w.Redis.Cont()
}

// prometheus is a running one.
type prometheus struct {
	t  *testing.T
	at string
}

// scraping starts a Prometheus with the alerts, and returns when it has scraped g.
func scraping(t *testing.T, g *rig.Gateway) *prometheus {
	t.Helper()
	dir, p := t.TempDir(), &prometheus{t, free(t)}
	config := fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - job_name: cloakroom
    static_configs: [{targets: [%q]}]
`, filepath.Join(rig.Root(), "deploy", "prometheus", "alerts.yaml"), g.Admin)
	listens(t, p.at, exec.Command("prometheus", "--log.level=warn", "--web.listen-address="+p.at,
		"--storage.tsdb.path="+dir, "--config.file="+rig.WriteFile(t, "prometheus.yml", config)))
	rig.Eventually(t, "Prometheus has scraped the gateway", func() bool { return len(p.query("cloakroom_build_info")) == 1 })
	return p
}

// query returns the labels of each series that an expression gives, nil while
// Prometheus isn't ready.
func (p *prometheus) query(expr string) (series []map[string]string) {
	p.t.Helper()
	resp, err := http.Get("http://" + p.at + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusServiceUnavailable {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		p.t.Fatal(err)
	}
	var answer struct {
		Error string
		Data  struct {
			Result []struct{ Metric map[string]string }
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Error != "" {
		p.t.Fatalf("%s: %v\n%s", expr, err, body)
	}
	for _, r := range answer.Data.Result {
		series = append(series, r.Metric)
	}
	return series
}

// finds fails the test if the expression gives no series, or one without a label.
func (p *prometheus) finds(who, expr string, labels []string) {
	p.t.Helper()
	var found []map[string]string
	rig.Eventually(p.t, fmt.Sprintf("%s: something is found by %s", who, expr), func() bool {
		found = p.query(expr)
		return len(found) > 0
	})
	for _, label := range labels {
		if i := slices.IndexFunc(found, func(series map[string]string) bool { return series[label] == "" }); i >= 0 {
			p.t.Errorf("%s: what is found by %s has no %s: %v", who, expr, label, found[i])
		}
	}
}
