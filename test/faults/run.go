package faults

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

// Options of a run.
type Options struct {
	Seed uint64
	// Dir is where results go, and histories below it; "": nothing is written.
	Dir string
	// Keep keeps the history of a row that passed, too.
	Keep bool
	// Stretch multiplies the rows' lengths; 0: once.
	Stretch float64
}

// Run runs one row, and fails the test for each violation.
func Run(t *testing.T, row Row, o Options) *Result {
	t.Helper()
	s := Setup{Seed: o.Seed}
	if row.Setup != nil {
		row.Setup(t, &s)
	}
	load := DefaultLoad()
	if row.Load != nil {
		row.Load(&load)
	}
	length, pause, calm := row.Length, row.Pause, row.Calm
	if length == 0 {
		length = 15 * time.Second
	}
	if pause == 0 {
		pause = 500 * time.Millisecond
	}
	if calm == 0 {
		calm = 45 * time.Second
	}
	if o.Stretch > 0 {
		length = time.Duration(float64(length) * o.Stretch)
	}
	began := time.Now()
	w := New(t, s)
	w.Populate()
	before := w.gauges()

	stop := w.Begin(load)
	defer stop()
	r := rand.New(rand.NewPCG(o.Seed, 0xfa17))
	w.Sleep(time.Second)
	for until := time.Now().Add(length); time.Now().Before(until); {
		if row.Strike != nil {
			row.Strike(w, r)
		}
		w.Sleep(pause + time.Duration(r.Int64N(int64(pause))))
	}
	// The load goes on until nobody is in trouble: a session whose refresh is in
	// doubt takes half a minute.
	w.Sleep(time.Second)
	for until := time.Now().Add(calm); time.Now().Before(until) && w.Troubled() > 0; {
		w.Sleep(100 * time.Millisecond)
	}
	stop()
	w.Settle(15 * time.Second)
	w.showGhosts()

	h := w.history(row.ID, o.Seed, before)
	result := Check(h, row.Allow)
	result.Name, result.Seconds = row.Name, time.Since(began).Seconds()
	if row.Judge != nil {
		row.Judge(w, h, result)
	}
	if o.Dir != "" {
		path, err := result.Write(o.Dir)
		if err != nil {
			t.Errorf("faults: %v", err)
		}
		if o.Keep || len(result.Violations) > 0 {
			dir := strings.TrimSuffix(path, ".json")
			err := h.Write(dir)
			for n, log := range w.Rig.Logs() {
				if e := os.WriteFile(filepath.Join(dir, fmt.Sprintf("process-%d.log", n)), []byte(log), 0o644); e != nil {
					err = e
				}
			}
			if err != nil {
				t.Errorf("faults: %v", err)
			}
			t.Logf("the history is in %s", dir)
		}
	}
	t.Logf("\n%s", result.Table())
	for _, v := range result.Violations {
		t.Errorf("%s: %s", row.ID, v)
	}
	return result
}

// history collects what all parts have to say, when all is over.
func (w *World) history(row string, seed uint64, before []Gauge) *History {
	after := w.quiet(before)
	w.sweep(w.Rig.Logs())
	h := w.told(row, seed)
	h.Before, h.After = before, after
	return h
}

// quiet closes what is kept open on purpose, and returns what the replicas hold
// when that is gone.
func (w *World) quiet(before []Gauge) []Gauge {
	w.client.CloseIdleConnections()
	for _, r := range w.Running() {
		r.Upstream.Break() // idle connections are kept on purpose
	}
	w.ProviderLink.Break()
	after := w.gauges()
	for range 50 { // connections take a moment to go
		if !grown(before, after) {
			break
		}
		w.Sleep(200 * time.Millisecond)
		after = w.gauges()
	}
	return after
}

// told is what all parts have to say so far.
func (w *World) told(row string, seed uint64) *History {
	logs, ledger := w.Rig.Logs(), w.ledger()
	w.mu.Lock()
	defer w.mu.Unlock()
	h := &History{
		Row: row, Seed: seed, Start: w.Start, Length: w.now(), Ops: w.ops, Arrivals: w.Upstream.seen(), Ledger: ledger,
		Windows: w.windows, Troubles: w.troubles, Calls: map[string]int{},
	}
	for _, s := range w.sessions {
		h.Sessions = append(h.Sessions, *s)
	}
	h.named()
	for _, e := range []gatewaytest.Endpoint{gatewaytest.EndpointDiscovery, gatewaytest.EndpointJWKS, gatewaytest.EndpointToken, gatewaytest.EndpointRevoke} {
		h.Calls[string(e)] = w.Provider.Requests(e)
	}
	for n, log := range logs {
		h.Lines = append(h.Lines, audit(n, log, w.Start)...)
	}
	return h
}

// named gives sessions of which no token was ever seen their family, where there
// is no doubt: a person who logged in once.
func (h *History) named() {
	families, sessions := map[string]map[string]bool{}, map[string]int{}
	for _, e := range h.Ledger {
		if families[e.Subject] == nil {
			families[e.Subject] = map[string]bool{}
		}
		families[e.Subject][e.Family] = true
	}
	for _, s := range h.Sessions {
		sessions[s.User]++
	}
	for i := range h.Sessions {
		s := &h.Sessions[i]
		if of := families[gatewaytest.SubjectOf(s.User)]; s.Family == "" && sessions[s.User] == 1 && len(of) == 1 {
			for family := range of {
				s.Family = family
			}
		}
	}
}

func grown(before, after []Gauge) bool {
	r := Check(&History{Before: before, After: after}, Allowance{})
	return len(r.Violations) > 0
}

// audit reads the audit lines of a gateway's log.
func audit(process int, log string, start time.Time) (all []Line) {
	for text := range strings.Lines(log) {
		if !strings.Contains(text, `"audit":true`) {
			continue
		}
		var l struct {
			Time                           time.Time
			Msg, SID, Reason, Cause, Alarm string
		}
		if json.Unmarshal([]byte(text), &l) != nil || l.Msg == "refused" {
			continue
		}
		all = append(all, Line{At: l.Time.Sub(start), Process: process, Message: l.Msg, SID: l.SID, Reason: l.Reason, Cause: l.Cause, Alarm: l.Alarm})
	}
	return all
}
