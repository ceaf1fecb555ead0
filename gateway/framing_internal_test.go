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
		lengths []string
		want    bool
	}{
		{"HTTP/2", 2, "GET", nil, true},
		{"a method of one's own", 2, "M-SEARCH", []string{"5"}, true},
		{"a target in the method", 2, "GET /app", nil, false},
		{"a line in the method", 2, "GET\r\nX: y", nil, false},
		{"no method", 2, "", nil, false},
		{"two lengths", 2, "POST", []string{"5", "6"}, false},
		{"HTTP/1.1 is net/http's", 1, "GET", []string{"5", "5"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &http.Request{ProtoMajor: test.major, Method: test.method, Header: http.Header{"Content-Length": test.lengths}}
			if got := wellFramed(r); got != test.want {
				t.Errorf("wellFramed: %v", got)
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
