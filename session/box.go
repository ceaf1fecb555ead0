package session

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/cloakroom/cloakroom/session/store"
)

// Sections of a record's body; those of split sessions are in split.go. 4 (hashes
// of live bearers) and 5 (index references) are reserved.
const (
	bodyBox   = 1
	bodyLabel = 2
)

// Sections of a box. What is believed of a session is believed from here.
const (
	boxAccess          = 1
	boxTokenType       = 2
	boxScope           = 3
	boxIssuedAt        = 4
	boxTokenExpiresAt  = 5
	boxRefresh         = 6
	boxRefreshEnd      = 7
	boxID              = 8
	boxIssuer          = 9
	boxSubject         = 10
	boxProviderSession = 11
	boxAuthTime        = 12
	boxClaims          = 13
	boxCreatedAt       = 14
	boxExpiresAt       = 15
	boxGeneration      = 16
	boxRefreshKept     = 17 // the provider's last answer brought no new refresh token
	boxRemembered      = 18
)

// Sections of a label: what a list of sessions shows.
const (
	labelSubject  = 1
	labelAddress  = 2
	labelBrowser  = 3
	labelIssuedAt = 4
)

// fill writes the session's contents over b.
func (s *Session) fill(b *sections) {
	b.set(boxAccess, []byte(s.Tokens.Access))
	b.set(boxTokenType, []byte(s.Tokens.TokenType))
	b.set(boxScope, []byte(s.Tokens.Scope))
	b.setTime(boxIssuedAt, s.Tokens.IssuedAt)
	b.setTime(boxTokenExpiresAt, s.Tokens.ExpiresAt)
	b.set(boxRefresh, []byte(s.Tokens.Refresh))
	b.setTime(boxRefreshEnd, s.Tokens.RefreshExpiresAt)
	b.set(boxID, []byte(s.Tokens.ID))
	b.set(boxIssuer, []byte(s.Issuer))
	b.set(boxSubject, []byte(s.Subject))
	b.set(boxProviderSession, []byte(s.ProviderSession))
	b.setTime(boxAuthTime, s.AuthTime)
	b.set(boxClaims, s.Claims)
	b.setTime(boxCreatedAt, s.CreatedAt)
	b.setTime(boxExpiresAt, s.ExpiresAt)
	b.setNumber(boxGeneration, s.Generation)
	b.setFlag(boxRefreshKept, s.refreshKept)
	b.setFlag(boxRemembered, s.Remembered)
}

// readBox reads a session out of its box. The session shares nothing with b, which
// may be dropped.
func readBox(sid SID, b sections) *Session {
	s := &Session{SID: sid}
	size := 0
	for _, x := range b {
		if s.text(x.kind) != nil {
			size += len(x.data)
		}
	}
	// All its texts are parts of one: they live and die together.
	var texts strings.Builder
	texts.Grow(size)
	for _, x := range b {
		if text := s.text(x.kind); text != nil {
			from := texts.Len()
			texts.Write(x.data)
			*text = texts.String()[from:]
			continue
		}
		switch x.kind {
		case boxIssuedAt:
			s.Tokens.IssuedAt = x.time()
		case boxTokenExpiresAt:
			s.Tokens.ExpiresAt = x.time()
		case boxRefreshEnd:
			s.Tokens.RefreshExpiresAt = x.time()
		case boxAuthTime:
			s.AuthTime = x.time()
		case boxClaims:
			s.Claims = bytes.Clone(x.data)
		case boxCreatedAt:
			s.CreatedAt = x.time()
		case boxExpiresAt:
			s.ExpiresAt = x.time()
		case boxGeneration:
			s.Generation = x.number()
		case boxRefreshKept:
			s.refreshKept = x.number() == 1
		case boxRemembered:
			s.Remembered = x.number() == 1
		default:
			s.unknown = append(s.unknown, section{x.kind, bytes.Clone(x.data)})
		}
	}
	return s
}

// text is where a section of text goes; nil: it is none.
func (s *Session) text(kind byte) *string {
	switch kind {
	case boxAccess:
		return (*string)(&s.Tokens.Access)
	case boxTokenType:
		return &s.Tokens.TokenType
	case boxScope:
		return &s.Tokens.Scope
	case boxRefresh:
		return (*string)(&s.Tokens.Refresh)
	case boxID:
		return (*string)(&s.Tokens.ID)
	case boxIssuer:
		return &s.Issuer
	case boxSubject:
		return &s.Subject
	case boxProviderSession:
		return &s.ProviderSession
	}
	return nil
}

// pack seals s under the current ticket t into a copy of body: in one box, or the
// refresh token apart from the rest in a split session.
func (r *Keyring) pack(app string, t Ticket, s *Session, body sections, halves *split) []byte {
	key, id := r.first()
	box := append(sections(nil), s.unknown...)
	s.fill(&box)
	body = append(sections(nil), body...)
	if halves != nil {
		box.set(boxRefresh, nil)
		r.packSplit(app, t, s.Tokens.Refresh, halves, &body)
	}
	body.set(bodyBox, seal(sealKey(key, app, t), box.marshal(), boxData(app, t, id)))
	return body.marshal()
}

// unpack opens a record's box with its current ticket.
func (r *Keyring) unpack(app string, t Ticket, record *store.Record) (*Session, error) {
	sealed, err := findSection(record.Body, bodyBox)
	if err != nil {
		return nil, err
	}
	key, ok := r.find(record.Key)
	if !ok {
		return nil, errSealed
	}
	plain, err := unseal(sealKey(key, app, t), sealed, boxData(app, t, record.Key))
	if err != nil {
		return nil, err
	}
	var room [24]section
	box, err := appendSections(room[:0], plain)
	if err != nil {
		return nil, err
	}
	s := readBox(t.SID, box)
	if s.Generation != record.Generation || s.ExpiresAt.IsZero() {
		return nil, errSealed
	}
	return s, nil
}

// label is what a list of sessions shows, sealed under the server key alone: it
// opens without the ticket.
func (r *Keyring) label(app string, sid SID, l Login) []byte {
	var s sections
	s.set(labelSubject, []byte(l.Subject))
	s.set(labelAddress, []byte(l.Address))
	s.set(labelBrowser, []byte(clip(l.Browser, 256)))
	s.setTime(labelIssuedAt, l.IssuedAt)
	return r.sealForServer(labelLabel, app, s.marshal(), scope(app, sid, 0))
}

// clip cuts s to at most n bytes, between characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
