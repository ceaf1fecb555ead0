package config

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// config reads the file's top: what the process as a whole needs.
func (l *loader) config(c *Config, root value) {
	top := root.object()
	l.version(top.get("version"))
	c.Listen = ":8080"
	if v := top.get("listen"); v.set() {
		c.Listen, _ = v.hostPort(true)
	}
	c.Certificate = l.certificate(top.get("tls").object())
	c.TrustedProxies = l.trustedProxies(top.get("trusted_proxies"))

	drain := top.get("drain").object()
	c.Drain = Drain{
		Delay:   drain.get("delay").duration(0, 0, 10*time.Minute),
		Timeout: drain.get("timeout").duration(30*time.Second, time.Second, time.Hour),
	}
	drain.done()

	limits := top.get("limits").object()
	// Below 4 KiB ordinary browsers are refused, above 1 MiB memory is anybody's.
	c.Limits = Limits{HeaderBytes: limits.get("header_bytes").integer(32768, 4096, 1<<20)}
	limits.done()

	c.Redis = l.redis(top.get("redis"))
	c.Keys = l.serverKeys(top.get("keys"))
	c.Admin = l.admin(top.get("admin"), c.Listen)

	log := top.get("log").object()
	c.Log.Format = log.get("format").choice("json", "json", "text")
	// The names are slog's own.
	_ = c.Log.Level.UnmarshalText([]byte(log.get("level").choice("info", "debug", "info", "warn", "error")))
	c.Log.Access = log.get("access").boolean(false)
	log.done()

	c.Tracing = l.tracing(top.get("tracing").object())

	c.Apps = l.apps(top.get("apps"), len(c.TrustedProxies) > 0)
	top.done()
	l.reused()
}

// tracing reads where spans go; nothing is traced without it.
func (l *loader) tracing(o *object) Tracing {
	defer o.done()
	t := Tracing{SampleRatio: o.get("sample_ratio").ratio(0.1)}
	endpoint := o.get("otlp_endpoint")
	s, ok := endpoint.text()
	if !ok || s == "" {
		if o.get("sample_ratio").set() {
			o.get("sample_ratio").problem("has no effect without otlp_endpoint")
		}
		return t
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https"):
		endpoint.problem("must be an http or https URL")
	case u.User != nil:
		endpoint.problem("must hold no user and no password")
	case strings.ContainsAny(s, "?#"):
		endpoint.problem("must have no query and no fragment")
	case !validPort(u.Port()):
		endpoint.problem("must have a port number of at most 65535")
	default:
		if u.Path == "" || u.Path == "/" {
			u.Path = "/v1/traces" // the exporter's own, where only a host is named
		}
		t.Endpoint = u
	}
	return t
}

func (l *loader) version(v value) {
	if !v.require(": version: 1") {
		return
	}
	if s, ok := v.text(); ok && s != "1" {
		v.problem("must be 1, the only version of this file")
	}
}

