package faults

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// certify starts npm's oidc-provider behind the world's provider link, in the
// place of the strict provider, and returns what gateways know of it. What is
// judged is then decided from what it says itself.
func (w *World) certify() rig.Registration {
	w.T.Helper()
	w.Certified = rig.NewCertified(w.T, rig.Origin, w.Setup.Provider.AccessLife, "ISSUER=http://"+w.ProviderLink.Addr(), "AUTO_LOGIN=1")
	w.ProviderLink.To(w.Certified.Addr())
	return w.Certified.Registration()
}

// authorize goes to a provider's authorization endpoint as a browser of its own
// does, and returns where the provider sends it in the end.
func (w *World) authorize(ctx context.Context, location string) (back *url.URL, err error) {
	jar := map[string]string{}
	for range 5 {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, location, nil)
		if err != nil {
			return nil, err
		}
		for name, value := range jar {
			r.AddCookie(&http.Cookie{Name: name, Value: value})
		}
		resp, err := w.client.Do(r)
		if err != nil {
			return nil, err
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
		resp.Body.Close()
		for _, c := range resp.Cookies() {
			if jar[c.Name] = c.Value; c.MaxAge < 0 || c.Value == "" {
				delete(jar, c.Name)
			}
		}
		to, err := resp.Location()
		if err != nil {
			return nil, fmt.Errorf("the provider answers %d", resp.StatusCode)
		}
		if to.Host != r.URL.Host {
			return to, nil
		}
		location = to.String()
	}
	return nil, fmt.Errorf("the provider leads to %.100s and not back", location)
}

// ledger is what the world's provider has written down. No token is in it, but
// all of them will be looked for where none may be.
func (w *World) ledger() []gatewaytest.Entry {
	if w.Certified == nil {
		return w.Provider.Ledger()
	}
	ledger, secrets := entries(w.Certified.Events())
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, token := range secrets {
		w.tickets[token] = struct{}{}
	}
	return ledger
}

// reused is oidc-provider's own word for a refresh token that was spent before.
const reused = "refresh token already used"

// entries are oidc-provider's events in the words of the strict provider's
// ledger, and all codes and refresh tokens in them.
func entries(events []rig.Event) (ledger []gatewaytest.Entry, secrets []string) {
	names, families, consumed := map[string]string{}, map[string]string{}, map[string]bool{}
	name := func(kind, token string) string {
		if token == "" {
			return ""
		}
		if names[token] == "" {
			names[token] = fmt.Sprintf("%s-%d", kind, len(names)+1)
			secrets = append(secrets, token)
		}
		return names[token]
	}
	for _, e := range events {
		kind := gatewaytest.KindRefresh
		if e.GrantType == "authorization_code" {
			kind = gatewaytest.KindCode
		}
		entry := gatewaytest.Entry{
			N: len(ledger) + 1, Request: len(ledger) + 1, At: time.UnixMicro(int64(e.At * 1000)), Family: e.Family, Subject: e.Subject,
			Client: "cloakroom-test", Endpoint: gatewaytest.EndpointToken, Kind: kind,
		}
		switch e.Event {
		case "refresh_token.saved", "authorization_code.consumed":
			families[e.Presented] = e.Family
			continue
		case "refresh_token.consumed":
			consumed[e.Presented] = true
			continue
		case "grant.success", "grant.error":
			entry.Token = name(string(kind[0])+"t", e.Presented)
			if entry.Family == "" {
				entry.Family = families[e.Presented]
			}
			switch {
			case e.Event == "grant.success":
				entry.Outcome = gatewaytest.Redeemed
			case e.Detail == reused || strings.Contains(e.Detail, "already consumed"):
				entry.Outcome = gatewaytest.Reuse
			case e.Error == "invalid_grant":
				entry.Outcome = gatewaytest.Rejected
			case consumed[e.Presented]: // spent, and then its own trouble
				entry.Outcome = gatewaytest.Dropped
			default:
				entry.Outcome = gatewaytest.Unspent
			}
		case "grant.revoked":
			entry.Outcome = gatewaytest.Revoked
			if e.Route != "token" {
				entry.Endpoint = gatewaytest.EndpointRevoke
			}
		default:
			continue
		}
		ledger = append(ledger, entry)
		if e.Event == "grant.success" && e.Issued != "" {
			entry.N, entry.Parent, entry.Token = len(ledger)+1, entry.Token, name("rt", e.Issued)
			entry.Kind, entry.Outcome = gatewaytest.KindRefresh, gatewaytest.Issued
			ledger = append(ledger, entry)
		}
	}
	return ledger, secrets
}

