package gatewaytest

import (
	"fmt"
	"slices"
	"time"
)

// Kind is what a ledger entry is about.
type Kind string

const (
	KindCode    Kind = "code"
	KindRefresh Kind = "refresh token"
)

// Outcome is what became of a code or refresh token.
type Outcome string

const (
	Issued   Outcome = "issued"
	Redeemed Outcome = "redeemed" // presented for the first time, and spent where it rotates
	Repeated Outcome = "repeated" // presented again and accepted: it does not rotate, or within the reuse interval
	Reuse    Outcome = "reuse"    // presented again after it was spent: the family is revoked
	Rejected Outcome = "rejected" // presented and refused: unknown, expired, revoked, another client's, wrong verifier
	Unspent  Outcome = "unspent"  // presented, but a failure answered before it was spent
	Dropped  Outcome = "dropped"  // beside redeemed: the answer was lost on the way
	Revoked  Outcome = "revoked"  // it will not work any more
)

// Entry is a line of the ledger.
type Entry struct {
	N        int       // its place, from 1
	Request  int       // the request that caused it (Request.N); 0: the test itself
	At       time.Time // by the provider's clock
	Endpoint Endpoint
	Kind     Kind
	Token    string // the token's name; "" if it was never issued here
	Parent   string // of an issued token: the one it was issued for
	Family   string // all tokens of one login
	Subject  string
	Client   string
	Outcome  Outcome
}

func (e Entry) String() string {
	return fmt.Sprintf("%d: request %d %s: %s %s (from %s, %s, %s): %s",
		e.N, e.Request, e.Endpoint, e.Kind, e.Token, e.Parent, e.Family, e.Subject, e.Outcome)
}

// Ledger is all of it so far, in order.
func (p *Provider) Ledger() []Entry { return p.entries(func(Entry) bool { return true }) }

// Redemptions are the times a refresh token of this subject ("": of anybody)
// was accepted.
func (p *Provider) Redemptions(subject string) []Entry {
	return p.entries(func(e Entry) bool {
		return e.Kind == KindRefresh && (e.Outcome == Redeemed || e.Outcome == Repeated) &&
			(subject == "" || e.Subject == subject)
	})
}

// Presentations are the times a code or refresh token, given as itself or by
// its name in the ledger, was shown at the token endpoint, with what came of it.
func (p *Provider) Presentations(token string) []Entry {
	name := p.name(token)
	return p.entries(func(e Entry) bool {
		return e.Token == name && name != "" && e.Endpoint == EndpointToken &&
			slices.Contains([]Outcome{Redeemed, Repeated, Reuse, Rejected, Unspent}, e.Outcome)
	})
}

// Reuses are the presentations of spent codes and refresh tokens. In a test
// without a thief there are none.
func (p *Provider) Reuses() []Entry {
	return p.entries(func(e Entry) bool { return e.Outcome == Reuse })
}

// FamilyOf names the family of a code or refresh token, given as itself or by
// its name in the ledger; "" if there is none.
func (p *Provider) FamilyOf(token string) string {
	name := p.name(token)
	for _, e := range slices.Backward(p.Ledger()) {
		if name != "" && e.Token == name && e.Family != "" {
			return e.Family
		}
	}
	return ""
}

// Live lists the refresh tokens of a subject ("": of anybody) that still work, by name.
func (p *Provider) Live(subject string) []string {
	now := p.options().Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for _, t := range p.refresh {
		if t.usable(now) && (subject == "" || t.family.user.Subject == subject) {
			names = append(names, t.name)
		}
	}
	slices.Sort(names)
	return names
}

// RevokeSubject makes every refresh token of a subject worthless, as when an
// account is closed or its password changed.
func (p *Provider) RevokeSubject(subject string) {
	now := p.options().Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.families {
		if f.user.Subject == subject {
			p.revokeFamily(f, Request{}, now)
		}
	}
}

func (p *Provider) entries(keep func(Entry) bool) []Entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []Entry
	for _, e := range p.ledger {
		if keep(e) {
			found = append(found, e)
		}
	}
	return found
}

func (p *Provider) name(token string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.refresh[token]; t != nil {
		return t.name
	}
	if c := p.codes[token]; c != nil {
		return c.name
	}
	return token
}

// write appends an entry; p.mu is held.
func (p *Provider) write(e Entry) {
	e.N = len(p.ledger) + 1
	p.ledger = append(p.ledger, e)
}

// note enters an outcome for the token that a request presented, if it did.
func (x *exchange) note(o Outcome) {
	if x.kind == "" {
		return
	}
	x.p.mu.Lock()
	defer x.p.mu.Unlock()
	x.noteLocked(o)
}

// noteLocked is note with p.mu held.
func (x *exchange) noteLocked(o Outcome) {
	e := Entry{Request: x.N, At: x.opts.Now(), Endpoint: x.Endpoint, Kind: x.kind, Token: x.Token,
		Subject: x.Subject, Client: x.Client, Outcome: o}
	for _, old := range slices.Backward(x.p.ledger) {
		if e.Token != "" && old.Token == e.Token {
			e.Family = old.Family
			break
		}
	}
	x.p.write(e)
}
