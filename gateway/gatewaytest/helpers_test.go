package gatewaytest

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	callback  = "https://app.example/bff/callback"
	loggedOut = "https://app.example/bff/logged-out"
	verifier  = "verifier-verifier-verifier-verifier-verifier-0"
)

// clock is a provider's time that moves only when told to.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// rig is a provider, one client of it and a browser that follows no redirect.
type rig struct {
	t *testing.T
	*Provider
	client  Client
	browser *http.Client
	clock   *clock
}

func start(t *testing.T, opts Options) *rig {
	t.Helper()
	c := &clock{at: time.Unix(1_800_000_000, 0)}
	opts.Now = c.now
	if opts.AutoLogin == nil {
		opts.AutoLogin = As("alice")
	}
	jar, _ := cookiejar.New(nil)
	tr := &http.Transport{DisableKeepAlives: true}
	p := Start(t, opts)
	return &rig{t: t, Provider: p, clock: c,
		client: p.Register(Client{RedirectURIs: []string{callback}, PostLogoutRedirectURIs: []string{loggedOut}}),
		browser: &http.Client{Jar: jar, Transport: tr, Timeout: 30 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
}

func challenge() string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (r *rig) authParams() url.Values {
	return url.Values{
		"client_id": {r.client.ID}, "redirect_uri": {callback}, "response_type": {"code"},
		"scope": {"openid profile offline_access"}, "state": {"state-state-state-0"}, "nonce": {"nonce-nonce-nonce-0"},
		"code_challenge": {challenge()}, "code_challenge_method": {"S256"},
	}
}

// authorize returns the status and the parameters sent back to the client.
func (r *rig) authorize(q url.Values) (int, url.Values) {
	r.t.Helper()
	resp, err := r.browser.Get(r.Issuer() + "/authorize?" + q.Encode())
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	loc, err := resp.Location()
	if err != nil {
		return resp.StatusCode, nil
	}
	if base, _, _ := strings.Cut(loc.String(), "?"); base != callback {
		r.t.Fatalf("sent back to %s", base)
	}
	return resp.StatusCode, loc.Query()
}

func (r *rig) code() string {
	r.t.Helper()
	_, q := r.authorize(r.authParams())
	if q.Get("code") == "" {
		r.t.Fatalf("no code: %v", q)
	}
	return q.Get("code")
}

type answer struct {
	status int
	header http.Header
	body   map[string]any
	err    error // of the transport, or of reading the body
}

func (a answer) str(k string) string { s, _ := a.body[k].(string); return s }

// post sends a form, with the client's credentials in a Basic header unless
// the form has a client_id.
func (r *rig) post(path string, form url.Values) answer {
	req, _ := http.NewRequest("POST", r.Issuer()+path, strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if !form.Has("client_id") {
		req.SetBasicAuth(url.QueryEscape(r.client.ID), url.QueryEscape(r.client.Secret))
	}
	return r.do(req)
}

func (r *rig) do(req *http.Request) answer {
	resp, err := r.browser.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		a.err = err
		return a
	}
	if bytes.HasPrefix(raw, []byte("{")) {
		a.err = json.Unmarshal(raw, &a.body)
	}
	return a
}

func (r *rig) redeem(code string) answer {
	return r.post("/token", url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback}, "code_verifier": {verifier}})
}

func (r *rig) refresh(token string) answer {
	return r.post("/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
}

// login goes all the way to the first tokens.
func (r *rig) login() answer {
	r.t.Helper()
	a := r.redeem(r.code())
	if a.status != 200 || a.str("refresh_token") == "" {
		r.t.Fatalf("login: %d %v %v", a.status, a.body, a.err)
	}
	return a
}

// outcomes are the ledger's outcomes for a token, in order.
func (r *rig) outcomes(token string) string {
	name, all := r.name(token), []string{}
	for _, e := range r.Ledger() {
		if e.Token == name {
			all = append(all, string(e.Outcome))
		}
	}
	return strings.Join(all, " ")
}

func wantOutcomes(t *testing.T, r *rig, token, want string) {
	t.Helper()
	if got := r.outcomes(token); got != want {
		t.Errorf("ledger of %s: %s, want %s", r.name(token), got, want)
	}
}

func wantError(t *testing.T, a answer, status int, code string) {
	t.Helper()
	if a.err != nil || a.status != status || a.str("error") != code {
		t.Errorf("answer %d %v %v, want %d %s", a.status, a.body, a.err, status, code)
	}
}
