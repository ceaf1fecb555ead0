// Package idp speaks to an identity provider over HTTP: discovery, the login
// URL, the code exchange with all checks of the ID token, userinfo, refresh,
// revocation and the logout URL; and it checks what the provider signs for others
// to bring: logout tokens and access tokens. It is a confidential client of the
// authorization code flow with PKCE (RFC 6749, RFC 7636, OpenID Connect Core).
//
// A login takes three calls. [Provider.LoginURL] makes the URL that the browser
// is sent to, from a [Transaction] that the caller keeps in the browser that
// started it. Back at the callback the caller compares the state, asks
// [Provider.CheckIssuer] about the iss parameter, and only then spends the code
// with [Provider.Exchange]. Where the operator runs the provider and asks for it,
// [Provider.PasswordGrant] takes the place of all three.
//
// # What it promises
//
// A code, a password and a refresh token are presented once per call. Nothing is retried
// whose first byte may have left this process, no redirect is followed, and the
// one configured style of client authentication is used, never probed. Each
// call has a deadline of its own besides the caller's context; each answer is
// read up to a limit.
//
// What is known from the provider (its metadata and its keys) is fetched when
// first needed, by one request however many wait for it, and at most once in
// five seconds where fetching fails or a token names a key that isn't there. The
// last good copy serves while the provider can't be reached.
//
// A login that fails after its tokens were issued hands them back, in the
// background.
//
// A token of one kind never does for another: ID tokens, access tokens and logout
// tokens are told apart by their typ, and by their claims where typ doesn't say.
//
// No error, log line or metric holds a token, a code, a password, a secret, a
// query or a piece of an answer's text.
//
// # What it doesn't do
//
// It keeps no session and stores no token, and it decides nothing that isn't in
// an answer: what becomes of a session after a refresh is the caller's business.
// That a logout token comes once only is the caller's to ensure, as is that an
// access token's session hasn't ended. It accepts neither encrypted nor
// HMAC-signed tokens, nor signed userinfo.
//
// All methods of a [Provider] may be called from several goroutines at once.
package idp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// ErrUnavailable means that the provider could not be reached, was too slow,
// or had nothing readable to say. The same call may succeed later. Where the
// caller's own context ended, the error wraps the context's too.
var ErrUnavailable = errors.New("identity provider unavailable")

// ErrRejected means that the provider refused, or that what it sent is not
// acceptable: a wrong issuer, an ID token that doesn't hold, an unsafe endpoint.
var ErrRejected = errors.New("rejected")

const redacted = "[redacted]"

// The credentials that pass through this package. They print as "[redacted]";
// only string(t) reveals them.
type (
	AccessToken  string
	RefreshToken string
	IDToken      string
	ClientSecret string
	Verifier     string // PKCE's code_verifier
)

func (AccessToken) String() string        { return redacted }
func (AccessToken) GoString() string      { return redacted }
func (AccessToken) LogValue() slog.Value  { return slog.StringValue(redacted) }
func (RefreshToken) String() string       { return redacted }
func (RefreshToken) GoString() string     { return redacted }
func (RefreshToken) LogValue() slog.Value { return slog.StringValue(redacted) }
func (IDToken) String() string            { return redacted }
func (IDToken) GoString() string          { return redacted }
func (IDToken) LogValue() slog.Value      { return slog.StringValue(redacted) }
func (ClientSecret) String() string       { return redacted }
func (ClientSecret) GoString() string     { return redacted }
func (ClientSecret) LogValue() slog.Value { return slog.StringValue(redacted) }
func (Verifier) String() string           { return redacted }
func (Verifier) GoString() string         { return redacted }
func (Verifier) LogValue() slog.Value     { return slog.StringValue(redacted) }

// The styles of client authentication (RFC 6749 section 2.3.1).
const (
	ClientSecretBasic = "client_secret_basic"
	ClientSecretPost  = "client_secret_post"
)

// Config is one client registration at one provider.
type Config struct {
	// Issuer is compared byte for byte wherever an issuer is named. It is an
	// https URL; http is accepted for a loopback host alone.
	Issuer       string
	ClientID     string
	ClientSecret ClientSecret
	// ClientAuth is ClientSecretBasic or ClientSecretPost.
	ClientAuth string
	// RedirectURI is where the provider sends the browser back to.
	RedirectURI string
	// Scopes holds "openid" at least.
	Scopes []string
	// AuthorizationParams go into each login URL. They can't name a parameter
	// that the login itself needs. With a max_age among them the ID token's
	// auth_time is required and checked, as it is with a Transaction's.
	AuthorizationParams map[string]string
	// UserInfo asks the userinfo endpoint at each login.
	UserInfo bool
	// EndSessionEndpoint takes the place of discovery's.
	EndSessionEndpoint string

	// Transport carries the requests; nil means one of NewTransport's. It must
	// neither follow redirects nor repeat requests. With one whose connections
	// aren't NewTransport's, a refresh that fails on a dead connection is
	// Unknown, where it could be NotSent or go over another connection.
	Transport http.RoundTripper
	// Timeout bounds each call to the provider; 0 means 10 s.
	Timeout time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log hears of failed fetches and of ID tokens that don't hold; nil
	// discards.
	Log *slog.Logger
	// Metrics may be shared by several providers; nil measures nothing.
	Metrics *Metrics
}

