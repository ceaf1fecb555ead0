package faults

import (
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session/storetest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// splitRows cut Redis in two, with a gateway on either side.
var splitRows = []Row{
	splitRow("F5", "the old primary is cut off with a replica of ours; min-replicas-to-write 1",
		[]string{"--min-replicas-to-write", "1", "--min-replicas-max-lag", "2"},
		Allowance{Cut: true, Recovery: 12 * time.Second, Outside: 5}),
	// What the old primary took meanwhile is lost. Redis's own documents say so.
	splitRow("F5a", "the same without min-replicas-to-write: documented as unsafe", nil,
		Allowance{Cut: true, Recovery: 12 * time.Second, Outside: 20, Known: 15 * time.Second, Unknown: true, Unaudited: true, Forgets: true,
			Lost: map[string]int{"store_lost": 1000, "no_session": 1000, "refresh_rejected": 1000}, Revived: 1000}),
}

// The gateways' own account: the others' is taken away from the old primary.
const (
	account         = "cloakroom"
	accountPassword = "a password that only this test has"
)

func splitRow(id, name string, args []string, allow Allowance) Row {
	var links []*rig.Link // the first replica's, to the sentinels
	return Row{
		ID: id, Name: name, Length: 20 * time.Second, Allow: allow, Calm: 60 * time.Second,
		Setup: func(t testing.TB, s *Setup) {
			s.Sentinels = storetest.Sentinel(t, append(args,
				"--user", account, "on", "nopass", "~*", "&*", "+@all")...)
			links = nil
			for i, addr := range s.Sentinels.Addrs() {
				links = append(links, rig.NewLink(t, addr, s.Seed+uint64(i)))
			}
			secret := rig.WriteFile(t, "redis-password", accountPassword)
			s.Change = func(c rig.Config) {
				c.Set("redis.username", account)
				c.Set("redis.password", "${file:"+secret+"}")
			}
			all := list(s.Sentinels.Addrs())
			s.Each = func(w *rig.World, replica int) {
				w.Config.Set("redis.addresses", all)
				if replica == 0 {
					var near []any
					for _, l := range links {
						near = append(near, l.Addr())
					}
					w.Config.Set("redis.addresses", near)
				}
			}
		},
		Strike: func(w *World, r *rand.Rand) { split(w, r, links) },
		Judge: func(_ *World, h *History, r *Result) {
			outages(h, r, "Redis is split", 12*time.Second)
			losses(h, r)
		},
	}
}

// split cuts the primary off, with the first replica of ours, for ten seconds.
func split(w *World, r *rand.Rand, links []*rig.Link) {
	old := w.primary()
	as := func(args ...string) {
		if _, err := old.CLI(append([]string{"--no-auth-warning", "--user", account, "--pass", accountPassword}, args...)...); err != nil {
			w.T.Fatalf("faults: %v", err)
		}
	}
	over := w.Fault("Redis is split")
	for _, l := range links {
		l.Set(rig.Up, rig.Fault{Stall: true})
		l.Set(rig.Down, rig.Fault{Stall: true})
	}
	as("ACL", "SETUSER", "default", "off")
	as("CLIENT", "KILL", "USER", "default")
	as("CLIENT", "KILL", "TYPE", "replica")
	rig.Eventually(w.T, "there is another primary", func() bool { return w.primary() != old })

	// Some are ended on the good side: the other side may not take them any more.
	bad, good := w.Replicas()[0], w.Replicas()[1]
	type gone struct {
		b       *Browser
		cookie  string
		session *Session
	}
	var killed []gone
	for range 20 {
		b := w.Browsers[r.IntN(len(w.Browsers))]
		if !b.entering.TryLock() {
			continue
		}
		if cookie, s := b.Ticket(); s != nil {
			acknowledged := w.ending(s, "logout")
			if op := b.Do(Ask{Kind: KindLogout, At: good, Cookie: cookie, Session: s}); op.Status == http.StatusOK {
				acknowledged()
				killed = append(killed, gone{b, cookie, s})
			}
		}
		b.entering.Unlock()
	}
	// And some on the bad side: what is acknowledged has to hold after all.
	for range 20 {
		b := w.Browsers[r.IntN(len(w.Browsers))]
		if !b.entering.TryLock() {
			continue
		}
		if cookie, s := b.Ticket(); s != nil {
			acknowledged := w.ending(s, "logout")
			if op := b.Do(Ask{Kind: KindLogout, At: bad, Cookie: cookie, Session: s}); op.Status == http.StatusOK {
				acknowledged()
				killed = append(killed, gone{b, cookie, s})
			}
		}
		b.entering.Unlock()
	}
	w.Sleep(2500 * time.Millisecond)
	for _, k := range killed {
		k.b.Do(Ask{Kind: KindGhost, At: bad, Cookie: k.cookie, Session: k.session})
	}
	w.Sleep(3 * time.Second)

	as("ACL", "SETUSER", "default", "on")
	for _, l := range links {
		l.Heal()
		l.Break()
	}
	w.whole(w.Setup.Sentinels.Wait)
	over()
	// The gateway on the bad side finds out, and does again what it has to.
	w.Sleep(3 * time.Second)
	for _, k := range killed {
		k.b.Do(Ask{Kind: KindGhost, Cookie: k.cookie, Session: k.session})
	}
}
