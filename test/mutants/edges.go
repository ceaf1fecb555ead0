package main

// ofTheEdges break how the provider and upstreams are spoken to: gateway/idp and
// gateway/proxy.
var ofTheEdges = []mutant{
	{
		id: "idp-redirect-followed", rule: "no redirect of the provider's endpoints is followed",
		edits: []edit{{"gateway/idp/transport.go", "p.transport.RoundTrip(req)", "(&http.Client{Transport: p.transport}).Do(req)"}},
		pkg:   "gateway/idp", test: "TestRefreshOutcomes",
	},
	{
		id: "idp-sending-after", rule: "the latch is set before the token's first byte leaves",
		edits: []edit{
			{"gateway/idp/sending.go", "\t\tif b.sending != nil {\n", "\t\tif false {\n"},
			{"gateway/idp/sending.go", "\tif n == 0 {\n", "\tif n == 0 {\n\t\tif b.sending != nil {\n\t\t\tb.refused = b.sending()\n\t\t}\n"},
		},
		pkg: "gateway/idp", test: "TestSendingComesBetweenConnectionAndToken",
	},
	{
		id: "idp-alg-from-token", rule: "the algorithm is the provider's choice, not the token's",
		edits: []edit{{"gateway/idp/signed.go", "parser := jwt.NewParser(jwt.WithValidMethods(algorithms), ", "_ = algorithms\n\tparser := jwt.NewParser("}},
		pkg:   "gateway/idp", test: "TestIDToken",
	},
	{
		id: "idp-nonce-not-compared", rule: "an ID token is for this login: its nonce is compared",
		edits: []edit{{"gateway/idp/idtoken.go", "[]byte(want.nonce)) != 1", "[]byte(want.nonce)) < 0"}},
		pkg:   "gateway/idp", test: "TestIDTokenReusedNonce_B07",
	},
	{
		id: "idp-aud-not-compared", rule: "an ID token is for this client",
		edits: []edit{{"gateway/idp/idtoken.go", "if !ok || !slices.Contains(aud, p.cfg.ClientID) {", "if !ok && !slices.Contains(aud, p.cfg.ClientID) {"}},
		pkg:   "gateway/idp", test: "TestIDToken",
	},
	{
		id: "idp-typ-not-compared", rule: "a token of one kind never does for another",
		edits: []edit{{"gateway/idp/signed.go", "if !slices.Contains(kind.types, typ) {", "if false && !slices.Contains(kind.types, typ) {"}},
		pkg:   "gateway/idp", test: "TestCrossFeed_ID10",
	},
	{
		id: "idp-503-unknown", rule: "a complete 429 or 503 says that the token is unspent",
		edits: []edit{{"gateway/idp/refresh.go", "a.status == http.StatusServiceUnavailable:\n\t\tfail.Kind = Unspent", "a.status == http.StatusServiceUnavailable:\n\t\tfail.Kind = Unknown"}},
		pkg:   "gateway/idp", test: "TestRefreshOutcomes",
	},
	{
		id: "idp-invalid-client-fatal", rule: "only invalid_grant is about the token: invalid_client ends no session", from: "reliability 9",
		edits: []edit{{"gateway/idp/refresh.go", `fail.OAuthError == "invalid_grant":`, `fail.OAuthError != "":`}},
		pkg:   "gateway/idp", test: "TestRefreshOutcomes",
	},
	{
		id: "proxy-authorization", rule: "a client's Authorization reaches no upstream",
		edits: []edit{{"gateway/proxy/header.go", `case "authorization", "dpop",`, `case "dpop",`}},
		pkg:   "gateway/proxy", test: "TestForwardStripsTrustedNames",
	},
	{
		id: "proxy-canonical-names-only", rule: "trusted names are stripped in every spelling", from: "reliability 11",
		edits: []edit{{"gateway/proxy/header.go", "\t\t\tt[c] = '-'\n", "\t\t\tt[c] = b\n"}},
		pkg:   "gateway/proxy", test: "TestForwardStripsTrustedNames",
	},
	{
		id: "proxy-connection-after-ours", rule: "Connection names no header of ours away",
		edits: []edit{{"gateway/proxy/outgoing.go", "\tout.add(\"X-Forwarded-Host\", in.Host)\n", "\tif !hop[\"X-Forwarded-Host\"] {\n\t\tout.add(\"X-Forwarded-Host\", in.Host)\n\t}\n"}},
		pkg:   "gateway/proxy", test: "TestG04ConnectionNamedHeaders",
	},
	{
		id: "proxy-own-cookie", rule: "no upstream sees the gateway's cookies",
		edits: []edit{{"gateway/proxy/outgoing.go", `if line = stripCookieLine(line, filter.own); line == "" {`, `if _ = filter; line == "" {`}},
		pkg:   "gateway/proxy", test: "TestG07Cookies",
	},
	{
		id: "proxy-own-set-cookie", rule: "no upstream sets a cookie of the gateway's",
		edits: []edit{{"gateway/proxy/header.go", "return f.setCookie(value)", "return true"}},
		pkg:   "gateway/proxy", test: "TestResponseIsCleaned",
	},
	{
		id: "proxy-forwards-decoded", rule: "the path that was matched is the path that is forwarded", from: "reliability 12",
		edits: []edit{{"gateway/proxy/outgoing.go", "return x.proxy.base + path", "return decodePath(x.proxy.base + path)"}},
		pkg:   "gateway/proxy", test: "TestForwardRequest",
	},
	{
		id: "proxy-matches-raw", rule: "a path is matched as an upstream will read it", from: "reliability 12",
		edits: []edit{{"gateway/proxy/table.go", "\tp := decodePath(path)\n\troute, ok", "\tp := path\n\troute, ok"}},
		pkg:   "gateway/proxy", test: "TestTableMatch",
	},
	{
		id: "proxy-dots", rule: "a path with a segment of dots is refused",
		edits: []edit{{"gateway/proxy/path.go", "if onlyDots(seg) {", "if seg == \".\" {"}},
		pkg:   "gateway/proxy", test: "TestCanonicalPathRefuses",
	},
	{
		id: "proxy-escaped-slash", rule: "a path with an escaped slash is refused",
		edits: []edit{{"gateway/proxy/path.go", "c != ' ', escaped && class == slash:", "c != ' ':"}},
		pkg:   "gateway/proxy", test: "TestCanonicalPathRefuses",
	},
	{
		id: "proxy-sent-twice", rule: "a request that may change something is sent once",
		edits: []edit{{"gateway/proxy/relayed.go", "\tunmarkIdempotent(out.Header)\n", ""}},
		pkg:   "gateway/proxy", test: "TestR07SentAtMostOnce",
	},
	{
		id: "upstream-sent-twice", rule: "a request that may change something is sent once, over connections of our own too",
		edits: []edit{{"gateway/upstream/exchange.go", "isClosed(err) && (unsent || x.safe())", "isClosed(err) && (unsent || x.Body == nil)"}},
		pkg:   "gateway/upstream", test: "TestR07SentAtMostOnce",
	},
	{
		id: "upstream-stray-bytes", rule: "what comes on an idle connection is nobody's answer",
		edits: []edit{{"gateway/upstream/conn.go", "c.raw.Control(c.look) == nil && c.quiet", "c.raw.Control(c.look) == nil"}},
		pkg:   "gateway/upstream", test: "TestI10BytesOnAnIdleConnection",
	},
	{
		id: "upstream-leftover", rule: "a connection with more on it than the answer is closed",
		edits: []edit{{"gateway/upstream/ending.go", "!aborted && x.r == x.w && x.isSent()", "!aborted && x.isSent()"}},
		pkg:   "gateway/upstream", test: "TestConnectionsAreUsedAgain",
	},
	{
		id: "upstream-two-framings", rule: "an answer that can be read in two ways is none",
		edits: []edit{{"gateway/upstream/framing.go", "case chunked && f.length >= 0:", "case chunked && f.length > 1<<40:"}},
		pkg:   "gateway/upstream", test: "TestHostileAnswers",
	},
	{
		id: "early-answer-keeps-connection", rule: "no answer follows one that began before its request had ended",
		edits: []edit{{"gateway/upstream/answer.go", "\t\tx.early()\n", ""}},
		pkg:   "gateway/upstream", test: "TestEarlyAnswer",
	},
	{
		id: "buffer-of-a-failed-write", rule: "what a failed write may still read is never another user's",
		edits: []edit{{"gateway/upstream/ending.go", "func (x *Exchange) Disown() { x.pooled = nil }", "func (x *Exchange) Disown() {}"}},
		pkg:   "gateway/proxy", test: "TestBuffersOfFailedWritesAreNobodysAgain",
	},
	{
		id: "h2-sent-again", rule: "over HTTP/2, too, what may change something is sent once",
		edits: []edit{{"gateway/upstream/attempt.go", "y.http2 && y.sent.Load() > most", "y.http2 && most < 0"}},
		pkg:   "gateway/upstream", test: "TestR07SentAtMostOnceOverHTTP2",
	},
	{
		id: "tls-early-answer", rule: "an early answer costs net/http's connections, too",
		edits: []edit{{"gateway/upstream/transport.go", "if y.last(res) {", "if false {"}},
		pkg:   "gateway/upstream", test: "TestLastAnswersOverNetHTTP",
	},
	{
		id: "late-body", rule: "a body that comes after an answer without one is nobody's answer",
		edits: []edit{{"gateway/upstream/framing.go", "f.keep = f.keep && !mayFollow(method, chunked, f.length)", "f.keep = f.keep && f.length < 1<<40"}},
		pkg:   "gateway/upstream", test: "TestI10LateBodies",
	},
}
