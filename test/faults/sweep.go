package faults

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

// window is a stretch of a ticket that is looked for: long enough that chance
// doesn't find it, and short enough to find one that was cut.
const window = 24

// sweep searches logs, metrics and Redis for secrets (I4), and Redis for keys
// without an end (I8).
func (w *World) sweep(logs []string) {
	w.ledger() // knows of more tokens to look for
	w.mu.Lock()
	marks := make(map[string]struct{}, 2*len(w.tickets))
	for ticket := range w.tickets {
		for from := 8; from+window <= len(ticket) && from < 80; from += window {
			marks[ticket[from:from+window]] = struct{}{}
		}
	}
	metrics := w.metrics
	w.mu.Unlock()
	look := func(where string, text []byte) {
		if what := secret(text, marks); what != "" {
			w.Trouble("I4", "%s: %s", where, what)
		}
	}
	for _, log := range logs {
		look("a gateway printed", []byte(log))
	}
	for _, text := range metrics {
		look("a gateway's metrics show", text)
	}
	for _, redis := range w.Stores {
		look("Redis holds in clear", dump(w, redis))
		const endless = `local bad = {} for _, k in ipairs(redis.call('KEYS', '*')) do if redis.call('PTTL', k) == -1 then bad[#bad+1] = k end end return bad`
		if keys := strings.Fields(redis.CLI("EVAL", endless, "0")); len(keys) > 0 {
			w.Trouble("I8", "%d keys in Redis have no end, such as %s", len(keys), keys[0])
		}
	}
}

func dump(w *World, redis Searched) []byte {
	path := filepath.Join(w.T.TempDir(), "dump.rdb")
	redis.CLI("--rdb", path)
	text, err := os.ReadFile(path)
	if err != nil {
		w.Trouble("I4", "Redis can't be searched: %v", err)
	}
	return text
}

// secret names what is in a text and should not be, "" if nothing.
func secret(text []byte, marks map[string]struct{}) string {
	for _, c := range gatewaytest.Canaries() {
		if bytes.Contains(text, []byte(c)) {
			return "a token (" + c + "…)"
		}
	}
	run := 0
	for i, c := range text {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			if run++; run >= window {
				if _, ok := marks[string(text[i+1-window:i+1])]; ok {
					return "a ticket"
				}
			}
			continue
		}
		run = 0
	}
	return ""
}
