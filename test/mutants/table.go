package main

import "slices"

// mutant is one broken rule and who has to notice.
type mutant struct {
	id    string // M, B, E, C, D: the models' names for what goes wrong
	rule  string // what it breaks
	from  string // the list that asks for it, and its place there: "protocol M3"
	edits []edit // together, in order
	pkg   string // of the test, below the main module's root
	test  string // has to fail: "TestX" or "TestX/subtest", as go test prints it
}

// edit replaces a text that the file has exactly once.
type edit struct{ file, old, new string }

const (
	luaOpen     = "session/store/lua/open.lua"
	luaCommit   = "session/store/lua/commit.lua"
	luaClaim    = "session/store/lua/claim.lua"
	luaSending  = "session/store/lua/sending.lua"
	luaWithdraw = "session/store/lua/withdraw.lua"
	luaEnd      = "session/store/lua/end.lua"
	luaLook     = "session/store/lua/look.lua"
	luaRelease  = "session/store/lua/release.lua"
	luaPrelude  = "session/store/lua/prelude.lua"
)

// listed are the mutants that have to be among these: the 16 of the protocol's
// review and the 15 of the plan for reliability, in their order.
var listed = []string{
	"protocol M1", "protocol M2", "protocol M3", "protocol M4", "protocol M5", "protocol M6", "protocol M7",
	"protocol B1", "protocol B2", "protocol E3", "protocol E4", "protocol E5", "protocol E6", "protocol C2", "protocol C1", "protocol D",
	"reliability 1", "reliability 2", "reliability 3", "reliability 4", "reliability 5", "reliability 6", "reliability 7", "reliability 8",
	"reliability 9", "reliability 10", "reliability 11", "reliability 12", "reliability 13", "reliability 14", "reliability 15",
}

var table = slices.Concat(ofSessions, ofRedis, ofTheModel, ofTheGateway, ofTheEdges)
