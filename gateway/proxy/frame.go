package proxy

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
)

// maxFrameHeader is the longest header: 2 bytes, a length of 8, a mask of 4.
const maxFrameHeader = 14

const (
	opContinuation = 0
	opBinary       = 2
	opClose        = 8
	opPong         = 10
	opControl      = 8 // the bit that all control frames have
)

var errMalformed = errors.New("malformed WebSocket frame")

// frames follows one direction of a WebSocket from frame to frame (RFC 6455
// section 5.2). It reads headers alone: what is in the payloads, and how it is
// masked, compressed or coded, is between the two ends.
type frames struct {
	masked bool // a client's, which must be; a server's must not
	// extended: an extension was agreed on. It may give a meaning to what is
	// reserved, but not to lengths (section 5.8), which is what matters here.
	extended bool

	rest    uint64 // payload left of the current frame; 0: between frames
	message bool   // the current message has more fragments
	closed  bool   // a Close frame has begun
}

// scan goes through b, the stream's next bytes. It returns how many of them
// belong to frames whose headers are whole and well-formed: less than len(b)
// when b ends within a header, which must be given again with what follows it,
// and with errMalformed, when a frame that is none begins there.
func (f *frames) scan(b []byte) (n int, err error) {
	for {
		n += f.skip(b[n:])
		if f.rest > 0 {
			return n, nil
		}
		size, err := f.header(b[n:])
		if size == 0 {
			return n, err
		}
		n += size
	}
}

// skip goes through b to the end of the current frame, and no further.
func (f *frames) skip(b []byte) int {
	n := min(f.rest, uint64(len(b)))
	f.rest -= n
	return int(n)
}

// header reads the header that b begins with and returns its size, 0 if it is
// malformed or not all there.
func (f *frames) header(b []byte) (size int, err error) {
	if len(b) < 2 {
		return 0, nil
	}
	fin, op, masked := b[0]&0x80 != 0, b[0]&0x0f, b[1]&0x80 != 0
	length := uint64(b[1] & 0x7f)
	switch {
	case masked != f.masked,
		op&opControl != 0 && (!fin || length > 125),
		!f.extended && !f.plain(b[0]):
		return 0, errMalformed
	}
	size = 2
	switch length {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	lengthEnd := size
	if masked {
		size += 4
	}
	if len(b) < size {
		return 0, nil
	}
	// A length must be written in the shortest way.
	switch length {
	case 126:
		if length = uint64(binary.BigEndian.Uint16(b[2:lengthEnd])); length < 126 {
			return 0, errMalformed
		}
	case 127:
		if length = binary.BigEndian.Uint64(b[2:lengthEnd]); length < 1<<16 || length>>63 != 0 {
			return 0, errMalformed
		}
	}
	f.rest = length
	if op&opControl == 0 {
		f.message = !fin
	}
	if op == opClose {
		f.closed = true
	}
	return size, nil
}

// plain reports whether a frame that begins with b may come now where no
// extension was agreed on.
func (f *frames) plain(b byte) bool {
	switch op := b & 0x0f; {
	case b&0x70 != 0:
		return false // the RSV bits
	case op == opContinuation:
		return f.message
	case op <= opBinary:
		return !f.message
	default:
		return op >= opClose && op <= opPong
	}
}

// closing is what a Close frame says (RFC 6455 section 7.4).
type closing struct {
	code   uint16
	reason string // at most 123 bytes
}

var (
	goingAway     = closing{1001, "going away"}
	protocolError = closing{1002, "protocol error"}
	sessionEnded  = closing{4401, "session ended"}
)

// frame is the Close frame, masked as a client's must be.
func (c closing) frame(masked bool) []byte {
	b := make([]byte, 2, maxFrameHeader+2+len(c.reason))
	b[0], b[1] = 0x80|opClose, byte(2+len(c.reason))
	if masked {
		b[1] |= 0x80
		b = b[:6]
		rand.Read(b[2:6])
	}
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, c.code)
	b = append(b, c.reason...)
	if masked {
		for i := range b[start:] {
			b[start+i] ^= b[2+i%4]
		}
	}
	return b
}
