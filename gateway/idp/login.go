package idp

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Transaction is one login under way: what ties the provider's answer to the
// browser that asked. The caller keeps it where only that browser can bring it
// back, and uses it once.
type Transaction struct {
	State    string   // 128 random bits; comes back beside the code
	Nonce    string   // 128 random bits; comes back inside the ID token
	Verifier Verifier // 256 random bits; PKCE's, seen by the token endpoint alone
	// MaxAge is the max_age that LoginURL sends, in seconds, where the browser asked
	// for one and AuthorizationParams have none; empty: none. The ID token's
	// auth_time is then checked as with theirs.
	MaxAge string
}

// SetMaxAge takes a browser's wish; what is no number of seconds is none.
func (t *Transaction) SetMaxAge(s string) {
	t.MaxAge = ""
	if age, err := parseMaxAge(s); err == nil {
		t.MaxAge = strconv.Itoa(int(age / time.Second)) // one spelling
	}
}

// NewTransaction draws a transaction.
func NewTransaction() Transaction {
	return Transaction{State: random(16), Nonce: random(16), Verifier: Verifier(random(32))}
}

// ok is false for the zero value above all: an empty nonce would otherwise be
// the one of an ID token without any.
func (t Transaction) ok() bool {
	return len(t.State) >= 22 && len(t.Nonce) >= 22 && len(t.Verifier) >= 43 && len(t.Verifier) <= 128
}

func random(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// ownParam holds the names in an authorization request that are ours alone.
// Some are not sent: they would change how the answer comes back, or replace
// the request as a whole (RFC 9101).
var ownParam = map[string]bool{
	"client_id": true, "redirect_uri": true, "response_type": true, "response_mode": true, "scope": true,
	"state": true, "nonce": true, "code_challenge": true, "code_challenge_method": true,
	"request": true, "request_uri": true, "registration": true,
	"client_secret": true, "client_assertion": true, "client_assertion_type": true,
}

// LoginURL returns the authorization request's URL (OpenID Connect Core 1.0
// section 3.1.2.1, RFC 7636): a code, PKCE with S256 always, state, nonce, and
// AuthorizationParams. extra comes from the browser and is filtered by the
// caller; a name that is in the URL already is dropped, as are all but the
// first of several values. Its max_age is the transaction's.
//
// The error is ErrUnavailable or ErrRejected.
func (p *Provider) LoginURL(ctx context.Context, tx Transaction, extra url.Values) (string, error) {
	if !tx.ok() {
		return "", errors.New("idp: transaction was not made by NewTransaction")
	}
	m, err := p.metadata.get(ctx)
	if err != nil {
		return "", err
	}
	challenge := sha256.Sum256([]byte(tx.Verifier))
	q := url.Values{
		"response_type":         {"code"},
		"client_id":             {p.cfg.ClientID},
		"redirect_uri":          {p.cfg.RedirectURI},
		"scope":                 {strings.Join(p.cfg.Scopes, " ")},
		"state":                 {tx.State},
		"nonce":                 {tx.Nonce},
		"code_challenge":        {base64.RawURLEncoding.EncodeToString(challenge[:])},
		"code_challenge_method": {"S256"},
	}
	for name, v := range p.cfg.AuthorizationParams {
		q.Set(name, v)
	}
	if tx.MaxAge != "" && !q.Has(paramMaxAge) {
		q.Set(paramMaxAge, tx.MaxAge)
	}
	for name, v := range extra {
		if !ownParam[name] && name != paramMaxAge && !q.Has(name) && len(v) > 0 {
			q.Set(name, v[0])
		}
	}
	return addQuery(m.authorization, q)
}

// CheckIssuer judges the iss parameter of an authorization response, empty if
// there was none, before its code is spent (RFC 9207 section 2.4): compared
// exactly if present, required if the provider says that it sends it. It is for
// error responses too. A response with several iss parameters is the caller's
// to refuse.
//
// The error is ErrRejected, or ErrUnavailable where the provider's metadata
// can't be had.
func (p *Provider) CheckIssuer(ctx context.Context, iss string) error {
	if iss != "" {
		if iss != p.cfg.Issuer {
			return fmt.Errorf("callback: %w: iss names another issuer", ErrRejected)
		}
		return nil
	}
	m, err := p.metadata.get(ctx)
	if err != nil {
		return err
	}
	if m.issParameter {
		return fmt.Errorf("callback: %w: iss is missing", ErrRejected)
	}
	return nil
}

// paramMaxAge says how long ago a person may have proved who they are, in seconds
// (OpenID Connect Core 1.0 section 3.1.2.1).
const paramMaxAge = "max_age"

func parseMaxAge(s string) (time.Duration, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, errors.New("max_age: must be a number of seconds")
	}
	return time.Duration(n) * time.Second, nil
}
