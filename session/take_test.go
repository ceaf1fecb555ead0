package session_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// Attempts are counted by all replicas together, and come back evenly.
func TestTake(t *testing.T) {
	w := newWorld(t)
	a, b := w.replica(), w.replica()
	take := func(k *session.Keeper, name string) (bool, time.Duration) {
		t.Helper()
		ok, after, err := k.Take(t.Context(), w.app, name, 4)
		if err != nil {
			t.Fatal(err)
		}
		return ok, after
	}
	for i := range 4 {
		if ok, _ := take([]*session.Keeper{a, b}[i%2], "TAKEcanary alice"); !ok {
			t.Fatalf("attempt %d refused", i+1)
		}
	}
	for _, k := range []*session.Keeper{a, b} {
		if ok, after := take(k, "TAKEcanary alice"); ok || after <= 10*time.Second || after > 15*time.Second {
			t.Errorf("the fifth: %v, after %s", ok, after)
		}
	}
	if ok, _ := take(a, "TAKEcanary bob"); !ok {
		t.Error("one name's attempts count against another's")
	}
	w.pass(15 * time.Second)
	if ok, _ := take(a, "TAKEcanary alice"); !ok {
		t.Error("a quarter of a minute later there is none")
	}
	if ok, _ := take(a, "TAKEcanary alice"); ok {
		t.Error("a quarter of a minute later there are two")
	}
	for _, key := range w.client().Keys(t.Context(), "*").Val() {
		if strings.Contains(key, "canary") {
			t.Errorf("a name in a key: %s", key)
		}
		if ttl := w.client().PTTL(t.Context(), key).Val(); ttl <= 0 || ttl > 2*time.Minute {
			t.Errorf("%s lives %s", key, ttl)
		}
	}
	w.redis.Stop()
	defer w.redis.Cont()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if ok, _, err := a.Take(ctx, w.app, "carol", 4); ok || !unavailable(err) {
		t.Errorf("with the store down: %v, %v", ok, err)
	}
}

func unavailable(err error) bool {
	_, ok := errors.AsType[*session.UnavailableError](err)
	return ok
}

func TestDoOnce(t *testing.T) {
	w := newWorld(t)
	a, b := w.replica(), w.replica()
	done := 0
	do := func(context.Context) error { done++; return nil }
	for i, c := range []struct {
		k     *session.Keeper
		name  string
		first bool
	}{{a, "one", true}, {a, "one", false}, {b, "one", false}, {b, "two", true}} {
		if first, err := c.k.DoOnce(t.Context(), w.app, c.name, time.Minute, do); err != nil || first != c.first {
			t.Errorf("%d: %v, %v", i, first, err)
		}
	}
	if done != 2 {
		t.Errorf("done %d times", done)
	}

	// While one is at it, another isn't.
	first, err := a.DoOnce(t.Context(), w.app, "three", time.Minute, func(ctx context.Context) error {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("no deadline")
		}
		if first, err := b.DoOnce(ctx, w.app, "three", time.Minute, do); first || !unavailable(err) {
			t.Errorf("the other: %v, %v", first, err)
		}
		return nil
	})
	if !first || err != nil {
		t.Errorf("%v, %v", first, err)
	}

	// What failed may be repeated, when the first one's time is over.
	broken := errors.New("broken")
	if first, err := a.DoOnce(t.Context(), w.app, "four", time.Minute, func(context.Context) error { return broken }); first || err != broken {
		t.Errorf("%v, %v", first, err)
	}
	if _, err := b.DoOnce(t.Context(), w.app, "four", time.Minute, do); !unavailable(err) {
		t.Error(err)
	}
	for _, key := range w.client().Keys(t.Context(), "cloakroom:j:*").Val() {
		if ttl := w.client().PTTL(t.Context(), key).Val(); ttl <= 0 || ttl > time.Minute {
			t.Errorf("%s lives %s", key, ttl)
		} else if ttl <= 15*time.Second {
			w.client().PExpire(t.Context(), key, 0) // its time is over
		}
	}
	if first, err := b.DoOnce(t.Context(), w.app, "four", time.Minute, do); !first || err != nil {
		t.Errorf("the repetition: %v, %v", first, err)
	}
}

// One at a time, of all replicas; the name is free again at once, or when its
// time is over, and nothing of it stays.
func TestAlone(t *testing.T) {
	w := newWorld(t)
	a, b := w.replica(), w.replica()
	release, err := a.Alone(t.Context(), w.app, "login x", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []*session.Keeper{a, b} {
		if _, err := k.Alone(t.Context(), w.app, "login x", time.Minute); !unavailable(err) {
			t.Errorf("beside another: %v", err)
		}
	}
	other, err := b.Alone(t.Context(), w.app, "login y", time.Minute)
	if err != nil {
		t.Errorf("another's: %v", err)
	}
	other()
	release()
	eventually(t, "it is free again", func() bool {
		_, err = b.Alone(t.Context(), w.app, "login x", 50*time.Millisecond)
		return err == nil
	})
	eventually(t, "its time is over", func() bool { return len(w.client().Keys(t.Context(), "*j:*").Val()) == 0 })
	w.redis.Stop()
	defer w.redis.Cont()
	if _, err := a.Alone(t.Context(), w.app, "login x", time.Minute); !unavailable(err) {
		t.Errorf("with the store down: %v", err)
	}
}
