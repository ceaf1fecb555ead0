package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"sync/atomic"
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
	seen    config.Files                  // what was read last, refused or not, as it looked then
}

func newReloader(s *service, f *front, cfg *config.Config, again func() (*config.Config, error), log loggers) *reloader {
	r := &reloader{service: s, front: f, again: again, log: log, started: cfg, seen: cfg.Files()}
	r.current.Store(cfg)
	return r
}

// run watches until ctx is done. hup tells of each SIGHUP.
func (r *reloader) run(ctx context.Context, hup <-chan os.Signal) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last := r.seen
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			r.reload(ctx)
		case <-tick.C:
			now := r.seen.Now()
			if !maps.Equal(now, r.seen) && maps.Equal(now, last) {
				r.reload(ctx)
			}
			last = now
		}
	}
}

func (r *reloader) reload(ctx context.Context) {
	cfg, err := r.again()
	if err == nil {
		r.seen = cfg.Files()
		err = r.service.swap(ctx, cfg, r.log.Logger)
	} else if refused, ok := errors.AsType[*config.Error](err); ok {
		r.seen = refused.Files // what it names may be what is mended
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
