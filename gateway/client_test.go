package gateway

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// deaf is a client that takes nothing once it has got some bytes.
type deaf struct {
	header http.Header
	takes  int
	over   chan struct{} // closed by a deadline in the past
}

func (d *deaf) Header() http.Header { return d.header }
func (d *deaf) WriteHeader(int)     {}
func (d *deaf) Flush()              { _, _ = d.Write(nil) }

func (d *deaf) Write(b []byte) (int, error) {
	if d.takes -= len(b); d.takes >= 0 && len(b) > 0 {
		return len(b), nil
	}
	<-d.over
	return 0, errors.New("too late")
}

func (d *deaf) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() && t.Before(time.Now()) {
		close(d.over)
	}
	return nil
}

// TestQ20StalledAnswer: an answer that its client doesn't take ends, and not
// before its time.
func TestQ20StalledAnswer(t *testing.T) {
	for name, test := range map[string]struct {
		takes int
		http2 bool
		write func(w *response) error
	}{
		"a copy, at once": {takes: 0, write: func(w *response) error {
			_, err := w.ReadFrom(&io.LimitedReader{R: endless{}, N: 1 << 10})
			return err
		}},
		"a copy":       {takes: 300 << 10, write: func(w *response) error { _, err := w.ReadFrom(&io.LimitedReader{R: endless{}, N: 1 << 20}); return err }},
		"HTTP/2":       {takes: 0, http2: true, write: func(w *response) error { _, err := w.Write([]byte("x")); return err }},
		"HTTP/2 flush": {takes: 0, http2: true, write: func(w *response) error { return w.FlushError() }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &deaf{header: http.Header{}, takes: test.takes, over: make(chan struct{})}
				w := &response{ResponseWriter: d, g: bare(), http2: test.http2}
				start := time.Now()
				err := test.write(w)
				if took := time.Since(start); err == nil && name != "HTTP/2 flush" || took != stallTimeout {
					t.Errorf("%v after %v", err, took)
				}
			})
		})
	}
}

// TestStalledClientIsNotASlowUpstream: an upstream that pauses has a deadline of its
// own for each part, and its copy goes on after it; a client that was given up is
// never asked again.
func TestStalledClientIsNotASlowUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &deaf{header: http.Header{}, takes: 300 << 10, over: make(chan struct{})}
		w := &response{ResponseWriter: d, g: bare()}
		if _, err := w.ReadFrom(&io.LimitedReader{R: endless{}, N: 1 << 20}); !errors.Is(err, errStalled) {
			t.Errorf("a client that takes nothing: %v", err)
		}
		w = &response{ResponseWriter: &patient{header: http.Header{}}, g: bare()}
		if n, err := w.ReadFrom(&io.LimitedReader{R: paused{}, N: 1 << 20}); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("an upstream that pauses: %d, %v", n, err)
		}
	})
}

type paused struct{}

func (paused) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

// TestQ20PatientAnswer: a client that takes its time for each part gets all, and
// nothing is left behind for the connection's next request.
func TestQ20PatientAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &patient{header: http.Header{}}
		w := &response{ResponseWriter: d, g: bare()}
		if n, err := w.ReadFrom(&io.LimitedReader{R: endless{}, N: 1<<20 + 7}); n != 1<<20+7 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		if n, err := w.ReadFrom(bytes.NewReader(make([]byte, 700<<10))); n != 700<<10 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		if want := 1<<20 + 7 + 700<<10; d.got != want || w.bytes != int64(want) {
			t.Errorf("%d bytes of %d, %d counted", d.got, want, w.bytes)
		}
		time.Sleep(2 * stallTimeout)
		if d.deadlines != 0 {
			t.Errorf("%d deadlines", d.deadlines)
		}
	})
}

// patient takes 59 s for each 256 KiB.
type patient struct {
	header    http.Header
	got       int
	deadlines int
}

func (p *patient) Header() http.Header              { return p.header }
func (p *patient) WriteHeader(int)                  {}
func (p *patient) SetWriteDeadline(time.Time) error { p.deadlines++; return nil }
func (p *patient) Write(b []byte) (int, error) {
	p.got += len(b)
	time.Sleep(59 * time.Second * time.Duration(len(b)) / stallPart)
	return len(b), nil
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
