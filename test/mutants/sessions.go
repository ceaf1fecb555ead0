package main

// ofSessions break how a session lives: session and session/store.
var ofSessions = []mutant{
	{
		id: "M1-handed-at-opening", rule: "a successor is handed out on one answer, noted by the opening", from: "protocol M1",
		edits: []edit{{luaOpen, "if cookie and write(AT.handed, bytes(now, 8)) then", "if cookie then"}},
		pkg:   "session", test: "TestOpening/predecessor,_successor_not_handed_out",
	},
	{
		id: "M1-handed-at-commit", rule: "a successor is handed out on one answer, noted by the commit", from: "protocol M1",
		edits: []edit{{luaCommit, "  if handed then at = now end\n", ""}},
		pkg:   "session", test: "TestOpening/predecessor,_handed_out_not_long_ago",
	},
	{
		id: "M1-out-of-memory", rule: "what can't be noted as handed out is not handed out", from: "protocol M1",
		edits: []edit{{luaOpen, "if cookie and write(AT.handed, bytes(now, 8)) then", "write(AT.handed, bytes(now, 8)) if cookie then"}},
		pkg:   "session", test: "TestNoHandoutWithoutItsNote",
	},
	{
		id: "M2-settle", rule: "another successor is issued only when the first is lost for sure", from: "protocol M2",
		edits: []edit{{"session/judge.go", "return 3 * a.Grace", "return a.Grace"}},
		pkg:   "session", test: "TestOpening/predecessor,_handed_out_not_long_ago",
	},
	{
		id: "M3-hold", rule: "a successor's cookie leaves within the hold or not at all", from: "protocol M3",
		edits: []edit{{"session/keeper.go", "h != nil && k.now().Before(h.until) &&", "h != nil &&"}},
		pkg:   "session", test: "TestHandoutLeavesWithinHold",
	},
	{
		id: "M3-hold-from-now", rule: "the hold counts from the hand-out, not from its answer", from: "protocol M3",
		edits: []edit{{"session/judge.go", "sent.Add(app.hold() - since)", "sent.Add(app.hold() - 0*since)"}},
		pkg:   "session", test: "TestHoldCountsFromHandout",
	},
	{
		id: "M3-behind-a-newer", rule: "no cookie leaves behind a newer ticket", from: "protocol M3",
		edits: []edit{{"session/keeper.go", "k.now().Before(h.until) && k.cache.newest(h.Ticket.SID, h.Ticket.Generation)", "k.now().Before(h.until)"}},
		pkg:   "session", test: "TestHandoutNeverLeavesBehindANewerTicket",
	},
	{
		id: "M4-one-predecessor", rule: "all predecessors in their grace stay on record", from: "protocol M4",
		edits: []edit{{luaCommit, "    if #kept >= LIMIT then", "    kept = {}\n    if #kept >= LIMIT then"}},
		pkg:   "session/store", test: "TestPredecessorsThatACommitCarriesOn",
	},
	{
		id: "M5-predecessor-advances", rule: "a refresh by a predecessor is in place", from: "protocol M5",
		edits: []edit{{"session/exchange.go", "if v.current && e.record.Confirmed && len(", "if len("}},
		pkg:   "session", test: "TestOpening/predecessor_in_grace,_token_out",
	},
	{
		id: "M6-script-ends", rule: "reuse is a verdict: a script that runs late ends nothing", from: "protocol M6",
		edits: []edit{{luaOpen, "if verdict == 'reuse' then return {'reuse', now, record} end", "if verdict == 'reuse' then return {'reuse', now, finish(record, 8, 0)} end"}},
		pkg:   "session", test: "TestOpening/older,_verdict_too_late",
	},
	{
		id: "M6-late-verdict", rule: "a verdict of reuse that comes late changes nothing", from: "protocol M6",
		edits: []edit{{"session/judge.go", "if !k.timely(need, answer.Now, reuseVerdictAge) {", "if false {"}},
		pkg:   "session", test: "TestOpening/older,_verdict_too_late",
	},
	{
		id: "M7-cookie-in-grace", rule: "a predecessor in its grace gets answers and no cookie", from: "protocol M7, reliability 8",
		edits: []edit{{luaOpen, "verdict = 'grace'", "verdict = 'handout'"}},
		pkg:   "session", test: "TestPredecessorInGraceGetsNoCookie",
	},
	{
		id: "grace-never-ends", rule: "showing the successor starts the predecessor's grace",
		edits: []edit{{luaOpen, "at + ENTRY_UNTIL, bytes(now + grace, 8))", "at + ENTRY_UNTIL, bytes(0, 8))"}},
		pkg:   "session", test: "TestOpening/current_and_unconfirmed",
	},
	{
		id: "unused-successor-kept", rule: "a re-issue supersedes the unused successor: showing it is reuse",
		edits: []edit{
			{"session/open.go", "k.reissue(ctx, app, v, t)", "k.reissue(ctx, app, v, v.ticket)"},
			{"session/successor.go", "change.Kind, change.Settle = store.Reissue, app.settle()", "change.Kind, change.Handed = store.Advance, true"},
		},
		pkg: "session", test: "TestOpening/predecessor,_handed_out_long_ago",
	},
	{
		id: "hash-of-current", rule: "a generation alone is no ticket: the secret's hash is compared",
		edits: []edit{{luaOpen, "  if hash ~= slice(record, AT.hash, 32) then return {'mismatch', now, record} end\n", ""}},
		pkg:   "session", test: "TestOpening/hash_differs",
	},
	{
		id: "hash-of-predecessor", rule: "a predecessor's generation alone is no ticket either",
		edits: []edit{{luaOpen, "      if hash ~= slice(predecessors, at + 8, 32) then return {'mismatch', now, record} end\n", ""}},
		pkg:   "session", test: "TestOpening/hash_differs",
	},
	{
		id: "ahead-is-reuse", rule: "a ticket newer than its record means that Redis lost a write, never reuse",
		edits: []edit{{luaOpen, "  return {'lost', now, record}\nend\n\nlocal verdict", "  return {'reuse', now, record}\nend\n\nlocal verdict"}},
		pkg:   "session", test: "TestOpening/generation_above_the_record's",
	},
	{
		id: "salts-unbound", rule: "a predecessor's entry put back under a later record leads nowhere",
		edits: []edit{{"session/seal.go", "return binary.BigEndian.AppendUint64(scope(app, sid, own), record)", "return scope(app, sid, own)"}},
		pkg:   "session", test: "TestSaltOfAnEarlierRecordLeadsNowhere",
	},
	{
		id: "absolute-end-outside", rule: "the absolute end is believed only from inside the box",
		edits: []edit{{"session/judge.go", "if !answer.Now.Before(s.ExpiresAt) {", "if !answer.Now.Before(answer.Record.ExpiresAt) {"}},
		pkg:   "session", test: "TestOldRecordPutBackWidensNothing",
	},
	{
		id: "B1-no-lease", rule: "one replica at a time asks the provider", from: "reliability 1",
		edits: []edit{{luaClaim, "  if leased(record, now) then return {'busy', now, record} end\n", ""}},
		pkg:   "session/store", test: "TestOneReplicaSendsPerVersion",
	},
	{
		id: "B1-no-sending", rule: "a refresh token leaves only behind the latch", from: "protocol B1",
		edits: []edit{
			{"session/exchange.go", "k.store.Send(ctx, v.SID, v.version, e.attempt, leaseTTL)", "k.store.Claim(ctx, v.SID, v.version, e.attempt, leaseTTL)"},
			{"session/exchange.go", "Attempt: e.attempt, Sent: sent, Key: key", "Attempt: e.attempt, Key: key"},
		},
		pkg: "session", test: "TestRefreshOutcomes",
	},
	{
		id: "B2-sending-unconditional", rule: "the latch is set once per version", from: "protocol B2",
		edits: []edit{
			{luaClaim, "  if slice(record, AT.sending, 16) ~= NONE then return {'sending', now, record} end\n", ""},
			{luaSending, "if sending ~= NONE and sending ~= attempt then return {'sending', now, record} end\n", ""},
		},
		pkg: "session/store", test: "TestOneReplicaSendsPerVersion",
	},
	{
		id: "B2-sending-without-lease", rule: "only the holder of the lease sets the latch", from: "protocol B2",
		edits: []edit{{luaSending, "if slice(record, AT.lease, 16) ~= attempt then return {'busy', now, record} end\n", ""}},
		pkg:   "session/store", test: "TestOneReplicaSendsPerVersion",
	},
	{
		id: "look-beside-the-holder", rule: "a mark whose holder lives is nobody else's to withdraw",
		edits: []edit{{luaLook, "if leased(record, now) then return {'busy', now, record} end\n", ""}},
		pkg:   "session/store", test: "TestLooksWaitForTheHolder",
	},
	{
		id: "E3-commit-not-idempotent", rule: "a commit that runs twice answers as the first time", from: "protocol E3, reliability 14",
		edits: []edit{{luaCommit, "if slice(record, AT.attempt, 16) == attempt then return {'ok', now, record} end\n", ""}},
		pkg:   "session/store", test: "TestChangesAreIdempotentAndFenced",
	},
	{
		id: "E3-refused-revokes", rule: "a commit that is refused for another reason than an end revokes nothing", from: "protocol E3",
		edits: []edit{{"session/exchange.go", `k.alarm(app, v.SID, "commit_refused")`, `k.alarm(app, v.SID, "commit_refused")` + "\n\t\t\te.revoke(ctx, s.Tokens.Refresh)"}},
		pkg:   "session", test: "TestRefusedCommitRevokesNothing",
	},
	{
		id: "E4-reissue-beside-sending", rule: "while the mark stands nothing else changes ticket or box", from: "protocol E4",
		edits: []edit{{luaCommit, "not (sent and (again", "sent and not (sent and (again"}},
		pkg:   "session/store", test: "TestMarkIsTouchedByItsOwnAlone",
	},
	{
		id: "no-compare-and-set", rule: "a commit on another version does nothing", from: "reliability 3",
		edits: []edit{{luaCommit, "if slice(record, AT.version, 8) ~= version then return {'version', now, record} end\n", ""}},
		pkg:   "session/store", test: "TestChangesAreIdempotentAndFenced",
	},
	{
		id: "withdraw-keeps-version", rule: "a withdrawal raises the version, so that late copies do nothing",
		edits: []edit{{luaWithdraw, "record = raise(unlease(record))", "record = unlease(record)"}},
		pkg:   "session/store", test: "TestLateClaimAndSendingAfterWithdraw",
	},
	{
		id: "E5-unspent-keeps-mark", rule: "a complete 503 leaves the token unspent: the mark is withdrawn", from: "protocol E5",
		edits: []edit{{"session/exchange.go", "case OutcomeNotSent, OutcomeUnspent:\n", "case OutcomeNotSent:\n"}},
		pkg:   "session", test: "TestRefreshOutcomes",
	},
	{
		id: "E5-unknown-withdraws", rule: "a token of unknown fate is not presented again at once", from: "protocol E5, reliability 7",
		edits: []edit{{"session/exchange.go", "if v.refreshKept {", "if true {"}},
		pkg:   "session", test: "TestRefreshOutcomes",
	},
	{
		id: "E6-rejected-not-compared", rule: "invalid_grant ends a session only if it still holds that token", from: "protocol E6",
		edits: []edit{
			{luaEnd, "if version ~= '' and slice(record, AT.version, 8) ~= version then return {'version', now, record} end\n", ""},
			{luaEnd, "if attempt ~= '' and slice(record, AT.sending, 16) ~= attempt then return {'version', now, record} end\n", ""},
		},
		pkg: "session/store", test: "TestRejectedTokenMustStillBeTheRecords",
	},
	{
		id: "end-blocked-by-mark", rule: "an end wins against any refresh in flight",
		edits: []edit{{luaEnd, "return {'ok', now, finish(", "if attempt == '' and slice(record, AT.sending, 16) ~= NONE then return {'version', now, record} end\nreturn {'ok', now, finish("}},
		pkg:   "session", test: "TestEndWinsAgainstRefresh",
	},
	{
		id: "late-tokens-not-revoked", rule: "tokens that come back to an ended session are revoked",
		edits: []edit{{"session/exchange.go", "case store.Ended:\n\t\t\te.revoke(ctx, s.Tokens.Refresh)\n", "case store.Ended:\n"}},
		pkg:   "session", test: "TestEndWinsAgainstRefresh",
	},
	{
		id: "request-context-grant", rule: "a closed tab burns no refresh token", from: "reliability 5",
		edits: []edit{
			{"session/refresh.go", "f, own := k.board(app, v, stays)", "f, own := k.board(ctx, app, v, stays)"},
			{"session/refresh.go", "k.board(app, v, func() bool { return false })", "k.board(context.Background(), app, v, func() bool { return false })"},
			{"session/refresh.go", "func (k *Keeper) board(app *App", "func (k *Keeper) board(ctx context.Context, app *App"},
			{"session/refresh.go", "k.fly(context.Background(), app", "k.fly(ctx, app"},
		},
		pkg: "session", test: "TestClientGoneDuringRefresh",
	},
	{
		id: "tombstone-for-ever", rule: "every key has a TTL, a tombstone too", from: "reliability 13",
		edits: []edit{{luaPrelude, "redis.pcall('SET', KEYS[1], t, 'PXAT', till)", "redis.pcall('SET', KEYS[1], t)"}},
		pkg:   "session/store", test: "TestEveryKeyHasATTL",
	},
	{
		id: "cache-without-beat", rule: "no beat, no cache",
		edits: []edit{{"session/judge.go", "if ear != 0 && e.ear == ear && sent", "if (ear == 0 || e.ear == ear) && sent"}},
		pkg:   "session", test: "TestDeafReplicaAsksRedis",
	},
	{
		id: "cache-over-another-ear", rule: "what was learnt before the subscription broke is not believed",
		edits: []edit{{"session/judge.go", "if ear != 0 && e.ear == ear && sent", "if ear != 0 && sent"}},
		pkg:   "session", test: "TestCacheAfterBrokenSubscription",
	},
	{
		id: "cache-over-news", rule: "an event forbids keeping an opening sent before it",
		edits: []edit{{"session/cache.go", "ok && !n.at.Before(sent) {", "ok && n.at.IsZero() {"}},
		pkg:   "session", test: "TestEventForbidsKeepingEarlierOpenings",
	},
	{
		id: "cache-by-sid", rule: "the cache answers one ticket, not whoever knows its sid",
		edits: []edit{{"session/cache.go", "e.app != app || e.ended == nil && e.hash != t.Secret.Hash()", "e.app != app"}},
		pkg:   "session", test: "TestCacheAnswersOneTicketOfOneApp",
	},
	{
		id: "D-one-confirmation", rule: "each half of a split key is confirmed by its own showing", from: "protocol D",
		edits: []edit{{luaOpen, "    predecessors = read(KEYS[2])\n    if write(AT.confirmed", "    predecessors = read(KEYS[2])\n    write(AT['local'], '\\1')\n    if write(AT.confirmed"}},
		pkg:   "session", test: "TestSplitKey",
	},
	{
		id: "once-without-asking", rule: "what may be done once is not done while nobody knows", from: "reliability 10",
		edits: []edit{{"session/take.go", "turn, err := k.store.TakeTurn(ctx, hashed, turnLease)\n\tif err != nil {\n\t\treturn false, k.unavailable(ctx, err)\n\t}", "turn, err := k.store.TakeTurn(ctx, hashed, turnLease)\n\tif err != nil {\n\t\tturn = store.TurnFirst\n\t}"}},
		pkg:   "session", test: "TestDoOnceStoreDown",
	},
	{
		id: "keys-in-mid-exchange", rule: "a commit is written with the keys that its exchange began with",
		edits: []edit{{"session/exchange.go", "change.Body = e.keys.pack(app.Name, ticket", "change.Body = k.keys.Load().pack(app.Name, ticket"}},
		pkg:   "session", test: "TestServerKeysReplacedWhileRunning",
	},
	{
		id: "full-queue-asks", rule: "who comes when all places at the provider are taken costs Redis nothing",
		edits: []edit{{"session/pace.go", "bookedUp = 250 * time.Millisecond", "bookedUp = 0"}},
		pkg:   "session", test: "TestWhoComesWhenAllPlacesAreTakenCostsNothing",
	},
	{
		id: "end-cut-short", rule: "an end by subject reaches every session, however many there are",
		edits: []edit{{"session/index.go", "\t\tk.noticed(indexes[0], how.Notice)\n\t}\n\tsids, err := k.store.EverySession(ctx, indexes...)", "\t\tk.noticed(indexes[0], how.Notice)\n\t}\n\tsids, err := k.store.Sessions(ctx, indexes[:1]...)\n\tsids = sids[min(1, len(sids)):]"}},
		pkg:   "session", test: "TestLongIndex",
	},
	{
		id: "app-end-forgotten", rule: "the end of an app outlives every session",
		edits: []edit{{"session/index.go", "SetNotBefore(ctx, appID(app.Name), time.Time{}, endAppLife)", "SetNotBefore(ctx, appID(app.Name), time.Time{}, app.AbsoluteTimeout+24*time.Hour)"}},
		pkg:   "session", test: "TestEndAppOutlivesAShorterPolicy",
	},
	{
		id: "unlisted-means-gone", rule: "a record that can't be read stays where an end finds it",
		edits: []edit{{"session/index.go", "\t\tif unreadable[sid] != nil {\n\t\t\tcontinue", "\t\tif unreadable[sid] != nil {\n\t\t\tgone = append(gone, sid)\n\t\t\tcontinue"}},
		pkg:   "session", test: "TestUnreadableRecordAmongOthers",
	},
}
