// Package main measures Cloakroom beside what else could stand in its place: one
// upstream, one load generator, one machine, and the contenders taking turns.
//
//	make bench                  the whole report (about 15 minutes)
//	make bench ROUNDS=3 ONLY=headline
//	make bench-report           writes docs/performance.md again, from the results
//
// Each round gives every contender the same seconds of load, one after another,
// so that whatever else the machine does meets all of them. What a request costs
// is the processor time of the contender's processes (/proc/PID/stat) over the
// requests answered meanwhile. That holds on a shared machine, too, where
// requests a second do not.
//
// Everything is started here, on free ports, with configurations in a directory
// of its own, and everything is gone at the end. It takes what setup.sh installs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
	"time"
)

// options are what a run is like.
type options struct {
	Rounds   int           // of the headline; series have fewer
	Duration time.Duration // of one load
	Warmup   time.Duration // of each contender, before the first round
	Only     *regexp.Regexp
	Sessions []int // how many are in Redis, in the series of that name
	Sockets  int   // idle WebSockets
	Cached   int   // sessions in a cache whose memory is measured
	Own      bool  // load of our own and an upstream of our own: no wrk, no nginx
	Profile  string
	Uncached bool // profile without the cache
	Log      func(format string, args ...any)
}

func main() {
	var (
		opts   = options{Sessions: []int{10, 10_000, 1_000_000}, Sockets: 5000, Cached: 20_000}
		only   = flag.String("only", "", "run the series whose name matches")
		out    = flag.String("out", "", "results file; default docs/performance/results.json")
		report = flag.Bool("report", false, "measure nothing: write the report from the results file")
	)
	flag.IntVar(&opts.Rounds, "rounds", 15, "rounds of the headline")
	flag.DurationVar(&opts.Duration, "duration", 2*time.Second, "of one load")
	flag.DurationVar(&opts.Warmup, "warmup", time.Second, "of each contender")
	flag.StringVar(&opts.Profile, "profile", "", "write a CPU profile of Cloakroom under load here (for default.pgo), and measure nothing")
	flag.BoolVar(&opts.Uncached, "uncached", false, "with -profile: of a gateway without its cache")
	flag.Parse()
	opts.Only = regexp.MustCompile(*only)
	opts.Log = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	file := *out
	if file == "" {
		file = filepath.Join(root(), "docs", "performance", "results.json")
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := errors.Join(func() error {
		if *report {
			return nil
		}
		r, err := measure(ctx, opts)
		if err != nil || opts.Profile != "" {
			return err
		}
		return r.save(file, *only != "")
	}())
	stop()
	if err == nil && opts.Profile == "" {
		err = writeReport(file, filepath.Join(root(), "docs"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// root is the repository's directory.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}
