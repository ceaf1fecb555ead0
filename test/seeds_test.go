package test

import (
	"testing"
)

// Each of the five designs that were the starting point (docs/requirements.md)
// says what must work. Here every row of them is shown from outside: the built
// binary, a Redis, a provider, browsers. Rows are short; the tests that
// docs/requirements.md names go further.
func TestSeeds(t *testing.T) {
	for _, row := range []struct {
		name  string
		shown func(*testing.T)
	}{
		{"A/the refresh token is usable only through the session's own cookie", refreshTokenNeedsItsCookie},
		{"A/cut-off time is a setting, and known", cutOffTimeIsASetting},
		{"A/rotation, the old one dead, tombstones until expiry, reuse seen", oldOnesAreDeadAndRemembered},
		{"A/remember me", rememberedSessionsRotate},
		{"A/resource servers need no call per request", resourceServersAskNobody},
		{"B/distinct, documented signals", signalsAreDistinct},
		{"B/an outside system ends sessions, at once, on every replica", outsideSystemsEndSessions},
		{"B/a live token of an ended session is refused", liveTokenOfAnEndedSession},
		{"B/403 for a locked account, not 401", lockedIs403},
		{"C/one use per refresh token; the pair rotates together", pairRotatesTogether},
		{"C/theft shows itself; a new login makes the stolen one worthless", theftShowsItself},
		{"C/asymmetric signatures", signaturesAreAsymmetric},
		{"D/refresh token on the server, cookie in the browser, access token in memory", tokensBehindTheCounter},
		{"D/reissuing the refresh token kills the old session id", reissueKillsTheOldID},
		{"D/password login", passwordLoginAnswers},
		{"D/a changed password ends sessions", changedPasswordEnds},
		{"D/public keys for resource servers", publicKeysAreServed},
		{"E/both halves after the tab was closed; only a salted hash is stored", bothHalvesAreNeeded},
		{"E/a pseudonymous subject in tokens", subjectIsAPseudonym},
		{"E/rotation at an interval", bothHalvesRotate},
		{"E/any mismatch leads to login", mismatchLeadsToLogin},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			row.shown(t)
		})
	}
}

// altered is a text of base64url with another letter in its middle.
func altered(text string) string {
	i, other := len(text)/2, "A"
	if text[i] == 'A' {
		other = "B"
	}
	return text[:i] + other + text[i+1:]
}
