package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience is how long a program may take to start or to stop.
const patience = 20 * time.Second

// process is a program that was started, with its children.
type process struct {
	name string
	cmd  *exec.Cmd
	out  head
	done chan struct{}
}

// head keeps the beginning of what a program prints: an access log is long.
type head struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (h *head) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf.Write(b[:min(len(b), max(0, 16<<10-h.buf.Len()))])
	return len(b), nil
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.String()
}

// start starts a program in a process group of its own.
func start(name, program string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// stop ends the program and all that it started.
func (p *process) stop() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(2 * time.Second):
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// ready waits until url answers 2xx, or, without a path, until the address takes
// connections.
func (p *process) ready(ctx context.Context, address, url string) error {
	deadline := time.Now().Add(patience)
	for {
		if url == "" {
			c, err := net.DialTimeout("tcp", address, time.Second)
			if err == nil {
				return c.Close()
			}
		} else if resp, err := http.Get(url); err == nil {
			resp.Body.Close()
			if resp.StatusCode/100 == 2 {
				return nil
			}
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended at start:\n%s", p.name, p.out.String())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s isn't ready after %v", p.name, patience)
		}
	}
}

// usage is what a program and its children have used.
type usage struct {
	cpu time.Duration // user and system, of those that live
	rss int64         // bytes
}

// ticks per second in /proc/PID/stat: 100 on every Linux that Go runs on.
const tick = time.Second / 100

// usage reads /proc. What a child that has ended used counts as its parent's.
func (p *process) usage() usage {
	var total usage
	for _, pid := range family(p.cmd.Process.Pid) {
		f := stat(pid)
		if f == nil {
			continue
		}
		for _, i := range []int{11, 12, 13, 14} { // utime, stime, cutime, cstime
			n, _ := strconv.ParseInt(f[i], 10, 64)
			total.cpu += time.Duration(n) * tick
		}
		pages, _ := strconv.ParseInt(f[21], 10, 64)
		total.rss += pages * int64(os.Getpagesize())
	}
	return total
}

// stat is /proc/PID/stat from the third field on: the second may hold blanks.
func stat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	_, rest, _ := bytes.Cut(b, []byte(") "))
	f := strings.Fields(string(rest))
	if len(f) < 22 {
		return nil
	}
	return f
}

// family is a process and its descendants.
func family(pid int) []int {
	children := map[int][]int{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		child, _ := strconv.Atoi(filepath.Base(dir))
		if f := stat(child); f != nil {
			parent, _ := strconv.Atoi(f[1])
			children[parent] = append(children[parent], child)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// freePort is a port that nobody listens on just now.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
