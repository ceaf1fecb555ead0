package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/cloakroom/cloakroom/session/store"
)

// The labels of everything derived from a ticket's secret or a server key.
// docs/sessions.md has test vectors.
const (
	labelSeal      = "cloakroom/1 seal"
	labelSuccessor = "cloakroom/1 successor"
	labelSalt      = "cloakroom/1 salt"
	labelLabel     = "cloakroom/1 label"
	labelApp       = "cloakroom/1 app"
)

const nonceSize = 12

var errSealed = errors.New("session: sealed data does not open")

// appID stands for an app's name in a record's header.
func appID(app string) [8]byte {
	sum := sha256.Sum256([]byte(labelApp + "\x00" + app))
	return [8]byte(sum[:])
}

// prk is HKDF-Extract(salt: server key, ikm: secret). It takes both to know it:
// to who lacks the ticket it is an extraction from 256 random bits, to who lacks
// the server key it is a PRF.
func prk(key ServerKey, secret Secret) []byte {
	b, err := hkdf.Extract(sha256.New, secret[:], key[:])
	if err != nil {
		panic("session: internal error: " + err.Error()) // unreachable
	}
	return b
}

// scope is app ‖ sid ‖ generation, unambiguously.
func scope(app string, sid SID, generation uint64) []byte {
	b := make([]byte, 0, 1+len(app)+len(sid)+8)
	b = append(b, byte(len(app)))
	b = append(b, app...)
	b = append(b, sid[:]...)
	return binary.BigEndian.AppendUint64(b, generation)
}

// sealKey is the key of the box of a ticket.
func sealKey(key ServerKey, app string, t Ticket) []byte {
	return expand(prk(key, t.Secret), labelSeal, string(scope(app, t.SID, t.Generation)), 32)
}

// salt is what, with a ticket and a server key, leads to the ticket's successor.
type salt [32]byte

func newSalt() (s salt) {
	rand.Read(s[:])
	return s
}

// succeed derives the secret of a ticket's successor.
func succeed(key ServerKey, app string, t Ticket, s salt) Secret {
	context := append(scope(app, t.SID, t.Generation), s[:]...)
	return Secret(expand(prk(key, t.Secret), labelSuccessor, string(context), 32))
}

// seal encrypts with AES-256-GCM under a random nonce, which leads the result.
func seal(key, plain, data []byte) []byte {
	out := make([]byte, nonceSize, nonceSize+len(plain)+16)
	rand.Read(out)
	return aead(key).Seal(out, out, plain, data)
}

func unseal(key, sealed, data []byte) ([]byte, error) {
	if len(sealed) < nonceSize {
		return nil, errSealed
	}
	plain, err := aead(key).Open(nil, sealed[:nonceSize], sealed[nonceSize:], data)
	if err != nil {
		return nil, errSealed
	}
	return plain, nil
}

func aead(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("session: internal error: " + err.Error()) // unreachable: 32 bytes
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic("session: internal error: " + err.Error()) // unreachable
	}
	return gcm
}

// boxData is what a box is bound to. A box moved to another session, app,
// generation or key does not open.
func boxData(app string, t Ticket, key KeyID) []byte {
	b := append([]byte{store.Format}, scope(app, t.SID, t.Generation)...)
	return append(b, key[:]...)
}

// sealForServer seals under the first server key alone; the key's id leads.
func (r *Keyring) sealForServer(label, app string, plain, data []byte) []byte {
	key, id := r.first()
	return append(id[:], seal(expand(key[:], label, app, 32), plain, data)...)
}

func (r *Keyring) unsealForServer(label, app string, sealed, data []byte) ([]byte, error) {
	if len(sealed) < len(KeyID{}) {
		return nil, errSealed
	}
	key, ok := r.find(KeyID(sealed[:4]))
	if !ok {
		return nil, errSealed
	}
	return unseal(expand(key[:], label, app, 32), sealed[4:], data)
}

// saltData binds a predecessor's salt to the record's generation, so that an
// entry put back under a later record leads nowhere.
func saltData(app string, sid SID, own, record uint64) []byte {
	return binary.BigEndian.AppendUint64(scope(app, sid, own), record)
}

func (r *Keyring) sealSalt(app string, sid SID, own, record uint64, s salt) store.SealedSalt {
	return store.SealedSalt(r.sealForServer(labelSalt, app, s[:], saltData(app, sid, own, record)))
}

func (r *Keyring) unsealSalt(app string, sid SID, own, record uint64, sealed store.SealedSalt) (salt, error) {
	b, err := r.unsealForServer(labelSalt, app, sealed[:], saltData(app, sid, own, record))
	if err != nil || len(b) != len(salt{}) {
		return salt{}, errSealed
	}
	return salt(b), nil
}

// resalt seals the predecessors' salts anew for the next generation of the
// record. What they lead to stays.
func (r *Keyring) resalt(app string, sid SID, ps []store.Predecessor, from, to uint64) ([]store.Predecessor, error) {
	out := make([]store.Predecessor, len(ps))
	for i, p := range ps {
		s, err := r.unsealSalt(app, sid, p.Generation, from, p.Salt)
		if err != nil {
			return nil, err
		}
		p.Salt = r.sealSalt(app, sid, p.Generation, to, s)
		out[i] = p
	}
	return out, nil
}

// forward derives the record's current ticket from a predecessor's, along the
// predecessors on record. It believes nothing but the result: which must hash to
// the record's current hash.
func (r *Keyring) forward(app string, t Ticket, record *store.Record, ps []store.Predecessor) (Ticket, error) {
	for i, p := range ps {
		if p.Generation < t.Generation {
			continue
		}
		if p.Generation != t.Generation || p.Hash != t.Secret.Hash() {
			return Ticket{}, errSealed
		}
		key, ok := r.find(p.Key)
		if !ok {
			return Ticket{}, errSealed
		}
		s, err := r.unsealSalt(app, t.SID, p.Generation, record.Generation, p.Salt)
		if err != nil {
			return Ticket{}, err
		}
		next := Ticket{SID: t.SID, Generation: record.Generation, Secret: succeed(key, app, t, s)}
		if i+1 < len(ps) {
			next.Generation = ps[i+1].Generation
		}
		t = next
	}
	if t.Generation != record.Generation || t.Secret.Hash() != record.Hash {
		return Ticket{}, errSealed
	}
	return t, nil
}
