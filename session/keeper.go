package session

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cloakroom/cloakroom/session/store"
)

// Keeper begins, opens, refreshes and ends sessions. It is safe for concurrent
// use and lives as long as the process.
type Keeper struct {
	store *store.Store
	keys  *Keyring
	log   *slog.Logger
	now   func() time.Time
}

// Options are a Keeper's optional parts.
type Options struct {
	Log     *slog.Logger          // nil: nothing is logged
	Metrics prometheus.Registerer // nil: nothing is measured
	Now     func() time.Time      // nil: time.Now
}

// New returns a Keeper over st. Call [Keeper.Run] to make it listen.
func New(st *store.Store, keys *Keyring, opts Options) *Keeper { panic("TODO") }

// Run listens to the other replicas until ctx is done. Without it nothing is
// cached.
func (k *Keeper) Run(ctx context.Context) { panic("TODO") }

// Wait returns when no refresh is under way, or with ctx's error.
func (k *Keeper) Wait(ctx context.Context) error { panic("TODO") }

// Begin starts a session and returns its first ticket.
func (k *Keeper) Begin(ctx context.Context, app *App, l Login) (Ticket, error) {
	return Ticket{}, errors.New("TODO")
}

// Open judges a ticket (design: opening a ticket) and returns the session it
// opens, with a live access token if need asks for one. Its error is
// [ErrNoSession], an [*EndedError], an [*UnavailableError], or ctx's.
func (k *Keeper) Open(ctx context.Context, app *App, t Ticket, need Need) (Opened, error) {
	return Opened{}, errors.New("TODO")
}

// End ends a session, whatever refreshes are in flight. A session that has
// ended, or never was, is no error: ending is idempotent.
func (k *Keeper) End(ctx context.Context, app *App, sid SID, reason Reason) error {
	return errors.New("TODO")
}

// MayHandOut reports whether h may still leave: its time is not over, and this
// replica knows of no newer ticket and of no end.
func (k *Keeper) MayHandOut(h *Handout) bool { return false }
