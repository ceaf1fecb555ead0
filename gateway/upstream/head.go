package upstream

import (
	"bytes"
	"errors"
	"net/textproto"
	"strings"
)

var (
	errStatusLine = errors.New("malformed status line")
	errField      = errors.New("malformed header field")
	errLineEnd    = errors.New("a bare CR or LF in the header")
	errHeadSize   = errors.New("header is too large")
)

// Field is one line of a header.
type Field struct {
	Name  string // canonical, see [net/textproto.CanonicalMIMEHeaderKey]
	Value string // without the spaces around it
}

// Head is the beginning of an answer.
type Head struct {
	Status int
	Fields []Field
	// minor is HTTP/1's.
	minor byte
}

// tokenByte marks what a name is made of (RFC 9110 section 5.6.2).
var tokenByte = func() (t [256]bool) {
	for c := range t {
		t[c] = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0
	}
	return t
}()

// endOfHead returns the length of the head that b begins with, its empty line
// included; 0 if it is not all there. from is where to go on looking.
func endOfHead(b []byte, from int) int {
	from = max(0, from-3)
	if i := bytes.Index(b[from:], crlfcrlf); i >= 0 {
		return from + i + 4
	}
	return 0
}

var crlfcrlf = []byte("\r\n\r\n")

// parse reads a head (RFC 9112 sections 4 and 5), all of it and nothing more.
// Where the RFC lets a recipient choose, it refuses: lines that end in a bare
// LF, folded lines, spaces before the colon, control characters in values. h's
// Fields are used again.
func (h *Head) parse(text string) error {
	line, rest, ok := strings.Cut(text, "\r\n")
	if !ok {
		return errStatusLine
	}
	if err := h.parseStatus(line); err != nil {
		return err
	}
	var err error
	h.Fields, err = parseFields(h.Fields[:0], rest)
	return err
}

func (h *Head) parseStatus(line string) error {
	// "HTTP/1.1 200" and maybe " OK"
	if len(line) < 12 || line[:7] != "HTTP/1." || line[7] != '0' && line[7] != '1' || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return errStatusLine
	}
	h.minor = line[7] - '0'
	h.Status = 0
	for _, c := range []byte(line[9:12]) {
		if c < '0' || c > '9' {
			return errStatusLine
		}
		h.Status = h.Status*10 + int(c-'0')
	}
	if h.Status < 100 || !validValue(line[12:]) {
		return errStatusLine
	}
	return nil
}

// parseFields appends the lines up to the empty one that text ends with.
func parseFields(fields []Field, text string) ([]Field, error) {
	for {
		end := strings.IndexByte(text, '\n')
		if end < 1 || text[end-1] != '\r' {
			return fields, errLineEnd
		}
		line := text[:end-1]
		text = text[end+1:]
		if line == "" {
			if text != "" {
				return fields, errField
			}
			return fields, nil
		}
		colon := 0
		for colon < len(line) && tokenByte[line[colon]] {
			colon++
		}
		if colon == 0 || colon == len(line) || line[colon] != ':' {
			return fields, errField // a folded line, too
		}
		value := strings.Trim(line[colon+1:], " \t")
		if !validValue(value) {
			return fields, errField
		}
		fields = append(fields, Field{textproto.CanonicalMIMEHeaderKey(line[:colon]), value})
	}
}

// validValue reports whether v has no control character but HTAB.
func validValue(v string) bool {
	for i := range len(v) {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
