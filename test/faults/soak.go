package faults

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// soakRate is how many requests a second a soak is under.
const soakRate = 150

// soakRecovery is how long after a fault errors still belong to it: the back-off
// is at most 10 s.
const soakRecovery = 12 * time.Second

// Soak is row F22: one fault a minute, chosen by lot, under a moderate load, for so
// many minutes. The first replica keeps its process throughout: what it holds is
// written down at the end of each minute, and must not grow.
func Soak(minutes int) Row {
	var kept []holding
	next := time.Time{}
	return Row{
		ID: "F22", Name: fmt.Sprintf("a soak of %d minutes, one fault in each", minutes),
		Setup: func(_ testing.TB, s *Setup) {
			kept, next = nil, time.Time{}
			s.Provider.AccessLife = 20 * time.Second
			s.Change = func(c rig.Config) {
				c.Set("drain.delay", "1s")
				c.Set("drain.timeout", "10s")
			}
		},
		Load:   func(l *Load) { l.Rate, l.Workers = soakRate, 64 },
		Length: time.Duration(minutes) * time.Minute, Pause: time.Millisecond,
		Strike: func(w *World, r *rand.Rand) {
			if next.IsZero() {
				next = time.Now()
			}
			soakFault(w, r)
			next = next.Add(time.Minute)
			w.Sleep(time.Until(next))
			kept = append(kept, w.holds())
		},
		Calm: 2 * time.Minute,
		Allow: Allowance{
			Unknown: true, Cut: true, Recovery: soakRecovery,
			Outside: 1 + soakRate*60*minutes/100_000, // 1 in 100,000
		},
		Judge: func(w *World, h *History, r *Result) {
			judgeSoak(kept, h, r)
			losses(h, r)
		},
	}
}

// soakFault does one fault and undoes it.
func soakFault(w *World, r *rand.Rand) {
	all := w.Running()
	other := all[len(all)-1] // never the first
	d := time.Second + time.Duration(r.Int64N(int64(4*time.Second)))
	switch r.IntN(9) {
	case 0:
		over := w.Fault("SIGKILL")
		w.Kill(other)
		over()
		w.Sleep(d)
		w.Boot(other)
	case 1:
		w.Add()
		over := w.Fault("SIGTERM")
		if code := w.Retire(other); code != 0 {
			w.Trouble("I7", "a replica that was asked to end exits with %d", code)
		}
		over()
	case 2:
		over := w.Fault("a replica is frozen")
		w.Freeze(other)
		w.Sleep(3 * d)
		w.Thaw(other)
		over()
	case 3:
		over := w.Fault("Redis is frozen")
		w.Redis.Stop()
		w.Sleep(d)
		w.Redis.Cont()
		over()
	case 4:
		over := w.Fault("Redis's answers are late")
		for _, at := range all {
			at.Redis.Set(rig.Down, rig.Fault{Delay: 500 * time.Millisecond, Jitter: time.Second})
		}
		w.Sleep(d)
		for _, at := range all {
			at.Redis.Heal()
		}
		over()
	case 5:
		over := w.Fault("the provider refuses")
		w.ProviderLink.Refuse()
		w.Sleep(2 * d)
		w.ProviderLink.Accept()
		over()
	case 6:
		over := w.Fault("the provider answers 503")
		failing := w.Provider.Fail(gatewaytest.FailWith{Status: http.StatusServiceUnavailable, RetryAfter: "1"})
		w.Sleep(2 * d)
		failing.Clear()
		over()
	case 7:
		over := w.Fault("the upstream resets")
		w.Upstream.Harming(func(op int64) Harm { return Harm(op % 5) })
		w.Sleep(d)
		w.Upstream.Harming(nil)
		over()
	default:
		over := w.Fault("clients leave, and answers to them are cut")
		for _, at := range all {
			at.Client.Break()
			at.Client.Set(rig.Down, rig.Fault{Cut: rig.Reset, After: r.IntN(400), Odds: 0.2})
		}
		w.Sleep(d)
		for _, at := range all {
			at.Client.Heal()
		}
		over()
	}
}

