package store

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

// All that is written is read whole: what is longer isn't written.
func TestSizeOfARecord(t *testing.T) {
	f := newFixture(t)
	sid := f.begin()
	body := bytes.Repeat([]byte("b"), MaxBody)
	attempt := f.send(sid, 1)
	c := f.advance(sid, 1, 1, attempt)
	c.Body = append(body, 'b')
	if a, err := f.Commit(t.Context(), sid, c); !errors.Is(err, ErrTooLarge) {
		t.Error(a.Result, err)
	}
	c.Body = body
	a, err := f.Commit(t.Context(), sid, c)
	want(t, a, err, OK)
	a = want(t, f.open(sid, 2), nil, Current)
	r, found, err := f.Read(t.Context(), sid)
	if err != nil || !found || !bytes.Equal(r.Body, body) || !bytes.Equal(a.Record.Body, body) {
		t.Errorf("read back: %d and %d bytes, %v", len(r.Body), len(a.Record.Body), err)
	}
	big := id()
	err = f.Begin(t.Context(), big, Record{App: f.app, ExpiresAt: time.Now().Add(time.Hour), Body: append(body, 'b')})
	if _, found, _ := f.Read(t.Context(), big); found || !errors.Is(err, ErrTooLarge) {
		t.Error(found, err)
	}
}