// family is what a ledger says of one login's tokens.
type family struct {
	live   string        // the refresh token that works; "": none
	reused time.Duration // when one was presented that had been spent, 0: never
	killed bool          // the provider revoked all of it, for that
	again  bool          // the same, for a code that was shown twice
	back   bool          // a gateway handed it back
}

// secondJudge decides once more, from a ledger that isn't ours, what becomes of
// refresh tokens: that no family was revoked for a reuse which nobody made (I6),
// and that who is in has a token that works (I3). That none is presented twice
// (I2) the checker decides from the same ledger.
func secondJudge(_ *World, h *History, r *Result) {
	families := map[string]*family{}
	count := map[gatewaytest.Outcome]int{}
	for _, e := range h.Ledger {
		f := families[e.Family]
		if f == nil {
			f = &family{}
			families[e.Family] = f
		}
		if e.Kind == gatewaytest.KindRefresh {
			count[e.Outcome]++
		}
		switch e.Outcome {
		case gatewaytest.Issued:
			f.live = e.Token
		case gatewaytest.Redeemed, gatewaytest.Dropped:
			f.live = ""
		case gatewaytest.Reuse:
			if e.Kind == gatewaytest.KindRefresh {
				f.reused = h.at(e.At)
			}
		case gatewaytest.Revoked:
			f.live = ""
			switch {
			case e.Endpoint == gatewaytest.EndpointRevoke:
				f.back = true
			case e.Kind == gatewaytest.KindCode: // by a browser that was cut off; the checker judges that
				f.again = true
			default:
				f.killed = true
			}
		}
	}
	sessions := map[string]*Session{}
	for i := range h.Sessions {
		if s := &h.Sessions[i]; s.Family != "" {
			sessions[s.Family] = s
		}
	}
	said := map[string]time.Duration{} // by sid, when a token was last presented once more on purpose
	for _, l := range h.Lines {
		if l.Message == sayOnceMore {
			said[l.SID] = max(said[l.SID], l.At)
		}
	}
	alive, known, excused, again := 0, 0, 0, 0
	for _, name := range slices.Sorted(maps.Keys(families)) {
		f, s := families[name], sessions[name]
		if f.again {
			again++
		}
		switch {
		case f.killed && s != nil && said[s.SID] != 0 && said[s.SID] <= f.reused:
			// The one case that the row's allowance covers: the answer was lost.
			excused++
		case f.killed:
			r.FalseEnds++
			r.Violate("I6", "the provider revoked %s for a reuse at %v, and nobody had made one", name, f.reused.Round(time.Millisecond))
		}
		if s == nil {
			continue // a login whose answer was lost
		}
		known++
		if f.live != "" {
			alive++
		}
		switch {
		case s.Ending != 0:
		case f.back && s.Final == http.StatusOK:
			r.Violate("I3", "session %s (%s) is served, and its tokens were handed back", s.ID, s.SID)
		case f.live == "" && s.Final == http.StatusOK:
			r.Violate("I3", "session %s (%s) is served, and no refresh token of %s works", s.ID, s.SID, name)
		case f.live != "" && s.Final == http.StatusUnauthorized:
			r.Violate("I3", "session %s (%s) was lost, and %s still works", s.ID, s.SID, f.live)
		}
	}
	r.Figure("second judge: refreshes", float64(count[gatewaytest.Redeemed]))
	r.Figure("second judge: refused", float64(count[gatewaytest.Rejected]))
	r.Figure("second judge: reuses", float64(count[gatewaytest.Reuse]))
	r.Figure("second judge: of them after a lost answer, audited", float64(excused))
	r.Figure("second judge: codes shown twice by browsers that were cut off", float64(again))
	r.Figure("second judge: sessions it knows", float64(known))
	r.Figure("second judge: of them with a live token", float64(alive))
	if count[gatewaytest.Redeemed] == 0 {
		r.Violate("rig", "oidc-provider has seen no refresh")
	}
}
