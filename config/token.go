package config

import (
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

const (
	// maxSigningKeys bounds the key set that resource servers fetch.
	maxSigningKeys = 8
	// maxAudience and maxName bound what stands in every token.
	maxAudience = 16
	maxName     = 256
)

// identifying are claims that name the user to whoever reads them.
var identifying = []string{"email", "phone_number", "preferred_username", "nickname", "upn", "unique_name", "oid", "name"}

// published are the paths at which resource servers find minted tokens' keys.
var published = []string{"/.well-known/jwks.json", "/.well-known/openid-configuration"}

// token reads how the page gets access tokens. What isn't said by any key of
// mint's own stays empty in the other modes.
func (l *loader) token(o *object, routes []Route, at value) Token {
	defer o.done()
	mode, lifetime, audience := o.get("mode"), o.get("lifetime"), o.get("audience")
	keys, subject := o.get("signing_keys"), o.get("subject")
	pairwise, claims := o.get("pairwise_key"), o.get("claims")
	var t Token
	if mode.require(": relay, mint or off") {
		t.Mode = mode.choice("", "relay", "mint", "off")
	}
	bearer := slices.ContainsFunc(routes, func(r Route) bool { return slices.Contains(r.Accept, "bearer") })
	switch t.Mode {
	case "mint":
		// Each second is one in which a token outlives its session; a page needs
		// new ones at half-time.
		t.Lifetime = lifetime.duration(5*time.Minute, 5*time.Second, time.Hour)
		if t.Lifetime > 10*time.Minute {
			l.warn(lifetime, "is long: a minted token that has leaked, or whose session has ended, is good for all of it wherever it isn't verified here")
		}
		if audience.require(": the resource servers that the tokens are for") {
			t.Audience = names(audience, maxAudience)
		}
		t.SigningKeys = signingKeys(keys)
		t.Subject = subject.choice("pairwise", "pairwise", "provider")
		t.PairwiseKey = pairwiseKey(pairwise, t.Subject)
		t.Claims = names(claims, 64)
		for _, r := range routes {
			if slices.Contains(published, strings.TrimSuffix(r.Path, "/")) {
				at.problem("can't lead anywhere from %s: in mode mint it is the gateway's own", r.Path)
			}
		}
		if i := slices.IndexFunc(t.Claims, func(c string) bool { return slices.Contains(identifying, strings.ToLower(c)) }); i >= 0 && t.Subject == "pairwise" {
			l.warn(claims, "holds what names the user: audiences that compare notes see through pairwise subjects")
		}
		return t
	case "relay":
		switch {
		case bearer && audience.require(": routes accept bearers, and must know which are meant for them"):
			t.Audience = names(audience, maxAudience)
		case !bearer && audience.set():
			audience.problem("has no effect in mode relay unless a route accepts bearer")
		}
		if bearer {
			l.warn(at, "accept the provider's own tokens as bearers: ending a session refuses those that were handed out here, and no others")
		}
	case "off":
		if audience.set() {
			audience.problem("has no effect in mode off")
		}
		for _, r := range routes {
			if slices.Contains(r.Accept, "bearer") {
				at.problem("can't accept bearer where token.mode is off: %s does", r.Path)
			}
		}
	default:
		return t // reported; who knows what was meant
	}
	for _, v := range []value{lifetime, keys, subject, pairwise, claims} {
		if v.set() {
			v.problem("is for mode mint")
		}
	}
	return t
}

// names are a list's texts, at least one, none too long.
func names(v value, most int) []string {
	out := v.strings()
	list, _ := v.node.(*ast.SequenceNode) // anything else is reported
	switch {
	case list != nil && len(list.Values) == 0:
		v.problem("is empty")
	case len(out) > most:
		v.problem("holds too many: at most %d", most)
	case slices.ContainsFunc(out, func(s string) bool { return len(s) > maxName }):
		v.problem("holds a text of more than %d bytes", maxName)
	}
	return out
}

// signingKeys are PEM texts; whoever signs with them knows if they can be used.
func signingKeys(v value) []Secret {
	if !v.require(": make one with `cloakroom keys new --signing ES256`") {
		return nil
	}
	list, ok := v.list()
	if ok && len(list) == 0 {
		v.problem("is empty: make a key with `cloakroom keys new --signing ES256`")
	}
	if len(list) > maxSigningKeys {
		v.problem("holds too many: at most %d", maxSigningKeys)
		return nil
	}
	var out []Secret
	for _, e := range list {
		// Apps don't share keys: what one app's tokens are verified with must
		// not take another's.
		if s, ok := e.lines("signing " + v.path); ok && s != "" {
			out = append(out, s)
		} else if ok {
			e.problem("is empty")
			out = append(out, "")
		} else {
			out = append(out, "") // reported: the others keep their places
		}
	}
	return out
}

// pairwiseKey takes what `cloakroom keys new` prints, so that its strength is
// beyond doubt. Two apps may share one: then a user has one name at an audience
// of both.
func pairwiseKey(v value, subject string) Secret {
	if subject != "pairwise" {
		if v.set() {
			v.problem("is for subject pairwise")
		}
		return ""
	}
	if !v.require(": make one with `cloakroom keys new`, and never replace it: a new one makes every user somebody else") {
		return ""
	}
	s, ok := v.secret("pairwise")
	if !ok {
		return ""
	}
	if _, wrong := parseKey(string(s)); wrong != "" {
		v.problem("%s", wrong)
	}
	return s
}
