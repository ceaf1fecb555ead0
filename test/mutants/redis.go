package main

// ofRedis break what keeps sessions through a Redis that stalls, fails over and
// forgets, and through a provider that fails.
var ofRedis = []mutant{
	{
		id: "lease-50ms", rule: "the lease outlives a stall of Redis", from: "reliability 2",
		edits: []edit{{"session/refresh.go", "leaseTTL = 10 * time.Second", "leaseTTL = 50 * time.Millisecond"}},
		pkg:   "session", test: "TestLeaseOutlivesAStall",
	},
	{
		id: "request-context-unlock", rule: "who hangs up leaves neither mark nor lease behind", from: "reliability 6",
		edits: []edit{{"session/exchange.go", "func (e *exchange) withdraw(ctx context.Context) {\n", "func (e *exchange) withdraw(ctx context.Context) {\n\tif !e.stays() {\n\t\treturn\n\t}\n"}},
		pkg:   "session", test: "TestClientGoneLeavesNoMark",
	},
	{
		id: "lease-not-given-back", rule: "a token of unknown fate leaves its mark, and no lease",
		edits: []edit{{luaRelease, "record = unlease(record)\n", ""}},
		pkg:   "test/model", test: "TestModel/faults",
	},
	{
		id: "late-settled", rule: "what was held up at the gateway supersedes no successor",
		edits: []edit{{"session/open.go", "&& inTime {", "&& (inTime || true) {"}},
		pkg:   "session", test: "TestOpening/predecessor,_handed_out_long_ago,_verdict_too_late",
	},
	{
		id: "forgotten-mark", rule: "new tokens are kept though Redis lost their mark",
		edits: []edit{{luaCommit, "if sending ~= NONE and not (sent and", "if (sent or sending ~= NONE) and not (sent and"}},
		pkg:   "session/store", test: "TestNewTokensAreKeptThoughTheirMarkWasForgotten",
	},
	{
		id: "again-reissue-over-a-mark", rule: "a re-issue is not run again over a mark: new tokens are about to come",
		edits: []edit{{luaCommit, "not (sent and (again or", "not (again or sent and (again or"}},
		pkg:   "session/store", test: "TestReissueIsNotRunAgainOverAMark",
	},
	{
		id: "again-never-over-a-mark", rule: "a commit that Redis forgot wins over a mark that was set since",
		edits: []edit{{"session/again.go", "\tc.Again = true\n", ""}},
		pkg:   "session", test: "TestCommitRunsAgainOverAForeignMark",
	},
	{
		id: "again-no-commits", rule: "commits that Redis forgot are run again",
		edits: []edit{{"session/exchange.go", "case store.OK:\n\t\t\tk.changed(v.SID, change)\n", "case store.OK:\n"}},
		pkg:   "session", test: "TestCommitRunsAgainAfterRedisForgotIt",
	},
	{
		id: "again-no-ends", rule: "ends that Redis forgot are run again",
		edits: []edit{{"session/keeper.go", "\tk.buried(app, sid, reason, lock)\n", ""}},
		pkg:   "session", test: "TestEndRunsAgainAfterRedisForgotIt",
	},
	{
		id: "again-over-an-end", rule: "an end wins against what is run again",
		edits: []edit{
			{"session/again.go", "case e.revoked || e.at.Before(at):", "case e.at.Before(at):"},
			{"session/again.go", "\t\te.again = nil // it holds the box\n", ""},
			{"session/again.go", "\tdelete(j.current, sid)\n", ""},
		},
		pkg: "session", test: "TestEndedSessionIsNotBegunAgain",
	},
	{
		id: "another-history", rule: "what was judged in a history that Redis lost is not acted upon",
		edits: []edit{{"session/refresh.go", "if answer.Record.Hash != v.ticket.Secret.Hash() {", "if false {"}},
		pkg:   "session", test: "TestRefreshOfAnotherHistoryIsLeft",
	},
	{
		id: "nobody-waits", rule: "marks, commits and ends are waited for",
		edits: []edit{{"session/store/replicated.go", "if s.wait() == 0 || !sc.durable {", "if true {"}},
		pkg:   "session/store", test: "TestWaitingForReplicas",
	},
	{
		id: "backoff-not-shared", rule: "a provider that fails is left alone by all replicas",
		edits: []edit{{"session/exchange.go", "wait, err := k.store.FailBackoff(ctx, app.Name, r.RetryAfter)", "wait, err := time.Second, error(nil)"}},
		pkg:   "session", test: "TestRefreshOutcomes/unspent",
	},
}

