package faults

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/test/rig"
)

// scarceRows take from the gateways what a machine may run out of.
var scarceRows = []Row{
	{
		ID: "F19", Name: "a replica may have no more than 256 open files",
		Length: 15 * time.Second, Pause: 2 * time.Second,
		Load: func(l *Load) { l.Workers, l.Stream = 400, 40 },
		Strike: func(w *World, r *rand.Rand) {
			at := w.Running()[r.IntN(2)]
			over := w.Fault("256 open files")
			before := limit(w, at, "nofile", "256")
			// What is open stays open: so all is made anew.
			at.Client.Break()
			at.Upstream.Break()
			at.Redis.Break()
			w.Sleep(4 * time.Second)
			limit(w, at, "nofile", before)
			over()
		},
		Allow: Allowance{Cut: true, Recovery: 3 * time.Second},
		Judge: func(_ *World, h *History, r *Result) { share(h, r, "256 open files") },
	},
	{
		ID: "F19a", Name: "GOMEMLIMIT is less than what the gateways need",
		Setup: func(_ testing.TB, s *Setup) {
			s.Each = func(w *rig.World, _ int) { w.Env = []string{"GOMEMLIMIT=16MiB"} }
		},
		Length: 15 * time.Second,
		Judge:  func(_ *World, h *History, r *Result) { r.Figure("p99 of all, ms", slowest(h, nil)) },
	},
	{
		ID: "F19b", Name: "a replica's logs go to a disk that is full (/dev/full)",
		Setup: func(t testing.TB, s *Setup) {
			s.Each = func(w *rig.World, replica int) {
				w.Binary = ""
				w.Config.Set("listen", "127.0.0.1:0")
				w.Config.Set("admin.listen", "127.0.0.1:0")
				if replica == 0 {
					w.Binary = unlogged(t, w.Config)
				}
			}
		},
		Length: 15 * time.Second,
		Judge: func(_ *World, h *History, r *Result) {
			r.Figure("p99 at the full disk, ms", slowest(h, func(o *Op) bool { return o.Replica == 0 }))
			r.Figure("p99 at the other, ms", slowest(h, func(o *Op) bool { return o.Replica == 1 }))
		},
	},
	{
		ID: "F19c", Name: "a replica gets a tenth of a CPU (SIGSTOP for 90 ms of each 100)",
		Length: 25 * time.Second, Pause: 3 * time.Second,
		Strike: func(w *World, r *rand.Rand) {
			g := w.Running()[r.IntN(2)].Gateway()
			over := w.Fault("a tenth of a CPU")
			for until := time.Now().Add(6 * time.Second); time.Now().Before(until); {
				g.Freeze()
				w.Sleep(90 * time.Millisecond)
				g.Signal(syscall.SIGCONT)
				w.Sleep(10 * time.Millisecond)
			}
			over()
		},
		Allow: Allowance{Recovery: 4 * time.Second, Cut: true},
		Judge: func(_ *World, h *History, r *Result) {
			share(h, r, "a tenth of a CPU")
			r.Figure("p99 within windows, ms", slowest(h, func(o *Op) bool { return h.within(o.Start, o.Start, 0) }))
		},
	},
}

// limit sets what a replica's process may have of something, and returns what it
// could have before.
func limit(w *World, at *Replica, what, most string) (before string) {
	w.T.Helper()
	pid := strconv.Itoa(at.Gateway().PID())
	out, err := exec.Command("prlimit", "--pid", pid, "--"+what, "--noheadings", "--raw", "--output", "SOFT").Output()
	if err == nil {
		_, err = exec.Command("prlimit", "--pid", pid, "--"+what+"="+most+":").Output()
	}
	if err != nil {
		w.T.Fatalf("faults: prlimit: %v", err)
	}
	return string(out[:len(out)-1])
}

// unlogged is a cloakroom whose output goes to a full disk. It tells nobody where
// it listens, so its configuration does, and a line is printed before it starts.
func unlogged(t testing.TB, c rig.Config) (program string) {
	t.Helper()
	var lines []byte
	for _, listener := range []string{"public", "admin"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		l.Close()
		if listener == "public" {
			c.Set("listen", addr)
		} else {
			c.Set("admin.listen", addr)
		}
		line, _ := json.Marshal(map[string]string{"msg": "listening", "listener": listener, "address": addr})
		lines = fmt.Appendf(lines, "echo '%s'\n", line)
	}
	program = filepath.Join(t.TempDir(), "cloakroom")
	script := fmt.Sprintf("#!/bin/sh\n%sexec %s \"$@\" >/dev/full 2>/dev/full\n", lines, rig.Program())
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return program
}

// slowest is the 99th percentile, in milliseconds, of what those requests took
// that were answered; only nil: all.
func slowest(h *History, only func(*Op) bool) float64 {
	var took []float64
	for i := range h.Ops {
		o := &h.Ops[i]
		if o.Status != 0 && o.Kind != KindEvents && o.Kind != KindSocket && (only == nil || only(o)) {
			took = append(took, float64(o.End-o.Start)/1e6)
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}
