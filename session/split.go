package session

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/cloakroom/cloakroom/session/store"
)

// LocalKey is the half of a split session's key that the page keeps, in storage
// that outlives the tab. With the ticket it opens the refresh token; alone it
// opens nothing. It prints as "[redacted]".
type LocalKey [32]byte

func newLocalKey() (l LocalKey) {
	rand.Read(l[:])
	return l
}

// ParseLocalKey accepts exactly what [LocalKey.Encode] produces.
func ParseLocalKey(s string) (LocalKey, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(LocalKey{}) || len(s) != 43 {
		return LocalKey{}, errors.New("session: malformed local key")
	}
	return LocalKey(b), nil
}

// Encode reveals the key, in unpadded base64url.
func (l LocalKey) Encode() string { return base64.RawURLEncoding.EncodeToString(l[:]) }

func (LocalKey) String() string               { return redacted }
func (LocalKey) Format(f fmt.State, _ rune)   { io.WriteString(f, redacted) }
func (LocalKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (LocalKey) LogValue() slog.Value         { return slog.StringValue(redacted) }

// ErrLocalKey means that a split session's ticket came without the local key
// that goes with it: the person has to log in. Nothing has ended.
var ErrLocalKey = errors.New("session: local key required")

// ErrTokenExpired means that the access token has run out, and that this request
// can get no other: it was not to ([Need].NoRefresh), or the session is split and
// it had no local key.
var ErrTokenExpired = errors.New("session: access token expired")

// A split session's record has a second box, which holds the refresh token and
// opens with ticket and local key together, and a salted hash of the pair.
//
// The two halves travel apart, the ticket in a header and the local key in a
// body, so each is confirmed by its own presentation. Until the local key has
// been shown, it is kept wrapped: for who shows the ticket with the local key
// before it, or, the first one, for who shows the ticket alone.
const (
	bodyRefreshBox = 3
	bodyPair       = 6 // salt 16, SHA-256(salt ‖ SHA-256(secret ‖ local key))
	bodyWrapped    = 7 // the local key, wrapped for who holds what was shown
	bodyWrappedToo = 8 // likewise, for who holds what was current

	labelLocal     = "cloakroom/1 local"
	labelSealSplit = "cloakroom/1 seal split"
)

// split is a split session's state as one request sees it.
type split struct {
	local     LocalKey  // the current one; valid if open
	open      bool      // the request showed what opens the refresh box
	shown     *LocalKey // what it showed; nil: nothing
	handOut   bool      // the page has to be told local
	confirmed bool      // local has been shown
	// held is what pages may hold that have not been told local; nil: nothing.
	held []*LocalKey
}

// pairKey is what both halves together derive.
func pairKey(key ServerKey, app string, t Ticket, local *LocalKey, label string) []byte {
	ikm := []byte{}
	if local != nil {
		ikm = local[:]
	}
	b, err := hkdf.Extract(sha256.New, ikm, prk(key, t.Secret))
	if err != nil {
		panic("session: internal error: " + err.Error()) // unreachable
	}
	return expand(b, label, string(scope(app, t.SID, t.Generation)), 32)
}

func pairHash(salt []byte, t Ticket, local LocalKey) []byte {
	inner := sha256.Sum256(append(t.Secret[:], local[:]...))
	outer := sha256.Sum256(append(salt[:len(salt):len(salt)], inner[:]...))
	return outer[:]
}

// packSplit seals the refresh token under both halves into body, and wraps the
// local key for those who may still hold another.
func (r *Keyring) packSplit(app string, t Ticket, refresh RefreshToken, s *split, body *sections) {
	key, id := r.first()
	data := boxData(app, t, id)
	var box sections
	box.set(boxRefresh, []byte(refresh))
	body.set(bodyRefreshBox, seal(pairKey(key, app, t, &s.local, labelSealSplit), box.marshal(), data))
	salt := make([]byte, 16)
	rand.Read(salt)
	body.set(bodyPair, append(salt, pairHash(salt, t, s.local)...))
	for i, kind := range []byte{bodyWrapped, bodyWrappedToo} {
		body.set(kind, nil)
		if !s.confirmed && i < len(s.held) {
			body.set(kind, seal(pairKey(key, app, t, s.held[i], labelLocal), s.local[:], data))
		}
	}
}

// openSplit finds the local key from what the request showed and opens the
// refresh box. It returns ErrLocalKey if that is not the right one.
func (r *Keyring) openSplit(app string, t Ticket, record *store.Record, body sections, shown *LocalKey) (*split, RefreshToken, error) {
	key, ok := r.find(record.Key)
	if !ok {
		return nil, "", errSealed
	}
	data := boxData(app, t, record.Key)
	s := &split{shown: shown, confirmed: record.LocalConfirmed}
	pair := body.get(bodyPair)
	if shown != nil && len(pair) == 48 && subtle.ConstantTimeCompare(pair[16:], pairHash(pair[:16], t, *shown)) == 1 {
		s.local, s.open = *shown, true
	} else if !s.confirmed {
		for _, kind := range []byte{bodyWrapped, bodyWrappedToo} {
			if plain, err := unseal(pairKey(key, app, t, shown, labelLocal), body.get(kind), data); err == nil && len(plain) == 32 {
				s.local, s.open, s.handOut = LocalKey(plain), true, true
				s.held = []*LocalKey{shown}
				break
			}
		}
	}
	if !s.open {
		return nil, "", ErrLocalKey
	}
	plain, err := unseal(pairKey(key, app, t, &s.local, labelSealSplit), body.get(bodyRefreshBox), data)
	if err != nil {
		return nil, "", err
	}
	box, err := parseSections(plain)
	if err != nil {
		return nil, "", err
	}
	return s, RefreshToken(box.text(boxRefresh)), nil
}

// unlock opens a split session's refresh token with what the request showed, and
// confirms the local key if it was that.
func (k *Keeper) unlock(ctx context.Context, app *App, v *view, shown *LocalKey) error {
	body, err := parseSections(v.record.Body)
	if err != nil {
		return k.alarm(app, v.SID, "box")
	}
	s, refresh, err := k.keys.Load().openSplit(app.Name, v.ticket, &v.record, body, shown)
	if errors.Is(err, ErrLocalKey) {
		return err
	}
	if err != nil {
		return k.alarm(app, v.SID, "refresh_box")
	}
	if !s.handOut && !s.confirmed {
		answer, err := k.store.ConfirmLocal(ctx, v.SID, v.version)
		if err != nil {
			return k.unavailable(ctx, err)
		}
		s.confirmed = answer.Result == store.OK
	}
	opened := *v.Session
	opened.Tokens.Refresh = refresh
	v.Session, v.split = &opened, s
	return nil
}

// succeed is the split state under the next ticket: another local key, that the
// page has to be told. Of two tabs, one may hold what was shown here and one what
// was current.
func (s *split) succeed() *split {
	held := []*LocalKey{s.shown}
	if s.shown == nil || *s.shown != s.local {
		held = append(held, &s.local)
	}
	return &split{local: newLocalKey(), open: true, shown: s.shown, handOut: true, held: held}
}
