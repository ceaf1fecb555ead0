package admin

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cloakroom/cloakroom/session"
)

// maxReason bounds what an operator writes into the audit log.
const maxReason = 256

// order is what a POST asks for: whose sessions, why, and for how long.
type order struct {
	sid    session.SID
	hasSID bool
	sub    string
	app    string
	reason string
	locked bool
	until  time.Time
}

// readOrder accepts one object with keys of ours, each at most once and in its
// one spelling, and nothing behind it: what was not understood whole is not
// obeyed in part. lock says whether locked and until may be there.
func readOrder(body io.Reader, lock bool) (order, error) {
	var o order
	dec := json.NewDecoder(body)
	if err := delimiter(dec, '{'); err != nil {
		return o, err
	}
	seen := map[string]bool{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return o, notJSON(err)
		}
		name, _ := token.(string)
		if seen[name] {
			return o, invalid("a key is there twice")
		}
		seen[name] = true
		if (name == "locked" || name == "until") && !lock {
			return o, invalid("locked and until are for ending")
		}
		if err := o.set(dec, name); err != nil {
			return o, err
		}
	}
	if err := delimiter(dec, '}'); err != nil {
		return o, err
	}
	if _, err := dec.Token(); err != io.EOF {
		if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return o, large
		}
		return o, invalid("something follows the JSON object")
	}
	return o, nil
}

func delimiter(dec *json.Decoder, want json.Delim) error {
	token, err := dec.Token()
	if err != nil {
		return notJSON(err)
	}
	if token != want {
		return invalid("the body must be one JSON object")
	}
	return nil
}

// notJSON is err as an answer. The decoder's own words could quote the body.
func notJSON(err error) error {
	if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return large
	}
	return invalid("the body is no JSON that can be read")
}

// set reads the value of one key.
func (o *order) set(dec *json.Decoder, name string) error {
	token, err := dec.Token()
	if err != nil {
		return notJSON(err)
	}
	if name == "locked" {
		v, ok := token.(bool)
		if !ok {
			return invalid("locked must be true or false")
		}
		o.locked = v
		return nil
	}
	s, ok := token.(string)
	switch name {
	case "sid", "sub", "app", "reason", "until":
		if !ok || s == "" {
			return invalid(name + " must be a text, and not empty")
		}
	default:
		return invalid("a key is unknown")
	}
	// The decoder puts U+FFFD in the place of what it can't read: that is nobody.
	if strings.ContainsRune(s, utf8.RuneError) {
		return invalid(name + " must be text")
	}
	switch name {
	case "sid":
		if o.sid, err = session.ParseSID(s); err != nil {
			return invalid("sid must be 22 characters of base64url")
		}
		o.hasSID = true
	case "sub":
		o.sub = s
	case "app":
		o.app = s
	case "reason":
		if len(s) > maxReason || !printable(s) {
			return invalid("reason must be one line of at most 256 bytes")
		}
		o.reason = s
	case "until":
		if o.until, err = time.Parse(time.RFC3339, s); err != nil {
			return invalid("until must be a time such as 2026-01-02T15:04:05Z")
		}
		if o.until.IsZero() { // which would be no until at all
			return invalid("until is over")
		}
	}
	return nil
}

func printable(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
