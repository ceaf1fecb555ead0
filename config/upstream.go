package config

import (
	"crypto/tls"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// Upstream is where a route's requests go, and by what connections.
type Upstream struct {
	// Targets are the addresses: of one scheme and one path.
	Targets []*url.URL
	// Protocol is "auto" (HTTP/1.1, and HTTP/2 where TLS agrees on it), "http1"
	// or "h2c".
	Protocol     string
	MaxConns     int // per address; 0: any number
	MaxIdleConns int // per address
	DialTimeout  time.Duration
	IdleTimeout  time.Duration // of an unused connection
	TLS          *tls.Config   // nil: the system's

	pool string
}

// Pool is the same for upstreams whose connections may be shared: those of the
// same addresses and settings, whatever their paths.
func (u *Upstream) Pool() string { return u.pool }

// maxTargets bounds an upstream's addresses.
const maxTargets = 64

// upstream reads a route's upstream and connection; nil where there is none, or
// where a problem was reported.
func (l *loader) upstream(v, connection value) *Upstream {
	u := &Upstream{Targets: upstreamURLs(v)}
	o := connection.object()
	defer o.done()
	secure := len(u.Targets) > 0 && u.Targets[0].Scheme == "https"
	u.Protocol = o.get("protocol").choice("auto", "auto", "http1", "h2c")
	if u.Protocol == "h2c" && secure {
		o.get("protocol").problem("can't be h2c over https: auto agrees on HTTP/2 there")
	}
	u.MaxConns = o.get("max").integer(0, 0, 100_000)
	u.MaxIdleConns = o.get("max_idle").integer(256, 1, 100_000)
	u.DialTimeout = o.get("dial_timeout").duration(5*time.Second, 10*time.Millisecond, 5*time.Minute)
	u.IdleTimeout = o.get("idle_timeout").duration(time.Minute, 100*time.Millisecond, time.Hour)

	files := o.get("tls")
	var named string
	u.TLS, named = l.upstreamTLS(files)
	if files.set() && len(u.Targets) > 0 && !secure {
		files.problem("is for an https upstream")
	}
	if len(u.Targets) == 0 {
		return nil
	}
	addresses := make([]string, len(u.Targets))
	for i, t := range u.Targets {
		addresses[i] = t.Scheme + "://" + strings.ToLower(t.Host)
	}
	slices.Sort(addresses)
	u.pool = fmt.Sprintf("%q %s %d %d %s %s %s", addresses, u.Protocol, u.MaxConns, u.MaxIdleConns, u.DialTimeout, u.IdleTimeout, named)
	return u
}

// upstreamTLS reads what an https upstream must show, and is shown. named tells
// settings apart.
func (l *loader) upstreamTLS(v value) (c *tls.Config, named string) {
	o := v.object()
	defer o.done()
	ca, cert, key, server := o.get("ca_file"), o.get("cert_file"), o.get("key_file"), o.get("server_name")
	if !v.set() {
		return nil, ""
	}
	c = l.clientTLS(ca, cert, key)
	if s := server.string(""); s != "" {
		if c.ServerName = s; !validHost(s) {
			server.problem("must be a host name in lower case, or an address")
		}
	}
	return c, fmt.Sprintf("%q %q %q %q", ca.filePath(), cert.filePath(), key.filePath(), c.ServerName)
}

// upstreamURLs reads one URL or a list of them. They differ by host and port
// alone: what a request is answered must not depend on which of them gets it.
func upstreamURLs(v value) []*url.URL {
	if !v.set() {
		return nil
	}
	list := []value{v}
	if _, many := v.node.(*ast.SequenceNode); many {
		list, _ = v.list()
		if len(list) == 0 {
			v.problem("is empty")
		}
		if len(list) > maxTargets {
			v.problem("holds too many: at most %d", maxTargets)
			return nil
		}
	}
	var out []*url.URL
	for _, e := range list {
		u := upstreamURL(e)
		if u == nil {
			continue
		}
		if len(out) > 0 && (u.Scheme != out[0].Scheme || strings.Trim(u.Path, "/") != strings.Trim(out[0].Path, "/")) {
			e.problem("must have the scheme and the path of the first")
			continue
		}
		if slices.ContainsFunc(out, func(o *url.URL) bool { return address(o) == address(u) }) {
			e.problem("is in the list twice")
			continue
		}
		out = append(out, u)
	}
	return out
}

// address is a URL's host and port, the scheme's own where it names none.
func address(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return strings.ToLower(u.Hostname()) + " " + port
}

func upstreamURL(v value) *url.URL {
	s, ok := v.needed()
	if !ok {
		return nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https"):
		v.problem("must be an http or https URL")
	case u.User != nil:
		v.problem("must hold no user and no password")
	case strings.ContainsAny(s, "?#"):
		v.problem("must have no query and no fragment")
	case notCanonical.MatchString(u.EscapedPath()):
		v.problem("must have a plain path: no empty or dot segments, no escapes")
	case strings.HasSuffix(u.Host, ":") || !validPort(u.Port()) || !validHost(strings.ReplaceAll(strings.ToLower(u.Hostname()), "_", "-")):
		v.problem("must name one host, and a port of at most 65535 if any")
	default:
		return u
	}
	return nil
}
