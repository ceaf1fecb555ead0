package mint

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cloakroom/cloakroom/gateway/strictjson"
)

var (
	// ErrInvalid means that a token is not one of ours, or not for us.
	ErrInvalid = errors.New("token invalid")
	// ErrExpired means that a token is ours and its time is over; from Mint,
	// that the session's is.
	ErrExpired = errors.New("token expired")
)

// Claims are what a token says.
type Claims struct {
	// Subject is the token's sub: with Pairwise, the hash.
	Subject string
	// SIDs are what the session's public id may be: the token's sid read under
	// each key, the writing one first. All but one are noise, and none of them
	// can be told from the right one but by looking it up.
	SIDs [][16]byte
	// JSON is the token's payload, one object with distinct names.
	JSON []byte
	// IssuedAt and ExpiresAt are whole seconds.
	IssuedAt, ExpiresAt time.Time
}

// Verify reads a token that Mint made, on this gateway or on another with the
// same keys (RFC 9068 section 4). What it accepts is narrower than the RFC: the
// header must be, byte for byte, the one that Mint writes for one of the keys,
// so typ is at+jwt, kid is there, alg is the key's and nothing else is asked of
// the header. exp has no leeway; iat and nbf may be a minute ahead.
//
// A token's text is malleable (ECDSA has two signatures for each): key nothing
// by it.
//
// The error is ErrExpired for a token good in all else, otherwise ErrInvalid.
func (i *Issuer) Verify(token string) (Claims, error) {
	invalid := func(reason string) (Claims, error) { return Claims{}, fmt.Errorf("%w: %s", ErrInvalid, reason) }
	if len(token) > maxToken {
		return invalid("too large")
	}
	header, rest, _ := strings.Cut(token, ".")
	claims64, signature64, ok := strings.Cut(rest, ".")
	if !ok {
		return invalid("not a signed JWT")
	}
	k := i.byHeader[header]
	if k == nil {
		return invalid("typ, alg or kid is not one that this issuer writes")
	}
	signature, err := strictBase64.DecodeString(signature64)
	// The decoder skips line breaks.
	if err != nil || strings.ContainsAny(rest, "\r\n") {
		return invalid("not a signed JWT")
	}
	if k.method.Verify(token[:len(header)+1+len(claims64)], signature, k.public) != nil {
		return invalid("wrong signature")
	}

	claims, err := strictBase64.DecodeString(claims64)
	if err != nil {
		return invalid("not a signed JWT")
	}
	o, err := strictjson.Parse(claims)
	if err != nil {
		return invalid("the claims are " + err.Error())
	}
	if iss, ok := o.String("iss"); !ok || iss != i.cfg.Issuer {
		return invalid("iss is another")
	}
	aud, ok := o.String("aud")
	ciphers := i.sid[aud]
	if !ok || ciphers == nil {
		return invalid("aud is another")
	}
	subject, ok := o.String("sub")
	if !ok || subject == "" {
		return invalid("sub is missing")
	}
	sid64, _ := o.String("sid")
	sid, err := strictBase64.DecodeString(sid64)
	if err != nil || len(sid) != 16 || len(sid64) != 22 {
		return invalid("sid is missing, or not one of ours")
	}
	now := i.cfg.Now()
	iat, ok := o.NumericDate("iat")
	if !ok || iat.IsZero() || iat.After(now.Add(skew)) {
		return invalid("iat is missing, or in the future: compare the clocks")
	}
	if nbf, ok := o.NumericDate("nbf"); !ok || nbf.After(now.Add(skew)) {
		return invalid("it is not valid yet")
	}
	exp, ok := o.NumericDate("exp")
	if !ok || exp.IsZero() {
		return invalid("exp is missing, or no date")
	}
	if !now.Before(exp) {
		return Claims{}, ErrExpired
	}

	c := Claims{Subject: subject, SIDs: make([][16]byte, len(ciphers)), JSON: claims, IssuedAt: iat, ExpiresAt: exp}
	for n, b := range ciphers {
		b.Decrypt(c.SIDs[n][:], sid)
	}
	return c, nil
}

// strictBase64 has one spelling for each value.
var strictBase64 = base64.RawURLEncoding.Strict()
