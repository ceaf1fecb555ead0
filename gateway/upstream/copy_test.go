package upstream

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// taker is a client that takes all, and notes how long it was busy at a time.
type taker struct {
	strings.Builder
	longest time.Duration
}

func (w *taker) ReadFrom(src io.Reader) (int64, error) {
	start := time.Now()
	n, err := io.Copy(struct{ io.Writer }{&w.Builder}, src)
	w.longest = max(w.longest, time.Since(start))
	return n, err
}

// An upstream may pause for as long as it likes within its answer, and whoever
// watches the client hears of it four times a minute.
func TestCopyOfASlowUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		x := &Exchange{Caller: silent{}, c: &conn{Conn: ours}, left: 100}
		x.framed.by = byLength
		go func() {
			for _, part := range []string{"first ", "second ", "third"} {
				io.WriteString(theirs, part)
				time.Sleep(10 * time.Minute)
			}
			theirs.Close()
		}()
		w := new(taker)
		if err := x.CopyTo(w); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a cut answer: %v", err)
		}
		if w.String() != "first second third" || w.longest > copyPart {
			t.Errorf("%q, at most %v at a time", w.String(), w.longest)
		}
	})
}

// A deadline that is not the copy's own ends it.
func TestCopyToSomebodyWhoIsTooLate(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	x := &Exchange{Caller: silent{}, c: &conn{Conn: ours}, left: 100}
	x.framed.by = byLength
	if err := x.CopyTo(late{}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

type late struct{}

func (late) ReadFrom(io.Reader) (int64, error) { return 0, os.ErrDeadlineExceeded }
