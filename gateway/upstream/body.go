package upstream

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"sync"
	"time"
)

var errChunk = errors.New("malformed chunk")

const (
	// maxChunkLine is the longest first line of a chunk: the size and its
	// extensions.
	maxChunkLine = 256
	// maxChunkExcess is how much may be sent that is no data, beyond 16 bytes
	// and the data's size again for each chunk: a body of extensions is an
	// attack.
	maxChunkExcess = 4 << 10
	// maxTrailer bounds the trailers.
	maxTrailer = 8 << 10
	// bufferSize is what is read at once.
	bufferSize = 32 << 10
	// copyPart is how long the kernel copies before it is asked how far it has
	// come: only so can a client that takes nothing be told from an upstream that
	// sends nothing, which may take its time.
	copyPart = 15 * time.Second
)

type buffer [bufferSize]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// Next returns the next bytes of the body, as they come, and io.EOF once it is
// whole. Any other error means that it is not: it was cut off, or its framing
// is broken, and its reader must be told. The bytes are good until the next
// call. Before it waits it calls Flush.
func (x *Exchange) Next() ([]byte, error) {
	for {
		switch x.framed.by {
		case byNothing:
			return nil, io.EOF
		case byLength:
			if err := x.fillBody(); err != nil {
				return nil, err
			}
			return x.take(), nil
		case byClose:
			if x.r == x.w {
				if err := x.fill(); err == io.EOF {
					x.framed.by = byNothing
					x.finish()
					return nil, io.EOF
				} else if err != nil {
					return nil, x.broken(err)
				}
			}
			x.left = math.MaxInt64
			return x.take(), nil
		case byChunks:
			if x.left > 0 {
				if err := x.fillBody(); err != nil {
					return nil, err
				}
				return x.take(), nil
			}
			if err := x.nextChunk(); err != nil {
				return nil, x.broken(err)
			}
		}
	}
}

// Left returns how many bytes of a body of known length are still to come,
// and 0 for other bodies.
func (x *Exchange) Left() int64 {
	if x.framed.by != byLength {
		return 0
	}
	return x.left
}

// Pending returns how many bytes Next has without waiting, those of framing
// included.
func (x *Exchange) Pending() int { return x.w - x.r }

// Whole reports whether all of the body has come.
func (x *Exchange) Whole() bool {
	return x.framed.by == byNothing || x.framed.by == byLength && x.left <= int64(x.w-x.r)
}

// Chunked reports whether trailers may follow the body.
func (x *Exchange) Chunked() bool { return x.framed.by == byChunks }

// UntilClose reports whether the end of the body is the end of its connection,
// which can't be told from a cut.
func (x *Exchange) UntilClose() bool { return x.framed.by == byClose }

// CopyTo lets the rest of a body of known length go from the connection to dst,
// which may have the kernel do it, and must keep nothing back. Buffered bytes must
// have been taken. It begins with a Flush. While the upstream pauses, dst.ReadFrom is
// called anew every 15 s.
func (x *Exchange) CopyTo(dst io.ReaderFrom) error {
	if x.framed.by != byLength || x.r != x.w {
		return errors.New("upstream: not to be copied")
	}
	x.Caller.Flush()
	for {
		by := time.Now().Add(copyPart)
		x.c.wakeBy(by, by)
		n, err := dst.ReadFrom(&io.LimitedReader{R: x.c.Conn, N: x.left})
		if x.left -= n; x.left == 0 {
			x.complete()
			return err
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && !time.Now().Before(by):
			continue
		case err == nil:
			err = io.ErrUnexpectedEOF
		}
		return x.broken(err)
	}
}

func (x *Exchange) fillBody() error {
	if x.r < x.w {
		return nil
	}
	err := x.fill()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return x.broken(err)
	}
	return nil
}

