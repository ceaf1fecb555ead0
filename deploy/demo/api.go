package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

// apiOptions are what a resource server knows: whom it trusts, which page may
// call it, and nothing about sessions.
type apiOptions struct {
	issuer string
	origin string // the page's, for CORS
	cert   certificate
	log    io.Writer
}

// api is a small resource server. It has two ways in: one for the gateway, and
// one for pages that bring the token themselves.
type api struct {
	origin string
	parser *jwt.Parser
	keys   keyfunc.Keyfunc
	log    *slog.Logger

	upstream string // URL for the gateway
	direct   string // URL for pages
	servers  []*http.Server
	serving  sync.WaitGroup
	cancel   context.CancelFunc // ends the refetching of keys

	mu    sync.Mutex // guards notes
	notes map[string][]note
}

// note is something a user left here.
type note struct {
	Text string    `json:"text"`
	Via  string    `json:"via"`
	At   time.Time `json:"at"`
}

// Bounds on what one user may leave.
const (
	maxNotes    = 20
	maxNoteBody = 2 << 10
)

func startAPI(ctx context.Context, o apiOptions) (_ *api, err error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	a := &api{
		origin: o.origin, cancel: cancel, notes: map[string][]note{},
		log: slog.New(slog.NewTextHandler(o.log, &slog.HandlerOptions{ReplaceAttr: brief})),
		parser: jwt.NewParser(jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(o.issuer),
			jwt.WithAudience(audience), jwt.WithExpirationRequired()),
	}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.keys, err = keyfunc.NewDefaultCtx(ctx, []string{o.issuer + "/jwks"}); err != nil {
		return nil, err
	}
	if a.upstream, err = a.serve("gateway", certificate{}); err != nil {
		return nil, err
	}
	if a.direct, err = a.serve("page", o.cert); err != nil {
		return nil, err
	}
	return a, nil
}

// serve opens one way in and returns its URL.
func (a *api) serve(via string, cert certificate) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s := &http.Server{Handler: a.handler(via), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	// The certificate's warning has been waved through for this name already.
	base := fmt.Sprintf("https://localhost:%d", l.Addr().(*net.TCPAddr).Port)
	serve := func() error { return s.ServeTLS(l, cert.CertFile, cert.KeyFile) }
	if cert.CertFile == "" {
		base, serve = "http://"+l.Addr().String(), func() error { return s.Serve(l) }
	}
	a.servers = append(a.servers, s)
	a.serving.Go(func() {
		if err := serve(); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("can't serve", slog.Any("err", err))
		}
	})
	return base, nil
}

func (a *api) close() {
	for _, s := range a.servers {
		_ = s.Close()
	}
	a.cancel()
	a.serving.Wait()
}

func (a *api) handler(via string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/hello", a.authorized(via, a.hello))
	mux.HandleFunc("GET /api/notes", a.authorized(via, a.listNotes))
	mux.HandleFunc("POST /api/notes", a.authorized(via, a.addNote))
	return a.cors(via, mux)
}

// cors lets the app's page, and no other, send a bearer token. Cookies are not
// allowed along: this API does not know what one is.
func (a *api) cors(via string, next http.Handler) http.Handler {
	if via == "gateway" {
		return next // same origin: the browser asks nothing
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Add("Vary", "Origin")
		if r.Header.Get("Origin") == a.origin {
			h.Set("Access-Control-Allow-Origin", a.origin)
			if r.Method == http.MethodOptions {
				h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
				h.Set("Access-Control-Allow-Methods", "GET, POST")
				h.Set("Access-Control-Max-Age", "600")
				w.WriteHeader(http.StatusNoContent)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// call is a verified request.
type call struct {
	via     string
	token   string
	claims  jwt.MapClaims
	subject string
}

// authorized verifies the access token of RFC 9068: type, signature, issuer,
// audience, life.
func (a *api) authorized(via string, next func(http.ResponseWriter, *http.Request, call)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := a.verify(r)
		c.via = via
		a.log.Info("call", slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.String("via", via),
			slog.String("sub", c.subject), slog.Bool("accepted", err == nil))
		if err != nil {
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			reply(w, http.StatusUnauthorized, map[string]string{"error": "invalid_token"})
			return
		}
		next(w, r, c)
	}
}

func (a *api) verify(r *http.Request) (call, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return call{}, errors.New("no bearer token")
	}
	c := call{token: token, claims: jwt.MapClaims{}}
	t, err := a.parser.ParseWithClaims(token, c.claims, a.keys.Keyfunc)
	if err != nil {
		return call{}, err
	}
	if typ, _ := t.Header["typ"].(string); typ != "at+jwt" {
		return call{}, errors.New("not an access token")
	}
	c.subject, err = c.claims.GetSubject()
	if err == nil && c.subject == "" {
		err = errors.New("no subject")
	}
	return c, err
}

// about says how a call came, for the page to show.
func (c call) about(r *http.Request) map[string]any {
	expires, _ := c.claims.GetExpirationTime()
	return map[string]any{
		"subject":       c.subject,
		"via":           c.via,
		"scope":         c.claims["scope"],
		"token_ends_on": c.token[max(0, len(c.token)-6):], // of the signature: enough to tell two tokens apart
		"token_expires": expires.UTC().Format(time.RFC3339),
		"cookies_seen":  len(r.Cookies()), // the gateway keeps its own to itself
	}
}

func (a *api) hello(w http.ResponseWriter, r *http.Request, c call) {
	m := c.about(r)
	m["message"] = "Hello, " + c.subject + "."
	reply(w, http.StatusOK, m)
}

func (a *api) listNotes(w http.ResponseWriter, r *http.Request, c call) {
	a.mu.Lock()
	notes := append([]note{}, a.notes[c.subject]...)
	a.mu.Unlock()
	m := c.about(r)
	m["notes"] = notes
	reply(w, http.StatusOK, m)
}

func (a *api) addNote(w http.ResponseWriter, r *http.Request, c call) {
	var in struct {
		Text string `json:"text"`
	}
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxNoteBody)).Decode(&in)
	in.Text = strings.TrimSpace(in.Text)
	if err != nil || in.Text == "" || len(in.Text) > 200 {
		reply(w, http.StatusBadRequest, map[string]string{"error": "a note is a text of at most 200 bytes"})
		return
	}
	a.mu.Lock()
	notes := append(a.notes[c.subject], note{in.Text, c.via, time.Now().UTC().Truncate(time.Second)})
	a.notes[c.subject] = notes[max(0, len(notes)-maxNotes):]
	a.mu.Unlock()
	m := c.about(r)
	m["added"] = in.Text
	reply(w, http.StatusCreated, m)
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the caller may be gone
}
