package attacks

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// L, and of B what a provider's answer decides: through whole logins. The tables
// of all spellings are gateway/idp's; here one of each class has to come to
// nothing: no session, no cookie, no token to anybody.
func TestL(t *testing.T) {
	t.Parallel()
	a := newArena(t, setup{})
	a.user("alice")
	a.user("bob")
	a.provider.Change(func(o *gatewaytest.Options) { o.AutoLogin = gatewaytest.As("mallory") })
	secret := a.registration.ClientSecret
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	split := func(token string) (header map[string]any, payload, signature string) {
		parts := strings.Split(token, ".")
		b, err := base64.RawURLEncoding.DecodeString(parts[0])
		if err != nil || json.Unmarshal(b, &header) != nil {
			t.Error("no token")
		}
		return header, parts[1], parts[2]
	}
	with := func(h map[string]any, more map[string]any) map[string]any {
		h = maps.Clone(h)
		for k, v := range more {
			if h[k] = v; v == nil {
				delete(h, k)
			}
		}
		return h
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	es256 := func(input string) string {
		sum := sha256.Sum256([]byte(input))
		r, s, err := ecdsa.Sign(rand.Reader, private, sum[:])
		if err != nil {
			t.Error(err)
		}
		return base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
	}
	hs256 := func(input string, key []byte) string {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(input))
		return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
	}
	coordinate := func(v *big.Int) string { return base64.RawURLEncoding.EncodeToString(v.FillBytes(make([]byte, 32))) }
	own := map[string]any{"kty": "EC", "crv": "P-256", "x": coordinate(private.X), "y": coordinate(private.Y)}
	public, err := x509.MarshalPKIXPublicKey(published(t, a.provider.Issuer()+"/jwks"))
	if err != nil {
		t.Fatal(err)
	}

	// Answers whose ID token is another.
	type answer = func(map[string]any)
	token := func(forge func(h map[string]any, payload, signature string) string) answer {
		return func(m map[string]any) { m["id_token"] = forge(split(m["id_token"].(string))) }
	}
	signed := func(change map[string]any, sign func(string) string) answer {
		return token(func(h map[string]any, payload, _ string) string {
			input := text(with(h, change)) + "." + payload
			return input + "." + sign(input)
		})
	}
	answers := map[string]answer{
		"L-01 none":                 signed(map[string]any{"alg": "none"}, func(string) string { return "" }),
		"L-01 nOnE":                 signed(map[string]any{"alg": "nOnE"}, func(string) string { return "AA" }),
		"L-01 no alg":               signed(map[string]any{"alg": nil}, func(string) string { return "" }),
		"L-01 no signature":         signed(nil, func(string) string { return "" }),
		"L-02 HS256, client secret": signed(map[string]any{"alg": "HS256", "kid": nil}, func(in string) string { return hs256(in, []byte(secret)) }),
		"L-02 HS256, a public PEM": signed(map[string]any{"alg": "HS256"}, func(in string) string {
			return hs256(in, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
		}),
		"L-03 another key": signed(nil, es256),
		"L-03 crit":        signed(map[string]any{"crit": []string{"x"}, "x": 1}, es256),
		"L-03 truncated":   token(func(h map[string]any, p, s string) string { return text(h) + "." + p + "." + s[:len(s)-4] }),
		"L-03 another's payload": token(func(h map[string]any, p, s string) string {
			return text(h) + "." + text(map[string]any{"sub": "sub-alice"}) + "." + s
		}),
		"L-04 jwk, jku, x5u": signed(map[string]any{"jwk": own, "jku": "https://evil.test/keys", "x5u": "https://evil.test/x", "kid": nil}, es256),
		"L-04 kid ../../x":   signed(map[string]any{"kid": "../../x"}, es256),
		"L-04 kid, 100 KiB":  signed(map[string]any{"kid": strings.Repeat("k", 100<<10)}, es256),
		"L-04 kid a number":  signed(map[string]any{"kid": 1}, es256),
		"L-10 5 MiB": token(func(h map[string]any, p, s string) string {
			return text(h) + "." + strings.Repeat("A", 5<<20) + "." + s
		}),
		"L-10 no JSON": token(func(h map[string]any, _, s string) string { return text(h) + ".AAAA." + s }),
		"L-12 JWE": token(func(map[string]any, string, string) string {
			return text(map[string]any{"alg": "PBES2-HS256+A128KW", "enc": "A128GCM", "p2c": 1 << 31}) + ".a.b.c.d"
		}),
		"L-17 the access token":        func(m map[string]any) { m["id_token"] = m["access_token"] },
		"L-17 none at all":             func(m map[string]any) { delete(m, "id_token") },
		"L-17 null":                    func(m map[string]any) { m["id_token"] = nil },
		"L-17 an array":                func(m map[string]any) { m["id_token"] = []any{m["id_token"]} },
		"O-03 the access token an int": func(m map[string]any) { m["access_token"] = 1 },
		"O-03 no access token":         func(m map[string]any) { delete(m, "access_token") },
		"O-03 token_type mac":          func(m map[string]any) { m["token_type"] = "mac" },
	}
	// ID tokens that the provider has signed, and that say something else.
	at := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	claims := map[string]map[string]any{
		"L-05 iss": {"iss": "https://evil.test"}, "L-05 iss/": {"iss": a.provider.Issuer() + "/"}, "L-05 no aud": {"aud": nil}, "L-05 aud": {"aud": "other"}, "L-05 a second aud": {"aud": []any{a.registration.ClientID, "other"}}, "L-05 azp": {"azp": "other"},
		"L-06 exp": {"exp": at(-time.Hour)}, "L-06 no exp": {"exp": nil}, "L-06 exp, a text": {"exp": "1893456000"}, "L-06 exp 1e30": {"exp": 1e30}, "L-06 nbf": {"nbf": at(time.Hour)}, "L-06 iat": {"iat": at(time.Hour)}, "L-06 an old iat": {"iat": at(-7 * 24 * time.Hour)}, "L-06 no iat": {"iat": nil},
		"L-07 no sub": {"sub": nil}, "L-07 empty": {"sub": ""}, "L-07 a number": {"sub": 7}, "L-07 300": {"sub": strings.Repeat("s", 300)},
		"L-08 at_hash": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}, "L-08 c_hash": {"c_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
		"B-07 nonce": {"nonce": "AAAAAAAAAAAAAAAAAAAAAA"}, "B-07 no nonce": {"nonce": nil}, "B-07 empty": {"nonce": ""}, "L-17 a logout token": {"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}, "nonce": nil},
	}
	comesToNothing := func(c *row, name string, spends bool) {
		c.Helper()
		before := len(strings.Fields(c.w.Redis.CLI("KEYS", "*{*")))
		spent := len(c.provider.Ledger())
		const navigation = "Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nAccept: text/html\r\n"
		started := c.send(get("/bff/login?return_to=%2Flanding", navigation)).final()
		cookie, _, _ := strings.Cut(started.Header.Get("Set-Cookie"), ";")
		c.w.Secret("a cookie", cookie[strings.Index(cookie, "=")+1:])
		resp, err := http.DefaultTransport.RoundTrip(must(http.NewRequest("GET", started.Header.Get("Location"), nil)))
		if err != nil {
			c.Fatal(err)
		}
		resp.Body.Close()
		back, err := url.Parse(resp.Header.Get("Location"))
		if err != nil || back.Path != "/bff/callback" {
			c.Fatalf("%s: the provider answered %s", name, resp.Status)
		}
		x := c.send(get(back.RequestURI(), navigation, "Cookie: "+cookie+"\r\n"))
		if x.status() < 400 || strings.Contains(string(x.got), "Set-Cookie: "+rig.SessionCookie) || strings.Contains(string(x.got), "<script") {
			c.Errorf("%s: %v", name, x)
		}
		// Nor is anything parked that the second step would make a session of.
		y := c.send(get("/bff/callback", "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n", "Cookie: "+cookie+"\r\n"))
		c.want(y, http.StatusBadRequest, "login_expired")
		if n := len(strings.Fields(c.w.Redis.CLI("KEYS", "*{*"))); n > before {
			c.Errorf("%s: Redis has %d keys, %d before", name, n, before)
		}
		if !spends {
			for _, e := range c.provider.Ledger()[spent:] {
				if e.Endpoint == gatewaytest.EndpointToken {
					c.Errorf("%s: a code was presented", name)
				}
			}
		}
	}

	a.row("L-00_answers", func(c *row) {
		for name, change := range answers {
			c.provider.Change(func(o *gatewaytest.Options) {
				o.EditAnswer = func(_ gatewaytest.Request, m map[string]any) { change(m) }
			})
			comesToNothing(c, name, true)
		}
		c.provider.Change(func(o *gatewaytest.Options) { o.EditAnswer = nil })
	})
	a.row("L-00_claims", func(c *row) {
		for name, change := range claims {
			c.provider.Change(func(o *gatewaytest.Options) {
				o.EditIDToken = func(_ gatewaytest.Request, m map[string]any) {
					for k, v := range change {
						if m[k] = v; v == nil {
							delete(m, k)
						}
					}
				}
			})
			comesToNothing(c, name, true)
		}
		c.provider.Change(func(o *gatewaytest.Options) { o.EditIDToken = nil })
	})
	a.row("B-10_answers", func(c *row) {
		// What comes back by the browser, and is refused before a code is spent.
		for name, change := range map[string]func(q url.Values){
			"iss of another": func(q url.Values) { q.Set("iss", "https://evil.test") }, "no iss": func(q url.Values) { q.Del("iss") }, "iss/": func(q url.Values) { q.Set("iss", q.Get("iss")+"/") }, "iss twice": func(q url.Values) { q.Add("iss", q.Get("iss")) },
			"no state": func(q url.Values) { q.Del("state") }, "state twice": func(q url.Values) { q.Add("state", q.Get("state")) }, "another state": func(q url.Values) { q.Set("state", q.Get("state")[1:]) }, "code twice": func(q url.Values) { q.Add("code", "x") },
			"code and error": func(q url.Values) { q.Set("error", "access_denied") }, "error alone": func(q url.Values) {
				q.Del("code")
				q.Set("error", "access_denied")
				q.Set("error_description", strings.Repeat("<script>alert(1)</script>", 200))
			},
			"tokens": func(q url.Values) { q.Del("code"); q.Set("id_token", "x"); q.Set("access_token", "y") }, "response": func(q url.Values) { q.Del("code"); q.Set("response", "x") }, "nothing": func(q url.Values) { clear(q); q.Set("x", "y") },
		} {
			c.provider.Change(func(o *gatewaytest.Options) { o.EditCallback = change })
			comesToNothing(c, name, false)
		}
		c.provider.Change(func(o *gatewaytest.Options) { o.EditCallback = nil })
		c.provider.Change(func(o *gatewaytest.Options) { o.AutoLogin = nil })
		c.w.NewBrowser().Login("carol") // nothing of it is left behind
	})
	a.row("M-20_shapes", func(c *row) {
		// One token, in one form, in a body: nothing else is a logout, and no cookie or
		// origin makes a difference.
		const form = "Content-Type: application/x-www-form-urlencoded\r\n"
		fresh := func(edit func(claims map[string]any)) string {
			token := c.provider.LogoutToken(gatewaytest.Logout{Subject: "sub-dave", Edit: func(_, claims map[string]any) {
				if edit != nil {
					edit(claims)
				}
			}})
			c.w.Secret("a logout token", token)
			return "logout_token=" + token
		}
		dave := c.w.NewBrowser()
		dave.Login("dave")
		const path = "/bff/backchannel-logout"
		token := fresh(nil)
		for name, text := range map[string]string{
			"twice": post(path, token+"&"+token, form), "twice, one empty": post(path, token+"&logout_token=", form), "in the query": post(path+"?"+token, "", form), "by GET": get(path + "?" + token), "as JSON": post(path, `{"logout_token":"`+token[13:]+`"}`, "Content-Type: application/json\r\n"),
			"in parts": post(path, "--b\r\nContent-Disposition: form-data; name=\"logout_token\"\r\n\r\n"+token[13:]+"\r\n--b--\r\n", "Content-Type: multipart/form-data; boundary=b\r\n"), "as nothing": post(path, token), "as two things": post(path, token, form, "Content-Type: text/plain\r\n"), "with spaces": post(path, "logout_token=+"+token[13:]+"+", form), "in another case": post(path, strings.ToUpper(token[:13])+token[13:], form), "by PUT": request("PUT", path+"?"+token, form),
			"a jti of 3000": post(path, fresh(func(m map[string]any) { m["jti"] = strings.Repeat("j", 3000) }), form), "a jti of two lines": post(path, fresh(func(m map[string]any) { m["jti"] = "a\nb" }), form), "an exp beyond all": post(path, fresh(func(m map[string]any) { m["exp"] = 9.9e17 }), form), "a negative iat": post(path, fresh(func(m map[string]any) { m["iat"] = -1 }), form), "an aud of numbers": post(path, fresh(func(m map[string]any) { m["aud"] = []any{1} }), form),
		} {
			if x := c.send(text); x.status() != http.StatusBadRequest && x.status() != http.StatusMethodNotAllowed || len(x.final().Header.Values("Set-Cookie")) > 0 {
				c.Errorf("%s: %v", name, x)
			}
		}
		if r := dave.Fetch("GET", "/bff/user"); r.Status != http.StatusOK {
			c.Errorf("after all of them: %s", r)
		}
		list := fresh(func(m map[string]any) { m["aud"] = []any{m["aud"]} })
		c.want(c.send(post(path, list, strings.Replace(form, "\r\n", "; charset=UTF-8\r\n", 1), "Origin: https://evil.test\r\nSec-Fetch-Site: cross-site\r\n", a.cookie("bob"))), http.StatusOK, "")
		if r := dave.Fetch("GET", "/bff/user"); r.Status != http.StatusUnauthorized {
			c.Errorf("after a good one: %s", r)
		}
		c.want(c.send(get("/app/x", fetched, a.cookie("bob"))), http.StatusOK, "")
	})
	a.row("L-00_nothing_is_logged", func(c *row) {
		// Whatever was forged: a line each, and no token in it.
		refused := 0
		for _, line := range c.g.Log("refused") {
			if line["endpoint"] == "callback" {
				refused++
			}
		}
		for _, g := range c.w.Gateways[1:] {
			for _, line := range g.Log("refused") {
				if line["endpoint"] == "callback" {
					refused++
				}
			}
		}
		if want := len(answers) + len(claims); refused < want {
			c.Errorf("%d refusals are logged, of %d", refused, want)
		}
		if strings.Contains(c.g.Output(), "eyJ") {
			c.Error("a token is in the log")
		}
	})
}

func must(r *http.Request, err error) *http.Request {
	if err != nil {
		panic(err)
	}
	return r
}

// published is the first key of a key set, an EC one.
func published(t *testing.T, at string) *ecdsa.PublicKey {
	t.Helper()
	resp, err := http.Get(at)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var set struct{ Keys []struct{ X, Y string } }
	if err := json.NewDecoder(resp.Body).Decode(&set); err != nil || len(set.Keys) == 0 {
		t.Fatalf("%v, %v", set, err)
	}
	number := func(text string) *big.Int {
		b, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return new(big.Int).SetBytes(b)
	}
	return &ecdsa.PublicKey{Curve: elliptic.P256(), X: number(set.Keys[0].X), Y: number(set.Keys[0].Y)}
}
