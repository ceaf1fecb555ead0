// Command summary adds up the result files of make faults: a line for each row,
// and one for all.
//
//	go -C test run ./faults/summary DIRECTORY...
//
// It exits with 1 if a row was violated.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cloakroom/cloakroom/test/faults"
)

func main() {
	var paths []string
	for _, dir := range os.Args[1:] {
		found, err := filepath.Glob(filepath.Join(dir, "*.json"))
		if err != nil {
			fail(err)
		}
		paths = append(paths, found...)
	}
	if len(paths) == 0 {
		fail(fmt.Errorf("there are no results in %q", os.Args[1:]))
	}
	slices.Sort(paths)
	table, violated, err := faults.Sum(paths)
	if err != nil {
		fail(err)
	}
	fmt.Print(table)
	if violated {
		os.Exit(1)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "summary:", err)
	os.Exit(1)
}
