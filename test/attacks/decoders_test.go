package attacks

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/test/rig"
)

// reading is what a kind of upstream understands of a request.
type reading struct {
	Path string
	// Header is by CGI's names: upper case, "-" as "_".
	Header map[string]string
}

// decoders read what the gateway has sent to an upstream as other upstreams
// would: three real servers, which get the very bytes, and models.
type decoders struct {
	t    testing.TB
	addr map[string]string // of the real ones

	mu   sync.Mutex
	memo map[string]map[string]reading // by head; guarded by mu
}

// trusted are headers that upstreams are known to believe. Those that nginx is
// asked about.
var trusted = []string{
	"Authorization", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix",
	"X-Forwarded-Uri", "X-Forwarded-Method", "X-Forwarded-Server", "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups",
	"X-Forwarded-Preferred-Username", "X-Forwarded-Access-Token", "X-Forwarded-Scheme", "X-Forwarded-Ssl", "X-Forwarded-By",
	"X-Forwarded-Client-Cert", "X-Forwarded-Path", "X-Forwarded-Tls-Client-Cert", "X-Forwarded",
	"Forwarded", "X-Real-Ip", "X-Auth-Request-User", "X-Auth-Request-Email", "X-Auth-Request-Groups", "X-Auth-Request-Access-Token",
	"Remote-User", "Remote-Groups", "Remote-Email", "Remote-Name", "X-Remote-User", "X-Webauth-User",
	"X-Original-Url", "X-Original-Uri", "X-Original-Method", "X-Original-Host", "X-Rewrite-Url", "X-Client-Ip", "X-Cluster-Client-Ip", "True-Client-Ip",
	"Cf-Connecting-Ip", "X-Client-Cert", "X-Ssl-Client-Cert", "Ssl-Client-Verify", "X-Amzn-Oidc-Data", "X-Amzn-Oidc-Identity",
	"X-Ms-Client-Principal", "X-Goog-Authenticated-User-Email", "X-Goog-Iap-Jwt-Assertion", "Cf-Access-Jwt-Assertion",
	"X-Authentik-Username", "X-Pomerium-Jwt-Assertion", "Oidc-Claim-Sub", "Oidc-Access-Token", "X-Consumer-Username", "X-Credential-Identifier", "X-Userinfo", "X-Id-Token",
	"X-Jwt-Assertion", "Tailscale-User-Login", "Cf-Access-Client-Id", "X-Arr-Clientcert", "X-Azure-Clientip", "Fly-Client-Ip", "X-Remote-Addr", "X-Host", "X-Http-Host-Override",
	"X-Url-Scheme", "Front-End-Https", "Proxy",
	"X-Webauth-Email", "X-Webauth-Role", "X-Remote-Group", "X-Remote-Extra-Scopes", "Shib-Session-Id", "Iv-User", "Iv-Groups", "Sm-User", "Sm-Universalid", "Mellon-Name-Id", "X-Token-Subject", "X-Token-User-Email",
	"X-Original-Proto", "X-Original-Path", "X-Arr-Ssl", "X-Tls-Client-Cert", "L5d-Client-Id", "X-Appengine-Inbound-Appid", "X-Apigateway-Api-Userinfo", "X-Ms-Token-Aad-Id-Token", "Oidc-Groups", "X-Middleware-Subrequest",
	"Wl-Proxy-Client-Ip", "Wl-Proxy-Ssl", "Proxy-Client-Ip", "Incap-Client-Ip", "X-Sucuri-Clientip", "X-Nf-Client-Connection-Ip", "Cloudfront-Viewer-Address", "Do-Connecting-Ip", "X-Azure-Fdid", "Cf-Connecting-Ipv6", "X-Proxyuser-Ip", "X-Verified-User", "X-Auth-User", "X-Authelia-User",
	"Forwarded-For", "X-Forward-For", "Cf-Pseudo-Ipv4", "X-Vercel-Forwarded-For", "X-Client-Cert-Subject", "X-Client-Cert-Chain-Verified", "X-Auth-Username", "X-Auth-Userid", "X-Auth-Subject", "X-Auth-Email", "X-Auth-Name", "X-Auth-Groups", "X-Auth-Roles",
	"X-Authenticated-Email", "X-Middleware-Rewrite", "X-Middleware-Next", "X-Matched-Path", "X-Invoke-Path", "Teleport-Jwt-Assertion",
	"X-Bff", "X-Bff-User", "X-Bff-Local-Key", "X-Bff-Background", "Dpop", "Proxy-Authorization", "Early-Data", "Secure-Session-Response",
}

