package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/cloakroom/cloakroom/config"
)

// appReport is what check --report tells of an app: what the configuration comes
// to, defaults included, for whoever has to register the gateway or to judge its
// policy. It holds no secret.
type appReport struct {
	App      string   `json:"app"`
	Origin   string   `json:"origin"`
	Provider provided `json:"provider"`
	Session  policy   `json:"session"`
	Token    tokens   `json:"token"`
	// CutOff is how long somebody who is out may still be served.
	CutOff cutOff        `json:"cut_off"`
	Routes []routeReport `json:"routes"`
}

// provided is what is registered at the provider, and what it is asked for.
type provided struct {
	Issuer      string   `json:"issuer"`
	ClientID    string   `json:"client_id"`
	ClientAuth  string   `json:"client_auth"`
	Scopes      []string `json:"scopes"`
	RedirectURI string   `json:"redirect_uri"`
	LoggedOut   string   `json:"post_logout_redirect_uri"`
	BackChannel string   `json:"backchannel_logout_uri"`
	Passwords   bool     `json:"password_login"`
}

type policy struct {
	Idle       string `json:"idle_timeout"`
	Absolute   string `json:"absolute_timeout"`
	Remember   string `json:"remember,omitempty"`
	SameSite   string `json:"same_site"`
	Grace      string `json:"rotation_grace"`
	Binding    string `json:"binding"`
	MaxPerUser int    `json:"max_per_user,omitempty"`
}

type tokens struct {
	Mode     string   `json:"mode"`
	Audience []string `json:"audience,omitempty"`
	Lifetime string   `json:"lifetime,omitempty"` // of a minted one
	Subject  string   `json:"subject,omitempty"`
	Claims   []string `json:"claims,omitempty"`
}

// cutOff has the bounds of docs/revocation.md. Where the provider alone sets
// one, it is "".
type cutOff struct {
	Gateway  string `json:"gateway"`  // after an end, at any replica
	API      string `json:"api"`      // after an end, at an API that verifies tokens by itself
	Provider string `json:"provider"` // after the person is out at the provider, which told nobody
}

type routeReport struct {
	Path    string              `json:"path"`
	Methods []string            `json:"methods,omitempty"`
	To      string              `json:"to"`
	Kind    string              `json:"kind"`
	Auth    string              `json:"auth"`
	Accept  []string            `json:"accept,omitempty"`
	Require map[string][]string `json:"require,omitempty"`
	Token   string              `json:"token"`
}

func reported(cfg *config.Config) []appReport {
	var out []appReport
	for _, a := range cfg.Apps {
		origin := a.Origin.String()
		r := appReport{
			App: a.Name, Origin: origin,
			Provider: provided{
				Issuer: a.Provider.Issuer, ClientID: a.Provider.ClientID, ClientAuth: a.Provider.ClientAuth, Scopes: a.Provider.Scopes,
				RedirectURI: origin + "/bff/callback", LoggedOut: origin + "/bff/logged-out", BackChannel: origin + "/bff/backchannel-logout",
				Passwords: a.Provider.PasswordLogin,
			},
			Session: policy{
				Idle: span(a.Session.IdleTimeout), Absolute: span(a.Session.AbsoluteTimeout), Remember: span(a.Session.Remember),
				SameSite: a.Session.SameSite, Grace: span(a.Session.RotationGrace), Binding: a.Session.Binding, MaxPerUser: a.Session.MaxPerUser,
			},
			Token: tokens{
				Mode: a.Token.Mode, Audience: a.Token.Audience, Lifetime: span(a.Token.Lifetime), Subject: a.Token.Subject, Claims: a.Token.Claims,
			},
			// A replica that has lost its beat believes its cache for a second at most.
			CutOff: cutOff{Gateway: "at once"},
		}
		if ttl := min(a.Session.CacheTTL, time.Second); ttl > 0 {
			r.CutOff.Gateway = span(ttl)
		}
		if a.Token.Mode == "mint" {
			r.CutOff.API = span(a.Token.Lifetime)
			r.CutOff.Provider = span(a.Session.Revalidate*6/5 + a.Token.Lifetime)
		}
		for _, to := range a.Routes {
			r.Routes = append(r.Routes, routeReport{
				Path: to.Path, Methods: to.Methods, To: target(to), Kind: to.Kind, Auth: to.Auth, Accept: to.Accept, Require: to.Require, Token: to.Token,
			})
		}
		out = append(out, r)
	}
	return out
}

