package upstream

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// read makes an Exchange read raw as an answer, to its end.
func read(method, raw string) (x *Exchange, body string, err error) {
	x = &Exchange{Method: method, Caller: silent{}, buf: make([]byte, bufferSize)}
	if endOfHead([]byte(raw), 0) == 0 {
		return x, "", io.ErrUnexpectedEOF
	}
	end := endOfHead([]byte(raw), 0)
	if err := x.Head.parse(raw[:end]); err != nil {
		return x, "", err
	}
	if x.framed, err = x.framing(method); err != nil {
		return x, "", err
	}
	x.answered, x.c = true, &conn{Conn: over{}, a: &address{o: &Options{}, closed: true}}
	rest := raw[end:]
	x.buf = append(x.buf[:0], rest...)
	x.buf = append(x.buf, make([]byte, bufferSize)...)
	x.w = len(rest)
	x.left = max(0, x.framed.length)
	if x.framed.by == byChunks {
		x.left = 0
	}
	var b strings.Builder
	if x.framed.by == byNothing {
		x.complete()
	}
	for {
		part, err := x.Next()
		b.Write(part)
		if err == io.EOF {
			return x, b.String(), nil
		}
		if err != nil {
			return x, b.String(), err
		}
	}
}

// over is a connection that has ended.
type over struct{ net.Conn }

func (over) Read([]byte) (int, error) { return 0, io.EOF }
func (over) Close() error             { return nil }

type silent struct{}

func (silent) Slow()              {}
func (silent) Flush()             {}
func (silent) Inform(*Head) error { return nil }
func (silent) Unblock()           {}

const ok11 = "HTTP/1.1 200 OK\r\n"

