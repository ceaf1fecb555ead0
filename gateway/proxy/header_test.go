package proxy

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// trusted are names by which an upstream may be told who is asking, or what.
var trusted = []string{
	"Authorization", "DPoP", "Proxy-Authorization", "Forwarded", "X-Real-IP", "X-BFF", "X-BFF-User", "X-BFF-Local-Key", "X-BFF-Background",
	"X-Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Uri",
	"X-Forwarded-Method", "X-Forwarded-Server", "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups",
	"X-Forwarded-Preferred-Username", "X-Forwarded-Access-Token", "X-Forwarded-Anything-Else-That-Somebody-May-Invent",
	"X-Auth-Request-User", "X-Auth-Request-Email", "Remote-User", "X-Remote-User", "X-Original-URL", "X-Original-URI", "X-Rewrite-URL",
	"X-Client-Cert", "X-Amzn-Oidc-Identity", "X-Amzn-Oidc-Data", "X-Amzn-Mtls-Clientcert", "Early-Data", "Secure-Session-Response",
	"Secure-Session-Id", "True-Client-IP", "X-SSL-Client-Cert", "X-Goog-IAP-JWT-Assertion", "X-MS-CLIENT-PRINCIPAL-ID", "HTTP2-Settings",
}

func TestForwardStripsTrustedNames(t *testing.T) {
	u := serveRaw(t, nil)
	spellings := map[string]func(string) string{
		"G-01 G-03 as it is":    func(n string) string { return n },
		"G-02 underscores":      func(n string) string { return strings.ReplaceAll(n, "-", "_") },
		"G-02 dots":             func(n string) string { return strings.ReplaceAll(n, "-", ".") },
		"G-02 first underscore": func(n string) string { return strings.Replace(n, "-", "_", 1) },
		"G-02 lower case":       strings.ToLower,
		"G-02 upper case":       strings.ToUpper,
		"G-02 mixed": func(n string) string {
			return strings.ToUpper(strings.Replace(strings.ReplaceAll(n, "-", "."), ".", "_", 1))
		},
	}
	for name, spell := range spellings {
		for _, bearer := range []Bearer{"", "ATcanary"} {
			t.Run(name+" "+string(bearer), func(t *testing.T) {
				f := newFront(t, u.to(), frontOptions{bearer: bearer})
				var lines []string
				for _, n := range trusted {
					lines = append(lines, spell(n)+": EVILcanary", spell(n)+": EVILcanary2")
				}
				lines = append(lines, "X-Requested-With: kept", "Accept: */*")
				if got := status(send(t, f.addr, get("/x", lines...))); got != "200" {
					t.Fatalf("status %s", got)
				}
				head := u.last(t)
				if strings.Contains(head, "EVILcanary") {
					t.Errorf("the upstream sees a client's word:\n%s", head)
				}
				if !slices.Equal(values(head, "X-Requested-With"), []string{"kept"}) {
					t.Errorf("a header is lost:\n%s", head)
				}
				var want []string
				if bearer != "" {
					want = []string{"Bearer ATcanary"}
				}
				if got := values(head, "Authorization"); !slices.Equal(got, want) {
					t.Errorf("Authorization = %q; want %q", got, want)
				}
			})
		}
	}
}

func TestG02MalformedNames(t *testing.T) {
	u := serveRaw(t, nil)
	f := newFront(t, u.to(), frontOptions{})
	for _, line := range []string{"X-Forwarded-User : x", "X\u2013Forwarded-User: x", "X-Forwarded-User\x00: x", " X-Forwarded-User: x"} {
		if got := status(send(t, f.addr, "GET / HTTP/1.1\r\nHost: app.test\r\n"+line+"\r\nConnection: close\r\n\r\n")); got != "400" {
			t.Errorf("%q: status %s; want 400", line, got)
		}
	}
	if n := len(u.received()); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
}

func TestG04ConnectionNamedHeaders(t *testing.T) {
	u := serveRaw(t, nil)
	f := newFront(t, u.to(), frontOptions{bearer: "ATcanary"})
	const names = "Authorization, X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, X-Forwarded-User, Cookie, Host, Traceparent, X-BFF-User, User-Agent"
	for _, lines := range [][]string{
		{"Connection: close, " + names},
		{"Connection: ", "Connection: " + names, "Connection: close"},
		{"Connection: " + strings.ToLower(names) + ", close"},
		{"Proxy-Connection: " + names, "Connection: close"},
		{"Keep-Alive: " + names, "Connection: close, keep-alive, te, x-hop", "X-Hop: EVIL", "TE: gzip", "Upgrade: EVIL"},
	} {
		raw := "GET /x HTTP/1.1\r\nHost: app.test\r\nX-BFF-User: EVIL\r\nAuthorization: EVIL\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
		if got := status(send(t, f.addr, raw)); got != "200" {
			t.Fatalf("%q: status %s", lines, got)
		}
		head := u.last(t)
		for name, want := range map[string]string{
			"Authorization": "Bearer ATcanary", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "app.test", "X-Forwarded-Proto": "http", "Host": u.addr,
		} {
			if got := values(head, name); !slices.Equal(got, []string{want}) {
				t.Errorf("%q: %s = %q; want %q", lines, name, got, want)
			}
		}
		if len(values(head, "Traceparent")) != 1 || strings.Contains(head, "EVIL") ||
			len(values(head, "Connection"))+len(values(head, "Keep-Alive"))+len(values(head, "Te"))+len(values(head, "Proxy-Connection")) > 0 {
			t.Errorf("%q:\n%s", lines, head)
		}
	}
}

