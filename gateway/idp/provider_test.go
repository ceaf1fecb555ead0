package idp_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	clientID     = "shop"
	clientSecret = "sEcret-canary"
	subject      = "alice"
	accessToken  = "AT-canary-1"
	refreshToken = "RT-canary-1"
)

var (
	start    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	ecKey    = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	edKey    = sync.OnceValue(func() ed25519.PrivateKey { _, k, _ := ed25519.GenerateKey(rand.Reader); return k })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// fake is an identity provider whose every answer can be replaced.
type fake struct {
	t   *testing.T
	srv *httptest.Server
	log *lockedBuffer

	mu       sync.Mutex
	now      time.Time
	metadata map[string]any
	jwks     []any
	claims   map[string]any // of the ID tokens to come; nonce is added
	handle   map[string]http.HandlerFunc
	seen     []seen
}

type seen struct {
	path   string
	form   url.Values
	header http.Header
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, now: start, handle: map[string]http.HandlerFunc{}, log: new(lockedBuffer)}
	f.srv = httptest.NewServer(f)
	t.Cleanup(f.srv.Close)
	f.metadata = map[string]any{
		"issuer":                                f.srv.URL,
		"authorization_endpoint":                f.srv.URL + "/authorize?tenant=1",
		"token_endpoint":                        f.srv.URL + "/token",
		"jwks_uri":                              f.srv.URL + "/jwks",
		"userinfo_endpoint":                     f.srv.URL + "/userinfo",
		"revocation_endpoint":                   f.srv.URL + "/revoke",
		"end_session_endpoint":                  f.srv.URL + "/logout",
		"id_token_signing_alg_values_supported": []string{"RS256", "PS256", "ES256", "EdDSA", "HS256", "none"},
	}
	f.jwks = []any{jwk("rsa", rsaKey().Public()), jwk("ec", ecKey().Public()), jwk("ed", edKey().Public())}
	f.claims = map[string]any{
		"iss": f.srv.URL, "aud": clientID, "sub": subject, "sid": "provider-session",
		"iat": start.Unix(), "exp": start.Add(5 * time.Minute).Unix(), "auth_time": start.Add(-time.Hour).Unix(), "name": "Alice",
	}
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	form, _ := url.ParseQuery(string(body))
	f.mu.Lock()
	f.seen = append(f.seen, seen{r.URL.Path, form, r.Header.Clone()})
	h := f.handle[r.URL.Path]
	metadata, keys := must(json.Marshal(f.metadata)), must(json.Marshal(map[string]any{"keys": f.jwks}))
	f.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case h != nil:
		h(w, r)
	case r.URL.Path == "/.well-known/openid-configuration":
		w.Write(metadata)
	case r.URL.Path == "/jwks":
		w.Write(keys)
	default:
		http.NotFound(w, r)
	}
}

// on replaces the answers to a path.
func (f *fake) on(path string, h http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handle[path] = h
}

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func (f *fake) requests(path string) []seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []seen
	for _, s := range f.seen {
		if s.path == path {
			found = append(found, s)
		}
	}
	return found
}

func (f *fake) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fake) advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

func (f *fake) config() idp.Config {
	tr := idp.NewTransport()
	f.t.Cleanup(tr.CloseIdleConnections)
	return idp.Config{
		Issuer: f.srv.URL, ClientID: clientID, ClientSecret: clientSecret, ClientAuth: idp.ClientSecretBasic,
		RedirectURI: "https://shop.example/bff/callback", Scopes: []string{"openid", "offline_access"},
		Transport: tr, Now: f.clock, Log: slog.New(slog.NewTextHandler(f.log, nil)), Timeout: 5 * time.Second,
	}
}

func (f *fake) provider(change ...func(*idp.Config)) *idp.Provider {
	f.t.Helper()
	cfg := f.config()
	for _, c := range change {
		c(&cfg)
	}
	p, err := idp.New(cfg)
	if err != nil {
		f.t.Fatalf("New: %v", err)
	}
	return p
}

// grants has the token endpoint answer with the given members over the usual
// ones; a nil value drops one.
func (f *fake) grants(over map[string]any) {
	all := map[string]any{"access_token": accessToken, "token_type": "Bearer", "expires_in": 300, "refresh_token": refreshToken, "scope": "openid"}
	maps.Copy(all, over)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	f.on("/token", func(w http.ResponseWriter, r *http.Request) { json.NewEncoder(w).Encode(all) })
}

// with returns the usual claims with some replaced; nil drops one.
func (f *fake) with(over map[string]any) map[string]any {
	all := maps.Clone(f.claims)
	maps.Copy(all, over)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return all
}

// login runs a whole login with an ID token from make.
func (f *fake) login(p *idp.Provider, make func(nonce string) string) (idp.Grant, error) {
	tx := idp.NewTransaction()
	if _, err := p.LoginURL(context.Background(), tx, nil); err != nil {
		return idp.Grant{}, err
	}
	if token := make(tx.Nonce); token != "" {
		f.grants(map[string]any{"id_token": token})
	}
	return p.Exchange(context.Background(), "CODE-canary", tx)
}

// good makes an ordinary ID token.
func (f *fake) good(nonce string) string {
	return sign(jwt.SigningMethodRS256, rsaKey(), map[string]any{"kid": "rsa"}, f.with(map[string]any{"nonce": nonce}))
}