// take returns what of the buffer is the body's.
func (x *Exchange) take() []byte {
	b := x.buf[x.r:x.w]
	if int64(len(b)) > x.left {
		b = b[:x.left]
	}
	x.r += len(b)
	x.left -= int64(len(b))
	if x.left == 0 && x.framed.by == byLength {
		x.complete()
	}
	return b
}

// complete notes that the body has ended as it should.
func (x *Exchange) complete() {
	x.framed.by = byNothing
	x.sound = true
	x.finish()
}

// broken notes that it has not.
func (x *Exchange) broken(err error) error {
	x.framed.by = byNothing
	x.finish()
	return err
}

// nextChunk reads up to the next chunk's data, or to the end of the body.
func (x *Exchange) nextChunk() error {
	if x.inChunks {
		line, err := x.line(2)
		if err != nil {
			return err
		}
		if len(line) != 0 {
			return errChunk
		}
	}
	x.inChunks = true
	line, err := x.line(maxChunkLine)
	if err != nil {
		return err
	}
	size, err := parseChunkSize(line)
	if err != nil {
		return err
	}
	if x.excess += len(line) + 2 - 16 - int(min(2*uint64(size), 1<<30)); x.excess < 0 {
		x.excess = 0
	}
	if x.excess > maxChunkExcess {
		return errChunk
	}
	if size > 0 {
		x.left = size
		return nil
	}
	return x.trailers()
}

// trailers reads the end of a chunked body.
func (x *Exchange) trailers() error {
	for from := 0; ; {
		b := x.buf[x.r:x.w]
		end := 0
		if len(b) >= 2 && b[0] == '\r' && b[1] == '\n' {
			end = 2
		} else {
			end = endOfHead(b, from)
		}
		if from = len(b); end > maxTrailer || end == 0 && from > maxTrailer {
			return errHeadSize
		}
		if end > 0 {
			var err error
			if x.Trailers, err = parseFields(x.Trailers[:0], string(b[:end])); err != nil {
				return err
			}
			for _, f := range x.Trailers {
				switch f.Name {
				case "Transfer-Encoding", "Trailer", "Content-Length":
					return errTrailer
				}
			}
			x.r += end
			x.complete()
			return nil
		}
		if err := x.fill(); err != nil {
			return unexpected(err)
		}
	}
}

// line returns the next line without its CRLF.
func (x *Exchange) line(limit int) ([]byte, error) {
	for {
		b := x.buf[x.r:x.w]
		if end := bytes.IndexByte(b, '\n'); end >= 0 {
			if end == 0 || b[end-1] != '\r' || end > limit {
				return nil, errChunk
			}
			x.r += end + 1
			return b[:end-1], nil
		}
		if len(b) > limit {
			return nil, errChunk
		}
		if err := x.fill(); err != nil {
			return nil, unexpected(err)
		}
	}
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// fill waits for more bytes.
func (x *Exchange) fill() error {
	if x.r == x.w {
		x.r, x.w = 0, 0
	}
	if x.w == len(x.buf) {
		if x.r == 0 {
			return errHeadSize
		}
		x.w = copy(x.buf, x.buf[x.r:x.w])
		x.r = 0
	}
	if x.answered {
		x.Caller.Flush()
	}
	n, err := x.read(x.buf[x.w:])
	x.w += n
	return err
}

// read reads from the connection. Its deadline is there to look up: most
// answers come before it, and need nobody to wait for the client's going
// meanwhile.
func (x *Exchange) read(p []byte) (int, error) {
	for {
		n, err := x.c.Read(p)
		if n > 0 {
			return n, nil
		}
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		}
		x.slow()
		if x.answered {
			x.c.wakeBy(time.Time{}, time.Time{})
			continue
		}
		by := x.headBy()
		if !time.Now().Before(by) {
			return 0, ErrTimeout
		}
		x.c.wakeBy(by, by)
	}
}

// slow tells the caller, once, that this takes a while.
func (x *Exchange) slow() {
	if x.isSlow {
		return
	}
	x.isSlow = true
	x.Caller.Slow()
}
