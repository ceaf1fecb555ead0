package proxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// frameBytes makes a frame. The first byte is FIN, RSV and opcode as they are.
func frameBytes(first byte, payload []byte, masked bool) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	if !masked {
		return append(b, payload...)
	}
	b[1] |= 0x80
	mask := [4]byte{0x5a, 0x01, 0xff, 0x80}
	b = append(b, mask[:]...)
	start := len(b)
	b = append(b, payload...)
	for i := range payload {
		b[start+i] ^= mask[i%4]
	}
	return b
}

// readFrame reads one frame, of either direction.
func readFrame(r *bufio.Reader) (first byte, payload []byte, masked bool, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, false, err
	}
	masked = head[1]&0x80 != 0
	length := uint64(head[1] & 0x7f)
	if size := map[uint64]int{126: 2, 127: 8}[length]; size > 0 {
		var ext [8]byte
		if _, err := io.ReadFull(r, ext[8-size:]); err != nil {
			return 0, nil, false, err
		}
		length = binary.BigEndian.Uint64(ext[:])
	}
	var mask [4]byte
	if masked {
		if _, err := io.ReadFull(r, mask[:]); err != nil {
			return 0, nil, false, err
		}
	}
	if length > 4<<20 {
		return 0, nil, false, errors.New("a test's frame is not that long")
	}
	payload = make([]byte, length)
	_, err = io.ReadFull(r, payload)
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0], payload, masked, err
}

// closeText is what a Close frame says, "4401 session ended".
func closeText(payload []byte) string {
	if len(payload) < 2 {
		return ""
	}
	code := binary.BigEndian.Uint16(payload)
	return string([]byte{'0' + byte(code/1000), '0' + byte(code/100%10), '0' + byte(code/10%10), '0' + byte(code%10), ' '}) + string(payload[2:])
}

func TestFrameHeaders(t *testing.T) {
	long := func(first byte, length uint64) []byte {
		return binary.BigEndian.AppendUint64([]byte{first, 127}, length)
	}
	for _, tt := range []struct {
		name     string
		in       []byte
		extended bool
		n        int // of in that are frames
		bad      bool
	}{
		{"text", []byte("\x81\x02hi"), false, 4, false},
		{"empty", []byte("\x81\x00"), false, 2, false},
		{"two", []byte("\x81\x02hi\x82\x01x"), false, 7, false},
		{"half a header", []byte("\x81\x02hi\x82"), false, 4, false},
		{"half a length", []byte("\x81\x02hi\x82\x7e\x01"), false, 4, false},
		{"half a payload", []byte("\x81\x05hi"), false, 4, false},
		{"fragments, ping between", []byte("\x01\x01a\x89\x00\x00\x01b\x80\x01c"), false, 11, false},
		{"63 bits", long(0x82, 1<<63-1), false, 10, false},
		{"64 bits", long(0x82, 1<<63), false, 0, true},
		{"16 bits for 125", []byte{0x82, 126, 0, 125}, false, 0, true},
		{"64 bits for 65535", long(0x82, 1<<16-1), false, 0, true},
		{"masked by a server", []byte("\x81\x82aaaahi"), false, 0, true},
		{"a good one, then a masked one", []byte("\x81\x02hi\x81\x82aaaahi"), false, 4, true},
		{"fragmented ping", []byte("\x09\x00"), false, 0, true},
		{"long ping", []byte("\x89\x7e\x00\x7e"), false, 0, true},
		{"continuation of nothing", []byte("\x80\x01a"), false, 0, true},
		{"message within a message", []byte("\x01\x01a\x81\x01b"), false, 3, true},
		{"reserved opcode", []byte("\x83\x00"), false, 0, true},
		{"reserved control opcode", []byte("\x8b\x00"), false, 0, true},
		{"RSV1 without an extension", []byte("\xc1\x00"), false, 0, true},
		{"RSV1 with one", []byte("\xc1\x02\x00\x00"), true, 4, false},
		{"reserved opcode with one", []byte("\x83\x00"), true, 2, false},
		{"long ping with one", []byte("\x89\x7e\x00\x7e"), true, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := frames{extended: tt.extended}
			if n, err := f.scan(tt.in); n != tt.n || (err != nil) != tt.bad {
				t.Errorf("scan = %d, %v; want %d, bad %v", n, err, tt.n, tt.bad)
			}
		})
	}
	f := frames{masked: true}
	if n, err := f.scan([]byte("\x81\x02hi")); n != 0 || err != errMalformed {
		t.Errorf("an unmasked frame of a client's: %d, %v", n, err)
	}
}

