package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloakroom/cloakroom/config"
)

// sink keeps each write apart.
type sink struct {
	mu     sync.Mutex
	writes []string // guarded by mu
	err    error
}

func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	s.writes = append(s.writes, string(b))
	return len(b), nil
}

func (s *sink) is(t *testing.T, when string, want ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if fmt.Sprintf("%q", s.writes) != fmt.Sprintf("%q", want) {
		t.Errorf("%s: %q were written, want %q", when, s.writes, want)
	}
}

func put(t *testing.T, w interface{ Write([]byte) (int, error) }, line string) {
	t.Helper()
	if n, err := w.Write([]byte(line)); n != len(line) || err != nil {
		t.Errorf("%q: %d, %v", line, n, err)
	}
}

func TestLinesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		l := newLines(&out)
		put(t, waiting{l}, "a\n")
		time.Sleep(accessDelay / 2)
		put(t, waiting{l}, "b\n")
		time.Sleep(accessDelay/2 - 1)
		synctest.Wait()
		out.is(t, "before the first one's time is up")
		time.Sleep(1)
		synctest.Wait()
		out.is(t, "when it is", "a\nb\n")
		put(t, waiting{l}, "c\n")
		time.Sleep(accessDelay)
		synctest.Wait()
		out.is(t, "once more", "a\nb\n", "c\n")
		time.Sleep(time.Hour)
		synctest.Wait()
		out.is(t, "nothing is written of nothing", "a\nb\n", "c\n")
	})
}

func TestLinesKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		l := newLines(&out)
		put(t, l, "audit 1\n")
		out.is(t, "what may not wait", "audit 1\n")
		put(t, waiting{l}, "a\n")
		put(t, l, "audit 2\n")
		out.is(t, "it takes along what waits", "audit 1\n", "a\naudit 2\n")
		put(t, waiting{l}, "b\n")
		time.Sleep(accessDelay - 1)
		synctest.Wait()
		out.is(t, "what comes after waits as long as any", "audit 1\n", "a\naudit 2\n")
		time.Sleep(1)
		synctest.Wait()
		out.is(t, "and no longer", "audit 1\n", "a\naudit 2\n", "b\n")
	})
}

func TestLinesThatWaitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		l := newLines(&out)
		line := strings.Repeat("x", 1023) + "\n"
		for range accessBytes/len(line) - 1 {
			put(t, waiting{l}, line)
		}
		out.is(t, "while there is room")
		put(t, waiting{l}, line)
		out.is(t, "when there is none", strings.Repeat(line, accessBytes/len(line)))

		// A reader that is gone takes the lines with it, and leaves room.
		out.err = errors.New("gone")
		for range 3 * accessBytes / len(line) {
			_, _ = waiting{l}.Write([]byte(line))
		}
		if len(l.held) > accessBytes || cap(l.held) > 4*accessBytes {
			t.Errorf("%d bytes are held in %d", len(l.held), cap(l.held))
		}
		for _, first := range []string{"x\n", ""} {
			_, _ = waiting{l}.Write([]byte(first))
			if _, err := l.Write([]byte("audit\n")); err == nil {
				t.Errorf("behind %q: a line that wasn't written, and no error", first)
			}
		}
	})
}

func TestLinesDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		l := newLines(&out)
		put(t, waiting{l}, "a\n")
		l.drain()
		out.is(t, "drained", "a\n")
		put(t, waiting{l}, "b\n")
		out.is(t, "nothing waits any more", "a\n", "b\n")
		l.drain()
		out.is(t, "twice", "a\n", "b\n")
	})
}

// Many write at once: every line is whole, and each writer's come in its order.
func TestLinesOfMany(t *testing.T) {
	var out sink
	l := newLines(&out)
	const writers, each = 8, 500
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			for n := range each {
				line := fmt.Appendf(nil, "%d %d\n", i, n)
				if n%50 == 49 {
					_, _ = l.Write(line)
				} else {
					_, _ = waiting{l}.Write(line)
				}
			}
		})
	}
	all.Wait()
	l.drain()
	var next [writers]int
	for line := range strings.Lines(strings.Join(out.writes, "")) {
		var i, n int
		if _, err := fmt.Sscanf(line, "%d %d\n", &i, &n); err != nil || n != next[i] {
			t.Fatalf("%q, want %d's %d (%v)", line, i, next[i], err)
		}
		next[i]++
	}
	for i, n := range next {
		if n != each {
			t.Errorf("%d's lines: %d", i, n)
		}
	}
}

