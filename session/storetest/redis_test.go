package storetest

import (
	"context"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRedisKeepsNothingByDefault(t *testing.T) {
	s := Redis(t)
	if got := s.CLI("SET", "coat", "hook 7"); got != "OK" {
		t.Fatalf("SET said %q", got)
	}
	addr := s.Addr()
	s.Restart()
	if s.Addr() != addr {
		t.Errorf("Restart moved the server from %s to %s", addr, s.Addr())
	}
	if got := s.CLI("DBSIZE"); got != "0" {
		t.Errorf("after a restart there are %s keys, want 0", got)
	}
}

func TestRedisWithAOFSurvivesKill(t *testing.T) {
	s := Redis(t, "--appendonly", "yes", "--appendfsync", "always")
	s.CLI("SET", "coat", "hook 7")
	s.Kill()
	s.Restart()
	if got := s.CLI("GET", "coat"); got != "hook 7" {
		t.Errorf("after a restart GET said %q", got)
	}
}

func TestStopFreezesAndContAnswersWhatPiledUp(t *testing.T) {
	s := Redis(t)
	s.Stop()
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", s.Addr())
	if err != nil {
		t.Fatalf("a frozen server's kernel still accepts connections: %v", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	buf := make([]byte, 16)
	if n, err := c.Read(buf); err == nil {
		t.Fatalf("a frozen server said %q", buf[:n])
	}
	s.Cont()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := c.Read(buf)
	if err != nil || string(buf[:n]) != "+PONG\r\n" {
		t.Fatalf("after Cont: %q, %v", buf[:n], err)
	}
}
