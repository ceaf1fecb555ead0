package gateway

import (
	"encoding/json"
	"errors"
	"slices"
)

// judge checks a route's Require against what is known of the caller, and tells
// its upstream what it asks to know.
func (rt *Route) judge(c *caller) error {
	if len(rt.Require) == 0 && len(rt.Headers) == 0 {
		return nil
	}
	var claims map[string]json.RawMessage
	if len(c.claims) > 0 && json.Unmarshal(c.claims, &claims) != nil {
		return &problem{code: codeAccessDenied, err: errors.New("unreadable claims")}
	}
	if err := rt.permit(claims); err != nil {
		return err
	}
	var err error
	c.headers, err = rt.claimHeaders(claims)
	return err
}

func (rt *Route) permit(all map[string]json.RawMessage) error {
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