// holding is what the first replica and Redis hold at a moment.
type holding struct {
	at                               time.Duration
	rss, heap, goroutines, fds       float64
	records, predecessors, keys, odd float64
}

// holds looks.
func (w *World) holds() holding {
	text := []byte(w.Running()[0].Gateway().Metrics())
	h := holding{
		at: w.now(), rss: Metric(text, "process_resident_memory_bytes"), heap: Metric(text, "go_memstats_heap_inuse_bytes"),
		goroutines: Metric(text, "go_goroutines"), fds: Metric(text, "process_open_fds"),
	}
	for key := range strings.FieldsSeq(w.Redis.CLI("KEYS", "*")) {
		h.keys++
		switch {
		case strings.Contains(key, ":s:{"):
			h.records++
		case strings.Contains(key, ":p:{"):
			h.predecessors++
		case !strings.Contains(key, ":i:{"):
			h.odd++
		}
	}
	return h
}

// judgeSoak holds what was kept against what may be: nothing of a process grows
// for certain by more than 1 % an hour, and a session has one record.
func judgeSoak(kept []holding, h *History, r *Result) {
	if len(kept) < 3 {
		r.Violate("F22", "%d samples are too few", len(kept))
		return
	}
	warm := kept[len(kept)/3:] // pools, caches and the list of ends fill up first
	for name, of := range map[string]func(holding) float64{
		"RSS": func(k holding) float64 { return k.rss }, "heap": func(k holding) float64 { return k.heap },
		"goroutines": func(k holding) float64 { return k.goroutines }, "open files": func(k holding) float64 { return k.fds },
	} {
		hourly, doubt, mean := slope(warm, of)
		r.Figure(name+", % an hour", 100*hourly/mean)
		r.Figure(name+", % an hour, give or take", 100*doubt/mean)
		r.Figure(name+", mean", mean)
		if len(warm) > 3 && hourly-3*doubt > mean/100 {
			r.Violate("I8", "%s grows by %.1f %% an hour, give or take %.1f", name, 100*hourly/mean, 100*doubt/mean)
		}
	}
	last := kept[len(kept)-1]
	r.Figure("Redis: keys", last.keys)
	r.Figure("Redis: records", last.records)
	r.Figure("Redis: predecessors", last.predecessors)
	r.Figure("Redis: other keys than sessions and indexes", last.odd)
	// A login whose answer was lost has a record, too, and no browser knows of it.
	if begun := float64(r.Logins); last.records > begun {
		r.Violate("I8", "%.0f records for %.0f logins", last.records, begun)
	}
	if last.predecessors > last.records {
		r.Violate("I8", "%.0f keys of predecessors for %.0f records", last.predecessors, last.records)
	}
	if last.odd > 200 {
		r.Violate("I8", "%.0f other keys in Redis", last.odd)
	}
	outside := 0
	for i := range h.Ops {
		if !h.within(h.Ops[i].Start, h.Ops[i].End, soakRecovery) {
			outside++
		}
	}
	r.Figure("requests outside of faults", float64(outside))
	r.Figure("of 100,000 of them failed", 1e5*float64(r.Outside)/float64(max(outside, 1)))
}

// slope fits a line by least squares: by how much something grows in an hour, the
// standard error of that, and its mean.
func slope(all []holding, of func(holding) float64) (hourly, doubt, mean float64) {
	n := float64(len(all))
	var x, y float64
	for _, k := range all {
		x, y = x+k.at.Hours()/n, y+of(k)/n
	}
	var xx, xy, rest float64
	for _, k := range all {
		dx := k.at.Hours() - x
		xx, xy = xx+dx*dx, xy+dx*(of(k)-y)
	}
	hourly = xy / xx
	for _, k := range all {
		off := of(k) - y - hourly*(k.at.Hours()-x)
		rest += off * off
	}
	if n > 2 {
		doubt = math.Sqrt(rest / (n - 2) / xx)
	}
	return hourly, doubt, y
}
