package idp_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/golang-jwt/jwt/v5"
)

func TestKeys(t *testing.T) {
	type key = map[string]any
	change := func(k key, over key) key {
		k = maps.Clone(k)
		maps.Copy(k, over)
		maps.DeleteFunc(k, func(_ string, v any) bool { return v == nil })
		return k
	}
	good := func() key { return jwk("rsa", rsaKey().Public()) }
	many := func(n int) []any {
		var all []any
		for i := range n {
			all = append(all, change(jwk("ec", ecKey().Public()), key{"kid": fmt.Sprint("k", i)}))
		}
		return all
	}
	byRSA := func(kid any) func(*fake, string) string {
		return func(f *fake, n string) string {
			return sign(jwt.SigningMethodRS256, rsaKey(), key{"kid": kid}, f.with(key{"nonce": n}))
		}
	}
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	for _, row := range []struct {
		name string
		keys []any
		make func(f *fake, nonce string) string
		want error
	}{
		{"one", []any{good()}, byRSA("rsa"), nil},
		{"L-04 no kid, one key without", []any{change(good(), key{"kid": nil})}, byRSA(nil), nil},
		{"L-04 no kid, many keys", []any{good(), change(jwk("x", otherRSA().Public()), key{})}, byRSA(nil), idp.ErrRejected},
		{"L-04 same kid twice", []any{jwk("rsa", otherRSA().Public()), good()}, byRSA("rsa"), nil},
		{"L-04 same kid, other type", []any{jwk("rsa", ecKey().Public()), good()}, byRSA("rsa"), nil},
		{"L-15 bad kty then good", []any{key{"kty": "XYZ", "kid": "rsa"}, good()}, byRSA("rsa"), nil},
		{"L-15 oct is ignored", []any{key{"kty": "oct", "k": b64([]byte(clientSecret)), "kid": "o", "alg": "HS256"}, good()}, byRSA("rsa"), nil},
		{"L-15 not an object, null, number", []any{"x", nil, 1, []any{}, good()}, byRSA("rsa"), nil},
		{"L-15 kid a number", []any{change(good(), key{"kid": 1}), good()}, byRSA("rsa"), nil},
		{"L-15 EC short coordinates", []any{change(jwk("e", ecKey().Public()), key{"x": "AQ"}), good()}, byRSA("rsa"), nil},
		{"L-15 EC huge coordinates", []any{change(jwk("e", ecKey().Public()), key{"x": strings.Repeat("A", 5000)}), good()}, byRSA("rsa"), nil},
		{"L-15 Ed25519 short", []any{key{"kty": "OKP", "crv": "Ed25519", "x": "AQ", "kid": "e"}, good()}, byRSA("rsa"), nil},
		{"L-15 x5c garbage", []any{change(good(), key{"x5c": []string{"garbage"}, "x5u": "http://169.254.169.254/"})}, byRSA("rsa"), nil},
		{"L-15 5000 keys", append(many(5000), good()), byRSA("rsa"), nil},
		{"L-15 RSA with a huge e", []any{change(good(), key{"e": b64(rsaKey().N.Bytes())})}, byRSA("rsa"), idp.ErrUnavailable},
		{"L-15 RSA with e = 1", []any{change(good(), key{"e": "AQ"})}, byRSA("rsa"), idp.ErrUnavailable},
		{"L-15 RSA with even e", []any{change(good(), key{"e": "BA"})}, byRSA("rsa"), idp.ErrUnavailable},
		{"L-15 RSA of 16384 bits", []any{change(good(), key{"n": b64(append([]byte{0xff}, make([]byte, 2047)...))})}, byRSA("rsa"), idp.ErrUnavailable},
		{"L-15 use enc", []any{change(good(), key{"use": "enc"}), jwk("e", ecKey().Public())}, byRSA("rsa"), idp.ErrRejected},
		{"L-15 use missing", []any{change(good(), key{"use": nil})}, byRSA("rsa"), nil},
		{"L-15 use a number", []any{change(good(), key{"use": 1}), jwk("e", ecKey().Public())}, byRSA("rsa"), idp.ErrRejected},
		{"L-15 key_ops without verify", []any{change(good(), key{"key_ops": []string{"encrypt"}}), jwk("e", ecKey().Public())}, byRSA("rsa"), idp.ErrRejected},
		{"L-15 alg of another", []any{change(good(), key{"alg": "RS512"})}, byRSA("rsa"), idp.ErrRejected},
		{"L-15 curve of another algorithm", []any{jwk("e", p384.Public())}, func(f *fake, n string) string {
			return sign(jwt.SigningMethodES256, ecKey(), key{"kid": "e"}, f.with(key{"nonce": n}))
		}, idp.ErrRejected},
		{"L-15 none at all", []any{}, byRSA("rsa"), idp.ErrUnavailable},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			f.jwks = row.keys
			_, err := f.login(f.provider(), func(n string) string { return row.make(f, n) })
			wantKind(t, err, row.want)
		})
	}
	t.Run("L-15 weak RSA", func(t *testing.T) {
		// GenerateKey refuses such sizes; a modulus will do for the parser.
		for _, bits := range []int{512, 1024, 2040} {
			n := make([]byte, bits/8)
			rand.Read(n)
			n[0], n[len(n)-1] = 0xff, n[len(n)-1]|1
			weak := change(good(), key{"n": b64(n)})
			if idp.KeyIsGood(weak) {
				t.Errorf("RSA of %d bits is accepted", bits)
			}
		}
		if !idp.KeyIsGood(good()) {
			t.Error("a good key is refused")
		}
	})
	for name, h := range map[string]http.HandlerFunc{
		"L-15 50 MiB": func(w http.ResponseWriter, r *http.Request) {
			chunk := []byte(strings.Repeat(" ", 1<<20))
			for range 50 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		},
		"L-15 keys an object": answer(200, `{"keys":{}}`),
		"L-15 no keys":        answer(200, `{}`),
		"L-15 keys twice":     answer(200, `{"keys":[],"keys":[]}`),
		"O-03 HTML":           answer(200, `<html>`),
		"O-04 redirect":       func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/evil", 302) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.on("/jwks", h)
			_, err := f.login(f.provider(), f.good)
			if err == nil || len(f.requests("/evil")) > 0 {
				t.Errorf("login with such keys: %v", err)
			}
			checkNoSecret(t, err.Error())
		})
	}
}