func TestCloseFrame(t *testing.T) {
	for _, masked := range []bool{false, true} {
		for _, c := range []closing{goingAway, protocolError, sessionEnded} {
			b := c.frame(masked)
			f := frames{masked: masked}
			if n, err := f.scan(b); n != len(b) || err != nil || !f.closed || f.rest != 0 {
				t.Errorf("%v: scan = %d, %v", c, n, err)
			}
			first, payload, m, err := readFrame(bufio.NewReader(bytes.NewReader(b)))
			if err != nil || first != 0x88 || m != masked || !strings.HasSuffix(closeText(payload), " "+c.reason) || binary.BigEndian.Uint16(payload) != c.code {
				t.Errorf("%v: %x %q, masked %v, %v", c, first, payload, m, err)
			}
		}
	}
}

// script is a peer that sends parts, one a Read, and keeps what it is written.
// Before each part but the first it does something.
type script struct {
	net.Conn // nil: what is not here must not be called
	parts    [][]byte
	next     int
	between  func(delivered int)

	delivered int
	written   bytes.Buffer
	sizes     []int // of the buffers read into
}

func (s *script) Read(b []byte) (int, error) {
	s.sizes = append(s.sizes, len(b))
	if s.between != nil {
		s.between(s.delivered)
	}
	for s.next < len(s.parts) && len(s.parts[s.next]) == 0 {
		s.next++
	}
	if s.next == len(s.parts) {
		return 0, io.EOF
	}
	n := copy(b, s.parts[s.next])
	s.parts[s.next] = s.parts[s.next][n:]
	s.delivered += n
	return n, nil
}

