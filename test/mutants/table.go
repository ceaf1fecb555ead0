package main

// mutant is one broken rule and who has to notice.
type mutant struct {
	id    string // M, B, E, C, D: the models' names for what goes wrong
	rule  string // what it breaks
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
	luaPrelude  = "session/store/lua/prelude.lua"
)

var table = append(append(ofSessions, ofTheGateway...), ofTheEdges...)
