package upstream

import (
	"io"
	"strconv"
	"sync/atomic"
	"time"
)

// sender is the part of an exchange that sends the body, on a goroutine of its
// own: the answer may begin, or be refused, before the body has ended.
type sender struct {
	sent     chan struct{} // closed when it is over; nil: never began
	proceed  chan bool     // true: a 100 has come; false: the answer has
	stop     chan struct{} // closed when nobody waits for it any more
	whole    bool          // of sent: all has left
	last     atomic.Bool   // Body has ended, and is being written
	progress atomic.Int64  // when Body last brought something, since began
}

// sentWait is how long an answer that is complete waits for the last write of
// its request to return: it has, or will not.
const sentWait = 50 * time.Millisecond

func (x *Exchange) send(c *conn) {
	x.sent, x.stop = make(chan struct{}), make(chan struct{})
	if x.Expect {
		x.proceed = make(chan bool, 1)
	}
	go func() {
		defer close(x.sent)
		readErr := x.sendBody(c)
		if readErr == nil {
			return
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		x.readErr = readErr
		if x.live != nil {
			x.live.Close()
		}
	}()
}

// sendBody returns Body's error. One of the connection is its reader's to find.
func (x *Exchange) sendBody(c *conn) error {
	if x.proceed != nil {
		t := time.NewTimer(continueTimeout)
		defer t.Stop()
		select {
		case ok := <-x.proceed:
			if !ok {
				return nil
			}
		case <-t.C:
		case <-x.stop:
			return nil
		}
	}
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	// Each part is written at once, with room for a chunk's first line before
	// it and for the end of the body behind it.
	const before, behind = 10, 16
	left := x.Length
	for {
		p := b[before : len(b)-behind]
		if left >= 0 && int64(len(p)) > left {
			p = p[:left]
		}
		n, err := 0, io.EOF
		if len(p) > 0 {
			n, err = x.Body.Read(p)
			x.progress.Store(int64(time.Since(x.began)))
		}
		select {
		case <-x.stop:
			return nil
		default:
		}
		if left >= 0 {
			if left -= int64(n); left == 0 {
				err = io.EOF
			} else if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
		}
		if err != nil && err != io.EOF {
			return err
		}
		out := p[:n]
		if x.Length < 0 {
			out = chunk(b[:before+n], before, n)
			if err == io.EOF {
				out = x.lastChunk(out)
			}
		}
		if err == io.EOF {
			x.last.Store(true)
		}
		if len(out) > 0 {
			if _, err := c.Write(out); err != nil {
				return nil
			}
		}
		if err == io.EOF {
			x.whole = true
			return nil
		}
	}
}

// chunk frames the n bytes from before on.
func chunk(b []byte, before, n int) []byte {
	if n == 0 {
		return b[before:before]
	}
	var line [8]byte
	size := strconv.AppendInt(line[:0], int64(n), 16)
	start := before - 2 - len(size)
	copy(b[start:], size)
	copy(b[before-2:], "\r\n")
	return append(b[start:], "\r\n"...)
}

func (x *Exchange) lastChunk(b []byte) []byte {
	b = append(b, "0\r\n"...)
	for name, lines := range x.Trailer {
		for _, v := range lines {
			if !validValue(v) {
				continue
			}
			b = append(b, name...)
			b = append(b, ": "...)
			b = append(b, v...)
			b = append(b, "\r\n"...)
		}
	}
	return append(b, "\r\n"...)
}

// decide lets a body that waits for a 100 go, or keeps it: whichever comes first.
func (x *Exchange) decide(send bool) {
	if x.proceed != nil {
		select {
		case x.proceed <- send:
		default:
		}
	}
}

// early notes an answer that has come before the end of its request. Upstreams that
// forget to read the rest of a request take it for the next one, and its sender
// writes that: what is answered to it is not to be the next user's.
func (x *Exchange) early() {
	if x.sent != nil && !x.last.Load() {
		x.decide(false)
		x.framed.keep = false
	}
}

// isSent reports whether all of the request has left.
func (x *Exchange) isSent() bool {
	if x.sent == nil {
		return x.Body == nil
	}
	if !x.last.Load() {
		return false
	}
	select {
	case <-x.sent:
		return x.whole
	default:
	}
	t := time.NewTimer(sentWait)
	defer t.Stop()
	select {
	case <-x.sent:
		return x.whole
	case <-t.C:
		return false
	}
}

// join waits for the sender, which has nobody to send to any more.
func (x *Exchange) join() {
	if x.sent == nil {
		return
	}
	select {
	case <-x.sent:
		return
	default:
	}
	close(x.stop)
	select {
	case <-x.sent:
		return
	default:
	}
	x.Caller.Unblock()
	<-x.sent
}
