package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/cloakroom/cloakroom/gateway/proxy"
	"github.com/cloakroom/cloakroom/session"
)

const (
	// maxPasswordBody is above any name and password that is looked at, escaped.
	maxPasswordBody = 32 << 10
	// A person who mistypes needs a few attempts; a house behind one address, a
	// few for each.
	attemptsPerAccount = 10 // a minute
	attemptsPerAddress = 60
)

// parseCredentials accepts one JSON object of two strings, each once and spelled
// so: what is limited has to be what is presented.
func parseCredentials(body []byte) (username, password string, err error) {
	if !utf8.Valid(body) {
		return "", "", errCredentials // the decoder would put something else in its place
	}
	d := json.NewDecoder(bytes.NewReader(body))
	next := func() json.Token {
		t, err := d.Token()
		if err != nil {
			return err
		}
		return t
	}
	if next() != json.Delim('{') {
		return "", "", errCredentials
	}
	values := make(map[string]string, 2)
	for range 2 {
		name, _ := next().(string)
		value, ok := next().(string)
		if _, twice := values[name]; !ok || twice || name != "username" && name != "password" {
			return "", "", errCredentials
		}
		values[name] = value
	}
	if next() != json.Delim('}') || next() != io.EOF {
		return "", "", errCredentials
	}
	return values["username"], values["password"], nil
}

// The decoder's own errors quote what they can't read.
var errCredentials = invalid(`the body must be {"username": "…", "password": "…"}`)

// passwordLogin answers POST /bff/login: it presents a name and a password at the
// provider and answers as /bff/token does, beside the new session's cookie.
//
// The guard is what a login by navigation has its state for: nobody else's page
// logs this browser in as somebody else.
func (g *Gateway) passwordLogin(w *response, r *http.Request) error {
	if err := guard(guardJSON, r.Method, r.Header, w.app.origin); err != nil {
		return err
	}
	body, err := readBody(w, r, "application/json", maxPasswordBody)
	if err != nil {
		return err
	}
	username, password, err := parseCredentials(body)
	if err != nil {
		return err
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return invalid("the query can't be parsed")
	}
	if err := g.limit(w, r, username); err != nil {
		return err
	}
	// From here on a browser that leaves must not leave tokens behind that nobody
	// holds.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), exchangeTimeout)
	defer cancel()
	asked := g.now()
	grant, err := w.app.Provider.PasswordGrant(ctx, username, password)
	if err != nil {
		return err
	}
	login := g.newLogin(r, grant, asked)
	login.Remember = w.app.remember(query)
	t, err := g.keeper.Begin(ctx, w.app.policy, login)
	if err != nil {
		w.app.policy.Revoke(ctx, login.Tokens.Refresh)
		return err
	}
	handsOut := w.app.Token != TokenOff && w.app.Token != ""
	var answer tokenAnswer
	var line string
	o, err := g.replace(ctx, w, r, t)
	if err == nil && handsOut {
		answer, err = g.tokenAnswer(ctx, w.app, o)
	}
	if err == nil {
		line, err = w.app.ticketCookie(t, cookieLife(o))
	}
	if err != nil {
		// Nobody will hold the ticket: take back what it stands for.
		if err := g.keeper.End(ctx, w.app.policy, t.SID, session.ReasonReplaced); err != nil {
			g.log.LogAttrs(ctx, slog.LevelWarn, "a session that nobody holds was not ended",
				slog.String("app", w.app.Name), slog.Any("sid", t.SID), slog.String("err", err.Error()))
		}
		w.app.policy.Revoke(ctx, login.Tokens.Refresh)
		return err
	}
	w.sid = t.SID
	w.setCookie(line)
	if !handsOut {
		hardenOwn(w.Header())
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return answer.write(w)
}

// replace ends the session that the browser has shown and opens the new one, t.
func (g *Gateway) replace(ctx context.Context, w *response, r *http.Request, t session.Ticket) (session.Opened, error) {
	if old, err := w.app.ticket(r.Header); err == nil {
		if err := g.end(ctx, w.app, old.SID, &old, session.ReasonReplaced, w.received); err != nil {
			return session.Opened{}, err
		}
	}
	// Without a cookie of its own: this answer carries the first ticket.
	return g.keeper.Open(ctx, w.app.policy, t, session.Need{Activity: true, Token: true, Local: true})
}

// limit counts an attempt against the address and then the account, so that who
// is over the first limit can't use up somebody else's second.
func (g *Gateway) limit(w *response, r *http.Request, username string) error {
	take := func(name string, perMinute int) error {
		ok, after, err := g.keeper.Take(r.Context(), w.app.policy, name, perMinute)
		if err == nil && !ok {
			return &problem{code: codeRateLimited, retryAfter: after, err: errors.New("logins by password")}
		}
		return err
	}
	if from := network(proxy.ClientAddr(r, g.served.Load().trusted)); from != "" {
		if err := take("login from "+from, attemptsPerAddress); err != nil {
			return err
		}
	}
	return take("login of "+account(username), attemptsPerAccount)
}

// account is what attempts are counted under. Directories and databases take many
// spellings for one name (case, width, accents, what can't be seen); each must not be
// ten attempts more. People whose names differ by no more than that share a limit, and
// nothing else.
func account(username string) string {
	return strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.M, unicode.C, unicode.Z, unicode.Other_Default_Ignorable_Code_Point) {
			return -1
		}
		return unicode.ToLower(unicode.ToUpper(r)) // some have no lower case but by way of the upper
	}, norm.NFKD.String(username))
}

// network is whom an address belongs to: of IPv6 everybody has a /64. It is empty
// for a peer without an address (a Unix socket).
func network(a netip.Addr) string {
	if a = a.Unmap(); a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
