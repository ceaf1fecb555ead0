package mint_test

import (
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"

	"github.com/cloakroom/cloakroom/gateway/mint"
)

// What is made is read by another library, which knows the published keys only.
func TestSecondLibrary(t *testing.T) {
	for _, alg := range algorithms {
		t.Run(alg, func(t *testing.T) {
			i := issuer(t, config(t, alg))
			token, expiresIn, err := i.Mint(grant())
			if err != nil {
				t.Fatal(err)
			}
			if expiresIn != 5*time.Minute {
				t.Errorf("expires in %s", expiresIn)
			}
			w := httptest.NewRecorder()
			i.JWKS().ServeHTTP(w, httptest.NewRequest("GET", mint.JWKSPath, nil))
			var set jose.JSONWebKeySet
			if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil {
				t.Fatal(err)
			}
			parsed, err := josejwt.ParseSigned(string(token), []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
			if err != nil {
				t.Fatal(err)
			}
			var std josejwt.Claims
			all := map[string]any{}
			if err := parsed.Claims(&set, &std, &all); err != nil {
				t.Fatal(err)
			}
			if err := std.ValidateWithLeeway(josejwt.Expected{Issuer: shop, AnyAudience: josejwt.Audience{api}, Time: noon}, 0); err != nil {
				t.Error(err)
			}
			if typ := parsed.Headers[0].ExtraHeaders[jose.HeaderType]; typ != "at+jwt" {
				t.Errorf("typ %v", typ)
			}
			if kid := parsed.Headers[0].KeyID; kid != set.Keys[0].KeyID || kid == "" {
				t.Errorf("kid %q, published %q", kid, set.Keys[0].KeyID)
			}
			want := map[string]any{
				"iss": shop, "aud": api, "client_id": "shop-gateway", "scope": "openid orders", "acr": "2", "amr": []any{"pwd", "otp"},
				"iat": float64(noon.Unix()), "exp": float64(noon.Unix() + 300), "auth_time": float64(noon.Unix() - 3600),
				"roles": []any{"buyer", "admin"}, "tenant": map[string]any{"id": 7.0},
				"sub": all["sub"], "sid": all["sid"], "jti": all["jti"],
			}
			if !reflect.DeepEqual(all, want) {
				t.Errorf("claims %v\nwant   %v", all, want)
			}
			for name, size := range map[string]int{"sub": 43, "sid": 22, "jti": 22} {
				if s, _ := all[name].(string); len(s) != size {
					t.Errorf("%s is %v", name, all[name])
				}
			}
		})
	}
}

func TestMintOnceEach(t *testing.T) {
	i := issuer(t, config(t))
	_, a := parts(t, issue(t, i, grant()))
	_, b := parts(t, issue(t, i, grant()))
	if a["jti"] == b["jti"] {
		t.Error("two tokens have one jti")
	}
	if a["sub"] != b["sub"] || a["sid"] != b["sid"] {
		t.Error("one session's tokens differ in sub or sid")
	}
}

func TestExpiry(t *testing.T) {
	for _, row := range []struct {
		name     string
		now      time.Time
		lifetime time.Duration
		notAfter time.Time
		want     time.Duration // 0: ErrExpired
	}{
		{"lifetime", noon, 5 * time.Minute, noon.Add(time.Hour), 5 * time.Minute},
		{"session ends first", noon, 5 * time.Minute, noon.Add(90 * second), 90 * second},
		{"session ends with it", noon, 5 * time.Minute, noon.Add(5 * time.Minute), 5 * time.Minute},
		{"session ends within a second", noon, 5 * time.Minute, noon.Add(2*second - 1), second},
		{"not a whole second left", noon, 5 * time.Minute, noon.Add(second - 1), 0},
		{"session is over", noon, 5 * time.Minute, noon.Add(-second), 0},
		{"session is over now", noon, 5 * time.Minute, noon, 0},
		{"no end named", noon, 5 * time.Minute, time.Time{}, 0},
		{"between two seconds", noon.Add(700 * time.Millisecond), 2 * second, noon.Add(time.Hour), 1300 * time.Millisecond},
		{"between two seconds, end too", noon.Add(700 * time.Millisecond), time.Minute, noon.Add(2*second + 500*time.Millisecond), 1300 * time.Millisecond},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := config(t)
			cfg.Lifetime, cfg.Now = row.lifetime, func() time.Time { return row.now }
			i := issuer(t, cfg)
			g := grant()
			g.NotAfter = row.notAfter
			token, expiresIn, err := i.Mint(g)
			if row.want == 0 {
				if !errors.Is(err, mint.ErrExpired) || token != "" || expiresIn != 0 {
					t.Errorf("%v, %s, %v", token != "", expiresIn, err)
				}
				return
			}
			if err != nil || expiresIn != row.want {
				t.Fatalf("expires in %s, want %s; %v", expiresIn, row.want, err)
			}
			c, err := i.Verify(string(token))
			if err != nil || c.ExpiresAt.After(row.notAfter) || !c.ExpiresAt.Equal(row.now.Add(row.want)) {
				t.Errorf("exp %s, %v", c.ExpiresAt, err)
			}
		})
	}
}

