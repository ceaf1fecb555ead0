package faults

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

const (
	// herdSize is how many sessions' tokens run out together, and others how many
	// browsers go on with theirs.
	herdSize, others = 2000, 50
	// smallHerd asks for as much in a second as two cores can give, with the
	// browsers and the provider on the same two.
	smallHerd = 300
	// herdRate is what the provider is asked a second, at most.
	herdRate = 100
)

var herdRows = []Row{
	herdRow("F20", herdSize, Allowance{Outside: 100, Presentations: 1}),
	herdRow("F20a", smallHerd, Allowance{Outside: 100, Presentations: 1}),
}

func herdRow(id string, size int, allow Allowance) Row {
	return Row{
		ID: id, Name: fmt.Sprintf("a herd: %d sessions' tokens run out, and all tabs wake up within a second", size),
		Setup: func(t testing.TB, s *Setup) {
			herd(t, s)
			s.Browsers = size + others
		},
		Load:   func(l *Load) { *l = Load{Rate: 1, Workers: 1} }, // the strike is the load
		Length: 100 * time.Millisecond,
		Strike: func(w *World, r *rand.Rand) {
			wake(w, r)
			wakeAgain(w, r)
		},
		Allow: allow,
		Judge: func(w *World, _ *History, r *Result) {
			for name, value := range w.figures {
				r.Figure(name, value)
			}
		},
	}
}

func herd(_ testing.TB, s *Setup) {
	s.Browsers = herdSize + others
	s.NoLinks = true
	s.Patience = 60 * time.Second
	s.Provider.AccessLife = 5 * time.Minute
	s.Provider.EditAnswer = func(r gatewaytest.Request, answer map[string]any) {
		var n int
		if _, err := fmt.Sscanf(r.Subject, "sub-u%d", &n); err == nil && n >= others && r.Grant == "password" {
			answer["expires_in"] = 3
		}
	}
	s.Change = func(c rig.Config) {
		c.Set("apps.0.provider.refresh_rate", herdRate)
		c.Set("log.access", true) // how long each request took, as the gateways see it
	}
}

// wake wakes the herd while the others go on, and waits until all have a token.
func wake(w *World, r *rand.Rand) {
	w.Sleep(4 * time.Second) // the last tokens run out
	usual := w.now()
	calm := w.others(func() { w.Sleep(5 * time.Second) })
	over := w.Fault("the herd wakes")
	began, spent := w.now(), w.spent()
	var slowest time.Duration
	var refused int
	busy := w.others(func() {
		all := w.tabs(r, func(op Op) {
			if op.Status != 200 {
				refused++
			} else {
				slowest = max(slowest, op.End-began)
			}
		})
		w.Sleep(rush)
		spent = w.spent().minus(spent)
		all.Wait()
	})
	over()
	grants, size := len(w.Provider.Redemptions("")), len(w.Browsers)-others // the others' tokens live on
	w.figures = map[string]float64{
		"herd: grants": float64(grants), "herd: all served after, s": slowest.Seconds(), "herd: answers of 503 meanwhile": float64(refused),
		"provider: most calls in a second": float64(peak(w.Provider.Ledger())),
	}
	w.tell("usually", calm, usual, began, nil)
	w.tell("as it wakes", busy, began, began+rush, &spent)
	w.tell("while it is served", busy, began+rush, w.now(), nil)
	if grants != size {
		w.Trouble("F20", "%d grants for %d sessions", grants, size)
	}
	if slowest > time.Minute {
		w.Trouble("F20", "the last was served after %v", slowest)
	}
}

// wakeAgain wakes the same herd once more, with tokens that live. What is left of
// the difference is what refreshes cost the others; the rest is what so many
// connections and requests in a second cost on this machine.
func wakeAgain(w *World, r *rand.Rand) {
	before := len(w.Provider.Redemptions(""))
	// Each session's new ticket is shown once, and then what replicas keep of it is
	// as old as it was before.
	for _, b := range w.Browsers[others:] {
		b.Do(Ask{Kind: KindToken})
	}
	w.Sleep(6 * time.Second)
	over := w.Fault("the herd wakes, and no token has run out")
	began, spent := w.now(), w.spent()
	busy := w.others(func() {
		all := w.tabs(r, func(Op) {})
		w.Sleep(rush)
		spent = w.spent().minus(spent)
		all.Wait()
	})
	over()
	w.tell("as it wakes with live tokens", busy, began, began+rush, &spent)
	if more := len(w.Provider.Redemptions("")) - before; more != 0 {
		w.Trouble("F20", "%d grants for tokens that live", more)
	}
}

// tell adds a phase's figures: how long others waited, as they see it and as the
// gateways do, and what was spent.
func (w *World) tell(phase string, seen []Op, from, to time.Duration, spent *spent) {
	w.figures["others, proxied: p99 "+phase+", ms"] = p99(seen, KindAPI, from, to)
	lines := w.lines()
	w.figures["others, proxied: p99 "+phase+", ms, by the gateways"] = p99(lines, KindAPI, from, to)
	w.figures["others, tokens: p99 "+phase+", ms"] = p99(seen, KindToken, from, to)
	w.figures["others, tokens: p99 "+phase+", ms, by the gateways"] = p99(lines, KindToken, from, to)
	if spent != nil {
		w.figures["CPU, s, "+phase+": gateways"] = spent.gateways
		w.figures["CPU, s, "+phase+": Redis"] = spent.redis
		w.figures["CPU, s, "+phase+": browsers, provider and upstream"] = spent.rig
	}
}

