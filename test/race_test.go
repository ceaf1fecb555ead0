package test

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/test/rig"
)

// The product's core promise (N-03, N-04): one cookie, its token expired, 100
// requests at once, half to each of two replicas, at a provider that rotates and
// revokes on reuse. One grant, 100 answers for the same user, one successor.
//
// 20 rounds, or as many as ROUNDS says (make race-rounds).
func TestHundredParallelTokenRequestsOnTwoReplicas(t *testing.T) {
	rounds := 20
	if s := os.Getenv("ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("ROUNDS=%q is no number of rounds", s)
		}
		rounds = n
	}
	// A round must be over before the new token runs out again.
	const accessTTL = 8 * time.Second
	p := rig.NewCertified(t, rig.Origin, accessTTL)
	w := rig.New(t, rig.Setup{Provider: p.Registration(), Replicas: 2})

	// Logins are done ahead, so that their tokens run out while others' rounds
	// are on.
	const ahead = 10
	for from := 0; from < rounds; from += ahead {
		var batch []*rig.Browser
		for i := from; i < min(from+ahead, rounds); i++ {
			b := w.NewBrowser()
			b.Login(roundUser(i))
			batch = append(batch, b)
		}
		for i, b := range batch {
			round(t, w, p, b, from+i)
		}
	}
	for _, e := range p.Ledger() {
		if e.Outcome != "ok" {
			t.Errorf("the provider's ledger: %s", e)
		}
	}
}

// roundUser is a name of its own for each round, of letters alone.
func roundUser(i int) string {
	return fmt.Sprintf("user%c%c%c", 'a'+i/676%26, 'a'+i/26%26, 'a'+i%26)
}

func round(t *testing.T, w *rig.World, p *rig.Certified, b *rig.Browser, n int) {
	t.Helper()
	user := roundUser(n)
	tokenRunsOut(t, b)
	shown := b.Cookie()

	const requests = 100
	answers := make([]*rig.Response, requests)
	errs := make([]error, requests)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range requests {
		wg.Go(func() {
			<-start
			answers[i], errs[i] = b.Try(rig.Request{
				Method: http.MethodPost, Path: "/bff/token", On: w.Gateways[i%2], Lost: true,
				Header: http.Header{"Cookie": {rig.SessionCookie + "=" + shown}},
			})
		})
	}
	began := time.Now()
	close(start)
	wg.Wait()
	took := time.Since(began)

	var successors []string
	tokens := map[string]int{}
	for i, r := range answers {
		if errs[i] != nil {
			t.Fatalf("round %d, request %d: %v", n, i, errs[i])
		}
		if r.Status != http.StatusOK {
			t.Fatalf("round %d, request %d: %s", n, i, r)
		}
		if got := subject(t, r); got != user {
			t.Fatalf("round %d, request %d: the token is %q's, the cookie %q's", n, i, got, user)
		}
		var answer struct {
			AccessToken string `json:"access_token"`
		}
		r.JSON(t, &answer)
		tokens[answer.AccessToken]++
		if s := r.Successor(); s != "" {
			successors = append(successors, s)
		}
	}
	if len(successors) != 1 {
		t.Fatalf("round %d: %d answers carry a successor, want exactly one", n, len(successors))
	}
	if len(tokens) != 1 {
		t.Errorf("round %d: %d different access tokens", n, len(tokens))
	}
	var grants []string
	for _, e := range p.Refreshes() {
		if e.Subject == user || e.Outcome != "ok" {
			grants = append(grants, e.String())
		}
	}
	if len(grants) != 1 {
		t.Fatalf("round %d (%v): %d grants at the provider, want 1:\n%q", n, took, len(grants), grants)
	}

	// The successor opens the session at both replicas.
	b.SetCookie(successors[0])
	for _, g := range w.Gateways {
		r := b.Send(rig.Request{Method: http.MethodPost, Path: "/bff/token", On: g})
		if got := subject(t, r); got != user {
			t.Fatalf("round %d: the successor opens %q's session", n, got)
		}
	}
}
