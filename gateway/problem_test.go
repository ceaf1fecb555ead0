package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
	"github.com/cloakroom/cloakroom/gateway/proxy"
	"github.com/cloakroom/cloakroom/gateway/web"
	"github.com/cloakroom/cloakroom/session"
)

// errInside is an error whose text must not leave.
var errInside = errors.New("INSIDEcanary dial tcp 10.0.0.1:6379")

func TestProblems(t *testing.T) {
	for _, test := range []struct {
		name       string
		err        error
		status     int
		code       string
		reason     string
		retryAfter int
	}{
		{"no cookie", errNoTicket, 401, "login_required", "no_session", 0},
		{"bad cookie", errBadTicket, 401, "login_required", "no_session", 0},
		{"no session", session.ErrNoSession, 401, "login_required", "no_session", 0},
		{"idle", &session.EndedError{Reason: session.ReasonIdleTimeout}, 401, "login_required", "idle_timeout", 0},
		{"reuse", fmt.Errorf("open: %w", &session.EndedError{Reason: session.ReasonReuseDetected}), 401, "login_required", "reuse_detected", 0},
		{"locked", &session.EndedError{Reason: session.ReasonRevoked, Locked: true}, 403, "account_locked", "", 0},
		{"store down", &session.UnavailableError{Err: errInside}, 503, "store_unavailable", "", 2},
		{"store down, told when", &session.UnavailableError{RetryAfter: 7100 * time.Millisecond, Err: errInside}, 503, "store_unavailable", "", 8},
		{"provider down", &session.UnavailableError{Provider: true, RetryAfter: time.Second, Err: errInside}, 503, "provider_unavailable", "", 1},
		{"provider down at login", fmt.Errorf("discovery: %w: %w", idp.ErrUnavailable, errInside), 503, "provider_unavailable", "", 2},
		{"ID token doesn't hold", fmt.Errorf("%w: %w", idp.ErrRejected, errInside), 502, "login_failed", "", 0},
		{"ambiguous path", fmt.Errorf("%w: dots", proxy.ErrAmbiguous), 400, "invalid_request", "", 0},
		{"upstream down", fmt.Errorf("%w: %w", proxy.ErrUnreachable, errInside), 502, "upstream_unreachable", "", 0},
		{"upstream slow", proxy.ErrTimeout, 504, "upstream_timeout", "", 0},
		{"body broke off", proxy.ErrRequestBody, 400, "invalid_request", "", 0},
		{"body too large", fmt.Errorf("%w: %w", proxy.ErrRequestBody, &http.MaxBytesError{Limit: 1}), 413, "too_large", "", 0},
		{"never forwarded", proxy.ErrMethod, 405, "method_not_allowed", "", 0},
		{"no such file", web.ErrNotFound, 404, "no_route", "", 0},
		{"POST to a file", web.ErrMethod, 405, "method_not_allowed", "", 0},
		{"guard", blocked("Origin is not the app's"), 403, "cross_origin_blocked", "", 0},
		{"our own deadline", context.DeadlineExceeded, 503, "store_unavailable", "", 2},
		{"anything else", errInside, 500, "internal", "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log strings.Builder
			g := New(&session.Keeper{}, Options{Log: slog.New(slog.NewJSONHandler(&log, nil))})
			answer := func(navigation bool) *httptest.ResponseRecorder {
				r := httptest.NewRequest("GET", "/bff/callback?code=CODEcanary&state=STATEcanary", nil)
				if navigation {
					r.Header.Set("Sec-Fetch-Mode", "navigate")
				}
				rec := httptest.NewRecorder()
				w := &response{ResponseWriter: rec, g: g, app: testApp(t, "shop"), trace: "0123456789abcdef0123456789abcdef"}
				w.Header().Set("Etag", `"x"`)
				w.Header().Set("Set-Cookie", "left=over")
				g.fail(w, r, test.err)
				return rec
			}

			rec := answer(false)
			var doc problemDocument
			if err := json.Unmarshal(rec.Body.Bytes(), &doc); err != nil {
				t.Fatal(err)
			}
			if rec.Code != test.status || string(doc.Code) != test.code || doc.Status != test.status || string(doc.Reason) != test.reason || doc.RetryAfter != test.retryAfter {
				t.Errorf("%d %+v", rec.Code, doc)
			}
			if doc.Type != "urn:cloakroom:"+test.code || doc.Title == "" || doc.TraceID != "0123456789abcdef0123456789abcdef" {
				t.Errorf("%+v", doc)
			}
			if ct := rec.Header().Get("Content-Type"); ct != "application/problem+json" {
				t.Error(ct)
			}
			if ra := rec.Header().Get("Retry-After"); (ra != "") != (test.status == 503) || ra != "" && ra != fmt.Sprint(test.retryAfter) {
				t.Errorf("Retry-After: %q", ra)
			}
			if (doc.LoginURL != "") != (test.code == "login_required" || test.code == "login_failed") {
				t.Errorf("login_url %q", doc.LoginURL)
			}

			page := answer(true)
			if ct := page.Header().Get("Content-Type"); page.Code != test.status || !strings.HasPrefix(ct, "text/html") {
				t.Errorf("a navigation got %d %s", page.Code, ct)
			}
			if !strings.Contains(page.Body.String(), test.code) {
				t.Error("the page doesn't show the code")
			}
			for _, rec := range []*httptest.ResponseRecorder{rec, page} {
				if rec.Header().Get("Cache-Control") != "no-store" || rec.Header().Get("Set-Cookie") != "" || rec.Header().Get("Etag") != "" {
					t.Errorf("headers: %v", rec.Header())
				}
				if strings.Contains(rec.Body.String(), "canary") {
					t.Error("our own error text reached the browser")
				}
			}
			if s := log.String(); !strings.Contains(s, `"audit":true`) || !strings.Contains(s, test.code) {
				t.Errorf("no audit line: %s", s)
			}
			if s := log.String(); strings.Contains(s, "CODEcanary") || strings.Contains(s, "STATEcanary") {
				t.Error("the query was logged")
			}
		})
	}
}

