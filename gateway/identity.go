package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cloakroom/cloakroom/gateway/proxy"
)

// ClaimHeader is a header for a route's upstream, made from a claim of the
// caller's: the session's, or those in the bearer.
//
// A text, a number, true and false are written as they are, an array's elements
// with commas between them, an object as JSON. What can't stand in a header, and
// what would have two readings, is percent-encoded (RFC 3986 section 2.1), in
// UTF-8: all that isn't visible ASCII or a space within, the percent sign, and
// commas that don't separate elements. So an upstream that splits at commas, if
// it expects several, and then decodes, has the very value. No claim, null or an
// empty array: no header.
type ClaimHeader struct {
	Name  string // also in its Upstream's IdentityHeaders
	Claim string
}

// maxIdentity bounds what claims add to a request, in bytes: servers' limits
// begin at 8 KiB. What is larger is refused whole, since half an identity is
// another one.
const maxIdentity = 8 << 10

// claimHeaders makes a route's headers from claims.
func (rt *Route) claimHeaders(claims map[string]json.RawMessage) ([]proxy.Header, error) {
	out := make([]proxy.Header, 0, len(rt.Headers))
	size := 0
	for _, h := range rt.Headers {
		value, ok, err := headerValue(claims[h.Claim])
		if err != nil {
			return nil, &problem{code: codeInternal, err: fmt.Errorf("claim %s: %w", h.Claim, err)}
		}
		if !ok {
			continue
		}
		if size += len(h.Name) + len(value); size > maxIdentity {
			return nil, &problem{
				code: codeHeadersTooLarge, detail: "what is known of the user doesn't fit into the header " + h.Name,
				err: fmt.Errorf("claim %s is too large for a header", h.Claim),
			}
		}
		out = append(out, proxy.Header{Name: h.Name, Value: value})
	}
	return out, nil
}

// headerValue is a claim as a header's value; false: there is none.
func headerValue(claim json.RawMessage) (string, bool, error) {
	if len(claim) == 0 || string(claim) == "null" {
		return "", false, nil
	}
	elements := []json.RawMessage{claim}
	if claim[0] == '[' {
		if err := json.Unmarshal(claim, &elements); err != nil {
			return "", false, err
		}
	}
	var out strings.Builder
	for i, e := range elements {
		if i > 0 {
			out.WriteByte(',')
		}
		text, err := elementText(e)
		if err != nil {
			return "", false, err
		}
		escapeValue(&out, text)
	}
	return out.String(), len(elements) > 0, nil
}

// elementText is a text itself, and of everything else its JSON.
func elementText(e json.RawMessage) (string, error) {
	if len(e) == 0 {
		return "", errors.New("not JSON")
	}
	if e[0] == '"' {
		var s string
		err := json.Unmarshal(e, &s)
		return s, err
	}
	var b bytes.Buffer
	err := json.Compact(&b, e)
	return b.String(), err
}

// escapeValue writes s so that it can stand in a header, and so that it can be
// told from any other.
func escapeValue(out *strings.Builder, s string) {
	const digits = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		edge := c == ' ' && (i == 0 || i == len(s)-1) // a parser would trim it
		if c < ' ' || c > '~' || c == '%' || c == ',' || edge {
			out.WriteByte('%')
			out.WriteByte(digits[c>>4])
			out.WriteByte(digits[c&15])
			continue
		}
		out.WriteByte(c)
	}
}
