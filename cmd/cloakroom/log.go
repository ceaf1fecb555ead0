package main

import (
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/cloakroom/cloakroom/config"
)

const (
	// accessDelay is how long an access line may wait to be written, and so how
	// much of the access log dies with a process that is killed.
	accessDelay = 100 * time.Millisecond
	// accessBytes is how much of them may wait: half of what a pipe takes at once.
	accessBytes = 32 << 10
)

// loggers are what a process tells what it does with.
type loggers struct {
	*slog.Logger              // each line is written as it is told: audits, alarms
	access       *slog.Logger // of lines that may wait for a moment; nil: there are none
	lines        *lines       // under both
	level        *slog.LevelVar
}

func newLoggers(l config.Log, w io.Writer) loggers {
	lines := newLines(w)
	level := new(slog.LevelVar)
	level.Set(l.Level)
	out := loggers{Logger: slog.New(newHandler(l, level, lines)), lines: lines, level: level}
	if l.Access {
		out.access = slog.New(newHandler(l, level, waiting{lines}))
	}
	return out
}

func newHandler(l config.Log, level slog.Leveler, w io.Writer) slog.Handler {
	opts := &slog.HandlerOptions{Level: level}
	if l.Format == "text" {
		return slog.NewTextHandler(w, opts)
	}
	return slog.NewJSONHandler(w, opts)
}

// drain lets nothing wait any more: the next signal may end the process as it
// stands.
func (l loggers) drain() {
	l.lines.drain()
}

// lines passes log lines on, in the order in which they come: a system call for
// each request's would cost more than all else about it. What [lines.Write] gets
// leaves at once, after all that waits; what [waiting] gets leaves with the next of
// those, or after accessDelay, or once there is enough. Whoever writes waits for a
// reader that is slow, so that no more than that is ever held.
//
// It is safe for concurrent use.
type lines struct {
	out io.Writer

	mu    sync.Mutex // guards the rest, and orders what goes to out
	held  []byte
	timer *time.Timer // runs if anything is held
	all   bool        // nothing waits
}

func newLines(out io.Writer) *lines {
	l := &lines{out: out}
	l.timer = time.AfterFunc(time.Hour, l.flush)
	l.timer.Stop()
	return l
}

// Write implements io.Writer for lines that wait for nothing.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.held) > 0 {
		l.held = append(l.held, b...)
		return len(b), l.pass()
	}
	return l.out.Write(b)
}

// waiting writes lines that may wait.
type waiting struct{ *lines }

func (w waiting) Write(b []byte) (int, error) {
	l := w.lines
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.held) == 0 {
		l.timer.Reset(accessDelay)
	}
	l.held = append(l.held, b...)
	if l.all || len(l.held) >= accessBytes {
		return len(b), l.pass()
	}
	return len(b), nil
}

func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.pass() // there is nobody to tell
}

// pass writes what is held. What can't be written is gone, as any line of a log is.
// The caller holds the mutex.
func (l *lines) pass() error {
	l.timer.Stop()
	if len(l.held) == 0 {
		return nil
	}
	_, err := l.out.Write(l.held)
	l.held = l.held[:0]
	return err
}

// drain writes what is held, and from now on every line as it comes.
func (l *lines) drain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = true
	_ = l.pass()
}
