package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"html"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
)

//go:embed performance.md.tmpl
var page string

// titles is what contenders are called in the report.
var titles = map[string]string{
	"nginx":          "(a) nginx `proxy_pass`",
	"bare":           "(b) bare `ReverseProxy`",
	"naive":          "(c) bare, one `GET` a request",
	"cached":         "(d) Cloakroom",
	"uncached":       "(e) Cloakroom, `cache_ttl: 0s`",
	"observed":       "(f) Cloakroom, everything observed",
	"metrics":        "(d), metrics fetched each second",
	"lines":          "(d), a line a request",
	"spans":          "(d), spans of a tenth of the requests",
	"all-spans":      "(d), spans of all requests",
	"apache":         "(h) Apache, mod_auth_openidc",
	"token-bare":     "bare handler, one `GET`",
	"token-relay":    "(g) `/bff/token`, relay",
	"token-uncached": "(g) relay, `cache_ttl: 0s`",
	"token-mint":     "(g) `/bff/token`, mint",
}

func title(name string) string {
	if t := titles[name]; t != "" {
		return t
	}
	return name
}

// writeReport writes docs/performance.md and its plots from a results file.
func writeReport(file, docs string) error {
	r, err := loadResults(file)
	if err != nil {
		return err
	}
	t, err := template.New("performance.md").Funcs(template.FuncMap{
		"table":   r.table,
		"across":  r.across,
		"ratio":   r.quotient,
		"atLeast": r.atLeast,
		"atMost":  func(value, most float64) string { return verdict(value <= most) },
		"held":    func() float64 { return 2*r.Memory["cached_record"] + 1024 }, // at most, by a cached session
		"memory":  func(name string) float64 { return r.Memory[name] },
		"kib":     func(bytes float64) string { return fmt.Sprintf("%.1f", bytes/1024) },
		"mb":      func(bytes float64) string { return fmt.Sprintf("%.1f", bytes/1e6) },
		"keys":    func(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) },
		"has":     func(name string) bool { return r.series(name) != nil },
	}).Parse(page)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, r); err != nil {
		return err
	}
	dir := filepath.Join(docs, "performance")
	errs := []error{os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(docs, "performance.md"), out.Bytes(), 0o644)}
	if s := r.series("headline"); s != nil {
		errs = append(errs, os.WriteFile(filepath.Join(dir, "cost.svg"), bars("CPU seconds per 10,000 requests", s.Points[0], sample.cpu), 0o644))
	}
	if s := r.series("connections"); s != nil {
		errs = append(errs, os.WriteFile(filepath.Join(dir, "connections.svg"), lines("CPU seconds per 10,000 requests, by connections", s.Points, sample.cpu), 0o644))
	}
	if s := r.series("sessions"); s != nil {
		errs = append(errs, os.WriteFile(filepath.Join(dir, "sessions.svg"), lines("CPU seconds per 10,000 requests, by sessions in Redis", s.Points, sample.cpu), 0o644))
	}
	return errors.Join(errs...)
}

func (r *results) series(name string) *series {
	for i := range r.Series {
		if r.Series[i].Name == name && len(r.Series[i].Points) > 0 {
			return &r.Series[i]
		}
	}
	return nil
}

// table is one point of a series with everything that was measured, and each
// contender beside the one named to.
func (r *results) table(name, to string) string {
	s := r.series(name)
	if s == nil {
		return "Not measured.\n"
	}
	p := s.Points[0]
	var b strings.Builder
	fmt.Fprintf(&b, "| | requests/s | of %s | CPU s per 10,000 | of %[1]s | p50 ms | p99 ms | Redis commands per request |\n|---|---|---|---|---|---|---|---|\n", short(to))
	for _, c := range p.Names {
		_, faster, _ := p.ratio(c, to, sample.perSecond)
		_, dearer, _ := p.ratio(c, to, sample.cpu)
		fmt.Fprintf(&b, "| %s | %s | %.2f | %s | %.2f | %s | %s | %.2f |\n", title(c),
			spread(p, c, sample.perSecond, "%.0f"), faster, spread(p, c, sample.cpu, "%.3f"), dearer,
			spread(p, c, sample.p50, "%.2f"), spread(p, c, sample.p99, "%.1f"), p.middle(c, sample.redis))
	}
	return b.String()
}

// short is a contender's letter, or its name.
func short(name string) string {
	if t := title(name); strings.HasPrefix(t, "(") {
		return t[:3]
	}
	return title(name)
}

// spread is a median with its quartiles.
func spread(p point, c string, of func(sample) float64, format string) string {
	low, middle, high := p.quartiles(c, of)
	return fmt.Sprintf(format+" <sub>"+format+"–"+format+"</sub>", middle, low, high)
}

