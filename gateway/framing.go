package gateway

import (
	"io"
	"net/http"
	"strconv"
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
// those over HTTP/2 (RFC 9113 sections 8.2.1, 8.1.1, 8.3.1): that the method is a
// token; that there is one length, the body's, of which net/http reads what it
// can't as 0, and finds out only when data comes; and that no Host says otherwise
// than :authority.
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
	if hosts := r.Header["Host"]; len(hosts) > 1 || len(hosts) == 1 && hosts[0] != r.Host {
		return false
	}
	lengths := r.Header["Content-Length"]
	for _, v := range lengths {
		// Without a body net/http doesn't compare: its own length is 0 then.
		if n, err := strconv.ParseUint(v, 10, 63); err != nil || int64(n) != r.ContentLength {
			return false
		}
	}
	return r.Method != "" && len(lengths) <= 1
}

// twoEnds reports whether whoever passed the request on may have found its end
// elsewhere: net/http takes chunks without a word about a Content-Length beside
// them; and over HTTP/1.0, which has no chunks, the length without a word about
// those. Then the connection must not carry another request (RFC 9112 section
// 6.1). That there was but one can't be told from here.
func twoEnds(r *http.Request) bool {
	switch {
	case r.ProtoMajor != 1:
		return false
	case r.ProtoMinor == 0:
		return r.ContentLength != 0 || r.Method != http.MethodGet && r.Method != http.MethodHead
	}
	return len(r.TransferEncoding) > 0
}
