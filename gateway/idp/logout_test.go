package idp_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/idp"
)

func TestRevoke(t *testing.T) {
	for _, row := range []struct {
		name string
		h    http.HandlerFunc
		want error
	}{
		{"known or not", answer(200, ""), nil},
		{"204", answer(204, ""), nil},
		{"unsupported_token_type", answer(400, `{"error":"unsupported_token_type"}`), idp.ErrRejected},
		{"invalid_client", answer(401, `{"error":"invalid_client"}`), idp.ErrRejected},
		{"busy", answer(503, ""), idp.ErrUnavailable},
		{"O-04 redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/evil", 307) }, idp.ErrRejected},
		{"O-03 too large", answer(200, strings.Repeat("x", 2<<20)), idp.ErrUnavailable},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			f.on("/revoke", row.h)
			wantKind(t, f.provider().Revoke(context.Background(), refreshToken), row.want)
			reqs := f.requests("/revoke")
			if len(reqs) != 1 || len(f.requests("/evil")) > 0 {
				t.Fatalf("%d requests", len(reqs))
			}
			want := url.Values{"token": {refreshToken}, "token_type_hint": {"refresh_token"}}
			if reqs[0].form.Encode() != want.Encode() || reqs[0].header.Get("Authorization") == "" {
				t.Errorf("request %v", reqs[0])
			}
		})
	}
	for header, after := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "86400": 5 * time.Minute, "soon": 0} {
		t.Run("RV-2 Retry-After "+header, func(t *testing.T) {
			f := newFake(t)
			f.on("/revoke", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", header)
				w.WriteHeader(503)
			})
			err := f.provider().Revoke(context.Background(), refreshToken)
			wantKind(t, err, idp.ErrUnavailable)
			busy, ok := errors.AsType[*idp.BusyError](err)
			if ok != (after > 0) || ok && busy.RetryAfter != after {
				t.Errorf("%+v", busy)
			}
		})
	}
	t.Run("none offered", func(t *testing.T) {
		f := newFake(t)
		delete(f.metadata, "revocation_endpoint")
		wantKind(t, f.provider().Revoke(context.Background(), refreshToken), errors.ErrUnsupported)
	})
	t.Run("nothing to revoke", func(t *testing.T) {
		f := newFake(t)
		if err := f.provider().Revoke(context.Background(), ""); err != nil || len(f.seen) > 0 {
			t.Error(err)
		}
	})
}

func TestLogoutURL(t *testing.T) {
	const back = "https://shop.example/bff/logged-out"
	for _, row := range []struct {
		name   string
		change func(*fake, *idp.Config)
		id     idp.IDToken
		back   string
		want   string // $ is the provider; "" none
	}{
		{"all", nil, "a.b.c", back, "$/logout?client_id=shop&id_token_hint=a.b.c&post_logout_redirect_uri=" + url.QueryEscape(back) + "&state=S"},
		{"no ID token", nil, "", back, "$/logout?client_id=shop&post_logout_redirect_uri=" + url.QueryEscape(back) + "&state=S"},
		{"no way back", nil, "a.b.c", "", "$/logout?client_id=shop&id_token_hint=a.b.c"},
		{"ID token too long for a URL", nil, idp.IDToken(strings.Repeat("x", 10000)), "", "$/logout?client_id=shop"},
		{"configured", func(f *fake, c *idp.Config) { c.EndSessionEndpoint = "https://id.example/out?a=b" }, "", "", "https://id.example/out?a=b&client_id=shop"},
		{"configured, provider down", func(f *fake, c *idp.Config) {
			c.EndSessionEndpoint = "https://id.example/out"
			f.on(wellKnown, answer(503, ""))
		}, "", "", "https://id.example/out?client_id=shop"},
		{"none", func(f *fake, c *idp.Config) { delete(f.metadata, "end_session_endpoint") }, "a.b.c", back, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake(t)
			p := f.provider(func(c *idp.Config) {
				if row.change != nil {
					row.change(f, c)
				}
			})
			got, err := p.LogoutURL(context.Background(), row.id, row.back, "S")
			if want := strings.ReplaceAll(row.want, "$", f.srv.URL); err != nil || got != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
	t.Run("provider down", func(t *testing.T) {
		f := newFake(t)
		f.on(wellKnown, answer(503, ""))
		_, err := f.provider().LogoutURL(context.Background(), "", "", "")
		wantKind(t, err, idp.ErrUnavailable)
	})
}