func cgi(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case r == '-' || r == '.':
			return '_'
		}
		return r
	}, name)
}

const nodeDecoder = `
const http = require('http');
process.stdin.resume(); process.stdin.on('end', () => process.exit(0));
http.createServer((req, res) => {
  let path = '';
  try { path = decodeURIComponent(new URL(req.url, 'http://upstream').pathname); } catch { path = ''; }
  const header = {};
  for (let i = 0; i < req.rawHeaders.length; i += 2) {
    const name = req.rawHeaders[i].toUpperCase().replace(/[-.]/g, '_');
    header[name] = (name in header ? header[name] + ', ' : '') + req.rawHeaders[i + 1];
  }
  res.setHeader('Connection', 'close');
  res.end(JSON.stringify({ Path: path, Header: header }));
}).listen(0, '127.0.0.1', function () { console.log('listening ' + this.address().port + '.'); });
`

func newDecoders(t testing.TB) *decoders {
	t.Helper()
	d := &decoders{t: t, addr: map[string]string{}, memo: map[string]map[string]reading{}}

	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := map[string]string{}
		for name, values := range r.Header {
			name = cgi(name)
			if header[name] != "" {
				values = append([]string{header[name]}, values...)
			}
			header[name] = strings.Join(values, ", ")
		}
		_ = json.NewEncoder(w).Encode(reading{path.Clean(r.URL.Path), header})
	}))
	t.Cleanup(s.Close)
	d.addr["go"] = s.Listener.Addr().String()

	node := exec.Command("node", "-e", nodeDecoder)
	stdin, err := node.StdinPipe() // it ends with the test, whatever becomes of that
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close() })
	np := rig.Start(t, node)
	rig.Eventually(t, "node listens", func() bool {
		_, after, ok := strings.Cut(np.Output(), "listening ")
		port, _, done := strings.Cut(after, ".")
		d.addr["node"] = "127.0.0.1:" + port
		return ok && done
	})
	d.addr["nginx"] = startNginx(t)
	return d
}

// startNginx runs an nginx that folds header names as CGI does, and refuses none.
func startNginx(t testing.TB) string {
	t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		program = "/usr/sbin/nginx" // not in everybody's PATH
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatal("this test needs nginx: run test/setup.sh, or apt-get install nginx-light")
	}
	// In parts: nginx takes no longer parameters.
	var sets, answer strings.Builder
	answer.WriteString("$uri\\n")
	for i, part := range slices.Collect(slices.Chunk(trusted, 50)) {
		fmt.Fprintf(&sets, "set $part%d \"", i)
		for _, name := range part {
			fmt.Fprintf(&sets, "%s=$http_%s\\n", cgi(name), strings.ToLower(cgi(name)))
		}
		sets.WriteString("\"; ")
		fmt.Fprintf(&answer, "$part%d", i)
	}
	for range 5 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		l.Close()
		dir := t.TempDir()
		conf := filepath.Join(dir, "nginx.conf")
		text := fmt.Sprintf(`daemon off; master_process off; worker_processes 1; pid %[1]s/pid; error_log stderr error;
events { worker_connections 64; }
http {
  access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  underscores_in_headers on; ignore_invalid_headers off; large_client_header_buffers 8 64k; merge_slashes on; keepalive_timeout 0;
  server { listen %[2]s; default_type text/plain; %[3]sreturn 200 "%[4]s"; }
}
`, dir, addr, sets.String(), answer.String())
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p := rig.Start(t, exec.Command(program, "-p", dir, "-c", conf, "-e", "stderr"))
		for end := time.Now().Add(rig.Patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			select {
			case <-p.Done():
				if strings.Contains(p.Output(), "Address already in use") {
					break
				}
				t.Fatalf("nginx ended:\n%s", p.Output())
			default:
				if c, err := net.Dial("tcp", addr); err == nil {
					c.Close()
					return addr
				}
				continue
			}
			break
		}
	}
	t.Fatal("nginx does not listen")
	return ""
}

