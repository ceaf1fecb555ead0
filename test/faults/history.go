package faults

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

// Kind is what a browser's request was for.
type Kind string

const (
	KindAPI     Kind = "api"     // GET on a protected route
	KindPost    Kind = "post"    // POST on a protected route
	KindToken   Kind = "token"   // POST /bff/token
	KindSession Kind = "session" // GET /bff/session
	KindLogin   Kind = "login"   // any step of a login
	KindLogout  Kind = "logout"
	KindEvents  Kind = "events" // a stream of events
	KindSocket  Kind = "socket" // a WebSocket
	KindGhost   Kind = "ghost"  // shows a ticket of a session that has ended
	KindReplay  Kind = "replay" // shows a ticket that was superseded
	KindKill    Kind = "kill"   // an end by somebody else than the browser
)

// Op is one request of a browser, and what came back. Times are since the
// history's start.
type Op struct {
	ID      int64         `json:"op"`
	Kind    Kind          `json:"kind"`
	User    string        `json:"user"`              // whose browser it is
	Session string        `json:"session,omitempty"` // whose ticket was shown
	Replica int           `json:"replica"`
	Sent    string        `json:"sent,omitempty"` // fingerprint of the ticket shown
	Got     string        `json:"got,omitempty"`  // and of the one that the answer sets
	Lost    bool          `json:"lost,omitempty"` // the browser never saw the answer's cookie
	Late    bool          `json:"late,omitempty"` // it saw it late
	Cleared bool          `json:"cleared,omitempty"`
	Back    bool          `json:"back,omitempty"` // the cookie replaced a newer session's
	Start   time.Duration `json:"start"`
	End     time.Duration `json:"end"`
	Status  int           `json:"status"`          // 0: no answer
	Error   string        `json:"error,omitempty"` // what the network did: refused, reset, cut, timeout, aborted
	Code    string        `json:"code,omitempty"`
	Reason  string        `json:"reason,omitempty"`
	Retry   bool          `json:"retry,omitempty"`    // the answer has Retry-After
	To      string        `json:"location,omitempty"` // path of a redirect
	Subject string        `json:"subject,omitempty"`  // seen in the body
	Family  string        `json:"family,omitempty"`   // of the token seen in the body
	Echo    int64         `json:"echo,omitempty"`     // the op that the upstream says it answered
	Partial bool          `json:"partial,omitempty"`  // the body was shorter than it said, and came as complete
	Leak    string        `json:"leak,omitempty"`     // a secret that no client may see
}

func (o *Op) String() string {
	return strings.TrimSpace(fmt.Sprintf("op %d %s %s %s at %v on %d: %d %s %s %s", o.ID, o.Kind, o.User, o.Session, o.Start.Round(time.Millisecond), o.Replica, o.Status, o.Code, o.Reason, o.Error))
}

// Session is one login of a browser's.
type Session struct {
	ID     string        `json:"id"`
	User   string        `json:"user"`
	SID    string        `json:"sid"`    // "" if it was never told
	Family string        `json:"family"` // the provider's name of it, "" if no token was seen
	Begun  time.Duration `json:"begun"`
	// Ending is when somebody set out to end it, Ended when that was
	// acknowledged; 0: not.
	Ending time.Duration `json:"ending,omitempty"`
	Ended  time.Duration `json:"ended,omitempty"`
	Why    string        `json:"why,omitempty"` // logout, login, thief, kill
	// Final is what its browser's last request was told after all faults: 200,
	// 401, 503, or 0 where it was not asked.
	Final       int    `json:"final,omitempty"`
	FinalReason string `json:"final_reason,omitempty"`
}

// Window is a fault in force.
type Window struct {
	Name string        `json:"name"`
	From time.Duration `json:"from"`
	To   time.Duration `json:"to"` // 0: it was never undone
}

// Arrival is a request as the upstream saw it.
type Arrival struct {
	Op      int64         `json:"op"`
	At      time.Duration `json:"at"`
	Method  string        `json:"method"`
	Subject string        `json:"subject"` // of its token; "" without one
	Family  string        `json:"family"`
	Expires time.Time     `json:"expires"` // of its token
	Clock   time.Time     `json:"clock"`
}

