package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloakroom/cloakroom/config"
	"github.com/cloakroom/cloakroom/session"
)

// What only its user can find of templates and of keys is told at once, each with
// its place.
func TestWhatIsFoundLateIsToldAtOnce(t *testing.T) {
	dir := t.TempDir()
	save := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	save("error.html", "<script>alert(1)</script>")
	save("onward.html", "{{.Link")
	save("cloakroom.yaml", `version: 1
redis: {addresses: ["127.0.0.1:1"]}
keys: [`+session.NewServerKey().Encode()+`]
apps:
  - name: shop
    pages: .
    origin: https://shop.test
    provider: {issuer: https://id.test, client_id: shop, client_secret: dGhpcyBpcyByYW5kb20h}
    token: {mode: relay}
  - name: other
    origin: https://other.test
    provider: {issuer: https://id.test, client_id: other, client_secret: dGhpcyBpcyByYW5kb20h}
    token: {mode: mint, audience: [a], signing_keys: ["no key"], subject: provider}
    pages: pages
`)
	if err := os.Mkdir(filepath.Join(dir, "pages"), 0o700); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(filepath.Join(dir, "cloakroom.yaml"), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	s, err := wire(cfg, slog.New(slog.DiscardHandler), nil)
	if err == nil {
		s.close()
		t.Fatal("it can be served")
	}
	problems, ok := errors.AsType[*config.Error](err)
	if !ok || len(problems.Problems) != 4 {
		t.Fatalf("%T: %v", err, err)
	}
	for i, want := range []string{
		":6: apps[0].pages: error.html: holds a script, ",
		":6: apps[0].pages: onward.html: line 1: unclosed action",
		":13: apps[1].token.signing_keys[0]: ",
		":14: apps[1].pages: holds none of error.html, ",
	} {
		if got := problems.Problems[i].String(); !strings.Contains(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// What an operator should know is told of a file that is taken over later, too.
func TestReloadWarns(t *testing.T) {
	r := start(t, "http://127.0.0.1:1", "")
	text, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	more := strings.Replace(string(text), "    routes:\n", "    routes:\n      - {path: /dev, dev_server: \"http://127.0.0.1:1\"}\n", 1)
	if err := os.WriteFile(r.file, []byte(more), 0o600); err != nil {
		t.Fatal(err)
	}
	line := r.logs.wait(t, "configuration: is for development, not for production: whoever reaches this gateway can read the page's sources", "")
	if line["level"] != "WARN" || !strings.HasSuffix(line["key"].(string), ".dev_server") {
		t.Errorf("told as %v", line)
	}
}
