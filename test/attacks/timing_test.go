package attacks

import (
	"bufio"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// BenchmarkT01 compares how long refusals take that must not be told apart: b.N
// rounds over one connection, each asking once for each of them, in an order drawn
// anew. Of each it reports its median over that of its group's first, and the
// probability that it takes longer than that one (Mann and Whitney's U over all
// pairs: 0.5 means that they can't be told apart).
//
// What costs nothing ("forged") and what asks Redis ("genuine": sealed by us, and
// so once ours) are two groups: that a cookie was ours once, who holds it knows.
// The third is the local key of a split session, beside a ticket that is good.
func BenchmarkT01(b *testing.B) {
	_, reg := rig.Strict(b, rig.Origin, gatewaytest.Options{AccessLife: time.Hour})
	w := rig.New(b, rig.Setup{Provider: reg, Change: func(c rig.Config) {
		c.Set("apps.0.session.binding", "split_key")
		c.Set("log.level", "info")
	}})
	login := func(user string) (cookie string, browser *rig.Browser) {
		browser = w.NewBrowser()
		browser.Login(user)
		return browser.Cookie(), browser
	}
	local := func(browser *rig.Browser) string {
		var answer struct {
			LocalKey string `json:"local_key"`
		}
		r := browser.Fetch(http.MethodPost, "/bff/token")
		r.JSON(b, &answer)
		w.Secret("a local key", answer.LocalKey)
		return answer.LocalKey
	}
	alive, browser := login("alice")
	key := local(browser)
	alive = browser.Cookie()
	ended, over := login("bob")
	if r := over.Fetch(http.MethodPost, "/bff/logout"); r.Status != http.StatusOK {
		b.Fatalf("logout: %s", r)
	}
	forgotten, _ := login("carol")
	unknown, _ := login("dave")
	for _, k := range strings.Fields(w.Redis.CLI("KEYS", "*{*")) {
		if strings.Contains(k, sidOf(b, w, forgotten)) || strings.Contains(k, sidOf(b, w, unknown)) {
			w.Redis.CLI("DEL", k)
		}
	}
	flip := func(s string, i int) string {
		c := byte('A')
		if s[i] == c {
			c = 'B'
		}
		return s[:i] + string(c) + s[i+1:]
	}
	request := func(method, path, cookie string, more ...string) string {
		return method + " " + path + " HTTP/1.1\r\nHost: app.test\r\n" + fetched + "Cookie: " + rig.SessionCookie + "=" + cookie + "\r\n" + strings.Join(more, "") + "\r\n"
	}
	type kind struct {
		group, name, text string
		status            int
		took              []float64
	}
	session := func(group, name, cookie string) *kind {
		return &kind{group: group, name: name, text: request("GET", "/bff/session", cookie), status: http.StatusUnauthorized}
	}
	token := func(name, key string) *kind {
		return &kind{group: "local", name: name, text: request("POST", "/bff/token", alive, "X-BFF-Local-Key: "+key+"\r\nContent-Length: 0\r\n"), status: http.StatusUnauthorized}
	}
	kinds := []*kind{
		session("forged", "made up", strings.Repeat("Q", len(alive))),
		session("forged", "a live one's first byte", flip(alive, 0)), session("forged", "a live one's middle", flip(alive, len(alive)/2)), session("forged", "a live one's MAC", flip(alive, len(alive)-5)),
		session("forged", "an ended one's MAC", flip(ended, len(ended)-5)),
		session("genuine", "unknown", unknown), session("genuine", "another unknown", forgotten), session("genuine", "ended", ended),
		token("made up", strings.Repeat("Q", 43)), token("wrong first", flip(key, 0)), token("wrong last", flip(key, 41)),
	}

	conn, err := net.Dial("tcp", w.Gateways[0].Public)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	ask := func(k *kind) float64 {
		start := time.Now()
		if _, err := io.WriteString(conn, k.text); err != nil {
			b.Fatal(err)
		}
		if _, err := in.Peek(1); err != nil {
			b.Fatal(err)
		}
		took := time.Since(start)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != k.status {
			b.Fatalf("%s, %s: %d", k.group, k.name, resp.StatusCode)
		}
		return float64(took.Nanoseconds())
	}
	for range 50 {
		for _, k := range kinds {
			ask(k)
		}
	}
	for b.Loop() {
		for _, i := range rand.Perm(len(kinds)) {
			kinds[i].took = append(kinds[i].took, ask(kinds[i]))
		}
	}
	first := map[string]*kind{}
	for _, k := range kinds {
		base := first[k.group]
		if base == nil {
			first[k.group] = k
			b.Logf("%s: %s: median %.1f µs", k.group, k.name, median(k.took)/1000)
			continue
		}
		ratio, later := median(k.took)/median(base.took), longer(k.took, base.took)
		unit := k.group + "/" + strings.ReplaceAll(k.name, " ", "-")
		b.ReportMetric(ratio, unit+":ratio")
		b.ReportMetric(later, unit+":longer")
	}
}

// sidOf is the public name of a cookie's session.
func sidOf(b *testing.B, w *rig.World, cookie string) string {
	b.Helper()
	browser := w.NewBrowser()
	browser.SetCookie(cookie)
	var answer struct{ SID string }
	browser.Fetch(http.MethodGet, "/bff/session").JSON(b, &answer)
	return answer.SID
}

func median(all []float64) float64 {
	s := slices.Sorted(slices.Values(all))
	return s[len(s)/2]
}

// longer is the probability that one of a is more than one of b, ties counted half.
func longer(a, b []float64) float64 {
	b = slices.Sorted(slices.Values(b))
	sum := 0.0
	for _, v := range a {
		low := sort.SearchFloat64s(b, v)
		high := low + sort.Search(len(b)-low, func(i int) bool { return b[low+i] > v })
		sum += float64(low) + float64(high-low)/2
	}
	return sum / float64(len(a)) / float64(len(b))
}