// target is where a route leads.
func target(r config.Route) string {
	switch {
	case r.ForwardAuth:
		return "another proxy, which asks at /bff/auth"
	case r.Upstream == nil:
		return r.Files
	}
	var all []string
	for _, u := range r.Upstream.Targets {
		all = append(all, u.String())
	}
	if r.DevServer {
		return "development server " + all[0]
	}
	return strings.Join(all, " ")
}

// span is a duration as the configuration would spell it; "" for none.
func span(d time.Duration) string {
	if d == 0 {
		return ""
	}
	s := d.String() // 12h0m0s
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// print writes the report for people.
func (r appReport) print(to io.Writer) {
	fmt.Fprintf(to, "\n%s at %s\n", r.App, r.Origin)
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(out, "  %s\t"+format+"\n", append([]any{name}, args...)...)
	}
	p, s, t := r.Provider, r.Session, r.Token
	line("provider", "%s, as %s by %s, for %s", p.Issuer, p.ClientID, p.ClientAuth, strings.Join(p.Scopes, " "))
	line("to register", "redirect URI %s", p.RedirectURI)
	line("", "post logout redirect URI %s", p.LoggedOut)
	line("", "back-channel logout URI %s", p.BackChannel)
	if p.Passwords {
		line("login", "also by password, through this gateway")
	}
	line("a session ends", "after %s without activity, %s after its login", s.Idle, s.Absolute)
	if s.Remember != "" {
		line("", "remembered: %s after its login", s.Remember)
	}
	if s.MaxPerUser > 0 {
		line("", "by its user's next login, if it is the oldest of more than %d", s.MaxPerUser)
	}
	line("its cookie", "SameSite=%s; an older one works for %s once its successor was used", s.SameSite, s.Grace)
	if s.Binding == "split_key" {
		line("", "a token needs the page's local key, too")
	}
	switch t.Mode {
	case "mint":
		line("tokens", "are minted, live for %s, are for %s, name a %s subject", t.Lifetime, t.Audience[0], t.Subject)
		if len(t.Claims) > 0 {
			line("", "and carry %s", strings.Join(t.Claims, ", "))
		}
	case "relay":
		line("tokens", "are the provider's own")
	default:
		line("tokens", "never reach the page; upstreams get the provider's own")
	}
	if len(t.Audience) > 0 {
		line("", "bearers on routes may be for %s", strings.Join(t.Audience, " or "))
	}
	if c := r.CutOff; c.Gateway == "at once" {
		line("who is out", "is refused here at once")
	} else {
		line("who is out", "is refused here after %s at most", c.Gateway)
	}
	if c := r.CutOff; c.API != "" {
		line("", "at APIs that verify tokens by themselves: after %s at most", c.API)
		line("", "out at the provider, which told nobody: after %s at most, there too", c.Provider)
	} else {
		line("", "at APIs that verify tokens by themselves: when the provider's token ends")
		line("", "out at the provider, which told nobody: when the provider's token ends")
	}
	out.Flush()
	out = tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "  ROUTE\tTO\tKIND\tAUTH\tBY\tREQUIRES\tTOKEN")
	for _, route := range r.Routes {
		fmt.Fprintf(out, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\n", strings.Join(append([]string{route.Path}, route.Methods...), " "), route.To, route.Kind, route.Auth,
			dashed(strings.Join(route.Accept, " ")), dashed(requirements(route.Require)), route.Token)
	}
	out.Flush()
}

// requirements spells claims and their values, claims in order.
func requirements(claims map[string][]string) string {
	var all []string
	for _, claim := range slices.Sorted(maps.Keys(claims)) {
		all = append(all, claim+"="+strings.Join(claims[claim], "|"))
	}
	return strings.Join(all, " ")
}

func dashed(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