func (s *script) Write(b []byte) (int, error)      { return s.written.Write(b) }
func (s *script) CloseWrite() error                { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// split cuts b at every place that cuts name: its bytes are distances.
func split(b, cuts []byte) (parts [][]byte) {
	for _, c := range cuts {
		n := min(int(c), len(b))
		parts = append(parts, b[:n])
		b = b[n:]
	}
	return append(parts, b)
}

// copyThrough sends parts through a lane, which is ended as soon as endAt bytes
// have come (never, if that is negative). It returns what was written, and how
// much had come when the lane was ended.
func copyThrough(parts [][]byte, masked, extended bool, endAt int) (out []byte, endedAt int, err error) {
	from, to := &script{parts: parts}, &script{}
	l := &lane{from: side{Conn: from, received: from}, to: side{Conn: to}, frames: frames{masked: masked, extended: extended}}
	endedAt = -1
	from.between = func(delivered int) {
		if endAt >= 0 && endedAt < 0 && delivered >= endAt {
			endedAt = delivered
			l.closing.Store(&sessionEnded)
			l.end()
		}
	}
	err = l.copy()
	return to.written.Bytes(), endedAt, err
}

// stream makes a valid stream of frames out of anything, with the places where
// its frames begin and where their payloads do. Lengths around the borders of
// their codings are frequent.
func stream(seed []byte, masked bool) (b []byte, starts, payloads []int) {
	message := false
	for len(seed) >= 2 && len(b) < 400<<10 {
		kind, size := seed[0], int(seed[1])
		seed = seed[2:]
		var first byte
		switch kind % 8 {
		case 0:
			first, size = 0x89, size%126
		case 1:
			first, size = 0x8a, size%126
		case 2, 3, 4: // a frame, the message goes on
			if first = 0; !message {
				first = 1
			}
			message = true
		default: // the last frame of a message
			if first = 0x80; !message {
				first = 0x82
			}
			message = false
		}
		switch {
		case first&8 != 0:
		case kind >= 250:
			size += 1<<16 - 128
		case kind >= 128:
			size *= 9
		}
		f := frameBytes(first, bytes.Repeat([]byte{kind ^ 0x88}, size), masked)
		starts, payloads = append(starts, len(b)), append(payloads, len(b)+len(f)-size)
		b = append(b, f...)
	}
	return b, append(starts, len(b)), payloads
}

// checkLane holds a lane against a stream whose borders are known: unended it
// changes nothing; ended, it writes to the next border and then the Close frame.
func checkLane(t *testing.T, b []byte, starts, payloads []int, cuts []byte, masked bool, endAt int) {
	t.Helper()
	if out, _, err := copyThrough(split(b, cuts), masked, false, -1); err != nil || !bytes.Equal(out, b) {
		t.Fatalf("copied %d bytes of %d, %v; or changed them", len(out), len(b), err)
	}
	out, endedAt, err := copyThrough(split(b, cuts), masked, false, endAt)
	if err != nil {
		t.Fatal(err)
	}
	if endedAt < 0 {
		if !bytes.Equal(out, b) {
			t.Fatal("never ended, and changed")
		}
		return
	}
	// The border that what was written has reached, or reaches next: a header
	// of which a part has come was not begun.
	i, _ := slices.BinarySearch(starts, endedAt)
	border := starts[i]
	if i > 0 && border != endedAt && endedAt < payloads[i-1] {
		border = starts[i-1]
	}
	if len(out) < border || !bytes.Equal(out[:border], b[:border]) {
		t.Fatalf("ended at %d: %d bytes, want the first %d as they were", endedAt, len(out), border)
	}
	r := bufio.NewReader(bytes.NewReader(out[border:]))
	first, payload, m, err := readFrame(r)
	if err != nil || first != 0x88 || m != masked || closeText(payload) != "4401 session ended" || r.Buffered() != 0 {
		t.Fatalf("ended at %d: at %d comes %x, %v", endedAt, border, out[border:], err)
	}
}

// Every byte of a stream with all forms of headers as the place where a read
// ends and the lane is ended.
func TestLaneAtEveryByte(t *testing.T) {
	for _, masked := range []bool{false, true} {
		// Fragments with a ping between them, an empty frame, 125 and 126 bytes.
		b, starts, payloads := stream([]byte{2, 3, 0, 2, 4, 0, 5, 5, 5, 125, 130, 14, 8, 0, 7, 1}, masked)
		for at := range len(b) + 1 {
			checkLane(t, b, starts, payloads, append(bytes.Repeat([]byte{255}, at/255), byte(at%255)), masked, at)
		}
		// 65535 bytes, and one more.
		for _, size := range []byte{127, 128} {
			b, starts, payloads := stream([]byte{255, size, 7, 1}, masked)
			for at := range 20 {
				checkLane(t, b, starts, payloads, []byte{byte(at)}, masked, at)
				checkLane(t, b, starts, payloads, bytes.Repeat([]byte{255}, 300), masked, len(b)-at)
			}
		}
	}
}

func FuzzLane(f *testing.F) {
	f.Add([]byte{2, 3, 0, 2, 4, 0, 5, 5}, []byte{1, 1, 1}, true, uint16(4))
	f.Add([]byte{255, 127, 255, 128, 130, 14}, []byte{200, 3, 9}, false, uint16(60000))
	f.Add([]byte{5, 125, 5, 126, 0, 125}, []byte{2, 126, 1, 1, 1}, false, uint16(129))
	f.Fuzz(func(t *testing.T, seed, cuts []byte, masked bool, endAt uint16) {
		b, starts, payloads := stream(seed, masked)
		checkLane(t, b, starts, payloads, cuts, masked, int(endAt))
	})
}

// Whatever comes: what is written is how it began, ends within a frame or
// between two, and doesn't depend on how it was split.
func FuzzMalformedFrames(f *testing.F) {
	f.Add([]byte("\x81\x02hi\x83\x00"), []byte{3}, false, false)
	f.Add([]byte("\x81\x82aaaahi\x81\x02hi"), []byte{1, 1, 1}, true, true)
	f.Add(frameBytes(0xc1, make([]byte, 1500), false), []byte{}, false, true)
	f.Fuzz(func(t *testing.T, b, cuts []byte, masked, extended bool) {
		whole, _, wholeErr := copyThrough([][]byte{b}, masked, extended, -1)
		out, _, err := copyThrough(split(b, cuts), masked, extended, -1)
		if !bytes.Equal(out, whole) || err != wholeErr {
			t.Fatalf("split: %d bytes, %v; whole: %d bytes, %v", len(out), err, len(whole), wholeErr)
		}
		if !bytes.HasPrefix(b, out) {
			t.Fatal("changed")
		}
		r := bufio.NewReader(bytes.NewReader(out))
		for {
			_, _, m, readErr := readFrame(r)
			if readErr != nil {
				// The last one may be unfinished, but not when the next is malformed.
				if err == errMalformed && readErr != io.EOF {
					t.Fatalf("%v, with a malformed frame to follow", readErr)
				}
				break
			}
			if m != masked {
				t.Fatal("a frame of the other direction passed")
			}
		}
		if err == nil && len(b)-len(out) >= maxFrameHeader {
			t.Fatalf("%d bytes were held back", len(b)-len(out))
		}
	})
}

// A large buffer is there while much comes, and not a moment longer.
func TestLaneBuffers(t *testing.T) {
	message := frameBytes(0x82, make([]byte, 40000), false)
	from, to := &script{parts: [][]byte{message, []byte("\x81\x02hi"), []byte("\x81\x02ho")}}, &script{}
	l := &lane{from: side{Conn: from, received: from}, to: side{Conn: to}}
	if err := l.copy(); err != nil {
		t.Fatal(err)
	}
	want := []int{smallBuffer, largeBuffer, largeBuffer, largeBuffer, smallBuffer, smallBuffer, smallBuffer}
	if !slices.Equal(from.sizes, want) {
		t.Errorf("read into %v; want %v", from.sizes, want)
	}
}
