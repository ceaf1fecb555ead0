package proxy

import (
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/cloakroom/cloakroom/gateway/upstream"
)

// kernelCopy is how much must be left of an answer to have the kernel copy it.
const kernelCopy = 128 << 10

// forwardDirect forwards over plain HTTP/1.1, on the handler's goroutine alone but for
// a body, or an upstream that takes its time.
func (x *exchange) forwardDirect(pool *upstream.Pool) error {
	d := &x.direct
	d.Caller = x
	d.Method = x.in.Method
	d.Target = x.path()
	if x.in.URL.RawQuery != "" || x.in.URL.ForceQuery {
		d.Target += "?" + x.in.URL.RawQuery
	}
	d.Timeout = x.proxy.cfg.Timeout
	d.Upgrade = x.upgrade
	out := outgoing{lines: d.Fields[:0]}
	x.header(&out)
	if body, trailer := x.body(nil); body != nil {
		d.Body, d.Length, d.Trailer = body, x.in.ContentLength, trailer
		if d.Expect = x.expects(); d.Expect {
			out.add("Expect", "100-continue")
		}
	}
	d.Fields = out.lines
	defer d.Done()
	defer x.unwatchAll()
	if err := pool.Do(d); err != nil {
		return x.verdict(err)
	}
	if d.Status == http.StatusSwitchingProtocols {
		return x.switchDirect()
	}
	if !x.hold(phaseAnswering) {
		return ErrEnded
	}
	h := x.w.Header()
	x.incoming(h, d.Head.Fields)
	if x.call.Private {
		keepPrivate(h, d.Head.Fields)
	}
	if d.Chunked() {
		for i := range d.Head.Fields {
			if f := &d.Head.Fields[i]; f.Name == "Trailer" {
				x.announce(h, slices.Collect(tokens([]string{f.Value})))
			}
		}
	}
	if d.UntilClose() && x.in.ProtoMajor == 1 {
		h["Connection"] = []string{"close"} // the client can't tell, either
	}
	if !d.Whole() {
		x.Slow() // what has come fits into the kernel's buffer for the client
	}
	x.begin(d.Status)
	straight := x.straight()
	for {
		if straight != nil && d.Left() >= kernelCopy && d.Pending() == 0 {
			if err := d.CopyTo(straight); err != nil {
				x.broken(err)
			}
			break
		}
		b, err := d.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			if err = x.write(b); err != nil {
				d.Disown()
			}
		}
		if err != nil {
			x.broken(err)
		}
	}
	x.trailers(d.Trailers)
	if !x.hold(phaseOver) {
		panic(http.ErrAbortHandler) // its last bytes may have been cut off
	}
	return nil
}

// straight is the writer of an answer that goes from the kernel to the kernel, if
// this one does: over HTTP/1.1 without TLS and without chunks. Any other would copy
// through a buffer of its own, and what is in there while the upstream pauses would
// be flushed by nobody.
func (x *exchange) straight() io.ReaderFrom {
	if x.in.ProtoMajor != 1 || x.in.TLS != nil || len(x.w.Header()["Content-Length"]) == 0 {
		return nil
	}
	w, _ := x.w.(io.ReaderFrom)
	return w
}

// Inform implements [upstream.Caller].
func (x *exchange) Inform(h *upstream.Head) error {
	early := make(http.Header)
	x.incoming(early, h.Fields)
	x.inform(h.Status, early)
	return nil
}

// Unblock implements [upstream.Caller]. A client that is sending will be heard
// out as far as net/http likes, so that it reads the answer before its
// connection is closed.
func (x *exchange) Unblock() {
	if x.started {
		x.dirty = true
		x.Flush()
	}
	_ = http.NewResponseController(x.w).SetReadDeadline(time.Now().Add(unblockAfter))
}

// abort ends the exchange, whichever way it goes. x.mu is held.
func (x *exchange) abort() {
	x.direct.Abort()
	switch {
	case x.cancel == nil:
	case x.late:
		x.cancel(upstream.ErrTimeout) // counts against the address
	default:
		x.cancel(nil)
	}
}
