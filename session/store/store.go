package store

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Options say where Redis is.
type Options struct {
	Address   string
	Username  string
	Password  string
	TLS       *tls.Config // nil: plain TCP
	KeyPrefix string
	Timeout   time.Duration         // of one call, connecting included
	Metrics   prometheus.Registerer // nil: nothing is measured
}

// Store keeps sessions in Redis.
type Store struct{}

// New returns a Store. It does not dial.
func New(opts Options) *Store { panic("TODO") }

// Ping reports whether Redis answers and takes writes.
func (s *Store) Ping(ctx context.Context) error { return nil }

// Close closes the connections.
func (s *Store) Close() error { return nil }
