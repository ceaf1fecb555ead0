package test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// C. Access and refresh token as a pair.

func pairRotatesTogether(t *testing.T) {
	p, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{AccessLife: time.Second})
	w := rig.New(t, rig.Setup{Provider: reg, Replicas: 2, Change: quick})
	b := w.NewBrowser()
	b.Login("alice")
	held, used := "", map[string]bool{}
	for generation := range 3 {
		tokenRunsOut(t, b)
		before, cookie := held, b.Cookie()
		r := token(b)
		if held = accessToken(t, r); held == before || b.Cookie() == cookie || r.Successor() == "" {
			t.Fatalf("generation %d: the access token and the ticket didn't change together: %s", generation, r)
		}
		redeemed(t, p, generation+1)
	}
	for _, e := range p.Redemptions("sub-alice") {
		if used[e.Token] {
			t.Errorf("%s was used twice", e.Token)
		}
		used[e.Token] = true
	}
	if live := p.Live("sub-alice"); len(live) != 1 {
		t.Errorf("%d refresh tokens work, want the last one", len(live))
	}
}

func theftShowsItself(t *testing.T) {
	_, w, owner := quickWorld(t)
	thief := owner.Clone()
	if token(thief).Successor() == "" { // the thief is first
		t.Fatal("the refresh didn't rotate the ticket")
	}
	rig.Eventually(t, "the owner's next uses push both out", func() bool {
		if r := token(thief); r.Status != http.StatusOK {
			wantProblem(t, r, 401, "login_required", "reuse_detected")
			return true
		}
		return token(owner).Status != http.StatusOK
	})
	wantEnded(t, w, owner, "reuse_detected")
	wantEnded(t, w, thief, "reuse_detected")

	// A copy that nothing has betrayed yet: the owner's next login ends it.
	owner.Login("alice")
	thief = owner.Clone()
	owner.Login("alice")
	wantEnded(t, w, thief, "replaced")
	if got := subject(t, token(owner)); got != "sub-alice" {
		t.Errorf("the token is %q's", got)
	}
}

// A verifier has the public key alone: what it could make of that is refused.
func signaturesAreAsymmetric(t *testing.T) {
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		front := rig.NewFront(t)
		_, reg := rig.Strict(t, rig.Origin, gatewaytest.Options{})
		w := rig.New(t, rig.Setup{Provider: reg, Change: func(c rig.Config) {
			mints(t, c, alg)
			live(t, c)
		}})
		front.Serve(w)
		b := w.NewBrowser()
		b.Login("alice")
		held := accessToken(t, token(b))
		v := byKeyfunc(t, resourceServer(t, front, "https://api.test"), held)
		if v.Error != "" || v.Header["alg"] != alg {
			t.Fatalf("%s: %s, the header is %v", alg, v.Error, v.Header)
		}
		var set struct{ Keys []map[string]any }
		b.Fetch(http.MethodGet, "/.well-known/jwks.json").JSON(t, &set)
		public, err := json.Marshal(set.Keys[0])
		if err != nil {
			t.Fatal(err)
		}
		forgery := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(v.Claims))
		forgery.Header["kid"], forgery.Header["typ"] = v.Header["kid"], v.Header["typ"]
		signed, err := forgery.SignedString(public)
		if err != nil {
			t.Fatal(err)
		}
		for what, bearer := range map[string]string{
			"signed with the public key": signed,
			"not signed":                 base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + strings.Split(held, ".")[1] + ".",
		} {
			r := b.Send(rig.Request{Path: "/bearer/", Header: http.Header{"Authorization": {"Bearer " + bearer}}})
			if code, _ := r.Problem(); code != "token_invalid" {
				t.Errorf("%s, %s: %s", alg, what, r)
			}
		}
	}
}
