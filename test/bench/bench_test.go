package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The harness doesn't rot: one short turn for each contender that needs no wrk, no
// nginx and no Apache, and the report.
func TestSmoke(t *testing.T) {
	opts := options{
		Rounds: 1, Duration: 200 * time.Millisecond, Warmup: 400 * time.Millisecond, Sessions: []int{10, 1000}, Sockets: 20, Cached: 200, Own: true,
		Only: regexp.MustCompile("^(headline|observed|token|rate|h2|sessions|memory)$"), Log: t.Logf,
	}
	r, err := measure(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	p := r.series("headline").Points[0]
	if got := p.middle("cached", sample.redis); got > 0.5 {
		t.Errorf("from its cache, Cloakroom sends Redis %.2f commands a request", got)
	}
	if got := p.middle("uncached", sample.redis); got < 0.99 || got > 1.5 {
		t.Errorf("without its cache, Cloakroom sends Redis %.2f commands a request", got)
	}
	docs := t.TempDir()
	file := filepath.Join(docs, "results.json")
	if err := r.save(file, false); err != nil {
		t.Fatal(err)
	}
	if err := writeReport(file, docs); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(docs, "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"(d) over (b): requests/s 0.", "| (b) bare", "(g) `/bff/token`, mint", "20 idle WebSockets", "| (d), spans of all requests", "200 sessions in the cache"} {
		if !strings.Contains(string(page), want) && !strings.Contains(string(page), strings.Replace(want, "0.", "1.", 1)) {
			t.Errorf("the report lacks %q", want)
		}
	}
}

func TestParseWrk(t *testing.T) {
	const printed = `Running 1s test @ http://127.0.0.1:8080/
  2 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.19ms    1.50ms  22.30ms   91.20%
  Latency Distribution
     50%  845.00us
     75%    1.44ms
     90%    2.51ms
     99%    7.83ms
  53876 requests in 1.10s, 19.32MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:  48995.36
`
	got, err := parseWrk(printed)
	want := load{Requests: 53876, Errors: 15, Took: 1100 * time.Millisecond, P50: 845 * time.Microsecond, P99: 7830 * time.Microsecond}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if _, err := parseWrk("unable to connect"); err == nil {
		t.Error("no totals, and no error")
	}
}

func TestQuartiles(t *testing.T) {
	p := point{Samples: map[string][]sample{"a": {{CPU: 4}, {CPU: 1}, {CPU: 3}, {CPU: 2}, {CPU: 5}}, "b": {{CPU: 2}, {CPU: 1}, {CPU: 1}, {CPU: 1}, {CPU: 5}}}}
	if low, middle, high := p.quartiles("a", sample.cpu); low != 2 || middle != 3 || high != 4 {
		t.Errorf("quartiles %v, %v, %v", low, middle, high)
	}
	if _, middle, _ := p.ratio("a", "b", sample.cpu); middle != 2 { // of 2, 1, 3, 2, 1
		t.Errorf("ratio %v", middle)
	}
	if _, middle, _ := p.ratio("a", "nobody", sample.cpu); middle != 0 {
		t.Errorf("ratio to nobody: %v", middle)
	}
}