func TestGrantRefused(t *testing.T) {
	for _, row := range []struct {
		name  string
		spoil func(*mint.Grant)
	}{
		{"no session", func(g *mint.Grant) { g.SID = [16]byte{} }},
		{"no subject", func(g *mint.Grant) { g.Subject = "" }},
		{"no issuer", func(g *mint.Grant) { g.Issuer = "" }},
		{"subject not text", func(g *mint.Grant) { g.Subject = "a\xff" }},
		{"issuer not text", func(g *mint.Grant) { g.Issuer = "a\xff" }},
		{"claims an array", func(g *mint.Grant) { g.ClaimsJSON = []byte(`[]`) }},
		{"claims cut short", func(g *mint.Grant) { g.ClaimsJSON = []byte(`{"roles":[`) }},
		{"claims twice", func(g *mint.Grant) { g.ClaimsJSON = []byte(`{"roles":[],"roles":["admin"]}`) }},
		{"claims and more", func(g *mint.Grant) { g.ClaimsJSON = []byte(`{} {}`) }},
		{"claims not text", func(g *mint.Grant) { g.ClaimsJSON = []byte("{\"roles\":\"\xff\"}") }},
		{"huge claim", func(g *mint.Grant) { g.ClaimsJSON = fmt.Appendf(nil, `{"roles":"%s"}`, strings.Repeat("r", 1<<20)) }},
		{"huge acr", func(g *mint.Grant) { g.ClaimsJSON = fmt.Appendf(nil, `{"acr":"%s"}`, strings.Repeat("r", 1<<20)) }},
		{"huge scope", func(g *mint.Grant) { g.Scope = strings.Repeat("<", 1<<20) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := grant()
			row.spoil(&g)
			token, _, err := issuer(t, config(t)).Mint(g)
			if err == nil || token != "" || errors.Is(err, mint.ErrExpired) {
				t.Errorf("minted %v, error %v", token != "", err)
			}
			if err != nil && len(err.Error()) > 200 {
				t.Error("the error quotes the grant")
			}
		})
	}
}

// The largest token that is minted is one that can be read.
func TestLargest(t *testing.T) {
	for _, alg := range algorithms {
		i := issuer(t, config(t, alg))
		largest, g := "", grant()
		for size := 9 << 10; ; size += 40 {
			g.ClaimsJSON = fmt.Appendf(nil, `{"roles":"%s"}`, strings.Repeat("r", size))
			token, _, err := i.Mint(g)
			if err != nil {
				if !strings.Contains(err.Error(), `"roles"`) {
					t.Errorf("the error doesn't name the claim: %v", err)
				}
				break
			}
			largest = string(token)
		}
		if _, err := i.Verify(largest); err != nil || len(largest) < 12<<10 || len(largest) > 16<<10 {
			t.Errorf("%s: %d bytes, %v", alg, len(largest), err)
		}
	}
}

// Whatever the provider says, the protocol's claims are ours.
func TestClaimsDoNotOverride(t *testing.T) {
	g := grant()
	g.ClaimsJSON = []byte(`{"iss":"https://evil.example","sub":"root","aud":"*","exp":99999999999,"nbf":1,"iat":1,"jti":"x","sid":"x",
		"client_id":"evil","scope":"admin","auth_time":1,"cnf":{"jkt":"x"},"azp":"evil","nonce":"n","ISS":"x","Sub":"x","email":"a@example",
		"roles":"</script>\u2028\"},\"sub\":\"root","tenant":null,"acr":7,"amr":["pwd",null]}`)
	i := issuer(t, config(t))
	token := issue(t, i, g)
	_, got := parts(t, token)
	_, plain := parts(t, issue(t, i, mint.Grant{SID: g.SID, Subject: g.Subject, Issuer: g.Issuer, Scope: g.Scope, AuthTime: g.AuthTime, NotAfter: g.NotAfter}))
	want := with(with(plain, "jti", got["jti"]), "roles", "</script>\u2028\"},\"sub\":\"root")
	if !reflect.DeepEqual(got, want) {
		t.Errorf("claims %v\nwant   %v", got, want)
	}
	if _, err := i.Verify(token); err != nil {
		t.Error(err)
	}
}

