package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cloakroom/cloakroom/config"
)

// watchEvery is how often the configuration's files are looked at. A change is
// read when it has stood for as long, and so whole.
const watchEvery = time.Second

// reloader takes a changed configuration over: at SIGHUP, or when one of its
// files has changed. A bad one is refused, and the old one stays.
type reloader struct {
	service *service
	front   *front
	again   func() (*config.Config, error)
	log     loggers
	started *config.Config                // what can't change without a restart is as it is here
	current atomic.Pointer[config.Config] // all else is as it is here
	files   []string
	taken   string // how they looked when they were read
}

func newReloader(s *service, f *front, cfg *config.Config, again func() (*config.Config, error), log loggers) *reloader {
	r := &reloader{service: s, front: f, again: again, log: log, started: cfg, files: cfg.Files()}
	r.taken = look(r.files) // before anybody can be served, and so know of us
	r.current.Store(cfg)
	return r
}

// run watches until ctx is done.
func (r *reloader) run(ctx context.Context) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last := r.taken
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			r.reload(ctx)
			r.taken = look(r.files)
			last = r.taken
		case <-tick.C:
			now := look(r.files)
			if now != r.taken && now == last {
				r.reload(ctx)
				now = look(r.files) // they may be others now
				r.taken = now
			}
			last = now
		}
	}
}

// look is a text that changes with the files. What a symbolic link leads to
// counts, which is how Kubernetes replaces mounted files.
func look(files []string) string {
	var b strings.Builder
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			fmt.Fprintf(&b, "%s -\n", f)
			continue
		}
		fmt.Fprintf(&b, "%s %d %d %v\n", f, info.Size(), info.ModTime().UnixNano(), inode(info))
	}
	return b.String()
}

func inode(info os.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}

func (r *reloader) reload(ctx context.Context) {
	cfg, err := r.again()
	if err == nil {
		err = r.service.swap(ctx, cfg, r.log.Logger)
	}
	if err != nil {
		if problems, ok := errors.AsType[*config.Error](err); ok {
			for _, p := range problems.Problems {
				r.log.Error("the configuration is refused, the old one stays: "+p.Message, slog.String("key", p.Key), slog.Int("line", p.Line))
			}
			return
		}
		r.log.Error("the configuration is refused, the old one stays", slog.String("err", err.Error()))
		return
	}
	r.front.use(cfg)
	r.log.form.set(cfg.Log)
	r.current.Store(cfg)
	r.files = cfg.Files()
	warn(r.log.Logger, cfg)
	for _, key := range fixed(r.started, cfg) {
		r.log.Warn("a change that takes a restart", slog.String("key", key))
	}
	r.log.Info("reloaded", slog.Int("apps", len(cfg.Apps)))
}

// fixed are the keys whose change a running process doesn't take over.
func fixed(a, b *config.Config) (keys []string) {
	if a.Listen != b.Listen {
		keys = append(keys, "listen")
	}
	if a.Admin.Network != b.Admin.Network || a.Admin.Address != b.Admin.Address {
		keys = append(keys, "admin.listen")
	}
	return append(keys, elsewhere(a.Redis, b.Redis)...)
}
