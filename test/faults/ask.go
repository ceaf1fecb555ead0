package faults

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cloakroom/cloakroom/gateway/gatewaytest"
	"github.com/cloakroom/cloakroom/test/rig"
)

// Ask is what a browser asks for.
type Ask struct {
	Kind Kind
	// At names the replica; nil: the balancer chooses.
	At *Replica
	// Cookie is shown instead of the jar's, as Session's.
	Cookie  string
	Session *Session
	// Within closes the tab after so long; 0: Setup.Patience.
	Within time.Duration
	// Late keeps the answer's cookie back for so long, and Lost for ever.
	Late time.Duration
	Lost bool
	// Fresh asks over a connection of its own, and closes it: a machine that has
	// slept has none.
	Fresh bool
}

// path of a kind's request.
func (k Kind) path() (method, path string) {
	switch k {
	case KindPost:
		return http.MethodPost, "/api/orders"
	case KindToken, KindReplay:
		return http.MethodPost, "/bff/token"
	case KindSession:
		return http.MethodGet, "/bff/session"
	case KindLogout:
		return http.MethodPost, "/bff/logout"
	case KindEvents:
		return http.MethodGet, "/api/events"
	}
	return http.MethodGet, "/api/orders"
}

// Do sends one request and writes down what comes back.
func (b *Browser) Do(a Ask) Op {
	method, path := a.Kind.path()
	b.mu.Lock()
	cookie, session := b.cookie, b.session
	b.mu.Unlock()
	if a.Cookie != "" {
		cookie, session = a.Cookie, a.Session
	}
	h := http.Header{
		"Accept": {"application/json"}, "X-Bff": {"1"},
		"Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Dest": {"empty"},
	}
	if method == http.MethodPost {
		h["Origin"] = []string{rig.Origin}
	}
	if cookie != "" {
		h["Cookie"] = []string{rig.SessionCookie + "=" + cookie}
	}
	if a.Fresh {
		h["Connection"] = []string{"close"}
	}
	op, _ := b.send(request{kind: a.Kind, at: a.At, method: method, path: path, header: h, cookie: cookie, session: session,
		within: a.Within, late: a.Late, lost: a.Lost, foreign: a.Cookie != "" && (a.Kind == KindGhost || a.Kind == KindReplay)})
	return op
}

type request struct {
	kind    Kind
	at      *Replica
	method  string
	path    string
	header  http.Header
	body    string
	cookie  string
	session *Session
	within  time.Duration
	late    time.Duration
	lost    bool
	foreign bool // not the browser's own: its jar keeps nothing of the answer
}

// answer is what a login's steps look at.
type answer struct {
	status  int
	header  http.Header
	body    []byte
	cookies []*http.Cookie // but the session's
	ticket  string
}

// pick is the balancer: one of those that are ready, or of all if none is.
func (w *World) pick(salt int64) *Replica {
	all := w.Replicas()
	ready := make([]*Replica, 0, len(all))
	for _, r := range all {
		if r.ready.Load() {
			ready = append(ready, r)
		}
	}
	if len(ready) == 0 {
		for _, r := range all {
			if r.Gateway() != nil {
				ready = append(ready, r)
			}
		}
	}
	if len(ready) == 0 {
		ready = all
	}
	return ready[int(uint64(salt)*0x9E3779B97F4A7C15>>33)%len(ready)]
}

var errCut = errors.New("the answer breaks off")

