// Package storetest helps to test on a real Redis.
//
// [Redis] starts a redis-server of the test's own, on a free loopback port and
// in the test's own directory, and stops it when the test ends. A machine
// without redis-server fails the test: what was never run must not look green.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// startTimeout is far above what redis-server needs, since the tests of a
	// whole repository may share two cores.
	startTimeout = 20 * time.Second
	cliTimeout   = 10 * time.Second
)

// Server is a running redis-server. Its methods are for the test's own
// goroutine.
type Server struct {
	t    testing.TB
	dir  string
	port string
	args []string
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd is gone
}

// Redis starts a redis-server that listens on 127.0.0.1 and keeps nothing on
// disk, and returns when it answers. Further arguments are redis-server's own:
// a server that survives [Server.Restart] with its data takes
//
//	storetest.Redis(t, "--appendonly", "yes", "--appendfsync", "always")
func Redis(t testing.TB, args ...string) *Server {
	t.Helper()
	for _, program := range []string{"redis-server", "redis-cli"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("storetest: this test needs %s: run test/setup.sh, or apt-get install redis-server", program)
		}
	}
	s := &Server{t: t, dir: t.TempDir(), args: args}
	t.Cleanup(s.Kill)

	// Redis can't be told to pick a port itself, so another process may take
	// the one we found before Redis does.
	var err error
	for range 5 {
		if s.port, err = freePort(); err != nil {
			t.Fatalf("storetest: no free port: %v", err)
		}
		if err = s.start(); err == nil {
			return s
		}
	}
	t.Fatalf("storetest: %v", err)
	return nil
}

// Addr is host:port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", s.port) }

// Stop freezes the server (SIGSTOP): connections stay open and nothing answers.
func (s *Server) Stop() { s.signal(syscall.SIGSTOP) }

// Cont lets a frozen server go on (SIGCONT): it answers what has piled up.
func (s *Server) Cont() { s.signal(syscall.SIGCONT) }

// Kill ends the server at once (SIGKILL), frozen or not. A second call does
// nothing.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	<-s.done
	s.cmd = nil
}

// Restart kills the server if it runs and starts it again on the same address
// and directory. What it was told to persist is there again.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	if err := s.start(); err != nil {
		s.t.Fatalf("storetest: restart: %v", err)
	}
}

// CLI runs redis-cli and returns its raw output without the last newline. An
// error answer fails the test.
func (s *Server) CLI(args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), cliTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "redis-cli", append([]string{"-h", "127.0.0.1", "-p", s.port, "-e", "--raw"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("storetest: redis-cli %s: %v: %s%s", strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return strings.TrimSuffix(string(out), "\n")
}

func (s *Server) start() error {
	log, err := os.OpenFile(filepath.Join(s.dir, "redis.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own descriptor

	cmd := exec.Command("redis-server", append([]string{
		"--bind", "127.0.0.1", "--port", s.port, "--dir", s.dir,
		"--save", "", "--appendonly", "no", "--daemonize", "no",
	}, s.args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start redis-server: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		cmd.Wait()
	}()
	s.cmd, s.done = cmd, done

	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case <-done:
			s.cmd = nil
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("redis-server ended at start:\n%s", text)
		case <-deadline.C:
			s.Kill()
			return errors.New("redis-server does not answer")
		case <-poll.C:
			if s.answers(cmd.Process.Pid) {
				return nil
			}
		}
	}
}

// answers reports whether the server has loaded its data and is the process
// that we started, not another that holds the port.
func (s *Server) answers(pid int) bool {
	c, err := net.DialTimeout("tcp", s.Addr(), time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write([]byte("INFO\r\n")); err != nil {
		return false
	}
	buf := make([]byte, 0, 16<<10)
	for len(buf) < cap(buf) && !bytes.Contains(buf, []byte("# Replication")) {
		n, err := c.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err != nil {
			return false
		}
	}
	return bytes.Contains(buf, fmt.Appendf(nil, "\r\nprocess_id:%d\r\n", pid)) &&
		bytes.Contains(buf, []byte("\r\nloading:0\r\n"))
}

func (s *Server) signal(sig os.Signal) {
	s.t.Helper()
	if s.cmd == nil {
		s.t.Fatalf("storetest: %v: redis-server is not running", sig)
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("storetest: %v: %v", sig, err)
	}
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}
