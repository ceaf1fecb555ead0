package config

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// appName may stand in keys of Redis, in labels of metrics and in derivations.
var appName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// apps reads the apps. proxies tells that there are trusted ones.
func (l *loader) apps(v value, proxies bool) []App {
	if !v.require("") {
		return nil
	}
	list, ok := v.list()
	if ok && len(list) == 0 {
		v.problem("is empty")
	}
	out := make([]App, 0, len(list))
	names, hosts := map[string]string{}, map[string]string{}
	for _, e := range list {
		o := e.object()
		a := l.app(o, proxies)
		if first := names[a.Name]; first != "" {
			o.get("name").problem("is the name of %s too", first)
		} else if a.Name != "" {
			names[a.Name] = e.path
		}
		if a.Origin != nil {
			// Cookies know no ports: two apps on one host would overwrite each
			// other's.
			host := a.Origin.Hostname()
			if first := hosts[host]; first != "" {
				o.get("origin").problem("has the host of %s: apps are told apart by host, and ports share cookies", first)
			} else {
				hosts[host] = e.path
			}
		}
		o.done()
		out = append(out, a)
	}
	return out
}

func (l *loader) app(o *object, proxies bool) App {
	var a App
	if s, ok := o.get("name").needed(); ok {
		if !appName.MatchString(s) {
			o.get("name").problem("must be at most 32 lower-case letters, digits and hyphens")
		} else {
			a.Name = s
		}
	}
	a.Origin = origin(o.get("origin"))
	a.HSTS = hsts(o.get("hsts"), a.Origin)

	a.UserClaims = []string{"sub", "name", "email", "picture"}
	if v := o.get("user_claims"); v.set() {
		a.UserClaims = v.strings()
	}
	a.Pages = l.pages(o.get("pages"))
	a.Routes = l.routes(o.get("routes"))
	a.ForwardAuth = forwardAuth(o.get("forward_auth").object(), a.Routes, o.get("routes"), proxies)

	// What may be said of the session depends on the token, and that on what the
	// routes accept.
	token := o.get("token").object()
	a.Token = l.token(token, a.Routes, o.get("routes"))
	a.Session = l.session(o.get("session").object(), a.Token.Mode)
	provider := o.get("provider")
	provider.require("")
	a.Provider = l.provider(provider.object(), a.Token.Mode, a.Session.Remember != 0)
	return a
}

