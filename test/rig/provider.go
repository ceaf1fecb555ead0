package rig

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

// Registration is what a gateway has to know of its provider.
type Registration struct {
	Issuer       string
	ClientID     string
	ClientSecret string
	ClientAuth   string
	Scopes       []string
}

// Strict starts the strict provider with a client for the app at origin.
func Strict(t testing.TB, origin string, opts gatewaytest.Options) (*gatewaytest.Provider, Registration) {
	t.Helper()
	p := gatewaytest.Start(t, opts)
	c := p.Register(gatewaytest.Client{
		RedirectURIs:           []string{origin + "/bff/callback"},
		PostLogoutRedirectURIs: []string{origin + "/bff/logged-out"},
	})
	return p, Registration{p.Issuer(), c.ID, c.Secret, c.Auth, []string{"openid", "profile", "email", "offline_access"}}
}

// Certified is npm's oidc-provider: see test/provider.
type Certified struct {
	t      testing.TB
	issuer string
	addr   string // host:port, behind what link there may be
	secret string
}

// Exchange is one line of its ledger: a request at the token endpoint.
type Exchange struct {
	Time         time.Time `json:"time"`
	GrantType    string    `json:"grant_type"`
	Outcome      string    `json:"outcome"` // ok, or an OAuth error, or family_revoked
	Subject      string    `json:"subject"`
	Presented    string    `json:"presented"`
	Verifier     string    `json:"verifier"`
	AccessToken  string    `json:"access_token"`
	RefreshToken string    `json:"refresh_token"`
	IDToken      string    `json:"id_token"`
}

// NewCertified starts oidc-provider with a client for the app at origin, and with
// further settings in the environment. Its access tokens live for accessTTL, to
// the second.
func NewCertified(t testing.TB, origin string, accessTTL time.Duration, env ...string) *Certified {
	t.Helper()
	dir := filepath.Join(Root(), "test", "provider")
	c := &Certified{t: t, secret: Random() + Random()}
	cmd := exec.Command("node", "provider.mjs")
	cmd.Dir = dir
	cmd.Env = append(append(environ(), env...),
		"PORT=0",
		"CLIENT_ID=cloakroom-test",
		"CLIENT_SECRET="+c.secret,
		"REDIRECT_URIS="+origin+"/bff/callback",
		"POST_LOGOUT_REDIRECT_URIS="+origin+"/bff/logged-out",
		"ACCESS_TTL="+strconv.Itoa(int(accessTTL.Seconds())),
	)
	stdin, err := cmd.StdinPipe() // held open: the provider ends with the test, even one that crashes
	if err != nil {
		t.Fatalf("rig: %v", err)
	}
	t.Cleanup(func() { stdin.Close() })
	p := Start(t, cmd)
	Eventually(t, "oidc-provider listens (npm ci in test/provider?)", func() bool {
		for line := range strings.Lines(p.Output()) {
			var first struct{ Event, Issuer, Address string }
			if json.Unmarshal([]byte(line), &first) == nil && first.Event == "listening" {
				c.issuer, c.addr = first.Issuer, first.Address
				return true
			}
		}
		select {
		case <-p.Done():
			t.Fatalf("rig: oidc-provider ended; was npm ci run in test/provider?\n%s", p.Output())
		default:
		}
		return false
	})
	return c
}

// Registration is what a gateway has to know of it.
func (c *Certified) Registration() Registration {
	return Registration{c.issuer, "cloakroom-test", c.secret, "client_secret_basic", []string{"openid", "profile", "email", "offline_access", "api:read"}}
}

// Addr is where it listens, as host:port.
func (c *Certified) Addr() string { return c.addr }

// Ledger is everything the token endpoint has answered.
func (c *Certified) Ledger() (ledger []Exchange) {
	c.t.Helper()
	c.list("/ledger", &ledger)
	return ledger
}

// Event is what oidc-provider itself tells of a grant or a refresh token.
type Event struct {
	At        float64 `json:"at"` // milliseconds of the wall clock
	Event     string  `json:"event"`
	Route     string  `json:"route"` // token, revocation, …; "" of a token's own events
	GrantType string  `json:"grant_type"`
	Presented string  `json:"presented"` // the token or code itself
	Issued    string  `json:"issued"`
	Family    string  `json:"family"` // the grant's id
	Subject   string  `json:"subject"`
	Error     string  `json:"error"`
	Detail    string  `json:"detail"`
}

// Events are all of them so far, in order.
func (c *Certified) Events() (events []Event) {
	c.t.Helper()
	c.list("/events", &events)
	return events
}

func (c *Certified) list(path string, into any) {
	c.t.Helper()
	resp, err := client.Get("http://" + c.addr + path)
	if err != nil {
		c.t.Fatalf("rig: %s: %v", path, err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		c.t.Fatalf("rig: %s: %v", path, err)
	}
}

// Refreshes are the ledger's lines about refresh tokens.
func (c *Certified) Refreshes() []Exchange {
	c.t.Helper()
	var found []Exchange
	for _, e := range c.Ledger() {
		if e.GrantType == "refresh_token" {
			found = append(found, e)
		}
	}
	return found
}

func (e Exchange) String() string {
	return fmt.Sprintf("%s %s %s: %s", e.Time.Format("15:04:05.000"), e.GrantType, e.Subject, e.Outcome)
}
