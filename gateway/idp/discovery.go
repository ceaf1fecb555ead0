package idp

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/cloakroom/cloakroom/gateway/strictjson"
)

// metadata is what we use of the provider's discovery document (OpenID Connect
// Discovery 1.0 section 3, RFC 8414). Each endpoint is checked; the optional
// ones are empty where the provider has none.
type metadata struct {
	authorization string
	token         string
	keys          string
	userInfo      string
	revocation    string
	endSession    string
	// issParameter: each authorization response carries iss (RFC 9207).
	issParameter bool
	// algorithms are those that ID tokens may be signed with.
	algorithms []string
	// doubts are Provider.Doubts.
	doubts []string
}

func (p *Provider) fetchMetadata(ctx context.Context) (*metadata, error) {
	target := strings.TrimSuffix(p.cfg.Issuer, "/") + "/.well-known/openid-configuration"
	a, err := p.getJSON(ctx, opDiscovery, target, "", maxAnswer)
	if err != nil {
		return nil, err
	}
	if !a.isJSON() {
		return nil, fmt.Errorf("%s: %w: the answer is not application/json", opDiscovery, ErrRejected)
	}
	m, err := p.parseMetadata(a.body)
	if err != nil {
		return nil, err
	}
	for _, d := range m.doubts {
		p.cfg.Log.Warn("identity provider: its metadata don't go with this gateway", "issuer", p.cfg.Issuer, "doubt", d)
	}
	return m, nil
}

func (p *Provider) parseMetadata(body []byte) (*metadata, error) {
	o, err := strictjson.Parse(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %v", opDiscovery, ErrUnavailable, err)
	}
	// Section 4.3: a document of another issuer is another provider's, whose
	// endpoints would be given this one's codes and secret.
	if issuer, ok := o.String("issuer"); !ok || issuer != p.cfg.Issuer {
		return nil, fmt.Errorf("%s: %w: the document names another issuer", opDiscovery, ErrRejected)
	}
	m := new(metadata)
	for _, e := range []struct {
		name     string
		to       *string
		required bool
	}{
		{"authorization_endpoint", &m.authorization, true},
		{"token_endpoint", &m.token, true},
		{"jwks_uri", &m.keys, true},
		{"userinfo_endpoint", &m.userInfo, p.cfg.UserInfo},
		{"revocation_endpoint", &m.revocation, false},
		{"end_session_endpoint", &m.endSession, false},
	} {
		raw, ok := o.String(e.name)
		if !ok || raw == "" && e.required {
			return nil, fmt.Errorf("%s: %w: %s is missing", opDiscovery, ErrRejected, e.name)
		}
		if raw == "" {
			continue
		}
		// A provider on the network has no business at our loopback.
		if _, err := endpoint(raw, p.origin.Scheme == "http"); err != nil {
			return nil, fmt.Errorf("%s: %w: %s %v", opDiscovery, ErrRejected, e.name, err)
		}
		*e.to = raw
	}
	const iss = "authorization_response_iss_parameter_supported"
	switch v := string(o[iss]); v {
	case "true":
		m.issParameter = true
	case "false", "null", "":
	default:
		return nil, fmt.Errorf("%s: %w: %s is not a boolean", opDiscovery, ErrRejected, iss)
	}
	const algs = "id_token_signing_alg_values_supported"
	m.algorithms = acceptable
	if o.Has(algs) {
		named, ok := o.Strings(algs)
		if !ok {
			return nil, fmt.Errorf("%s: %w: %s is not a list of strings", opDiscovery, ErrRejected, algs)
		}
		m.algorithms = slices.DeleteFunc(slices.Clone(acceptable), func(a string) bool { return !slices.Contains(named, a) })
		if len(m.algorithms) == 0 {
			return nil, fmt.Errorf("%s: %w: %s holds no algorithm that is accepted here", opDiscovery, ErrRejected, algs)
		}
	}
	m.doubts = p.doubts(o)
	return m, nil
}

// doubts are about what is sent all the same: metadata are no more than what a
// provider says of itself, and many leave something out.
func (p *Provider) doubts(o strictjson.Object) (all []string) {
	// RFC 9700 section 2.1.1: the metadata are how support for PKCE is told.
	if methods, _ := o.Strings("code_challenge_methods_supported"); !slices.Contains(methods, "S256") {
		all = append(all, "code_challenge_methods_supported doesn't name S256: it may not check the PKCE that each login has (RFC 7636)")
	}
	const auth = "token_endpoint_auth_methods_supported" // not there: client_secret_basic, among others
	if methods, ok := o.Strings(auth); o.Has(auth) && (!ok || !slices.Contains(methods, p.cfg.ClientAuth)) {
		all = append(all, auth+" doesn't name the client_auth that is configured, "+p.cfg.ClientAuth)
	}
	if string(o["require_pushed_authorization_requests"]) == "true" {
		all = append(all, "require_pushed_authorization_requests is true: logins aren't pushed here (RFC 9126), so it will refuse them")
	}
	return all
}

// addQuery returns raw with params in its query, in place of any of the same
// names. raw has been checked.
func addQuery(raw string, params url.Values) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", fmt.Errorf("%w: endpoint is not a URL", ErrRejected) // unreachable
	}
	q := u.Query()
	for name, v := range params {
		q[name] = v
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}
