package main

// ofTheGateway break what browsers see: gateway.
var ofTheGateway = []mutant{
	{
		id: "C1-not-noted", rule: "a login knows the session that it replaces, from where it began", from: "protocol C1",
		edits: []edit{{"gateway/login.go", "p.previous, w.sid = t.SID, t.SID", "w.sid = t.SID"}},
		pkg:   "gateway", test: "TestNotedSessionIsReplaced",
	},
	{
		id: "C1-not-ended", rule: "a login ends the session whose cookie arrives at its landing", from: "protocol C1",
		edits: []edit{{"gateway/callback.go", "\t\treplaced[t.SID] = &t\n", "\t\t_ = t\n"}},
		pkg:   "gateway", test: "TestB17AnotherUser",
	},
	{
		id: "C2-cleared-on-401", rule: "a refusal deletes no cookie", from: "protocol C2",
		edits: []edit{{"gateway/problem.go", "\tw.refusal = true\n", "\tw.refusal = true\n\tif p.code == codeLoginRequired && w.app != nil {\n\t\tw.setCookie(w.app.noTicketCookie())\n\t}\n"}},
		pkg:   "gateway", test: "TestN01Reuse",
	},
	{
		id: "C2-cleared-on-store-error", rule: "trouble with the store deletes no cookie", from: "protocol C2, reliability 4",
		edits: []edit{{"gateway/problem.go", "\tw.refusal = true\n", "\tw.refusal = true\n\tif p.code == codeStoreUnavailable && w.app != nil {\n\t\tw.setCookie(w.app.noTicketCookie())\n\t}\n"}},
		pkg:   "gateway", test: "TestLogoutStoreDown",
	},
	{
		id: "cookie-on-refusal", rule: "a refusal hands out no ticket",
		edits: []edit{{"gateway/response.go", "s != nil && !w.refusal && ", "s != nil && "}},
		pkg:   "gateway", test: "TestResponseHandsOut",
	},
	{
		id: "cookie-on-101", rule: "no cookie leaves with a switch of protocols",
		edits: []edit{{"gateway/response.go", "\tif status != http.StatusSwitchingProtocols {\n\t\tw.addCookies()\n\t}", "\tw.addCookies()"}},
		pkg:   "gateway", test: "TestResponseUpgrade",
	},
	{
		id: "cookie-cacheable", rule: "an answer with a cookie of ours is kept by no cache",
		edits: []edit{{"gateway/response.go", "proxy.NoStore(h) //", "_ = proxy.NoStore //"}},
		pkg:   "gateway", test: "TestResponseK02",
	},
	{
		id: "guard-skipped-on-get", rule: "GET /bff/token is guarded like POST",
		edits: []edit{{"gateway/token.go", "if err := guard(guardJSON, r.Method, r.Header, w.app.origin); err != nil {", "if err := guard(guardJSON, r.Method, r.Header, w.app.origin); err != nil && r.Method != http.MethodGet {"}},
		pkg:   "gateway", test: "TestE02TokenGuards",
	},
	{
		id: "guard-any-signal", rule: "every signal that is present must agree",
		edits: []edit{{"gateway/guard.go", "if len(site) > 0 && !sameOrigin && !landing {", "if len(site) > 0 && !sameOrigin && !landing && len(origins) == 0 && !mine {"}},
		pkg:   "gateway", test: "TestGuard",
	},
	{
		id: "state-not-compared", rule: "the state has to be the one inside the cookie",
		edits: []edit{{"gateway/callback.go", "[]byte(state)) == 1 {", "[]byte(state)) >= 0 {"}},
		pkg:   "gateway", test: "TestCallbackRefuses/state_cut_short",
	},
	{
		id: "iss-after-the-code", rule: "iss is checked before the code is spent",
		edits: []edit{
			{"gateway/callback.go", "\tif err := w.app.Provider.CheckIssuer(r.Context(), a.iss); err != nil {\n\t\treturn err\n\t}\n", ""},
			{"gateway/callback.go", "\t// 4. A new session", "\tif err := w.app.Provider.CheckIssuer(r.Context(), a.iss); err != nil {\n\t\treturn err\n\t}\n\t// 4. A new session"},
		},
		pkg: "gateway", test: "TestCallbackRefuses",
	},
	{
		id: "duplicate-cookies", rule: "two cookies of the name are no ticket",
		edits: []edit{{"gateway/cookie.go", "\t\t\ttext = value\n\t\t\tn++\n\t\t}\n\t}\n\tswitch n {", "\t\t\ttext, n = value, 1\n\t\t}\n\t}\n\tswitch n {"}},
		pkg:   "gateway", test: "TestC07CookieHeaders",
	},
	{
		id: "optional-hides-trouble", rule: "trouble with the store makes nobody anonymous",
		edits: []edit{{"gateway/proxied.go", "return ended || needsLogin(err)", "return err != nil || ended"}},
		pkg:   "gateway", test: "TestOptionalRoute",
	},
	{
		id: "logout-claims", rule: "a logout that the store didn't take is not claimed",
		edits: []edit{{"gateway/logout.go", "if hint, err = g.logOut(ctx, w.app, t, localKey(r.Header), w.received); err != nil {\n\t\t\treturn err\n\t\t}", "hint, _ = g.logOut(ctx, w.app, t, localKey(r.Header), w.received)"}},
		pkg:   "gateway", test: "TestLogoutStoreDown",
	},
	{
		id: "panic-swallowed", rule: "an answer that was cut off can't be taken for a whole one", from: "reliability 15",
		edits: []edit{{"gateway/gateway.go", "panic(v) // net/http's way to cut an answer off", "return"}},
		pkg:   "gateway", test: "TestResponseCutOff",
	},
	{
		id: "reload-unlocks-admin", rule: "a listener that stays where it is keeps the token that it needs there",
		edits: []edit{{"cmd/cloakroom/wire.go", "was.Network == cfg.Admin.Network && was.Address == cfg.Admin.Address {", "was != nil {"}},
		pkg:   "cmd/cloakroom", test: "TestReloadOfAdminToken",
	},
	{
		id: "copy-without-looking-up", rule: "an upstream that pauses is not taken for a client that doesn't read",
		edits: []edit{{"gateway/upstream/body.go", "by := time.Now().Add(copyPart)\n\t\tx.c.wakeBy(by, by)", "by := time.Now()\n\t\tx.c.wakeBy(time.Time{}, time.Time{})"}},
		pkg:   "gateway/upstream", test: "TestCopyOfASlowUpstream",
	},
	{
		id: "client-never-stalls", rule: "a client that takes nothing is given up",
		edits: []edit{{"gateway/client.go", "	if s.writing { // or the deadline would be the next request's", "	if false {"}},
		pkg:   "gateway", test: "TestQ20StalledAnswer",
	},
	{
		id: "one-trace-for-all", rule: "a request is told of its own connections, and of nobody else's",
		edits: []edit{
			{"gateway/upstream/transport.go", "httptrace.WithClientTrace(ctx, y.trace()))", "httptrace.WithClientTrace(ctx, &shared))"},
			{"gateway/upstream/attempt.go", "const settleTimeout = time.Second\n", "const settleTimeout = time.Second\n\nvar shared httptrace.ClientTrace\n"},
		},
		pkg: "gateway/upstream", test: "TestRequestsDoNotShareTheirTraces",
	},
	{
		id: "check-from-anybody", rule: "what a request was is a trusted proxy's word, and nobody else's",
		edits: []edit{{"gateway/auth.go", "if !proxy.FromTrusted(r, s.trusted) {", "if false {"}},
		pkg:   "gateway", test: "TestAuthWhoMayAsk",
	},
	{
		id: "check-without-secret", rule: "a page that asks through the proxy reads no token",
		edits: []edit{{"gateway/auth.go", "if !a.ForwardAuth.shown(r.Header[authHeader]) {", "if false {"}},
		pkg:   "gateway", test: "TestAuthWhoMayAsk",
	},
	{
		id: "check-refreshes", rule: "what may not reach the browser rotates nothing",
		edits: []edit{{"gateway/proxied.go", "NoRefresh: true} // what", "NoRefresh: false} // what"}},
		pkg:   "gateway", test: "TestAuthChangesNothing",
	},
	{
		id: "check-forged-identity", rule: "a request that says who its user is gets no yes",
		edits: []edit{{"gateway/auth.go", "case slices.ContainsFunc(a.identity, ", "case false && slices.ContainsFunc(a.identity, "}},
		pkg:   "gateway", test: "TestAuthClaims",
	},
	{
		id: "two-ends", rule: "no request follows one whose end others may have seen elsewhere",
		edits: []edit{{"gateway/framing.go", "return len(r.TransferEncoding) > 0", "return false"}},
		pkg:   "gateway", test: "TestTwoEnds",
	},
	{
		id: "end-of-the-same-millisecond", rule: "the end of all of an app's sessions leaves none alive",
		edits: []edit{{"session/store/lua/not_before.lua", "tonumber(ARGV[1]) + 1 end", "tonumber(ARGV[1]) end"}},
		pkg:   "session/store", test: "TestNotBeforeEndsWhatBeganThisMillisecond",
	},
	{
		id: "console-for-any-host", rule: "the operators' listener is for its own name: nothing is rebound to it",
		edits: []edit{{"gateway/admin/console.go", "!api.ownHost(r)", "false"}},
		pkg:   "gateway/admin", test: "TestConsoleRefuses",
	},
	{
		id: "hot-reload-from-anywhere", rule: "no other site opens a development server's WebSocket",
		edits: []edit{{"gateway/devserver.go", "r.Header, w.app.origin); err != nil {", "r.Header, w.app.origin); err != nil && false {"}},
		pkg:   "gateway", test: "TestDevServer",
	},
	{
		id: "check-redirects", rule: "a proxy that asks gets no yes that isn't one",
		edits: []edit{{"gateway/response.go", "w.check && !w.passes", "false && w.check && !w.passes"}},
		pkg:   "gateway", test: "TestAuthNavigation",
	},
	{
		id: "full-connection-waits", rule: "a client that takes nothing is given up however small its answers are",
		edits: []edit{{"gateway/refused.go", "\tc.taker.give()\n", ""}},
		pkg:   "gateway", test: "TestQ20FullConnection",
	},
	{
		id: "max-age-asked-for", rule: "a login that asked for max_age is held to it",
		edits: []edit{{"gateway/idp/idtoken.go", "maxAge, asked = want.maxAge, want.maxAge != \"\"", "maxAge, asked = want.maxAge, false"}},
		pkg:   "gateway", test: "TestLoginMaxAge",
	},
	{
		id: "login-dated-by-others", rule: "only an ID token says when somebody logged in",
		edits: []edit{{"gateway/callback.go", "grant.ID == \"\" || json.Unmarshal", "json.Unmarshal"}},
		pkg:   "gateway", test: "TestPasswordLoginIsNow",
	},
}