func TestG06DuplicateAuthorization(t *testing.T) {
	u := serveRaw(t, nil)
	f := newFront(t, u.to(), frontOptions{bearer: "ATcanary"})
	send(t, f.addr, get("/", "Authorization: Bearer a", "authorization: Bearer b", "Authorization: Bearer c, Bearer d", "Proxy-Authorization: Basic x"))
	head := u.last(t)
	if got := values(head, "Authorization"); !slices.Equal(got, []string{"Bearer ATcanary"}) || len(values(head, "Proxy-Authorization")) > 0 {
		t.Errorf("Authorization = %q; want ours alone", got)
	}
}

func TestG07Cookies(t *testing.T) {
	u := serveRaw(t, nil)
	f := newFront(t, u.to(), frontOptions{})
	const ticket = "__Host-Http-cloakroom=CKcanary"
	many := strings.Repeat("x=1; ", 3001)
	tests := []struct {
		name string
		in   []string
		want []string
	}{
		{"byte for byte", []string{`a=1;b="q;  ;c=d=e ;; f`}, []string{`a=1;b="q;  ;c=d=e ;; f`}},
		{"ours among others", []string{"a=1; " + ticket + "; b=2", ticket, "c=3; __Host-cloakroom-login-AA=CKcanary"}, []string{"a=1; b=2", "c=3"}},
		{"ours within quotes", []string{`a="x; ` + ticket + `"; b=2`}, []string{`a="x; b=2`}},
		{"only ours", []string{ticket}, nil},
		{"C-07 3001 cookies and ours", []string{many + ticket}, []string{strings.TrimSuffix(many, "; ")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var lines []string
			for _, c := range tt.in {
				lines = append(lines, "Cookie: "+c)
			}
			send(t, f.addr, get("/", lines...))
			head := u.last(t)
			if got := values(head, "Cookie"); !slices.Equal(got, tt.want) || strings.Contains(head, "CKcanary") {
				t.Errorf("Cookie = %.100q; want %.100q", got, tt.want)
			}
		})
	}
}

func TestG08ForwardedFor(t *testing.T) {
	private := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("fe80::/10")}
	long := strings.TrimSuffix(strings.Repeat("192.0.2.7, ", 1000), ", ")
	tests := []struct {
		name, peer string
		trusted    []netip.Prefix
		sent       []string
		want       string // X-Forwarded-For to the upstream
		addr       string // ClientAddr
	}{
		{"untrusted peer", "203.0.113.9:4711", private, []string{"10.1.1.1"}, "203.0.113.9", "203.0.113.9"},
		{"nobody is trusted by default", "10.0.0.1:4711", nil, []string{"192.0.2.7"}, "10.0.0.1", "10.0.0.1"},
		{"nobody, loopback", "127.0.0.1:4711", nil, []string{"192.0.2.7"}, "127.0.0.1", "127.0.0.1"},
		{"trusted peer", "10.0.0.1:4711", private, []string{"192.0.2.7"}, "192.0.2.7, 10.0.0.1", "192.0.2.7"},
		{"trusted peer, nothing sent", "10.0.0.1:4711", private, nil, "10.0.0.1", "10.0.0.1"},
		{"nearest untrusted counts", "10.0.0.1:4711", private, []string{"1.1.1.1, 192.0.2.7,10.2.2.2"}, "1.1.1.1, 192.0.2.7,10.2.2.2, 10.0.0.1", "192.0.2.7"},
		{"two headers", "10.0.0.1:4711", private, []string{"1.1.1.1", "192.0.2.7"}, "1.1.1.1, 192.0.2.7, 10.0.0.1", "192.0.2.7"},
		{"all trusted", "10.0.0.1:4711", private, []string{"10.3.3.3, 10.2.2.2"}, "10.3.3.3, 10.2.2.2, 10.0.0.1", "10.3.3.3"},
		{"not an address", "10.0.0.1:4711", private, []string{"1.1.1.1, unknown"}, "1.1.1.1, unknown, 10.0.0.1", "10.0.0.1"},
		{"with ports", "10.0.0.1:4711", private, []string{"[2001:db8::1]:99"}, "[2001:db8::1]:99, 10.0.0.1", "2001:db8::1"},
		{"IPv4 in IPv6", "[::ffff:10.0.0.1]:4711", private, []string{"192.0.2.7"}, "192.0.2.7, 10.0.0.1", "192.0.2.7"},
		{"IPv6 zone, trusted", "[fe80::1%eth0]:4711", private, []string{"192.0.2.7"}, "192.0.2.7, fe80::1", "192.0.2.7"},
		{"IPv6 zone, untrusted", "[fe80::1%eth0]:4711", nil, []string{"192.0.2.7"}, "fe80::1", "fe80::1"},
		{"Unix socket", "@", private, []string{"192.0.2.7"}, "", "invalid IP"},
		{"Unix socket, everybody trusted", "", []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, []string{"192.0.2.7"}, "", "invalid IP"},
		{"long chain", "10.0.0.1:4711", private, []string{long}, long + ", 10.0.0.1", "192.0.2.7"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr = tt.peer
			for _, v := range tt.sent {
				r.Header.Add("X-Forwarded-For", v)
			}
			if got := forwardedFor(r, tt.trusted); got != tt.want {
				t.Errorf("forwardedFor = %.100q; want %.100q", got, tt.want)
			}
			if got := ClientAddr(r, tt.trusted).String(); got != tt.addr {
				t.Errorf("ClientAddr = %s; want %s", got, tt.addr)
			}
		})
	}
}

