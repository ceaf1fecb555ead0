package session

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// ServerKey is a gateway's own key: 256 random bits that Redis never sees.
// It prints as "[redacted]".
type ServerKey [32]byte

// NewServerKey draws a key from the system's random source.
func NewServerKey() (k ServerKey) {
	rand.Read(k[:])
	return k
}

// ParseServerKey accepts exactly the 43 characters of unpadded base64url that
// [ServerKey.Encode] produces.
func ParseServerKey(s string) (ServerKey, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(ServerKey{}) || len(s) != 43 {
		return ServerKey{}, errors.New("session: a server key is 43 characters of base64url")
	}
	return ServerKey(b), nil
}

// Encode reveals the key as text, for the file it is kept in.
func (k ServerKey) Encode() string { return base64.RawURLEncoding.EncodeToString(k[:]) }

func (ServerKey) String() string               { return redacted }
func (ServerKey) Format(f fmt.State, _ rune)   { io.WriteString(f, redacted) }
func (ServerKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (ServerKey) LogValue() slog.Value         { return slog.StringValue(redacted) }

// KeyID tells server keys apart without telling anything about them.
type KeyID [4]byte

// Keyring holds the server keys: the first writes, all are read. It is
// immutable and safe for concurrent use.
type Keyring struct {
	keys []ServerKey
	ids  []KeyID
}

// NewKeyring takes at least one key; no key may come twice.
func NewKeyring(keys ...ServerKey) (*Keyring, error) {
	if len(keys) == 0 {
		return nil, errors.New("session: no server key")
	}
	r := &Keyring{keys: keys}
	for i, k := range keys {
		id := KeyID(expand(k[:], "cloakroom/1 key id", "", len(KeyID{})))
		for j, other := range r.ids {
			if id == other {
				return nil, fmt.Errorf("session: server keys %d and %d are the same", j+1, i+1)
			}
		}
		r.ids = append(r.ids, id)
	}
	return r, nil
}

// Derive returns one subkey of size bytes per server key, the writing one
// first: HKDF-Expand(server key, label ‖ 0 ‖ app). Labels keep purposes apart,
// app keeps applications apart.
func (r *Keyring) Derive(label, app string, size int) [][]byte {
	out := make([][]byte, len(r.keys))
	for i, k := range r.keys {
		out[i] = expand(k[:], label, app, size)
	}
	return out
}

// first is the key that writes.
func (r *Keyring) first() (ServerKey, KeyID) { return r.keys[0], r.ids[0] }

// find returns the key with that id.
func (r *Keyring) find(id KeyID) (ServerKey, bool) {
	for i := range r.ids {
		if r.ids[i] == id {
			return r.keys[i], true
		}
	}
	return ServerKey{}, false
}

// expand is HKDF-Expand with SHA-256; a server key is uniform, so it needs no
// extraction (RFC 5869 §3.3).
func expand(key []byte, label, context string, size int) []byte {
	out, err := hkdf.Expand(sha256.New, key, label+"\x00"+context, size)
	if err != nil {
		panic("session: internal error: " + err.Error()) // unreachable: sizes are constants
	}
	return out
}
