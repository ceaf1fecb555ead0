package gatewaytest

import (
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestGates(t *testing.T) {
	for name, tc := range map[string]struct {
		at        Point
		whileHeld string // the ledger of the presented token
	}{
		"before commit": {GateBeforeCommit, "issued"},
		"after commit":  {GateAfterCommit, "issued redeemed"},
		"mid body":      {GateMidBody, "issued redeemed"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, Options{})
			rt := r.login().str("refresh_token")
			hold := r.Gate(tc.at)
			got := make(chan answer, 1)
			go func() { got <- r.refresh(rt) }()
			at := <-hold.Arrived()
			if at.Endpoint != EndpointToken || at.Grant != "refresh_token" || at.Token != r.name(rt) || at.Subject != SubjectOf("alice") || at.Client != r.client.ID || at.N == 0 {
				t.Errorf("arrived: %+v", at)
			}
			wantOutcomes(t, r, rt, tc.whileHeld)
			select {
			case a := <-got:
				t.Fatalf("answered while held: %v", a)
			default:
			}
			hold.Release()
			hold.Release()
			if a := <-got; a.status != 200 || a.str("refresh_token") == "" {
				t.Errorf("released: %d %v %v", a.status, a.body, a.err)
			}
			if a := r.login(); a.status != 200 {
				t.Error("the gate is still there")
			}
		})
	}
}

func TestMidBodyShowsHalf(t *testing.T) {
	r := start(t, Options{})
	hold := r.Gate(GateMidBody, At(EndpointDiscovery))
	resp, err := r.browser.Get(r.Issuer() + string(EndpointDiscovery))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	half := make([]byte, resp.ContentLength/2)
	if _, err := io.ReadFull(resp.Body, half); err != nil {
		t.Fatal(err)
	}
	<-hold.Arrived()
	hold.Release()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(half)+len(rest) != int(resp.ContentLength) {
		t.Errorf("%d more bytes, %v", len(rest), err)
	}
}

func TestGateConditions(t *testing.T) {
	r := start(t, Options{})
	rt := r.login().str("refresh_token")
	refreshes := r.Gate(GateBeforeCommit, Refreshing)
	keys := r.Gate(GateBeforeCommit, At(EndpointJWKS))
	r.login() // passes: it presents a code
	got := make(chan answer, 2)
	go func() { got <- r.refresh(rt) }()
	<-refreshes.Arrived()
	go func() {
		req, _ := http.NewRequest("GET", r.Issuer()+string(EndpointJWKS), nil)
		got <- r.do(req)
	}()
	<-keys.Arrived()
	refreshes.Release()
	keys.Release()
	for range 2 {
		if a := <-got; a.status != 200 {
			t.Errorf("%d %v", a.status, a.err)
		}
	}
}

