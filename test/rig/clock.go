package rig

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// clockCode is what a gateway with a wrong clock has in its package time. Only
// the wall clock is wrong; like a real one that is set, it leaves timers alone.
const clockCode = `package time

import "syscall"

// TEST_CLOCK is a list of "second:offset", both in seconds: from that second of the
// process's life on, the wall clock is so far off.
var clockSteps = func() (steps [][2]int64) {
	text, _ := syscall.Getenv("TEST_CLOCK")
	var n [2]int64
	at, sign := 0, int64(1)
	for i := 0; i <= len(text) && text != ""; i++ {
		switch {
		case i == len(text) || text[i] == ';' || text[i] == ':':
			n[at] *= sign
			sign = 1
			if at++; at == 2 {
				steps = append(steps, n)
				n, at = [2]int64{}, 0
			}
		case text[i] == '-':
			sign = -1
		default:
			n[at] = n[at]*10 + int64(text[i]-'0')
		}
	}
	return steps
}()

func wrong(mono int64) (offset int64) {
	for _, s := range clockSteps {
		if mono-startNano >= s[0]*1e9 {
			offset = s[1]
		}
	}
	return offset
}
`

// BuildWithClock builds a cloakroom whose wall clock can be put wrong, by
// TEST_CLOCK in its environment: "0:90;15:-3510" is 90 s ahead, and from the
// fifteenth second on an hour behind that. Only package time is another one. It
// takes a minute or two the first time, since everything is built again.
func BuildWithClock(t testing.TB) string {
	t.Helper()
	source := filepath.Join(runtime.GOROOT(), "src", "time")
	if out, err := exec.Command("go", "env", "GOROOT").Output(); err == nil {
		source = filepath.Join(strings.TrimSpace(string(out)), "src", "time")
	}
	text, err := os.ReadFile(filepath.Join(source, "time.go"))
	if err != nil {
		t.Fatalf("rig: %v", err)
	}
	const now = "	sec, nsec, mono := runtimeNow()\n	if mono == 0 {\n		return Time{uint64(nsec), sec + unixToInternal, Local}"
	if strings.Count(string(text), now) != 1 {
		t.Fatal("rig: this Go's time.Now is another than this test knows")
	}
	edited := strings.Replace(string(text), now, strings.Replace(now, "\n", "\n	sec += wrong(mono)\n", 1), 1)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(source, "time.go"):  WriteFile(t, "time.go", edited),
		filepath.Join(source, "wrong.go"): WriteFile(t, "wrong.go", clockCode),
	}})
	if err != nil {
		t.Fatalf("rig: %v", err)
	}
	program := filepath.Join(t.TempDir(), "cloakroom")
	build := exec.Command("go", "build", "-trimpath", "-overlay", WriteFile(t, "overlay.json", string(overlay)), "-o", program, "./cmd/cloakroom")
	build.Dir, build.Env = Root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("rig: build with another clock: %v\n%s", err, out)
	}
	return program
}