func TestPairwise(t *testing.T) {
	sub := func(change func(*mint.Config, *mint.Grant)) string {
		cfg, g := config(t), grant()
		change(&cfg, &g)
		_, claims := parts(t, issue(t, issuer(t, cfg), g))
		return claims["sub"].(string)
	}
	same := func(*mint.Config, *mint.Grant) {}
	want := sub(same)
	for _, row := range []struct {
		name   string
		change func(*mint.Config, *mint.Grant)
		same   bool
	}{
		{"again", same, true},
		{"another session", func(_ *mint.Config, g *mint.Grant) { g.SID[0]++ }, true},
		{"another signing key", func(c *mint.Config, _ *mint.Grant) { c.Keys = signingKeys(t, mint.EdDSA) }, true},
		{"another app's origin", func(c *mint.Config, _ *mint.Grant) { c.Issuer = "https://shop2.example" }, true},
		{"another audience", func(c *mint.Config, _ *mint.Grant) { c.Audience = []string{stock, api} }, false},
		{"another provider", func(_ *mint.Config, g *mint.Grant) { g.Issuer = "https://id2.example" }, false},
		{"another user", func(_ *mint.Config, g *mint.Grant) { g.Subject = "bob" }, false},
		{"another key", func(c *mint.Config, _ *mint.Grant) { c.PairwiseKey += "x" }, false},
		{"parts joined otherwise", func(_ *mint.Config, g *mint.Grant) { g.Issuer, g.Subject = idp+"a", "lice" }, false},
		{"provider's", func(c *mint.Config, _ *mint.Grant) { c.Subject = mint.Provider }, false},
	} {
		got := sub(row.change)
		if (got == want) != row.same {
			t.Errorf("%s: same is %v", row.name, got == want)
		}
		if (got == "alice") != (row.name == "provider's") {
			t.Errorf("%s: sub %q", row.name, got)
		}
	}
}

func TestSID(t *testing.T) {
	claim := func(cfg mint.Config, g mint.Grant) (string, string) {
		token := issue(t, issuer(t, cfg), g)
		_, claims := parts(t, token)
		return claims["sid"].(string), token
	}
	cfg := config(t)
	here, token := claim(cfg, grant())

	other := config(t)
	other.Audience = []string{stock, api}
	there, _ := claim(other, grant())
	if here == there {
		t.Error("two audiences see one sid")
	}
	g := grant()
	g.SID[15]++
	if next, _ := claim(cfg, g); next == here {
		t.Error("two sessions have one sid")
	}

	// The other gateway has the same audiences in another order, a new key in
	// front and the old one behind.
	other.SIDKeys = sidKeys("next", "now")
	c, err := issuer(t, other).Verify(token)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.SIDs) != 2 || c.SIDs[1] != grant().SID || c.SIDs[0] == grant().SID {
		t.Errorf("sids %x", c.SIDs)
	}
	other.SIDKeys = sidKeys("next")
	if c, err = issuer(t, other).Verify(token); err != nil || len(c.SIDs) != 1 || c.SIDs[0] == grant().SID {
		t.Errorf("without the key: sids %x, %v", c.SIDs, err)
	}
}

// Nothing that is printed on the way shows a secret.
func TestRedacted(t *testing.T) {
	for _, alg := range algorithms {
		cfg := config(t, alg)
		i := issuer(t, cfg)
		token, _, err := i.Mint(grant())
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		log := slog.New(slog.NewJSONHandler(&out, nil))
		held := struct {
			key    mint.SigningKey // past every method
			issuer *mint.Issuer
		}{cfg.Keys[0], i}
		for _, v := range []any{cfg.Keys[0], &cfg.Keys[0], cfg.Keys, token, cfg.PairwiseKey, i, *i, held} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
				// Wrong verbs are for vet to find.
				if verb == "%d" && reflect.TypeOf(v).Kind() == reflect.String || v == any(held) && verb[len(verb)-1] != 'v' {
					continue
				}
				fmt.Fprintf(&out, verb+"\n", v)
			}
			log.Info("x", "v", v)
		}
		cfg.SIDKeys, cfg.Now = nil, nil
		fmt.Fprintf(&out, "%v %+v\n", cfg, cfg)
		for name, secret := range map[string]string{"token": string(token), "pairwise key": "pairwisepair", "its hex": "706169727769736570"} {
			if strings.Contains(out.String(), secret) {
				t.Errorf("%s: the %s is shown", alg, name)
			}
		}
		for _, form := range privateForms(t, alg) {
			if strings.Contains(out.String(), form) {
				t.Errorf("%s: the private key is shown", alg)
			}
		}
	}
	if _, ok := any(&ecdsa.PrivateKey{}).(fmt.Stringer); ok {
		t.Error("the test's premise is gone")
	}
}

func BenchmarkMint(b *testing.B) {
	for _, alg := range algorithms {
		i, g := issuer(b, config(b, alg)), grant()
		b.Run(alg, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := i.Mint(g); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, alg := range algorithms {
		i := issuer(b, config(b, alg))
		token := issue(b, i, grant())
		b.Run(alg, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := i.Verify(token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
