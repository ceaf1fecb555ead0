// Package rig runs the built cloakroom binary against real parts: a Redis, an
// OpenID provider, an upstream, browsers.
//
// A test package builds the binary once by handing its TestMain to [Main]. A
// test then starts what it needs, most of it by [New], and everything stops
// with the test. Whatever the binary printed is searched for secrets when it
// stops (attack S-01): a test that finds one fails, whatever it was about.
package rig

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// binary is the path of the built cloakroom; Main sets it before any test runs.
var binary string

// Main builds cloakroom, runs the tests and exits. Where the tests run under
// the race detector, so does the binary.
func Main(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cloakroom-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "rig:", err)
		return 1
	}
	defer os.RemoveAll(dir)

	binary = filepath.Join(dir, "cloakroom")
	args := []string{"build", "-o", binary}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "./cmd/cloakroom")...)
	build.Dir = Root()
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "rig: build cloakroom:", err)
		return 1
	}
	// These tests wait far more than they work. A -parallel of the tester's own
	// is parsed later, and holds.
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, "rig:", err)
		return 1
	}
	return m.Run()
}

// Program is the path of the built cloakroom.
func Program() string { return binary }

// Root is the repository's directory.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}
