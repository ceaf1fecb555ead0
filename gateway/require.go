package gateway

import (
	"encoding/json"
	"errors"
	"slices"
)

// permit checks a route's Require against what is known of the caller.
func (rt *Route) permit(claims []byte) error {
	if len(rt.Require) == 0 {
		return nil
	}
	var all map[string]json.RawMessage
	if len(claims) > 0 && json.Unmarshal(claims, &all) != nil {
		return &problem{code: codeAccessDenied, err: errors.New("unreadable claims")}
	}
	for name, wanted := range rt.Require {
		if !claimHas(all[name], wanted) {
			return &problem{code: codeAccessDenied, detail: "a claim that is required here is missing or has another value", err: errors.New("claim " + name)}
		}
	}
	return nil
}

// claimHas reports whether a claim is one of the wanted texts, or an array that
// holds one. Values of other types match nothing.
func claimHas(claim json.RawMessage, wanted []string) bool {
	var one string
	if json.Unmarshal(claim, &one) == nil && len(claim) > 0 && claim[0] == '"' {
		return slices.Contains(wanted, one)
	}
	var many []any
	if json.Unmarshal(claim, &many) != nil {
		return false
	}
	return slices.ContainsFunc(many, func(v any) bool {
		s, ok := v.(string)
		return ok && slices.Contains(wanted, s)
	})
}
