// Package faults breaks what a gateway stands on, under load, and judges
// afterwards what browsers, upstreams and the provider have seen of it.
//
// # How it works
//
// A [World] is two or three replicas of the built binary on one Redis, a strict
// provider with a ledger, an upstream that writes down what reaches it, and
// hundreds of simulated browsers with several tabs each. Between all of them are
// links that delay, swallow, cut or reset (rig.Link). A [Row] says which fault
// hits it, again and again, while the load goes on. Everything that happens is
// written down: a [History]. [Check] decides from the history alone whether the
// invariants held:
//
//	I1  no answer carries another person's data or token
//	I2  a refresh token is redeemed once, and presented again only where it can't be reuse
//	I3  no session is lost, but those that the row's [Allowance] lists, each with its audit line
//	I4  no token or ticket in logs, metrics, Redis or where a client could see it
//	I5  nothing protected reaches an upstream without a live session; what has ended stays so
//	I6  no session ends for a reuse that wasn't, and a real one ends it
//	I7  trouble is a 502, 503 or 504, touches no cookie, and nothing is sent twice
//	I8  what was opened is closed, and every key in Redis has a TTL
//	I9  the provider is asked once for each session that needs it
//
// # Two judges
//
// The strict provider is ours, and could share a mistake with the gateway. So some
// rows run a second time with npm's oidc-provider (their ids end in "o"): the
// ledger then is what that tells in its own events, and it revokes all tokens of a
// login by itself where one is shown twice.
//
// # Running
//
//	make faults                       all rows
//	make faults ROW=F1,F3 SEED=7      some of them, with that seed
//	make faults-summary               adds up the result files
//
// Each row prints a table and writes a result file. The history of a row that
// failed is kept beside it, of others if KEEP=1: ops.jsonl is what browsers did,
// and the other files are what the parts have to say. The seed decides the load
// and when faults strike; it doesn't decide how the machine schedules threads.
//
// # Adding a row
//
// A row is a value in the [Rows] table. Its Strike is called again and again on
// the test's goroutine; it opens a window with [World.Fault], does harm, undoes
// it, and closes the window. Nothing else is needed.
package faults

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/session/storetest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// Row is one kind of fault under load.
type Row struct {
	ID   string // as in the plan: F1
	Name string
	// Setup changes the world before it starts; nil: the default.
	Setup func(t testing.TB, s *Setup)
	// Load changes the load; nil: [DefaultLoad].
	Load func(l *Load)
	// Strike does one fault and undoes it. It is called again and again, with a
	// random pause of Pause to 2 × Pause between (default half a second), until
	// Length (default 15 s) is over.
	Strike func(w *World, r *rand.Rand)
	Length time.Duration
	Pause  time.Duration
	// Calm bounds how long the load goes on after the last fault: until nobody is
	// refused any more. Default 45 s: an answer that nobody knows is waited for
	// twice 30 s at most.
	Calm time.Duration
	// Allow lists what the row may cost.
	Allow Allowance
	// Judge adds the row's own verdicts and figures to the checker's; nil: none.
	Judge func(w *World, h *History, r *Result)
}

// Setup says what a World is made of.
type Setup struct {
	Seed     uint64
	Replicas int // default 2
	Browsers int // default 200
	// Patience is how long browsers wait for an answer; default 25 s.
	Patience time.Duration
	// Provider's options; default: access tokens live for four seconds.
	Provider gatewaytest.Options
	// Certified puts npm's oidc-provider in the strict provider's place: nothing of
	// Provider but the tokens' life counts, and its own events are the ledger.
	Certified bool
	// Redis is the deployment's; nil: a new one that keeps everything on disk.
	// Each replica has a link of its own to it.
	Redis *storetest.Server
	// NoRedisLink leaves the redis block as Change made it.
	NoRedisLink bool
	// NoLinks has browsers, Redis and upstream reached without links, for a row that
	// measures time: links are carried by the process that the browsers are in.
	NoLinks bool
	// Bearers adds a route that takes the provider's bearers.
	Bearers bool
	// Change has the last word on the configuration.
	Change func(c rig.Config)
	// Binary is the program of all replicas; "": the built cloakroom. Each changes
	// what a replica is started with, configuration and environment; nil: nothing.
	Binary string
	Each   func(w *rig.World, replica int)
	// Sentinels or Shards take the place of Redis, without links.
	Sentinels *storetest.Sentinels
	Shards    *storetest.Shards
}

// Allowance is what a row may cost: everything else is a violation.
type Allowance struct {
	// Unknown allows sessions to end with refresh_rejected, audited as
	// answer_unknown, where the provider's answer was lost after it had spent the
	// token: what no gateway can save.
	Unknown bool
	// Lost allows other ends, by their reason ("store_lost"), each up to a number.
	Lost map[string]int
	// Unaudited allows losses that no process could write down (a Redis that lost
	// the session), by their reason.
	Unaudited bool
	// Outside is how many requests may fail outside of all fault windows.
	Outside int
	// Recovery is how long after a window's end errors still belong to it; default 2 s.
	Recovery time.Duration
	// Statuses are answers that are fine within windows, beside 502, 503 and 504.
	Statuses []int
	// Cut allows answers that break off and connections that are reset, within
	// windows.
	Cut bool
	// Forgets says that Redis may forget, within the row, that a token is on its
	// way: it is presented again, and nothing says so. No figure but that.
	Forgets bool
	// Revived is how many ended sessions may be accepted again (a Redis that forgot).
	Revived int
	// Known is how long after its acknowledgement an end may still be unknown to
	// a replica; default 1 s, as the design says of replicas that hear their beat.
	Known time.Duration
	// Presentations is how many presentations of refresh tokens that spend nothing
	// the provider may see; default: one for each session and window.
	Presentations int
	// Unended allows sessions that refuse (503) even after Calm.
	Unended int
}
