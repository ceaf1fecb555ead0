// Package storetest helps to test on real Redis processes.
//
// [Redis] starts one redis-server, [Sentinel] a primary with two replicas and
// three sentinels, [Cluster] a Redis Cluster of three masters with a replica
// each; all on free loopback ports and in directories of the test's own, and all
// gone when the test ends. What runs outside a test starts its own by
// [NewSentinels] and [NewCluster]. A machine without redis-server fails the
// test: what was never run must not look green.
package storetest

import (
	"testing"
)

// Server is a running redis-server. Its methods are a [Node]'s; what fails, fails
// the test.
type Server struct {
	*Node
	t testing.TB
}

// Redis starts a redis-server that listens on 127.0.0.1 and keeps nothing on
// disk, and returns when it answers. Further arguments are redis-server's own:
// a server that survives [Server.Restart] with its data takes
//
//	storetest.Redis(t, "--appendonly", "yes", "--appendfsync", "always")
func Redis(t testing.TB, args ...string) *Server {
	t.Helper()
	return RedisTLS(t, nil, args...)
}

// RedisTLS is Redis, by TLS alone.
func RedisTLS(t testing.TB, files *TLS, args ...string) *Server {
	t.Helper()
	if err := needed(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var err error
	// Redis can't be told to pick a port itself, so another process may take
	// the one we found before Redis does.
	for range 5 {
		var n *Node
		if n, err = newNode(dir, "redis", files, args...); err != nil {
			t.Fatalf("storetest: %v", err)
		}
		if err = n.start(); err == nil {
			t.Cleanup(n.close)
			return &Server{n, t}
		}
	}
	t.Fatalf("storetest: %v", err)
	return nil
}

// Stop freezes the server (SIGSTOP): connections stay open and nothing answers.
func (s *Server) Stop() { s.must(s.Node.Stop()) }

// Cont lets a frozen server go on (SIGCONT): it answers what has piled up.
func (s *Server) Cont() { s.must(s.Node.Cont()) }

// Restart kills the server if it runs and starts it again on the same address
// and directory. What it was told to persist is there again.
func (s *Server) Restart() { s.must(s.Node.Restart()) }

// CLI runs redis-cli and returns its raw output without the last newline. An
// error answer fails the test.
func (s *Server) CLI(args ...string) string {
	s.t.Helper()
	out, err := s.Node.CLI(args...)
	s.must(err)
	return out
}

func (s *Server) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("storetest: %v", err)
	}
}
