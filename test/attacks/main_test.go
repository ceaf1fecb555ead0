// Package attacks sends hostile requests to the built gateway and judges what
// came of them: at the client, at the upstream, at the provider, in Redis, in
// logs and metrics.
//
// # Rows
//
// Each section of the catalogue is a top-level test with its letter (TestH), and
// each row a subtest that begins with its ID ("TestH/H-03_…"): docs/attacks.md
// says which test shows which ID. A section starts one arena and runs its rows
// in turn. Rows are written for a class, not for a string: where the catalogue
// names one spelling, its siblings are here, too.
//
// # Arena
//
// Two replicas of the binary and one that ends TLS itself (for HTTP/2), on a
// real Redis, with the strict provider and an upstream that keeps the raw bytes
// of what it got. Requests are written to sockets, since no HTTP library would
// send most of them.
//
// # Oracles
//
// Whatever a row is about, these are checked after it (oracles_test.go):
//
//   - GO1, GO2: no refresh token, client secret or code anywhere; access tokens
//     in answers of /bff/token and in the upstream's Authorization alone; cookies
//     nowhere but in Set-Cookie. Searched: all that clients and upstreams got,
//     logs, metrics, Redis.
//   - GO3: the upstream saw the user whose cookie was sent, and no other.
//   - GO4: no request without a session, and none of a user without the role,
//     reached a protected path as the upstream decodes it. Four real or modelled
//     upstreams decode: Go's net/http, nginx, Node.js, and servers of Apache's and
//     Tomcat's kind.
//   - GO5: at the provider, no refresh token was redeemed twice.
//   - GO6: what sets a cookie of ours or holds a token is no-store.
//   - GO7: the gateway is alive, nothing crashed, and goroutines and sockets go
//     back to where they were.
//   - GO8: cookies have their attributes.
//   - GO9: trouble in the infrastructure touches no cookie and sends nobody to the
//     login.
package attacks

import (
	"testing"

	"github.com/cloakroom/cloakroom/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }
