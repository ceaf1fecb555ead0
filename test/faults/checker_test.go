package faults

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

// good is a history in which all is well: one session, rotated once, a fault in
// the middle, a logout at the end, and a thief in another session.
func good() *History {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	ledger := func(s float64, token, family string, o gatewaytest.Outcome) gatewaytest.Entry {
		return gatewaytest.Entry{At: start.Add(at(s)), Endpoint: gatewaytest.EndpointToken, Kind: gatewaytest.KindRefresh, Token: token, Family: family, Outcome: o}
	}
	return &History{
		Row: "test", Start: start, Length: time.Minute,
		Windows: []Window{{Name: "a fault", From: at(20), To: at(22)}},
		Ops: []Op{
			{ID: 1, Kind: KindToken, User: "a", Session: "a.1", Start: at(1), End: at(1.1), Status: 200, Subject: "sub-a", Family: "family-1", Got: "x"},
			{ID: 2, Kind: KindAPI, User: "a", Session: "a.1", Start: at(2), End: at(2.1), Status: 200, Subject: "sub-a", Family: "family-1", Echo: 2},
			{ID: 3, Kind: KindPost, User: "a", Session: "a.1", Start: at(21), End: at(21.1), Status: 503, Code: "provider_unavailable", Retry: true},
			{ID: 4, Kind: KindPost, User: "a", Session: "a.1", Start: at(23), End: at(23.1), Status: 200, Subject: "sub-a", Family: "family-1", Echo: 4},
			{ID: 5, Kind: KindLogout, User: "a", Session: "a.1", Start: at(30), End: at(30.1), Status: 200, Cleared: true},
			{ID: 6, Kind: KindGhost, User: "a", Session: "a.1", Start: at(35), End: at(35.1), Status: 401, Code: "login_required", Reason: "logged_out"},
			{ID: 7, Kind: KindReplay, User: "b", Session: "b.2", Start: at(40), End: at(40.1), Status: 401, Code: "login_required", Reason: reasonReuse},
			{ID: 8, Kind: KindAPI, User: "c", Session: "c.3", Start: at(41), End: at(41.1), Status: 200, Subject: "sub-c", Family: "family-3", Echo: 8},
		},
		Sessions: []Session{
			{ID: "a.1", User: "a", SID: "sid-1", Family: "family-1", Ending: at(30), Ended: at(30.1), Why: "logout"},
			{ID: "b.2", User: "b", SID: "sid-2", Family: "family-2", Ending: at(40), Ended: at(40.1), Why: "thief"},
			{ID: "c.3", User: "c", SID: "sid-3", Family: "family-3", Final: 200},
		},
		Arrivals: []Arrival{
			{Op: 2, At: at(2), Method: "GET", Subject: "sub-a", Family: "family-1", Clock: start.Add(at(2)), Expires: start.Add(at(5))},
			{Op: 4, At: at(23), Method: "POST", Subject: "sub-a", Family: "family-1", Clock: start.Add(at(23)), Expires: start.Add(at(25))},
		},
		Ledger: []gatewaytest.Entry{
			ledger(0, "rt-1", "family-1", gatewaytest.Issued),
			ledger(3, "rt-1", "family-1", gatewaytest.Unspent),
			ledger(4, "rt-1", "family-1", gatewaytest.Redeemed),
			ledger(4, "rt-2", "family-1", gatewaytest.Issued),
		},
		Lines: []Line{
			{At: at(1), Message: sayBegun, SID: "sid-1"},
			{At: at(4), Message: sayAdvanced, SID: "sid-1"},
			{At: at(40), Message: sayEnded, SID: "sid-2", Reason: reasonReuse},
		},
		Before: []Gauge{{Goroutines: 100, FDs: 50}},
		After:  []Gauge{{Goroutines: 120, FDs: 60}},
	}
}

func TestCheckPassesWhatIsWell(t *testing.T) {
	if r := Check(good(), Allowance{}); len(r.Violations) > 0 {
		t.Errorf("violations: %q", r.Violations)
	}
}