func TestG08TrustedPeerOnTheWire(t *testing.T) {
	u := serveRaw(t, nil)
	cfg := u.to()
	cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	cfg.PublicScheme = "https"
	f := newFront(t, cfg, frontOptions{})
	send(t, f.addr, get("/", "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Host: evil.test", "X-Forwarded-Proto: gopher"))
	head := u.last(t)
	for name, want := range map[string]string{"X-Forwarded-For": "192.0.2.7, 127.0.0.1", "X-Forwarded-Host": "app.test", "X-Forwarded-Proto": "https"} {
		if got := values(head, name); !slices.Equal(got, []string{want}) {
			t.Errorf("%s = %q; want %q", name, got, want)
		}
	}
}

func TestPublicScheme(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	if got := (&Proxy{}).publicScheme(r); got != "http" {
		t.Errorf("plain: %q", got)
	}
	r.TLS = new(tls.ConnectionState)
	if got := (&Proxy{}).publicScheme(r); got != "https" {
		t.Errorf("TLS: %q", got)
	}
}

func TestTraceparent(t *testing.T) {
	const valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	fresh := regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-01$`)
	u := serveRaw(t, nil)
	f := newFront(t, u.to(), frontOptions{})
	for _, tt := range []struct {
		name  string
		lines []string
		keep  bool
	}{
		{"valid", []string{"traceparent: " + valid}, true},
		{"none", nil, false},
		{"two", []string{"traceparent: " + valid, "traceparent: " + valid}, false},
		{"upper case", []string{"traceparent: " + strings.ToUpper(valid)}, false},
		{"zero trace", []string{"traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01"}, false},
		{"zero parent", []string{"traceparent: 00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"}, false},
		{"version ff", []string{"traceparent: ff" + valid[2:]}, false},
		{"version 00 and more", []string{"traceparent: " + valid + "-x"}, false},
		{"newer version and more", []string{"traceparent: 01" + valid[2:] + "-x"}, true},
		{"newer version, glued", []string{"traceparent: 01" + valid[2:] + "x"}, false},
		{"short", []string{"traceparent: 00"}, false},
		{"long", []string{"traceparent: 01" + valid[2:] + "-" + strings.Repeat("x", 9000)}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			send(t, f.addr, get("/", append(tt.lines, "tracestate: a=b")...))
			head := u.last(t)
			tp, ts := values(head, "Traceparent"), values(head, "Tracestate")
			if len(tp) != 1 || len(ts) == 1 != tt.keep {
				t.Fatalf("traceparent %q, tracestate %q", tp, ts)
			}
			if tt.keep {
				if want := strings.TrimPrefix(tt.lines[0], "traceparent: "); tp[0] != want {
					t.Errorf("traceparent = %q; want %q", tp[0], want)
				}
			} else if !fresh.MatchString(tp[0]) {
				t.Errorf("traceparent = %q; want a new one", tp[0])
			}
			if got := TraceID(tp[0]); got != tp[0][3:35] {
				t.Errorf("TraceID = %q", got)
			}
		})
	}
	if TraceID("nonsense") != "" {
		t.Error("TraceID of nonsense")
	}
	if h := make(http.Header); Traceparent(h) == Traceparent(h) {
		t.Error("two new traces are the same")
	}
}

func TestK02NoStore(t *testing.T) {
	h := http.Header{
		"Cache-Control": {"public, s-maxage=31536000"}, "Cdn-Cache-Control": {"max-age=9"}, "Cloudflare-Cdn-Cache-Control": {"max-age=9"},
		"Surrogate-Control": {"max-age=9"}, "Expires": {"Thu, 01 Jan 2099 00:00:00 GMT"}, "Pragma": {"x"}, "X-Accel-Expires": {"9"},
		"Etag": {`"x"`}, "X-Cache-Control-Hint": {"kept"},
	}
	NoStore(h)
	if h.Get("Cache-Control") != "no-store" || h.Get("Etag") == "" || h.Get("X-Cache-Control-Hint") == "" || len(h) != 3 {
		t.Errorf("left %v", h)
	}
}
