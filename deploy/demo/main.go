// Command demo runs all of Cloakroom on one machine that has nothing but Go:
// it builds the gateway, starts a strict OpenID provider with a login page, a
// small API that verifies access tokens, and a Redis in memory; it writes a
// real cloakroom.yaml with fresh keys, runs the built binary, and prints what to
// open and what to try. Ctrl-C ends all of it. Nothing is left behind.
//
//	make demo
//	make demo ACCESS_TTL=20s GRACE=5s     # watch tickets rotate
//	make demo TLS=1                       # https, with a certificate of its own
//
// These variables change it:
//
//	PORT        where the app is, by default 8080, with TLS 8443; 0: a free one
//	ACCESS_TTL  the access token's life, by default 2m
//	IDLE        session.idle_timeout, by default 30m, at least 1m
//	ABSOLUTE    session.absolute_timeout, by default 12h, at least 1m
//	GRACE       session.rotation_grace, by default 60s, at least 1s
//	TLS         1 for https on localhost, which Safari needs for Secure cookies
//
// All of it listens on loopback alone. The provider accepts any name with any
// password, so this is for trying things out and for nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := readSettings(os.Getenv)
	if err == nil {
		err = run(ctx, s, os.Stdout)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}
