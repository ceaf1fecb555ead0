package main

import (
	"fmt"
	"strings"

	"github.com/cloakroom/cloakroom/config"
	"github.com/cloakroom/cloakroom/gateway/mint"
	"github.com/cloakroom/cloakroom/session"
)

// newIssuers makes each app's issuer of tokens; nil where it mints none. problems
// are all that is wrong with their keys and claims.
func newIssuers(cfg *config.Config, ring *session.Keyring) (issuers []*mint.Issuer, problems []config.Problem) {
	issuers = make([]*mint.Issuer, len(cfg.Apps))
	for i, a := range cfg.Apps {
		if a.Token.Mode != "mint" {
			continue
		}
		at := fmt.Sprintf("apps[%d].token", i)
		keys, wrong := signingKeys(cfg, at+".signing_keys", a.Token.SigningKeys)
		problems = append(problems, wrong...)
		if len(wrong) > 0 {
			continue // what the issuer would say of the keys has been said
		}
		c := mint.Config{
			Issuer:      a.Origin.String(),
			ClientID:    a.Provider.ClientID,
			Audience:    a.Token.Audience,
			Lifetime:    a.Token.Lifetime,
			Keys:        keys,
			PairwiseKey: mint.PairwiseKey(a.Token.PairwiseKey),
			Claims:      a.Token.Claims,
			SIDKeys: func(audience string) [][]byte {
				return ring.Derive("cloakroom/1 mint sid "+audience, a.Name, 32)
			},
		}
		if a.Token.Subject == "provider" {
			c.Subject = mint.Provider
		}
		var err error
		if issuers[i], err = mint.New(c); err != nil {
			// All else that could be wrong, the config package has refused.
			for line := range strings.Lines(err.Error()) {
				problems = append(problems, cfg.Problem(at+".claims", strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "mint: ")))
			}
		}
	}
	return issuers, problems
}

// signingKeys parses the PEM texts of the list named at.
func signingKeys(cfg *config.Config, at string, texts []config.Secret) (keys []mint.SigningKey, problems []config.Problem) {
	first := map[string]int{} // by the key's id
	for i, text := range texts {
		key, err := mint.ParseSigningKey([]byte(text))
		if err != nil {
			message := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "mint: "), "a signing key ")
			problems = append(problems, cfg.Problem(fmt.Sprintf("%s[%d]", at, i), message))
			continue
		}
		if n, twice := first[key.ID()]; twice {
			problems = append(problems, cfg.Problem(fmt.Sprintf("%s[%d]", at, i), fmt.Sprintf("is the same key as %s[%d]", at, n)))
			continue
		}
		first[key.ID()] = i
		keys = append(keys, key)
	}
	return keys, problems
}
