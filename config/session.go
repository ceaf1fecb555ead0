package config

import (
	"net/url"
	"slices"
	"strings"
	"time"
)

// longest bounds a session: a year.
const longest = 366 * 24 * time.Hour

func (l *loader) session(o *object, mode string) Session {
	defer o.done()
	idle, absolute := o.get("idle_timeout"), o.get("absolute_timeout")
	grace, cache := o.get("rotation_grace"), o.get("cache_ttl")
	s := Session{
		IdleTimeout:     idle.duration(30*time.Minute, time.Minute, longest),
		AbsoluteTimeout: absolute.duration(12*time.Hour, time.Minute, longest),
		SameSite:        o.get("same_site").choice("strict", "strict", "lax"),
		// The grace covers requests under way, not people: a ticket that lives
		// on is a thief's too.
		RotationGrace: grace.duration(time.Minute, time.Second, 10*time.Minute),
	}
	// Where only one of a pair is set, the other's default must not stand in
	// its way.
	s.CacheTTL = cache.duration(min(5*time.Second, s.RotationGrace/2), 0, time.Minute)
	if s.CacheTTL > s.RotationGrace/2 {
		cache.problem("must be at most half of rotation_grace, %s", short(s.RotationGrace/2))
	}
	if s.IdleTimeout > s.AbsoluteTimeout {
		v := idle
		if !idle.set() {
			v = absolute
		}
		v.problem("idle_timeout (%s) must not be longer than absolute_timeout (%s)", short(s.IdleTimeout), short(s.AbsoluteTimeout))
	}
	l.remember(o.get("remember"), &s)
	s.Binding = o.get("binding").choice("none", "none", "split_key")
	if s.Binding == "split_key" && mode == "off" {
		o.get("binding").problem("can't be split_key where token.mode is off: the local key goes to /bff/token alone")
	}
	s.MaxPerUser = o.get("max_per_user").integer(0, 0, 10000)
	s.ClearSiteData = clearSiteData(o.get("clear_site_data"))
	revalidate := o.get("revalidate")
	if s.Revalidate = revalidate.duration(5*time.Minute, 5*time.Second, 24*time.Hour); mode != "mint" {
		s.Revalidate = 0
		// A mode that isn't known is reported, and may have been meant as mint.
		if mode != "" && revalidate.set() {
			revalidate.problem("is for token.mode mint: the provider's own token is checked whenever it is renewed")
		}
	}
	s.AfterLogout = "/"
	if v := o.get("after_logout"); v.set() {
		p, ok := v.text()
		if ok && p != "" && !landing(p) {
			v.problem("must be a path of the app's, such as /")
		}
		s.AfterLogout = p
	}
	return s
}

// landing reports whether p leads to the app's own origin in every browser.
func landing(p string) bool {
	u, err := url.Parse(p)
	return err == nil && u.Host == "" && strings.HasPrefix(p, "/") && !strings.HasPrefix(p, "//") && !strings.ContainsAny(p, "\\ ")
}

// rememberMost is how long browsers keep a cookie (RFC 6265bis §5.5): 400 days.
const rememberMost = 400 * 24 * time.Hour

// remember replaces both timeouts of a session whose bearer asked for it.
func (l *loader) remember(v value, s *Session) {
	s.Remember = v.duration(0, 0, rememberMost)
	if s.Remember != 0 && s.Remember <= s.AbsoluteTimeout {
		v.problem("must be longer than absolute_timeout, %s, or 0s: nobody is remembered", short(s.AbsoluteTimeout))
	}
}

// clearable are the kinds of data that a browser may be told to forget at
// logout (Clear Site Data, W3C, and its extensions), but for cookies.
var clearable = []string{"cache", "storage", "executionContexts", "clientHints", "prefetchCache", "prerenderCache"}

func clearSiteData(v value) []string {
	var out []string
	list, _ := v.list()
	for _, e := range list {
		s, ok := e.needed()
		switch {
		case !ok:
		case s == "cookies" || s == "*":
			e.problem("would clear the cookies of the whole site, the provider's too; ours is deleted anyway")
		case !slices.Contains(clearable, s):
			e.problem("must be one of %s", strings.Join(clearable, ", "))
		case slices.Contains(out, s):
			e.problem("is in the list twice")
		default:
			out = append(out, s)
		}
	}
	return out
}
