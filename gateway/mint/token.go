package mint

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/cloakroom/cloakroom/gateway/strictjson"
)

// Grant is the session that a token is made for.
type Grant struct {
	// SID is the session's public id. All zeros are refused.
	SID [16]byte
	// Subject and Issuer are the provider's: who the user is, and according to
	// whom.
	Subject, Issuer string
	// Scope is left out where it is empty.
	Scope string
	// ClaimsJSON is a JSON object, or nothing; of it the configured claims,
	// acr and amr are copied.
	ClaimsJSON []byte
	// AuthTime is when the user last proved who they are; zero: not known.
	AuthTime time.Time
	// NotAfter is the session's end, or how far the provider's last word on it
	// reaches. No token outlives it: zero means that nothing is minted.
	NotAfter time.Time
}

// payload are the claims of the protocol, in the order in which they are
// written.
type payload struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience string   `json:"aud"`
	ClientID string   `json:"client_id"`
	SID      string   `json:"sid"`
	ID       string   `json:"jti"`
	IssuedAt int64    `json:"iat"`
	Expires  int64    `json:"exp"`
	Scope    string   `json:"scope,omitempty"`
	AuthTime int64    `json:"auth_time,omitempty"`
	ACR      string   `json:"acr,omitempty"`
	AMR      []string `json:"amr,omitempty"`
}

// Mint makes a token for the first audience, and says how long it lives:
// Lifetime or until NotAfter, whichever is less, to the second, and never less
// than one. The error is ErrExpired where NotAfter leaves no such second; else
// the grant is unusable, or has more claims than fit a token.
func (i *Issuer) Mint(g Grant) (token AccessToken, expiresIn time.Duration, err error) {
	now := i.cfg.Now()
	exp := now.Add(i.cfg.Lifetime)
	if g.NotAfter.Before(exp) {
		exp = g.NotAfter
	}
	exp = time.Unix(exp.Unix(), 0)
	if expiresIn = exp.Sub(now); expiresIn < time.Second {
		return "", 0, fmt.Errorf("%w: the session's end has come", ErrExpired)
	}
	switch {
	case g.SID == [16]byte{}:
		return "", 0, errors.New("mint: the grant names no session")
	case g.Subject == "" || g.Issuer == "":
		return "", 0, errors.New("mint: the grant names no user")
	case !utf8.ValidString(g.Subject) || !utf8.ValidString(g.Issuer):
		// JSON would turn whatever isn't text into one and the same character.
		return "", 0, errors.New("mint: the grant's user is not text")
	}

	aud := i.cfg.Audience[0]
	var sid [16]byte
	i.sid[aud][0].Encrypt(sid[:], g.SID[:])
	var id [16]byte
	rand.Read(id[:])
	p := payload{
		Issuer: i.cfg.Issuer, Subject: i.subject(aud, g), Audience: aud, ClientID: i.cfg.ClientID,
		SID: encode(sid[:]), ID: encode(id[:]), IssuedAt: now.Unix(), Expires: exp.Unix(), Scope: g.Scope,
	}
	if !g.AuthTime.IsZero() {
		p.AuthTime = g.AuthTime.Unix()
	}
	claims, err := i.payload(p, g.ClaimsJSON)
	if err != nil {
		return "", 0, err
	}

	// The library would make the header anew each time; it signs only.
	k := i.cfg.Keys[0].k
	signed := make([]byte, 0, len(k.header)+len(claims)*3/2+512)
	signed = append(append(signed, k.header...), '.')
	signed = base64.RawURLEncoding.AppendEncode(signed, claims)
	signature, err := k.method.Sign(string(signed), k.private)
	if err != nil {
		return "", 0, fmt.Errorf("mint: signing: %v", err)
	}
	signed = base64.RawURLEncoding.AppendEncode(append(signed, '.'), signature)
	return AccessToken(signed), expiresIn, nil
}

// payload adds the session's claims to the protocol's.
func (i *Issuer) payload(p payload, claimsJSON []byte) ([]byte, error) {
	var o strictjson.Object
	if len(claimsJSON) > 0 {
		var err error
		if o, err = strictjson.Parse(claimsJSON); err != nil {
			return nil, errors.New("mint: the session's claims are " + err.Error())
		}
	}
	// Of another type they say nothing to anybody (RFC 9068 section 2.2.1).
	p.ACR, _ = o.String("acr")
	p.AMR, _ = o.Strings("amr")
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("mint: %v", err) // unreachable: strings and numbers
	}
	buf := bytes.NewBuffer(b[:len(b)-1]) // without the brace
	if buf.Len() >= maxClaims {
		return nil, fmt.Errorf("mint: the grant makes a token of more than %d bytes", maxClaims)
	}
	for _, c := range i.claims {
		if !o.Has(c.name) {
			continue
		}
		buf.WriteString(c.member)
		if err := json.Compact(buf, o[c.name]); err != nil {
			return nil, fmt.Errorf("mint: claim %q is not JSON", c.name) // unreachable: it was parsed
		}
		if buf.Len() >= maxClaims {
			return nil, fmt.Errorf("mint: claim %q makes the token's claims larger than %d bytes", c.name, maxClaims)
		}
	}
	buf.WriteByte('}')
	return buf.Bytes(), nil
}

// subject is the token's sub. The hash covers each part's length, so that no
// two triples read alike.
func (i *Issuer) subject(audience string, g Grant) string {
	if i.cfg.Subject == Provider {
		return g.Subject
	}
	h := hmac.New(sha256.New, []byte(i.cfg.PairwiseKey))
	h.Write([]byte("cloakroom/1 pairwise\x00"))
	for _, part := range [...]string{audience, g.Issuer, g.Subject} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write([]byte(part))
	}
	return encode(h.Sum(nil))
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