func TestUnknownKeyIsFetchedOncePerInterval(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{"L-14 fetches work": nil, "L-14 fetches fail": answer(500, "")} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			p := f.provider()
			if _, err := f.login(p, f.good); err != nil {
				t.Fatal(err)
			}
			f.on("/jwks", h)
			made := func(kid string) func(string) string {
				return func(n string) string {
					return sign(jwt.SigningMethodRS256, rsaKey(), map[string]any{"kid": kid}, f.with(map[string]any{"nonce": n}))
				}
			}
			before := len(f.requests("/jwks"))
			for i := range 4 {
				f.advance(5 * time.Second)
				for j := range 25 {
					if _, err := f.login(p, made(fmt.Sprint(i, "-", j))); err == nil {
						t.Fatal("a token signed by an unknown key was accepted")
					}
				}
			}
			if n := len(f.requests("/jwks")) - before; n != 4 {
				t.Errorf("%d fetches in 4 intervals", n)
			}
			// The known key serves all the time.
			if _, err := f.login(p, f.good); err != nil {
				t.Errorf("known key: %v", err)
			}
		})
	}
}

func TestNewKeyIsFound(t *testing.T) {
	f := newFake(t)
	p := f.provider()
	if _, err := f.login(p, f.good); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.jwks = slices.Concat(f.jwks, []any{jwk("next", otherRSA().Public())})
	f.mu.Unlock()
	f.advance(5 * time.Second)
	_, err := f.login(p, func(n string) string {
		return sign(jwt.SigningMethodRS256, otherRSA(), map[string]any{"kid": "next"}, f.with(map[string]any{"nonce": n}))
	})
	wantKind(t, err, nil)
}

func TestKeysSurviveAnOutage(t *testing.T) {
	f := newFake(t)
	p := f.provider()
	if _, err := f.login(p, f.good); err != nil {
		t.Fatal(err)
	}
	for name, h := range map[string]http.HandlerFunc{"down": answer(500, ""), "emptied": answer(200, `{"keys":[]}`), "garbage": answer(200, "x")} {
		f.on("/jwks", h)
		f.on(wellKnown, answer(500, ""))
		f.advance(24 * time.Hour)
		f.claims["iat"], f.claims["exp"] = f.clock().Unix(), f.clock().Add(time.Minute).Unix()
		if _, err := f.login(p, f.good); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A provider that has no keys to give says nothing about a token, whatever the
// status: a refusal would be final to who brought it.
func TestKeysRefused(t *testing.T) {
	logout := func(f *fake, kid string) string {
		return sign(jwt.SigningMethodRS256, rsaKey(), map[string]any{"kid": kid, "typ": "logout+jwt"}, f.logoutClaims(nil))
	}
	elsewhere := func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/maintenance", http.StatusFound) }
	for name, h := range map[string]http.HandlerFunc{"400": answer(400, `{"error":"invalid_request"}`), "403": answer(403, "<html>"), "404": answer(404, ""), "302": elsewhere} {
		for _, path := range []string{"/jwks", wellKnown} {
			t.Run(name+" at "+path, func(t *testing.T) {
				f := newFake(t)
				p := f.provider()
				f.on(path, h)
				_, err := p.VerifyLogoutToken(context.Background(), logout(f, "rsa"))
				wantKind(t, err, idp.ErrUnavailable)
				_, err = p.VerifyAccessToken(context.Background(), f.at(nil, nil), []string{api})
				wantKind(t, err, idp.ErrUnavailable)
				if errors.Is(err, idp.ErrRejected) {
					t.Errorf("rejected: %v", err)
				}
				f.on(path, nil)
				f.advance(5 * time.Second)
				_, err = p.VerifyLogoutToken(context.Background(), logout(f, "rsa"))
				wantKind(t, err, nil)
				// And where a key is asked for that may be new.
				f.on("/jwks", h)
				f.advance(5 * time.Second)
				_, err = p.VerifyLogoutToken(context.Background(), logout(f, "next"))
				wantKind(t, err, idp.ErrUnavailable)
			})
		}
	}
}

func TestKeysDownAtFirst(t *testing.T) {
	f := newFake(t)
	f.on("/jwks", answer(503, ""))
	p := f.provider()
	_, err := f.login(p, f.good)
	wantKind(t, err, idp.ErrUnavailable)
	f.on("/jwks", nil)
	f.advance(5 * time.Second)
	_, err = f.login(p, f.good)
	wantKind(t, err, nil)
}
