package test

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// devServer behaves as Vite's does, and is as choosy: of the hosts by which it may
// be asked for, of a WebSocket's token, as webpack's is of its Origin.
type devServer struct {
	t    testing.TB
	addr string

	mu      sync.Mutex
	server  *http.Server          // nil: it is not running
	sockets map[net.Conn]struct{} // open
	seen    []http.Header
	module  string // what main.js shows
}

const hmrToken = "a-token-of-the-dev-server"

func newDevServer(t testing.TB) *devServer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &devServer{t: t, addr: l.Addr().String(), sockets: map[net.Conn]struct{}{}, module: "one"}
	d.serve(l)
	t.Cleanup(d.stop)
	return d
}

// start starts it again, where it was.
func (d *devServer) start() {
	d.t.Helper()
	l, err := net.Listen("tcp", d.addr)
	if err != nil {
		d.t.Fatal(err)
	}
	d.serve(l)
}

func (d *devServer) serve(l net.Listener) {
	s := &http.Server{Handler: d}
	d.mu.Lock()
	d.server = s
	d.mu.Unlock()
	go s.Serve(l)
}

func (d *devServer) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.server != nil {
		d.server.Close()
		d.server = nil
	}
	for c := range d.sockets {
		c.Close()
	}
}

// change saves a file, and tells the pages.
func (d *devServer) change(shows string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.module = shows
	for c := range d.sockets {
		d.tell(c, `{"type":"update","path":"/src/main.js?t=2"}`)
	}
}

// tell sends one text frame.
func (d *devServer) tell(c io.Writer, text string) {
	_, _ = c.Write(append([]byte{0x81, byte(len(text))}, text...)) // shorter than 126 bytes
}

