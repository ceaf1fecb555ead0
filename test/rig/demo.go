package rig

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"
)

// Demo is a running deploy/demo.
type Demo struct {
	*Process
	URL string // the app's origin
}

var opens = regexp.MustCompile(`(?m)^\s*Open\s+(https?://\S+)`)

// StartDemo builds the demo and runs it as `make demo` does, on a free port,
// with further settings in the environment (ACCESS_TTL=20s).
func StartDemo(t testing.TB, env ...string) *Demo {
	t.Helper()
	dir := filepath.Join(Root(), "deploy", "demo")
	program := filepath.Join(t.TempDir(), "demo")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("rig: build the demo: %v\n%s", err, out)
	}
	cmd := exec.Command(program)
	cmd.Dir = dir
	cmd.Env = append(append(environ(), "PORT=0"), env...)
	d := &Demo{Process: Start(t, cmd)}
	t.Cleanup(func() {
		// The demo ends its gateway if it is asked to end, not if it is killed.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-d.Done():
		case <-time.After(Patience):
			t.Error("the demo does not end")
		}
		if t.Failed() {
			t.Logf("the demo printed:\n%s", d.Output())
		}
	})
	Within(t, 2*time.Minute, "the demo says what to open", func() bool {
		select {
		case <-d.Done():
			t.Fatalf("rig: the demo ended:\n%s", d.Output())
		default:
		}
		if m := opens.FindStringSubmatch(d.Output()); m != nil {
			d.URL = m[1]
		}
		return d.URL != ""
	})
	return d
}
