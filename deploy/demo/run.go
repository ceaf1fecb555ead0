package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/alicebob/miniredis/v2"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
)

// audience is what the API calls itself in access tokens.
const audience = "https://api.demo.example"

// run starts every part, waits for ctx or for the gateway's end, and stops the
// parts again in the opposite order.
func run(ctx context.Context, s settings, out io.Writer) error {
	s, err := s.withPort()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "cloakroom-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	say := &speaker{w: out}

	say.line("", "building the gateway ...")
	binary, err := build(ctx, dir)
	if err != nil {
		return err
	}

	redis := miniredis.NewMiniRedis()
	redis.ClockTTL(true) // age keys by the clock, as Redis does
	redisPassword := secret()
	redis.RequireAuth(redisPassword)
	if err := redis.Start(); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	defer redis.Close()

	provider := gatewaytest.NewProvider(gatewaytest.Options{
		Audience: audience, AccessLife: s.accessTTL,
		Log: slog.New(slog.NewTextHandler(say.part("provider"), &slog.HandlerOptions{ReplaceAttr: brief})),
	})
	// 127.0.0.1, because it is another site than localhost: the browser then
	// treats the login as it would on the Internet.
	if err := provider.Listen("127.0.0.1:0"); err != nil {
		return fmt.Errorf("provider: %w", err)
	}
	defer provider.Close()
	client := provider.Register(gatewaytest.Client{
		ID:                     "cloakroom-demo",
		RedirectURIs:           []string{s.origin() + "/bff/callback"},
		PostLogoutRedirectURIs: []string{s.origin() + "/bff/logged-out"},
	})

	var cert certificate
	if s.tls {
		if cert, err = selfSigned(dir); err != nil {
			return err
		}
	}
	api, err := startAPI(ctx, apiOptions{
		issuer: provider.Issuer(), origin: s.origin(), cert: cert, log: say.part("api"),
	})
	if err != nil {
		return fmt.Errorf("api: %w", err)
	}
	defer api.close()

	adminPort, err := freePort()
	if err != nil {
		return err
	}
	files, err := writeSPA(dir, pageValues{API: api.direct, Issuer: provider.Issuer()})
	if err != nil {
		return err
	}
	config, err := writeConfig(dir, configValues{
		settings: s, Cert: cert, RedisAddr: redis.Addr(), RedisPassword: redisPassword, AdminPort: adminPort,
		Issuer: provider.Issuer(), ClientID: client.ID, ClientSecret: client.Secret, Upstream: api.upstream, Files: files,
	})
	if err != nil {
		return err
	}
	gateway, err := startGateway(binary, config, say.part("gateway"))
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	defer gateway.stop()
	if err := gateway.ready(ctx, adminPort); err != nil {
		return err
	}
	say.welcome(s, provider.Issuer(), api.direct, adminPort, config)
	select {
	case <-ctx.Done():
		say.line("", "ending ...")
		return nil
	case <-gateway.done:
		if ctx.Err() != nil {
			return nil // Ctrl-C reaches it too, and it was the faster one
		}
		return fmt.Errorf("the gateway ended by itself: %v", gateway.err)
	}
}

// secret draws 256 bits, spelled as the gateway's keys are.
func secret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// brief leaves of a log line what a person wants to see pass by.
func brief(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey || a.Value.Equal(slog.StringValue("")) {
		return slog.Attr{}
	}
	return a
}

// speaker writes whole lines of several parts to one place.
type speaker struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (s *speaker) line(part, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if part != "" {
		part = fmt.Sprintf("%-9s| ", part)
	}
	fmt.Fprintf(s.w, "%s%s\n", part, text)
}

// part is a writer whose lines carry the part's name. Use it from one
// goroutine at a time, as loggers and processes do.
func (s *speaker) part(name string) io.Writer { return &partWriter{s: s, name: name} }

type partWriter struct {
	s    *speaker
	name string
	rest string // a line that has no end yet
}

func (p *partWriter) Write(b []byte) (int, error) {
	p.rest += string(b)
	for {
		line, rest, whole := strings.Cut(p.rest, "\n")
		if !whole {
			return len(b), nil
		}
		p.s.line(p.name, line)
		p.rest = rest
	}
}

func (s *speaker) welcome(st settings, issuer, api string, adminPort int, config string) {
	s.line("", fmt.Sprintf(`
  Open      %s
  Log in    as alice or bob, or by any other name; any password will do
  Try       - call the API both ways, reload the page: you are still in, the token was never stored
            - wait until the access token (%s) runs out and call again: the ticket rotates, below
            - log in as somebody else: the old session is ended, nothing mixes
            - open a second tab, copy the cookie to another browser, log out in one place
  Look      %s   the configuration
            http://127.0.0.1:%d   the operators' console; /metrics   what the gateway counts
            %s   the provider
  End       Ctrl-C
`, st.origin(), st.accessTTL, config, adminPort, issuer))
	if st.tls {
		s.line("", "  The certificate is made for this run: the browser will warn once, and you may go on.\n"+
			"  Firefox warns for each port: open "+api+" once too, before the page calls the API there.\n")
	}
}