// sign makes a token; header members over alg and typ, nil drops one.
func sign(m jwt.SigningMethod, key any, header map[string]any, claims any) string {
	h := map[string]any{"alg": m.Alg(), "typ": "JWT"}
	maps.Copy(h, header)
	maps.DeleteFunc(h, func(_ string, v any) bool { return v == nil })
	payload, ok := claims.(string)
	if !ok {
		payload = string(must(json.Marshal(claims)))
	}
	input := b64(must(json.Marshal(h))) + "." + b64([]byte(payload))
	return input + "." + b64(must(m.Sign(input, key)))
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func jwk(kid string, pub crypto.PublicKey) map[string]any {
	m := map[string]any{"kid": kid, "use": "sig"}
	switch k := pub.(type) {
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", b64(k.N.Bytes()), b64(big.NewInt(int64(k.E)).Bytes())
	case *ecdsa.PublicKey:
		point := must(k.Bytes())[1:]
		m["kty"], m["crv"], m["x"], m["y"] = "EC", k.Curve.Params().Name, b64(point[:len(point)/2]), b64(point[len(point)/2:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", b64(k)
	}
	return m
}

// secrets are what no error and no log line may hold.
var secrets = []string{clientSecret, url.QueryEscape(clientSecret), accessToken, refreshToken, "canary", "?"}

func checkNoSecret(t *testing.T, text string) {
	t.Helper()
	for _, s := range secrets {
		if strings.Contains(text, s) {
			t.Errorf("%q leaks through %q", s, text)
		}
	}
}

func TestNew(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*idp.Config)
		want   string
	}{
		{"fine", func(c *idp.Config) {}, ""},
		{"https", func(c *idp.Config) { c.Issuer = "https://id.example/tenant/" }, ""},
		{"http issuer", func(c *idp.Config) { c.Issuer = "http://id.example" }, "issuer"},
		{"issuer with query", func(c *idp.Config) { c.Issuer = "https://id.example?a=b" }, "issuer"},
		{"issuer with fragment", func(c *idp.Config) { c.Issuer = "https://id.example#" }, "issuer"},
		{"issuer with user", func(c *idp.Config) { c.Issuer = "https://u:p@id.example" }, "issuer"},
		{"no issuer", func(c *idp.Config) { c.Issuer = "" }, "issuer"},
		{"no client", func(c *idp.Config) { c.ClientID = "" }, "client_id"},
		{"no secret", func(c *idp.Config) { c.ClientSecret = "" }, "client_secret"},
		{"O-09 no style", func(c *idp.Config) { c.ClientAuth = "" }, "client_auth"},
		{"relative redirect", func(c *idp.Config) { c.RedirectURI = "/bff/callback" }, "redirect"},
		{"no openid", func(c *idp.Config) { c.Scopes = []string{"profile"} }, "openid"},
		{"own parameter", func(c *idp.Config) { c.AuthorizationParams = map[string]string{"state": "x"} }, "state"},
		{"response mode", func(c *idp.Config) { c.AuthorizationParams = map[string]string{"response_mode": "fragment"} }, "response_mode"},
		{"bad max_age", func(c *idp.Config) { c.AuthorizationParams = map[string]string{"max_age": "soon"} }, "max_age"},
		{"bad end session", func(c *idp.Config) { c.EndSessionEndpoint = "http://id.example/out" }, "end_session_endpoint"},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := newFake(t).config()
			row.change(&cfg)
			_, err := idp.New(cfg)
			if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("New: %v, want one about %q", err, row.want)
			}
		})
	}
}

func TestSecretsPrintRedacted(t *testing.T) {
	for _, v := range []any{idp.AccessToken("canary"), idp.RefreshToken("canary"), idp.IDToken("canary"), idp.ClientSecret("canary"), idp.Verifier("canary"),
		idp.Grant{Access: "canary", Refresh: "canary", ID: "canary"}, idp.Config{ClientSecret: "canary"}, idp.Transaction{Verifier: "canary"}} {
		var buf bytes.Buffer
		slog.New(slog.NewTextHandler(&buf, nil)).Info("x", "v", v)
		for _, s := range []string{fmt.Sprint(v), fmt.Sprintf("%v %+v %#v %s %q", v, v, v, v, v), buf.String()} {
			if strings.Contains(s, "canary") {
				t.Errorf("%T prints as %s", v, s)
			}
		}
	}
}

func TestMetrics(t *testing.T) {
	f := newFake(t)
	reg := prometheus.NewRegistry()
	m := idp.NewMetrics(reg)
	// Two providers with one Metrics, as after a reload.
	for range 2 {
		p := f.provider(func(c *idp.Config) { c.Metrics = m })
		if _, err := f.login(p, f.good); err != nil {
			t.Fatal(err)
		}
	}
	f.on("/token", answer(503, ""))
	f.provider(func(c *idp.Config) { c.Metrics = m }).Refresh(context.Background(), refreshToken, subject, nil)
	got := map[string]uint64{}
	for _, fam := range must(reg.Gather()) {
		for _, metric := range fam.GetMetric() {
			labels := ""
			for _, l := range metric.GetLabel() {
				labels += l.GetName() + "=" + l.GetValue() + " "
			}
			got[labels] = metric.GetHistogram().GetSampleCount()
		}
	}
	want := map[string]uint64{
		"operation=discovery outcome=ok ": 3, "operation=exchange outcome=ok ": 2, "operation=keys outcome=ok ": 2,
		"operation=refresh outcome=server_error ": 1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("measured %v, want %v", got, want)
	}
	if idp.NewMetrics(nil) != nil {
		t.Error("NewMetrics(nil) is not nil")
	}
}

// wantKind fails the test unless err is want, which may be nil.
func wantKind(t *testing.T, err, want error) {
	t.Helper()
	if want == nil && err != nil || want != nil && !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
	if err != nil {
		checkNoSecret(t, err.Error())
	}
}

// newTLSServer starts a server whose certificate nobody trusts.
func newTLSServer(t *testing.T) string {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.URL
}
