package session

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// SID names a session: 128 random bits. It may be logged and shown; it opens
// nothing.
type SID [16]byte

// NewSID draws a SID from the system's random source.
func NewSID() (s SID) {
	rand.Read(s[:])
	return s
}

// ParseSID accepts exactly the 22 characters that [SID.String] produces.
func ParseSID(s string) (SID, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(SID{}) || len(s) != 22 {
		return SID{}, errors.New("session: malformed sid")
	}
	return SID(b), nil
}

// String is the SID in unpadded base64url.
func (s SID) String() string { return base64.RawURLEncoding.EncodeToString(s[:]) }

// LogValue lets a SID be logged as its text.
func (s SID) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Secret is the 256-bit half of a ticket that opens the box. It prints as
// "[redacted]".
type Secret [32]byte

func (Secret) String() string             { return redacted }
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }
func (Secret) LogValue() slog.Value       { return slog.StringValue(redacted) }

// MarshalText redacts in JSON, too.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// newSecret draws a secret from the system's random source.
func newSecret() (s Secret) {
	rand.Read(s[:])
	return s
}

// Hash is what Redis may know of the secret. The secret has 256 random bits, so
// a plain hash can't be searched.
func (s Secret) Hash() [32]byte { return sha256.Sum256(s[:]) }

// Ticket is what the session cookie holds. It is paired with one refresh token:
// a refresh makes the next generation of both.
type Ticket struct {
	SID        SID
	Generation uint64
	Secret     Secret
}

// ticketSize and ticketFormat fix the layout: format, sid, generation, secret.
const (
	ticketFormat = 1
	ticketSize   = 1 + 16 + 8 + 32
)

// MarshalBinary lays the ticket out in a fresh slice. The caller may encrypt it
// in place.
func (t Ticket) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, ticketSize)
	b = append(b, ticketFormat)
	b = append(b, t.SID[:]...)
	b = binary.BigEndian.AppendUint64(b, t.Generation)
	return append(b, t.Secret[:]...), nil
}

// UnmarshalBinary accepts only what [Ticket.MarshalBinary] produces.
func (t *Ticket) UnmarshalBinary(b []byte) error {
	if len(b) != ticketSize || b[0] != ticketFormat {
		return errors.New("session: malformed ticket")
	}
	*t = Ticket{
		SID:        SID(b[1:17]),
		Generation: binary.BigEndian.Uint64(b[17:25]),
		Secret:     Secret(b[25:57]),
	}
	if t.Generation == 0 {
		return errors.New("session: malformed ticket")
	}
	return nil
}
