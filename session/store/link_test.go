package store

import (
	"context"
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session/storetest"
)

// The way to Redis changes while calls are under way: none fails, and when nothing
// is left on the old one, ends are heard on the new one.
func TestAnotherWay(t *testing.T) {
	const first, second = "a password", "another password"
	of := func(file string) []string {
		lines := accounts(t, file, first)
		return append(lines, strings.Replace(accounts(t, file, second)[1], "user cloakroom ", "user second ", 1))
	}
	file := filepath.Join(t.TempDir(), "users.acl")
	if err := os.WriteFile(file, []byte(strings.Join(of("users.acl"), "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	opts := storetest.GroupOptions{Args: []string{"--aclfile", file}, Sentinel: of("sentinel.acl")}
	for _, mode := range []Mode{Single, Sentinel, Cluster} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o := Options{Mode: mode, KeyPrefix: "cloakroom:", Username: "cloakroom", Password: first, Timeout: time.Second}
			var nodes []*storetest.Node
			switch mode {
			case Single:
				server := storetest.Redis(t, opts.Args...)
				o.Address, nodes = server.Addr(), []*storetest.Node{server.Node}
			case Sentinel:
				g := storetest.SentinelWith(t, opts)
				o.Addresses, o.MasterName, nodes = g.Addrs(), storetest.MasterName, append(g.Nodes, g.Sentinels...)
				o.SentinelUsername, o.SentinelPassword = "cloakroom", first
			case Cluster:
				c := storetest.ClusterWith(t, opts)
				o.Addresses, nodes = c.Addrs(), c.Nodes
			}
			var ends heard
			s := running(t, o, ends.handle)
			f := &fixture{Store: s, t: t, rdb: s.rdb(), app: [8]byte{1}, keys: [][4]byte{{9}}}
			until(t, 5*time.Second, "hears itself", s.Hears)
			sid := f.begin()
			epoch := s.Epoch()

			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var working sync.WaitGroup
			defer working.Wait()
			defer stop()
			for range 4 {
				working.Go(func() {
					for ctx.Err() == nil {
						// Not by ctx, whose end would be an error.
						if _, found, err := s.Read(t.Context(), sid); !found || err != nil {
							t.Errorf("read: %v, %v", found, err)
							return
						}
						if _, err := s.End(t.Context(), id(), f.app, 3, Lock{}); err != nil {
							t.Errorf("end: %v", err)
							return
						}
					}
				})
			}
			o.Username, o.Password = "second", second
			if mode == Sentinel {
				o.SentinelUsername, o.SentinelPassword = "second", second
			}
			if mode != Single {
				o.WaitReplicas = 1
			}
			l, err := s.Try(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			s.Use(l)
			until(t, 10*time.Second, "the first account's connections are closed", func() bool {
				for _, n := range nodes {
					list, err := n.CLI("client", "list")
					if err != nil {
						t.Fatal(err)
					}
					if strings.Contains(list, " user=cloakroom ") {
						return false
					}
				}
				return true
			})
			stop()
			working.Wait()
			until(t, 5*time.Second, "hears itself again", s.Hears)
			a, err := s.End(t.Context(), sid, f.app, 3, Lock{})
			want(t, a, err, OK)
			until(t, 2*time.Second, "the end is heard", func() bool { return ends.ended(sid) })
			if s.Epoch() != epoch {
				t.Error("the same Redis is taken for another")
			}
		})
	}
}

// A way that leads nowhere is told, and changes nothing; unless there is none that
// does.
func TestAWayThatLeadsNowhere(t *testing.T) {
	server := storetest.Redis(t)
	account := func(name string, rules ...string) {
		server.CLI(append([]string{"acl", "setuser", name, "reset", "on", ">" + name + " password"}, rules...)...)
	}
	account("good", "~t:*", "&t:*", "+@all")
	account("better", "~t:*", "&t:*", "+@all")
	account("strange", "~other:*", "&t:*", "+@all")
	account("mute", "~t:*", "&other:*", "+@all")
	account("deaf", "~t:*", "&t:*", "+@all", "-subscribe")
	as := func(name string) Options {
		return Options{Address: server.Addr(), KeyPrefix: "t:", Username: name, Password: name + " password", Timeout: time.Second}
	}
	s := New(as("good"))
	defer s.Close()
	link := s.link.Load()
	wrong, secure := as("good"), as("good")
	wrong.Password = "not its password"
	secure.TLS = &tls.Config{}
	for _, row := range []struct {
		name, says string
		options    Options
	}{
		{"wrong password", "WRONGPASS", wrong},
		{"nobody", "WRONGPASS", as("nobody")},
		{"others' keys", "NOPERM", as("strange")},
		{"others' channels", "can't publish", as("mute")},
		{"no subscriptions", "NOPERM", as("deaf")},
		{"TLS to who knows none", "", secure},
	} {
		l, err := s.Try(t.Context(), row.options)
		if err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v", row.name, err)
		}
		if err == nil {
			l.Close()
		} else if strings.Contains(err.Error(), row.options.Password) {
			t.Errorf("%s: the error tells the password", row.name)
		}
		if s.link.Load() != link || s.Ping(t.Context()) != nil {
			t.Errorf("%s: something has changed", row.name)
		}
	}

	// Its password is gone, and its connections are closed.
	server.CLI("acl", "setuser", "good", "resetpass")
	server.CLI("client", "kill", "user", "good")
	for _, o := range []Options{wrong, as("better")} {
		l, err := s.Try(t.Context(), o)
		if err != nil {
			t.Fatalf("nothing can get worse: %v", err)
		}
		s.Use(l)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// The rest of what the new options say holds as well, and what makes it another
// Redis does not.
func TestLinkTakesWhatMayChange(t *testing.T) {
	server := storetest.Redis(t)
	s := New(Options{Address: server.Addr(), KeyPrefix: "t:"})
	defer s.Close()
	l, err := s.Try(t.Context(), Options{Address: "127.0.0.1:1", KeyPrefix: "x:", Timeout: 3 * time.Second, WaitReplicas: 2})
	if err != nil {
		t.Fatal(err)
	}
	s.Use(l)
	if s.timeout() != 3*time.Second || s.wait() != 2 || s.recordKey([16]byte{})[:2] != "t:" {
		t.Errorf("%v, %d replicas", s.timeout(), s.wait())
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// A call that is under way over the link before has its answer there; then that link
// is closed.
func TestLinkIsLeftByItsLastCall(t *testing.T) {
	server := storetest.Redis(t)
	o := Options{Address: server.Addr(), KeyPrefix: "t:", Timeout: 2 * time.Second}
	s := New(o)
	defer s.Close()
	answered := make(chan error, 1)
	old := s.link.Load()
	go func() { answered <- old.rdb.BLPop(t.Context(), 20*time.Second, "t:list").Err() }()
	until(t, 5*time.Second, "the call is under way", func() bool {
		return strings.Contains(server.CLI("info", "clients"), "blocked_clients:1")
	})
	l, err := s.Try(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	s.Use(l)
	server.CLI("rpush", "t:list", "x")
	if err := <-answered; err != nil {
		t.Errorf("it is cut off: %v", err)
	}
	until(t, 10*time.Second, "the link is closed", func() bool { return old.rdb.Ping(t.Context()).Err() != nil })
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
