#!/bin/bash -eu
# Builds every native fuzz target, as OSS-Fuzz's base-builder-go wants it: one
# line a target, package, function, name of the fuzzer. A test (TestListed) holds
# this list to the targets that there are.
cd "$SRC/cloakroom"
go install github.com/AdamKorcz/go-118-fuzz-build@latest
go get github.com/AdamKorcz/go-118-fuzz-build/testing

fuzz() { compile_native_go_fuzzer "github.com/cloakroom/cloakroom/$1" "$2" "$3"; }

fuzz config FuzzLoad config_load
fuzz gateway FuzzBearerToken gateway_bearertoken
fuzz gateway FuzzClaimHas gateway_claimhas
fuzz gateway FuzzHeaderValue gateway_headervalue
fuzz gateway FuzzParseCredentials gateway_parsecredentials
fuzz gateway FuzzPending gateway_pending
fuzz gateway FuzzReturnPath gateway_returnpath
fuzz gateway FuzzTicketCookie gateway_ticketcookie
fuzz gateway/admin FuzzOrder gateway_admin_order
fuzz gateway/idp FuzzAccessToken gateway_idp_accesstoken
fuzz gateway/idp FuzzIDToken gateway_idp_idtoken
fuzz gateway/idp FuzzLogoutToken gateway_idp_logouttoken
fuzz gateway/idp FuzzMetadataAndKeys gateway_idp_metadataandkeys
fuzz gateway/idp FuzzTokenAnswer gateway_idp_tokenanswer
fuzz gateway/mint FuzzMint gateway_mint_mint
fuzz gateway/mint FuzzVerify gateway_mint_verify
fuzz gateway/proxy FuzzCanonicalPath gateway_proxy_canonicalpath
fuzz gateway/proxy FuzzLane gateway_proxy_lane
fuzz gateway/proxy FuzzMalformedFrames gateway_proxy_malformedframes
fuzz gateway/proxy FuzzRequestHeader gateway_proxy_requestheader
fuzz gateway/proxy FuzzStripCookies gateway_proxy_stripcookies
fuzz gateway/proxy FuzzStripPrefix gateway_proxy_stripprefix
fuzz gateway/strictjson FuzzParse gateway_strictjson_parse
fuzz gateway/upstream FuzzAnswers gateway_upstream_answers
fuzz gateway/upstream FuzzResponseHead gateway_upstream_responsehead
fuzz gateway/web FuzzBounce gateway_web_bounce
fuzz gateway/web FuzzFileName gateway_web_filename
fuzz session FuzzSections session_sections
fuzz session FuzzTicket session_ticket
fuzz session/store FuzzHear session_store_hear
fuzz session/store FuzzRecord session_store_record
