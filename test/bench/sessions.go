package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/gorilla/securecookie"
	"github.com/redis/go-redis/v9"

	"github.com/cloakroom/cloakroom/session"
	"github.com/cloakroom/cloakroom/session/store"
)

// users is how many sessions the load is spread over. They are all that a
// replica can hold in its cache; what else is in Redis lies there.
const users = 256

// begin starts n sessions as a login would, and returns the browser's cookies. The
// provider is not asked: this holds the server key that the gateways have.
func begin(ctx context.Context, redisAddress, app string, key session.ServerKey, n int) ([]string, error) {
	ring, err := session.NewKeyring(key)
	if err != nil {
		return nil, err
	}
	st := store.New(store.Options{Address: redisAddress, KeyPrefix: "cloakroom:"})
	defer st.Close()
	keeper := session.New(st, ring, session.Options{})
	policy := &session.App{Name: app, IdleTimeout: 30 * time.Minute, AbsoluteTimeout: 12 * time.Hour, Grace: time.Minute, CacheTTL: 5 * time.Second}

	derived := ring.Derive("cloakroom/1 cookie", app, 64)[0]
	codec := securecookie.New(derived[:32], derived[32:])
	codec.MaxAge(0)
	codec.SetSerializer(plain{})

	now := time.Now()
	cookies := make([]string, n)
	for i := range cookies {
		t, err := keeper.Begin(ctx, policy, session.Login{
			Tokens: session.Tokens{
				Access: session.AccessToken(jwt(600)), Refresh: session.RefreshToken(text(120)), ID: session.IDToken(jwt(500)),
				TokenType: "Bearer", Scope: "openid profile email offline_access", IssuedAt: now, ExpiresAt: now.Add(12 * time.Hour),
			},
			Issuer: "https://id.example.com", Subject: fmt.Sprintf("user-%d", i), IssuedAt: now,
			Claims:  fmt.Appendf(nil, `{"sub":"user-%d","name":"Somebody Somewhere","email":"user-%d@example.com","roles":["reader","writer"],"locale":"en"}`, i, i),
			Address: "192.0.2.1", Browser: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
		})
		if err != nil {
			return nil, err
		}
		b, err := t.MarshalBinary()
		if err != nil {
			return nil, err
		}
		value, err := codec.Encode(sessionCookie, b)
		if err != nil {
			return nil, err
		}
		cookies[i] = sessionCookie + "=" + value
	}
	return cookies, nil
}

const sessionCookie = "__Host-Http-cloakroom"

// plain hands bytes through to securecookie, which encrypts in place.
type plain struct{}

func (plain) Serialize(src any) ([]byte, error)     { return bytes.Clone(src.([]byte)), nil }
func (plain) Deserialize(src []byte, dst any) error { *dst.(*[]byte) = src; return nil }

// text is n characters that nobody can compress or guess.
func text(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)[:n]
}

// jwt is n characters that look like a token.
func jwt(n int) string { return "eyJhbGciOiJFUzI1NiJ9." + text(n-21-87) + "." + text(86) }

// fill makes Redis hold at least n records: copies of a real one, each with an
// expiry, under keys of their own.
func fill(ctx context.Context, rdb *redis.Client, n int) error {
	have, err := rdb.DBSize(ctx).Result()
	if err != nil {
		return err
	}
	record, err := aRecord(ctx, rdb)
	if err != nil {
		return err
	}
	for left := n - int(have); left > 0; {
		batch := min(left, 2000)
		p := rdb.Pipeline()
		for range batch {
			p.Set(ctx, "cloakroom:s:{"+text(22)+"}", record, 13*time.Hour)
		}
		if _, err := p.Exec(ctx); err != nil {
			return err
		}
		left -= batch
	}
	return nil
}

// aRecord is one of the sessions' in Redis.
func aRecord(ctx context.Context, rdb *redis.Client) (string, error) {
	var key string
	for it := rdb.Scan(ctx, 0, "cloakroom:s:*", 100).Iterator(); it.Next(ctx); {
		key = it.Val()
		break
	}
	record, err := rdb.Get(ctx, key).Result()
	if err != nil {
		return "", fmt.Errorf("no record: %w", err)
	}
	return record, nil
}

// commands is how many commands Redis has processed, by name; scripts' own not
// among them.
func commands(ctx context.Context, rdb *redis.Client) (map[string]int64, error) {
	info, err := rdb.Info(ctx, "commandstats").Result()
	if err != nil {
		return nil, err
	}
	calls := map[string]int64{}
	for line := range strings.Lines(info) {
		name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		if ok {
			var n int64
			_, _ = fmt.Sscanf(rest, "%d", &n)
			calls[name] = n
		}
	}
	return calls, nil
}