// origin is exactly what browsers send in the Origin header (RFC 6454 §6.2).
func origin(v value) *url.URL {
	s, ok := v.needed()
	if !ok {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || s != u.Scheme+"://"+u.Host {
		v.problem("must be scheme://host or scheme://host:port, with nothing behind it")
		return nil
	}
	host, port := u.Hostname(), u.Port()
	switch {
	case strings.HasSuffix(u.Host, ":") || !validHost(host) || !validPort(port):
		v.problem("must name one host, in lower case and without wildcards")
	case u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80":
		v.problem("must leave its scheme's own port out, as browsers do")
	case u.Scheme == "http" && host != "localhost" && host != "127.0.0.1":
		v.problem("must be https: only localhost and 127.0.0.1 may be http")
	default:
		return u
	}
	return nil
}

// hsts is a year unless told otherwise: less is no protection for who comes
// rarely (ASVS 3.4.1).
func hsts(v value, origin *url.URL) HSTS {
	o := v.object()
	defer o.done()
	h := HSTS{
		MaxAge:            o.get("max_age").duration(365*24*time.Hour, 0, 2*366*24*time.Hour),
		IncludeSubdomains: o.get("include_subdomains").boolean(false),
	}
	if origin != nil && origin.Scheme != "https" {
		if v.set() {
			v.problem("is for an https origin: browsers ignore it over http")
		}
		return HSTS{}
	}
	return h
}

// headerText can stand in a header in one way.
var headerText = regexp.MustCompile(`^[\x21-\x7E]+$`)

// forwardAuth is what another proxy shows that asks about routes.
func forwardAuth(o *object, routes []Route, at value, proxies bool) Secret {
	defer o.done()
	v := o.get("secret")
	asks := slices.ContainsFunc(routes, func(r Route) bool { return r.ForwardAuth })
	switch {
	case !v.set() && asks:
		at.problem("has one with forward_auth: that needs forward_auth.secret beside the routes")
	case !v.set():
	case !asks:
		v.problem("has no effect without a route with forward_auth")
	case !proxies:
		v.problem("has no effect without trusted_proxies, which alone may show it")
	}
	s, ok := v.secret("forward_auth")
	if wrong := weakSecret(string(s)); ok && wrong != "" {
		v.problem("%s", wrong)
	} else if ok && !headerText.MatchString(string(s)) {
		v.problem("must be visible ASCII without spaces: it stands in a header")
	}
	return s
}

var hostName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// validHost accepts a DNS name in lower case or an address in its one spelling.
func validHost(h string) bool {
	if a, err := netip.ParseAddr(h); err == nil {
		return a.Zone() == "" && a.String() == h
	}
	return len(h) <= 253 && hostName.MatchString(h)
}

var portNumber = regexp.MustCompile(`^[1-9][0-9]{0,4}$`)

func validPort(p string) bool {
	return p == "" || portNumber.MatchString(p) && (len(p) < 5 || p <= "65535")
}

// reservedParams are the parameters of the authorization request that are the
// gateway's own, or that would move the answer or its checks elsewhere.
var reservedParams = []string{
	"client_assertion", "client_assertion_type", "client_id", "client_secret", "code_challenge", "code_challenge_method",
	"code_verifier", "dpop_jkt", "grant_type", "nonce", "redirect_uri", "registration", "request", "request_uri",
	"response_mode", "response_type", "scope", "state",
}

var paramName = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,64}$`)

var scopeToken = regexp.MustCompile(`^[\x21\x23-\x5B\x5D-\x7E]+$`) // RFC 6749 §3.3

func (l *loader) provider(o *object, mode string, remembers bool) Provider {
	defer o.done()
	p := Provider{
		Issuer:     issuer(o.get("issuer")),
		ClientAuth: o.get("client_auth").choice("client_secret_basic", "client_secret_basic", "client_secret_post"),
		UserInfo:   o.get("userinfo").boolean(false),
		// Longer than a minute is no tolerance of lost answers, it's no rotation.
		RefreshReuse:        o.get("refresh_reuse").duration(0, 0, time.Minute),
		RefreshRate:         o.get("refresh_rate").integer(0, 0, 100_000),
		UnknownAnswer:       o.get("unknown_answer").choice("retry", "retry", "end"),
		AuthorizationParams: authorizationParams(o.get("authorization_params")),
	}
	p.ClientID, _ = o.get("client_id").needed()
	if secret := o.get("client_secret"); secret.require("") {
		s, ok := secret.secret("client")
		if wrong := weakSecret(string(s)); ok && wrong != "" {
			secret.problem("%s", wrong)
		}
		p.ClientSecret = s
	}

	p.Scopes = []string{"openid", "profile", "offline_access"}
	if v := o.get("scopes"); v.set() {
		p.Scopes = v.strings()
		if slices.ContainsFunc(p.Scopes, func(s string) bool { return !scopeToken.MatchString(s) }) {
			v.problem("must hold one scope an element, without spaces")
		}
		if _, ok := v.node.(*ast.SequenceNode); ok && !slices.Contains(p.Scopes, "openid") {
			v.problem("must hold openid")
		} else if ok && !slices.Contains(p.Scopes, "offline_access") {
			l.warn(v, "has no offline_access: where the provider then gives no refresh token, "+withoutRefresh(mode))
		}
	}

	p.LoginParams = l.loginParams(o.get("login_params"), p.AuthorizationParams, remembers)

	if v := o.get("end_session_endpoint"); v.string("") != "" {
		s, _ := v.text()
		u, ok := providerURL(v)
		switch {
		case !ok:
		case strings.Contains(s, "#"):
			v.problem("must have no fragment")
		case u.Scheme == "http" && strings.HasPrefix(p.Issuer, "https:"):
			v.problem("must be https, as the issuer is")
		default:
			p.EndSessionEndpoint = s
		}
	}
	if v := o.get("password_login"); v.boolean(false) {
		p.PasswordLogin = true
		l.warn(v, "hands people's passwords to this gateway (RFC 9700 §2.4): for your own authorization server, and where nothing else will do")
	}
	return p
}

// withoutRefresh is what becomes of sessions that have no refresh token.
func withoutRefresh(mode string) string {
	if mode == "mint" {
		return "nothing is revalidated: whoever is out at the provider stays in here until the session's own end"
	}
	return "a session ends with its access token"
}

// issuer is a URL without query and fragment (OpenID Connect Discovery 1.0 §2).
// It is kept as it is spelled, since it is compared so.
func issuer(v value) string {
	if !v.require("") {
		return ""
	}
	u, ok := providerURL(v)
	if !ok {
		return ""
	}
	s, _ := v.text()
	if strings.ContainsAny(s, "?#") {
		v.problem("must have no query and no fragment")
		return ""
	}
	if strings.HasSuffix(u.Path, "/.well-known/openid-configuration") {
		v.problem("must be the issuer; leave /.well-known/openid-configuration out")
		return ""
	}
	return s
}

// providerURL is an absolute URL at the provider: https, or on this machine.
func providerURL(v value) (*url.URL, bool) {
	s, ok := v.needed()
	if !ok {
		return nil, false
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "" || (u.Scheme != "https" && u.Scheme != "http"):
		v.problem("must be an absolute https URL")
	case u.User != nil:
		v.problem("must hold no user and no password")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		v.problem("must be https: http is for a provider on this machine")
	case !validPort(u.Port()):
		v.problem("must have a port number of at most 65535")
	default:
		return u, true
	}
	return nil, false
}

func authorizationParams(v value) map[string]string {
	o := v.object()
	out := map[string]string{}
	for _, name := range o.names {
		p := o.get(name)
		switch {
		case slices.Contains(reservedParams, strings.ToLower(name)):
			p.problem("is the gateway's own parameter")
		case !paramName.MatchString(name):
			p.problem("is no name of a parameter")
		default:
			s, ok := p.text()
			if ok && name == "max_age" {
				if _, err := strconv.ParseUint(s, 10, 31); err != nil {
					p.problem("must be a number of seconds")
				}
			}
			if ok {
				out[name] = s
			}
		}
	}
	return out
}

// remember is the one parameter of ours that a link to /bff/login may be allowed.
const remember = "remember"

// loginParams are the names that a link to /bff/login may set. What the
// operator has fixed, it may not.
func (l *loader) loginParams(v value, fixed map[string]string, remembers bool) []string {
	if !v.set() {
		out := slices.DeleteFunc([]string{"prompt", "login_hint", "ui_locales"}, func(name string) bool {
			_, ok := fixed[name]
			return ok
		})
		if remembers {
			out = append(out, remember)
		}
		return out
	}
	var out []string
	list, _ := v.list()
	for _, e := range list {
		s, ok := e.needed()
		if !ok {
			continue
		}
		_, isFixed := fixed[s]
		switch {
		case slices.Contains(reservedParams, strings.ToLower(s)) || s == "return_to":
			e.problem("is the gateway's own parameter")
		case !paramName.MatchString(s):
			e.problem("is no name of a parameter")
		case s == remember && !remembers:
			e.problem("has no effect without session.remember")
		case isFixed:
			e.problem("is fixed in authorization_params")
		case slices.Contains(out, s):
			e.problem("is in the list twice")
		default:
			out = append(out, s)
		}
	}
	if remembers && !slices.Contains(out, remember) {
		l.warn(v, "has no remember: then no link to /bff/login can ask for what session.remember offers")
	}
	return out
}
