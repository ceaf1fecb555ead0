package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// sample is one contender under load once.
type sample struct {
	PerSecond float64 `json:"per_second"`
	CPU       float64 `json:"cpu"`   // seconds of the processor per 10,000 requests
	P50       float64 `json:"p50"`   // ms
	P99       float64 `json:"p99"`   // ms
	Redis     float64 `json:"redis"` // commands of its own per request
	Errors    int64   `json:"errors,omitempty"`
}

// series is the same contenders at several points.
type series struct {
	Name   string             `json:"name"`
	Rounds int                `json:"rounds"`
	Points []point            `json:"points"`
	Values map[string]float64 `json:"values,omitempty"` // what is no sample
}

// point is one setting, such as 64 connections.
type point struct {
	At      string              `json:"at"`
	Names   []string            `json:"names"` // of the contenders, in order
	Samples map[string][]sample `json:"samples"`
}

// results is a run.
type results struct {
	Date     string             `json:"date"`
	Machine  map[string]string  `json:"machine"`
	Duration string             `json:"duration"` // of one load
	Series   []series           `json:"series"`
	Memory   map[string]float64 `json:"memory"` // bytes
}

// run puts load on c once.
func (w *world) run(ctx context.Context, c *contender, connections int, rate float64) (sample, error) {
	before, err := commands(ctx, w.rdb)
	if err != nil {
		return sample{}, err
	}
	used := c.process.usage()
	var l load
	if w.opts.Own || rate > 0 {
		l, err = steady(ctx, c.target(), connections, rate, w.opts.Duration)
	} else {
		l, err = wrk(ctx, w.dir, c.target(), connections, w.opts.Duration)
	}
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", c.Name, err)
	}
	cpu := c.process.usage().cpu - used.cpu
	after, err := commands(ctx, w.rdb)
	if err != nil {
		return sample{}, err
	}
	var calls int64
	// What a request asks for; not the beats, pings and subscriptions that go on
	// without any.
	for _, name := range []string{"get", "set", "evalsha", "eval", "hgetall", "getrange"} {
		calls += after[name] - before[name]
	}
	n := float64(l.Requests)
	return sample{
		PerSecond: n / l.Took.Seconds(), CPU: cpu.Seconds() / n * 10_000,
		P50: l.P50.Seconds() * 1000, P99: l.P99.Seconds() * 1000,
		Redis: float64(calls) / n, Errors: l.Errors,
	}, nil
}

// turns gives each contender rounds loads, one after the other.
func (w *world) turns(ctx context.Context, at string, rounds, connections int, rate float64, cs ...*contender) (point, error) {
	p := point{At: at, Samples: map[string][]sample{}}
	for _, c := range cs {
		p.Names = append(p.Names, c.Name)
		if _, err := steady(ctx, c.target(), min(connections, 16), 0, w.opts.Warmup); err != nil {
			return p, fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	for round := range rounds {
		for i := range cs {
			c := cs[(i+round)%len(cs)] // nobody is always the first after somebody
			s, err := w.run(ctx, c, connections, rate)
			if err != nil {
				return p, err
			}
			if s.Errors > 0 {
				return p, fmt.Errorf("%s: %d of its answers were no answers", c.Name, s.Errors)
			}
			p.Samples[c.Name] = append(p.Samples[c.Name], s)
		}
	}
	for _, c := range cs {
		w.opts.Log("%-14s %-16s %8.0f/s  %.3f cpu s/10k  p50 %.2f ms  p99 %.2f ms  redis %.2f", at, c.Name,
			p.middle(c.Name, sample.perSecond), p.middle(c.Name, sample.cpu), p.middle(c.Name, sample.p50), p.middle(c.Name, sample.p99), p.middle(c.Name, sample.redis))
	}
	return p, nil
}

func (s sample) perSecond() float64 { return s.PerSecond }
func (s sample) cpu() float64       { return s.CPU }
func (s sample) p50() float64       { return s.P50 }
func (s sample) p99() float64       { return s.P99 }
func (s sample) redis() float64     { return s.Redis }

// quartiles are the values a quarter, half and three quarters up.
func (p point) quartiles(name string, of func(sample) float64) (low, middle, high float64) {
	var v []float64
	for _, s := range p.Samples[name] {
		v = append(v, of(s))
	}
	if len(v) == 0 {
		return 0, 0, 0
	}
	slices.Sort(v)
	at := func(q float64) float64 {
		f := q * float64(len(v)-1)
		i := int(f)
		if i+1 == len(v) {
			return v[i]
		}
		return v[i] + (f-float64(i))*(v[i+1]-v[i])
	}
	return at(.25), at(.5), at(.75)
}

func (p point) middle(name string, of func(sample) float64) float64 {
	_, m, _ := p.quartiles(name, of)
	return m
}

// ratio is the median of one contender's value over another's of the same round.
func (p point) ratio(name, to string, of func(sample) float64) (low, middle, high float64) {
	q := point{Samples: map[string][]sample{}}
	for i, s := range p.Samples[name] {
		if i < len(p.Samples[to]) {
			if other := of(p.Samples[to][i]); other > 0 {
				q.Samples[name] = append(q.Samples[name], sample{CPU: of(s) / other})
			}
		}
	}
	return q.quartiles(name, sample.cpu)
}

// save writes the results; a part of a run replaces its part.
func (r *results) save(path string, part bool) error {
	if part {
		old, err := loadResults(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil {
			for _, s := range r.Series {
				i := slices.IndexFunc(old.Series, func(o series) bool { return o.Name == s.Name })
				if i < 0 {
					old.Series = append(old.Series, s)
				} else {
					old.Series[i] = s
				}
			}
			if r.Memory != nil {
				old.Memory = r.Memory
			}
			r = old
		}
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

func loadResults(path string) (*results, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := new(results)
	return r, json.Unmarshal(b, r)
}

// machine says on what was measured.
func machine(ctx context.Context) map[string]string {
	m := map[string]string{"go": runtime.Version(), "cores": fmt.Sprint(runtime.NumCPU())}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m["processor"] = strings.TrimSpace(value)
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m["kernel"] = strings.TrimSpace(string(b))
	}
	for name, args := range map[string][]string{"nginx": {"-v"}, "wrk": {"-v"}, "redis-server": {"--version"}, "apache2": {"-v"}, "git": {"rev-parse", "--short", "HEAD"}} {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = root()
		out, _ := cmd.CombinedOutput() // wrk has no exit code for it
		if line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n"); line != "" {
			m[name] = line
		}
	}
	return m
}

func now() string { return time.Now().UTC().Format("2006-01-02") }
