package attacks

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// P: whatever is wrong with Redis, nobody is anonymous for it, nobody's cookie is
// touched, and when it has passed the same cookies work.
func TestP(t *testing.T) {
	t.Parallel()
	var link *rig.Link
	var redis string
	a := newArena(t, setup{change: func(c rig.Config) {
		redis = c["redis"].(map[string]any)["addresses"].([]any)[0].(string)
		link = rig.NewLink(t, redis, 1)
		c.Set("redis.addresses", []any{link.Addr()})
		c.Set("redis.timeout", "1s")
	}})
	a.user("alice")
	a.user("bob")
	a.provider.Change(func(o *gatewaytest.Options) { o.AutoLogin = gatewaytest.As("carol") })
	const navigation = "Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nAccept: text/html\r\n"
	const form = "Content-Type: application/x-www-form-urlencoded\r\n"
	upgrade := "Origin: " + rig.Origin + "\r\nSec-Fetch-Site: same-origin\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

	// The provider's own name of alice's session.
	var token struct {
		Access string `json:"access_token"`
	}
	a.user("alice").Fetch("POST", "/bff/token").JSON(t, &token)
	var claims struct{ SID string }
	if b, err := base64.RawURLEncoding.DecodeString(strings.Split(token.Access, ".")[1]); err != nil || json.Unmarshal(b, &claims) != nil || claims.SID == "" {
		t.Fatalf("a token without a sid: %v", err)
	}
	// callback begins a login and goes as far as the provider's answer to it.
	callback := func(c *row) (answer, cookie string) {
		c.Helper()
		started := c.send(get("/bff/login?return_to=%2Flanding", navigation)).final()
		if started == nil || started.Status != http.StatusSeeOther {
			c.Fatal("a login can't be begun")
		}
		cookie, _, _ = strings.Cut(started.Header.Get("Set-Cookie"), ";")
		c.w.Secret("a cookie", cookie[strings.Index(cookie, "=")+1:])
		resp, err := http.DefaultTransport.RoundTrip(must(http.NewRequest("GET", started.Header.Get("Location"), nil)))
		if err != nil {
			c.Fatal(err)
		}
		resp.Body.Close()
		back, err := url.Parse(resp.Header.Get("Location"))
		if err != nil {
			c.Fatal(err)
		}
		return back.RequestURI(), "Cookie: " + cookie + "\r\n"
	}
	// refused demands that all that needs the store says so, within its deadlines,
	// and does nothing.
	refused := func(c *row, what string) {
		c.Helper()
		c.eventually(what+" is felt", func() bool { return c.send(get("/app/x", fetched, a.cookie("alice"))).status() == 503 })
		mark, spent := c.up.mark(), len(c.provider.Ledger())
		back, login := callback(c) // needs no store
		token := c.provider.LogoutToken(gatewaytest.Logout{Subject: "sub-alice"})
		c.w.Secret("a logout token", token)
		alice := a.cookie("alice")
		requests := []string{
			get("/app/x", fetched, alice), post("/app/x", "body", fetched, alice), get("/app/admin/x", fetched, alice), get("/svc-b/x", fetched, alice),
			get("/page/x", navigation, alice), get("/maybe/x", fetched, alice),
			strings.Replace(get("/app/x", upgrade, alice), "Connection: close", "Connection: Upgrade", 1),
			post("/bff/token", "", fetched, alice), get("/bff/token", fetched, alice), get("/bff/user", fetched, alice), get("/bff/session", fetched, alice), get("/bff/sessions", fetched, alice),
			request("DELETE", "/bff/sessions", fetched, alice), request("DELETE", "/bff/sessions/AAAAAAAAAAAAAAAAAAAAAA", fetched, alice),
			post("/bff/logout", "", fetched, alice), post("/bff/logout", "", form, "Sec-Fetch-Site: same-origin\r\nOrigin: "+rig.Origin+"\r\n", alice),
			post("/bff/backchannel-logout", "logout_token="+token, form), get("/bff/frontchannel-logout?iss=" + url.QueryEscape(c.provider.Issuer()) + "&sid=" + claims.SID),
			get(back, navigation, login), get(back, navigation, login),
		}
		var all sync.WaitGroup
		for _, text := range requests {
			all.Go(func() {
				began := time.Now()
				x := c.send(text)
				switch took := time.Since(began); {
				case x.status() != http.StatusServiceUnavailable, x.final().Header.Get("Retry-After") == "", x.final().Header.Get("Location") != "", len(x.final().Header.Values("Set-Cookie")) > 0:
					c.Errorf("%s: %.60q: %v\n%.600s", what, text, x, x.got)
				case took > 4*time.Second:
					c.Errorf("%s: %.60q: it took %v", what, text, took)
				}
			})
		}
		all.Wait()
		// What needs no store goes on, and tells nobody whose it is.
		for _, text := range []string{get("/public/x", fetched, alice), get("/maybe/x", fetched), get("/landing", navigation, alice)} {
			if x := c.send(text); x.status() != http.StatusOK {
				c.Errorf("%s: %.60q: %v", what, text, x)
			}
		}
		for _, r := range c.up.since(mark) {
			if len(r.values("Authorization")) > 0 || strings.HasPrefix(r.target, "/app") || strings.HasPrefix(r.target, "/u2") || strings.HasPrefix(r.target, "/page") {
				c.Errorf("%s: the upstream got %q", what, r.head)
			}
		}
		for _, e := range c.provider.Ledger()[spent:] {
			if e.Endpoint == gatewaytest.EndpointToken {
				c.Errorf("%s: a code was presented: %v", what, e)
			}
		}
	}
	// again demands that the same cookies work.
	again := func(c *row, what string) {
		c.Helper()
		for _, name := range []string{"alice", "bob"} {
			c.eventually(what+" has passed, "+name+" is served", func() bool {
				x := c.send(post("/bff/token", "", fetched, a.cookie(name)))
				if s := x.status(); s != 200 && s != 503 {
					c.Fatalf("%s: %v", what, x)
				}
				return x.status() == 200
			})
			if x := c.send(get("/app/x", fetched, a.cookie(name))); x.status() != http.StatusOK || x.final().Header.Get("X-Upstream-Sub") != gatewaytest.SubjectOf(name) {
				c.Errorf("%s: %v", what, x)
			}
		}
	}
	trouble := func(id string, begin, end func(c *row)) {
		a.row(id, func(c *row) {
			begin(c)
			refused(c, id)
			end(c)
			again(c, id)
		})
	}
	set := func(up, down rig.Fault) func(*row) {
		return func(*row) { link.Set(rig.Up, up); link.Set(rig.Down, down) }
	}
	heal := func(*row) { link.Heal(); link.Break() }
	trouble("P-02_refuses_connections", func(*row) { link.Refuse() }, func(*row) { link.Accept() })
	trouble("P-02_frozen", func(c *row) { c.w.Redis.Stop() }, func(c *row) { c.w.Redis.Cont() })
	trouble("P-03_never_answers", set(rig.Fault{}, rig.Fault{Stall: true}), heal)
	trouble("P-03_hears_nothing", set(rig.Fault{Eat: true}, rig.Fault{}), heal)
	trouble("P-03_a_byte_a_second", set(rig.Fault{}, rig.Fault{Rate: 1}), heal)
	trouble("P-03_resets_in_the_middle", set(rig.Fault{}, rig.Fault{Cut: rig.Reset, After: 1}), heal)
	a.row("P-06_out_of_memory", func(c *row) {
		// What is there is read, and can be ended; nothing is begun.
		dave := c.w.NewBrowser()
		c.provider.Change(func(o *gatewaytest.Options) { o.AutoLogin = nil })
		dave.Login("dave")
		c.provider.Change(func(o *gatewaytest.Options) { o.AutoLogin = gatewaytest.As("carol") })
		old := dave.Clone()
		c.w.Redis.CLI("CONFIG", "SET", "maxmemory", "1")
		for _, text := range []string{
			get("/app/x", fetched, a.cookie("alice")), get("/page/x", navigation, a.cookie("alice")), post("/bff/token", "", fetched, a.cookie("alice")), get("/bff/user", fetched, a.cookie("bob")), get("/bff/session", fetched, a.cookie("bob")), get("/bff/sessions", fetched, a.cookie("bob")),
		} {
			c.want(c.send(text), http.StatusOK, "")
		}
		back, login := callback(c)
		x := c.send(get(back, navigation, login))
		c.want(x, http.StatusServiceUnavailable, "store_unavailable")
		if len(x.final().Header.Values("Set-Cookie")) > 0 {
			c.Errorf("%s", x.got)
		}
		if r := dave.Fetch("POST", "/bff/logout"); r.Status != http.StatusOK {
			c.Errorf("logout: %s", r)
		}
		if r := old.Fetch("GET", "/bff/user"); r.Status != http.StatusUnauthorized {
			c.Errorf("after the logout: %s", r)
		}
		c.w.Redis.CLI("CONFIG", "SET", "maxmemory", "0")
		c.provider.Change(func(o *gatewaytest.Options) { o.AutoLogin = nil })
		dave.Login("dave")
		c.provider.Change(func(o *gatewaytest.Options) { o.AutoLogin = gatewaytest.As("carol") })
		again(c, "P-06")
	})
	trouble("P-08_read_only", func(c *row) { c.w.Redis.CLI("REPLICAOF", "127.0.0.1", "1") }, func(c *row) { c.w.Redis.CLI("REPLICAOF", "NO", "ONE") })
	trouble("P-11_not_allowed", func(c *row) {
		c.w.Redis.CLI("ACL", "SETUSER", "operator", "on", "nopass", "~*", "&*", "+@all")
		c.w.Redis.CLI("ACL", "SETUSER", "default", "-@all", "+acl")
	}, func(c *row) {
		c.w.Redis.CLI("ACL", "SETUSER", "default", "+@all")
	})
	trouble("P-11_busy", func(c *row) {
		c.w.Redis.CLI("CONFIG", "SET", "busy-reply-threshold", "1")
		go func() {
			conn, err := net.Dial("tcp", redis)
			if err == nil {
				fmt.Fprint(conn, "EVAL \"while true do end\" 0\r\n")
				_, _ = conn.Read(make([]byte, 100))
				conn.Close()
			}
		}()
	}, func(c *row) { c.w.Redis.CLI("SCRIPT", "KILL") })
	for name, reply := range map[string]string{
		"another_protocol": "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "noise": "\x00\x01\x02\xff\r\n", "nothing_but_OK": "+OK\r\n", "nulls": "$-1\r\n", "errors": "-ERR unknown command\r\n", "loading": "-LOADING Redis is loading the dataset in memory\r\n",
		"a_huge_length": "$536870911\r\nx", "a_negative_length": "$-7\r\n", "a_huge_array": "*1073741823\r\n", "a_deep_array": strings.Repeat("*1\r\n", 1000), "numbers": ":1\r\n", "authentication": "-NOAUTH Authentication required.\r\n",
		"maps": "%1\r\n+a\r\n+b\r\n", "pushes": ">2\r\n+message\r\n+x\r\n", "more_than_was_asked": strings.Repeat("+OK\r\n", 10),
	} {
		trouble("P-09_says_"+name, func(c *row) {
			link.To(liar(c.T, reply))
			link.Break()
		}, func(*row) { link.To(redis); link.Break() })
	}
	a.row("P-12_hostile_keys", func(c *row) {
		// One session's record is of another kind, or huge: that session alone.
		record := ""
		var about struct{ SID string }
		a.user("bob").Fetch("GET", "/bff/session").JSON(t, &about)
		for _, k := range strings.Fields(c.w.Redis.CLI("KEYS", "*{"+about.SID+"}*")) {
			if c.w.Redis.CLI("TYPE", k) == "string" && c.w.Redis.CLI("STRLEN", k) != "0" {
				record = k
			}
		}
		if record == "" {
			c.Fatal("bob has no record")
		}
		kept := "kept:" + record
		c.w.Redis.CLI("COPY", record, kept)
		for name, change := range map[string][]string{
			"a list": {"RPUSH", record, "x"}, "a hash": {"HSET", record, "a", "b"}, "a set": {"SADD", record, "x"}, "a sorted set": {"ZADD", record, "1", "x"}, "a stream": {"XADD", record, "*", "a", "b"}, "empty": {"SET", record, ""}, "short": {"SET", record, "x"}, "text": {"SET", record, strings.Repeat("{}", 500)}, "of 50 MiB": {"SETRANGE", record, "52428800", "x"}, "a number": {"SET", record, "12345678901234567"},
		} {
			c.w.Redis.CLI("DEL", record)
			c.w.Redis.CLI(change...)
			if name == "empty" { // for 10 s after Redis was found to be another, what isn't there may yet return
				c.eventually("nothing returns", func() bool {
					x := c.send(get("/bff/session", fetched, a.cookie("bob")))
					return x.status() == http.StatusUnauthorized
				})
			}
			for _, text := range []string{get("/app/x", fetched, a.cookie("bob")), post("/bff/token", "", fetched, a.cookie("bob")), get("/bff/session", fetched, a.cookie("bob")), post("/bff/logout", "", fetched, a.cookie("bob"))} {
				x := c.send(text)
				if name == "empty" { // as one that isn't there: a login helps, and a logout has nothing to end
					if strings.HasPrefix(text, "POST /bff/logout") {
						c.want(x, http.StatusOK, "")
					} else {
						c.want(x, http.StatusUnauthorized, "")
					}
					continue
				}
				if s := x.status(); s != 401 && s != 503 || len(x.final().Header.Values("Set-Cookie")) > 0 {
					c.Errorf("%s: %.40q: %v %s", name, text, x, x.got)
				}
			}
			c.want(c.send(get("/bff/sessions", fetched, a.cookie("alice"))), http.StatusOK, "")
			c.want(c.send(post("/bff/token", "", fetched, a.cookie("alice"))), http.StatusOK, "")
		}
		c.w.Redis.CLI("RENAME", kept, record)
		again(c, "P-12")
	})
	a.row("P-04_idle_connections_are_dead", func(c *row) {
		for _, breaks := range []func(){func() { link.Break() }, func() { c.w.Redis.CLI("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") }} {
			for range 3 {
				for range 5 { // connections to be dead
					c.want(c.send(get("/bff/sessions", fetched, a.cookie("bob"))), 200, "")
				}
				breaks()
				for _, path := range []string{"/bff/sessions", "/bff/user", "/app/x", "/bff/token"} {
					c.want(c.send(get(path, fetched, a.cookie("alice"))), 200, "")
				}
			}
		}
	})
}

// liar is a server that has one answer to everything.
func liar(t *testing.T, reply string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var over atomic.Bool
	t.Cleanup(func() { over.Store(true); l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 64<<10)
				for !over.Load() {
					if _, err := conn.Read(buf); err != nil {
						return
					}
					if _, err := conn.Write([]byte(reply)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}