// across is one value of a series at each of its points.
func (r *results) across(name, value string) (string, error) {
	s := r.series(name)
	if s == nil {
		return "Not measured.\n", nil
	}
	of := map[string]func(sample) float64{"cpu": sample.cpu, "per_second": sample.perSecond, "p99": sample.p99, "p50": sample.p50}[value]
	format := map[string]string{"cpu": "%.3f", "per_second": "%.0f", "p99": "%.2f", "p50": "%.2f"}[value]
	if of == nil {
		return "", fmt.Errorf("no value %q", value)
	}
	var b strings.Builder
	b.WriteString("| |")
	for _, p := range s.Points {
		fmt.Fprintf(&b, " %s |", p.At)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(s.Points)) + "\n")
	for _, c := range s.Points[0].Names {
		fmt.Fprintf(&b, "| %s |", title(c))
		for _, p := range s.Points {
			fmt.Fprintf(&b, " "+format+" |", p.middle(c, of))
		}
		b.WriteString("\n")
	}
	return b.String(), nil
}

// quotient is the median over rounds of one contender's value over another's, with
// its quartiles, at a series' first point.
func (r *results) quotient(name, c, to, value string) string {
	s := r.series(name)
	if s == nil {
		return "not measured"
	}
	of := sample.cpu
	switch value {
	case "per_second":
		of = sample.perSecond
	case "p99":
		of = sample.p99
	}
	low, middle, high := s.Points[0].ratio(c, to, of)
	return fmt.Sprintf("%.2f (%.2f–%.2f)", middle, low, high)
}

// atLeast says whether the median of a quotient is at least what was wanted.
func (r *results) atLeast(name, c, to, value string, least float64) string {
	s := r.series(name)
	if s == nil {
		return "nobody knows"
	}
	of := sample.cpu
	if value == "per_second" {
		of = sample.perSecond
	}
	_, middle, _ := s.Points[0].ratio(c, to, of)
	return verdict(middle >= least)
}

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "missed"
}

var colours = []string{"#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#9c755f"}

// bars draws one bar for each contender's median, with its quartiles.
func bars(heading string, p point, of func(sample) float64) []byte {
	const width, row, left = 720, 30, 250
	most := 0.0
	for _, c := range p.Names {
		_, _, high := p.quartiles(c, of)
		most = max(most, high)
	}
	scale := (width - left - 70) / most
	var b bytes.Buffer
	open(&b, heading, width, 40+row*len(p.Names)+10)
	for i, c := range p.Names {
		low, middle, high := p.quartiles(c, of)
		y := 40 + i*row
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left-8, y+15, html.EscapeString(strings.ReplaceAll(title(c), "`", "")))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="20" fill="%s"/>`+"\n", left, y, middle*scale, colours[i%len(colours)])
		fmt.Fprintf(&b, `<path d="M%.1f %d H%.1f" stroke="#000"/>`+"\n", left+low*scale, y+10, left+high*scale)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d">%.2f</text>`+"\n", left+high*scale+6, y+15, middle)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// lines draws a line for each contender over the points.
func lines(heading string, points []point, of func(sample) float64) []byte {
	const width, height, left, right, top, bottom = 720, 360, 50, 200, 40, 320
	names, most := points[0].Names, 0.0
	for _, p := range points {
		for _, c := range names {
			most = max(most, p.middle(c, of))
		}
	}
	unit := math.Pow(10, math.Floor(math.Log10(most)))
	for most/unit < 4 {
		unit /= 2
	}
	x := func(i int) float64 { return left + float64(i)*float64(width-left-right)/float64(max(1, len(points)-1)) }
	y := func(v float64) float64 { return bottom - v/most*(bottom-top) }
	var b bytes.Buffer
	open(&b, heading, width, height)
	for v := 0.0; v <= most; v += unit {
		fmt.Fprintf(&b, `<path d="M%d %.1f H%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%.3g</text>`+"\n", left, y(v), width-right, left-6, y(v)+4, v)
	}
	for i, p := range points {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(i), bottom+20, html.EscapeString(p.At))
	}
	for n, c := range names {
		var path strings.Builder
		for i, p := range points {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(i, 1)], x(i), y(p.middle(c, of)))
		}
		colour := colours[n%len(colours)]
		fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", path.String(), colour)
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="12" height="12" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n",
			width-right+12, top+n*20, colour, width-right+30, top+n*20+11, html.EscapeString(strings.ReplaceAll(title(c), "`", "")))
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func open(b *bytes.Buffer, heading string, width, height int) {
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="13">`+"\n", width, height)
	fmt.Fprintf(b, `<rect width="100%%" height="100%%" fill="#fff"/><text x="12" y="22" font-weight="bold">%s</text>`+"\n", html.EscapeString(heading))
}
