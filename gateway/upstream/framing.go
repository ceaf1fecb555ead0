package upstream

import (
	"errors"
	"math"
	"net/http"
	"strings"
	"time"
)

var (
	errTwoLengths = errors.New("more than one Content-Length")
	errLength     = errors.New("bad Content-Length")
	errCoding     = errors.New("Transfer-Encoding is not chunked")
	errBothWays   = errors.New("Transfer-Encoding and Content-Length")
	errTrailer    = errors.New("bad Trailer")
	errBodyless   = errors.New("an informational answer with a body")
)

// framing is how the end of an answer's body is told.
type framing uint8

const (
	byNothing framing = iota // there is none, or it has ended
	byLength
	byChunks
	byClose
)

// framed is what a head says about what follows it.
type framed struct {
	by     framing
	length int64         // of the body; with byNothing, what the header names; -1: unknown
	keep   bool          // the connection may carry another request
	idle   time.Duration // before it does, at most; 0: not told
}

// framing reads how the body of an answer is framed (RFC 9112 section 6.3). Whatever could be read in two ways is an error.
func (h *Head) framing(method string) (f framed, err error) {
	f = framed{length: -1, keep: h.minor == 1}
	chunked := false
	for _, field := range h.Fields {
		switch field.Name {
		case "Content-Length":
			if f.length >= 0 {
				return f, errTwoLengths
			}
			if f.length, err = parseLength(field.Value); err != nil {
				return f, err
			}
		case "Transfer-Encoding":
			// HTTP/1.0 has none, and what a recipient does with one differs.
			if chunked || h.minor == 0 || !strings.EqualFold(field.Value, "chunked") || len(field.Value) != len("chunked") {
				return f, errCoding
			}
			chunked = true
		case "Connection":
			for option := range strings.SplitSeq(field.Value, ",") {
				if strings.EqualFold(strings.Trim(option, " \t"), "close") {
					f.keep = false
				}
			}
		case "Keep-Alive":
			f.idle = keepAlive(field.Value)
		case "Www-Authenticate":
			// These authenticate the connection, and it would be another user's
			// next (RFC 4559 section 6).
			for challenge := range strings.SplitSeq(field.Value, ",") {
				scheme, _, _ := strings.Cut(strings.Trim(challenge, " \t"), " ")
				if strings.EqualFold(scheme, "NTLM") || strings.EqualFold(scheme, "Negotiate") {
					f.keep = false
				}
			}
		case "Trailer":
			for name := range strings.SplitSeq(field.Value, ",") {
				switch http.CanonicalHeaderKey(strings.Trim(name, " \t")) {
				case "Transfer-Encoding", "Trailer", "Content-Length":
					return f, errTrailer
				}
			}
		}
	}
	switch {
	case chunked && f.length >= 0:
		return f, errBothWays
	case h.Status < 200 && (chunked || f.length > 0):
		// Not to be sent, either, and who sends it, too, has sent two answers.
		return f, errBodyless
	case h.Status < 200:
		f.by = byNothing
	case method == http.MethodHead || h.Status == http.StatusNoContent || h.Status == http.StatusNotModified:
		f.by = byNothing
		f.keep = f.keep && !mayFollow(method, chunked, f.length)
	case chunked:
		f.by = byChunks
	case f.length == 0:
		f.by = byNothing
	case f.length > 0:
		f.by = byLength
	default:
		f.by, f.keep = byClose, false
	}
	return f, nil
}

// keepAlive returns how long an unused connection is good for, by an upstream that
// says when it will close it (Keep-Alive: timeout=5): not as long, or a request that
// may not be sent twice could meet the end of it. 0: it says nothing.
func keepAlive(value string) time.Duration {
	for param := range strings.SplitSeq(value, ",") {
		name, digits, _ := strings.Cut(strings.Trim(param, " \t"), "=")
		if n, err := parseLength(digits); err == nil && strings.EqualFold(name, "timeout") {
			told := time.Duration(min(n, 24*3600)) * time.Second
			return max(told-min(told/2, time.Second), time.Nanosecond)
		}
	}
	return 0
}

// mayFollow reports whether a body may come though an answer has none: its header
// names one, or, where the method is HEAD, leaves it to be thought of. There are
// servers that send it, if only when the next request is under way, and it may look
// like an answer. length is -1 if there is none.
func mayFollow(method string, chunked bool, length int64) bool {
	return chunked || length > 0 || length < 0 && method == http.MethodHead
}

// parseLength reads a Content-Length: digits alone.
func parseLength(s string) (int64, error) {
	if s == "" || len(s) > 18 {
		return 0, errLength
	}
	n := int64(0)
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, errLength
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, nil
}

// parseChunkSize reads the size on a chunk's first line, without its CRLF (RFC
// 9112 section 7.1). Extensions are skipped.
func parseChunkSize(line []byte) (int64, error) {
	n, i := int64(0), 0
	for ; i < len(line); i++ {
		c := line[i]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		case c == ';' && i > 0:
			if !validValue(string(line[i:])) {
				return 0, errChunk
			}
			return n, nil
		default:
			return 0, errChunk
		}
		if n > math.MaxInt64>>4 {
			return 0, errChunk
		}
		n = n<<4 | int64(c)
	}
	if i == 0 {
		return 0, errChunk
	}
	return n, nil
}
