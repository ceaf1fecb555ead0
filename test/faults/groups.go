package faults

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/cloakroom/cloakroom/session/storetest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// Searched is a Redis that is searched at the end.
type Searched interface{ CLI(args ...string) string }

// node is a group's node, as Searched.
type node struct{ *storetest.Node }

func (n node) CLI(args ...string) string {
	text, _ := n.Node.CLI(args...) // one that is down holds nothing
	return text
}

// searched are the stores of a world.
func (s *Setup) searched() (all []Searched) {
	var nodes []*storetest.Node
	switch {
	case s.Sentinels != nil:
		nodes = s.Sentinels.Nodes
	case s.Shards != nil:
		nodes = s.Shards.Nodes
	default:
		return []Searched{s.Redis}
	}
	for _, n := range nodes {
		all = append(all, node{n})
	}
	return all
}

// grouped turns the configuration to a group of Redis processes, if there is one.
func (s *Setup) grouped() {
	block := map[string]any{"timeout": "2s"}
	switch {
	case s.Sentinels != nil:
		block["mode"], block["addresses"] = "sentinel", list(s.Sentinels.Addrs())
		block["sentinel"] = map[string]any{"master": storetest.MasterName}
	case s.Shards != nil:
		block["mode"], block["addresses"] = "cluster", list(s.Shards.Addrs())
	default:
		return
	}
	s.NoRedisLink = true
	change := s.Change
	s.Change = func(c rig.Config) {
		c.Set("redis", block)
		if change != nil {
			change(c)
		}
	}
}

func list(texts []string) (all []any) {
	for _, text := range texts {
		all = append(all, text)
	}
	return all
}

// primary is the one that the sentinels name.
func (w *World) primary() *storetest.Node {
	w.T.Helper()
	var found *storetest.Node
	rig.Eventually(w.T, "there is a primary", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		var err error
		found, err = w.Setup.Sentinels.Primary(ctx)
		return err == nil
	})
	return found
}

// whole waits until a group of Redis processes is as it should be.
func (w *World) whole(wait func(context.Context) error) {
	w.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), rig.Patience)
	defer cancel()
	if err := wait(ctx); err != nil {
		w.T.Fatalf("faults: %v", err)
	}
}

// hot draws the sid of a session that is in use, "" if none is known.
func (w *World) hot(r *rand.Rand) string {
	for range 50 {
		b := w.Browsers[r.IntN(len(w.Browsers))]
		_, s := b.Ticket()
		if s == nil {
			continue
		}
		w.mu.Lock()
		sid := s.SID
		w.mu.Unlock()
		if sid != "" {
			return sid
		}
	}
	return ""
}

// outages tells, of the windows with that name, how long they were noticed: from
// the fault to the end of the last answer of trouble that belongs to it, and to
// the first success that began after the first trouble.
func outages(h *History, r *Result, name string, recovery time.Duration) {
	var noticed, first []float64
	for _, w := range h.Windows {
		if w.Name != name {
			continue
		}
		var begin, last time.Duration
		for i := range h.Ops {
			o := &h.Ops[i]
			if (o.Status >= 500 || o.Status == 0) && o.End >= w.From && (w.To == 0 || o.Start <= w.To+recovery) {
				if begin == 0 || o.End < begin {
					begin = o.End
				}
				last = max(last, o.End)
			}
		}
		if begin == 0 {
			noticed, first = append(noticed, 0), append(first, 0)
			continue
		}
		noticed = append(noticed, float64(last-w.From)/1e6)
		won := time.Duration(0)
		for i := range h.Ops {
			o := &h.Ops[i]
			// A login needs a Redis that takes writes; nothing is cached of it.
			if accepted(o) && (o.Kind == KindLogin || o.Kind == KindLogout) && o.Start > begin && (won == 0 || o.End < won) {
				won = o.End
			}
		}
		if won != 0 {
			first = append(first, float64(won-w.From)/1e6)
		}
	}
	for what, of := range map[string][]float64{"ms to the last error": noticed, "ms to the first login": first} {
		if len(of) == 0 {
			continue
		}
		slices.Sort(of)
		r.Figure(name+": "+what+", p50", of[len(of)/2])
		r.Figure(name+": "+what+", max", of[len(of)-1])
	}
}

// share tells how many of the requests that began in a window failed.
func share(h *History, r *Result, name string) (failed, all int) {
	for i := range h.Ops {
		o := &h.Ops[i]
		for _, w := range h.Windows {
			if w.Name != name || o.Start < w.From || w.To != 0 && o.Start > w.To {
				continue
			}
			all++
			if o.Status >= 500 || o.Status == 0 && o.Error != "aborted" {
				failed++
			}
			break
		}
	}
	r.Figure(name+": requests", float64(all))
	r.Figure(name+": of them failed", float64(failed))
	return failed, all
}

// losses counts sessions that ended without anybody's doing, by what their
// browsers were told.
func losses(h *History, r *Result) {
	of := map[string]int{}
	seen := map[string]bool{}
	sessions := map[string]*Session{}
	for i := range h.Sessions {
		sessions[h.Sessions[i].ID] = &h.Sessions[i]
	}
	for i := range h.Ops {
		o := &h.Ops[i]
		s := sessions[o.Session]
		if s == nil || seen[s.ID] || o.Status != http.StatusUnauthorized || s.Ending != 0 && o.End >= s.Ending {
			continue
		}
		seen[s.ID] = true
		of[o.Reason]++
	}
	for reason, n := range of {
		r.Figure("lost, told "+reason, float64(n))
	}
}