// hostPort is v's text as an address to listen on or to dial.
func (v value) hostPort(listen bool) (string, bool) {
	s, ok := v.needed()
	if !ok {
		return "", false
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || strings.ContainsAny(host, "/ @?#%") || (host == "" && !listen) {
		hint := ""
		if strings.Contains(s, "://") {
			hint = "; leave the scheme out"
		}
		v.problem("must be host:port%s", hint)
		return "", false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != port || (n == 0 && !listen) {
		v.problem("must end in a port number, at most 65535")
		return "", false
	}
	return s, true
}

// filePath is v's text as a file's absolute path; empty where it isn't there.
func (v value) filePath() string {
	s, ok := v.text()
	if !ok || s == "" {
		return ""
	}
	return v.l.resolve(s)
}

// certificate reads cert_file and key_file, which go together.
func (l *loader) certificate(o *object) *tls.Certificate {
	defer o.done()
	return keyPair(o.get("cert_file"), o.get("key_file"))
}

// keyPair reads a certificate and its key; nil where neither is named, or
// where a problem was reported.
func keyPair(cert, key value) *tls.Certificate {
	certFile, keyFile := cert.filePath(), key.filePath()
	switch {
	case certFile == "" && keyFile == "":
		return nil
	case keyFile == "":
		cert.problem("needs a key_file beside it")
		return nil
	case certFile == "":
		key.problem("needs a cert_file beside it")
		return nil
	}
	certPEM, err := cert.l.read(certFile, maxInsert)
	if err != nil {
		cert.problem("%v", err)
	}
	keyPEM, err2 := key.l.read(keyFile, maxInsert)
	if err2 != nil {
		key.problem("%v", err2)
	}
	if err != nil || err2 != nil {
		return nil
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		cert.problem("%s", strings.TrimPrefix(err.Error(), "tls: "))
		return nil
	}
	return &pair
}

func (l *loader) trustedProxies(v value) []netip.Prefix {
	var out []netip.Prefix
	list, _ := v.list()
	for _, e := range list {
		s, ok := e.needed()
		if !ok {
			continue
		}
		p, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); aerr == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		// The widest private ranges are 10.0.0.0/8 and fc00::/7. Who trusts
		// more lets strangers choose their own address.
		widest := 8
		if p.Addr().Is6() {
			widest = 7
		}
		switch {
		case err != nil || p.Addr().Is4In6():
			e.problem("must be an address or a prefix such as 10.0.0.0/8")
		case p.Bits() < widest:
			e.problem("trusts too much of the Internet: at least /%d", widest)
		case p.Masked() != p:
			e.problem("has bits set beyond its length; did you mean %v?", p.Masked())
		default:
			out = append(out, p)
		}
	}
	return out
}

// clientTLS reads whose certificates are accepted, and what certificate is shown.
func (l *loader) clientTLS(ca, cert, key value) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if file := ca.filePath(); file != "" {
		pem, err := l.read(file, 1<<20)
		c.RootCAs = x509.NewCertPool()
		switch {
		case err != nil:
			ca.problem("%v", err)
		case !c.RootCAs.AppendCertsFromPEM(pem):
			ca.problem("holds no certificate in PEM")
		}
	}
	if pair := keyPair(cert, key); pair != nil {
		c.Certificates = []tls.Certificate{*pair}
	}
	return c
}

// maxKeys bounds how many keys a forged cookie is tried under.
const maxKeys = 8

func (l *loader) serverKeys(v value) []Key {
	if !v.require(": make a key with `cloakroom keys new`") {
		return nil
	}
	list, ok := v.list()
	if ok && len(list) == 0 {
		v.problem("is empty: make a key with `cloakroom keys new`")
	}
	if len(list) > maxKeys {
		v.problem("holds too many: at most %d", maxKeys)
		return nil
	}
	var out []Key
	seen := map[Key]string{}
	for _, e := range list {
		s, ok := e.secret("keys")
		if !ok {
			continue
		}
		k, wrong := parseKey(string(s))
		if wrong == "" && seen[k] != "" {
			wrong = "is the same key as " + seen[k]
		}
		if wrong != "" {
			e.problem("%s", wrong)
			continue
		}
		seen[k] = e.path
		out = append(out, k)
	}
	return out
}

func (l *loader) admin(v value, public string) Admin {
	o := v.object()
	defer o.done()
	a := Admin{Network: "tcp", Address: "127.0.0.1:9090"}
	token := o.get("token")
	var known bool
	if a.Token, known = token.secret("admin"); a.Token != "" {
		if wrong := weakSecret(string(a.Token)); wrong != "" {
			token.problem("%s", wrong)
		}
	}
	listen := o.get("listen")
	if !listen.set() {
		return a
	}
	s, ok := listen.text()
	if path, unix := strings.CutPrefix(s, "unix:"); ok && unix {
		// The kernel's limit, less the closing zero.
		if !filepath.IsAbs(path) || len(path) > 107 {
			listen.problem("must name the socket by an absolute path of at most 107 bytes")
		}
		return Admin{Network: "unix", Address: path, Token: a.Token}
	}
	if !ok {
		return a
	}
	if a.Address, ok = listen.hostPort(true); !ok {
		return a
	}
	host, port, _ := net.SplitHostPort(a.Address)
	if a.Address == public && port != "0" {
		listen.problem("must differ from the public listener's")
	}
	if !loopback(host) && !token.set() {
		listen.problem("is open to other machines, so admin.token is required")
	} else if !loopback(host) && known && a.Token == "" {
		listen.problem("is open to other machines, so admin.token can't be empty")
	}
	return a
}

// loopback reports whether host is this machine alone.
func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.Unmap().IsLoopback()
}
