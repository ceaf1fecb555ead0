package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cloakroom/cloakroom/session"
	"github.com/cloakroom/cloakroom/session/store"
	"github.com/cloakroom/cloakroom/session/storetest"
)

const (
	testToken = "TOKcanary-operators-only"
	testHost  = "127.0.0.1:9090"
	issuer    = "https://id.example"
)

// world is two apps on one Redis, and the operators' listener beside them.
type world struct {
	t          *testing.T
	redis      *storetest.Server
	keeper     *session.Keeper
	shop, desk *session.App
	log        *logs
	api        *API
	handler    http.Handler
}

// logs are JSON lines.
type logs struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logs) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// last is the last line of a call.
func (l *logs) last(t *testing.T) map[string]any {
	t.Helper()
	var last map[string]any
	for line := range strings.Lines(l.text()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		if fields["msg"] == "admin call" {
			last = fields
		}
	}
	if last == nil {
		t.Fatal("no call was audited")
	}
	return last
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, redis: storetest.Redis(t), log: &logs{}}
	st := store.New(store.Options{Address: w.redis.Addr(), KeyPrefix: "cloakroom:", Timeout: time.Second})
	ring, err := session.NewKeyring(session.NewServerKey())
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewJSONHandler(w.log, nil))
	w.keeper = session.New(st, ring, session.Options{Log: log})
	t.Cleanup(func() {
		w.keeper.Wait(context.Background())
		st.Close()
	})
	policy := func(name string) *session.App {
		return &session.App{Name: name, IdleTimeout: time.Hour, AbsoluteTimeout: 12 * time.Hour, Grace: time.Minute}
	}
	w.shop, w.desk = policy("shop"), policy("desk")
	w.api = &API{
		Keeper: w.keeper,
		Apps:   func() []App { return []App{{"desk", issuer, w.desk}, {"shop", issuer, w.shop}} },
		Token:  func() Token { return testToken }, Host: testHost, Log: log,
	}
	w.handler = New(NewHealth(st.Ping, nil), prometheus.NewRegistry(), w.api)
	return w
}

// begin logs a person in who came from the provider just now.
func (w *world) begin(app *session.App, subject string) session.Ticket {
	w.t.Helper()
	ticket, err := w.login(app, subject)
	if err != nil {
		w.t.Fatal("begin:", err)
	}
	return ticket
}

func (w *world) login(app *session.App, subject string) (session.Ticket, error) {
	return w.keeper.Begin(w.t.Context(), app, session.Login{
		Tokens:  session.Tokens{Access: "ATcanary", TokenType: "Bearer", IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour), Refresh: "RTcanary"},
		Issuer:  issuer,
		Subject: subject,
		// A provider's clock that is ahead of ours: nobody ended this login.
		IssuedAt: time.Now().Add(time.Second),
		Claims:   []byte(`{}`),
		Address:  "192.0.2.7",
		Browser:  "Firefox",
	})
}

// wantAlive and wantEnded open a ticket as a request would.
func (w *world) wantAlive(app *session.App, t session.Ticket) {
	w.t.Helper()
	if _, err := w.keeper.Open(w.t.Context(), app, t, session.Need{}); err != nil {
		w.t.Errorf("session is not alive: %v", err)
	}
}

func (w *world) wantEnded(app *session.App, t session.Ticket, locked bool) {
	w.t.Helper()
	_, err := w.keeper.Open(w.t.Context(), app, t, session.Need{})
	e, ok := errors.AsType[*session.EndedError](err)
	if !ok || e.Reason != session.ReasonRevoked || e.Locked != locked {
		w.t.Errorf("got %+v (%v), want revoked, locked %v", e, err, locked)
	}
}

// request is one as the command line tool would make it.
func request(method, target, body string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = testHost
	r.Header.Set("Authorization", "Bearer "+testToken)
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

// do makes a call and returns its status and its answer.
func (w *world) do(r *http.Request) (int, map[string]any) {
	w.t.Helper()
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	var answer map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &answer); err != nil {
		w.t.Fatalf("answer %q: %v", rec.Body, err)
	}
	want := "application/json"
	if rec.Code >= 400 {
		want = "application/problem+json"
		if answer["type"] != "urn:cloakroom:"+answer["code"].(string) || answer["status"] != float64(rec.Code) || answer["title"] == "" {
			w.t.Errorf("problem %v with status %d", answer, rec.Code)
		}
	}
	if got := rec.Header().Get("Content-Type"); got != want {
		w.t.Errorf("content type %q, want %q", got, want)
	}
	if rec.Header().Get("Cache-Control") != "no-store" {
		w.t.Error("may be stored")
	}
	return rec.Code, answer
}

func (w *world) post(path, body string) (int, map[string]any) {
	w.t.Helper()
	return w.do(request("POST", "/admin/sessions/"+path, body))
}

func (w *world) get(query string) (int, map[string]any) {
	w.t.Helper()
	return w.do(request("GET", "/admin/sessions?"+query, ""))
}
