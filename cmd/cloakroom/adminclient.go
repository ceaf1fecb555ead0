package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cloakroom/cloakroom/config"
)

const (
	// adminTimeout is longer than the API's own limit for a call.
	adminTimeout = 30 * time.Second
	// maxAdminAnswer is far above a list of ten thousand sessions.
	maxAdminAnswer = 16 << 20
	// tokenVariable holds the operators' token. There is no flag for it: an
	// argument can be read by everybody on the machine.
	tokenVariable = "CLOAKROOM_ADMIN_TOKEN"
)

// adminFlags say which gateway's operators' listener is spoken to.
type adminFlags struct {
	Admin  string `help:"The gateway's admin listener: host:port or unix:PATH. Without it the configuration's, or 127.0.0.1:9090." placeholder:"ADDRESS" env:"CLOAKROOM_ADMIN"`
	Config string `help:"A configuration file to take the admin listener and its token from. The token may come from the environment instead: CLOAKROOM_ADMIN_TOKEN." placeholder:"FILE" env:"CLOAKROOM_CONFIG"`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// address is where --admin points; empty: it isn't given.
func (f adminFlags) address() (network, address string, err error) {
	if path, unix := strings.CutPrefix(f.Admin, "unix:"); unix {
		if !filepath.IsAbs(path) {
			return "", "", errors.New("--admin must name the socket by an absolute path")
		}
		return "unix", path, nil
	}
	if f.Admin == "" {
		return "", "", nil
	}
	if host, port, err := net.SplitHostPort(f.Admin); err != nil || host == "" || port == "" || strings.ContainsAny(host, "/@ ") {
		return "", "", errors.New("--admin must be host:port or unix:PATH")
	}
	return "tcp", f.Admin, nil
}

// misused says what is wrong with the flags.
func (f adminFlags) misused() error {
	_, _, err := f.address()
	return err
}

// target is the listener and the token for it.
func (f adminFlags) target() (network, address string, token config.Secret, err error) {
	network, address, err = f.address()
	if err != nil {
		return "", "", "", err
	}
	token = config.Secret(os.Getenv(tokenVariable))
	if f.Config != "" && (address == "" || token == "") {
		cfg, err := configFlag{f.Config}.load()
		if err != nil {
			return "", "", "", err
		}
		token = cmp.Or(token, cfg.Admin.Token)
		if address == "" {
			network, address = cfg.Admin.Network, reachable(cfg.Admin.Address)
		}
	}
	if address == "" {
		network, address = "tcp", "127.0.0.1:9090"
	}
	return network, address, token, nil
}

// reachable is an address to dial for one to listen on: a listener on all of a
// machine's addresses is on its loopback too.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen // a socket's path
	}
	if addr, err := netip.ParseAddr(host); host == "" || err == nil && addr.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return listen
}

func (f adminFlags) get(path string, answer any) error {
	return f.call(http.MethodGet, path, nil, answer)
}

func (f adminFlags) post(path string, order, answer any) error {
	body, err := json.Marshal(order)
	if err != nil {
		return err
	}
	return f.call(http.MethodPost, path, body, answer)
}

// call asks the admin API. Its error is what the API says of a refusal.
func (f adminFlags) call(method, path string, body []byte, answer any) error {
	network, address, token, err := f.target()
	if err != nil {
		return err
	}
	// No proxy of the environment's: it would be told the token.
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport:     transport,
		Timeout:       adminTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	host := address
	if network == "unix" {
		host = "localhost"
	}
	req, err := http.NewRequest(method, "http://"+host+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+string(token))
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the URL, which names a subject
		}
		return fmt.Errorf("the admin listener at %s does not answer: %v", address, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminAnswer+1))
	if err != nil {
		return fmt.Errorf("the admin listener at %s broke off: %v", address, err)
	}
	if len(text) > maxAdminAnswer {
		return fmt.Errorf("the admin listener at %s answers without end", address)
	}
	if resp.StatusCode != http.StatusOK {
		return refusal(resp, text)
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("what answers at %s is no admin listener of cloakroom", address)
	}
	return nil
}

// refusal is a problem of the API's as an error, in the operator's terms.
func refusal(resp *http.Response, text []byte) error {
	var p struct {
		Code   string `json:"code"`
		Title  string `json:"title"`
		Detail string `json:"detail"`
	}
	_ = json.Unmarshal(text, &p) // what is no problem has no code
	switch p.Code {
	case "":
		return fmt.Errorf("the admin listener answers %d without saying why", resp.StatusCode)
	case "unauthorized":
		return fmt.Errorf("the token is missing or wrong: set %s, or name the configuration with --config", tokenVariable)
	}
	message := cell(p.Code, 64) + ": " + cell(p.Title, 200)
	if p.Detail != "" {
		message += " (" + cell(p.Detail, 200) + ")"
	}
	return errors.New(message)
}