// Line is an audit line of a gateway's.
type Line struct {
	At      time.Duration `json:"at"`
	Process int           `json:"process"`
	Message string        `json:"msg"`
	SID     string        `json:"sid,omitempty"`
	Reason  string        `json:"reason,omitempty"`
	Cause   string        `json:"cause,omitempty"`
	Alarm   string        `json:"alarm,omitempty"`
}

// Gauge is what a replica holds.
type Gauge struct {
	Process    int     `json:"process"`
	Goroutines float64 `json:"goroutines"`
	FDs        float64 `json:"fds"`
	RSS        float64 `json:"rss"`
}

// Trouble is something that a part of the rig found by itself: a leak, a key
// without a TTL, a crash.
type Trouble struct {
	Invariant string `json:"invariant"`
	What      string `json:"what"`
}

// History is all that happened in one row.
type History struct {
	Row      string              `json:"row"`
	Seed     uint64              `json:"seed"`
	Start    time.Time           `json:"start"`
	Length   time.Duration       `json:"length"`
	Ops      []Op                `json:"-"`
	Sessions []Session           `json:"-"`
	Arrivals []Arrival           `json:"-"`
	Ledger   []gatewaytest.Entry `json:"-"`
	Lines    []Line              `json:"-"`
	Windows  []Window            `json:"windows"`
	Before   []Gauge             `json:"before"`
	After    []Gauge             `json:"after"`
	Troubles []Trouble           `json:"troubles"`
	Calls    map[string]int      `json:"calls"` // of the provider's endpoints
}

// at is a moment of the wall clock since the start.
func (h *History) at(t time.Time) time.Duration { return t.Sub(h.Start) }

// within reports whether a time, or a stretch, falls into a window, or into the
// recovery after it.
func (h *History) within(from, to, recovery time.Duration) bool {
	for _, w := range h.Windows {
		if to >= w.From && (w.To == 0 || from <= w.To+recovery) {
			return true
		}
	}
	return false
}

// Write writes the history into a directory, a file for each kind.
func (h *History) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "history.json"), text, 0o644),
		writeLines(dir, "ops.jsonl", h.Ops),
		writeLines(dir, "sessions.jsonl", h.Sessions),
		writeLines(dir, "arrivals.jsonl", h.Arrivals),
		writeLines(dir, "ledger.jsonl", h.Ledger),
		writeLines(dir, "audit.jsonl", h.Lines),
	)
}

// ReadHistory reads what [History.Write] wrote.
func ReadHistory(dir string) (*History, error) {
	h := &History{}
	text, err := os.ReadFile(filepath.Join(dir, "history.json"))
	if err == nil {
		err = json.Unmarshal(text, h)
	}
	return h, errors.Join(err,
		readLines(dir, "ops.jsonl", &h.Ops),
		readLines(dir, "sessions.jsonl", &h.Sessions),
		readLines(dir, "arrivals.jsonl", &h.Arrivals),
		readLines(dir, "ledger.jsonl", &h.Ledger),
		readLines(dir, "audit.jsonl", &h.Lines),
	)
}

func writeLines[T any](dir, name string, all []T) (err error) {
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := bufio.NewWriterSize(f, 1<<20)
	enc := json.NewEncoder(out)
	for i := range all {
		if err := enc.Encode(&all[i]); err != nil {
			return err
		}
	}
	return out.Flush()
}

func readLines[T any](dir, name string, all *[]T) error {
	f, err := os.Open(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	dec := json.NewDecoder(bufio.NewReaderSize(f, 1<<20))
	for dec.More() {
		var one T
		if err := dec.Decode(&one); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		*all = append(*all, one)
	}
	return nil
}

// fingerprints are short names of cookies: a history holds no ticket.
var fingerprints = maphash.MakeSeed()

func fingerprint(cookie string) string {
	if cookie == "" {
		return ""
	}
	return strconv.FormatUint(maphash.String(fingerprints, cookie), 36)
}
