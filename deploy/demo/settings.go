package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"
)

// settings are what the environment may change.
type settings struct {
	port      int // 0: a free one
	tls       bool
	accessTTL time.Duration
	idle      time.Duration
	absolute  time.Duration
	grace     time.Duration
}

// readSettings reports every problem of the environment at once.
func readSettings(env func(string) string) (settings, error) {
	var errs []error
	duration := func(name string, fallback, least time.Duration) time.Duration {
		text := env(name)
		if text == "" {
			return fallback
		}
		d, err := time.ParseDuration(text)
		if err != nil || d < least {
			errs = append(errs, fmt.Errorf("%s=%s: want a duration of at least %s, such as 20s or 5m", name, text, least))
		}
		return d
	}
	s := settings{
		port: 8080,
		// Below this the gateway has hardly got a token before it runs out.
		accessTTL: duration("ACCESS_TTL", 2*time.Minute, 5*time.Second),
		absolute:  duration("ABSOLUTE", 12*time.Hour, time.Minute),
		grace:     duration("GRACE", time.Minute, time.Second),
	}
	s.idle = duration("IDLE", min(30*time.Minute, s.absolute), time.Minute)
	if s.idle > s.absolute {
		errs = append(errs, fmt.Errorf("IDLE (%s) is longer than ABSOLUTE (%s)", s.idle, s.absolute))
	}
	switch t := env("TLS"); t {
	case "", "0":
	case "1":
		s.tls, s.port = true, 8443
	default:
		errs = append(errs, fmt.Errorf("TLS=%s: want 1", t))
	}
	if text := env("PORT"); text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			errs = append(errs, fmt.Errorf("PORT=%s: want a number up to 65535", text))
		}
		s.port = int(n)
	}
	return s, errors.Join(errs...)
}

// origin is where the browser finds the app.
func (s settings) origin() string {
	if s.tls {
		return fmt.Sprintf("https://localhost:%d", s.port)
	}
	return fmt.Sprintf("http://localhost:%d", s.port)
}

// withPort makes sure that the app's port can be had, or chooses a free one.
func (s settings) withPort() (settings, error) {
	if s.port == 0 {
		n, err := freePort()
		s.port = n
		return s, err
	}
	// The wildcard too: on some systems another program that has it would
	// answer instead of the gateway.
	for _, host := range []string{"127.0.0.1", "::1", ""} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(s.port)))
		if errors.Is(err, syscall.EADDRINUSE) {
			return s, fmt.Errorf("port %d is taken by another program; choose another one: make demo PORT=%d", s.port, s.port+1)
		}
		if err != nil && host == "127.0.0.1" {
			return s, err
		}
		if err == nil {
			_ = l.Close()
		}
	}
	return s, nil
}

// freePort finds a port for the gateway, which opens it itself a moment later.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
