package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/session/storetest"
)

// accounts are the lines of a file of deploy/redis, with that password, but for
// the default account, which the servers use among each other.
func accounts(t *testing.T, file, password string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "redis", file))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(password))
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(text), "PASSWORD_SHA256", hex.EncodeToString(sum[:]))), "\n")
	if lines[0] != "user default off" {
		t.Fatalf("%s: %s", file, lines[0])
	}
	return append([]string{"user default on nopass ~* &* +@all"}, lines[1:]...)
}

// The account that deploy/redis makes may do all that is needed, in every mode.
func TestLeastRights(t *testing.T) {
	const password = "a password"
	file := filepath.Join(t.TempDir(), "users.acl")
	if err := os.WriteFile(file, []byte(strings.Join(accounts(t, "users.acl", password), "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	opts := storetest.GroupOptions{Args: []string{"--aclfile", file}, Sentinel: accounts(t, "sentinel.acl", password)}
	for _, mode := range []Mode{Single, Sentinel, Cluster} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o := Options{Mode: mode, KeyPrefix: "cloakroom:", Username: "cloakroom", Password: password, WaitReplicas: 1,
				SentinelUsername: "cloakroom", SentinelPassword: password}
			switch mode {
			case Single:
				o.Address, o.WaitReplicas = storetest.Redis(t, opts.Args...).Addr(), 0
			case Sentinel:
				o.Addresses, o.MasterName = storetest.SentinelWith(t, opts).Addrs(), storetest.MasterName
			case Cluster:
				o.Addresses = storetest.ClusterWith(t, opts).Addrs()
			}
			works(t, o)
			o.KeyPrefix = "another:"
			s := New(o)
			defer s.Close()
			if err := s.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "NOPERM") {
				t.Errorf("it may write another's keys: %v", err)
			}
		})
	}
}

// works runs all operations, hears its own beats and ends, and knows histories by
// their names.
func works(t *testing.T, o Options) {
	t.Helper()
	f := fixtureOf(t, o)
	testEveryOperation(t, f)
	var ends heard
	s := running(t, o, ends.handle)
	until(t, 5*time.Second, "hears itself", s.Hears)
	sid := f.begin()
	a, err := f.End(t.Context(), sid, f.app, 3, Lock{})
	want(t, a, err, OK)
	until(t, 2*time.Second, "the end is heard", func() bool { return ends.ended(sid) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.histories[""] || len(s.histories) == 0 {
		t.Error("it may not ask for the history")
	}
}

// TLS with a certificate of our own, in every mode; without one, nothing works.
func TestClientCertificates(t *testing.T) {
	files, config := certificates(t)
	for _, mode := range []Mode{Single, Sentinel, Cluster} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o := Options{Mode: mode, KeyPrefix: "t:", TLS: config, Timeout: time.Second}
			switch mode {
			case Single:
				o.Address = storetest.RedisTLS(t, files).Addr()
			case Sentinel:
				o.Addresses, o.MasterName = storetest.SentinelWith(t, storetest.GroupOptions{TLS: files}).Addrs(), storetest.MasterName
			case Cluster:
				o.Addresses = storetest.ClusterWith(t, storetest.GroupOptions{TLS: files}).Addrs()
			}
			works(t, o)
			for name, without := range map[string]*tls.Config{
				"no TLS":                 nil,
				"no certificate of ours": {MinVersion: tls.VersionTLS12, RootCAs: config.RootCAs},
				"an authority of theirs": {MinVersion: tls.VersionTLS12, Certificates: config.Certificates},
			} {
				o.TLS = without
				s := New(o)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				if s.Ping(ctx) == nil {
					t.Errorf("with %s it connects", name)
				}
				cancel()
				s.Close()
			}
		})
	}
}

// certificates makes an authority and one certificate, for both sides.
func certificates(t *testing.T) (*storetest.TLS, *tls.Config) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	issue := func(serial int64, sign *x509.Certificate, with *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: fmt.Sprint("test ", serial)},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: sign == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		if sign == nil {
			sign, with = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, sign, &key.PublicKey, with)
		if err != nil {
			t.Fatal(err)
		}
		if c, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		return c, key
	}
	ca, caKey := issue(1, nil, nil)
	leaf, key := issue(2, ca, caKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := &storetest.TLS{CA: write("ca.pem", "CERTIFICATE", ca.Raw), Cert: write("cert.pem", "CERTIFICATE", leaf.Raw), Key: write("key.pem", "PRIVATE KEY", der)}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return files, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool,
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}}
}
