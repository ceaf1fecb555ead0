package gateway

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
)

// upload is a request's body on its way to an upstream. Where it didn't come to
// its proper end, nobody can say where the next request on the connection begins:
// what follows would be read as one, though to whoever stands in front of us it is
// a body still. So an answer that leaves before that end closes the connection.
//
// net/http does the same for whoever reads a body before answering, but not with
// full duplex, which uploads need: a malformed chunk is then forgotten.
type upload struct {
	io.ReadCloser
	whole atomic.Bool // read to its end
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if err == io.EOF {
		u.whole.Store(true)
	}
	return n, err
}

// wellFramed checks what net/http checks of requests over HTTP/1.1 and not of
// those over HTTP/2: that the method is a token, and that there is one length, a
// number (RFC 9113 sections 8.2.1, 8.1.1). net/http reads any other as 0, and
// finds out only when data comes.
func wellFramed(r *http.Request) bool {
	if r.ProtoMajor < 2 {
		return true
	}
	for i := range len(r.Method) {
		c := r.Method[i]
		if !('A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	lengths := r.Header["Content-Length"]
	for _, v := range lengths {
		if v == "" || strings.Trim(v, "0123456789") != "" {
			return false
		}
	}
	return r.Method != "" && len(lengths) <= 1
}