func (b *Browser) send(q request) (Op, *answer) {
	w := b.w
	op := Op{ID: w.nextOp.Add(1), Kind: q.kind, User: b.User, Sent: fingerprint(q.cookie), Start: w.now()}
	if q.session != nil {
		op.Session = q.session.ID
	}
	within := q.within
	if within == 0 {
		within = w.patience
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	q.header[opHeader] = []string{strconv.FormatInt(op.ID, 10)}

	var resp *http.Response
	var err error
	for try := int64(0); ; try++ {
		at := q.at
		if at == nil {
			at = w.pick(op.ID + try)
		}
		op.Replica = at.N
		r := &http.Request{Method: q.method, URL: &url.URL{Scheme: "http", Host: at.addr()}, Host: "app.test", Header: q.header,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
		r.URL.Path, r.URL.RawQuery, _ = strings.Cut(q.path, "?")
		if q.body != "" {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(q.body)), int64(len(q.body))
		}
		resp, err = w.client.Do(r.WithContext(ctx))
		// A balancer turns to the next one where nothing was sent.
		if err != nil && q.at == nil && errors.Is(err, syscall.ECONNREFUSED) && try < 5 && ctx.Err() == nil {
			at.ready.Store(false)
			continue
		}
		break
	}
	if err != nil {
		op.Error = network(err, q.within > 0)
		b.finish(&op, q, nil)
		return op, nil
	}
	a := &answer{status: resp.StatusCode, header: resp.Header}
	op.Status = resp.StatusCode
	op.Retry = resp.Header.Get("Retry-After") != ""
	b.cookies(&op, q, resp, a)
	if q.kind == KindEvents && resp.StatusCode == http.StatusOK {
		// A stream has no end: the first event is its answer.
		line, rerr := bufio.NewReaderSize(io.LimitReader(resp.Body, 4096), 512).ReadBytes('\n')
		a.body, err = bytes.TrimSpace(bytes.TrimPrefix(line, []byte("data: "))), rerr
		hold := time.NewTimer(time.Duration(op.ID%16) * 50 * time.Millisecond)
		defer hold.Stop()
		if err == nil {
			<-hold.C
		}
	} else {
		a.body, err = io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	}
	resp.Body.Close()
	if err != nil {
		op.Error = network(errors.Join(errCut, err), q.within > 0)
	}
	b.read(&op, a)
	if to := resp.Header.Get("Location"); to != "" {
		if u, err := url.Parse(to); err == nil {
			op.To = u.Path
		}
	}
	b.finish(&op, q, a)
	return op, a
}

// read looks into an answer's body.
func (b *Browser) read(op *Op, a *answer) {
	for _, canary := range neverShown {
		if bytes.Contains(a.body, canary) {
			op.Leak = string(canary)
		}
	}
	switch {
	case op.Status >= 400:
		op.Code, op.Reason = field(a.body, "code"), field(a.body, "reason")
	case op.Status == http.StatusOK && (op.Kind == KindToken || op.Kind == KindReplay):
		claims := payload([]byte(field(a.body, "access_token")))
		op.Subject, op.Family = field(claims, "sub"), field(claims, "family")
		op.Partial = op.Error == "" && !bytes.HasSuffix(bytes.TrimSpace(a.body), []byte("}"))
	case op.Status == http.StatusOK && (op.Kind == KindAPI || op.Kind == KindPost || op.Kind == KindEvents || op.Kind == KindGhost):
		body, whole := bytes.CutSuffix(a.body, []byte(";end"))
		op.Partial = op.Error == "" && !whole
		if !whole { // what it was about to say is not known
			body = body[:max(bytes.LastIndexByte(body, ';'), 0)]
		}
		for part := range strings.SplitSeq(string(body), ";") {
			name, value, _ := strings.Cut(part, "=")
			switch name {
			case "sub":
				op.Subject = value
			case "family":
				op.Family = value
			case "op":
				op.Echo, _ = strconv.ParseInt(value, 10, 64)
			}
		}
	}
}

// neverShown are marks of secrets that no client sees: refresh tokens, codes,
// client secrets. (Codes travel in the URLs of a login, and nowhere else.)
var neverShown = func() (all [][]byte) {
	for _, c := range gatewaytest.Canaries() {
		if strings.HasPrefix(c, "RT") || strings.HasPrefix(c, "CS") || strings.HasPrefix(c, "CD") {
			all = append(all, []byte(c))
		}
	}
	return all
}()

// network names what the network did.
func network(err error, impatient bool) string {
	var timeout net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded) && impatient, errors.Is(err, context.Canceled):
		return "aborted"
	case errors.Is(err, errCut):
		return "cut"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return "reset"
}

// Socket opens a WebSocket through the gateway and reads its greeting.
func (b *Browser) Socket() Op {
	w := b.w
	cookie, s := b.Ticket()
	at := w.pick(w.nextOp.Load())
	op := Op{ID: w.nextOp.Add(1), Kind: KindSocket, User: b.User, Sent: fingerprint(cookie), Replica: at.N, Start: w.now()}
	if s != nil {
		op.Session = s.ID
	}
	q := request{kind: KindSocket, cookie: cookie, session: s}
	fail := func(err error) Op {
		op.Error = network(err, false)
		b.finish(&op, q, nil)
		return op
	}
	conn, err := net.DialTimeout("tcp", at.addr(), 5*time.Second)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(w.patience))
	fmt.Fprintf(conn, "GET /api/socket HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: %s\r\nCookie: %s=%s\r\n%s: %d\r\n\r\n", rig.Origin, rig.SessionCookie, cookie, opHeader, op.ID)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, &http.Request{Method: http.MethodGet})
	if err != nil {
		return fail(err)
	}
	a := &answer{status: resp.StatusCode, header: resp.Header}
	op.Status, op.Retry = resp.StatusCode, resp.Header.Get("Retry-After") != ""
	b.cookies(&op, q, resp, a)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		var head [2]byte
		if _, err = io.ReadFull(in, head[:]); err == nil {
			a.body = make([]byte, head[1]&0x7f)
			_, err = io.ReadFull(in, a.body)
		}
		if err != nil {
			op.Error = "cut"
		}
		if parts := strings.Split(string(a.body), ";"); len(parts) >= 3 {
			op.Subject = strings.TrimPrefix(parts[0], "sub=")
			op.Family = strings.TrimPrefix(parts[1], "family=")
			op.Echo, _ = strconv.ParseInt(strings.TrimPrefix(parts[2], "op="), 10, 64)
		}
	} else {
		a.body, _ = io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		b.read(&op, a)
	}
	b.finish(&op, q, a)
	return op
}

// accept is RFC 6455's answer to a key.
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
