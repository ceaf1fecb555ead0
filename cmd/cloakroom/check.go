package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/cloakroom/cloakroom/config"
)

type checkCmd struct {
	configFlag
	Online bool `help:"Ask Redis and the providers too."`
	Report bool `help:"Tell what the configuration comes to, app by app: what to register, when sessions end, who may call what."`
	JSON   bool `name:"json" help:"Print one JSON object instead of lines."`
}

// report is what check prints.
type report struct {
	OK       bool             `json:"ok"`
	Problems []config.Problem `json:"problems"`
	Warnings []config.Problem `json:"warnings"`
	Online   []finding        `json:"online,omitempty"`
	Report   []appReport      `json:"report,omitempty"`
}

// finding is one question that check --online asked.
type finding struct {
	Subject string `json:"subject"` // such as "redis" or "provider of shop"
	Status  string `json:"status"`  // "ok", "warning" or "failed"
	Detail  string `json:"detail"`
}

const (
	statusOK      = "ok"
	statusWarning = "warning"
	statusFailed  = "failed"
)

func (c checkCmd) Run() error {
	r := report{Problems: []config.Problem{}, Warnings: []config.Problem{}}
	cfg, err := c.load()
	if err == nil {
		r.Warnings = append(r.Warnings, cfg.Warnings()...)
		var s *service
		if s, err = wire(cfg, slog.New(slog.DiscardHandler), nil); err == nil {
			if c.Online {
				r.Online = s.online(cfg)
			}
			if c.Report {
				r.Report = reported(cfg)
			}
			s.close()
		}
	}
	if problems, ok := errors.AsType[*config.Error](err); ok {
		r.Problems = append(r.Problems, problems.Problems...)
	} else if err != nil {
		r.Problems = append(r.Problems, config.Problem{File: c.Config, Message: err.Error()})
	}
	r.OK = len(r.Problems) == 0 && !slices.ContainsFunc(r.Online, func(f finding) bool { return f.Status == statusFailed })
	if c.JSON {
		if err := printJSON(r); err != nil {
			return err
		}
	} else {
		r.print(c.Config)
	}
	if !r.OK {
		return errReported
	}
	return nil
}

// print writes lines for people: what is wrong to standard error, the rest to
// standard output.
func (r report) print(file string) {
	for _, p := range r.Problems {
		fmt.Fprintln(os.Stderr, p)
	}
	for _, w := range r.Warnings {
		w.Message = "warning: " + w.Message
		fmt.Println(w)
	}
	for _, f := range r.Online {
		out := os.Stdout
		if f.Status == statusFailed {
			out = os.Stderr
		}
		fmt.Fprintf(out, "%s: %s: %s\n", f.Subject, f.Status, f.Detail)
	}
	if r.OK {
		fmt.Printf("%s: ok\n", file)
	}
	for _, a := range r.Report {
		a.print(os.Stdout)
	}
}

// onlineTimeout bounds each question of check --online.
const onlineTimeout = 15 * time.Second

// online asks Redis and every provider, one after the other.
func (s *service) online(cfg *config.Config) []finding {
	return append(askRedis(s.store, cfg), askProviders(s.providers)...)
}

func askProviders(providers []appProvider) (out []finding) {
	for _, p := range providers {
		f := finding{Subject: "provider of " + p.app, Status: statusOK, Detail: "its metadata can be read"}
		ctx, cancel := context.WithTimeout(context.Background(), onlineTimeout)
		if err := p.provider.Discover(ctx); err != nil {
			f.Status, f.Detail = statusFailed, err.Error()
		}
		cancel()
		out = append(out, f)
		for _, d := range p.provider.Doubts() {
			out = append(out, finding{f.Subject, statusWarning, d})
		}
	}
	return out
}
