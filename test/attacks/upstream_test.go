package attacks

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// upstream keeps the raw bytes of every request. How it answers is chosen by the
// query's "do", among the answers that the test has taught it; without one it
// says in X-Upstream-Sub whose bearer came along, and nothing else of it.
type upstream struct {
	scheme   string
	listener net.Listener
	all      sync.WaitGroup

	mu      sync.Mutex
	seen    []*received                           // guarded by mu
	answers map[string]func(*served) (again bool) // guarded by mu
	conns   map[net.Conn]bool                     // guarded by mu
	opened  int                                   // connections, ever; guarded by mu
}

// received is one request as it stood on the wire.
type received struct {
	head   string // up to and with the empty line
	body   []byte // with its chunks' framing
	method string
	target string
	lines  []line // in order, duplicates kept
	conn   int    // which connection
}

type line struct{ name, value string }

// served is a request under way.
type served struct {
	*received
	conn net.Conn
	in   *bufio.Reader
}

// values are those of a header, whatever the case of its name.
func (r *received) values(name string) []string {
	var found []string
	for _, l := range r.lines {
		if strings.EqualFold(l.name, name) {
			found = append(found, l.value)
		}
	}
	return found
}

// sub is whose bearer it carries, "" if none.
func (r *received) sub() string {
	v := r.values("Authorization")
	if len(v) != 1 {
		return ""
	}
	parts := strings.Split(strings.TrimPrefix(v[0], "Bearer "), ".")
	if len(parts) != 3 {
		return ""
	}
	var c struct{ Sub string }
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(b, &c) != nil {
		return ""
	}
	return c.Sub
}

func newUpstream(t testing.TB) *upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newUpstreamOn(t, l)
}

// newUpstreamOn serves a listener, of TLS for one.
func newUpstreamOn(t testing.TB, l net.Listener) *upstream {
	t.Helper()
	u := &upstream{scheme: "http", listener: l, answers: map[string]func(*served) bool{}, conns: map[net.Conn]bool{}}
	t.Cleanup(func() {
		l.Close()
		u.mu.Lock()
		for c := range u.conns {
			c.Close()
		}
		u.mu.Unlock()
		u.all.Wait()
	})
	u.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			u.mu.Lock()
			u.conns[c] = true
			u.opened++
			n := u.opened
			u.mu.Unlock()
			u.all.Go(func() {
				u.serve(c, n)
				c.Close()
				u.mu.Lock()
				delete(u.conns, c)
				u.mu.Unlock()
			})
		}
	})
	return u
}

func (u *upstream) url() string { return u.scheme + "://" + u.listener.Addr().String() }

// teach adds an answer. It reports whether the connection goes on.
func (u *upstream) teach(name string, answer func(*served) (again bool)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answers[name] = answer
}

// mark is how many requests there were; since are those from then on.
func (u *upstream) mark() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.seen)
}

func (u *upstream) since(mark int) []*received {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]*received(nil), u.seen[mark:]...)
}

func (u *upstream) serve(c net.Conn, n int) {
	in := bufio.NewReader(c)
	for {
		r, err := readRequest(in)
		if err != nil {
			return
		}
		r.conn = n
		u.mu.Lock()
		u.seen = append(u.seen, r)
		answer := u.answers["default"]
		_, query, _ := strings.Cut(r.target, "?")
		if q, err := url.ParseQuery(query); err == nil && q.Get("do") != "" {
			answer = u.answers[q.Get("do")]
		}
		u.mu.Unlock()
		if answer == nil {
			answer = plainAnswer
		}
		if !answer(&served{r, c, in}) {
			return
		}
	}
}

func plainAnswer(s *served) bool {
	body := fmt.Sprintf(`{"sub":%q}`, s.sub())
	fmt.Fprintf(s.conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Upstream-Sub: %s\r\nContent-Length: %d\r\n\r\n", s.sub(), len(body))
	if s.method != http.MethodHead {
		_, _ = io.WriteString(s.conn, body)
	}
	return true
}

// asks has alice ask the upstream for an answer that it was taught.
func (c *row) asks(name string) *exchanged {
	return c.send(get("/app/x?do="+url.QueryEscape(name), fetched, c.cookie("alice")))
}

// teachBoth adds an answer to the upstream, and to the one over TLS.
func (a *arena) teachBoth(name string, answer func(*served) (again bool)) {
	a.up.teach(name, answer)
	a.tls.teach(name, answer)
}

// okAnswer is a 200 with these header lines and a body of a told length.
func okAnswer(header, body string) string {
	return "HTTP/1.1 200 OK\r\n" + header + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
}

// wire is an answer of exactly these bytes.
func wire(text string, again bool) func(*served) bool {
	return func(s *served) bool {
		_, err := io.WriteString(s.conn, text)
		return again && err == nil
	}
}

// readRequest reads one request and changes nothing of it.
func readRequest(in *bufio.Reader) (*received, error) {
	var head bytes.Buffer
	r := &received{}
	length, chunked := 0, false
	for {
		text, err := in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		head.WriteString(text)
		text = strings.TrimRight(text, "\r\n")
		if text == "" {
			break
		}
		if r.method == "" {
			r.method, text, _ = strings.Cut(text, " ")
			r.target, _, _ = strings.Cut(text, " ")
			continue
		}
		name, value, _ := strings.Cut(text, ":")
		value = strings.Trim(value, " \t")
		r.lines = append(r.lines, line{name, value})
		switch strings.ToLower(name) {
		case "content-length":
			length, _ = strconv.Atoi(value)
		case "transfer-encoding":
			chunked = true
		}
	}
	r.head = head.String()
	if !chunked {
		r.body = make([]byte, length)
		_, err := io.ReadFull(in, r.body)
		return r, err
	}
	var body bytes.Buffer
	for {
		size, err := in.ReadString('\n')
		if err != nil {
			return r, nil // broken off: what came is kept
		}
		body.WriteString(size)
		n, _ := strconv.ParseInt(strings.TrimSpace(strings.SplitN(size, ";", 2)[0]), 16, 32)
		if n == 0 {
			for { // trailers
				text, err := in.ReadString('\n')
				body.WriteString(text)
				if err != nil || strings.TrimRight(text, "\r\n") == "" {
					r.body = body.Bytes()
					return r, nil
				}
			}
		}
		if _, err := io.CopyN(&body, in, n+2); err != nil {
			r.body = body.Bytes()
			return r, nil
		}
	}
}