// A person whom something in the infrastructure keeps out is offered the page
// again; a callback, which can't be had again, leads to another login.
func TestPagesOfferAnotherTry(t *testing.T) {
	g := New(&session.Keeper{}, Options{})
	const again, login = `href="">Try again`, `href="/bff/login">Log in`
	for _, row := range []struct {
		name, method string
		endpoint     endpoint
		err          error
		want         string
	}{
		{"store down", "GET", endpointRoute, &session.UnavailableError{Err: errInside}, again},
		{"provider down at login", "GET", endpointLogin, fmt.Errorf("%w: %w", idp.ErrUnavailable, errInside), again},
		{"upstream down", "GET", endpointRoute, proxy.ErrUnreachable, again},
		{"store down under a form", "POST", endpointLogout, &session.UnavailableError{Err: errInside}, ""},
		{"provider down in a callback", "GET", endpointCallback, fmt.Errorf("%w: %w", idp.ErrUnavailable, errInside), login},
		{"nothing there", "GET", endpointRoute, web.ErrNotFound, ""},
		{"not in", "GET", endpointRoute, errNoTicket, login},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := httptest.NewRequest(row.method, "/orders?canary", nil)
			r.Header.Set("Sec-Fetch-Mode", "navigate")
			rec := httptest.NewRecorder()
			g.fail(&response{ResponseWriter: rec, g: g, app: testApp(t, "shop"), endpoint: row.endpoint}, r, row.err)
			body := rec.Body.String()
			if has := strings.Count(body, "href="); row.want == "" && has > 0 || row.want != "" && (has != 1 || !strings.Contains(body, row.want)) {
				t.Errorf("%d\n%s", rec.Code, body)
			}
			if strings.Contains(body, "canary") {
				t.Error("the page shows its URL")
			}
		})
	}
}

func TestEveryCodeHasAnAnswer(t *testing.T) {
	for c, answer := range codes {
		if answer.status < 400 || answer.title == "" {
			t.Errorf("%s: %+v", c, answer)
		}
	}
}

// A client that is asked to come back on another connection is asked so by a refusal,
// too: refusals once kept the connections of a replica that drained.
func TestRefusalKeepsConnectionClose(t *testing.T) {
	rec := httptest.NewRecorder()
	rec.Header().Set("Connection", "close")
	rec.Header().Set("Etag", `"x"`)
	New(&session.Keeper{}, Options{}).ServeHTTP(rec, httptest.NewRequest("GET", "http://unknown.test/", nil))
	if rec.Code != 421 || rec.Header().Get("Connection") != "close" || rec.Header().Get("Etag") != "" {
		t.Errorf("%d %v", rec.Code, rec.Header())
	}
}

// A client that left is answered 499, without a refusal in the audit log.
func TestClientGone(t *testing.T) {
	var log strings.Builder
	g := New(&session.Keeper{}, Options{Log: slog.New(slog.NewJSONHandler(&log, nil))})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
	rec := httptest.NewRecorder()
	g.fail(&response{ResponseWriter: rec, g: g}, r, fmt.Errorf("%w: %w", idp.ErrUnavailable, ctx.Err()))
	if rec.Code != 499 || log.Len() != 0 {
		t.Errorf("%d, logged %s", rec.Code, log.String())
	}
}

func TestPanics(t *testing.T) {
	var log strings.Builder
	g := New(&session.Keeper{}, Options{Log: slog.New(slog.NewJSONHandler(&log, nil))})
	serve := func(what any, begun bool) (rec *httptest.ResponseRecorder, again any) {
		rec = httptest.NewRecorder()
		defer func() { again = recover() }()
		w := &response{ResponseWriter: rec, g: g}
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Cookie", "COOKIEcanary")
		defer g.finish(w, r)
		if begun {
			io.WriteString(w, "half")
		}
		panic(what)
	}
	if rec, again := serve("VALUEcanary", false); rec.Code != 500 || again != nil {
		t.Errorf("answered %d, panicked on with %v", rec.Code, again)
	}
	if _, again := serve("VALUEcanary", true); again != http.ErrAbortHandler {
		t.Errorf("half an answer ended with %v", again)
	}
	if _, again := serve(http.ErrAbortHandler, false); again != http.ErrAbortHandler {
		t.Errorf("an abort ended with %v", again)
	}
	if strings.Contains(log.String(), "canary") {
		t.Error("S-02: a value was logged")
	}
}

// serveOne serves one request that needs no body and no connection.
func serveOne(h http.Handler, method, target string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(method, target, nil))
	return rec
}
