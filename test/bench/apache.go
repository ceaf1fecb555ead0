package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"strings"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

// apacheModules is where Debian keeps them.
const apacheModules = "/usr/lib/apache2/modules"

// apache is contender (h): Apache with mod_auth_openidc, whose sessions are in
// Redis, logged in at the strict test provider. It is nil, and the report says so,
// where its packages are not installed.
func (w *world) apache(ctx context.Context) (*contender, error) {
	if _, err := os.Stat(apacheModules + "/mod_auth_openidc.so"); err != nil {
		w.opts.Log("apache2 with mod_auth_openidc is not installed: left out (make bench-setup)")
		return nil, nil
	}
	address, err := freePort()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(address)
	provider := gatewaytest.NewProvider(gatewaytest.Options{AutoLogin: gatewaytest.As("alice")})
	if err := provider.Listen("127.0.0.1:0"); err != nil {
		return nil, err
	}
	w.closers = append(w.closers, provider.Close)
	client := provider.Register(gatewaytest.Client{RedirectURIs: []string{"http://" + address + "/api/callback"}})

	var conf strings.Builder
	for _, m := range []string{"mpm_event", "authz_core", "authz_user", "authn_core", "proxy", "proxy_http", "auth_openidc"} {
		fmt.Fprintf(&conf, "LoadModule %s_module %s/mod_%s.so\n", m, apacheModules, m)
	}
	fmt.Fprintf(&conf, `ServerRoot %[1]s
PidFile %[1]s/apache.pid
DefaultRuntimeDir %[1]s
Mutex posixsem
ServerName 127.0.0.1
Listen 127.0.0.1:%[2]s
ErrorLog %[1]s/apache.log
LogLevel crit
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 600
StartServers 2
ServerLimit 8
ThreadsPerChild 128
MaxRequestWorkers 1024
OIDCProviderMetadataURL %[3]s/.well-known/openid-configuration
OIDCClientID %[4]s
OIDCClientSecret %[5]s
OIDCProviderTokenEndpointAuth %[6]s
OIDCRedirectURI http://%[7]s/api/callback
OIDCCryptoPassphrase benchbenchbenchbenchbenchbenchbench
OIDCPKCEMethod S256
OIDCScope "openid"
OIDCCacheType redis
OIDCRedisCacheServer %[8]s
OIDCSessionType server-cache
OIDCSessionInactivityTimeout 3600
OIDCPassClaimsAs none
OIDCCookieSameSite Off
ProxyPass /api/callback !
ProxyPass / http://%[9]s/ keepalive=On max=512
<Location /api/>
  AuthType openid-connect
  Require valid-user
</Location>
`, w.dir, port, provider.Issuer(), client.ID, client.Secret, client.Auth, address, w.redis, w.upstream)
	path, err := w.file("apache.conf", conf.String())
	if err != nil {
		return nil, err
	}
	p, err := w.start("apache", "apache2", "-f", path, "-DFOREGROUND")
	if err != nil {
		return nil, err
	}
	if err := p.ready(ctx, address, ""); err != nil {
		return nil, err
	}
	cookies, err := logIn(ctx, "http://"+address+"/api/200")
	if err != nil {
		printed, _ := os.ReadFile(w.dir + "/apache.log")
		return nil, fmt.Errorf("logging in through Apache: %w\n%s", err, printed)
	}
	return &contender{Name: "apache", process: p, address: address, cookies: cookies, host: address}, nil
}

// logIn follows the redirects of a login, and returns the cookie that it ends with.
func logIn(ctx context.Context, to string) ([]string, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/html")
	resp, err := (&http.Client{Jar: jar}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode != http.StatusOK || resp.Request.URL.String() != to {
		return nil, fmt.Errorf("%s at %s: %.400s", resp.Status, resp.Request.URL.Redacted(), b)
	}
	u, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	var cookies []string
	for _, c := range jar.Cookies(u) {
		cookies = append(cookies, c.Name+"="+c.Value)
	}
	return []string{strings.Join(cookies, "; ")}, nil
}