func (d *devServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.seen = append(d.seen, r.Header.Clone())
	module := d.module
	d.mu.Unlock()
	if r.Host != d.addr {
		http.Error(w, "Blocked request. This host is not allowed.", http.StatusForbidden)
		return
	}
	if r.Header.Get("Upgrade") != "" {
		d.socket(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	switch r.URL.Path {
	case "/@vite/client":
		w.Header().Set("Content-Type", "text/javascript")
		fmt.Fprintf(w, `const socket = new WebSocket(location.origin.replace('http', 'ws') + '/?token=%s', 'vite-hmr');
socket.onmessage = (e) => {
	const m = JSON.parse(e.data);
	if (m.type === 'update') import(m.path); else document.getElementById('hmr').textContent = m.type + ' ' + socket.protocol;
};
socket.onclose = (e) => { document.getElementById('hmr').textContent = 'lost'; };
`, hmrToken)
	case "/src/main.js":
		w.Header().Set("Content-Type", "text/javascript")
		fmt.Fprintf(w, `document.getElementById('app').textContent = %q;`, module)
	case "/node_modules/.vite/deps/library.js":
		w.Header().Set("Content-Type", "text/javascript")
		w.Header().Set("Cache-Control", "max-age=31536000,immutable")
	default:
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, `<!doctype html><title>Dev</title><p id="app"></p><p id="hmr"></p>
<script type="module" src="/@vite/client"></script><script type="module" src="/src/main.js"></script>`)
	}
}

func (d *devServer) socket(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Origin") != "http://"+d.addr || r.URL.Query().Get("token") != hmrToken || r.Header.Get("Sec-WebSocket-Protocol") != "vite-hmr" {
		http.Error(w, "Invalid WebSocket", http.StatusBadRequest)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: vite-hmr\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	d.mu.Lock()
	d.tell(conn, `{"type":"connected"}`)
	d.sockets[conn] = struct{}{}
	d.mu.Unlock()
	_, _ = io.Copy(io.Discard, rw)
	d.mu.Lock()
	delete(d.sockets, conn)
	d.mu.Unlock()
}

// In Chromium: a page of a development server, through the gateway, is logged in,
// is changed under the browser by its WebSocket, and says so while its server is
// not running. The server sees neither session nor token.
func TestDevServer(t *testing.T) {
	t.Parallel()
	dev := newDevServer(t)
	_, w := inReach(t, gatewaytest.Options{AutoLogin: gatewaytest.As("alice")}, func(c rig.Config) {
		c.Set("apps.0.routes", append(c["apps"].([]any)[0].(map[string]any)["routes"].([]any),
			map[string]any{"path": "/", "dev_server": "http://" + dev.addr}))
	})
	const warning = "is for development, not for production: whoever reaches this gateway can read the page's sources"
	if got := w.Gateways[0].Log("configuration: " + warning); len(got) != 1 || got[0]["level"] != "WARN" || got[0]["key"] != "apps[0].routes[2].dev_server" {
		t.Errorf("at the start it is said: %v", got)
	}
	if out, _, code := rig.Run(t, "check", "--report", "--config", w.Config.Write(t)); code != 0 ||
		!strings.Contains(out, "apps[0].routes[2].dev_server: warning: "+warning) || !strings.Contains(out, "development server http://"+dev.addr) {
		t.Errorf("check: %d %s", code, out)
	}

	c := rig.NewChrome(t)
	c.Do("open the app", chromedp.Navigate(w.Origin+"/bff/login?return_to=/orders?page=2"))
	shows(t, c, "app", "one")
	shows(t, c, "hmr", "connected vite-hmr")
	if got := c.Eval(`location.pathname + location.search`); got != "/orders?page=2" {
		t.Errorf("the login landed on %s", got)
	}
	if got := c.Eval(`document.cookie = 'theme=dark'; fetch('/bff/user', {headers: {'X-BFF': '1'}}).then((r) => r.json()).then((u) => u.name)`); got != "Alice" {
		t.Errorf("the page's user is %s", got)
	}
	c.Do("mark the page", chromedp.Evaluate[chromedp.Void](`window.mark = 'same page'`))
	dev.change("two")
	shows(t, c, "app", "two")
	if got := c.Eval(`window.mark ?? ''`); got != "same page" {
		t.Error("the page was loaded anew")
	}
	if got := c.Eval(`fetch('/node_modules/.vite/deps/library.js?v=1').then((r) => r.headers.get('Cache-Control'))`); got != "max-age=31536000,immutable" {
		t.Errorf("the server's word on caching is %s", got)
	}

	dev.stop()
	shows(t, c, "hmr", "lost")
	c.Do("reload", chromedp.Reload())
	if got := c.Eval(`document.body.innerText`); !strings.Contains(got, "the development server does not answer; is it running?") || !strings.Contains(got, "upstream_unreachable") {
		t.Errorf("without the server: %s", got)
	}
	dev.start()
	c.Do("try again", chromedp.Click("a.act"))
	shows(t, c, "app", "two")
	shows(t, c, "hmr", "connected vite-hmr")

	// From another site nobody hears of changes.
	for _, row := range []struct {
		origin string
		status int
	}{{"Origin: " + w.Origin + "\r\n", 101}, {"Origin: https://evil.test\r\n", 403}, {"Origin: http://" + dev.addr + "\r\n", 403}, {"", 403}} {
		if got := upgrade(t, w.Gateways[0].Public, strings.TrimPrefix(w.Origin, "http://"), row.origin); got != row.status {
			t.Errorf("%q: %d, want %d", row.origin, got, row.status)
		}
	}

	dev.mu.Lock()
	defer dev.mu.Unlock()
	themed := false
	for _, h := range dev.seen {
		themed = themed || h.Get("Cookie") == "theme=dark"
		if strings.Contains(h.Get("Cookie"), "cloakroom") || h.Get("Authorization") != "" {
			t.Errorf("the server saw %v", h)
		}
	}
	if !themed {
		t.Error("the server saw no cookie of the page's own")
	}
}

// upgrade asks for a WebSocket of the development server's and returns the status.
func upgrade(t *testing.T, addr, host, header string) int {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /?token=%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: vite-hmr\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n", hmrToken, host, header)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}
