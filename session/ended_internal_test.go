package session

import (
	"testing"
	"time"
)

// The list speaks for what it holds, and says how far back that is.
func TestEnds(t *testing.T) {
	const long = time.Hour
	e := newEnds()
	e.complete = time.Now().Add(-long)
	dead, alive, app := NewSID(), NewSID(), appID("shop")
	e.lives(alive, life{app: app, asked: time.Now()})
	e.lives(dead, life{app: app, asked: time.Now()})
	e.add(dead)
	e.lives(dead, life{app: app, asked: time.Now()}) // an answer that was under way
	check := func(sid SID, hearing time.Duration, over, lives bool) {
		t.Helper()
		if n := e.find(sid, hearing); n.over != over || n.alive != lives {
			t.Errorf("over %v, alive %v; want %v, %v", n.over, n.alive, over, lives)
		}
	}
	check(dead, long, true, false)
	check(alive, long, false, true)
	check(alive, 0, false, false) // deaf: it may have ended since
	check(NewSID(), long, false, false)
	if n := e.find(alive, long); n.reach < long-time.Minute || n.reach > long {
		t.Errorf("reach %v", n.reach)
	}

	// It forgets what is older than any token that it speaks for, and not before.
	e.turned = time.Now().Add(-endsLife)
	e.add(NewSID())
	check(dead, long, true, false)
	check(alive, long, false, true)
	e.turned = time.Now().Add(-endsLife)
	e.add(NewSID())
	check(dead, long, false, false)
	check(alive, long, false, false)

	// A flood starts it anew, and it says so.
	e.add(dead)
	e.lives(alive, life{app: app, asked: time.Now()})
	for range endsEntries {
		e.add(NewSID())
	}
	if n := e.find(dead, long); n.reach > time.Minute || n.over {
		t.Errorf("%+v", n)
	}
	if n := len(e.over[0]) + len(e.over[1]); n > 2*endsEntries {
		t.Errorf("%d entries", n)
	}
	check(alive, long, false, false)
}

// A bearer of a session: whoever heard all of its token's life knows, and
// everybody else asks.
func TestTokenOfAnotherApp(t *testing.T) {
	a, b := tokenHash(&App{Name: "a"}, "token"), tokenHash(&App{Name: "b"}, "token")
	if a == b {
		t.Error("two apps share a token's note")
	}
}
