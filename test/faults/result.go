package faults

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Result is what a row came to: what the table shows and the result file holds.
type Result struct {
	Row     string    `json:"row"`
	Name    string    `json:"name"`
	Seed    uint64    `json:"seed"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	CPUs    int       `json:"cpus"`
	Go      string    `json:"go"`

	Faults    map[string]int `json:"faults"`
	Requests  int            `json:"requests"`
	Sessions  int            `json:"sessions"`
	Logins    int            `json:"logins"`
	Rotations int            `json:"rotations"` // tickets that advanced
	InPlace   int            `json:"in_place"`  // refreshes that changed no ticket
	Grants    int            `json:"grants"`    // refresh tokens redeemed
	Reissued  int            `json:"reissued"`  // successors that were lost and replaced
	Replays   int            `json:"replays"`   // superseded tickets that were shown

	Errors  map[string]int `json:"errors"`  // of requests, by what they were told
	Outside int            `json:"outside"` // of them, outside of all windows
	// First is the time from a window's end to the first request that began after
	// it and succeeded, in milliseconds.
	FirstMax float64 `json:"first_success_max_ms"`
	FirstP50 float64 `json:"first_success_p50_ms"`
	// Gap is the longest time without any success.
	Gap float64 `json:"longest_gap_ms"`

	LostAllowed map[string]int `json:"lost_allowed"`
	Lost        int            `json:"lost"` // not allowed
	WrongUser   int            `json:"wrong_user"`
	Double      int            `json:"double_redemptions"`
	Leaks       int            `json:"leaks"`
	Revived     int            `json:"revived"`
	FalseEnds   int            `json:"false_ends"`
	MissedReuse int            `json:"missed_reuse"`
	Twice       int            `json:"sent_twice"`

	Violations []string           `json:"violations"`
	More       int                `json:"violations_left_out"`
	Figures    map[string]float64 `json:"figures"`
}

// Violate adds a violation.
func (r *Result) Violate(invariant, format string, args ...any) {
	if len(r.Violations) >= 60 {
		r.More++
		return
	}
	r.Violations = append(r.Violations, invariant+": "+fmt.Sprintf(format, args...))
}

// Figure adds a figure of the row's own.
func (r *Result) Figure(name string, value float64) {
	if r.Figures == nil {
		r.Figures = map[string]float64{}
	}
	r.Figures[name] = value
}

// figure counts one up.
func (r *Result) figure(name string) { r.Figure(name, r.Figures[name]+1) }

func total(of map[string]int) int {
	n := 0
	for _, v := range of {
		n += v
	}
	return n
}

func listed(of map[string]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, of[k]))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// Table is the result for people.
func (r *Result) Table() string {
	var s strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&s, "  %-22s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&s, "%s %s (seed %d, %.0f s)\n", r.Row, r.Name, r.Seed, r.Seconds)
	line("faults", "%d (%s)", total(r.Faults), listed(r.Faults))
	line("requests", "%d, %.0f a second", r.Requests, float64(r.Requests)/max(r.Seconds, 0.1))
	line("rotations", "%d, and %d refreshes in place; %d grants; %d successors issued again", r.Rotations, r.InPlace, r.Grants, r.Reissued)
	line("logins", "%d in %d sessions", r.Logins, r.Sessions)
	line("errors", "%s", listed(r.Errors))
	line("errors outside", "%d", r.Outside)
	line("first success", "p50 %.0f ms, max %.0f ms after a fault; longest gap %.0f ms", r.FirstP50, r.FirstMax, r.Gap)
	line("sessions lost", "%d; allowed and audited: %s", r.Lost, listed(r.LostAllowed))
	line("wrong user", "%d", r.WrongUser)
	line("double redemption", "%d", r.Double)
	line("leaks", "%d", r.Leaks)
	line("false ends", "%d; real replays %d, missed %d", r.FalseEnds, r.Replays, r.MissedReuse)
	line("ended and revived", "%d", r.Revived)
	line("sent twice", "%d", r.Twice)
	for _, name := range slices.Sorted(maps.Keys(r.Figures)) {
		line(name, "%.4g", r.Figures[name])
	}
	for _, v := range r.Violations {
		fmt.Fprintf(&s, "  VIOLATED %s\n", v)
	}
	if r.More > 0 {
		fmt.Fprintf(&s, "  and %d more\n", r.More)
	}
	return s.String()
}

// Write adds the result to a directory of them, and returns the file's path.
func (r *Result) Write(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	r.CPUs, r.Go = runtime.NumCPU(), runtime.Version()
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, fmt.Sprintf("%s-seed%d-%s.json", r.Row, r.Seed, r.Started.UTC().Format("20060102T150405")))
	return path, os.WriteFile(path, append(text, '\n'), 0o644)
}

// Sum adds up result files, a line for each row and one for all, and reports
// whether any was violated.
func Sum(paths []string) (table string, violated bool, err error) {
	byRow, all := map[string]*Result{}, &Result{Row: "all"}
	runs := map[string]int{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", false, err
		}
		var r Result
		if err := json.Unmarshal(text, &r); err != nil {
			return "", false, fmt.Errorf("%s: %w", path, err)
		}
		if byRow[r.Row] == nil {
			byRow[r.Row] = &Result{Row: r.Row}
		}
		runs[r.Row]++
		runs["all"]++
		byRow[r.Row].add(&r)
		all.add(&r)
	}
	var s strings.Builder
	fmt.Fprintln(&s, "| row | runs | faults | requests | rotations | logins | errors | outside | lost | allowed | wrong user | double | leaks | false ends | missed | revived | sent twice | first success, max ms | violations |")
	fmt.Fprintln(&s, "|---|"+strings.Repeat("---:|", 18))
	order := slices.SortedFunc(maps.Keys(byRow), func(a, b string) int {
		if d := len(a) - len(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	for _, r := range append(values(byRow, order), all) {
		fmt.Fprintf(&s, "| %s | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %.0f | %d |\n",
			r.Row, runs[r.Row], total(r.Faults), r.Requests, r.Rotations, r.Logins, total(r.Errors), r.Outside, r.Lost, total(r.LostAllowed),
			r.WrongUser, r.Double, r.Leaks, r.FalseEnds, r.MissedReuse, r.Revived, r.Twice, r.FirstMax, len(r.Violations)+r.More)
	}
	return s.String(), len(all.Violations) > 0, nil
}

func values(of map[string]*Result, order []string) (all []*Result) {
	for _, k := range order {
		all = append(all, of[k])
	}
	return all
}

func (r *Result) add(o *Result) {
	sum := func(to *map[string]int, from map[string]int) {
		if *to == nil {
			*to = map[string]int{}
		}
		for k, v := range from {
			(*to)[k] += v
		}
	}
	sum(&r.Faults, o.Faults)
	sum(&r.Errors, o.Errors)
	sum(&r.LostAllowed, o.LostAllowed)
	r.Requests += o.Requests
	r.Rotations += o.Rotations
	r.Logins += o.Logins
	r.Outside += o.Outside
	r.Lost += o.Lost
	r.WrongUser += o.WrongUser
	r.Double += o.Double
	r.Leaks += o.Leaks
	r.FalseEnds += o.FalseEnds
	r.MissedReuse += o.MissedReuse
	r.Revived += o.Revived
	r.Twice += o.Twice
	r.FirstMax = max(r.FirstMax, o.FirstMax)
	r.Violations = append(r.Violations, o.Violations...)
	r.More += o.More
}
