package faults

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// The negative control of the rig itself (make faults-controls): a gateway that
// is wrong in one place goes through a row, and the checker has to say so.
func TestControls(t *testing.T) {
	if os.Getenv("CONTROLS") == "" {
		// Building them takes longer than all other tests here: without being asked
		// for, only their fit is tested.
		for _, c := range controls {
			rig.Overlay(t, c.edits...)
		}
		return
	}
	for _, c := range controls {
		t.Run(c.name, func(t *testing.T) { control(t, c) })
	}
}

// wrong is a gateway that is wrong in one place.
type wrong struct {
	name  string
	want  string // the invariant that it violates
	edits []rig.Edit
	play  func(s *scene)
}

var controls = []wrong{
	{
		name: "trouble with the store deletes the cookie", want: "I7",
		edits: []rig.Edit{{File: "gateway/problem.go", Old: "\tw.refusal = true\n",
			New: "\tw.refusal = true\n\tif p.code == codeStoreUnavailable && w.app != nil {\n\t\tw.setCookie(w.app.noTicketCookie())\n\t}\n"}},
		play: func(s *scene) {
			over := s.Fault("Redis is away")
			for _, r := range s.Replicas() {
				r.Redis.Refuse()
			}
			rig.Eventually(s.t, "it is refused", func() bool { return s.b.Do(Ask{Kind: KindToken}).Status >= 500 })
			for _, r := range s.Replicas() {
				r.Redis.Accept()
			}
			over()
		},
	},
	{
		name: "a refusal that is not about the token ends the session", want: "I3",
		edits: []rig.Edit{{File: "gateway/idp/refresh.go", Old: `fail.OAuthError == "invalid_grant":`, New: `fail.OAuthError != "":`}},
		play: func(s *scene) {
			over := s.Fault("the provider can't just now")
			failing := s.Provider.Fail(gatewaytest.FailWith{Error: "temporarily_unavailable"})
			s.b.Do(Ask{Kind: KindToken})
			failing.Clear()
			over()
		},
	},
	{
		name: "a refresh token leaves without a latch", want: "I2",
		edits: []rig.Edit{
			{File: "session/store/lua/claim.lua", Old: "  if leased(record, now) then return {'busy', now, record} end\n", New: ""},
			{File: "session/store/lua/claim.lua", Old: "  if slice(record, AT.sending, 16) ~= NONE then return {'sending', now, record} end\n", New: ""},
			{File: "session/store/lua/sending.lua", Old: "if sending ~= NONE and sending ~= attempt then return {'sending', now, record} end\n", New: ""},
		},
		play: func(s *scene) {
			over := s.Fault("the provider is slow")
			hold, done := s.refreshing(s.first, gatewaytest.GateAfterCommit)
			s.b.Do(Ask{Kind: KindToken, At: s.second, Within: time.Second})
			hold.Release()
			<-done
			over()
		},
	},
	{
		name: "a token is kept for whoever asks next", want: "I1",
		edits: []rig.Edit{
			{File: "gateway/token.go", Old: "import (\n", New: "import (\n\t\"os\"\n"},
			{File: "gateway/token.go", Old: "AccessToken: access, ", New: "AccessToken: func() string {\n\t\tif os.Getenv(\"KEPT\") == \"\" {\n\t\t\tos.Setenv(\"KEPT\", access)\n\t\t}\n\t\treturn os.Getenv(\"KEPT\")\n\t}(), "},
		},
		play: func(s *scene) {
			other := s.NewBrowser()
			if err := other.LogIn(); err != nil {
				s.t.Fatal(err)
			}
			other.Do(Ask{Kind: KindToken, At: s.first})
			s.b.Do(Ask{Kind: KindToken, At: s.first})
		},
	},
	{
		name: "a page sees the refresh token", want: "I4",
		edits: []rig.Edit{{File: "gateway/token.go", Old: "Scope: o.Tokens.Scope, ", New: "Scope: string(o.Tokens.Refresh), "}},
		play:  func(s *scene) { s.b.Do(Ask{Kind: KindToken}) },
	},
	{
		name: "a logout ends nothing", want: "I5",
		edits: []rig.Edit{{File: "gateway/logout.go", Old: "err := g.keeper.End(ctx, a.policy, t.SID, session.ReasonLoggedOut); err != nil", New: "err := error(nil); err != nil"}},
		play: func(s *scene) {
			s.b.Do(Ask{Kind: KindToken}) // it lives for a minute
			cookie, session := s.b.Ticket()
			s.b.LogOut()
			rig.Eventually(s.t, "all have heard of it", func() bool { return s.now() > session.Ended+2*time.Second })
			s.b.Do(Ask{Kind: KindGhost, Cookie: cookie, Session: session, At: s.second})
		},
	},
	{
		name: "there is no grace for tabs that are late", want: "I6",
		edits: []rig.Edit{{File: "session/store/lua/open.lua", Old: "verdict = 'grace'", New: "verdict = 'reuse'"}},
		play: func(s *scene) {
			old, session := s.b.Ticket()
			for range 2 {
				s.b.Do(Ask{Kind: KindToken, At: s.first})
			}
			s.b.Do(Ask{Kind: KindToken, At: s.second, Cookie: old, Session: session})
		},
	},
	{
		name: "predecessors stay in Redis for ever", want: "I8",
		edits: []rig.Edit{{File: "session/store/lua/commit.lua", Old: "table.concat(kept), 'PXAT', string.format('%d', expires))", New: "table.concat(kept))"}},
		play:  func(s *scene) { s.b.Do(Ask{Kind: KindToken}) },
	},
}

func control(t *testing.T, c wrong) {
	t.Helper()
	program := rig.Build(t, c.edits...)
	s := newStage(t, program).scene(t)
	c.play(s)
	s.sweep(s.Rig.Logs())
	r := Check(s.told("control", 1).of(s.b.User, s.from), Allowance{Unknown: true, Cut: true, Recovery: 20 * time.Second})
	if !slices.ContainsFunc(r.Violations, func(v string) bool { return strings.HasPrefix(v, c.want+": ") }) {
		t.Errorf("a gateway that is wrong passes: nothing of %s in %q", c.want, r.Violations)
	}
}
