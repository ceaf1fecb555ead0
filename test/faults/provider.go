package faults

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// providerRows are what goes wrong at the provider, or on the way to it.
var providerRows = []Row{
	{
		ID: "F9", Name: "the provider is down for longer than tokens live",
		Length: 40 * time.Second, Pause: 3 * time.Second,
		Strike: func(w *World, r *rand.Rand) {
			down := 5*time.Second + time.Duration(r.Int64N(int64(2*time.Second)))
			switch r.IntN(3) {
			case 0:
				over := w.Fault("provider refuses")
				w.ProviderLink.Refuse()
				w.Sleep(down)
				w.ProviderLink.Accept()
				over()
			case 1:
				// As packets that are dropped: what was sent arrives by retransmission
				// when the line is back.
				over := w.Fault("provider is a black hole")
				w.ProviderLink.Set(rig.Up, rig.Fault{Stall: true})
				w.ProviderLink.Set(rig.Down, rig.Fault{Stall: true})
				w.Sleep(down)
				w.ProviderLink.Heal()
				over()
			default:
				over := w.Fault("provider answers 503")
				failing := w.Provider.Fail(gatewaytest.FailWith{Status: http.StatusServiceUnavailable, RetryAfter: "1"})
				w.Sleep(down)
				failing.Clear()
				over()
			}
		},
		// Back-off is at most 10 s, and then the sessions that have been waiting are
		// refreshed one after the other.
		// What the black hole delivers late is spent, and its answer comes to nobody.
		Allow: Allowance{Unknown: true, Recovery: 12 * time.Second},
		Judge: func(_ *World, h *History, r *Result) { liveTokensServed(h, r) },
	},
	{
		ID: "F10", Name: "the provider's answer is lost, after it spent the token or before",
		Length: 20 * time.Second,
		Strike: func(w *World, r *rand.Rand) {
			with := []gatewaytest.FailWith{
				{Drop: true}, {Drop: true, AfterCommit: true},
				{Status: http.StatusBadGateway, Body: "bad gateway"}, {Status: http.StatusBadGateway, Body: "bad gateway", AfterCommit: true},
				{Truncate: true}, {Status: http.StatusInternalServerError, AfterCommit: true},
			}[r.IntN(6)]
			with.Times, with.Only = 1, gatewaytest.Refreshing
			when := "before"
			if with.AfterCommit || with.Truncate {
				when = "after"
			}
			over := w.Fault("answer lost, " + when + " the commit")
			failing := w.Provider.Fail(with)
			for until := time.Now().Add(5 * time.Second); failing.Hits() == 0 && time.Now().Before(until); {
				w.Sleep(5 * time.Millisecond)
			}
			failing.Clear()
			over()
		},
		Calm: 100 * time.Second,
		// Nobody knows for half a minute whether the token was spent, and only that
		// session waits.
		Allow: Allowance{Unknown: true, Recovery: 15 * time.Second},
		Judge: func(_ *World, h *History, r *Result) {
			liveTokensServed(h, r)
			onlyTheHit(h, r)
		},
	},
	{
		ID: "F11", Name: "the provider is slower than the lease",
		Length: 45 * time.Second, Pause: 2 * time.Second,
		Strike: func(w *World, r *rand.Rand) {
			gate := []gatewaytest.Point{gatewaytest.GateBeforeCommit, gatewaytest.GateAfterCommit, gatewaytest.GateMidBody}[r.IntN(3)]
			if r.IntN(3) == 0 {
				over := w.Fault("all answers take seconds")
				w.ProviderLink.Set(rig.Down, rig.Fault{Delay: 2 * time.Second, Jitter: time.Second})
				w.Sleep(8 * time.Second)
				w.ProviderLink.Heal()
				over()
				return
			}
			over := w.Fault("some answers take 12 s: " + string(gate))
			var held atomic.Int32
			hold := w.Provider.Gate(gate, gatewaytest.Refreshing, func(gatewaytest.Request) bool { return held.Add(1) <= 5 })
			w.Sleep(12 * time.Second)
			hold.Release()
			over()
		},
		Calm:  100 * time.Second,
		Allow: Allowance{Unknown: true, Recovery: 15 * time.Second},
	},
	{
		ID: "F12", Name: "the provider's keys change during logins, and its key set is down",
		Setup: func(_ testing.TB, s *Setup) { s.Bearers = true },
		Load:  func(l *Load) { l.Login = 30 },
		// A key set is fetched at most every 5 s.
		Length: 40 * time.Second, Pause: 5500 * time.Millisecond,
		Strike: func(w *World, r *rand.Rand) {
			switch r.IntN(4) {
			case 3:
				over := w.Fault("tokens under unknown keys, 500 of them")
				w.flood(500)
				over()
			case 0:
				over := w.Fault("keys change, the old one stays")
				w.Provider.RotateKeys(true)
				over()
			case 1:
				over := w.Fault("keys change, the old one goes")
				w.Provider.RotateKeys(false)
				over()
			default:
				over := w.Fault("the key set is down, and the keys change")
				failing := w.Provider.Fail(gatewaytest.FailWith{Endpoint: gatewaytest.EndpointJWKS, Status: http.StatusServiceUnavailable})
				w.Provider.RotateKeys(true)
				w.Sleep(time.Second)
				failing.Clear()
				over()
			}
		},
		Allow: Allowance{Recovery: 6 * time.Second},
		Judge: func(_ *World, h *History, r *Result) {
			n := h.Calls[string(gatewaytest.EndpointJWKS)]
			r.Figure("key set fetched", float64(n))
			if most := 10 + 8*len(h.Windows); n > most {
				r.Violate("I9", "the key set was fetched %d times, want at most %d", n, most)
			}
		},
	},
}

