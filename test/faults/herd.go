package faults

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

const (
	// herdSize is how many sessions' tokens run out together, and others how many
	// browsers go on with theirs.
	herdSize, others = 2000, 50
	// herdRate is what the provider is asked a second, at most.
	herdRate = 100
)

var herdRows = []Row{{
	ID: "F20", Name: fmt.Sprintf("a herd: %d sessions' tokens run out, and all tabs wake up within a second", herdSize),
	Setup:  herd,
	Load:   func(l *Load) { *l = Load{Rate: 1, Workers: 1} }, // the strike is the load
	Length: 100 * time.Millisecond,
	Strike: wake,
	Allow:  Allowance{Outside: 100, Presentations: 1},
	Judge: func(w *World, _ *History, r *Result) {
		for name, value := range w.figures {
			r.Figure(name, value)
		}
	},
}}

func herd(_ testing.TB, s *Setup) {
	s.Browsers = herdSize + others
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
	}
}

// wake wakes the herd while the others go on, and waits until all have a token.
func wake(w *World, r *rand.Rand) {
	w.Sleep(4 * time.Second) // the last tokens run out
	calm := w.measured(func() { w.Sleep(5 * time.Second) })
	over := w.Fault("the herd wakes")
	began := time.Now()
	var slowest time.Duration
	var refused int
	busy := w.measured(func() {
		var all sync.WaitGroup
		var mu sync.Mutex
		for _, b := range w.Browsers[others:] {
			late := time.Duration(r.Int64N(int64(time.Second)))
			for range 3 {
				all.Go(func() {
					timer := time.NewTimer(late)
					<-timer.C
					// A page that is told to come back later does.
					for pause := time.Second; ; pause = min(2*pause, 4*time.Second) {
						op := b.Do(Ask{Kind: KindToken})
						mu.Lock()
						if op.Status != 200 {
							refused++
						} else {
							slowest = max(slowest, time.Since(began))
						}
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
		all.Wait()
	})
	over()
	grants := len(w.Provider.Redemptions("")) // the others' tokens live on
	w.figures = map[string]float64{
		"herd: grants": float64(grants), "herd: all served after, s": slowest.Seconds(), "herd: answers of 503 meanwhile": float64(refused),
		"others: p99 before, ms": calm, "others: p99 meanwhile, ms": busy,
		"provider: most calls in a second": float64(peak(w.Provider.Ledger())),
	}
	if grants != herdSize {
		w.Trouble("F20", "%d grants for %d sessions", grants, herdSize)
	}
	if slowest > time.Minute {
		w.Trouble("F20", "the last was served after %v", slowest)
	}
}

// measured is the 99th percentile, in milliseconds, of how long proxied requests
// of the others take while something is done.
func (w *World) measured(do func()) float64 {
	done := make(chan struct{})
	var all sync.WaitGroup
	var mu sync.Mutex
	var took []float64
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
				op := w.Browsers[r.IntN(others)].Do(Ask{Kind: KindAPI})
				if op.Status != 200 {
					w.Trouble("F20", "somebody with a live token is refused: %s", &op)
				}
				mu.Lock()
				took = append(took, float64(op.End-op.Start)/1e6)
				mu.Unlock()
			}
		})
	}
	do()
	close(done)
	all.Wait()
	slices.Sort(took)
	return took[len(took)*99/100]
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
