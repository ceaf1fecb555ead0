// Package config reads Cloakroom's one configuration file.
//
// [Load] turns a YAML file into a [Config] whose values have their final types
// (URLs, durations, prefixes, keys), with defaults filled in, or into an
// [*Error] that names every problem of the file at once, each with its key and
// line. It is strict: an unknown key, a key given twice, a second document, an
// anchor, an alias or a tag is a problem, and so is a setting that would make
// the gateway weak.
//
// Any scalar may hold ${env:NAME} and ${file:PATH}, which are replaced after
// the YAML has been parsed, so that a value can't change the file's structure.
// One trailing newline of a file is dropped; $${ is a literal ${; what a
// replacement brings in is not expanded again. Relative paths start at the
// configuration file's directory.
//
// No problem quotes a value, whether it stands in the file or comes from
// outside: a secret that ends up under the wrong key stays out of the log.
//
// Load reads the file and what the file names (secrets, certificates, the
// directories of routes); it opens no connection and changes nothing.
package config

import (
	"crypto/tls"
	"log/slog"
	"net/netip"
	"net/url"
	"time"
)

// Config is everything an operator can say. It is complete: no field needs a
// default any more. It holds secrets, none of which it prints.
type Config struct {
	// Listen is the public listener's host:port.
	Listen string
	// Certificate is the public listener's; nil: plain HTTP.
	Certificate *tls.Certificate
	// TrustedProxies are the peers whose X-Forwarded-For counts.
	TrustedProxies []netip.Prefix
	Drain          Drain
	Limits         Limits
	Redis          Redis
	// Keys are the server keys: the first writes, all are read.
	Keys    []Key
	Admin   Admin
	Log     Log
	Tracing Tracing
	Apps    []App

	warnings []Problem
	file     string
	lines    map[string]int // by key
	files    Files
}

// Files are the configuration file and all files that it names but a route's,
// directories of templates among them: a change of one of them is a change of the
// configuration.
func (c *Config) Files() Files { return c.files }

// Warnings are settings that work and that an operator should know about.
func (c *Config) Warnings() []Problem { return c.warnings }

// Problem is something wrong with a key of the file that only its user could
// find. key is spelled as in [Problem.Key]; message must not quote a value.
func (c *Config) Problem(key, message string) Problem {
	return Problem{File: c.file, Line: c.lines[key], Key: key, Message: message}
}

// Drain says how the process stops.
type Drain struct {
	// Delay is how long requests are still taken after readiness went off, so
	// that load balancers notice.
	Delay time.Duration
	// Timeout bounds the wait for open requests after that.
	Timeout time.Duration
}

// Limits bound what a request may bring.
type Limits struct {
	HeaderBytes int // of a request's header, all lines together
}

// Redis says where sessions are kept.
type Redis struct {
	Mode string // "single", "sentinel" or "cluster"
	// Addresses are host:port: of the one server, of all sentinels, or of some of
	// the Cluster's nodes.
	Addresses []string
	Username  string
	Password  Secret
	TLS       *tls.Config // nil: plain TCP
	Sentinel  Sentinel
	KeyPrefix string
	Timeout   time.Duration // of one call, connecting included
	// WaitReplicas is how many replicas acknowledge ends and rotations.
	WaitReplicas int
}

// Sentinel says what is asked of the sentinels.
type Sentinel struct {
	Master   string // what they call the primary
	Username string
	Password Secret
}

// Admin is the operators' listener.
type Admin struct {
	Network string // "tcp" or "unix"
	Address string // host:port, or the socket's path
	Token   Secret // empty: none
}

// Log says what is logged and how.
type Log struct {
	Level  slog.Level
	Format string // "json" or "text"
	Access bool   // a line a request at level info
}

// Tracing says where spans go.
type Tracing struct {
	Endpoint    *url.URL // OTLP over HTTP; nil: nothing is traced
	SampleRatio float64  // of requests, from 0 to 1
}

