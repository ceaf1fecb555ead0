// Command mutants breaks the gateway's rules one at a time, and holds the tests to
// noticing: a rule that can be broken with all tests green is a rule that nobody
// keeps.
//
// A [mutant] is an edit of the sources, a Go file or a Lua script alike, and the
// test that has to fail with it. The tree is never touched: the edit goes to the
// compiler as an overlay. First every named test runs without any mutant and has
// to pass. Then a mutant counts as killed only if it compiles and its test ran
// and failed: a binary that doesn't build, hangs or finds no such test kills
// nothing.
//
//	go -C test run ./mutants            # all of them
//	go -C test run ./mutants -run 'M[12]'
//
// It exits with 1 if a mutant survives, or if the table doesn't fit the sources
// any more. Whoever changes a line that a mutant edits changes the mutant too.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	only := flag.String("run", "", "only mutants whose id matches this regular `expression`")
	timeout := flag.Duration("timeout", 2*time.Minute, "for the tests of one mutant")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	survivors, err := run(ctx, *only, *timeout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
	}
	if err != nil || survivors > 0 {
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, timeout time.Duration) (survivors int, err error) {
	expression, err := regexp.Compile(only)
	if err != nil {
		return 0, err
	}
	var chosen []mutant
	for _, m := range table {
		if expression.MatchString(m.id) {
			chosen = append(chosen, m)
		}
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return 0, err
	}
	scratch, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(scratch)
	b := &bench{root: root, scratch: scratch, timeout: timeout}
	if err := b.unharmed(ctx, chosen); err != nil {
		return 0, err
	}

	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "id\tfrom\trule\tkilled by\tseconds")
	defer out.Flush()
	var broken []error
	for _, m := range chosen {
		start := time.Now()
		killed, err := b.try(ctx, m)
		verdict := m.pkg + " " + m.test
		switch {
		case ctx.Err() != nil:
			return survivors, ctx.Err()
		case err != nil:
			verdict = "BROKEN"
			broken = append(broken, fmt.Errorf("%s: %w", m.id, err))
		case !killed:
			verdict = "SURVIVES " + verdict
			survivors++
		}
		seconds := time.Since(start).Seconds()
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%.1f\n", m.id, m.from, m.rule, verdict, seconds)
		fmt.Fprintf(os.Stderr, "%-28s %5.1f s  %s\n", m.id, seconds, verdict)
	}
	fmt.Fprintf(out, "\n%d mutants, %d killed, %d survive\n", len(chosen), len(chosen)-survivors-len(broken), survivors)
	return survivors, errors.Join(broken...)
}

// moduleRoot is where the main module's sources are.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/cloakroom/cloakroom").Output()
	if err != nil {
		return "", fmt.Errorf("go list -m: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// bench builds and runs test binaries.
type bench struct {
	root, scratch string
	timeout       time.Duration
}

// unharmed runs the named tests on the sources as they are: a test that fails
// anyway would kill everything.
func (b *bench) unharmed(ctx context.Context, mutants []mutant) error {
	tests := map[string][]string{}
	for _, m := range mutants {
		if !slices.Contains(tests[m.pkg], m.test) {
			tests[m.pkg] = append(tests[m.pkg], m.test)
		}
	}
	for pkg, names := range tests {
		binary, err := b.build(ctx, pkg, "")
		if err != nil {
			return err
		}
		var missing []string
		output, err := b.execute(ctx, pkg, binary, names...)
		for _, name := range names {
			if !strings.Contains(output, "--- PASS: "+name+" (") {
				missing = append(missing, name)
			}
		}
		if err != nil || len(missing) > 0 {
			return fmt.Errorf("%s: without any mutant these don't pass: %s\n%s", pkg, strings.Join(missing, ", "), tail(output))
		}
	}
	return nil
}

// try reports whether m's test notices m.
func (b *bench) try(ctx context.Context, m mutant) (killed bool, err error) {
	overlay, err := b.overlay(m)
	if err != nil {
		return false, err
	}
	binary, err := b.build(ctx, m.pkg, overlay)
	if err != nil {
		return false, err
	}
	output, err := b.execute(ctx, m.pkg, binary, m.test)
	switch {
	case strings.Contains(output, "--- FAIL: "+m.test+" ("):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("%s neither passed nor failed: %w\n%s", m.test, err, tail(output))
	case !strings.Contains(output, "--- PASS: "+m.test+" ("):
		return false, fmt.Errorf("%s did not run", m.test)
	}
	return false, nil
}

// mutate returns the contents of the files that m edits, by their paths below
// root. Each edit's old text has to be there exactly once.
func mutate(root string, m mutant) (map[string]string, error) {
	files := map[string]string{}
	for _, e := range m.edits {
		text, ok := files[e.file]
		if !ok {
			b, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return nil, err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return nil, fmt.Errorf("%s has this %d times, not once: change the mutant as you changed the file\n%s", e.file, n, e.old)
		}
		files[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	return files, nil
}

// overlay writes m's files, and what tells the go command about them.
func (b *bench) overlay(m mutant) (path string, err error) {
	files, err := mutate(b.root, m)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for file, text := range files {
		to := filepath.Join(b.scratch, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(b.root, file)] = to
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path = filepath.Join(b.scratch, "overlay.json")
	return path, os.WriteFile(path, text, 0o600)
}

// build makes a package's test binary. overlay may be empty.
func (b *bench) build(ctx context.Context, pkg, overlay string) (string, error) {
	binary := filepath.Join(b.scratch, "binary.test")
	args := []string{"test", "-c", "-ldflags=-s -w", "-o", binary}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	dir := "./" + pkg
	cmd := exec.CommandContext(ctx, "go")
	cmd.Dir = b.root
	if rest, ok := strings.CutPrefix(pkg, "test/"); ok { // a module of its own
		dir, cmd.Dir = "./"+rest, filepath.Join(b.root, "test")
	}
	cmd.Args = append(append(cmd.Args, args...), dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s doesn't build: %w\n%s", pkg, err, tail(string(out)))
	}
	return binary, nil
}

// execute runs tests by their whole names, "TestX" or "TestX/subtest".
func (b *bench) execute(ctx context.Context, pkg, binary string, tests ...string) (output string, err error) {
	patterns := make([]string, len(tests))
	for i, name := range tests {
		levels := strings.Split(name, "/")
		for i, level := range levels {
			levels[i] = "^" + regexp.QuoteMeta(level) + "$"
		}
		patterns[i] = strings.Join(levels, "/")
	}
	ctx, cancel := context.WithTimeout(ctx, b.timeout+10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-test.v", "-test.count=1", "-test.failfast",
		"-test.timeout="+b.timeout.String(), "-test.run="+strings.Join(patterns, "|"))
	cmd.Dir = filepath.Join(b.root, pkg)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, io.Discard
	// A test that dies leaves its Redis behind: they go as a group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	end := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel, cmd.WaitDelay = end, time.Second
	if err := cmd.Start(); err != nil {
		return "", err
	}
	err = cmd.Wait()
	_ = end() // nobody may be left
	return out.String(), err
}

// tail is the end of an output, where the reasons are.
func tail(s string) string {
	const most = 2000
	return s[max(0, len(s)-most):]
}
