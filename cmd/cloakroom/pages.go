package main

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/cloakroom/cloakroom/config"
	"github.com/cloakroom/cloakroom/gateway"
	"github.com/cloakroom/cloakroom/gateway/web"
)

// newPages tries each app's own templates; nil where it has none. problems are
// those that can't serve.
func newPages(cfg *config.Config, log *slog.Logger) (pages []*web.Pages, problems []config.Problem) {
	pages = make([]*web.Pages, len(cfg.Apps))
	for i, a := range cfg.Apps {
		if a.Pages == nil {
			continue
		}
		var err error
		if pages[i], err = web.ParsePages(a.Pages, gateway.ErrorPages(), log.With(slog.String("app", a.Name))); err != nil {
			for line := range strings.Lines(err.Error()) {
				problems = append(problems, cfg.Problem(fmt.Sprintf("apps[%d].pages", i), strings.TrimSuffix(line, "\n")))
			}
		}
	}
	return pages, problems
}
