package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Format is the record format that this code reads and writes. A record of
// another format is refused and never overwritten.
const Format = 1

// Attempt names one try at a change. A script that runs twice under one attempt
// answers as it did the first time.
type Attempt [16]byte

// Status of a record.
const (
	statusLive  = 1
	statusEnded = 2
)

// EndReason is why a session ended, as a tombstone keeps it. Two values are
// written by the scripts themselves: [EndIdle] and [EndAbsolute].
type EndReason uint8

// The reasons that the scripts know by number.
const (
	EndIdle     EndReason = 1
	EndAbsolute EndReason = 2
)

// Record is a session as Redis keeps it: a header of fixed layout, which the
// scripts judge and change in place, and a body that they only carry. Times are
// Redis's, to the millisecond.
type Record struct {
	Ended  bool
	Reason EndReason // of a tombstone
	Locked bool      // of a tombstone
	// LockedUntil is when a tombstone's lock is over; zero: never.
	LockedUntil time.Time
	Remembered  bool // another idle timeout holds

	App        [8]byte
	Key        [4]byte // the server key behind the ticket's keys
	Version    uint64  // raised by every change of box or ticket
	Generation uint64
	Hash       [32]byte // SHA-256 of the current ticket's secret
	Confirmed  bool
	Unknowns   uint8 // answers lost since the last one that was read
	// LocalConfirmed: the local half of a split session has been shown.
	LocalConfirmed bool

	HandedAt  time.Time // zero: the successor has not been handed out
	CreatedAt time.Time
	SeenAt    time.Time
	ExpiresAt time.Time // the absolute end
	AheadAt   time.Time // first sight of a ticket newer than the record

	LeaseUntil time.Time
	Lease      Attempt
	Sending    Attempt
	LookedAt   time.Time
	Attempt    Attempt // the last change

	Body []byte
}

// header is the size of the fixed part; its offsets are in marshal and, for the
// scripts, in prelude.lua.
const header = 172

// MaxBody bounds a record's body: what is longer would be read by halves.
const MaxBody = longest - header

// ErrTooLarge is the error of a body above [MaxBody]. Nothing was written.
var ErrTooLarge = errors.New("record too large to be read again")

func millis(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixMilli())
}

func fromMillis(b []byte) time.Time {
	ms := binary.BigEndian.Uint64(b)
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms))
}

func (r *Record) marshal() []byte {
	b := make([]byte, header, header+len(r.Body))
	be := binary.BigEndian
	b[0], b[1], b[2] = Format, statusLive, byte(r.Reason)
	if r.Ended {
		b[1] = statusEnded
	}
	if r.Locked {
		b[3] = 1
	} else if r.Remembered {
		b[3] = 2
	}
	copy(b[4:], r.App[:])
	copy(b[12:], r.Key[:])
	be.PutUint64(b[16:], r.Version)
	be.PutUint64(b[24:], r.Generation)
	copy(b[32:], r.Hash[:])
	if r.Confirmed {
		b[64] = 1
	}
	b[65] = r.Unknowns
	if r.LocalConfirmed {
		b[66] = 1
	}
	be.PutUint64(b[68:], millis(r.HandedAt))
	be.PutUint64(b[76:], millis(r.CreatedAt))
	be.PutUint64(b[84:], millis(r.SeenAt))
	be.PutUint64(b[92:], millis(r.ExpiresAt))
	be.PutUint64(b[100:], millis(r.AheadAt))
	be.PutUint64(b[108:], millis(r.LeaseUntil))
	copy(b[116:], r.Lease[:])
	copy(b[132:], r.Sending[:])
	looked := r.LookedAt
	if r.Ended {
		looked = r.LockedUntil
	}
	be.PutUint64(b[148:], millis(looked))
	copy(b[156:], r.Attempt[:])
	return append(b, r.Body...)
}

// ErrUnreadable is the error of a record that a newer release has written, or that is
// damaged. Scripts answer [Foreign] for it.
var ErrUnreadable = errors.New("unreadable record")

var (
	errFormat = fmt.Errorf("%w: of an unknown format", ErrUnreadable)
	errShort  = fmt.Errorf("%w: damaged", ErrUnreadable)
)

// parse reads a record. The body shares b.
func parse(b []byte) (Record, error) {
	if len(b) > 0 && b[0] != Format {
		return Record{}, errFormat
	}
	if len(b) < header || b[1] != statusLive && b[1] != statusEnded {
		return Record{}, errShort
	}
	be := binary.BigEndian
	r := Record{
		Ended:          b[1] == statusEnded,
		Reason:         EndReason(b[2]),
		Locked:         b[1] == statusEnded && b[3]&1 != 0,
		Remembered:     b[1] == statusLive && b[3]&2 != 0,
		App:            [8]byte(b[4:]),
		Key:            [4]byte(b[12:]),
		Version:        be.Uint64(b[16:]),
		Generation:     be.Uint64(b[24:]),
		Hash:           [32]byte(b[32:]),
		Confirmed:      b[64] == 1,
		Unknowns:       b[65],
		LocalConfirmed: b[66] == 1,
		HandedAt:       fromMillis(b[68:]),
		CreatedAt:      fromMillis(b[76:]),
		SeenAt:         fromMillis(b[84:]),
		ExpiresAt:      fromMillis(b[92:]),
		AheadAt:        fromMillis(b[100:]),
		LeaseUntil:     fromMillis(b[108:]),
		Lease:          Attempt(b[116:]),
		Sending:        Attempt(b[132:]),
		LookedAt:       fromMillis(b[148:]),
		Attempt:        Attempt(b[156:]),
		Body:           b[header:],
	}
	if r.Ended {
		r.LookedAt, r.LockedUntil = time.Time{}, r.LookedAt
	}
	return r, nil
}

// SealedSalt is a successor's salt, sealed for one generation of the record.
type SealedSalt [64]byte

// Predecessor is an older ticket that still works, with what leads from it to
// its successor.
type Predecessor struct {
	Generation uint64
	Hash       [32]byte
	Until      time.Time // zero while its successor is unconfirmed
	Key        [4]byte   // the server key that its successor was derived under
	Salt       SealedSalt
}

// entry is the size of a predecessor, MaxPredecessors how many a record keeps.
const (
	entry           = 116
	MaxPredecessors = 8
)

func (p *Predecessor) marshal() []byte {
	b := make([]byte, entry)
	binary.BigEndian.PutUint64(b, p.Generation)
	copy(b[8:], p.Hash[:])
	binary.BigEndian.PutUint64(b[40:], millis(p.Until))
	copy(b[48:], p.Key[:])
	copy(b[52:], p.Salt[:])
	return b
}

// lead is what of a predecessor a change of generation replaces.
func (p *Predecessor) lead() []byte {
	b := p.marshal()
	return append(b[:8:8], b[48:]...)
}

func parsePredecessors(b []byte) ([]Predecessor, error) {
	if len(b)%entry != 0 || len(b) > entry*MaxPredecessors {
		return nil, errShort
	}
	ps := make([]Predecessor, 0, len(b)/entry)
	for ; len(b) > 0; b = b[entry:] {
		ps = append(ps, Predecessor{
			Generation: binary.BigEndian.Uint64(b),
			Hash:       [32]byte(b[8:]),
			Until:      fromMillis(b[40:]),
			Key:        [4]byte(b[48:]),
			Salt:       SealedSalt(b[52:]),
		})
	}
	return ps, nil
}