// I-02 I-03 I-04 I-10, from the upstream's side: what two readers could read in
// two ways is not an answer.
func TestHostileAnswers(t *testing.T) {
	for name, raw := range map[string]string{
		"no version":                    "200 OK\r\n\r\n",
		"HTTP/2":                        "HTTP/2.0 200 OK\r\n\r\n",
		"HTTP/1.2":                      "HTTP/1.2 200 OK\r\n\r\n",
		"HTTP/1.10":                     "HTTP/1.10 200 OK\r\n\r\n",
		"lower case":                    "http/1.1 200 OK\r\n\r\n",
		"two spaces":                    "HTTP/1.1  200 OK\r\n\r\n",
		"tab":                           "HTTP/1.1\t200 OK\r\n\r\n",
		"status of two digits":          "HTTP/1.1 20 OK\r\n\r\n",
		"status of four digits":         "HTTP/1.1 2000 OK\r\n\r\n",
		"signed status":                 "HTTP/1.1 +20 OK\r\n\r\n",
		"status below 100":              "HTTP/1.1 099 OK\r\n\r\n",
		"NUL in the reason":             "HTTP/1.1 200 O\x00K\r\n\r\n",
		"CR in the reason":              "HTTP/1.1 200 O\rK\r\n\r\n",
		"leading CRLF":                  "\r\n" + ok11 + "\r\n",
		"leading space":                 " " + ok11 + "\r\n",
		"bare LF after the status":      "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
		"bare LF after a field":         ok11 + "A: b\nContent-Length: 0\r\n\r\n",
		"bare CR in a value":            ok11 + "A: b\rContent-Length: 0\r\n\r\n",
		"bare CR before CRLF":           ok11 + "A: b\r\r\nContent-Length: 0\r\n\r\n",
		"NUL in a value":                ok11 + "A: b\x00c\r\n\r\n",
		"DEL in a value":                ok11 + "A: b\x7fc\r\n\r\n",
		"NUL in a name":                 ok11 + "A\x00: b\r\n\r\n",
		"space before the colon":        ok11 + "Content-Length : 0\r\n\r\n",
		"space in a name":               ok11 + "Content Length: 0\r\n\r\n",
		"no colon":                      ok11 + "Content-Length\r\n\r\n",
		"no name":                       ok11 + ": 0\r\n\r\n",
		"folded line":                   ok11 + "A: b\r\n Content-Length: 5\r\n\r\n",
		"folded first line":             ok11 + " A: b\r\n\r\n",
		"folded with a tab":             ok11 + "Transfer-Encoding:\r\n\tchunked\r\n\r\n",
		"name that is not ASCII":        ok11 + "X\u2013Y: b\r\n\r\n",
		"length and chunks":             ok11 + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunks and length":             ok11 + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
		"two lengths":                   ok11 + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
		"two equal lengths":             ok11 + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
		"list of lengths":               ok11 + "Content-Length: 3, 3\r\n\r\nabc",
		"signed length":                 ok11 + "Content-Length: +3\r\n\r\nabc",
		"negative length":               ok11 + "Content-Length: -3\r\n\r\nabc",
		"hexadecimal length":            ok11 + "Content-Length: 0x3\r\n\r\nabc",
		"length with a space":           ok11 + "Content-Length: 3 3\r\n\r\nabc",
		"length with a point":           ok11 + "Content-Length: 3.0\r\n\r\nabc",
		"empty length":                  ok11 + "Content-Length:\r\n\r\nabc",
		"huge length":                   ok11 + "Content-Length: 99999999999999999999\r\n\r\nabc",
		"length past int64":             ok11 + "Content-Length: 9223372036854775808\r\n\r\nabc",
		"bad length where nothing is":   "HTTP/1.1 204 No Content\r\nContent-Length: x\r\n\r\n",
		"another coding":                ok11 + "Transfer-Encoding: gzip\r\n\r\nabc",
		"two codings":                   ok11 + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"chunked and identity":          ok11 + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		"chunked twice":                 ok11 + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"identity":                      ok11 + "Transfer-Encoding: identity\r\n\r\nabc",
		"xchunked":                      ok11 + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"chunked in quotes":             ok11 + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
		"chunked with a parameter":      ok11 + "Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
		"chunked with a vertical tab":   ok11 + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
		"empty coding":                  ok11 + "Transfer-Encoding:\r\n\r\nabc",
		"chunked with a Kelvin sign":    ok11 + "Transfer-Encoding: chun\u212aed\r\n\r\n0\r\n\r\n",
		"chunked over HTTP/1.0":         "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"announces a length in trailer": ok11 + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\r\n",
		"short body":                    ok11 + "Content-Length: 5\r\n\r\nabc",
		"no chunk":                      ok11 + chunkedLine + "\r\n",
		"no last chunk":                 ok11 + chunkedLine + "\r\n3\r\nabc\r\n",
		"no end of trailers":            ok11 + chunkedLine + "\r\n0\r\n",
		"empty chunk size":              ok11 + chunkedLine + "\r\n\r\nabc\r\n0\r\n\r\n",
		"signed chunk size":             ok11 + chunkedLine + "\r\n+3\r\nabc\r\n0\r\n\r\n",
		"negative chunk size":           ok11 + chunkedLine + "\r\n-3\r\nabc\r\n0\r\n\r\n",
		"0x in a chunk size":            ok11 + chunkedLine + "\r\n0x3\r\nabc\r\n0\r\n\r\n",
		"space before a chunk size":     ok11 + chunkedLine + "\r\n 3\r\nabc\r\n0\r\n\r\n",
		"space after a chunk size":      ok11 + chunkedLine + "\r\n3 \r\nabc\r\n0\r\n\r\n",
		"chunk size too large":          ok11 + chunkedLine + "\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
		"chunk size near the limit":     ok11 + chunkedLine + "\r\n8000000000000000\r\nabc",
		"bare LF after a chunk size":    ok11 + chunkedLine + "\r\n3\nabc\r\n0\r\n\r\n",
		"bare CR after a chunk size":    ok11 + chunkedLine + "\r\n3\rabc\r\n0\r\n\r\n",
		"LF in an extension":            ok11 + chunkedLine + "\r\n3;a\nb\r\nabc\r\n0\r\n\r\n",
		"CR in an extension":            ok11 + chunkedLine + "\r\n3;a\rb\r\nabc\r\n0\r\n\r\n",
		"no CRLF after a chunk":         ok11 + chunkedLine + "\r\n3\r\nabc0\r\n\r\n",
		"LF after a chunk":              ok11 + chunkedLine + "\r\n3\r\nabc\n0\r\n\r\n",
		"other bytes after a chunk":     ok11 + chunkedLine + "\r\n3\r\nabcXX0\r\n\r\n",
		"long extension":                ok11 + chunkedLine + "\r\n3;" + strings.Repeat("x", maxChunkLine) + "\r\nabc\r\n0\r\n\r\n",
		"extensions without an end":     ok11 + chunkedLine + "\r\n" + strings.Repeat("1;"+strings.Repeat("x", 200)+"\r\na\r\n", 60) + "0\r\n\r\n",
		"bad trailer":                   ok11 + chunkedLine + "\r\n0\r\nA b: c\r\n\r\n",
		"length in a trailer":           ok11 + chunkedLine + "\r\n0\r\nContent-Length: 3\r\n\r\n",
		"coding in a trailer":           ok11 + chunkedLine + "\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
		"bare LF in a trailer":          ok11 + chunkedLine + "\r\n0\r\nA: b\nC: d\r\n\r\n",
		"trailer too large":             ok11 + chunkedLine + "\r\n0\r\nA: " + strings.Repeat("x", maxTrailer) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			x, body, err := read("GET", raw)
			if err == nil {
				t.Errorf("read as %d %v with %q", x.Status, x.Head.Fields, body)
			}
			if x.sound {
				t.Error("the connection would be kept")
			}
		})
	}
}