// Each is a history in which one thing is wrong: a checker that doesn't flag it
// proves nothing.
func TestCheckFlags(t *testing.T) {
	after := func(h *History, s float64) time.Time { return h.Start.Add(time.Duration(s * float64(time.Second))) }
	sec := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	present := func(h *History, s float64, o gatewaytest.Outcome) {
		h.Ledger = append(h.Ledger, gatewaytest.Entry{At: after(h, s), Endpoint: gatewaytest.EndpointToken, Kind: gatewaytest.KindRefresh, Token: "rt-1", Family: "family-1", Outcome: o})
	}
	lose := func(h *History, reason string) {
		h.Ops = append(h.Ops, Op{ID: 50, Kind: KindAPI, User: "c", Session: "c.3", Start: sec(50), End: sec(50.1), Status: 401, Code: "login_required", Reason: reason})
	}
	unknown := func(h *History) {
		lose(h, reasonRejected)
		h.Lines = append(h.Lines,
			Line{At: sec(45), Message: sayOnceMore, SID: "sid-3", Cause: causeUnknown},
			Line{At: sec(49), Message: sayEnded, SID: "sid-3", Reason: reasonRejected, Cause: causeUnknown})
		for i, o := range []gatewaytest.Outcome{gatewaytest.Redeemed, gatewaytest.Reuse} {
			h.Ledger = append(h.Ledger, gatewaytest.Entry{At: after(h, 10+37*float64(i)), Endpoint: gatewaytest.EndpointToken, Kind: gatewaytest.KindRefresh, Token: "rt-9", Family: "family-3", Outcome: o})
		}
	}
	for _, row := range []struct {
		name, want string
		allow      Allowance
		spoil      func(h *History)
	}{
		{"a token of somebody else's", "I1", Allowance{}, func(h *History) { h.Ops[0].Subject = "sub-b" }},
		{"a body of somebody else's", "I1", Allowance{}, func(h *History) { h.Ops[1].Subject = "sub-b" }},
		{"another session of the same user's", "I1", Allowance{}, func(h *History) { h.Ops[1].Family = "family-2" }},
		{"another request's answer", "I1", Allowance{}, func(h *History) { h.Ops[1].Echo = 4 }},
		{"the upstream sees somebody else", "I1", Allowance{}, func(h *History) { h.Arrivals[1].Subject = "sub-b" }},
		{"redeemed twice", "I2", Allowance{}, func(h *History) { present(h, 6, gatewaytest.Redeemed) }},
		{"presented after it was spent", "I2", Allowance{}, func(h *History) { present(h, 6, gatewaytest.Reuse) }},
		{"once more, and audited too late", "I2", Allowance{}, func(h *History) {
			present(h, 40, gatewaytest.Reuse)
			h.Lines = append(h.Lines, Line{At: sec(41), Message: sayOnceMore, SID: "sid-1"})
		}},
		{"a code twice", "I2", Allowance{}, func(h *History) {
			h.Ledger = append(h.Ledger, gatewaytest.Entry{Endpoint: gatewaytest.EndpointToken, Kind: gatewaytest.KindCode, Token: "code-1", Outcome: gatewaytest.Reuse})
		}},
		{"lost", "I3", Allowance{}, func(h *History) { lose(h, "no_session") }},
		{"lost, where only unknown answers are allowed", "I3", Allowance{Unknown: true}, func(h *History) { lose(h, "store_lost") }},
		{"an unknown answer, where none is allowed", "I3", Allowance{}, unknown},
		{"an unknown answer that is not audited", "I3", Allowance{Unknown: true}, func(h *History) { unknown(h); h.Lines = h.Lines[:len(h.Lines)-1] }},
		{"an unknown answer that had spent nothing", "I3", Allowance{Unknown: true}, func(h *History) { unknown(h); h.Ledger = h.Ledger[:len(h.Ledger)-1] }},
		{"more lost than allowed", "I3", Allowance{Lost: map[string]int{"store_lost": 1}, Unaudited: true}, func(h *History) {
			lose(h, "store_lost")
			h.Ops = append(h.Ops, Op{ID: 51, Kind: KindAPI, User: "d", Session: "d.4", Start: sec(50), End: sec(51), Status: 401, Code: "login_required", Reason: "store_lost"})
			h.Sessions = append(h.Sessions, Session{ID: "d.4", User: "d", SID: "sid-4"})
		}},
		{"never comes back", "I3", Allowance{}, func(h *History) { h.Sessions[2].Final = 503 }},
		{"a refresh token in an answer", "I4", Allowance{}, func(h *History) { h.Ops[1].Leak = "RTcanary-" }},
		{"a leak that the sweep found", "I4", Allowance{}, func(h *History) { h.Troubles = []Trouble{{"I4", "a gateway printed a ticket"}} }},
		{"no token at the upstream", "I5", Allowance{}, func(h *History) { h.Arrivals[0].Subject = "" }},
		{"a token that has run out at the upstream", "I5", Allowance{}, func(h *History) { h.Arrivals[0].Expires = after(h, 0.5) }},
		{"an ended session accepted", "I5", Allowance{}, func(h *History) { h.Ops[5].Status, h.Ops[5].Code = 200, "" }},
		{"an ended session at the upstream", "I5", Allowance{}, func(h *History) {
			h.Arrivals = append(h.Arrivals, Arrival{Op: 6, At: sec(35), Method: "GET", Subject: "sub-a", Clock: after(h, 35), Expires: after(h, 37)})
		}},
		{"a reuse that nobody made", "I6", Allowance{}, func(h *History) {
			h.Lines = append(h.Lines, Line{At: sec(50), Message: sayEnded, SID: "sid-3", Reason: reasonReuse})
		}},
		{"a thief who is served", "I6", Allowance{}, func(h *History) { h.Ops[6].Status, h.Ops[6].Code = 200, "" }},
		{"500", "I7", Allowance{}, func(h *History) { h.Ops[2].Status = 500 }},
		{"503 without Retry-After", "I7", Allowance{}, func(h *History) { h.Ops[2].Retry = false }},
		{"503 with a cookie", "I7", Allowance{}, func(h *History) { h.Ops[2].Got = "y" }},
		{"503 that deletes the cookie", "I7", Allowance{}, func(h *History) { h.Ops[2].Cleared = true }},
		{"503 outside of all faults", "I7", Allowance{}, func(h *History) { h.Ops[2].Start, h.Ops[2].End = sec(10), sec(10.1) }},
		{"a reset outside of all faults", "I7", Allowance{Cut: true}, func(h *History) { h.Ops[1].Status, h.Ops[1].Error = 0, "reset" }},
		{"a reset where none is allowed", "I7", Allowance{}, func(h *History) { h.Ops[2].Status, h.Ops[2].Error = 0, "reset" }},
		{"sent to the login", "I7", Allowance{}, func(h *History) { h.Ops[2].Status, h.Ops[2].To = 302, "/bff/login" }},
		{"cut, and looks complete", "I7", Allowance{}, func(h *History) { h.Ops[1].Partial = true }},
		{"a POST that came twice", "I7", Allowance{}, func(h *History) { h.Arrivals = append(h.Arrivals, h.Arrivals[1]) }},
		{"403 out of nowhere", "I7", Allowance{}, func(h *History) { h.Ops[2].Status, h.Ops[2].Code = 400, "invalid_request" }},
		{"goroutines", "I8", Allowance{}, func(h *History) { h.After[0].Goroutines = 200 }},
		{"open files", "I8", Allowance{}, func(h *History) { h.After[0].FDs = 300 }},
		{"a key without an end", "I8", Allowance{}, func(h *History) { h.Troubles = []Trouble{{"I8", "a key"}} }},
		{"refreshed again at once", "I9", Allowance{}, func(h *History) {
			h.Ledger = append(h.Ledger, gatewaytest.Entry{At: after(h, 4.2), Endpoint: gatewaytest.EndpointToken, Kind: gatewaytest.KindRefresh, Token: "rt-2", Family: "family-1", Outcome: gatewaytest.Redeemed})
		}},
		{"a provider that is hammered", "I9", Allowance{Presentations: 3}, func(h *History) {
			for range 4 {
				present(h, 3.5, gatewaytest.Unspent)
			}
			slices.SortStableFunc(h.Ledger, func(a, b gatewaytest.Entry) int { return a.At.Compare(b.At) })
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := good()
			row.spoil(h)
			r := Check(h, row.allow)
			if !slices.ContainsFunc(r.Violations, func(v string) bool { return strings.HasPrefix(v, row.want+": ") }) {
				t.Errorf("nothing of %s was flagged, but %q", row.want, r.Violations)
			}
		})
	}
}