// rush is what counts as waking up: the second in which all requests come, and
// what it takes to answer the last of them.
const rush = 1500 * time.Millisecond

// tabs wakes all tabs of the herd within a second: three in each browser, which
// ask for a token until they get it. told is told of each answer, one at a time.
func (w *World) tabs(r *rand.Rand, told func(Op)) *sync.WaitGroup {
	w.client.CloseIdleConnections()
	var all sync.WaitGroup
	var mu sync.Mutex
	began := time.Now()
	for _, b := range w.Browsers[others:] {
		late := time.Duration(r.Int64N(int64(time.Second)))
		for range 3 {
			all.Go(func() {
				timer := time.NewTimer(late)
				<-timer.C
				// A page that is told to come back later does.
				for pause := time.Second; ; pause = min(2*pause, 4*time.Second) {
					op := b.Do(Ask{Kind: KindToken, Fresh: true})
					mu.Lock()
					told(op)
					mu.Unlock()
					if op.Status == 200 || time.Since(began) > time.Minute {
						return
					}
					again := time.NewTimer(pause/2 + rand.N(pause))
					<-again.C
				}
			})
		}
	}
	return &all
}

// others are the requests that people with live tokens make while something is
// done, 200 in a second: half of them through to the upstream, and half for the
// token, which takes nobody but the gateway.
func (w *World) others(do func()) (seen []Op) {
	done := make(chan struct{})
	var all sync.WaitGroup
	var mu sync.Mutex
	for n := range 8 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(w.Setup.Seed, uint64(n)))
			pace := time.NewTicker(40 * time.Millisecond)
			defer pace.Stop()
			for {
				select {
				case <-done:
					return
				case <-pace.C:
				}
				op := w.Browsers[r.IntN(others)].Do(Ask{Kind: []Kind{KindAPI, KindToken}[n%2]})
				if op.Status != 200 {
					w.Trouble("F20", "somebody with a live token is refused: %s", &op)
				}
				mu.Lock()
				seen = append(seen, op)
				mu.Unlock()
			}
		})
	}
	do()
	close(done)
	all.Wait()
	return seen
}

// lines are the others' requests as the gateways' own logs tell of them: from when
// one was read to when it was answered, the upstream's time included.
func (w *World) lines() (all []Op) {
	sids := map[string]bool{}
	w.mu.Lock()
	for _, b := range w.Browsers[:others] {
		if _, s := b.Ticket(); s != nil {
			sids[s.SID] = true
		}
	}
	w.mu.Unlock()
	kinds := map[string]Kind{"route": KindAPI, "token": KindToken}
	for _, log := range w.Rig.Logs() {
		for text := range strings.Lines(log) {
			if !strings.Contains(text, `"msg":"request"`) {
				continue
			}
			var l struct {
				Time          time.Time
				Endpoint, SID string
				Took          time.Duration
			}
			if json.Unmarshal([]byte(text), &l) == nil && sids[l.SID] && kinds[l.Endpoint] != "" {
				end := l.Time.Sub(w.Start)
				all = append(all, Op{Kind: kinds[l.Endpoint], Start: end - l.Took, End: end})
			}
		}
	}
	return all
}

// p99 is the 99th percentile, in milliseconds, of how long the requests took that
// began within a time.
func p99(ops []Op, kind Kind, from, to time.Duration) float64 {
	var took []time.Duration
	for i := range ops {
		if o := &ops[i]; o.Kind == kind && o.Start >= from && o.Start < to {
			took = append(took, o.End-o.Start)
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return float64(took[len(took)*99/100]) / 1e6
}

// spent is CPU time, in seconds.
type spent struct{ gateways, rig, redis float64 }

func (s spent) minus(o spent) spent {
	return spent{s.gateways - o.gateways, s.rig - o.rig, s.redis - o.redis}
}

// spent is what has been spent so far: by the gateways, by Redis, and by this
// process, in which are the browsers, the provider and the upstream.
func (w *World) spent() (s spent) {
	for _, r := range w.Running() {
		g := r.Gateway()
		if g == nil {
			continue
		}
		resp, err := w.client.Get("http://" + g.Admin + "/metrics")
		if err != nil {
			continue // it is being replaced
		}
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			s.gateways += Metric(text, "process_cpu_seconds_total")
		}
	}
	for line := range strings.Lines(w.Redis.CLI("INFO", "cpu")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if n, err := strconv.ParseFloat(value, 64); err == nil && (name == "used_cpu_sys" || name == "used_cpu_user") {
			s.redis += n
		}
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err == nil {
		s.rig = time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
	}
	return s
}

// peak is the most presentations of refresh tokens within a second.
func peak(ledger []gatewaytest.Entry) (most int) {
	var at []time.Time
	for _, e := range ledger {
		if e.Endpoint == gatewaytest.EndpointToken && e.Kind == gatewaytest.KindRefresh && e.Outcome != gatewaytest.Issued {
			at = append(at, e.At)
		}
	}
	slices.SortFunc(at, time.Time.Compare)
	for i, j := 0, 0; i < len(at); i++ {
		for at[i].Sub(at[j]) > time.Second {
			j++
		}
		most = max(most, i-j+1)
	}
	return most
}
