package config

import (
	"encoding/base64"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

const redacted = "[redacted]"

// Secret is a password, a client secret or a token. It prints as "[redacted]";
// only string(s) reveals it.
type Secret string

func (Secret) String() string               { return redacted }
func (Secret) GoString() string             { return redacted }
func (Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Key is a server key: 256 random bits. It prints as "[redacted]".
type Key [32]byte

func (Key) String() string               { return redacted }
func (Key) GoString() string             { return redacted }
func (Key) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// keyChars is the length of a server key's one spelling.
const keyChars = 43

// parseKey accepts exactly the unpadded base64url of 32 bytes. The second
// result says what is wrong; empty: nothing.
func parseKey(s string) (k Key, wrong string) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(k) || len(s) != keyChars {
		return k, "must be 43 characters of base64url, as `cloakroom keys new` prints them"
	}
	if weakKey(s, b) {
		return k, "is not random: make one with `cloakroom keys new`"
	}
	return Key(b), ""
}

// weakKey tells keys that were typed, counted or encoded from text from drawn
// ones. Each of its tests refuses a drawn key less than once in 10⁹.
func weakKey(text string, b []byte) bool {
	// 32 drawn bytes have about 30 distinct ones, 43 drawn characters about 31;
	// a pattern that repeats, or a passphrase, has few.
	if distinct(string(b)) <= 16 || distinct(text) <= 15 {
		return true
	}
	steady := true // 0, 1, 2 … or any other constant step
	for i := 2; i < len(b) && steady; i++ {
		steady = b[i]-b[i-1] == b[1]-b[0]
	}
	// Hexadecimal digits and passphrases use one case of letters only.
	oneCase := text == strings.ToLower(text) || text == strings.ToUpper(text)
	// The encoding of something readable, such as the documentation's sample.
	readable := !slices.ContainsFunc(b, func(c byte) bool { return c < ' ' || c > '~' })
	return steady || oneCase || readable
}

// placeholders are what samples and tutorials put where a secret belongs.
var placeholders = []string{
	"changeme", "changethis", "replaceme", "replacethis", "placeholder", "yoursecret", "yourclientsecret",
	"clientsecret", "examplesecret", "samplesecret", "secretsecret", "topsecret", "supersecret", "mysecret",
	"thisisasecret", "passwordpassword", "password123", "admintoken", "insertsecret", "notasecret", "dummysecret",
}

// minSecret is the shortest secret taken: 16 characters of base64 are 96 bits.
const minSecret = 16

// weakSecret says what is wrong with a client secret or an operator's token;
// empty: nothing.
func weakSecret(s string) string {
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.ToLower(s))
	switch {
	case len(s) < minSecret:
		return "is too short: at least 16 characters"
	case distinct(s) < 6:
		return "is not random: too few different characters"
	case slices.ContainsFunc(placeholders, func(p string) bool { return strings.Contains(plain, p) }):
		return "is a sample value: use a random one"
	}
	return ""
}

// distinct counts the different bytes of s.
func distinct(s string) (n int) {
	var seen [256]bool
	for i := range len(s) {
		if !seen[s[i]] {
			seen[s[i]] = true
			n++
		}
	}
	return n
}

// secret is v's text, kept for [loader.reused]; use says what it is for.
func (v value) secret(use string) (Secret, bool) {
	s, ok := v.text()
	if ok && s != strings.TrimSpace(s) {
		v.problem("begins or ends with white space: whoever compares it will find another")
		return "", false
	}
	return v.used(s, ok, use)
}

// lines is secret for a text of several lines, such as PEM.
func (v value) lines(use string) (Secret, bool) {
	s, ok := v.scalar()
	return v.used(s, ok, use)
}

func (v value) used(s string, ok bool, use string) (Secret, bool) {
	if !ok {
		return "", false
	}
	if n, written := v.node.(*ast.StringNode); written && n.Value != "" && s == "" {
		v.problem("is empty once expanded")
		return "", false
	}
	if s != "" {
		v.l.secrets = append(v.l.secrets, usedSecret{key: v.path, use: use, text: s})
		v.exposed()
	}
	return Secret(s), true
}

// exposed warns of a secret in a file that everybody on this machine can read.
// Its group may: in Kubernetes and its kin that is how a secret gets to a process
// that isn't root.
func (v value) exposed() {
	files := []string{v.l.file}
	if n, ok := v.node.(*ast.StringNode); ok && strings.Contains(n.Value, "${") {
		files = nil
		for _, m := range fileReference.FindAllStringSubmatch(n.Value, -1) {
			files = append(files, v.l.resolve(m[1]))
		}
	}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.Mode().Perm()&0o004 != 0 {
			v.l.warn(v, "is in a file that everybody on this machine can read: chmod o-r "+printable(f))
		}
	}
}

// reused reports a secret that serves two purposes: who learns one would have
// the other.
func (l *loader) reused() {
	for i, s := range l.secrets {
		for _, first := range l.secrets[:i] {
			if s.text == first.text && s.use != first.use {
				l.add(0, s.key, "is the same secret as "+first.key+": every purpose needs its own")
				break
			}
		}
	}
}