func TestAHeldRequestOutlivesItsClient(t *testing.T) {
	r := start(t, Options{})
	rt := r.login().str("refresh_token")
	before, after := r.Gate(GateBeforeCommit), r.Gate(GateAfterCommit)
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.Issuer(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	body := "grant_type=refresh_token&client_id=" + r.client.ID + "&client_secret=" + r.client.Secret + "&refresh_token=" + rt
	r.client.Auth = "client_secret_post"
	r.Register(r.client)
	req, _ := http.NewRequest("POST", r.Issuer()+"/token", strings.NewReader(body))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	<-before.Arrived()
	conn.Close()
	before.Release()
	<-after.Arrived()
	after.Release()
	wantOutcomes(t, r, rt, "issued redeemed")
}

func TestCloseReleases(t *testing.T) {
	r := start(t, Options{})
	rt := r.login().str("refresh_token")
	hold := r.Gate(GateBeforeCommit)
	go r.refresh(rt)
	<-hold.Arrived()
	r.Close()
}

func TestFailures(t *testing.T) {
	for name, tc := range map[string]struct {
		with     FailWith
		status   int // 0: no answer
		code     string
		outcomes string
		then     int // status when presented again, without the failure
	}{
		"503":                  {FailWith{Status: 503, RetryAfter: "7"}, 503, "", "issued unspent", 200},
		"429":                  {FailWith{Status: 429, RetryAfter: "7"}, 429, "", "issued unspent", 200},
		"500":                  {FailWith{Status: 500, RetryAfter: "7"}, 500, "", "issued unspent", 200},
		"502 after commit":     {FailWith{Status: 502, AfterCommit: true, RetryAfter: "7"}, 502, "", "issued redeemed dropped", 400},
		"invalid_client":       {FailWith{Error: "invalid_client", RetryAfter: "7"}, 401, "invalid_client", "issued unspent", 200},
		"invalid_grant":        {FailWith{Error: "invalid_grant", RetryAfter: "7"}, 400, "invalid_grant", "issued unspent", 200},
		"error with a status":  {FailWith{Error: "temporarily_unavailable", Status: 503, RetryAfter: "7"}, 503, "temporarily_unavailable", "issued unspent", 200},
		"garbage after commit": {FailWith{Status: 200, Body: "<html>", ContentType: "application/json", AfterCommit: true, RetryAfter: "7"}, 200, "", "issued redeemed dropped", 400},
		"reset before commit":  {FailWith{Drop: true}, 0, "", "issued unspent", 200},
		"reset after commit":   {FailWith{Drop: true, AfterCommit: true}, 0, "", "issued redeemed dropped", 400},
		"truncated":            {FailWith{Truncate: true}, 0, "", "issued redeemed dropped", 400},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, Options{})
			rt := r.login().str("refresh_token")
			f := r.Fail(tc.with)
			a := r.refresh(rt)
			switch {
			case tc.status == 0 && tc.with.Truncate:
				if !errors.Is(a.err, io.ErrUnexpectedEOF) {
					t.Errorf("answer %d %v %v, want half a body", a.status, a.body, a.err)
				}
			case tc.status == 0:
				if !errors.Is(a.err, syscall.ECONNRESET) {
					t.Errorf("answer %d %v, want a reset", a.status, a.err)
				}
			default:
				if a.err != nil || a.status != tc.status || a.str("error") != tc.code || a.header.Get("Retry-After") != "7" {
					t.Errorf("answer %d %v %v %v", a.status, a.header, a.body, a.err)
				}
			}
			wantOutcomes(t, r, rt, tc.outcomes)
			if f.Hits() != 1 {
				t.Errorf("%d hits", f.Hits())
			}
			f.Clear()
			if a := r.refresh(rt); a.status != tc.then {
				t.Errorf("afterwards: %d %v %v, want %d", a.status, a.body, a.err, tc.then)
			}
		})
	}
}

func TestFailureCounts(t *testing.T) {
	r := start(t, Options{})
	rt := r.login().str("refresh_token")
	r.Fail(FailWith{Status: 503, Times: 2, Only: Refreshing})
	r.login() // presents a code: not counted
	var got []int
	for range 3 {
		got = append(got, r.refresh(rt).status)
	}
	if !slices.Equal(got, []int{503, 503, 200}) {
		t.Errorf("answers %v", got)
	}
	if n := len(r.Presentations(rt)); n != 3 {
		t.Errorf("%d presentations, want 3", n)
	}
}

func TestFailuresElsewhere(t *testing.T) {
	r := start(t, Options{})
	a := r.login()
	r.Fail(FailWith{Status: 503, Endpoint: EndpointDiscovery, Times: 1})
	r.Fail(FailWith{Drop: true, Endpoint: EndpointUserInfo, Times: 1})
	r.Fail(FailWith{Status: 503, Endpoint: EndpointRevoke, Times: 1})
	req, _ := http.NewRequest("GET", r.Issuer()+string(EndpointDiscovery), nil)
	if got := r.do(req).status; got != 503 {
		t.Errorf("discovery %d", got)
	}
	if err := r.userInfo(a.str("access_token")).err; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("userinfo: %v", err)
	}
	revoke := map[string][]string{"token": {a.str("refresh_token")}}
	if got := r.post("/revoke", revoke).status; got != 503 {
		t.Errorf("revoke %d", got)
	}
	wantOutcomes(t, r, a.str("refresh_token"), "issued unspent")
	if got := r.post("/revoke", revoke).status; got != 200 {
		t.Errorf("revoke, again: %d", got)
	}
	wantOutcomes(t, r, a.str("refresh_token"), "issued unspent revoked")
}

func TestRefuseAndAccept(t *testing.T) {
	r := start(t, Options{})
	rt := r.login().str("refresh_token")
	issuer := r.Issuer()
	r.Refuse()
	r.Refuse()
	if a := r.refresh(rt); !errors.Is(a.err, syscall.ECONNREFUSED) {
		t.Errorf("refusing: %d %v", a.status, a.err)
	}
	if err := r.Accept(); err != nil {
		t.Fatal(err)
	}
	if err := r.Accept(); err != nil {
		t.Fatal(err)
	}
	if a := r.refresh(rt); a.status != 200 || r.Issuer() != issuer {
		t.Errorf("accepting: %d %v", a.status, a.err)
	}
	wantOutcomes(t, r, rt, "issued redeemed")
}
