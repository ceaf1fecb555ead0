package upstream

import (
	"io"
	"net/http"
	"time"
)

// headBy is when the answer's header is due.
func (x *Exchange) headBy() time.Time {
	return x.began.Add(time.Duration(x.progress.Load()) + x.Timeout)
}

// readHead reads informational answers, and the final one's header.
func (x *Exchange) readHead() error {
	x.r, x.w = 0, 0
	closing := false // an informational answer says so
	for passed := 0; ; {
		end, err := x.fillHead()
		if err != nil {
			return err
		}
		if err := x.Head.parse(string(x.buf[x.r : x.r+end])); err != nil {
			return err
		}
		x.r += end
		switch {
		case x.Status == http.StatusSwitchingProtocols:
			if !x.Upgrade {
				return errSwitched
			}
			x.answered = true
			return nil
		case x.Status < 200:
			if passed++; passed > maxInformational {
				return errInformational
			}
			f, err := x.framing(x.Method)
			if err != nil {
				return err
			}
			closing = closing || !f.keep
			if x.Status == http.StatusContinue {
				x.decide(true)
				if x.Expect {
					continue // the server says so as the body is read
				}
			}
			if err := x.Caller.Inform(&x.Head); err != nil {
				return err
			}
			continue
		}
		if x.framed, err = x.framing(x.Method); err != nil {
			return err
		}
		x.answered = true
		x.framed.keep = x.framed.keep && !closing
		x.early()
		if x.framed.by == byLength {
			x.left = x.framed.length
		}
		if x.framed.by == byNothing {
			x.complete()
		}
		return nil
	}
}

// fillHead reads until a whole head is in the buffer and returns its length.
func (x *Exchange) fillHead() (int, error) {
	for from := 0; ; {
		b := x.buf[x.r:x.w]
		if end := endOfHead(b, from); end > 0 {
			return end, nil
		}
		if n := min(len(b), len("HTTP/1.")); string(b[:n]) != "HTTP/1."[:n] {
			return 0, errNotHTTP
		}
		if from = len(b); from >= maxHead {
			return 0, errHeadSize
		}
		if x.r == 0 && x.w == len(x.buf) {
			x.buf = append(make([]byte, 0, 2*len(x.buf)), x.buf...)
			x.buf = x.buf[:cap(x.buf)]
		}
		err := x.fill()
		x.heard = x.heard || x.w > x.r
		if err == io.EOF && x.w > x.r {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, err
		}
	}
}