// flood sends bearers that are signed by nobody, each under a key of its own.
func (w *World) flood(n int) {
	claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"iss":%q,"aud":"https://api.example.com","exp":%d}`,
		w.Provider.Issuer(), time.Now().Add(time.Minute).Unix()))
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := worker; i < n; i += 8 {
				at := w.pick(int64(i))
				head := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"alg":"ES256","typ":"at+jwt","kid":"nobody-%d-%d"}`, i, w.nextOp.Load()))
				r, err := http.NewRequestWithContext(w.T.Context(), http.MethodGet, "http://"+at.addr()+"/bearer/orders", nil)
				if err != nil {
					return
				}
				r.Host = "app.test"
				r.Header.Set("Authorization", "Bearer "+head+"."+claims+"."+strings.Repeat("A", 86))
				resp, err := w.client.Do(r)
				if err != nil {
					continue
				}
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					w.Trouble("I5", "a bearer that nobody signed was taken")
				}
			}
		})
	}
	all.Wait()
}

// joined is how long an opening may have been under way.
const joined = 20 * time.Millisecond

// liveTokensServed holds refusals for the provider's sake against tokens that
// still lived.
func liveTokensServed(h *History, r *Result) {
	expires := map[string][]Arrival{} // by family, in time
	for _, a := range h.Arrivals {
		expires[a.Family] = append(expires[a.Family], a)
	}
	families := map[string]string{}
	for _, s := range h.Sessions {
		families[s.ID] = s.Family
	}
	refused := 0
	for i := range h.Ops {
		o := &h.Ops[i]
		if o.Code != "provider_unavailable" || o.Kind == KindLogin {
			continue
		}
		refused++
		for _, a := range expires[families[o.Session]] {
			// A token is of no use in its last tenth, and its life is counted from
			// before it was asked for. Where another replica has just got it, who joins
			// an opening that began before hears of that one's refusal.
			if a.At < o.Start-joined && h.at(a.Expires) > o.End+time.Second {
				r.Violate("I7", "%s, and its token had %v to live", o, h.at(a.Expires)-o.End)
				break
			}
		}
	}
	r.Figure("refused, token run out", float64(refused))
}

// onlyTheHit holds refusals against sessions whose answers were not lost.
func onlyTheHit(h *History, r *Result) {
	hit := map[string]bool{}
	for _, e := range h.Ledger {
		if e.Outcome == gatewaytest.Dropped || e.Outcome == gatewaytest.Unspent {
			hit[e.Family] = true
		}
	}
	families := map[string]string{}
	for _, s := range h.Sessions {
		families[s.ID] = s.Family
	}
	others := map[string]bool{}
	for i := range h.Ops {
		o := &h.Ops[i]
		if o.Code == "provider_unavailable" && o.Session != "" && !hit[families[o.Session]] {
			others[o.Session] = true
		}
	}
	r.Figure("sessions hit", float64(len(hit)))
	r.Figure("others refused meanwhile", float64(len(others)))
}