// Grant is what the provider gave at a login or a refresh.
type Grant struct {
	Access    AccessToken
	TokenType string // as the provider spells it: "Bearer" in some case
	Scope     string // empty where the provider named none
	// ExpiresIn is the access token's life, never zero: what the provider
	// told, at most 30 days; else what is left until the exp of an access token
	// that is a JWT; else 5 minutes.
	ExpiresIn time.Duration
	// Refresh is empty where the provider sent none.
	Refresh RefreshToken
	// RefreshExpiresIn is the refresh token's life; 0 where the provider
	// doesn't tell.
	RefreshExpiresIn time.Duration
	// ID is empty after a refresh that brought no acceptable ID token, and after
	// a PasswordGrant that brought none.
	ID        IDToken
	Issuer    string
	Subject   string
	SessionID string    // the ID token's sid, if any; without one, the access token's
	AuthTime  time.Time // zero where the provider doesn't tell
	// Claims is a JSON object: the ID token's claims and, beside them,
	// userinfo's; without an ID token, userinfo's or the access token's. After a refresh it is nil where there is nothing to put in
	// place of the claims from the login: no ID token, or UserInfo, which is
	// asked at logins only.
	Claims []byte
}

// Provider is an OpenID provider and our registration at it.
type Provider struct {
	cfg       Config
	origin    *url.URL // the issuer
	transport http.RoundTripper
	metadata  *remote[metadata]
	keys      *remote[keySet]
	undoing   chan struct{} // holds one for each undo under way
	logins    chan struct{} // holds one for each login under way
}

// New checks cfg and makes a Provider. It does no I/O: the provider may be down.
func New(cfg Config) (*Provider, error) {
	origin, err := endpoint(cfg.Issuer, true)
	if err != nil {
		return nil, fmt.Errorf("issuer: %v", err)
	}
	if origin.RawQuery != "" {
		return nil, errors.New("issuer: must not have a query")
	}
	if cfg.ClientID == "" {
		return nil, errors.New("client_id: is missing")
	}
	if cfg.ClientSecret == "" {
		return nil, errors.New("client_secret: is missing")
	}
	if cfg.ClientAuth != ClientSecretBasic && cfg.ClientAuth != ClientSecretPost {
		return nil, fmt.Errorf("client_auth: must be %s or %s", ClientSecretBasic, ClientSecretPost)
	}
	if u, err := url.Parse(cfg.RedirectURI); err != nil || u.Scheme == "" || u.Host == "" || u.Fragment != "" {
		return nil, errors.New("redirect URI: must be an absolute URL without a fragment")
	}
	if !slices.Contains(cfg.Scopes, "openid") {
		return nil, errors.New("scopes: openid is missing")
	}
	for name := range cfg.AuthorizationParams {
		if ownParam[name] {
			return nil, fmt.Errorf("authorization_params: %s is set by the login itself", name)
		}
	}
	if s, ok := cfg.AuthorizationParams[paramMaxAge]; ok {
		if _, err := parseMaxAge(s); err != nil {
			return nil, fmt.Errorf("authorization_params: %v", err)
		}
	}
	if cfg.EndSessionEndpoint != "" {
		if _, err := endpoint(cfg.EndSessionEndpoint, origin.Scheme == "http"); err != nil {
			return nil, fmt.Errorf("end_session_endpoint: %v", err)
		}
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Provider{cfg: cfg, origin: origin, transport: cfg.Transport, undoing: make(chan struct{}, maxUndo), logins: make(chan struct{}, maxLogins)}
	if p.transport == nil {
		p.transport = NewTransport()
	}
	p.metadata = &remote[metadata]{now: cfg.Now, timeout: cfg.Timeout, fetch: p.fetchMetadata, failed: p.logFailure("discovery")}
	p.keys = &remote[keySet]{now: cfg.Now, timeout: cfg.Timeout, fetch: p.fetchKeys, failed: p.logFailure("keys")}
	return p, nil
}

// Discover fetches the provider's metadata unless they are known. No call needs
// it first; it serves a check, or a start that wants to be ready early. The
// error is ErrUnavailable or ErrRejected.
func (p *Provider) Discover(ctx context.Context) error {
	_, err := p.metadata.get(ctx)
	return err
}

// Doubts are what the provider's metadata, as last fetched, say that doesn't go with
// what is sent to it: in words, for the operator. They keep no login from being
// tried. Nil where nothing is known yet.
func (p *Provider) Doubts() []string {
	p.metadata.mu.Lock()
	defer p.metadata.mu.Unlock()
	if p.metadata.value == nil {
		return nil
	}
	return p.metadata.value.doubts
}

// Origin is the issuer's scheme and host.
func (p *Provider) Origin() string { return p.origin.Scheme + "://" + p.origin.Host }

// Ready reports whether the metadata have been fetched once.
func (p *Provider) Ready() bool { return p.metadata.known() }

func (p *Provider) logFailure(what string) func(error) {
	return func(err error) {
		p.cfg.Log.Warn("identity provider: fetch failed", "what", what, "issuer", p.cfg.Issuer, "err", err)
	}
}