// read gives the readings of one request, by decoder. One that refuses it has
// none.
func (d *decoders) read(r *received) map[string]reading {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := notes.ReplaceAllString(r.head, "")
	if m := d.memo[key]; m != nil {
		return m
	}
	m := map[string]reading{}
	for name, addr := range d.addr {
		got, err := ask(name, addr, r)
		if err != nil {
			d.t.Errorf("%s: %v", name, err)
		}
		if got.Path != "" {
			m[name] = got
		}
	}
	for name, p := range models(r.target) {
		m[name] = reading{Path: p}
	}
	// lighttpd's CGI folds whatever is no letter and no digit, and so did Apache's.
	cgis := reading{m["apache"].Path, map[string]string{}}
	for _, l := range r.lines {
		cgis.Header[strings.Map(func(r rune) rune {
			switch {
			case 'a' <= r && r <= 'z':
				return r - 'a' + 'A'
			case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
				return r
			}
			return '_'
		}, l.name)] += l.value
	}
	m["lighttpd"] = cgis
	d.memo[key] = m
	return m
}

// notes are what differs from request to request, and no decoder reads.
var notes = regexp.MustCompile(`Traceparent: [^\r]*\r\n`)

func ask(name, addr string, r *received) (got reading, err error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return got, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(rig.Patience))
	// As it came, but to be answered once: no body, no upgrade.
	var head strings.Builder
	for text := range strings.Lines(r.head) {
		switch low := strings.ToLower(text); {
		case strings.HasPrefix(low, "content-length:"), strings.HasPrefix(low, "transfer-encoding:"), strings.HasPrefix(low, "upgrade:"),
			strings.HasPrefix(low, "connection:"), strings.HasPrefix(low, "expect:"), strings.HasPrefix(low, "trailer:"):
		case strings.HasPrefix(low, "head "):
			head.WriteString("GET" + text[len("HEAD"):])
		default:
			head.WriteString(text)
		}
	}
	if _, err := io.WriteString(c, head.String()); err != nil {
		return got, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return got, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || resp.StatusCode != http.StatusOK {
		return got, err
	}
	if name != "nginx" {
		return got, json.Unmarshal(body, &got)
	}
	uri, rest, _ := strings.Cut(string(body), "\n")
	got = reading{uri, map[string]string{}}
	for text := range strings.Lines(rest) {
		if k, v, _ := strings.Cut(strings.TrimSuffix(text, "\n"), "="); v != "" {
			got.Header[k] = v
		}
	}
	return got, nil
}

// models are readings of servers that are not here: Apache's with
// AllowEncodedSlashes, one that decodes twice, Tomcat's that drop ";" and what
// follows in a segment, and Windows' with its backslashes and blind to case.
func models(target string) map[string]string {
	raw, _, _ := strings.Cut(target, "?")
	raw, _, _ = strings.Cut(raw, "#")
	decode := func(p string) string {
		if d, err := url.PathUnescape(p); err == nil {
			return d
		}
		return p
	}
	params := func(p string) string {
		segments := strings.Split(p, "/")
		for i, s := range segments {
			segments[i], _, _ = strings.Cut(s, ";")
		}
		return strings.Join(segments, "/")
	}
	back := func(p string) string { return strings.ReplaceAll(p, `\`, "/") }
	clean := func(p string) string {
		p, _, _ = strings.Cut(p, "\x00")
		return path.Clean("/" + p)
	}
	once := decode(raw)
	twice := decode(once)
	return map[string]string{
		"apache":  clean(once),
		"twice":   clean(twice),
		"tomcat":  clean(params(once)),
		"tomcat2": clean(decode(params(raw))),
		"windows": clean(strings.ToLower(back(twice))),
	}
}
