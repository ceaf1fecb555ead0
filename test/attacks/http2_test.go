package attacks

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// field is a header field as it is encoded, pseudo-headers too.
type field struct{ name, value string }

// fields is a request as browsers send it; more come after.
func fields(method, target string, more ...field) []field {
	return append([]field{{":method", method}, {":scheme", "https"}, {":authority", "app.test"}, {":path", target}}, more...)
}

// fetchedFields are fetched's, in HTTP/2.
var fetchedFields = []field{{"sec-fetch-site", "same-origin"}, {"x-bff", "1"}}

// cookieField is a user's session cookie.
func (a *arena) cookieField(name string) field {
	_, value, _ := strings.Cut(strings.TrimSuffix(a.cookie(name), "\r\n"), ": ")
	return field{"cookie", value}
}

// http2 sends one request over a connection of its own, checking nothing of it,
// and returns the answer; nil if the stream or the connection was broken off.
func (c *row) http2(head []field, body ...string) *answer {
	c.Helper()
	conn := c.dialHTTP2()
	defer conn.Close()
	return c.over(conn, 1, head, body...)
}

func (c *row) dialHTTP2() net.Conn {
	c.Helper()
	conn, err := tls.Dial("tcp", c.secure.Public, insecure("h2"))
	if err != nil {
		c.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		c.Fatal(err)
	}
	if err := http2.NewFramer(conn, nil).WriteSettings(); err != nil {
		c.Fatal(err)
	}
	return conn
}

func (c *row) over(conn net.Conn, stream uint32, head []field, body ...string) *answer {
	c.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	var sent strings.Builder
	method, target := "", ""
	for _, f := range head {
		switch f.name {
		case ":method":
			method = f.value
		case ":path":
			target = f.value
		}
		fmt.Fprintf(&sent, "%s: %s\n", f.name, f.value)
		_ = enc.WriteField(hpack.HeaderField{Name: f.name, Value: f.value})
	}
	fr := http2.NewFramer(conn, conn)
	fr.AllowIllegalWrites = true
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: len(body) == 0})
	for i, part := range body {
		_ = fr.WriteData(stream, i == len(body)-1, []byte(part))
	}
	x := &exchanged{sent: method + " " + target + " HTTP/2\n" + sent.String()}
	a := &answer{Header: http.Header{}}
	ours := false // what is being decoded is this stream's
	dec := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		switch {
		case !ours:
		case f.Name == ":status":
			a.Status, _ = strconv.Atoi(f.Value)
		default:
			a.Header.Add(f.Name, f.Value)
		}
	})
	defer c.keep(x)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return nil
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = fr.WriteSettingsAck()
			}
			continue
		case *http2.GoAwayFrame:
			return nil
		case *http2.RSTStreamFrame:
			if f.StreamID != stream {
				continue
			}
			if f.ErrCode == http2.ErrCodeNo && a.Status >= 200 { // "I need no more of your body"
				x.got, x.answers = a.Body, []*answer{a}
				return a
			}
			return nil
		case *http2.HeadersFrame:
			ours = f.StreamID == stream
			if _, err := dec.Write(f.HeaderBlockFragment()); err != nil {
				return nil
			}
			if f.StreamID != stream {
				continue
			}
		case *http2.DataFrame:
			if f.StreamID != stream {
				continue
			}
			a.Body = append(a.Body, f.Data()...)
		default:
			continue
		}
		if f.Header().Flags.Has(http2.FlagDataEndStream) { // the same bit in both
			x.got, x.answers = a.Body, []*answer{a}
			return a
		}
	}
}

// status of an answer that may be none.
func (a *answer) status() int {
	if a == nil {
		return 0
	}
	return a.Status
}
