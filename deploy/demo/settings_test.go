package main

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func env(vars ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(vars); i += 2 {
			if vars[i] == name {
				return vars[i+1]
			}
		}
		return ""
	}
}

func TestSettings(t *testing.T) {
	for name, tc := range map[string]struct {
		env  []string
		want settings
	}{
		"defaults":         {nil, settings{port: 8080, accessTTL: 2 * time.Minute, idle: 30 * time.Minute, absolute: 12 * time.Hour, grace: time.Minute}},
		"TLS":              {[]string{"TLS", "1"}, settings{port: 8443, tls: true, accessTTL: 2 * time.Minute, idle: 30 * time.Minute, absolute: 12 * time.Hour, grace: time.Minute}},
		"all":              {[]string{"TLS", "1", "PORT", "9000", "ACCESS_TTL", "20s", "IDLE", "1m", "ABSOLUTE", "5m", "GRACE", "5s"}, settings{9000, true, 20 * time.Second, time.Minute, 5 * time.Minute, 5 * time.Second}},
		"idle follows":     {[]string{"ABSOLUTE", "1m"}, settings{port: 8080, accessTTL: 2 * time.Minute, idle: time.Minute, absolute: time.Minute, grace: time.Minute}},
		"any port":         {[]string{"PORT", "0", "TLS", "0"}, settings{accessTTL: 2 * time.Minute, idle: 30 * time.Minute, absolute: 12 * time.Hour, grace: time.Minute}},
		"seconds, spelled": {[]string{"ACCESS_TTL", "1m30s"}, settings{port: 8080, accessTTL: 90 * time.Second, idle: 30 * time.Minute, absolute: 12 * time.Hour, grace: time.Minute}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readSettings(env(tc.env...))
			if err != nil || got != tc.want {
				t.Errorf("%+v %v, want %+v", got, err, tc.want)
			}
		})
	}
}

func TestSettingsAreRefusedTogether(t *testing.T) {
	_, err := readSettings(env("PORT", "x", "TLS", "yes", "ACCESS_TTL", "1s", "GRACE", "60", "IDLE", "10m", "ABSOLUTE", "5m"))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"PORT=x", "TLS=yes", "ACCESS_TTL=1s", "GRACE=60", "IDLE (10m0s) is longer than ABSOLUTE (5m0s)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := settings{port: l.Addr().(*net.TCPAddr).Port}
	if _, err := s.withPort(); err == nil || !strings.Contains(err.Error(), "PORT=") {
		t.Errorf("taken: %v", err)
	}
	if s, err := (settings{}).withPort(); err != nil || s.port == 0 {
		t.Errorf("any: %d %v", s.port, err)
	}
}

func TestPageHasItsValues(t *testing.T) {
	dir, err := writeSPA(t.TempDir(), pageValues{API: "http://127.0.0.1:1234", Issuer: "http://127.0.0.1:5678"})
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(dir + "/index.html")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"connect-src 'self' http://127.0.0.1:1234;", "img-src 'self' http://127.0.0.1:5678;", `name="demo-api" content="http://127.0.0.1:1234"`,
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("index.html lacks %s", want)
		}
	}
	// What a strict Content-Security-Policy would refuse.
	for _, bad := range []string{"<script>", "style=", "onclick", "onload", "{{", "<style"} {
		if strings.Contains(string(page), bad) {
			t.Errorf("index.html has %s", bad)
		}
	}
	for _, file := range []string{"app.js", "bff.js", "style.css", "favicon.svg"} {
		if _, err := os.Stat(dir + "/" + file); err != nil {
			t.Error(err)
		}
	}
}

func TestSpeakerKeepsLinesWhole(t *testing.T) {
	var out strings.Builder
	s := &speaker{w: &out}
	a, b := s.part("a"), s.part("gateway")
	a.Write([]byte("one\ntw"))
	b.Write([]byte("x\n"))
	a.Write([]byte("o\n"))
	if got := out.String(); got != "a        | one\ngateway  | x\na        | two\n" {
		t.Errorf("%q", got)
	}
}
