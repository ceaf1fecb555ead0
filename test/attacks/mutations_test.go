package attacks

import (
	"io"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cloakroom/cloakroom/test/rig"
)

// pieces are what framing is made of, and what parsers disagree about.
var pieces = []string{
	"\r\n", "\n", "\r", "\x00", " ", "\t", "\x0b", "\x0c", "\x85", "\xa0", ":", ",", ";", "\"", "\\", "%", "%0d%0a", "Content-Length: 5\r\n", "Content-Length: 0\r\n", "Content-Length: 60\r\n", "Content-Length: 5\n",
	"Transfer-Encoding: chunked\r\n", "transfer-encoding:\tchunked\r\n", "Transfer-Encoding : chunked\r\n", "Transfer-Encoding: chunked, identity\r\n", "Transfer-Encoding:\r\n chunked\r\n", "X: y\r\n z\r\n",
	"Connection: keep-alive\r\n", "Connection: Content-Length\r\n", "Connection: Transfer-Encoding, Host\r\n", "Expect: 100-continue\r\n", "Upgrade: websocket\r\nConnection: Upgrade\r\n", "Upgrade: h2c\r\n", "Host: app.test\r\n", "Host: evil.test\r\n",
	"0\r\n\r\n", "5\r\nhello\r\n", "hello", "5;a=\"\n\"\r\nhello\r\n", "GET /public/next HTTP/1.1\r\nHost: app.test\r\n\r\n", "GET /app/smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n", "Trailer: Content-Length\r\n", "Cookie: a=b\r\n",
	"X-Forwarded-For: 1\r\n", "X_Forwarded_For: 1\r\n", "HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "0x5", "+5", "-1", "00005", "99999999999999999999", "5, 5", "/../", "//", "..;/", "app", "public",
}

// mutate changes a message in a few places, most of them the beginnings of lines,
// by a piece as a rule.
func mutate(rnd *rand.Rand, pieces []string, text string) string {
	for range 1 + rnd.IntN(3) {
		at := rnd.IntN(len(text) + 1)
		switch kind := rnd.IntN(4); {
		case kind < 2:
			if i := strings.IndexByte(text[at:], '\n'); i >= 0 && rnd.IntN(3) > 0 {
				at += i + 1
			}
			text = text[:at] + pieces[rnd.IntN(len(pieces))] + text[at:]
		case at == len(text):
		case kind == 2:
			text = text[:at] + text[at+1:]
		default:
			text = text[:at] + string([]byte{byte(rnd.IntN(256))}) + text[at+1:]
		}
	}
	return text
}

// oneReading is a header as strict servers want it.
var oneReading = regexp.MustCompile(`^[!#$%&'*+\-.^_|~0-9A-Za-z` + "`" + `]+ /[^\x00-\x20\x7f#]* HTTP/1\.1\r\n([!#$%&'*+\-.^_|~0-9A-Za-z` + "`" + `]+: [^\x00-\x08\x0a-\x1f\x7f]*\r\n)*\r\n$`)

// mutationRow sends requests that are almost well-formed, each with another behind
// it: whatever is made of them, the upstream gets what has one reading.
func mutationRow(a *arena) {
	a.row("I-25_mutations", func(c *row) {
		const each, workers = 250, 12
		own := fetched + a.cookie("alice")
		bases := []string{
			"POST /public/x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello",
			"POST /app/x HTTP/1.1\r\nHost: app.test\r\n" + own + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: y\r\n\r\n",
			"GET /public/x?a=b HTTP/1.1\r\nHost: app.test\r\nX-Note: y\r\n\r\n",
			"GET /maybe/x HTTP/1.1\r\nHost: app.test\r\nConnection: keep-alive\r\nTE: trailers\r\n\r\n",
			"PUT /svc-a/x HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
		}
		var all sync.WaitGroup
		for w := range workers {
			rnd := rand.New(rand.NewPCG(uint64(w), 25))
			all.Go(func() {
				for range each {
					base := bases[rnd.IntN(len(bases))]
					text := mutate(rnd, pieces, base)
					if strings.Contains(base, own) && !strings.Contains(text, "\r\n"+own) {
						continue // in another line the cookie would be none to strip
					}
					text += get("/public/last")
					conn, err := net.Dial("tcp", c.g.Public)
					if err != nil {
						c.Error(err)
						return
					}
					// Some wait for more, and some are still to be answered: either will do.
					_ = conn.SetDeadline(time.Now().Add(quiet))
					x := &exchanged{sent: text}
					_, _ = io.WriteString(conn, text)
					x.got, _ = io.ReadAll(conn)
					conn.Close()
					x.answers, _ = parseAnswers(x.got, text)
					c.keep(x)
					for _, got := range x.answers {
						if got.Status >= 400 && got.Status != 417 && got.code() == "" && !got.Cut {
							c.Errorf("%q: %d %q", text, got.Status, got.Body)
						}
					}
				}
			})
		}
		all.Wait()
		c.want(c.send(get("/app/x", own)), 200, "")
		arrived := c.arrived()
		if len(arrived) < each*workers/5 {
			c.Errorf("the upstream got only %d requests", len(arrived))
		}
		for _, r := range arrived {
			if !oneReading.MatchString(r.head) || len(r.values("Host")) != 1 || len(r.values("Content-Length"))+len(r.values("Transfer-Encoding")) > 1 || len(r.values("X-Forwarded-For")) != 1 {
				c.Errorf("the upstream got %q", r.head)
			}
		}
	})
}