// App is one single-page app.
type App struct {
	Name string
	// Origin is scheme://host[:port] and nothing else.
	Origin   *url.URL
	Provider Provider
	Session  Session
	Token    Token
	// HSTS is for browsers (RFC 6797); zero unless Origin is https.
	HSTS HSTS
	// UserClaims are the claims that /bff/user shows.
	UserClaims []string
	// ForwardAuth is what another proxy shows at /bff/auth; empty: none may ask.
	ForwardAuth Secret
	// Pages are templates that nobody has parsed yet, by file name. Nil: the app
	// has none of its own.
	Pages  map[string]string
	Routes []Route
}

// HSTS says for how long browsers reach the app's host by https alone.
type HSTS struct {
	MaxAge            time.Duration // 0: the header is not sent
	IncludeSubdomains bool
}

// Provider is the app's registration at its identity provider.
type Provider struct {
	Issuer              string // exactly as the provider spells it
	ClientID            string
	ClientAuth          string // "client_secret_basic" or "client_secret_post"
	ClientSecret        Secret
	Scopes              []string
	AuthorizationParams map[string]string
	LoginParams         []string // parameters of /bff/login that are passed on
	UserInfo            bool
	// RefreshReuse is how long the provider tolerates a refresh token's second
	// use; 0: not at all.
	RefreshReuse time.Duration
	// RefreshRate is how many refreshes a second all replicas ask for together;
	// 0: as many as need be.
	RefreshRate int
	// UnknownAnswer is "retry" or "end": what becomes of a session whose
	// refresh had no readable answer.
	UnknownAnswer string
	// EndSessionEndpoint overrides discovery; empty: discovery's.
	EndSessionEndpoint string
	// PasswordLogin lets the page log people in by user name and password.
	PasswordLogin bool
}

// Session is the app's session policy.
type Session struct {
	IdleTimeout     time.Duration
	AbsoluteTimeout time.Duration
	SameSite        string // "strict" or "lax"
	RotationGrace   time.Duration
	CacheTTL        time.Duration // 0: nothing is cached
	AfterLogout     string        // a path of the app's; empty: a page that says so
	Remember        time.Duration // both timeouts of a remembered session; 0: none is
	Binding         string        // "none" or "split_key"
	MaxPerUser      int           // 0: any number
	ClearSiteData   []string      // what browsers forget at logout; never "cookies"
	Revalidate      time.Duration // 0 unless Token.Mode is "mint"
}

// Token says how the page gets access tokens. All but Mode and Audience is zero
// unless Mode is "mint".
type Token struct {
	Mode string // "relay", "mint" or "off"
	// Audience is whom tokens are for: minted ones for the first, bearers on
	// routes for any. Empty in mode relay: no route accepts bearers.
	Audience []string
	Lifetime time.Duration
	// SigningKeys are PEM texts that nobody has parsed yet: the first signs.
	SigningKeys []Secret
	Subject     string   // "pairwise" or "provider"
	PairwiseKey Secret   // at least 256 bits; empty unless Subject is "pairwise"
	Claims      []string // copied into the token
}

// Route leads a path prefix to an upstream, to files, or to a development server, or
// says of one that another proxy serves who may. Exactly one of Upstream, Files and
// ForwardAuth is set.
type Route struct {
	Path        string // begins with "/"; matches whole segments
	Upstream    *Upstream
	DevServer   bool   // Upstream is a front end's development server
	Files       string // a directory, absolute
	ForwardAuth bool   // another proxy serves it
	StripPrefix string // empty: nothing
	// Of an Upstream alone: how long until its answer begins; how long until it
	// has ended, 0: any time; how many requests at once, 0: any number.
	Timeout       time.Duration
	Deadline      time.Duration
	MaxConcurrent int
	MaxHeader     int   // of a request, in bytes; 0: any size
	MaxBody       int64 // the same
	// Headers are made from claims, for an Upstream or another proxy's.
	Headers []Header
	Kind    string   // "api" or "page"
	Auth    string   // "required", "optional" or "none"
	Token   string   // "session" or "none"
	Methods []string // empty: all
	Accept  []string // of "cookie" and "bearer"; empty where Auth is "none"
	// Require are claims, and the values of which each must have one.
	Require map[string][]string
}
