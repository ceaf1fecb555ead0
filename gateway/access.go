package gateway

import (
	"log/slog"
	"net/http"

	"github.com/cloakroom/cloakroom/session"
)

// accessLines writes a line about each request, if somebody reads that. It writes to
// the handler itself: all that [slog.Logger] adds is the place in the code.
type accessLines struct {
	level slog.Level
	// to is where each endpoint's go: what they have in common is put into text once.
	to [endpoints]slog.Handler
}

// newAccessLines writes to access at level info or, without one, to log at level
// debug.
func newAccessLines(log, access *slog.Logger) *accessLines {
	l, h := &accessLines{level: slog.LevelInfo}, log.Handler()
	if access != nil {
		h = access.Handler()
	} else {
		l.level = slog.LevelDebug
	}
	for e := range endpoints {
		l.to[e] = h.WithAttrs([]slog.Attr{slog.String("endpoint", e.String())})
	}
	return l
}

// of is l for the requests of one app.
func (l *accessLines) of(app string) *accessLines {
	a := &accessLines{level: l.level}
	for e, h := range l.to {
		a.to[e] = h.WithAttrs([]slog.Attr{slog.String("app", app)})
	}
	return a
}

// write says what about does, and how the request ended.
func (l *accessLines) write(g *Gateway, w *response, r *http.Request) {
	to := l.to[w.endpoint]
	if !to.Enabled(r.Context(), l.level) {
		return
	}
	now := g.now()
	line := slog.NewRecord(now, l.level, "request", 0)
	line.AddAttrs(
		slog.String("trace_id", w.trace),
		slog.String("method", clip(r.Method, 16)),
		slog.String("address", g.address(r)),
		slog.Int("status", w.status),
		slog.Int64("bytes", w.bytes),
		slog.Duration("took", now.Sub(w.received)))
	if w.sid != (session.SID{}) {
		line.AddAttrs(slog.String("sid", w.sid.String()))
	}
	_ = to.Handle(r.Context(), line) // as slog.Logger does
}
