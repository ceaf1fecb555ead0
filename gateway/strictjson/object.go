// Package strictjson reads JSON objects that decide who somebody is: the claims of
// a token, a provider's answer, a key. encoding/json by itself takes the last of
// equal names, ignores their case, and makes one replacement character of all
// bytes that aren't UTF-8: two readers of one token could then see two users.
// RFC 7519 section 4 has duplicate names rejected, RFC 8725 section 2.4 says why.
//
// [Parse] accepts one object with distinct names and nothing after it; a value is
// then read as the kind that it has to be, and is otherwise an error, not a zero
// value. An [Object] that is not changed may be read from many goroutines.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// ErrNotObject is what [Parse] returns for anything else. It quotes nothing of
// what it was given.
var ErrNotObject = errors.New("not one JSON object with distinct names")

// Object holds an object's values, as they were written. Its names are exact and
// distinct.
type Object map[string]json.RawMessage

// Parse reads one JSON object in UTF-8. What the values hold inside is looked at
// by who reads them.
func Parse(data []byte) (Object, error) {
	if !utf8.Valid(data) {
		return nil, ErrNotObject
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, ErrNotObject
	}
	o := make(Object)
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, ErrNotObject
		}
		name, ok := t.(string)
		if _, twice := o[name]; !ok || twice {
			return nil, ErrNotObject
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, ErrNotObject
		}
		o[name] = v
	}
	if _, err := dec.Token(); err != nil {
		return nil, ErrNotObject
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, ErrNotObject
	}
	return o, nil
}

// Has reports whether name is there with a value other than null.
func (o Object) Has(name string) bool {
	v, ok := o[name]
	return ok && string(v) != "null"
}

// String returns a string, empty if name isn't there. ok is false if name is
// there with a value of another kind.
func (o Object) String(name string) (s string, ok bool) {
	if !o.Has(name) {
		return "", true
	}
	if o[name][0] != '"' || json.Unmarshal(o[name], &s) != nil {
		return "", false
	}
	return s, true
}

// Strings returns an array of strings, likewise.
func (o Object) Strings(name string) (s []string, ok bool) {
	if !o.Has(name) {
		return nil, true
	}
	var elems []json.RawMessage
	if json.Unmarshal(o[name], &elems) != nil {
		return nil, false
	}
	s = make([]string, len(elems))
	for i, e := range elems {
		// A null would leave the string as it is, without an error.
		if e[0] != '"' || json.Unmarshal(e, &s[i]) != nil {
			return nil, false
		}
	}
	return s, true
}

// NumericDate returns a time in whole seconds (RFC 7519 section 2, which allows
// fractions: they are cut), zero if name isn't there, or is 0: so some issuers
// write a date that they don't have. ok is false for anything but a number between
// 1970 and 9999.
func (o Object) NumericDate(name string) (t time.Time, ok bool) {
	if !o.Has(name) {
		return time.Time{}, true
	}
	const end = 253402300800 // the year 10000
	var f float64
	if json.Unmarshal(o[name], &f) != nil || f < 0 || f >= end {
		return time.Time{}, false
	}
	if f == 0 {
		return time.Time{}, true
	}
	return time.Unix(int64(f), 0), true
}

// Seconds returns a duration that is a number of seconds, or one in a string as
// some providers write it; at most limit, and 0 if there is none that makes
// sense: it is for advice (expires_in), not for claims.
func (o Object) Seconds(name string, limit time.Duration) time.Duration {
	v := o[name]
	if s, ok := o.String(name); ok && s != "" {
		if strings.Trim(s, "0123456789.") != "" {
			return 0
		}
		v = json.RawMessage(s)
	}
	var f float64
	if len(v) == 0 || json.Unmarshal(v, &f) != nil {
		return 0
	}
	switch {
	case !(f > 0): // NaN too
		return 0
	case f >= limit.Seconds():
		return limit
	}
	return time.Duration(math.Round(f * float64(time.Second)))
}
