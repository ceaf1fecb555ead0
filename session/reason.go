package session

import "github.com/cloakroom/cloakroom/session/store"

// Reason says why a session ended. It is part of the public interface.
type Reason string

const (
	ReasonIdleTimeout     Reason = "idle_timeout"
	ReasonAbsoluteTimeout Reason = "absolute_timeout"
	ReasonLoggedOut       Reason = "logged_out"
	ReasonRevoked         Reason = "revoked"
	ReasonProviderLogout  Reason = "provider_logout"
	ReasonReplaced        Reason = "replaced"
	ReasonSessionLimit    Reason = "session_limit"
	ReasonReuseDetected   Reason = "reuse_detected"
	ReasonRefreshRejected Reason = "refresh_rejected"
	ReasonStoreLost       Reason = "store_lost"
)

var endReasons = map[store.EndReason]Reason{
	store.EndIdle:     ReasonIdleTimeout,
	store.EndAbsolute: ReasonAbsoluteTimeout,
	3:                 ReasonLoggedOut,
	4:                 ReasonRevoked,
	5:                 ReasonProviderLogout,
	6:                 ReasonReplaced,
	7:                 ReasonSessionLimit,
	8:                 ReasonReuseDetected,
	9:                 ReasonRefreshRejected,
}

// code is the reason's number in a tombstone.
func (r Reason) code() store.EndReason {
	for code, reason := range endReasons {
		if reason == r {
			return code
		}
	}
	panic("session: a session can't end for " + string(r))
}

// reasonOf reads a tombstone. A newer release may have more reasons.
func reasonOf(code store.EndReason) Reason {
	if r, ok := endReasons[code]; ok {
		return r
	}
	return ReasonRevoked
}
