// Package gatewaytest is a strict OpenID provider for tests and the demo, in
// the manner of net/http/httptest. It forgives nothing that a careful provider
// would refuse, it remembers every code and refresh token it ever saw, and it
// can be made to stop, stumble or lie at the exact moment a test needs.
//
// # Use
//
//	p := gatewaytest.Start(t, gatewaytest.Options{AutoLogin: gatewaytest.As("alice")})
//	client := p.Register(gatewaytest.Client{RedirectURIs: []string{gw + "/bff/callback"}})
//	// … point a gateway at p.Issuer() with client.ID, client.Secret …
//	hold := p.Gate(gatewaytest.GateBeforeCommit)
//	go refresh()
//	<-hold.Arrived()         // the refresh token is at the provider, unspent
//	hold.Release()
//	n := len(p.Redemptions(gatewaytest.SubjectOf("alice")))
//
// Without [Options.AutoLogin] a person meets a login page: alice, bob or any
// other name, with any password.
//
// # What it is strict about
//
//   - /authorize: a registered client, its redirect_uri to the letter, one value
//     per parameter, response_type=code, state, nonce and PKCE with S256.
//
//   - /token and /revoke: POST, a form body, nothing in the query, and exactly the
//     client authentication style that was registered; any other is invalid_client.
//
//   - A code lives a minute and works once; presented again it revokes what came
//     from it (RFC 6749 §4.1.2).
//
//   - Refresh tokens rotate. A spent one that is presented again revokes its whole
//     family: every token that descends from the same login (RFC 9700 §4.14.2).
//     [Options.Rotation] and [Options.ReuseInterval] soften that.
//
//   - The password grant is for clients registered for it and for users with a
//     password.
//
// # Signing out
//
// /end_session tells the clients of the session that has ended, by the channels
// they are registered with. [Provider.LogoutToken] makes logout tokens for a test
// to send, or to bend.
//
// # Ledger
//
// The ledger has one [Entry] for whatever happened to a code or a refresh token.
// It names tokens ("rt-3"), it does not hold them, so a test may print it.
// A token's first entry is Issued; every later one is a presentation, or its
// revocation. [Provider.Redemptions] and [Provider.Reuses] are the two questions
// most tests ask.
//
// # Gates and failures
//
// A [Hold] stops requests at a named point until it is released; see [Provider.Gate].
// [Provider.Fail] makes answers fail, before or after the token is spent.
// [Provider.Refuse] closes the port, [Provider.Accept] opens the same one again.
// The token is spent ("committed") in one step, under one lock; what a gate or
// a failure does lies wholly before or wholly after it.
//
// # Canaries
//
// Every secret carries a text that can be searched for where it must not be:
// see [Canaries].
//
// A Provider is safe for concurrent use. Nothing here is fit for production:
// it checks no password and keeps everything in memory, for ever.
package gatewaytest

