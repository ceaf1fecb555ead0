package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestWellFramed(t *testing.T) {
	for _, test := range []struct {
		name    string
		major   int
		method  string
		length  int64 // net/http's
		lengths []string
		hosts   []string
		want    bool
	}{
		{"HTTP/2", 2, "GET", 0, nil, nil, true},
		{"a method of one's own", 2, "M-SEARCH", 5, []string{"5"}, nil, true},
		{"a target in the method", 2, "GET /app", 0, nil, nil, false},
		{"a line in the method", 2, "GET\r\nX: y", 0, nil, nil, false},
		{"no method", 2, "", 0, nil, nil, false},
		{"two lengths", 2, "POST", 5, []string{"5", "6"}, nil, false},
		{"the same length twice", 2, "POST", 5, []string{"5", "5"}, nil, false},
		{"a length and no body", 2, "GET", 0, []string{"5"}, nil, false},
		{"no length and no body", 2, "GET", 0, []string{"0"}, nil, true},
		{"no number", 2, "POST", 0, []string{"+5"}, nil, false},
		{"a number too large", 2, "POST", 0, []string{"9223372036854775808"}, nil, false},
		{"a stream", 2, "POST", -1, nil, nil, true},
		{"the authority's host", 2, "GET", 0, nil, []string{"app.test"}, true},
		{"another host", 2, "GET", 0, nil, []string{"evil.test"}, false},
		{"two hosts", 2, "GET", 0, nil, []string{"app.test", "app.test"}, false},
		{"HTTP/1.1 is net/http's", 1, "GET", 5, []string{"5", "5"}, nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &http.Request{
				ProtoMajor: test.major, Method: test.method, Host: "app.test", ContentLength: test.length,
				Header: http.Header{"Content-Length": test.lengths, "Host": test.hosts},
			}
			if got := wellFramed(r); got != test.want {
				t.Errorf("wellFramed: %v", got)
			}
		})
	}
}

func TestTwoEnds(t *testing.T) {
	chunks := []string{"chunked"}
	for _, test := range []struct {
		name         string
		major, minor int
		method       string
		length       int64
		coding       []string
		want         bool
	}{
		{"a request", 1, 1, "GET", 0, nil, false},
		{"a length", 1, 1, "POST", 5, nil, false},
		{"chunks", 1, 1, "POST", -1, chunks, true},
		{"HTTP/1.0", 1, 0, "GET", 0, nil, false},
		{"HTTP/1.0 and a length", 1, 0, "GET", 5, nil, true},
		{"HTTP/1.0 and maybe chunks", 1, 0, "POST", 0, nil, true},
		{"HTTP/2", 2, 0, "POST", -1, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &http.Request{ProtoMajor: test.major, ProtoMinor: test.minor, Method: test.method, ContentLength: test.length, TransferEncoding: test.coding}
			if got := twoEnds(r); got != test.want {
				t.Errorf("twoEnds: %v", got)
			}
		})
	}
}

// I-04: an answer that leaves before the body's end closes the connection. The
// whole of it, over sockets, is in test/attacks.
func TestAnswerBeforeTheUploadsEnd(t *testing.T) {
	for _, test := range []struct {
		name  string
		read  func(io.Reader)
		close bool
	}{
		{"unread", func(io.Reader) {}, true},
		{"half read", func(r io.Reader) { io.CopyN(io.Discard, r, 2) }, true},
		{"read", func(r io.Reader) { io.Copy(io.Discard, r) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp, _ := wrapped(t, true, func(w *response, r *http.Request) {
				w.upload = &upload{ReadCloser: io.NopCloser(strings.NewReader("hello"))}
				test.read(w.upload)
				w.WriteHeader(http.StatusOK)
			})
			if got := resp.Header.Get("Connection") == "close" || resp.Close; got != test.close {
				t.Errorf("closes: %v, want %v", got, test.close)
			}
		})
	}
}
