package gateway

import (
	"fmt"
	"testing"

	"github.com/cloakroom/cloakroom/session"
)

// A login that brings more than a session holds is the provider's doing, and no
// outage: another try wouldn't help.
func TestLoginTooLargeToBeKept(t *testing.T) {
	if p := explain(t.Context(), fmt.Errorf("begin: %w", session.ErrTooLarge)); p.code != codeLoginFailed || p.retryAfter != 0 {
		t.Errorf("%v", p.code)
	}
}
