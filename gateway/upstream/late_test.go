package upstream

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// I-10: a body that is not to be sent comes all the same, when the next request is
// under way on its connection. It looks like an answer.
func TestI10LateBodies(t *testing.T) {
	const evil = ok11 + "Content-Length: 4\r\n\r\nEVIL"
	length := fmt.Sprintf("Content-Length: %d\r\n\r\n", len(evil))
	for _, tt := range []struct{ name, method, raw string }{
		{"HEAD", "HEAD", ok11 + length},
		{"HEAD with chunks", "HEAD", ok11 + chunkedLine + "\r\n"},
		{"HEAD until the end", "HEAD", ok11 + "\r\n"},
		{"304", "GET", "HTTP/1.1 304 X\r\n" + length},
		{"304 with chunks", "GET", "HTTP/1.1 304 X\r\n" + chunkedLine + "\r\n"},
		{"204", "GET", "HTTP/1.1 204 X\r\n" + length},
	} {
		late := func(_ *server, conn, n int, _ string, c net.Conn, _ *bufio.Reader) bool {
			raw := answerOK
			switch {
			case conn == 1 && n == 1:
				raw = tt.raw
			case conn == 1:
				raw = evil
			}
			io.WriteString(c, raw)
			return true
		}
		t.Run(tt.name, func(t *testing.T) {
			p := newPool(t, Options{}, serve(t, late).addr)
			if _, err := get(p, &Exchange{Method: tt.method}); err != nil {
				t.Fatal(err)
			}
			if got, err := get(p, &Exchange{}); strings.Contains(got, "EVIL") {
				t.Errorf("the next answer is %q, %v", got, err)
			}
		})
		t.Run(tt.name+" over net/http", func(t *testing.T) {
			p := newPool(t, Options{}, serve(t, late).addr)
			for _, method := range []string{tt.method, "GET"} {
				r, err := http.NewRequest(method, "http://u/", nil)
				if err != nil {
					t.Fatal(err)
				}
				res, err := p.RoundTrip(r)
				if err != nil {
					continue
				}
				got, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if strings.Contains(string(got), "EVIL") {
					t.Errorf("the next answer is %q", got)
				}
			}
		})
	}
}

// What can't be used again is not left for others to find.
func TestConnectionsOfHEADAreClosed(t *testing.T) {
	const many = maxStale + 2
	var asked sync.WaitGroup
	asked.Add(many)
	s := serve(t, func(_ *server, _, _ int, head string, c net.Conn, br *bufio.Reader) bool {
		if strings.HasPrefix(head, "HEAD") {
			asked.Done()
			asked.Wait()
		} else {
			br.Discard(4)
		}
		io.WriteString(c, ok11+"Content-Length: 0\r\n\r\n")
		return true
	})
	p := newPool(t, Options{}, s.addr)
	send := func(method string, body io.Reader) {
		r, err := http.NewRequest(method, "http://u/", body)
		if err != nil {
			t.Error(err)
			return
		}
		res, err := p.RoundTrip(r)
		if err != nil {
			t.Error(err)
			return
		}
		res.Body.Close()
	}
	var all sync.WaitGroup
	for range many {
		all.Go(func() { send(http.MethodHead, nil) })
	}
	all.Wait()
	send(http.MethodPost, strings.NewReader("body"))
}
