package main

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
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
	access       *slog.Logger // the requests' lines, told at info
	lines        *lines       // under both
	form         *form        // of both
}

// form is what a reload may change about lines. Loggers that were derived before
// follow it, too.
type form struct {
	level  slog.LevelVar
	text   atomic.Bool // else JSON
	access atomic.Bool // requests' lines are info, and may wait for a moment; else they are debug
}

func newLoggers(l config.Log, w io.Writer) loggers {
	lines, f := newLines(w), new(form)
	f.set(l)
	now := f.handler(lines)
	return loggers{slog.New(now), slog.New(requests{f, now, f.handler(waiting{lines})}), lines, f}
}

// set takes over what the configuration says.
func (f *form) set(l config.Log) {
	f.level.Set(l.Level)
	f.text.Store(l.Format == "text")
	f.access.Store(l.Access)
}

func (f *form) handler(w io.Writer) slog.Handler {
	opts := &slog.HandlerOptions{Level: &f.level}
	return formats{f, slog.NewJSONHandler(w, opts), slog.NewTextHandler(w, opts)}
}

// formats has both formats ready, and writes each line in the one of the moment.
type formats struct {
	*form
	json, plain slog.Handler
}

func (h formats) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level.Level() }

func (h formats) Handle(ctx context.Context, r slog.Record) error {
	if h.text.Load() {
		return h.plain.Handle(ctx, r)
	}
	return h.json.Handle(ctx, r)
}

func (h formats) WithAttrs(attrs []slog.Attr) slog.Handler {
	return formats{h.form, h.json.WithAttrs(attrs), h.plain.WithAttrs(attrs)}
}

func (h formats) WithGroup(name string) slog.Handler {
	return formats{h.form, h.json.WithGroup(name), h.plain.WithGroup(name)}
}

// requests writes lines that it is told at info: late as such where log.access
// says so, else now as debug.
type requests struct {
	*form
	now, late slog.Handler
}

func (h requests) Enabled(ctx context.Context, level slog.Level) bool {
	if h.access.Load() {
		return h.late.Enabled(ctx, level)
	}
	return h.now.Enabled(ctx, slog.LevelDebug)
}

func (h requests) Handle(ctx context.Context, r slog.Record) error {
	if h.access.Load() {
		return h.late.Handle(ctx, r)
	}
	if r.Level = slog.LevelDebug; !h.now.Enabled(ctx, r.Level) {
		return nil // log.access has just been turned off
	}
	return h.now.Handle(ctx, r)
}

func (h requests) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requests{h.form, h.now.WithAttrs(attrs), h.late.WithAttrs(attrs)}
}

func (h requests) WithGroup(name string) slog.Handler {
	return requests{h.form, h.now.WithGroup(name), h.late.WithGroup(name)}
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
