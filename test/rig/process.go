package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience is how long a test waits for something that takes milliseconds on
// an idle machine.
const Patience = 30 * time.Second

// Process is a program that a test started. Its output is kept.
type Process struct {
	t    testing.TB
	cmd  *exec.Cmd
	out  Output
	done chan struct{} // closed when the program is gone and err is set
	err  error
}

// Start starts a program and kills it when the test ends.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{t: t, cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("rig: start %s: %v", cmd.Path, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.done
	})
	return p
}

// Output is what the program has printed so far.
func (p *Process) Output() string { return p.out.String() }

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal.
func (p *Process) Signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("rig: %v: %v", sig, err)
	}
}

// Freeze stops the process (SIGSTOP), and returns when none of its threads runs.
func (p *Process) Freeze() {
	p.t.Helper()
	p.Signal(syscall.SIGSTOP)
	Eventually(p.t, "the process has stopped", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		for _, file := range threads {
			stat, err := os.ReadFile(file)
			// The state comes after the name, which is in brackets.
			if _, after, ok := strings.Cut(string(stat), ") "); err == nil && (!ok || after[0] != 'T') {
				return false
			}
		}
		return len(threads) > 0
	})
}

// Done is closed when the program is gone.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait returns the program's exit code. It fails the test if the program runs
// on for longer than within.
func (p *Process) Wait(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		p.t.Fatalf("rig: still running after %v:\n%s", within, p.Output())
	}
	var exit *exec.ExitError
	if p.err != nil && !errors.As(p.err, &exit) {
		p.t.Fatalf("rig: %v", p.err)
	}
	return p.cmd.ProcessState.ExitCode()
}

// Run runs the cloakroom binary to its end and returns what it printed and its
// exit code.
func Run(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = environ()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("rig: cloakroom %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// environ keeps the tester's own settings away from the programs under test.
func environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "CLOAKROOM_") && !strings.HasPrefix(strings.ToLower(kv), "http_proxy=") {
			env = append(env, kv)
		}
	}
	return append(env, "GORACE=halt_on_error=1")
}

// Output collects what a program prints. It is safe for concurrent use.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Eventually polls until ok says yes, and fails the test after [Patience].
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	Within(t, Patience, what, ok)
}

// Within polls until ok says yes, and fails the test when the time is over.
func Within(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %v: %s", limit, what)
		case <-poll.C:
		}
	}
}
