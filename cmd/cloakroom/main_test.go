package main

import (
	"errors"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

// leaky runs the tests and then looks for goroutines they have left.
type leaky struct{ *testing.M }

func (m leaky) Run() int {
	code := m.M.Run()
	if code == 0 {
		// A keeper's caches live as long as the process, and have no end.
		caches := goleak.IgnoreTopFunction("github.com/maypok86/otter/v2.periodicCleanUp[...]")
		if err := goleak.Find(caches); err != nil {
			println("goroutines are left:", err.Error())
			code = 1
		}
	}
	return code
}

func TestMain(m *testing.M) {
	testscript.Main(leaky{m}, map[string]func(){"cloakroom": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits runs a command that must end with the exit code named first. Its output
// is there for stdout, stderr and cmp, as after exec.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code command [args...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}
