package gateway

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"testing"
)

func TestRefusedByServer(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want int
	}{
		"a bad request": {"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request", 400},
		"with a reason": {"HTTP/1.1 505 HTTP Version Not Supported: x\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n505 x", 505},
		"no TLS":        {"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n", 400},
		"a handler's":   {"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n", 0},
		"with more":     {"HTTP/1.1 400 Bad Request\r\nX: y\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n", 0},
		"fine":          {"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n", 0},
		"continue":      {"HTTP/1.1 100 Continue\r\n\r\n", 0},
		"nothing":       {"", 0},
		"no number":     {"HTTP/1.1 4x0 Bad\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := refusedByServer([]byte(test.text)); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}

// All that net/http refuses by itself has our form. Over sockets, with whatever
// else there is, this is test/attacks' I-23.
func TestListener(t *testing.T) {
	g := bare()
	g.served.Store(&served{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	body := "HTTP/1.1 400 Bad Request" + serverRefusal + "400 Bad Request"
	s := &http.Server{ConnState: ConnState, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, body) // a write of its own
		_ = http.NewResponseController(w).Flush()
	})}
	served := make(chan error)
	go func() { served <- s.Serve(g.Listener(l)) }()
	defer func() { s.Close(); <-served }()

	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\nno request\r\n\r\n")
	first, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(first.Body); string(b) != body {
		t.Errorf("the handler's: %q", b)
	}
	second, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	var doc problemDocument
	if err := json.NewDecoder(second.Body).Decode(&doc); err != nil || second.StatusCode != http.StatusBadRequest || doc.Code != codeInvalidRequest || doc.Status != http.StatusBadRequest || len(doc.TraceID) != 32 {
		t.Errorf("%v: %d %+v", err, second.StatusCode, doc)
	}
	if got := second.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type is %q", got)
	}
}