import (
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Rotation says what a refresh answers in place of the refresh token it was given.
type Rotation int

const (
	RotateAlways Rotation = iota // a new one; the old one is spent (the default)
	RotateNever                  // none: the old one stays, and the answer has no refresh_token
	RotateRepeat                 // the old one stays, and the answer repeats it
)

// Options say how the provider behaves. The zero value rotates, revokes a
// family on reuse, signs with ES256 and shows a login page. [Provider.Change]
// alters them while it runs.
type Options struct {
	// Issuer is the provider's own URL, without a trailing slash. [Start] and
	// [Provider.Listen] fill it in from the address they listen on.
	Issuer string
	// Clients are the registered clients; [Provider.Register] adds more.
	Clients []Client
	// Users are known people beside alice and bob. Any other name is welcome
	// too and gets made-up claims; see [SubjectOf].
	Users []User
	// AutoLogin names the user that /authorize signs in without a page; "" shows
	// the page (or answers login_required to prompt=none). See [As].
	AutoLogin func(r *http.Request) (username string)

	// Algorithm signs all tokens: ES256 (the default) or RS256. Later changes
	// take effect at the next [Provider.RotateKeys].
	Algorithm string
	// Audience is the access tokens' aud. Default: "https://api.example.com".
	Audience string
	// AccessLife is the access token's life, by default 5 minutes, to the whole second.
	AccessLife time.Duration
	// IDTokenLife is the ID token's life, by default 5 minutes.
	IDTokenLife time.Duration
	// RefreshLife ends a refresh token this long after it was issued, and is told
	// as refresh_expires_in. 0: it does not end by time, and nothing is told.
	RefreshLife time.Duration
	// NoRefresh issues no refresh tokens at all.
	NoRefresh bool
	// Rotation is what becomes of refresh tokens that are used.
	Rotation Rotation
	// ReuseInterval lets a spent refresh token be presented again for so long:
	// the answer has another new refresh token, and it counts as no reuse.
	ReuseInterval time.Duration

	// The hooks below let a test bend an otherwise correct answer. They run
	// outside the provider's lock, possibly at the same time.
	EditDiscovery   func(doc map[string]any)
	EditCallback    func(query url.Values) // the parameters sent back to redirect_uri
	EditIDToken     func(r Request, claims map[string]any)
	EditAccessToken func(r Request, claims map[string]any)
	EditAnswer      func(r Request, answer map[string]any) // the JSON of a good token answer, e.g. its expires_in
	EditUserInfo    func(claims map[string]any)

	// Notify sends logout tokens to clients; nil: http.DefaultClient.
	Notify *http.Client
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log gets a line per request, without tokens; nil: none.
	Log *slog.Logger
}

// Client is a registration.
type Client struct {
	ID     string // default "cloakroom-test"
	Secret string // default: random, with a canary
	// Auth is client_secret_basic (the default) or client_secret_post.
	Auth                   string
	RedirectURIs           []string
	PostLogoutRedirectURIs []string
	// BackChannelLogoutURI gets a logout token, and FrontChannelLogoutURI an
	// iframe, when somebody signs out here; "": neither.
	BackChannelLogoutURI  string
	FrontChannelLogoutURI string
	// PasswordGrant lets the client present passwords.
	PasswordGrant bool
}

// User is somebody who can log in, on the page with any password.
type User struct {
	Username string
	Password string         // for the password grant; "": nobody has it
	Subject  string         // default: SubjectOf(Username)
	Claims   map[string]any // beside and above name, email, email_verified and picture
}

// SubjectOf is the sub of a user who was given no other.
func SubjectOf(username string) string { return "sub-" + username }

// As is an [Options.AutoLogin]: the user named by login_hint, else this one.
func As(username string) func(*http.Request) string {
	return func(r *http.Request) string {
		if hint := r.FormValue("login_hint"); hint != "" {
			return hint
		}
		return username
	}
}

// Provider is the OpenID provider, an http.Handler.
type Provider struct {
	requests atomic.Int64
	handling sync.RWMutex // read-held by requests under way; Close waits for them
	mux      *http.ServeMux

	mu       sync.Mutex // guards all below
	opts     Options
	clients  map[string]Client
	users    map[string]User // by username
	keys     []signingKey    // the first signs
	counts   map[Endpoint]int
	codes    map[string]*grantCode
	refresh  map[string]*refreshToken
	families map[string]*family
	logins   map[string]login // by the login cookie's value
	ledger   []Entry
	gates    []*Hold
	failures []*Failing
	notified []Notified

	server listening
}

// NewProvider returns a provider to be served at opts.Issuer, which may still
// be empty if [Provider.Listen] is called next.
func NewProvider(opts Options) *Provider {
	p := &Provider{
		opts:     opts,
		clients:  map[string]Client{},
		users:    map[string]User{},
		counts:   map[Endpoint]int{},
		codes:    map[string]*grantCode{},
		refresh:  map[string]*refreshToken{},
		families: map[string]*family{},
		logins:   map[string]login{},
	}
	p.keys = []signingKey{newSigningKey(opts.Algorithm)}
	for _, u := range opts.Users {
		p.users[u.Username] = u
	}
	for _, c := range opts.Clients {
		p.Register(c)
	}
	p.routes()
	return p
}

// Register adds a client, or replaces the one with its ID, and returns it with
// its defaults filled in.
func (p *Provider) Register(c Client) Client {
	if c.ID == "" {
		c.ID = "cloakroom-test"
	}
	if c.Secret == "" {
		c.Secret = clientSecretCanary + randomText()
	}
	if c.Auth == "" {
		c.Auth = "client_secret_basic"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients[c.ID] = c
	return c
}

// Change alters the options; requests already under way keep the old ones.
// Clients and Users are read once, at the start: use [Provider.Register] and
// [Provider.Enrol].
func (p *Provider) Change(f func(*Options)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.opts)
}

// Issuer is the provider's URL.
func (p *Provider) Issuer() string { return p.options().Issuer }

// Requests says how many requests an endpoint has had, failed ones included.
func (p *Provider) Requests(e Endpoint) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[e]
}

// options is a copy with the defaults filled in.
func (p *Provider) options() Options {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.opts
	if o.Audience == "" {
		o.Audience = "https://api.example.com"
	}
	if o.AccessLife == 0 {
		o.AccessLife = 5 * time.Minute
	}
	if o.IDTokenLife == 0 {
		o.IDTokenLife = 5 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// user is who a name stands for; every name stands for somebody.
func (p *Provider) user(username, issuer string) User {
	p.mu.Lock()
	u := p.users[username]
	p.mu.Unlock()
	if u.Subject == "" {
		u.Subject = SubjectOf(username)
	}
	letters := []rune(username)
	claims := map[string]any{
		"name":           strings.ToUpper(string(letters[:1])) + string(letters[1:]),
		"email":          username + "@example.com",
		"email_verified": true,
		"picture":        issuer + "/picture/" + url.PathEscape(username) + ".svg",
	}
	for k, v := range u.Claims {
		claims[k] = v
	}
	u.Username, u.Claims = username, claims
	return u
}