// ofTheModel break scripts in ways that only some order of things shows: the model
// finds it.
var ofTheModel = []mutant{
	{
		id: "model-M1", rule: "a successor is handed out on one answer", from: "protocol M1",
		edits: []edit{{luaOpen, "if cookie and write(AT.handed, bytes(now, 8)) then", "if cookie then"}},
		pkg:   "test/model", test: "TestModel/slow",
	},
	{
		id: "model-M2", rule: "another successor is issued only when the first is lost for sure", from: "protocol M2",
		edits: []edit{
			{luaOpen, "elseif till == 0 and now - handed <= settle then", "elseif till == 0 and now - handed <= settle / 6 then"},
			{luaCommit, "now - at <= settle then", "now - at <= settle / 6 then"},
		},
		pkg: "test/model", test: "TestModel/honest",
	},
	{
		id: "model-M4", rule: "all predecessors in their grace stay on record", from: "protocol M4",
		edits: []edit{{luaCommit, "    if #kept >= LIMIT then", "    kept = {}\n    if #kept >= LIMIT then"}},
		pkg:   "test/model", test: "TestModel/honest",
	},
	{
		id: "model-M6", rule: "reuse is a verdict: a script that runs late ends nothing", from: "protocol M6",
		edits: []edit{{luaOpen, "if verdict == 'reuse' then return {'reuse', now, record} end", "if verdict == 'reuse' then return {'reuse', now, finish(record, 8, 0)} end"}},
		pkg:   "test/model", test: "TestModel/theft",
	},
	{
		id: "model-B2", rule: "the latch is set once per version", from: "protocol B2",
		edits: []edit{
			{luaClaim, "  if slice(record, AT.sending, 16) ~= NONE then return {'sending', now, record} end\n", ""},
			{luaSending, "if sending ~= NONE and sending ~= attempt then return {'sending', now, record} end\n", ""},
		},
		pkg: "test/model", test: "TestModel/faults",
	},
	{
		id: "model-E3", rule: "a commit that runs twice answers as the first time", from: "protocol E3",
		edits: []edit{{luaCommit, "if slice(record, AT.attempt, 16) == attempt then return {'ok', now, record} end\n", ""}},
		pkg:   "test/model", test: "TestModel/honest",
	},
	{
		id: "model-E4", rule: "while the mark stands nothing else changes ticket or box", from: "protocol E4",
		edits: []edit{{luaCommit, "not (sent and (again", "sent and not (sent and (again"}},
		pkg:   "test/model", test: "TestModel/honest",
	},
	{
		id: "model-look-at-once", rule: "a lone mark is withdrawn by the second look, not the first",
		edits: []edit{{luaLook, "if first == 0 then", "if false then"}},
		pkg:   "test/model", test: "TestModel/faults",
	},
	{
		id: "model-grace-never-ends", rule: "showing the successor starts the predecessor's grace",
		edits: []edit{{luaOpen, "at + ENTRY_UNTIL, bytes(now + grace, 8))", "at + ENTRY_UNTIL, bytes(0, 8))"}},
		pkg:   "test/model", test: "TestModel/honest",
	},
	{
		id: "model-key-for-ever", rule: "every key has a TTL: predecessors go with the last grace",
		edits: []edit{{luaOpen, "redis.pcall('SET', KEYS[2], predecessors, 'PXAT', string.format('%d', last - tonumber(ARGV[1])))", "redis.pcall('SET', KEYS[2], predecessors)"}},
		pkg:   "test/model", test: "TestModel/honest",
	},
	{
		id: "model-body-of-the-dead", rule: "an end shreds the box",
		edits: []edit{{luaPrelude, "local t = slice(record, 0, HEADER)", "local t = record"}},
		pkg:   "test/model", test: "TestModel/slow",
	},
	{
		id: "nobody-waits-for-a-handout", rule: "a successor is handed out once, whatever a failover forgets", from: "protocol M1",
		edits: []edit{{"session/store/change.go", "a.Result == Handout && s.wait() > 0 {", "a.Result == Handout && s.wait() < 0 {"}},
		pkg:   "session/store", test: "TestWaitingForReplicas",
	},
	{
		id: "masters-met-one-by-one", rule: "a replica that starts in a Cluster takes none of its masters for another's successor",
		edits: []edit{{"session/again.go", "_ = k.store.Meet(ctx) // who", "// who"}},
		pkg:   "session", test: "TestReplicaThatStartsInAClusterRefreshesAtOnce",
	},
	{
		id: "lock-unseen", rule: "nobody logs in past a lock that can't be asked for",
		edits: []edit{
			{"session/store/index.go", "\t\t\theld, err := locks[n].Result()\n\t\t\tif err != nil {\n\t\t\t\treturn err\n\t\t\t}\n", "\t\t\theld := locks[n].Val()\n"},
			{"session/store/index.go", "\t\t\tcase !errors.Is(err, redis.Nil):\n\t\t\t\treturn err\n", "\t\t\tcase false:\n\t\t\t\t_ = errors.Is\n"},
		},
		pkg: "session/store", test: "TestStandingsOfAShardThatIsAway",
	},
	{
		id: "end-of-what-may-return", rule: "an end that may have missed what Redis forgot claims nothing",
		edits: []edit{{"session/keeper.go", "\tcase store.None:\n\t\tif k.mayReturn() {", "\tcase store.None:\n\t\tif false {"}},
		pkg:   "session", test: "TestForgottenLoginIsNotSaidToBeOver",
	},
	{
		id: "returns-without-asking", rule: "a login that returns finds the logout that came while it was forgotten",
		edits: []edit{{"session/again.go", "\t\t\terr = k.End(ctx, app, sid, ended.Reason)\n", "\t\t\t_, err = ended, nil\n"}},
		pkg:   "session", test: "TestLoginThatRunsAgainFindsItsLogout",
	},
}
