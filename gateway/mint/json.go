package mint

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"time"
	"unicode/utf8"
)

var errNotObject = errors.New("not one JSON object with distinct names")

// object is a JSON object whose names are exact and distinct. encoding/json by
// itself takes the last of equal names, and ignores case: two readers of one
// token could then see two users.
type object map[string]json.RawMessage

func parseObject(data []byte) (object, error) {
	// Bytes that aren't UTF-8 would all decode to the same replacement.
	if !utf8.Valid(data) {
		return nil, errNotObject
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errNotObject
	}
	o := make(object)
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, errNotObject
		}
		name, ok := t.(string)
		if _, twice := o[name]; !ok || twice {
			return nil, errNotObject
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, errNotObject
		}
		o[name] = v
	}
	if _, err := dec.Token(); err != nil {
		return nil, errNotObject
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errNotObject
	}
	return o, nil
}

// has reports whether name is there with a value other than null.
func (o object) has(name string) bool {
	v, ok := o[name]
	return ok && string(v) != "null"
}

// str returns a string. ok is false if name is there with another value.
func (o object) str(name string) (s string, ok bool) {
	if !o.has(name) {
		return "", true
	}
	if o[name][0] != '"' || json.Unmarshal(o[name], &s) != nil {
		return "", false
	}
	return s, true
}

// strs returns an array of strings, likewise.
func (o object) strs(name string) (s []string, ok bool) {
	if !o.has(name) {
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

// date returns a whole NumericDate (RFC 7519 section 2), zero if it is not
// there. ok is false for anything but an integer between 1970 and 9999.
func (o object) date(name string) (t time.Time, ok bool) {
	if !o.has(name) {
		return time.Time{}, true
	}
	const end = 253402300800 // the year 10000
	var n int64
	if json.Unmarshal(o[name], &n) != nil || n <= 0 || n >= end {
		return time.Time{}, false
	}
	return time.Unix(n, 0), true
}
