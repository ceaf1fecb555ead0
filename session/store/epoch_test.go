package store

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
)

func TestEpochChangesWithTheHistory(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	sid := f.begin()
	first := f.Epoch()
	if first != 0 {
		t.Error("the first primary is not news: nothing was written yet")
	}
	if n, err := f.rdb.Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no").Int(); err != nil || n == 0 {
		t.Fatal(n, err)
	}
	for range 3 { // the connections that were in the pool
		f.Read(t.Context(), sid)
	}
	if f.Epoch() != first {
		t.Error("another connection to the same history")
	}
	f.server.Restart()
	for f.Ping(t.Context()) != nil {
		select {
		case <-t.Context().Done():
			t.Fatal("Redis doesn't come back")
		case <-time.After(10 * time.Millisecond):
		}
	}
	if f.Epoch() == first {
		t.Error("a restart was not noticed")
	}
}

func TestEpochRises(t *testing.T) {
	for _, row := range []struct {
		name      string
		cluster   bool
		histories []string
		want      uint64
	}{
		{"the first", false, []string{"a"}, 0},
		{"the same", false, []string{"a", "a"}, 0},
		{"another", false, []string{"a", "b"}, 1},
		{"a split brain healed: what a took in between is gone", false, []string{"a", "b", "a", "b"}, 3},
		{"a Cluster's masters", true, []string{"a", "b", "c", "a", "b"}, 2},
		{"one of them replaced", true, []string{"a", "b", "c", "a", "d", "b"}, 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			opts := Options{}
			if row.cluster {
				opts.Mode = Cluster
			}
			s := New(opts)
			defer s.Close()
			for _, id := range row.histories {
				s.history(id)
			}
			if s.Epoch() != row.want {
				t.Errorf("%d, want %d", s.Epoch(), row.want)
			}
		})
	}
	s := New(Options{Mode: Cluster})
	defer s.Close()
	for n := range 3 * maxHistories {
		s.history(string(rune(n)))
	}
	if len(s.histories) > maxHistories {
		t.Error("histories are kept without bound")
	}
}

// An operator is told what can be mended: an account's rights. A server that has no
// such thing to tell is as it is.
func TestWhoMayNotAskForTheHistory(t *testing.T) {
	for answer, level := range map[string]string{
		"-NOPERM this user has no permissions to run the 'info' command": "WARN",
		"-section (replication) is not supported":                        "DEBUG",
		"-ERR unknown command 'info'":                                    "DEBUG",
		"$0\r\n":                                                         "",
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan struct{})
		go func() { // a server that gives that answer to all
			defer close(served)
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			for in := make([]byte, 1024); err == nil; {
				if _, err = c.Read(in); err == nil {
					_, err = io.WriteString(c, answer+"\r\n")
				}
			}
		}()
		var out bytes.Buffer
		s := New(Options{Address: l.Addr().String(), Log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		_ = s.Meet(t.Context()) // its answer is one more of those
		s.Close()
		l.Close()
		<-served
		if told := out.String(); (level == "") != (told == "") || !strings.Contains(told, level) || strings.Count(told, "\n") > 1 {
			t.Errorf("%s: told %q, want it at %q", answer, told, level)
		}
	}
}