// The access log alone may wait.
func TestLoggers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		logs := newLoggers(config.Log{Format: "json", Access: true}, &out)
		logs.access.Info("request")
		out.is(t, "an access line")
		logs.Info("session ended", slog.Bool("audit", true))
		if len(out.writes) != 1 || strings.Count(out.writes[0], "\n") != 2 || strings.Index(out.writes[0], "request") > strings.Index(out.writes[0], "audit") {
			t.Errorf("%q", out.writes)
		}
		logs.Warn("alarm", slog.Bool("audit", true))
		if len(out.writes) != 2 {
			t.Error("an alarm waits")
		}
		logs.access.Info("request")
		logs.drain()
		if len(out.writes) != 3 {
			t.Error("a line is left at the end")
		}
	})
}

// A reload changes lines for every logger that there is: each is whole, in one
// format, and none is lost.
func TestLoggersFollowTheConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		now := func() string {
			time.Sleep(accessDelay)
			synctest.Wait()
			defer func() { out.writes = nil }()
			return strings.Join(out.writes, "")
		}
		logs := newLoggers(config.Log{Format: "json"}, &out)
		of := slog.New(logs.access.Handler().WithAttrs([]slog.Attr{slog.String("app", "shop")}).WithGroup("g"))
		audit := logs.With(slog.Bool("audit", true)).WithGroup("g")
		for _, row := range []struct {
			name                  string
			log                   config.Log
			line, request, beside string // how each begins behind its time; empty: it isn't written
		}{
			{"json", config.Log{Format: "json"}, `"level":"INFO","msg":"x","audit":true,"g":{"a":1}}`, "", ""},
			{"text", config.Log{Format: "text"}, `level=INFO msg=x audit=true g.a=1`, "", ""},
			{"and access", config.Log{Format: "text", Access: true}, `level=INFO msg=x audit=true g.a=1`, `level=INFO msg=request app=shop g.a=1`, `level=INFO msg=request`},
			{"json again", config.Log{Format: "json", Access: true}, `"level":"INFO","msg":"x","audit":true,"g":{"a":1}}`, `"level":"INFO","msg":"request","app":"shop","g":{"a":1}}`, `"level":"INFO","msg":"request"}`},
			{"less", config.Log{Format: "json", Access: true, Level: slog.LevelWarn}, "", "", ""},
			{"debug", config.Log{Format: "json", Level: slog.LevelDebug}, `"level":"INFO","msg":"x","audit":true,"g":{"a":1}}`, `"level":"DEBUG","msg":"request","app":"shop","g":{"a":1}}`, `"level":"DEBUG","msg":"request"}`},
		} {
			logs.form.set(row.log)
			for what, line := range map[string]struct {
				write func()
				want  string
			}{
				"a line":          {func() { audit.Info("x", "a", 1) }, row.line},
				"an app's":        {func() { of.Info("request", "a", 1) }, row.request},
				"a request's own": {func() { logs.access.Info("request") }, row.beside},
			} {
				line.write()
				got := now()
				if line.want == "" && got != "" || !strings.HasSuffix(strings.TrimSuffix(got, "\n"), line.want) || strings.Count(got, "\n") != min(1, len(line.want)) {
					t.Errorf("%s: %s: %q, want %q", row.name, what, got, line.want)
				}
			}
		}

		logs.form.set(config.Log{Format: "json", Access: true})
		logs.access.Info("request")
		logs.form.set(config.Log{Format: "text"})
		logs.Info("x")
		if got := now(); strings.Count(got, "\n") != 2 || !strings.HasPrefix(got, "{") || !strings.HasSuffix(got, " msg=x\n") {
			t.Errorf("what waited before, and what came after: %q", got)
		}
	})
}

// A line that was begun while log.access was on is none when it is off.
func TestAccessLineOfTheMoment(t *testing.T) {
	var out sink
	logs := newLoggers(config.Log{Format: "json", Access: true}, &out)
	h := logs.access.Handler()
	if !h.Enabled(t.Context(), slog.LevelInfo) {
		t.Fatal("no access lines")
	}
	logs.form.set(config.Log{Format: "json"})
	if err := h.Handle(t.Context(), slog.NewRecord(time.Now(), slog.LevelInfo, "request", 0)); err != nil || len(out.writes) != 0 {
		t.Errorf("%q, %v", out.writes, err)
	}
}