const chunkedLine = "Transfer-Encoding: chunked\r\n"

func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		name, method, raw, body string
		keep                    bool
	}{
		{"length", "GET", ok11 + "Content-Length: 3\r\n\r\nabc", "abc", true},
		{"length 0", "GET", ok11 + "Content-Length: 0\r\n\r\n", "", true},
		{"length with zeros", "GET", ok11 + "Content-Length: 003\r\n\r\nabc", "abc", true},
		{"no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "", true},
		{"empty reason", "GET", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", "", true},
		{"chunks", "GET", ok11 + chunkedLine + "\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", "abc0123456789", true},
		{"chunks in another case", "GET", ok11 + "transfer-encoding: Chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n000\r\n\r\n", "abc", true},
		{"trailers", "GET", ok11 + chunkedLine + "Trailer: A\r\n\r\n0\r\nA: b\r\n\r\n", "", true},
		{"until the end", "GET", ok11 + "\r\nabc", "abc", false},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", "abc", false},
		{"close", "GET", ok11 + "Connection: x, Close\r\nContent-Length: 3\r\n\r\nabc", "abc", false},
		{"I-10 HEAD that names a body", "HEAD", ok11 + "Content-Length: 3\r\n\r\n", "", false},
		{"I-10 HEAD that names chunks", "HEAD", ok11 + chunkedLine + "\r\n", "", false},
		{"I-10 HEAD that leaves it open", "HEAD", ok11 + "\r\n", "", false},
		{"HEAD that names none", "HEAD", ok11 + "Content-Length: 0\r\n\r\n", "", true},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\n\r\n", "", true},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", "", true},
		{"I-10 304 that names a body", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", "", false},
		{"I-10 204 with a body", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc", "", false},
		{"I-10 HEAD with a body", "HEAD", ok11 + "Content-Length: 3\r\n\r\nabc", "", false},
		{"I-10 more than the length", "GET", ok11 + "Content-Length: 3\r\n\r\nabcd", "abc", false},
		{"I-10 a second answer", "GET", ok11 + "Content-Length: 3\r\n\r\nabc" + ok11 + "\r\n", "abc", false},
		{"I-10 more than the chunks", "GET", ok11 + chunkedLine + "\r\n0\r\n\r\nX", "", false},
		{"I-11 NTLM", "GET", "HTTP/1.1 401 X\r\nWWW-Authenticate: ntlm abc\r\nContent-Length: 0\r\n\r\n", "", false},
		{"I-11 NTLM among others", "GET", "HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer realm=\"a\", NTLM\r\nContent-Length: 0\r\n\r\n", "", false},
		{"I-10 204 that names a body", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", "", false},
		{"I-10 204 that names chunks", "GET", "HTTP/1.1 204 No Content\r\n" + chunkedLine + "\r\n", "", false},
		{"204 that names no body", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "", true},
		{"205", "GET", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", "", true},
		{"205 with a body", "GET", "HTTP/1.1 205 Reset Content\r\nContent-Length: 3\r\n\r\nabc", "abc", true},
		{"205 until the end", "GET", "HTTP/1.1 205 Reset Content\r\n\r\n", "", false},
		{"I-10 304 that names chunks", "GET", "HTTP/1.1 304 X\r\n" + chunkedLine + "\r\n", "", false},
		{"I-11 Negotiate", "GET", "HTTP/1.1 401 X\r\nWWW-Authenticate: Negotiate\r\nContent-Length: 0\r\n\r\n", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x, body, err := read(tt.method, tt.raw)
			if err != nil || body != tt.body {
				t.Fatalf("body %q, %v; want %q", body, err, tt.body)
			}
			if got := x.sound && x.framed.keep && x.r == x.w; got != tt.keep {
				t.Errorf("kept: %v; want %v", got, tt.keep)
			}
		})
	}
}

func TestFields(t *testing.T) {
	x, _, err := read("GET", ok11+"content-length: 0\r\nX-two:1\r\nx-Two: \t2 \r\nEmpty:\r\nX-High: caf\xe9\r\nX-Colon: a:b\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []Field{{"Content-Length", "0"}, {"X-Two", "1"}, {"X-Two", "2"}, {"Empty", ""}, {"X-High", "caf\xe9"}, {"X-Colon", "a:b"}}
	if !slices.Equal(x.Head.Fields, want) {
		t.Errorf("fields %q; want %q", x.Head.Fields, want)
	}
}

// FuzzResponseHead holds against net/http: what that refuses is refused, and
// what both read, both read alike.
func FuzzResponseHead(f *testing.F) {
	for _, raw := range []string{
		ok11 + "Content-Length: 3\r\n\r\nabc", ok11 + chunkedLine + "Trailer: A\r\n\r\n3;x\r\nabc\r\n0\r\nA: b\r\n\r\n", ok11 + "\r\nabc",
		"HTTP/1.0 204 X\r\nConnection: close\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 304 X\r\nTransfer-Encoding: chunked\r\n\r\n",
		ok11 + "Set-Cookie: a=b\r\nset-cookie: c\r\nDate: x\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
		ok11 + chunkedLine + "\r\nfFf\r\n", ok11 + "Pragma: no-cache\r\nConnection: a,, close\r\n\r\n",
	} {
		f.Add(raw, false)
		f.Add(raw, true)
	}
	f.Fuzz(func(t *testing.T, raw string, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		x, body, err := read(method, raw)
		parsed := len(x.Head.Fields) > 0 || x.Status != 0
		rest := strings.NewReader(raw)
		br := bufio.NewReaderSize(rest, 1<<20)
		res, theirs := http.ReadResponse(br, &http.Request{Method: method})
		if theirs != nil {
			if err == nil {
				t.Fatalf("read %d %q, which net/http refuses: %v", x.Status, x.Head.Fields, theirs)
			}
			return
		}
		if err != nil && body == "" || !parsed {
			return // refused
		}
		if res.StatusCode != x.Status {
			t.Fatalf("status %d; net/http's %d", x.Status, res.StatusCode)
		}
		got, bodyErr := io.ReadAll(res.Body)
		if err == nil && bodyErr != nil {
			t.Fatalf("a whole body %q, which breaks off for net/http: %q, %v", body, got, bodyErr)
		}
		if err == nil && string(got) != body || !strings.HasPrefix(string(got), body) {
			t.Fatalf("body %q; net/http's %q", body, got)
		}
		if left := br.Buffered() + rest.Len(); err == nil && x.w-x.r != left {
			t.Fatalf("leaves %d bytes for the next answer; net/http %d", x.w-x.r, left)
		}
		if err == nil && x.framed.keep && res.Close {
			t.Fatal("keeps a connection that net/http closes")
		}
		sameHeader(t, x.Head.Fields, res.Header)
	})
}

// sameHeader compares what is read of a header, but for what net/http takes out of
// one, or adds.
func sameHeader(t *testing.T, fields []Field, theirs http.Header) {
	t.Helper()
	header := make(http.Header)
	for _, f := range fields {
		header[f.Name] = append(header[f.Name], f.Value)
	}
	for _, name := range []string{"Transfer-Encoding", "Trailer", "Cache-Control", "Pragma", "Connection"} {
		delete(header, name)
		delete(theirs, name)
	}
	if len(header) != len(theirs) {
		t.Fatalf("header %q; net/http's %q", header, theirs)
	}
	for name, lines := range header {
		if !slices.Equal(theirs[name], lines) {
			t.Fatalf("%s: %q; net/http's %q", name, lines, theirs[name])
		}
	}
}
