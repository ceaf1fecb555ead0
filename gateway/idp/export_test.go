package idp

import (
	"encoding/json"
	"net"
)

// ParseMetadata lets a test hand a document to a provider whose issuer can't be
// served on a loopback port.
func ParseMetadata(p *Provider, body string) error {
	_, err := p.parseMetadata([]byte(body))
	return err
}

// KeyIsGood reports whether a key of a key set is used.
func KeyIsGood(key map[string]any) bool {
	b, _ := json.Marshal(key)
	_, ok := parseKey(b)
	return ok
}

// Watch makes of c what NewTransport's connections are.
func Watch(c net.Conn) net.Conn { return &watchedConn{Conn: c} }