// answerMutationRow has an upstream answer in ways that are almost well-formed, and
// the next person come over the connections that are left.
func answerMutationRow(a *arena) {
	a.row("R-26_mutations", func(c *row) {
		const each, workers = 60, 8
		more := append(slices.Clone(pieces), "Set-Cookie: "+rig.SessionCookie+"=x\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 103 Early Hints\r\n\r\n", "304", "204", "100",
			"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "Alt-Svc: x\r\n", "Connection: close\r\n", "Trailer: Set-Cookie\r\n")
		bases := []string{
			"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a=b\r\n\r\nhello", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: y\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n",
			"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
		}
		rnd := rand.New(rand.NewPCG(1, 26))
		var mu sync.Mutex // guards rnd
		for _, up := range []*upstream{c.up, c.tls} {
			up.teach("mutated", func(s *served) bool {
				mu.Lock()
				text, again := mutate(rnd, more, bases[rnd.IntN(len(bases))]), rnd.IntN(2) == 0
				mu.Unlock()
				_, err := io.WriteString(s.conn, text)
				return again && err == nil
			})
		}
		ask := func(text string, wait time.Duration) *exchanged {
			x := &exchanged{sent: text}
			conn, err := net.Dial("tcp", c.g.Public)
			if err != nil {
				c.Error(err)
				return x
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(wait))
			_, _ = io.WriteString(conn, text)
			x.got, _ = io.ReadAll(conn)
			x.answers, _ = parseAnswers(x.got, text)
			c.keep(x)
			return x
		}
		var all sync.WaitGroup
		for w := range workers {
			all.Go(func() {
				path := []string{"/soon/", "/soon-tls/"}[w%2]
				for i := range each {
					x := ask(request([]string{"GET", "HEAD", "DELETE"}[i%3], path+"x?do=mutated", fetched, a.cookie("alice")), quiet) // some wait for more
					if x.finals() > 1 || x.status() == 101 {
						c.Errorf("%q", x.got)
					}
					for _, got := range x.answers {
						for _, line := range got.Header["Set-Cookie"] {
							if name, _, _ := strings.Cut(line, "="); strings.EqualFold(strings.TrimSpace(name), rig.SessionCookie) {
								c.Errorf("our cookie passes: %q", x.got)
							}
						}
					}
					if x := ask(get(path+"clean", fetched, a.cookie("bob")), patience); x.status() != 200 || string(x.final().Body) != `{"sub":"sub-bob"}` {
						c.Errorf("bob got %q", x.got)
					}
				}
			})
		}
		all.Wait()
	})
}

// http2MutationRow does the same over HTTP/2, which can say in a field what ends a
// line in HTTP/1.1.
func http2MutationRow(a *arena) {
	a.row("I-26_http2_mutations", func(c *row) {
		const each, workers = 100, 8
		own := append(append([]field{}, fetchedFields...), a.cookieField("alice"))
		var all sync.WaitGroup
		for w := range workers {
			rnd := rand.New(rand.NewPCG(uint64(w), 27))
			all.Go(func() {
				for i := range each {
					head := fields([]string{"GET", "POST"}[i%2], []string{"/public/x?a=b", "/app/x", "/svc-a/x"}[rnd.IntN(3)], append(own, field{"x-note", "y"}, field{"te", "trailers"}, field{"content-type", "text/plain"})...)
					var body []string
					if i%2 == 1 {
						head, body = append(head, field{"content-length", "5"}), []string{"he", "llo"}
					}
					for range 1 + rnd.IntN(2) {
						switch f := &head[rnd.IntN(len(head))]; rnd.IntN(5) {
						case 0, 1, 2:
							if f.name == "cookie" {
								break // in another name's value it would be no cookie to strip
							}
							if rnd.IntN(3) == 0 {
								f.name = mutate(rnd, pieces, f.name)
							} else {
								f.value = mutate(rnd, pieces, f.value)
							}
						case 3:
							name, value, _ := strings.Cut(strings.TrimSpace(pieces[rnd.IntN(len(pieces))]), ":")
							head = append(head, field{strings.ToLower(name), strings.TrimSpace(value)})
						default:
							head = append(head, head[rnd.IntN(len(head))])
						}
					}
					if got := c.http2(head, body...); got.status() >= 500 {
						c.Errorf("%q: %d", head, got.Status)
					}
				}
			})
		}
		all.Wait()
		arrived := c.arrived()
		if len(arrived) < each*workers/10 {
			c.Errorf("the upstream got only %d requests", len(arrived))
		}
		for _, r := range arrived {
			if !oneReading.MatchString(r.head) || len(r.values("Host")) != 1 || len(r.values("Content-Length"))+len(r.values("Transfer-Encoding")) > 1 || len(r.values("X-Forwarded-For")) != 1 || strings.Contains(r.target, "next") {
				c.Errorf("the upstream got %q", r.head)
			}
		}
	})
}
