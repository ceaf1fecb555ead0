package session

import (
	"encoding/binary"
	"errors"
	"time"
)

// section is one field of a box or of a record's body: kind, length (uvarint),
// data. Kinds this code doesn't know are kept, in place, when it writes, so that
// an older replica loses nothing that a newer one has added.
type section struct {
	kind byte
	data []byte
}

type sections []section

var errSections = errors.New("session: damaged record")

func parseSections(b []byte) (sections, error) { return appendSections(make(sections, 0, 16), b) }

func appendSections(s sections, b []byte) (sections, error) {
	for len(b) > 0 {
		x, rest, err := cutSection(b)
		if err != nil {
			return nil, err
		}
		s, b = append(s, x), rest
	}
	return s, nil
}

// findSection is one section's data, nil if there is none. All of b is checked.
func findSection(b []byte, kind byte) (data []byte, err error) {
	for len(b) > 0 {
		x, rest, err := cutSection(b)
		if err != nil {
			return nil, err
		}
		if b = rest; x.kind == kind && data == nil {
			data = x.data
		}
	}
	return data, nil
}

func cutSection(b []byte) (x section, rest []byte, err error) {
	n, size := binary.Uvarint(b[1:])
	if size <= 0 || n > uint64(len(b)-1-size) {
		return x, nil, errSections
	}
	data := b[1+size:]
	return section{b[0], data[:n:n]}, data[n:], nil
}

func (s sections) marshal() []byte {
	size := 0
	for _, x := range s {
		size += 1 + binary.MaxVarintLen32 + len(x.data)
	}
	b := make([]byte, 0, size)
	for _, x := range s {
		b = append(b, x.kind)
		b = binary.AppendUvarint(b, uint64(len(x.data)))
		b = append(b, x.data...)
	}
	return b
}

func (s sections) get(kind byte) []byte {
	for _, x := range s {
		if x.kind == kind {
			return x.data
		}
	}
	return nil
}

// set replaces the section of that kind, or adds it; empty data removes it.
func (s *sections) set(kind byte, data []byte) {
	for i, x := range *s {
		if x.kind != kind {
			continue
		}
		if len(data) == 0 {
			*s = append((*s)[:i], (*s)[i+1:]...)
		} else {
			(*s)[i].data = data
		}
		return
	}
	if len(data) > 0 {
		*s = append(*s, section{kind, data})
	}
}

func (s sections) text(kind byte) string { return string(s.get(kind)) }

func (s sections) number(kind byte) uint64 { return section{data: s.get(kind)}.number() }

func (x section) number() uint64 {
	n, _ := binary.Uvarint(x.data)
	return n
}

func (s *sections) setNumber(kind byte, n uint64) {
	if n == 0 {
		s.set(kind, nil)
		return
	}
	s.set(kind, binary.AppendUvarint(nil, n))
}

func (s *sections) setFlag(kind byte, on bool) {
	var n uint64
	if on {
		n = 1
	}
	s.setNumber(kind, n)
}

func (s sections) time(kind byte) time.Time { return section{data: s.get(kind)}.time() }

func (x section) time() time.Time {
	if ms := x.number(); ms != 0 {
		return time.UnixMilli(int64(ms))
	}
	return time.Time{}
}

func (s *sections) setTime(kind byte, t time.Time) {
	if t.IsZero() {
		s.set(kind, nil)
		return
	}
	s.setNumber(kind, uint64(t.UnixMilli()))
}