// What a row allows is told from what it doesn't.
func TestCheckAllows(t *testing.T) {
	h := good()
	h.Ops = append(h.Ops, Op{ID: 50, Kind: KindAPI, User: "c", Session: "c.3", Start: 50 * time.Second, End: 51 * time.Second, Status: 401, Code: "login_required", Reason: reasonRejected})
	h.Lines = append(h.Lines,
		Line{At: 45 * time.Second, Message: sayOnceMore, SID: "sid-3", Cause: causeUnknown},
		Line{At: 49 * time.Second, Message: sayEnded, SID: "sid-3", Reason: reasonRejected, Cause: causeUnknown})
	for i, o := range []gatewaytest.Outcome{gatewaytest.Redeemed, gatewaytest.Reuse} {
		h.Ledger = append(h.Ledger, gatewaytest.Entry{At: h.Start.Add(10*time.Second + time.Duration(37*i)*time.Second),
			Endpoint: gatewaytest.EndpointToken, Kind: gatewaytest.KindRefresh, Token: "rt-9", Family: "family-3", Outcome: o})
	}
	r := Check(h, Allowance{Unknown: true})
	if len(r.Violations) > 0 || r.LostAllowed[causeUnknown] != 1 {
		t.Errorf("%d allowed; violations %q", r.LostAllowed[causeUnknown], r.Violations)
	}
}

// A history that was written is read as it was.
func TestHistoryIsKept(t *testing.T) {
	dir := t.TempDir()
	h := good()
	h.Ops[1].Subject = "sub-b"
	if err := h.Write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := ReadHistory(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, b := Check(h, Allowance{}), Check(got, Allowance{})
	if a.Table() != b.Table() || a.WrongUser != 1 {
		t.Errorf("it was\n%s\nand is\n%s", a.Table(), b.Table())
	}
}

// The sweep finds a ticket, whole or cut, and a token, and nothing else.
func TestSecret(t *testing.T) {
	ticket := "MTc2ODAwMDAwMHxhYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ei0wMTIzNDU2Nzg5QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo"
	marks := map[string]struct{}{}
	for from := 8; from+window <= len(ticket) && from < 80; from += window {
		marks[ticket[from:from+window]] = struct{}{}
	}
	for text, want := range map[string]bool{
		`{"cookie":"` + ticket + `"}`:            true,
		`cookie: ` + ticket[20:70]:               true,
		`"sid":"yjjPUtwiDRANrQGvCU3tcQ"`:         false,
		gatewaytest.Canaries()[0] + "0123456789": true,
	} {
		if got := secret([]byte(text), marks); (got != "") != want {
			t.Errorf("%s: %q", text, got)
		}
	}
}
